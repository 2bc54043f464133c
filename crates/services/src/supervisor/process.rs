//! One process that the daemon runs itself, in a process group of its own.
//!
//! The process outlives the daemon: it writes into a file instead of a pipe, and a small record (pid, start
//! time, boot) lets the next daemon find it again. Its end is noticed through a pidfd, for our own child and
//! for an adopted one alike. See pidfd_open(2), setpgid(2), proc_pid_stat(5).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How often the end of a process group is looked for while it is being stopped.
const POLL: Duration = Duration::from_millis(10);
/// How long KILL may take; a process in uninterruptible sleep (a hung mount) takes longer.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// What the next daemon needs to find the process again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Clock ticks since boot: tells the process from a later one with the same pid.
    started: u64,
    boot_id: String,
    command: Vec<String>,
}

/// A running process and its process group.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    child: Option<Child>,
    pidfd: AsyncFd<OwnedFd>,
    record: PathBuf,
}

/// How a stop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    Gone,
    /// Not even KILL helped: uninterruptible, most likely in a hung mount.
    Stuck,
}

impl Process {
    /// Starts `command`, recorded as `known_as`; stdout and stderr go to the end of `output`.
    pub(super) fn spawn(command: &[String], known_as: &[String], output: &Path, record: &Path) -> io::Result<Self> {
        let Some((program, args)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
        };
        let out = File::options().create(true).append(true).open(output)?;
        let child = Command::new(program)
            .args(args)
            .env("PATH", search_path())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .current_dir("/")
            // its end must not signal our group (smbd does kill(0)), and its group is what we signal
            .process_group(0)
            .kill_on_drop(false)
            .spawn()?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the new process has no pid"))?;
        let process = Self { pid, child: Some(child), pidfd: watch(pid)?, record: record.to_path_buf() };
        // Without the record the next daemon cannot adopt it, and would meet it as a stranger on its port
        process.write_record(known_as)?;
        Ok(process)
    }

    /// Finds the process that an earlier daemon started, if it is still there.
    pub(super) fn find(record: &Path, command: &[String]) -> Option<Found> {
        let saved: Record = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        if saved.boot_id != boot_id()? {
            return None;
        }
        let pid = Pid::from_raw(saved.pid)?;
        // The order matters: with the pidfd in hand the pid cannot change its owner unnoticed
        let pidfd = watch(pid).ok()?;
        let now = stat_fields(saved.pid)?;
        if now.started != saved.started || now.is_dead() {
            return None;
        }
        let process = Self { pid, child: None, pidfd, record: record.to_path_buf() };
        Some(if saved.command == command { Found::Same(process) } else { Found::Other(process) })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Waits for the end of the main process and says how it ended. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> String {
        // Only an error of epoll itself ends this early; the wait below tells then
        let _ = self.pidfd.readable().await;
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => describe(status),
                Err(error) => format!("ended ({error})"),
            },
            None => "ended".into(),
        }
    }

    /// The main process is gone: ends what is left of its group, so that a successor finds the ports free.
    pub(super) async fn sweep(mut self) -> Stopped {
        self.forget_record();
        let _ = rustix::process::kill_process_group(self.pid, Signal::TERM);
        if self.group_gone_within(Duration::from_millis(300)).await {
            return Stopped::Gone;
        }
        self.kill_group().await
    }

    /// TERM to the group, KILL after `patience`. Waits for all of it to be gone.
    pub(super) async fn stop(mut self, patience: Duration) -> Stopped {
        // A stopped process (SIGSTOP) acts on TERM only when it is continued
        for signal in [Signal::TERM, Signal::CONT] {
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
        let reaped = tokio::time::timeout(patience, self.ended()).await.is_ok();
        let gone = reaped && self.group_gone_within(Duration::from_millis(500)).await;
        let stopped = if gone { Stopped::Gone } else { self.kill_group().await };
        if stopped == Stopped::Gone {
            self.forget_record();
        }
        stopped
    }

    /// KILL to the group. Waits for all of it to be gone.
    pub(super) async fn kill(mut self) -> Stopped {
        let stopped = self.kill_group().await;
        if stopped == Stopped::Gone {
            self.forget_record();
        }
        stopped
    }

    async fn kill_group(&mut self) -> Stopped {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = tokio::time::timeout(KILL_WAIT, self.ended()).await;
        if self.group_gone_within(KILL_WAIT).await { Stopped::Gone } else { Stopped::Stuck }
    }

    async fn group_gone_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            if !group_alive(self.pid) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(POLL).await;
        }
    }

    fn write_record(&self, command: &[String]) -> io::Result<()> {
        let missing = || io::Error::other("/proc says nothing about the new process");
        let record = Record {
            pid: self.pid(),
            started: start_time(self.pid()).ok_or_else(missing)?,
            boot_id: boot_id().ok_or_else(missing)?,
            command: command.to_vec(),
        };
        let fresh = self.record.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(&record)?)?;
        fs::rename(fresh, &self.record)
    }

    fn forget_record(&self) {
        // A record left behind is harmless: its pid and start time match no process any more
        let _ = fs::remove_file(&self.record);
    }
}

/// A process of an earlier daemon.
#[derive(Debug)]
pub(super) enum Found {
    /// Runs what we would start.
    Same(Process),
    /// Runs another command, from before the configuration changed.
    Other(Process),
}

/// Becomes readable when the process ends.
// The constructor is deprecated for descriptors that may be closed meanwhile; an OwnedFd cannot be, and the
// replacement is unsafe.
#[allow(deprecated)]
pub(crate) fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    AsyncFd::with_interest(pidfd, tokio::io::Interest::READABLE)
}

/// Whether any process of the group is alive. Zombies of adopted services do not count: whoever inherited
/// them has to reap them.
fn group_alive(pgid: Pid) -> bool {
    if rustix::process::test_kill_process_group(pgid).is_err() {
        return false;
    }
    let Ok(dir) = fs::read_dir("/proc") else {
        return true;
    };
    dir.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(stat_fields)
        .any(|fields| fields.group == pgid.as_raw_nonzero().get() && !fields.is_dead())
}

struct StatFields {
    state: char,
    group: i32,
    started: u64,
}

impl StatFields {
    /// Ended, and only waits to be reaped.
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn stat_fields(pid: i32) -> Option<StatFields> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the command name in brackets may hold spaces and brackets itself
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(16)?.parse().ok()?;
    Some(StatFields { state, group, started })
}

fn start_time(pid: i32) -> Option<u64> {
    stat_fields(pid).map(|fields| fields.started)
}

fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// Daemons live in the sbin directories, which a daemon's own PATH may lack.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was killed by signal {signal}{}", signal_name(signal)),
        (None, Some(code)) => format!("ended with exit status {code}"),
        (None, None) => "ended".into(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGKILL => " (KILL)",
        libc::SIGTERM => " (TERM)",
        libc::SIGSEGV => " (SEGV)",
        libc::SIGABRT => " (ABRT)",
        libc::SIGBUS => " (BUS)",
        libc::SIGILL => " (ILL)",
        libc::SIGINT => " (INT)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_stat() {
        let own = stat_fields(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.started > 0 && own.state == 'R' || own.state == 'S');
        let group = rustix::process::getpgrp();
        assert_eq!(own.group, group.as_raw_nonzero().get());
        assert!(group_alive(group));
        assert!(stat_fields(-1).is_none());
    }
}
