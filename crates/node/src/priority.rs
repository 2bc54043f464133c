//! What keeps the daemon in time on a machine that is short of memory or processor time.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{getpriority_process, setpriority_process};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Nice value of the threads that a lease depends on.
const NICE: i32 = -15;
/// Their real-time priority: before all ordinary work, behind the kernel's interrupt threads (50).
const REALTIME: u8 = 10;
/// Of the thread that Samba's processes wait for: before all ordinary work, behind what a lease depends on.
const PROMPT: u8 = 1;

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
    if let Err(error) = round_robin(REALTIME) {
        TOLD.call_once(|| {
            tracing::warn!(
                "no real-time priority ({error}): on a machine whose processors are all busy this node may lose its \
                 lease (LimitRTPRIO)"
            );
        });
    }
}

/// Lets the calling thread, and threads that it starts, run before ordinary work: the databases' thread, for which every
/// smbd of the cluster waits in turn. Where it is not allowed that has been told: see [`realtime`].
pub(crate) fn prompt() {
    if is_ordinary() {
        return;
    }
    if let Err(error) = round_robin(PROMPT) {
        tracing::debug!("the databases' thread runs as ordinary work does: {error}");
    }
}

/// Takes the calling thread back from [`prompt`]: it may be busy for long.
pub(crate) fn unhurried() {
    if is_ordinary() {
        return;
    }
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    match set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy) {
        // That was the lowest nice value.
        Ok(()) => raise(),
        Err(error) => tracing::debug!("a thread stays at the priority that it was started with: {error}"),
    }
}

fn round_robin(priority: u8) -> Result<(), String> {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let value = ThreadPriorityValue::try_from(priority)?;
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy)
        .map_err(|error| error.to_string())
}
