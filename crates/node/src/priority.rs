//! What keeps the daemon in time on a machine that is short of memory or processor time.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{getpriority_process, setpriority_process};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Nice value of the threads that a lease depends on.
const NICE: i32 = -15;
/// Their real-time priority: before all ordinary work, behind the kernel's interrupt threads (50).
const REALTIME: u8 = 10;

/// Nothing of this is done: the process is one of several that try a cluster out.
static ORDINARY: AtomicBool = AtomicBool::new(false);

/// Leaves this process as it is, from now on.
pub(crate) fn ordinary() {
    ORDINARY.store(true, Ordering::Relaxed);
}

fn is_ordinary() -> bool {
    ORDINARY.load(Ordering::Relaxed)
}

/// Keeps this process' pages in memory once they are there: a daemon that is paged out loses its lease. Only those:
/// locking whole thread stacks and heaps in advance would cost tens of megabytes.
pub(crate) fn lock_memory() {
    if is_ordinary() {
        return;
    }
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!(
            "memory cannot be locked ({error}): under memory pressure this node may lose its lease (LimitMEMLOCK)"
        );
    }
}

/// Lets the calling thread go before ordinary work; threads that it starts do the same.
pub(crate) fn raise() {
    if is_ordinary() || getpriority_process(None).is_ok_and(|nice| nice <= NICE) {
        return;
    }
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::warn!("the priority cannot be raised ({error}): under load this node may lose its lease");
    }
}

/// Lets the calling thread, and threads that it starts, run before everything that is not real-time. Nice values do
/// not help against other sessions or control groups, each of which has a share of its own; this does.
pub(crate) fn realtime() {
    static TOLD: Once = Once::new();
    if is_ordinary() {
        return;
    }
    let set = ThreadPriorityValue::try_from(REALTIME).and_then(|value| {
        let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy)
            .map_err(|e| e.to_string())
    });
    if let Err(error) = set {
        TOLD.call_once(|| {
            tracing::warn!(
                "no real-time priority ({error}): on a machine whose processors are all busy this node may lose its \
                 lease (LimitRTPRIO)"
            );
        });
    }
}
