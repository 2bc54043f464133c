//! When the time of a `ctdb` command is over, its group of processes ends with it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const SIGTERM: i32 = 15;

/// A directory with the tool by its name, and a helper that writes its number into `pid` and then hangs.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    symlink(env!("CARGO_BIN_EXE_steadfast"), dir.path().join("ctdb")).unwrap();
    let helper = dir.path().join("helper");
    std::fs::write(&helper, "#!/bin/sh\necho $$ >\"${0%/*}/pid\"\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// `sh` with this script, in a group of its own, as a script of cron is.
fn script(dir: &Path, script: &str, test_mode: bool) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir).process_group(0).stdin(Stdio::null());
    command.env("CTDB_EVENT_HELPER", dir.join("helper")).env_remove("CTDB_TOOL_SETPGID").env_remove("CTDB_TEST_MODE");
    if test_mode {
        command.env("CTDB_TEST_MODE", "yes");
    }
    command.output().unwrap()
}

fn helper_ends(dir: &Path) {
    let pid = std::fs::read_to_string(dir.join("pid")).unwrap();
    let name = format!("/proc/{}/cmdline", pid.trim());
    let until = Instant::now() + Duration::from_secs(5);
    // One that has ended and is not collected has an empty command line.
    while std::fs::read(&name).is_ok_and(|line| !line.is_empty()) {
        assert!(Instant::now() < until, "the helper program goes on: {name}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_script_that_called_it_ends_too() {
    let dir = prepared();
    let seen = script(dir.path(), "./ctdb -T 1 event status; echo went on", false);
    assert_eq!(seen.status.signal(), Some(SIGTERM), "{seen:?}");
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "");
    assert_eq!(String::from_utf8_lossy(&seen.stderr), "Maximum runtime exceeded - exiting\n");
    helper_ends(dir.path());
}

#[test]
fn a_test_harness_goes_on() {
    let dir = prepared();
    let seen = script(dir.path(), "./ctdb -T 1 event status; echo ended with $?", true);
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "ended with 1\n", "{seen:?}");
    assert_eq!(String::from_utf8_lossy(&seen.stderr), "Maximum runtime exceeded - exiting\n");
    helper_ends(dir.path());
}
