//! The lock that a daemon and its guard hold together: as long as either lives, no other daemon starts on the node.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

/// A guard needs milliseconds; one that needs longer hangs, and is killed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a killed guard may take to go.
const KILLED: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(5);

/// The lock, held. It is let go when this, and every copy that a guard has, is closed, also by SIGKILL.
#[derive(Debug)]
pub(crate) struct GuardLock {
    file: File,
}

impl GuardLock {
    /// Waits until the guard of an earlier daemon has ended.
    ///
    /// # Errors
    /// The file cannot be made or locked; the earlier guard hangs in the kernel.
    pub(crate) fn acquire(run_dir: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(run_dir)
            .with_context(|| format!("cannot make the directory {}", run_dir.display()))?;
        let path = run_dir.join("guard.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if wait(&file, PATIENCE)? {
            return Ok(Self { file });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
        let pid = text.trim().parse().ok().filter(|pid| is_guard(*pid)).and_then(Pid::from_raw);
        let Some(pid) = pid else {
            anyhow::bail!("another process holds {}: is a guard of an earlier daemon stuck?", path.display());
        };
        tracing::warn!("the guard of an earlier daemon (pid {}) hangs; it is killed", pid.as_raw_nonzero());
        kill_process(pid, Signal::KILL).context("the guard of an earlier daemon cannot be killed")?;
        anyhow::ensure!(
            wait(&file, KILLED)?,
            "the guard of an earlier daemon (pid {}) hangs in the kernel: this node must be rebooted",
            pid.as_raw_nonzero()
        );
        Ok(Self { file })
    }

    /// A copy for a guard.
    pub(super) fn share(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }

    /// Notes the guard's pid, for a later daemon that finds it hanging.
    pub(super) fn note(&mut self, pid: u32) {
        let written =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| writeln!(self.file, "{pid}"));
        if let Err(error) = written {
            tracing::debug!("the guard's pid cannot be noted: {error}");
        }
    }
}

/// True when the lock was got in time.
fn wait(file: &File, patience: Duration) -> anyhow::Result<bool> {
    let end = Instant::now() + patience;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(STEP),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("the guard's lock cannot be taken"),
        }
    }
}

/// Is this process a guard, and not one that got its number since?
fn is_guard(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|b| *b == 0).skip(1);
    words.next() == Some(b"helper") && words.next() == Some(b"guard")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_free_when_the_last_copy_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let first = GuardLock::acquire(dir.path()).unwrap();
        let guards = first.share().unwrap();
        drop(first);
        let probe = File::open(dir.path().join("guard.lock")).unwrap();
        assert!(!wait(&probe, Duration::ZERO).unwrap(), "the guard still has it");
        drop(guards);
        assert!(wait(&probe, Duration::ZERO).unwrap());
    }

    #[test]
    fn only_a_guard_is_taken_for_one() {
        assert!(!is_guard(i32::try_from(std::process::id()).unwrap()));
    }
}
