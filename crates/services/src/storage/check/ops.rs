//! The primitive operations that check-storage has its nodes do, as they go over the wire.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One operation on the scratch directory. Names are plain file names, `file` is a handle of the caller's
/// choice for a file that stays open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Makes (if missing) and enters the scratch directory of a run; files open from an earlier one are closed.
    Begin {
        run: String,
    },
    /// Closes everything; with `remove` the scratch directory goes too.
    End {
        remove: bool,
    },
    /// Opens for reading and writing.
    Open {
        file: String,
        name: String,
        create: bool,
        exclusive: bool,
    },
    Close {
        file: String,
    },
    /// Writes at an offset, and syncs if asked.
    Write {
        file: String,
        at: u64,
        text: String,
        sync: bool,
    },
    /// Reads at most `len` bytes at an offset.
    Read {
        file: String,
        at: u64,
        len: u32,
    },
    /// Attributes by name.
    Stat {
        name: String,
    },
    /// Attributes of an open file.
    StatOpen {
        file: String,
    },
    /// Names in the scratch directory.
    List,
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        name: String,
    },
    /// Sets the permission bits.
    Chmod {
        name: String,
        mode: u32,
    },
    Truncate {
        file: String,
        size: u64,
    },
    /// Sets the modification time, in seconds since 1970.
    SetTime {
        name: String,
        mtime: i64,
    },
    TryLock {
        file: String,
    },
    /// Waits in the kernel until the lock is granted, at most so long.
    WaitLock {
        file: String,
        within_ms: u64,
    },
    Unlock {
        file: String,
    },
    /// So many times: lock, read the number at the start of the file, write one more, unlock.
    Count {
        file: String,
        times: u32,
        within_ms: u64,
    },
}

/// What an operation brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    Text(String),
    Attributes(Attributes),
    Names(Vec<String>),
    /// Of a lock: whether it was granted, and after how long.
    Lock {
        granted: bool,
        micros: u64,
    },
    /// How many increments were made, and in what time.
    Counted {
        times: u32,
        micros: u64,
    },
    /// The system refused the operation.
    Errno {
        code: i32,
        text: String,
    },
}

/// Of a file, as stat(2) tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    pub size: u64,
    /// Permission bits only.
    pub mode: u32,
    /// Modification time, whole seconds since 1970.
    pub mtime: i64,
    pub inode: u64,
}

/// A node gave no answer, or one that makes no sense.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{node}: {why}")]
pub struct PeerError {
    pub node: String,
    pub why: String,
}

/// The future of [`Peer::call`].
pub type Call<'a> = Pin<Box<dyn Future<Output = Result<Outcome, PeerError>> + Send + 'a>>;

/// One node that executes operations: a child process here, a peer link in the daemon.
pub trait Peer: Send + Sync {
    /// The node's name, for the report.
    fn name(&self) -> &str;

    /// Executes one operation; an error when there is no answer within the deadline.
    fn call(&self, op: Op, deadline: Duration) -> Call<'_>;
}
