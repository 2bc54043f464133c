//! A limit that the kernel counts from the moment at which it is told, for a lease that ends by a clock.
//!
//! Between the look at the clock and the kernel's hearing of it anything may pass: this thread is stopped or starved, the
//! kernel is slow, the whole machine stands still. The limit then ends that much later than the lease. So the clock is read
//! again afterwards: what was told too slowly is told again, and undone when the lease is over by then.

use std::time::Duration;

use crate::clock::BootTime;
use crate::error::Result;

/// A word to the kernel that took longer than this stretched the lease by as much, and is said again.
pub(super) const SLOW: Duration = Duration::from_millis(5);
/// So often the rest of the lease is said as it is; then less what the try before was late by.
const TRIES: usize = 3;

/// Has the kernel told, by `tell`, for how long from then on addresses may speak; with None that they are silent at once.
/// `now` reads the clock. When this returns, the kernel ends them no more than [`SLOW`] after `until`, or they are silent.
///
/// # Errors
/// As `tell`'s, at once.
pub(super) fn tell_in_time(
    until: Option<BootTime>,
    now: impl Fn() -> BootTime,
    mut tell: impl FnMut(Option<Duration>) -> Result<()>,
) -> Result<()> {
    let (mut tries, mut earlier) = (0, Duration::ZERO);
    loop {
        let before = now();
        let rest = until.map(|until| until.since(before + earlier)).filter(|rest| !rest.is_zero());
        tell(rest)?;
        let late = now().since(before);
        if rest.is_none() || late < earlier + SLOW {
            return Ok(());
        }
        tries += 1;
        if tries >= TRIES {
            earlier = late;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    const LEASE: u64 = 600_000;
    const START: u64 = 1_000_000;

    /// A kernel that hears of each word after a pause and answers after another, in microseconds; without more of them at once.
    struct Kernel {
        clock: Cell<u64>,
        pauses: RefCell<Vec<(u64, u64)>>,
        /// When the addresses end by themselves; None: they are silent.
        ends: Cell<Option<u64>>,
        words: Cell<usize>,
    }

    impl Kernel {
        fn tell(&self, limit: Option<Duration>) -> Result<()> {
            let mut pauses = self.pauses.borrow_mut();
            let (before, after) = if pauses.is_empty() { (0, 0) } else { pauses.remove(0) };
            self.words.set(self.words.get() + 1);
            let heard = self.clock.get() + before;
            self.ends.set(limit.map(|limit| heard + limit.as_micros() as u64));
            self.clock.set(heard + after);
            Ok(())
        }
    }

    fn told(pauses: &[(u64, u64)]) -> Kernel {
        let kernel = Kernel {
            clock: Cell::new(START),
            pauses: RefCell::new(pauses.to_vec()),
            ends: Cell::new(None),
            words: Cell::new(0),
        };
        let until = BootTime(START + LEASE);
        tell_in_time(Some(until), || BootTime(kernel.clock.get()), |limit| kernel.tell(limit)).unwrap();
        kernel
    }

    const UNTIL: Option<u64> = Some(START + LEASE);

    #[test]
    fn without_a_pause_one_word_is_enough() {
        let kernel = told(&[]);
        assert_eq!((kernel.ends.get(), kernel.words.get()), (UNTIL, 1));
    }

    #[test]
    fn a_pause_between_the_look_at_the_clock_and_the_act_stretches_no_lease() {
        // Shorter than the lease: said again. Longer: undone.
        let kernel = told(&[(400_000, 0)]);
        assert_eq!((kernel.ends.get(), kernel.words.get()), (UNTIL, 2));
        let kernel = told(&[(700_000, 0)]);
        assert_eq!((kernel.ends.get(), kernel.words.get()), (None, 2), "it speaks without a lease");
    }

    #[test]
    fn a_slow_machine_ends_its_addresses_early_and_not_late() {
        let kernel = told(&[(30_000, 1_000); 4]);
        assert_eq!(kernel.ends.get(), Some(START + LEASE - 1_000), "the fourth time less what the third was late by");
        let kernel = told(&[(10_000, 0), (20_000, 0), (40_000, 0), (80_000, 0)]);
        let early = Some(START + LEASE - 80_000);
        assert_eq!((kernel.ends.get(), kernel.words.get()), (early, 5), "later every time");
    }

    #[test]
    fn no_lease_is_said_once() {
        let words = Cell::new(0);
        let tell = |limit| {
            assert_eq!(limit, None);
            words.set(words.get() + 1);
            Ok(())
        };
        tell_in_time(None, || BootTime(START), tell).unwrap();
        tell_in_time(Some(BootTime(START)), || BootTime(START), tell).unwrap();
        assert_eq!(words.get(), 2);
    }

    #[test]
    fn whatever_the_pauses_are_nothing_speaks_after_the_lease() {
        const PAUSES: [u64; 6] = [0, 4_000, 20_000, 190_000, 590_000, 2_000_000];
        let mut silent = 0;
        for n in 0..PAUSES.len().pow(5) {
            let digit = |place: u32| PAUSES[n / PAUSES.len().pow(place) % PAUSES.len()];
            // Before three words that of the kernel's hearing; one before and one after the last.
            let pauses = [(digit(0), 0), (digit(1), 0), (digit(2), digit(3)), (digit(4), 0)];
            let kernel = told(&pauses);
            match kernel.ends.get() {
                Some(ends) => assert!(ends < START + LEASE + SLOW.as_micros() as u64, "{pauses:?}: {ends}"),
                None => silent += 1,
            }
            let paused: u64 = pauses.iter().map(|(a, b)| a + b).sum();
            if pauses[0].0 < 5_000 {
                assert!(kernel.words.get() == 1 && kernel.ends.get().is_some(), "{pauses:?}");
            }
            if kernel.ends.get().is_none() {
                assert!(paused * 2 >= LEASE, "silent after little: {pauses:?}");
            }
        }
        assert!(silent > 0);
    }
}
