//! Wakes the thread by the clock, without the kernel's setting a timer at every wait: most waits end after microseconds,
//! and what is due next is seconds away.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, read};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io::{self, ErrorKind};
use std::time::Duration;

/// A timer of the kernel that runs on the clock of [`crate::clock::now`]. It is set anew only for what is due earlier than it will
/// ring: it may ring for nothing, and never late.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    /// When it rings; none: it has rung.
    at: Option<Duration>,
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl Alarm {
    /// One that does not ring.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { timer: timerfd_create(TimerfdClockId::Boottime, flags)?, at: None })
    }

    /// It becomes readable at `due`, or before.
    ///
    /// # Errors
    /// The kernel does not take the time.
    pub(super) fn no_later_than(&mut self, due: Duration) -> io::Result<()> {
        if self.at.is_some_and(|at| at <= due) {
            return Ok(());
        }
        // Nothing at all would mean: never.
        let value = Timespec::try_from(due.max(Duration::from_nanos(1))).map_err(|_| ErrorKind::InvalidInput)?;
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: none, it_value: value })?;
        self.at = Some(due);
        Ok(())
    }

    /// It was readable: not any more, until it is set again.
    pub(super) fn rung(&mut self) {
        match read(&self.timer, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => tracing::error!("the databases' timer: {error}"),
        }
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::databases::mono;
    use rustix::event::{PollFd, PollFlags, poll};

    fn rings(alarm: &Alarm, within: Duration) -> bool {
        let within = Timespec::try_from(within).unwrap();
        poll(&mut [PollFd::new(alarm, PollFlags::IN)], Some(&within)).unwrap() == 1
    }

    #[test]
    fn it_rings_for_the_earliest_and_then_not_until_it_is_set() {
        let (ms, long) = (Duration::from_millis, Duration::from_secs(20));
        let mut alarm = Alarm::new().unwrap();
        assert!(!rings(&alarm, Duration::ZERO));
        let begun = mono();
        alarm.no_later_than(begun + long * 10).unwrap();
        alarm.no_later_than(begun + ms(20)).unwrap();
        // Not put off by what is due later.
        alarm.no_later_than(begun + long * 5).unwrap();
        assert!(rings(&alarm, long));
        assert!((ms(20)..long).contains(&(mono() - begun)));
        alarm.rung();
        assert!(!rings(&alarm, ms(30)));
        // What is over, and the moment of the machine's start, are due at once.
        for due in [begun, Duration::ZERO] {
            alarm.no_later_than(due).unwrap();
            assert!(rings(&alarm, long));
            alarm.rung();
        }
    }
}
