//! A lock outside of the filesystem, by CTDB's helper contract (ctdb `cluster lock = !COMMAND`): the program
//! prints one character, `0` held, `1` contended, `2` timed out, `3` error, and holds the lock until it is
//! told to end (SIGTERM) or its parent is gone. Helpers for etcd and RADOS written for CTDB work unchanged.
//!
//! The end of the program while it holds the lock is the loss of the lock.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use super::{Acquired, LockError};

/// How long a helper may take to let go after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(1);

/// The lock of one external command.
#[derive(Debug)]
pub struct ExternalLock {
    words: Vec<String>,
    deadline: Duration,
    holding: Option<(Child, Option<ChildStdin>)>,
}

impl ExternalLock {
    /// `command` is split at white space, as CTDB does; a leading `!` is dropped.
    pub fn new(command: &str, deadline: Duration) -> Self {
        let words = command.trim().trim_start_matches('!').split_whitespace().map(str::to_owned).collect();
        Self { words, deadline, holding: None }
    }

    /// Starts the command and waits for its character, at most the deadline.
    pub async fn acquire(&mut self) -> Result<Acquired, LockError> {
        if self.not_held().is_none() {
            return Ok(Acquired::Held);
        }
        self.stop().await;
        let (program, args) = self.words.split_first().ok_or_else(|| self.error("the command is empty"))?;
        let spawned = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|e| self.error(format!("cannot start it: {e}")))?;
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().ok_or_else(|| self.error("no pipe to it"))?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(log(stderr, self.words.join(" ")));
        }
        self.holding = Some((child, stdin));
        let mut answer = [0];
        let read = timeout(self.deadline, stdout.read(&mut answer)).await;
        let result = match (read, answer[0]) {
            (Ok(Ok(1)), b'0') => return Ok(Acquired::Held),
            (Ok(Ok(1)), b'1') => Ok(Acquired::Contended { by: None }),
            (Ok(Ok(1)), b'2') => Err(self.error("it timed out waiting for the lock")),
            (Ok(Ok(1)), b'3') => Err(self.error("it failed to take the lock")),
            (Ok(Ok(1)), other) => Err(self.error(format!("printed {:?} instead of 0, 1, 2 or 3", char::from(other)))),
            (Ok(Ok(_)), _) => Err(self.error("it ended without an answer")),
            (Ok(Err(error)), _) => Err(self.error(error)),
            (Err(_), _) => Err(self.error(format!("no answer within {:?}", self.deadline))),
        };
        self.stop().await;
        result
    }

    /// Ends the command, which lets the lock go.
    pub async fn release(&mut self) -> Result<(), LockError> {
        self.stop().await;
        Ok(())
    }

    /// None while the command runs, else why the lock is not held.
    pub fn not_held(&mut self) -> Option<String> {
        match self.holding.as_mut().map(|(child, _)| child.try_wait()) {
            None => Some("it was not acquired".to_owned()),
            Some(Ok(None)) => None,
            Some(Ok(Some(status))) => Some(format!("its helper ended ({status})")),
            Some(Err(error)) => Some(format!("its helper cannot be waited for: {error}")),
        }
    }

    /// TERM, then KILL after a second, for the command and what it started.
    pub async fn stop(&mut self) {
        let Some((mut child, stdin)) = self.holding.take() else {
            return;
        };
        drop(stdin);
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        for signal in [Signal::TERM, Signal::KILL] {
            if let Some(group) = group {
                // ESRCH: already gone, which the wait below sees.
                let _ = kill_process_group(group, signal);
            }
            if timeout(TERM_GRACE, child.wait()).await.is_ok() {
                return;
            }
        }
        tracing::warn!(command = %self.words.join(" "), "the lock helper does not end; it may still hold the lock");
    }

    fn error(&self, why: impl ToString) -> LockError {
        LockError::External { program: self.words.join(" "), why: why.to_string() }
    }
}

/// What the command says on its standard error is part of our log, as CTDB's helpers expect. Ends with its output.
async fn log(mut stderr: ChildStderr, command: String) {
    let mut bytes = [0; 1024];
    while let Ok(n @ 1..) = stderr.read(&mut bytes).await {
        for line in String::from_utf8_lossy(&bytes[..n]).lines().filter(|line| !line.trim().is_empty()) {
            tracing::warn!("lock helper {command}: {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &std::path::Path, body: &str) -> ExternalLock {
        let path = dir.join("helper.sh");
        std::fs::write(&path, format!("{body}\n")).unwrap();
        // Through sh: a script just written may be busy in a child that another test forks right now.
        ExternalLock::new(&format!("!/bin/sh {} a b", path.display()), Duration::from_secs(5))
    }

    #[tokio::test]
    async fn a_helper_holds_until_it_is_told_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("ended");
        let body = format!("trap 'echo x >{}; exit 0' TERM; printf 0; while :; do sleep 0.02; done", mark.display());
        let mut lock = script(dir.path(), &body);
        assert!(lock.not_held().is_some());
        assert_eq!(lock.acquire().await.unwrap(), Acquired::Held);
        assert_eq!(lock.not_held(), None);
        lock.release().await.unwrap();
        assert!(mark.exists() && lock.not_held().is_some());
    }

    #[tokio::test]
    async fn every_other_answer_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(script(dir.path(), "printf 1").acquire().await.unwrap(), Acquired::Contended { by: None });
        for (body, expected) in [("printf 2", "timed out"), ("printf 3", "failed"), ("printf x", "'x'"), ("", "ended")]
        {
            let error = script(dir.path(), body).acquire().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{body}: {error}");
        }
        let mut slow = script(dir.path(), "exec sleep 60");
        slow.deadline = Duration::from_millis(50);
        assert!(slow.acquire().await.unwrap_err().to_string().contains("no answer within"));
        assert!(ExternalLock::new("!", Duration::from_secs(1)).acquire().await.is_err());
    }

    #[tokio::test]
    async fn the_end_of_the_helper_is_the_loss_of_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let mut lock = script(dir.path(), "printf 0; exec cat >/dev/null");
        assert_eq!(lock.acquire().await.unwrap(), Acquired::Held);
        let (child, stdin) = lock.holding.as_mut().unwrap();
        *stdin = None;
        child.wait().await.unwrap();
        assert!(lock.not_held().unwrap().contains("ended"));
    }

    /// CTDB's own helper, as `ctdb.conf` names it: one holds the lock, the other hears that it is held, and gets it after.
    #[tokio::test]
    async fn ctdbs_own_helper() {
        let program =
            ["/usr/libexec/ctdb/ctdb_mutex_fcntl_helper", "/usr/lib/x86_64-linux-gnu/ctdb/ctdb_mutex_fcntl_helper"];
        let Some(program) = program.iter().find(|path| std::path::Path::new(path).exists()) else {
            return eprintln!("SKIPPED: CTDB's ctdb_mutex_fcntl_helper is not installed (Debian: ctdb)");
        };
        let dir = tempfile::tempdir().unwrap();
        let command = format!("!{program} {}", dir.path().join("lock").display());
        let [mut first, mut second] = [(); 2].map(|()| ExternalLock::new(&command, Duration::from_secs(20)));
        assert_eq!(first.acquire().await.unwrap(), Acquired::Held);
        assert_eq!(first.not_held(), None);
        assert_eq!(second.acquire().await.unwrap(), Acquired::Contended { by: None });
        first.release().await.unwrap();
        assert_eq!(second.acquire().await.unwrap(), Acquired::Held);
        assert_eq!(first.acquire().await.unwrap(), Acquired::Contended { by: None });
        // It is killed: the lock is lost, and free.
        let (child, _) = second.holding.as_mut().unwrap();
        child.kill().await.unwrap();
        assert!(second.not_held().unwrap().contains("ended"));
        assert_eq!(first.acquire().await.unwrap(), Acquired::Held);
        first.stop().await;
    }
}
