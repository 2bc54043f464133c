//! SMB sessions that a test keeps: files held open with chosen rights, which smbclient cannot do.
//!
//! Samba's own Python binding speaks the protocol (package python3-samba, which samba needs itself).

use crate::lab::Lab;
use crate::site::{CLIENT, PASSWORD, SHARE, USER};
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PROGRAM: &str = include_str!("smb_client.py");
/// Locks and oplocks, which the binding has not (package python3-impacket).
const LOCKS_PROGRAM: &str = include_str!("smb_locks.py");
/// Digits of a number in a file.
const ZERO: &str = "00000000000000000000";
/// For one answer; the server may be busy with a lost node meanwhile.
const PATIENCE: Duration = Duration::from_secs(40);

/// What others may do with a file while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nothing: the open is exclusive.
    Nothing,
    /// Read, write and delete.
    All,
}

/// What the server said to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done; of an open file its handle.
    Done(String),
    /// Refused, with the server's status and words.
    Refused(String),
}

impl Answer {
    /// Somebody else has the file open in a way that does not go with this one.
    pub(crate) fn is_sharing_violation(&self) -> bool {
        matches!(self, Self::Refused(why) if why.starts_with("0xc0000043"))
    }

    /// Somebody else has locked a part of the range.
    pub(crate) fn is_lock_refused(&self) -> bool {
        matches!(self, Self::Refused(why) if why.starts_with("0xc0000055"))
    }

    fn parts(self) -> Result<Lease> {
        Ok(Lease(self.handle()?.parse()?))
    }

    fn level(self) -> Result<Level> {
        Ok(match self.handle()?.parse()? {
            0 => Level::Nothing,
            1 => Level::Read,
            9 => Level::Batch,
            other => Level::Other(other),
        })
    }

    /// The handle, or the refusal as an error.
    pub(crate) fn handle(self) -> Result<String> {
        match self {
            Self::Done(handle) => Ok(handle),
            Self::Refused(why) => bail!("SMB: {why}"),
        }
    }
}

/// What a client may keep to itself of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Nothing.
    Nothing,
    /// What it has read.
    Read,
    /// What it writes, and the open itself.
    Batch,
    /// Another, as the protocol numbers it.
    Other(u8),
}

/// What a client may keep to itself of all its opens of a file, as the protocol has it: what it has read (1), the open itself
/// (2), what it writes (4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease(u32);

impl Lease {
    pub(crate) const READ_AND_OPEN: Self = Self(3);
    pub(crate) const ALL: Self = Self(7);
}

/// Bytes as [`Session::get`] answers them.
pub(crate) fn hex(data: &[u8]) -> String {
    data.iter().fold(String::with_capacity(2 * data.len()), |mut hex, b| {
        // A string takes everything.
        let _ = write!(hex, "{b:02x}");
        hex
    })
}

/// A client's connection to one address; it ends with this value.
#[derive(Debug)]
pub(crate) struct Session {
    server: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Session {
    /// Logs the laboratory's user in at `server`.
    pub(crate) fn open(lab: &Lab, server: &str) -> Result<Self> {
        Self::start(lab, server, PROGRAM)
    }

    /// The same, of a client that can lock ranges and cache.
    pub(crate) fn locking(lab: &Lab, server: &str) -> Result<Self> {
        Self::start(lab, server, LOCKS_PROGRAM)
    }

    fn start(lab: &Lab, server: &str, program: &str) -> Result<Self> {
        let words = ["/usr/bin/python3", "-c", program, server, SHARE, USER, PASSWORD];
        let mut child = lab
            .command(CLIENT, &words)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the SMB client")?;
        let (Some(stdin), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the SMB client has no pipes");
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let session = Self { server: server.to_owned(), child, stdin, lines };
        let first = session.line()?;
        if first != "ready" {
            bail!("the SMB client of {server} says: {first}");
        }
        Ok(session)
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).with_context(|| format!("no answer of the SMB session with {}", self.server))
    }

    fn order(&mut self, line: &str) -> Result<Answer> {
        writeln!(self.stdin, "{line}").with_context(|| format!("the SMB session with {} has ended", self.server))?;
        let said = self.line()?;
        match said.split_once(' ') {
            Some(("ok", handle)) => Ok(Answer::Done(handle.trim().to_owned())),
            Some(("error", why)) => Ok(Answer::Refused(why.to_owned())),
            _ => bail!("the SMB client of {} says: {said}", self.server),
        }
    }

    /// Opens a file for reading and writing, makes it if it is not there.
    pub(crate) fn create(&mut self, name: &str, sharing: Sharing) -> Result<Answer> {
        let share = match sharing {
            Sharing::Nothing => 0,
            Sharing::All => 7,
        };
        self.order(&format!("open {name} 0x0012019f {share:#x}"))
    }

    /// Writes a word through an open file.
    pub(crate) fn write(&mut self, handle: &str, word: &str) -> Result<Answer> {
        self.order(&format!("write {handle} {word}"))
    }

    /// Puts bytes on stable storage: they are flushed when this is done.
    pub(crate) fn put(&mut self, handle: &str, offset: u64, data: &[u8]) -> Result<Answer> {
        self.order(&format!("put {handle} {offset} {}", hex(data)))
    }

    /// Begins what [`Self::put`] does, and waits for nothing.
    pub(crate) fn begin_put(&mut self, handle: &str, offset: u64, data: &[u8]) -> Result<()> {
        let line = format!("put {handle} {offset} {}", hex(data));
        writeln!(self.stdin, "{line}").with_context(|| format!("the SMB session with {} has ended", self.server))
    }

    /// Waits until the connection is gone with what was begun. An error is that it was answered.
    pub(crate) fn lost(&self) -> Result<()> {
        match self.line()? {
            said if said.starts_with("lost") => Ok(()),
            said => bail!("the SMB client of {} says: {said}", self.server),
        }
    }

    /// Bytes of the file in hexadecimal; at its end fewer than were asked for.
    pub(crate) fn get(&mut self, handle: &str, offset: u64, length: usize) -> Result<Answer> {
        self.order(&format!("get {handle} {offset} {length}"))
    }

    /// Opens as [`Self::create`], to be shared with all, with a batch oplock: the handle, and the level that was granted.
    pub(crate) fn create_caching(&mut self, name: &str) -> Result<(String, Level)> {
        let handle = self.order(&format!("open {name} 0x0012019f 0x7 0x9"))?.handle()?;
        let level = self.order(&format!("oplock {handle}"))?.level()?;
        Ok((handle, level))
    }

    /// Waits until the server takes the oplock back, and gives it: what is left.
    pub(crate) fn broken(&mut self, handle: &str, limit: Duration) -> Result<Level> {
        self.order(&format!("broken {handle} {}", limit.as_secs_f64()))?.level()
    }

    /// Opens as [`Self::create`], to be shared with all, with a lease that no other open has: the handle, and what was granted.
    pub(crate) fn create_leased(&mut self, name: &str) -> Result<(String, Lease)> {
        let handle = self.order(&format!("lease {name} 0x0012019f 0x7"))?.handle()?;
        let lease = self.order(&format!("leased {handle}"))?.parts()?;
        Ok((handle, lease))
    }

    /// Waits until the server takes a part of the lease back, and gives it: what is left.
    pub(crate) fn lease_broken(&mut self, handle: &str, limit: Duration) -> Result<Lease> {
        self.order(&format!("unleased {handle} {}", limit.as_secs_f64()))?.parts()
    }

    /// Locks a range for itself alone, at once or not at all.
    pub(crate) fn lock(&mut self, handle: &str, offset: u64, length: u64) -> Result<Answer> {
        self.order(&format!("lock {handle} {offset} {length}"))
    }

    /// Gives a range back.
    pub(crate) fn unlock(&mut self, handle: &str, offset: u64, length: u64) -> Result<Answer> {
        self.order(&format!("unlock {handle} {offset} {length}"))
    }

    /// The number in the file.
    pub(crate) fn number(&mut self, handle: &str) -> Result<u64> {
        Ok(self.order(&format!("read {handle}"))?.handle()?.parse()?)
    }

    /// Adds 1 to the number in the file, under a lock that is waited for, for so long: how often, and the longest wait in
    /// milliseconds.
    pub(crate) fn count(&mut self, handle: &str, time: Duration) -> Result<(u64, f64)> {
        let said = self.order(&format!("count {handle} {}", time.as_secs_f64()))?.handle()?;
        let (times, longest) = said.split_once(' ').with_context(|| format!("no count: {said}"))?;
        Ok((times.parse()?, longest.parse()?))
    }

    /// Closes an open file.
    pub(crate) fn close(&mut self, handle: &str) -> Result<Answer> {
        self.order(&format!("close {handle}"))
    }
}

/// What clients that counted together have to say.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Of each client how often it added 1, and its longest wait for the lock in milliseconds.
    counts: Vec<(u64, f64)>,
    pub(crate) seconds: f64,
    /// What each node shows in the end.
    pub(crate) shown: Vec<u64>,
}

impl Counted {
    pub(crate) fn sum(&self) -> u64 {
        self.counts.iter().map(|c| c.0).sum()
    }
    pub(crate) fn fewest(&self) -> u64 {
        self.counts.iter().map(|c| c.0).min().unwrap_or(0)
    }
    pub(crate) fn most(&self) -> u64 {
        self.counts.iter().map(|c| c.0).max().unwrap_or(0)
    }
    pub(crate) fn longest_ms(&self) -> f64 {
        self.counts.iter().map(|c| c.1).fold(0.0, f64::max)
    }
}

/// All sessions add to the number in one new file, under a lock, for so long; the first `nodes` of them read it in the end.
pub(crate) fn count_together(sessions: &mut [Session], nodes: usize, time: Duration) -> Result<Counted> {
    let handles: Vec<String> =
        sessions.iter_mut().map(|s| s.create("counter", Sharing::All)?.handle()).collect::<Result<_>>()?;
    // The open that made the file lasts while all count: what GlusterFS's mount caches then has to be right (docs/storage.md,
    // "Files that are open where they were made").
    if let (Some(first), Some(handle)) = (sessions.first_mut(), handles.first()) {
        first.write(handle, ZERO)?.handle()?;
    }
    let begun = Instant::now();
    let counts: Vec<(u64, f64)> = std::thread::scope(|scope| {
        let all: Vec<_> = sessions
            .iter_mut()
            .zip(&handles)
            .map(|(session, handle)| scope.spawn(|| session.count(handle, time)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<_>>| match thread.join() {
            Ok(counted) => counted,
            Err(_) => bail!("a thread that counted has panicked"),
        };
        all.into_iter().map(join).collect::<Result<_>>()
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let shown = sessions.iter_mut().zip(&handles).take(nodes).map(|(s, h)| s.number(h)).collect::<Result<_>>()?;
    Ok(Counted { counts, seconds, shown })
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ends the client, which is a child of the child; that one need not be waited for.
        let _ = writeln!(self.stdin, "exit");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
