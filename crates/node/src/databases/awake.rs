//! Keeps the machine's processors from sleeping deeply while processes of several nodes wait for each other.
//!
//! A record that moves to another node wakes seven processes one after the other, and each on a processor that has just
//! gone to sleep. A real one takes 2 µs (C1) to more than 100 µs (C6) to wake up; one of a virtual machine leaves the
//! machine when it sleeps, and is back after 20 to 40 µs: most of what such a record costs. So while much comes from the
//! peers, and only then, the kernel is asked for less ("PM QoS": `/dev/cpu_dma_latency`, which says so for as long as it is
//! open; Linux Documentation/power/pm_qos_interface.rst). It is what `tuned`'s profile `network-latency` does all day.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel's interface.
pub(crate) const LATENCY: &str = "/dev/cpu_dma_latency";
/// What is counted together.
const SLOT: Duration = Duration::from_millis(50);
/// So many words of peers in a slot (1,000 in a second): some hundred records move, and others wait for each of them.
const BUSY: u32 = 50;
/// After so many slots with less than half of that it is over.
const PATIENCE: u32 = 10;
/// On a real machine: C1, whose way back takes 1 to 3 µs, is good enough, and costs little.
const SHALLOW: i32 = 3;
/// In a virtual machine, where any sleep is the host's affair: none.
const NONE: i32 = 0;

/// Whether much comes from the peers. No I/O.
#[derive(Debug, Default)]
struct Traffic {
    /// When the slot ends; none: nothing has come since the last one.
    ends: Option<Duration>,
    count: u32,
    /// So many more slots the processors stay awake.
    left: u32,
}

impl Traffic {
    /// So many words have come; [`Self::look`] comes before it. True if the processors are to be awake from now on, and
    /// were not before.
    fn come(&mut self, now: Duration, words: u32) -> bool {
        self.ends.get_or_insert(now + SLOT);
        self.count = self.count.saturating_add(words);
        if self.count < BUSY {
            return false;
        }
        std::mem::replace(&mut self.left, PATIENCE) == 0
    }

    /// When [`Self::look`] is due; none: never, unless something comes.
    fn due(&self) -> Option<Duration> {
        self.ends.filter(|_| self.left > 0)
    }

    /// The slot may be over. True if the processors may sleep from now on.
    fn look(&mut self, now: Duration) -> bool {
        let Some(ends) = self.ends.filter(|ends| *ends <= now) else { return false };
        // Those in which nothing came count, too.
        let slots = 1 + u32::try_from((now - ends).as_millis() / SLOT.as_millis()).unwrap_or(u32::MAX);
        let busy = self.count >= BUSY / 2;
        let before = self.left;
        self.left = self.left.saturating_sub(if busy { slots - 1 } else { slots });
        self.count = 0;
        self.ends = (self.left > 0).then(|| now + SLOT);
        before > 0 && self.left == 0
    }
}

/// The request, while it stands.
#[derive(Debug)]
pub(super) struct Awake {
    /// None: it is not wanted, or failed once and was told.
    device: Option<PathBuf>,
    /// Longest time to wake up, in µs, that is asked for.
    latency: i32,
    traffic: Traffic,
    open: Option<File>,
}

impl Awake {
    /// By this device; none: it does nothing.
    pub(super) fn new(device: Option<PathBuf>) -> Self {
        let driver = std::fs::read_to_string("/sys/devices/system/cpu/cpuidle/current_driver").unwrap_or_default();
        let latency = if driver.trim() == "haltpoll" { NONE } else { SHALLOW };
        Self { device, latency, traffic: Traffic::default(), open: None }
    }

    /// So many words of peers have come.
    pub(super) fn come(&mut self, now: Duration, words: usize) {
        if self.device.is_none() || words == 0 {
            return;
        }
        self.look(now);
        if self.traffic.come(now, u32::try_from(words).unwrap_or(u32::MAX)) {
            self.ask();
        }
    }

    /// When [`Self::look`] is due.
    pub(super) fn due(&self) -> Option<Duration> {
        self.traffic.due()
    }

    /// To be called when it is due; earlier it does nothing.
    pub(super) fn look(&mut self, now: Duration) {
        if self.traffic.look(now) {
            // What closes it takes the request back.
            self.open = None;
        }
    }

    fn ask(&mut self) {
        let Some(device) = self.device.take() else { return };
        match request(&device, self.latency) {
            Ok(file) => (self.open, self.device) = (Some(file), Some(device)),
            Err(error) => {
                self.traffic = Traffic::default();
                tracing::info!(
                    "{}: {error}: the processors may sleep while nodes wait for each other's records",
                    device.display()
                );
            }
        }
    }
}

/// It stands for as long as this is open.
fn request(device: &Path, latency: i32) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).open(device)?;
    file.write_all(&latency.to_ne_bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn much_keeps_them_awake_until_half_a_second_after_it() {
        let mut traffic = Traffic::default();
        for at in 0..49 {
            assert!(!traffic.come(ms(at), 1), "{at}");
        }
        assert_eq!(traffic.due(), None);
        assert!(traffic.come(ms(49), 1));
        assert!(!traffic.come(ms(49), 1), "once");
        // It goes on at half the rate: for as long as it does.
        for at in (50..3000).step_by(2) {
            assert!(!traffic.look(ms(at)), "{at}");
            assert!(!traffic.come(ms(at), 1), "{at}");
        }
        let mut at = 3000;
        while !traffic.look(ms(at)) {
            at = traffic.due().unwrap().as_millis() as u64;
        }
        assert!((3450..=3550).contains(&at), "{at}");
        assert_eq!(traffic.due(), None);
    }

    #[test]
    fn little_does_nothing() {
        let mut traffic = Traffic::default();
        for at in (0..10_000).step_by(2) {
            assert!(!traffic.look(ms(at)), "{at}");
            assert!(!traffic.come(ms(at), 1), "{at}");
            assert_eq!(traffic.due(), None);
        }
    }

    #[test]
    fn after_a_long_silence_it_is_over_at_once() {
        let mut traffic = Traffic::default();
        assert!(traffic.come(ms(0), 60));
        assert!(traffic.look(ms(10_000)));
        assert!(traffic.come(ms(10_001), 60));
    }

    #[test]
    fn the_request_stands_while_much_comes() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("latency");
        std::fs::write(&device, "").unwrap();
        let mut awake = Awake::new(Some(device.clone()));
        awake.come(ms(0), 60);
        let latency = std::fs::read(&device).unwrap().try_into().map(i32::from_ne_bytes);
        assert!(matches!(latency, Ok(NONE | SHALLOW)), "{latency:?}");
        assert!(awake.open.is_some());
        awake.look(ms(700));
        assert!(awake.open.is_none());

        let mut none = Awake::new(Some(dir.path().join("missing")));
        none.come(ms(0), 60);
        assert!(none.device.is_none() && none.due().is_none(), "told once, and no timer for nothing");
        none.come(ms(1000), 60);
        assert!(none.due().is_none());
    }
}
