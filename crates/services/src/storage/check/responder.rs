//! Executes the operations of check-storage on one node, in a helper process: a hung mount hangs only that.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

use super::ops::{Attributes, Op, Outcome};
use crate::storage::helper::serve;
use crate::storage::lock::{lock_wait, try_lock, unlock};

/// Most files open, bytes in one read, and entries of one listing: the operations may come from elsewhere.
const MAX_OPEN: usize = 64;
const MAX_READ: u32 = 64 * 1024;
const MAX_NAMES: usize = 4096;
/// Width of the counter, in digits.
const DIGITS: usize = 20;

/// `steadfast helper check-peer --dir DIR`
pub(in crate::storage) fn peer_main(dir: &Path) -> ExitCode {
    let mut responder = Responder::new(dir);
    serve(|op: Op| responder.answer(op))
}

#[derive(Debug)]
struct Responder {
    base: PathBuf,
    scratch: Option<PathBuf>,
    files: HashMap<String, Arc<File>>,
}

/// What stops an operation: the system's refusal is an answer, a wrong request is not.
enum Stop {
    System(io::Error),
    Request(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Responder {
    fn new(dir: &Path) -> Self {
        Self { base: dir.join(".steadfast/check"), scratch: None, files: HashMap::new() }
    }

    fn answer(&mut self, op: Op) -> Result<Outcome, String> {
        match self.execute(op) {
            Ok(outcome) => Ok(outcome),
            Err(Stop::System(error)) => {
                Ok(Outcome::Errno { code: error.raw_os_error().unwrap_or(0), text: error.to_string() })
            }
            Err(Stop::Request(why)) => Err(why),
        }
    }

    fn execute(&mut self, op: Op) -> Result<Outcome, Stop> {
        match op {
            Op::Begin { run } => {
                self.files.clear();
                let dir = self.base.join(plain(&run)?);
                DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
                self.scratch = Some(dir);
            }
            Op::End { remove } => {
                self.files.clear();
                if let Some(dir) = self.scratch.take()
                    && remove
                {
                    fs::remove_dir_all(dir)?;
                }
            }
            Op::Open { file, name, create, exclusive } => self.open(file, &name, create, exclusive)?,
            Op::Close { file } => {
                self.files.remove(&file);
            }
            Op::Write { file, at, text, sync } => {
                let file = self.file(&file)?;
                file.write_all_at(text.as_bytes(), at)?;
                if sync {
                    file.sync_all()?;
                }
            }
            Op::Read { file, at, len } => {
                let mut bytes = vec![0; len.min(MAX_READ) as usize];
                let n = self.file(&file)?.read_at(&mut bytes, at)?;
                return Ok(Outcome::Text(String::from_utf8_lossy(&bytes[..n]).into_owned()));
            }
            Op::Stat { name } => return Ok(Outcome::Attributes(attributes(&fs::symlink_metadata(self.path(&name)?)?))),
            Op::StatOpen { file } => return Ok(Outcome::Attributes(attributes(&self.file(&file)?.metadata()?))),
            Op::List => return self.list(),
            Op::Rename { from, to } => fs::rename(self.path(&from)?, self.path(&to)?)?,
            Op::Unlink { name } => fs::remove_file(self.path(&name)?)?,
            Op::Chmod { name, mode } => fs::set_permissions(self.path(&name)?, Permissions::from_mode(mode & 0o777))?,
            Op::Truncate { file, size } => self.file(&file)?.set_len(size)?,
            Op::SetTime { name, mtime } => {
                let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(mtime).unwrap_or(0));
                // utimensat through a descriptor; opened for writing as only then all filesystems allow it.
                File::options().write(true).open(self.path(&name)?)?.set_times(FileTimes::new().set_modified(at))?;
            }
            Op::TryLock { file } => {
                let started = Instant::now();
                let granted = try_lock(&*self.file(&file)?)?;
                return Ok(Outcome::Lock { granted, micros: micros(started) });
            }
            Op::WaitLock { file, within_ms } => {
                return wait_lock(self.file(&file)?, Duration::from_millis(within_ms));
            }
            Op::Unlock { file } => unlock(&*self.file(&file)?)?,
            Op::Count { file, times, within_ms } => {
                return count(&*self.file(&file)?, times, Duration::from_millis(within_ms));
            }
        }
        Ok(Outcome::Done)
    }

    fn open(&mut self, file: String, name: &str, create: bool, exclusive: bool) -> Result<(), Stop> {
        if self.files.len() >= MAX_OPEN {
            return Err(Stop::Request(format!("more than {MAX_OPEN} files open")));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
        let opened = options.create(create).create_new(create && exclusive).open(self.path(name)?)?;
        self.files.insert(file, Arc::new(opened));
        Ok(())
    }

    fn list(&self) -> Result<Outcome, Stop> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.scratch()?)?.take(MAX_NAMES) {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(Outcome::Names(names))
    }

    fn scratch(&self) -> Result<&Path, Stop> {
        self.scratch.as_deref().ok_or_else(|| Stop::Request("no run was begun".to_owned()))
    }

    fn path(&self, name: &str) -> Result<PathBuf, Stop> {
        Ok(self.scratch()?.join(plain(name)?))
    }

    fn file(&self, file: &str) -> Result<Arc<File>, Stop> {
        self.files.get(file).cloned().ok_or_else(|| Stop::Request(format!("no file `{file}` is open")))
    }
}

/// A name that cannot lead out of the scratch directory.
fn plain(name: &str) -> Result<&str, Stop> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 100 || !name.chars().all(good) {
        return Err(Stop::Request(format!("`{name}` is no plain file name")));
    }
    Ok(name)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn attributes(meta: &fs::Metadata) -> Attributes {
    Attributes { size: meta.size(), mode: meta.mode() & 0o777, mtime: meta.mtime(), inode: meta.ino() }
}

/// Waits as smbd does, in F_OFD_SETLKW. A wait that is not over in time is left to its thread: the lock it may
/// still get goes with the file, which the coordinator closes by ending the run.
fn wait_lock(file: Arc<File>, within: Duration) -> Result<Outcome, Stop> {
    let started = Instant::now();
    let (done, result) = mpsc::channel();
    thread::Builder::new().name("lock".into()).spawn(move || {
        let locked = lock_wait(&file);
        // Before anybody hears of it: the lock must end with the coordinator's next close, not with this thread.
        drop(file);
        // Nobody receives any more when the wait was given up.
        let _ = done.send(locked);
    })?;
    match result.recv_timeout(within) {
        Ok(locked) => {
            locked?;
            Ok(Outcome::Lock { granted: true, micros: micros(started) })
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Ok(Outcome::Lock { granted: false, micros: micros(started) })
        }
    }
}

fn count(file: &File, times: u32, within: Duration) -> Result<Outcome, Stop> {
    let started = Instant::now();
    let mut made = 0;
    while made < times && started.elapsed() < within {
        lock_wait(file)?;
        let added = add_one(file);
        unlock(file)?;
        added?;
        made += 1;
    }
    Ok(Outcome::Counted { times: made, micros: micros(started) })
}

fn add_one(file: &File) -> io::Result<()> {
    let mut digits = [0; DIGITS];
    let n = file.read_at(&mut digits, 0)?;
    let text = String::from_utf8_lossy(&digits[..n]);
    let value: u64 = if n == 0 { 0 } else { text.trim().parse().map_err(|_| bad_counter(&text))? };
    file.write_all_at(format!("{:0DIGITS$}", value + 1).as_bytes(), 0)
}

fn bad_counter(text: &str) -> io::Error {
    io::Error::other(format!("the counter reads {text:?}"))
}

/// A number that no other run on this filesystem has.
pub(super) fn fresh_run() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("run-{}-{}", now.as_nanos(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str) -> Op {
        Op::Open { file: "f".into(), name: name.into(), create: true, exclusive: false }
    }

    #[test]
    fn operations_do_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Responder::new(dir.path());
        let mut other = Responder::new(dir.path());
        for peer in [&mut node, &mut other] {
            assert_eq!(peer.answer(Op::Begin { run: "r1".into() }), Ok(Outcome::Done));
            assert_eq!(peer.answer(open("a")), Ok(Outcome::Done));
        }
        let write = Op::Write { file: "f".into(), at: 2, text: "hello".into(), sync: true };
        assert_eq!(node.answer(write), Ok(Outcome::Done));
        let read = Op::Read { file: "f".into(), at: 2, len: 100 };
        assert_eq!(other.answer(read), Ok(Outcome::Text("hello".into())));
        node.answer(Op::SetTime { name: "a".into(), mtime: 1_000_000 }).unwrap();
        node.answer(Op::Chmod { name: "a".into(), mode: 0o640 }).unwrap();
        let Ok(Outcome::Attributes(a)) = other.answer(Op::Stat { name: "a".into() }) else { panic!() };
        assert_eq!((a.size, a.mode, a.mtime), (7, 0o640, 1_000_000));
        node.answer(Op::Rename { from: "a".into(), to: "b".into() }).unwrap();
        assert_eq!(other.answer(Op::List), Ok(Outcome::Names(vec!["b".into()])));
        let Ok(Outcome::Errno { code, .. }) = other.answer(Op::Stat { name: "a".into() }) else { panic!() };
        assert_eq!(code, libc::ENOENT);
        assert!(matches!(node.answer(Op::TryLock { file: "f".into() }), Ok(Outcome::Lock { granted: true, .. })));
        let wait = Op::WaitLock { file: "f".into(), within_ms: 20 };
        assert!(matches!(other.answer(wait), Ok(Outcome::Lock { granted: false, .. })));
        node.answer(Op::End { remove: true }).unwrap();
        assert!(!dir.path().join(".steadfast/check/r1").exists());
    }

    #[test]
    fn nothing_outside_of_the_scratch_directory_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Responder::new(dir.path());
        assert!(node.answer(open("a")).unwrap_err().contains("no run"));
        node.answer(Op::Begin { run: "r".into() }).unwrap();
        for name in ["../x", "/etc/passwd", "a/b", "", "."] {
            assert!(node.answer(open(name)).is_err(), "{name}");
            assert!(node.answer(Op::Unlink { name: name.into() }).is_err(), "{name}");
            assert!(node.answer(Op::Begin { run: name.into() }).is_err(), "{name}");
        }
    }
}
