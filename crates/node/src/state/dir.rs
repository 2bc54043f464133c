//! The state directory: made, checked and locked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{StateError, io_error};

/// Where it is unless `--state-dir` says otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/steadfast";

const LOCK: &str = "lock";

/// A state directory that no other process uses, for as long as this lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The kernel gives the lock back when the last descriptor is closed, also after SIGKILL.
    _lock: File,
}

impl StateDir {
    /// Makes the directory if it is missing (0700), checks who may touch it and locks it.
    ///
    /// # Errors
    /// It cannot be made or locked, is not this user's alone, or another process has it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(io_error("make the state directory", &path))?;
        check_private(&path)?;
        let lock = lock(&path.join(LOCK))?;
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a file or directory that others could read or write, or that is another user's.
pub(super) fn check_private(path: &Path) -> Result<(), StateError> {
    let meta = fs::metadata(path).map_err(io_error("look at", path))?;
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(StateError::Foreign { path: path.to_owned(), uid: meta.uid() });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(StateError::Exposed { path: path.to_owned(), mode: meta.mode() & 0o7777 });
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, StateError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error("open", path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            // Only to name the other process; without it the message says less.
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StateError::InUse { path: path.to_owned(), pid });
        }
        Err(errno) => return Err(io_error("lock", path)(errno.into())),
    }
    // The pid is for people; a full disk must not keep a node with its votes from starting.
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::warn!("cannot write the pid to {}: {error}", path.display());
    }
    Ok(file)
}
