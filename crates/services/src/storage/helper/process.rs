//! The daemon's side of a helper: spawns it, asks, and gets rid of it when it misses a deadline.
//!
//! A child that hangs inside the kernel survives SIGKILL until the filesystem answers. It is then *stuck*: it
//! is waited for in the background, no second one is started on the same mount meanwhile, and every request
//! fails at once with [`HelperError::Stuck`].

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::serve::{Answer, MAX_LINE, Request};

/// How long a killed child may take to go before it counts as stuck in the kernel.
const KILL_GRACE: Duration = Duration::from_millis(100);

/// How to start helpers: a program and the arguments before `KIND`.
#[derive(Debug, Clone)]
pub struct HelperCommand {
    program: PathBuf,
    args: Vec<OsString>,
}

impl HelperCommand {
    /// This very program, as `PROGRAM helper KIND ...`; also right after its file was replaced by an upgrade.
    pub fn this_program() -> Self {
        Self::new("/proc/self/exe").arg("helper")
    }

    /// Another program.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new() }
    }

    /// The same with one more argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }
}

/// Why a helper gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("cannot start the {what} helper ({program}): {source}")]
    Spawn { what: String, program: String, source: io::Error },
    /// It was killed for it.
    #[error("the {what} helper gave no answer within {after:?}")]
    Deadline { what: String, after: Duration },
    /// An earlier one missed its deadline and hangs in the kernel.
    #[error("the {what} helper hangs in the kernel for {:.1} s; waiting for the filesystem to answer it", .since.elapsed().as_secs_f32())]
    Stuck { what: String, since: Instant },
    #[error("the {what} helper ended ({status}) instead of answering")]
    Gone { what: String, status: String },
    #[error("the {what} helper wrote something unreadable: {why}")]
    Protocol { what: String, why: String },
    /// It answered, with an error of its own.
    #[error("{why}")]
    Refused { why: String },
}

impl HelperError {
    /// Whether the filesystem did not answer, as opposed to answering with an error.
    pub fn is_hang(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Stuck { .. })
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: Vec<u8>,
    /// A request was begun and not finished: its call was dropped in the middle of the line.
    torn: bool,
}

#[derive(Debug)]
struct Stuck {
    child: Child,
    since: Instant,
}

/// One helper of one kind, started when first asked and again when it was lost.
#[derive(Debug)]
pub struct Helper {
    what: String,
    command: HelperCommand,
    running: Option<Running>,
    stuck: Option<Stuck>,
    next_id: u64,
    starts: u64,
}

impl Helper {
    /// `what` names it in errors; `args` are the kind and its arguments.
    pub fn new<A: Into<OsString>>(command: &HelperCommand, what: &str, args: impl IntoIterator<Item = A>) -> Self {
        let mut command = command.clone();
        command.args.extend(args.into_iter().map(Into::into));
        Self { what: what.to_owned(), command, running: None, stuck: None, next_id: 1, starts: 0 }
    }

    /// How often a child was started; what a child kept (a lock) is gone when this changes.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// The pid of the child that would be asked next, if one runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().and_then(|running| running.child.id())
    }

    /// Asks and waits for the answer, at most `deadline`; then the child is killed and the request may or may
    /// not have had its effect. Dropping the future leaves the helper usable.
    pub async fn call<Q, A>(&mut self, ask: &Q, deadline: Duration) -> Result<A, HelperError>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        let started = Instant::now();
        if self.running.as_ref().is_some_and(|running| running.torn) {
            self.kill().await;
        }
        self.ensure_running()?;
        let id = self.next_id;
        self.next_id += 1;
        let mut line = serde_json::to_vec(&Request { id, ask }).map_err(|e| self.protocol(e.to_string()))?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(self.protocol(format!("a request of {} bytes is longer than {MAX_LINE}", line.len())));
        }
        let Some(running) = self.running.as_mut() else {
            return Err(self.protocol("no child".to_owned()));
        };
        match timeout(deadline, running.ask::<A>(id, &line)).await {
            Ok(Ok(Answer { ok: Some(ok), .. })) => Ok(ok),
            Ok(Ok(Answer { error, .. })) => {
                Err(HelperError::Refused { why: error.unwrap_or_else(|| "refused without a reason".to_owned()) })
            }
            Ok(Err(Broken::Ended)) => {
                let status = self.kill().await;
                Err(HelperError::Gone { what: self.what.clone(), status })
            }
            Ok(Err(Broken::Unreadable(why))) => {
                self.kill().await;
                Err(self.protocol(why))
            }
            Err(_) => {
                self.kill_since(started).await;
                Err(HelperError::Deadline { what: self.what.clone(), after: deadline })
            }
        }
    }

    /// Ends the child. What it held (a lock) is free when this returns, unless it hangs.
    pub async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            drop(running.stdin);
            if timeout(KILL_GRACE, running.child.wait()).await.is_err() {
                self.bury(running.child, Instant::now()).await;
            }
        }
    }

    /// Since when a killed child hangs in the kernel, if one does.
    pub fn stuck_since(&mut self) -> Option<Instant> {
        if let Some(stuck) = self.stuck.as_mut()
            && !matches!(stuck.child.try_wait(), Ok(None))
        {
            self.stuck = None;
        }
        self.stuck.as_ref().map(|stuck| stuck.since)
    }

    fn ensure_running(&mut self) -> Result<(), HelperError> {
        if let Some(since) = self.stuck_since() {
            return Err(HelperError::Stuck { what: self.what.clone(), since });
        }
        if self.running.is_some() {
            return Ok(());
        }
        let spawn_error = |source| HelperError::Spawn {
            what: self.what.clone(),
            program: self.command.program.display().to_string(),
            source,
        };
        let mut child = Command::new(&self.command.program)
            .args(&self.command.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .process_group(0)
            .spawn()
            .map_err(spawn_error)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(spawn_error(io::Error::other("no pipes to it")));
        };
        self.running = Some(Running { child, stdin, stdout: BufReader::new(stdout), line: Vec::new(), torn: false });
        self.starts += 1;
        Ok(())
    }

    async fn kill(&mut self) -> String {
        self.kill_since(Instant::now()).await
    }

    async fn kill_since(&mut self, since: Instant) -> String {
        match self.running.take() {
            Some(running) => self.bury(running.child, since).await,
            None => "not running".to_owned(),
        }
    }

    async fn bury(&mut self, mut child: Child, since: Instant) -> String {
        // An error means that it is gone already; the wait tells.
        let _ = child.start_kill();
        match timeout(KILL_GRACE, child.wait()).await {
            Ok(Ok(status)) => describe(status),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                tracing::warn!(helper = %self.what, "the helper does not die: its call into the filesystem hangs");
                self.stuck = Some(Stuck { child, since });
                "hangs in the kernel".to_owned()
            }
        }
    }

    fn protocol(&self, why: String) -> HelperError {
        HelperError::Protocol { what: self.what.clone(), why }
    }
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}

enum Broken {
    Ended,
    Unreadable(String),
}

impl Running {
    async fn ask<A: DeserializeOwned>(&mut self, id: u64, line: &[u8]) -> Result<Answer<A>, Broken> {
        // A write to a dead child fails; that it ended is seen when reading.
        self.torn = true;
        if self.stdin.write_all(line).await.is_err() {
            return Err(Broken::Ended);
        }
        self.torn = false;
        loop {
            // The buffer is kept in `self`: a dropped call must not lose half a line.
            let room = (MAX_LINE + 1).saturating_sub(self.line.len()) as u64;
            let read = (&mut self.stdout).take(room).read_until(b'\n', &mut self.line).await;
            match read {
                Ok(_) if self.line.ends_with(b"\n") => {}
                Ok(n) if n > 0 && self.line.len() <= MAX_LINE => continue,
                Ok(n) if n > 0 => {
                    return Err(Broken::Unreadable(format!("a line longer than {MAX_LINE} bytes")));
                }
                Ok(_) | Err(_) => return Err(Broken::Ended),
            }
            let line = std::mem::take(&mut self.line);
            #[derive(serde::Deserialize)]
            struct OnlyId {
                id: u64,
            }
            let text = || String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
            match serde_json::from_slice::<OnlyId>(&line) {
                Ok(only) if only.id == id => {
                    return serde_json::from_slice(&line).map_err(|e| Broken::Unreadable(format!("{e}: {}", text())));
                }
                // The answer to a call that was dropped.
                Ok(only) if only.id != 0 && only.id < id => {}
                _ => return Err(Broken::Unreadable(text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn shell(script: &str) -> Helper {
        Helper::new(&HelperCommand::new("/bin/sh").arg("-c"), "test", [script])
    }

    const SECOND: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn an_answer_and_a_refusal_come_back() {
        let mut helper = shell(r#"read a; echo '{"id":1,"ok":{"n":7}}'; read b; echo '{"id":2,"error":"disk full"}'"#);
        assert_eq!(helper.call::<_, Value>(&"x", SECOND).await.unwrap(), json!({"n": 7}));
        let error = helper.call::<_, Value>(&"x", SECOND).await.unwrap_err();
        assert_eq!(error.to_string(), "disk full");
        assert!(matches!(helper.call::<_, Value>(&"x", SECOND).await, Err(HelperError::Gone { .. })));
        assert_eq!(helper.starts(), 1);
    }

    #[tokio::test]
    async fn a_missed_deadline_kills_the_child_and_the_next_call_starts_another() {
        let mut helper = shell(r#"read a; exec sleep 60"#);
        let error = helper.call::<_, Value>(&"x", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.is_hang(), "{error}");
        assert_eq!((helper.pid(), helper.stuck_since()), (None, None));
        assert!(helper.call::<_, Value>(&"x", Duration::from_millis(50)).await.unwrap_err().is_hang());
        assert_eq!(helper.starts(), 2);
    }

    #[tokio::test]
    async fn the_answer_to_a_dropped_call_is_not_taken_for_the_next() {
        let mut helper = shell(r#"read a; read b; echo '{"id":1,"ok":"old"}'; echo '{"id":2,"ok":"new"}'; read c"#);
        let dropped = timeout(Duration::from_millis(20), helper.call::<_, String>(&"x", SECOND)).await;
        assert!(dropped.is_err());
        assert_eq!(helper.call::<_, String>(&"y", SECOND).await.unwrap(), "new");
    }

    #[tokio::test]
    async fn garbage_and_endless_lines_are_refused() {
        let mut helper = shell("read a; echo hello");
        assert!(matches!(helper.call::<_, Value>(&"x", SECOND).await, Err(HelperError::Protocol { .. })));
        let mut helper = shell("read a; exec cat /dev/zero");
        assert!(matches!(helper.call::<_, Value>(&"x", SECOND).await, Err(HelperError::Protocol { .. })));
        let mut helper = Helper::new(&HelperCommand::new("/no/such/program"), "test", ["x"]);
        let error = helper.call::<_, Value>(&"x", SECOND).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/program"), "{error}");
    }
}
