//! Clients' processes that are to be seen at rest: waiting for events, in the middle of nothing.
//!
//! smbd waits by epoll(7) in its event loop, its connection to the daemon among what it waits for, and nowhere else: for an
//! answer of the daemon it waits in read(2), for files and locks in other calls. The kernel says in which system call a
//! thread sleeps (`/proc/PID/syscall`, proc(5)), to root; a thread that runs, is about to run or sleeps elsewhere is not at
//! rest. Where the kernel does not say so nobody is ever seen at rest.

use ctdb::server::ClientId;
use nix::libc;
use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// Processes in one look, each of which takes some 20 µs; the others are next.
const TOGETHER: usize = 64;
/// The calls of epoll; the first is that of glibc's epoll_wait(3) on x86.
const WAITS: &[libc::c_long] = &[
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
];

/// Those whose rest is awaited, in the order in which they are looked at.
#[derive(Debug, Default)]
pub(super) struct Rest {
    awaited: VecDeque<ClientId>,
    next: Duration,
}

impl Rest {
    /// From the next look on, which is due at once for the first.
    pub(super) fn add(&mut self, client: ClientId) {
        if !self.awaited.contains(&client) {
            self.awaited.push_back(client);
        }
    }

    /// When [`Self::begin`] is due.
    pub(super) fn due(&self) -> Option<Duration> {
        (!self.awaited.is_empty()).then_some(self.next)
    }

    /// How often [`Self::look`] is to be called now.
    pub(super) fn begin(&mut self, now: Duration) -> usize {
        self.next = now + PAUSE;
        self.awaited.len().min(TOGETHER)
    }

    /// Looks at one, and gives it if it is at rest: it is awaited no more, and to be told before it wakes up. `pid`: nothing
    /// for one that has gone.
    pub(super) fn look(&mut self, pid: impl Fn(ClientId) -> Option<i32>) -> Option<ClientId> {
        let client = self.awaited.pop_front()?;
        let rests = waits_for_events(pid(client)?);
        if !rests {
            self.awaited.push_back(client);
        }
        rests.then_some(client)
    }
}

/// Does this process' main thread, or this thread, sleep in a call of epoll?
fn waits_for_events(pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
    number.is_some_and(|number: libc::c_long| WAITS.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::epoll;
    use std::sync::mpsc;
    use std::time::Instant;

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::yield_now();
        }
    }

    /// A thread that tells its number and then sleeps as it is told to, until its end of the channel is dropped.
    fn thread(sleep: fn(mpsc::Receiver<()>)) -> (i32, mpsc::Sender<()>) {
        let (tell, told) = mpsc::channel();
        let (keep, kept) = mpsc::channel();
        std::thread::spawn(move || {
            let me = fs::read_link("/proc/thread-self").unwrap();
            tell.send(me.file_name().unwrap().to_str().unwrap().parse().unwrap()).unwrap();
            sleep(kept);
        });
        (told.recv().unwrap(), keep)
    }

    fn in_epoll(kept: mpsc::Receiver<()>) {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let mut events = Vec::with_capacity(1);
        while kept.try_recv() == Err(mpsc::TryRecvError::Empty) {
            epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)).unwrap();
        }
    }

    fn elsewhere(kept: mpsc::Receiver<()>) {
        let _ = kept.recv();
    }

    fn runs(kept: mpsc::Receiver<()>) {
        while kept.try_recv() == Err(mpsc::TryRecvError::Empty) {}
    }

    #[test]
    fn who_sleeps_in_epoll_is_at_rest_and_nobody_else() {
        let ((waits, _a), (sleeps, _b), (busy, _c)) = (thread(in_epoll), thread(elsewhere), thread(runs));
        let pid = |client: ClientId| match client.0 {
            1 => Some(waits),
            2 => Some(sleeps),
            3 => Some(busy),
            _ => None,
        };
        let mut rest = Rest::default();
        assert_eq!(rest.due(), None);
        for client in [1, 2, 3, 4, 1] {
            rest.add(ClientId(client));
        }
        assert_eq!(rest.due(), Some(Duration::ZERO));
        assert_eq!(rest.begin(Duration::from_secs(1)), 4);
        assert_eq!(rest.due(), Some(Duration::from_millis(1_002)));
        let mut found = None;
        until("the first is seen at rest", || {
            found = rest.look(pid);
            found.is_some()
        });
        assert_eq!(found, Some(ClientId(1)));
        for _ in 0..100 {
            assert_eq!(rest.look(pid), None);
        }
        rest.awaited.make_contiguous().sort();
        assert_eq!(rest.awaited, [ClientId(2), ClientId(3)], "who has gone is not awaited");
    }

    #[test]
    fn nobody_is_looked_at_twice_before_all_were() {
        let mut rest = Rest::default();
        (0..100).for_each(|n| rest.add(ClientId(n)));
        let seen = std::cell::RefCell::new(Vec::new());
        let note = |client: ClientId| {
            seen.borrow_mut().push(client.0);
            // No process has this number: /proc/sys/kernel/pid_max is 2^22 at most.
            Some(i32::MAX)
        };
        for _ in 0..2 {
            for _ in 0..rest.begin(Duration::ZERO) {
                assert_eq!(rest.look(note), None);
            }
        }
        assert_eq!(seen.borrow().len(), 2 * TOGETHER);
        assert_eq!(seen.borrow()[..100], (0..100).collect::<Vec<_>>());
    }
}
