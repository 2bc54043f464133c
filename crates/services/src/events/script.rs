//! One run of one event script: a process group of its own, its output, its end within a time limit.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::supervisor::search_path;

/// Output that is kept, from its end, in bytes.
const MOST_OUTPUT: usize = 4096;
/// What is written just before the end is read within this. Programs that a script leaves in the background may keep its
/// output open for ever.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// A script that is open for writing is tried again after this, so often.
const BUSY: Duration = Duration::from_millis(20);
const BUSY_TRIES: usize = 10;
/// From TERM to KILL.
const GRACE: Duration = Duration::from_secs(1);

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Exit(i32),
    Signal(i32),
    /// It was killed.
    TimedOut,
    /// It did not begin: an errno.
    NotStarted(i32),
}

impl End {
    /// As CTDB counts it: the exit status, or a negative errno.
    pub(super) fn result(&self) -> i32 {
        match self {
            Self::Exit(status) => *status,
            Self::Signal(_) => -libc::EINTR,
            Self::TimedOut => -libc::ETIMEDOUT,
            Self::NotStarted(errno) => -errno,
        }
    }
}

/// The group of a script that runs; killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // ESRCH: all of it has gone.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Who looks at a script that has not ended in time, before it is killed.
pub(super) struct Hung<'a> {
    /// Run with the script's process id and the event's name.
    pub(super) program: &'a Path,
    /// Called before that, with the script's output so far: the program may ask how the script went.
    pub(super) seen: &'a (dyn Fn(String) + Sync),
}

/// Runs a script until it ends, at the latest at `until`; its process group is killed then, and also when this is
/// dropped. What it leaves in the background when it ends by itself goes on. `hung` looks at what it waits for.
pub(super) async fn run(
    path: &Path,
    args: &[String],
    base: &Path,
    until: Option<Instant>,
    hung: Option<Hung<'_>>,
) -> (End, String) {
    let (mut child, reader) = match start(path, args, base).await {
        Ok(started) => started,
        Err(error) => return (End::NotStarted(errno(&error)), format!("{}: {error}\n", path.display())),
    };
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
    let mut output = Output { reader: Some(reader), kept: Vec::new() };
    let ended = tokio::select! {
        ended = wait(&mut child, &mut output) => Some(ended),
        () = limit(until) => None,
    };
    let end = match ended {
        Some(Ok(status)) => {
            group.0 = None;
            // An error of reading ends the reading only.
            let _ = timeout(LAST_WORDS, output.rest()).await;
            how(status)
        }
        Some(Err(error)) => End::NotStarted(errno(&error)),
        None => {
            if let (Some(hung), Some(pid)) = (hung, group.0) {
                (hung.seen)(output.text());
                look(hung.program, pid, args, base).await;
            }
            kill(&group, &mut child, &mut output).await;
            End::TimedOut
        }
    };
    (end, output.text())
}

async fn start(path: &Path, args: &[String], base: &Path) -> io::Result<(Child, pipe::Receiver)> {
    for _ in 0..BUSY_TRIES {
        match start_now(path, args, base) {
            // Somebody has just written it, or a child that is being forked still has it open.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => sleep(BUSY).await,
            other => return other,
        }
    }
    start_now(path, args, base)
}

fn start_now(path: &Path, args: &[String], base: &Path) -> io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let child = Command::new(path)
        .args(args)
        .env("CTDB_BASE", base)
        .env("PATH", search_path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
}

/// The end of the script itself; its output is read meanwhile.
async fn wait(child: &mut Child, output: &mut Output) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            () = output.more(), if output.reader.is_some() => {}
        }
    }
}

async fn limit(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

async fn kill(group: &Group, child: &mut Child, output: &mut Output) {
    group.signal(Signal::TERM);
    if timeout(GRACE, wait(child, output)).await.is_ok() {
        return;
    }
    group.signal(Signal::KILL);
    if timeout(GRACE, child.wait()).await.is_err() {
        // It is reaped when it ends; nobody waits for it.
        tracing::warn!(pid = child.id(), "an event script does not end, not even by KILL: it waits in the kernel");
    }
}

/// Lets somebody look at what a hung script waits for.
async fn look(hung: &Path, pid: Pid, args: &[String], base: &Path) {
    let pid = pid.as_raw_nonzero().get().to_string();
    let args = [pid, args.first().cloned().unwrap_or_default()];
    let until = Instant::now() + GRACE * 5;
    let (end, output) = Box::pin(run(hung, &args, base, Some(until), None)).await;
    tracing::warn!(?end, "{}: {}", hung.display(), output.trim_end());
}

struct Output {
    /// None: it has ended.
    reader: Option<pipe::Receiver>,
    kept: Vec<u8>,
}

impl Output {
    async fn more(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        let mut buffer = [0; 1024];
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => self.reader = None,
            Ok(n) => {
                self.kept.extend_from_slice(&buffer[..n]);
                let surplus = self.kept.len().saturating_sub(MOST_OUTPUT);
                self.kept.drain(..surplus);
            }
        }
    }

    async fn rest(&mut self) {
        while self.reader.is_some() {
            self.more().await;
        }
    }

    fn text(&self) -> String {
        // A client reads it as text that a NUL ends.
        String::from_utf8_lossy(&self.kept).replace('\0', "?")
    }
}

/// Never `ENOEXEC`: so a script is told that is disabled.
fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().filter(|errno| *errno != libc::ENOEXEC).unwrap_or(libc::EIO)
}

fn how(status: ExitStatus) -> End {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    }
}
