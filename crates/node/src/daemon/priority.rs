//! What keeps the daemon in time on a machine that is short of memory or processor time.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{getpriority_process, setpriority_process};

/// Nice value of the threads that a lease depends on.
const NICE: i32 = -15;

/// Keeps this process' pages in memory once they are there: a daemon that is paged out loses its lease. Only those:
/// locking whole thread stacks and heaps in advance would cost tens of megabytes.
pub(super) fn lock_memory() {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!(
            "memory cannot be locked ({error}): under memory pressure this node may lose its lease (LimitMEMLOCK)"
        );
    }
}

/// Lets the calling thread go before ordinary work; threads that it starts do the same.
pub(super) fn raise() {
    if getpriority_process(None).is_ok_and(|nice| nice <= NICE) {
        return;
    }
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::warn!("the priority cannot be raised ({error}): under load this node may lose its lease");
    }
}
