//! The time that a command may take, and what ends with it.

use super::out::complain;
use rustix::process::{Signal, kill_current_process_group, setpgid};
use std::process::{Command, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Said to the helper programs, which call this tool in turn: they are in a group of processes of ours.
const HAS_GROUP: &str = "CTDB_TOOL_SETPGID";
/// Set by test harnesses, which must not end with a command that they try.
const TEST_MODE: &str = "CTDB_TEST_MODE";

/// The time is over: what ends from now on was ended, and this process is about to say nothing more.
static OVER: AtomicBool = AtomicBool::new(false);

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Ends the whole process group when the time is over, as CTDB's tool does: a helper program that hangs, or the script
/// that called this command, does not stay behind. Negative: no limit.
pub(super) fn limit(seconds: i32) {
    let Ok(seconds) = u64::try_from(seconds) else { return };
    if is_set(TEST_MODE)
        && !is_set(HAS_GROUP)
        && let Err(error) = setpgid(None, None)
    {
        // The leader of a session has a group of its own already.
        if error != rustix::io::Errno::PERM {
            complain!("No group of processes of its own: {error}");
        }
    }
    let watch = std::thread::Builder::new().name("time limit".into()).spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds));
        OVER.store(true, Ordering::SeqCst);
        complain!("Maximum runtime exceeded - exiting");
        end_group();
        exit(1);
    });
    if let Err(error) = watch {
        complain!("No thread can be started to watch the time: {error}");
    }
}

/// SIGTERM to all of the group but this process, which ends by itself, with its own code.
fn end_group() {
    let ended = runtime::Builder::new_current_thread().enable_io().build().and_then(|runtime| {
        let _inside = runtime.enter();
        // From here on, and for good, the signal does not end this process.
        let _caught = signal(SignalKind::terminate())?;
        kill_current_process_group(Signal::TERM).map_err(Into::into)
    });
    if let Err(error) = ended {
        complain!("The other processes of its group are not ended: {error}");
    }
}

/// A helper program has ended. If that is because the time is over this does not come back.
pub(super) fn helper_ended() {
    while OVER.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// A command that runs a helper program, which stays in this process's group.
pub(super) fn in_this_group(command: &mut Command) -> &mut Command {
    if is_set(TEST_MODE) { command.env(HAS_GROUP, "1") } else { command }
}
