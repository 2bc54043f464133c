//! The cluster lock and the records beside it.
//!
//! The lock breaks ties between exactly half of the voters and the other half. Its memory is one record file
//! per node in the same directory (Disk Paxos): a node writes its own, syncs, then reads all of them past every
//! cache. That is what makes a lock that two nodes believe to hold cost a retry and nothing more, and it is
//! needed: fcntl cannot tell its holder that a lock was lost, and GlusterFS has let locks go without a word.
//!
//! The directory should be on a mount of its own ([`StorageConfig::for_lock`](super::StorageConfig::for_lock)):
//! hold stops the ordinary one. What it does not do: interpret records; to this module they are JSON.

mod external;
mod file;
mod ofd;
mod record;
mod server;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use external::ExternalLock;
pub use file::LockHelper;
pub(super) use ofd::{lock_wait, try_lock, unlock};
pub(super) use server::main;

use super::helper::{HelperCommand, HelperError};

/// Where the lock is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSpec {
    /// Directory of the records, and of the lock file unless `command` is set; made if it is missing.
    pub dir: PathBuf,
    /// CTDB's helper contract: a program (with arguments) that prints `0` while it holds the lock. For locks
    /// outside of the filesystem (etcd, RADOS). A leading `!` is accepted as in `cluster lock = !/path arg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// What came of an attempt to take the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acquired {
    Held,
    /// Another holds it: its note, or nothing when it left none.
    Contended {
        by: Option<Holder>,
    },
}

/// The note that a holder leaves in the lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub pnn: u32,
    /// Random for each acquisition: tells the holder's own note from an older or a later one.
    pub id: String,
    /// Seconds since 1970 by the holder's clock; for people only.
    pub since: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.pnn)
    }
}

/// One record file as read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub pnn: u32,
    /// Its content, or why it cannot be read (which arbitration takes for a no).
    pub content: Result<Value, String>,
}

/// What one exchange brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Of all nodes that ever wrote one, by number; the node's own included.
    pub records: Vec<Record>,
    /// Why the lock is not held (any more), judged after the last read. None: held.
    pub not_held: Option<String>,
}

/// Why the lock or the records could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("cluster lock: {0}")]
    Helper(#[from] HelperError),
    #[error("cluster lock: {program}: {why}")]
    External { program: String, why: String },
}

impl LockError {
    /// Whether the storage did not answer, as opposed to answering with an error.
    pub fn is_hang(&self) -> bool {
        matches!(self, Self::Helper(error) if error.is_hang())
    }
}

/// The lock by whichever means, and the records, which are always files.
#[derive(Debug)]
pub struct ClusterLock {
    files: LockHelper,
    external: Option<ExternalLock>,
}

impl ClusterLock {
    /// Takes no lock and starts no process yet. `deadline` bounds every later call.
    pub fn new(spec: &LockSpec, pnn: u32, helper: &HelperCommand, deadline: Duration) -> Self {
        let files = LockHelper::new(helper, &spec.dir, pnn, deadline);
        let external = spec.command.as_deref().map(|command| ExternalLock::new(command, deadline));
        Self { files, external }
    }

    /// Tries to take the lock, without waiting for its holder. Held already: [`Acquired::Held`].
    pub async fn acquire(&mut self) -> Result<Acquired, LockError> {
        match &mut self.external {
            Some(external) => external.acquire().await,
            None => self.files.acquire().await,
        }
    }

    /// Lets the lock go; no error when it is not held.
    pub async fn release(&mut self) -> Result<(), LockError> {
        match &mut self.external {
            Some(external) => external.release().await,
            None => self.files.release().await,
        }
    }

    /// None while the lock is held as far as can be told, else why not.
    pub async fn not_held(&mut self) -> Result<Option<String>, LockError> {
        match &mut self.external {
            Some(external) => Ok(external.not_held()),
            None => self.files.not_held().await,
        }
    }

    /// Writes this node's record, syncs it, then reads all. `peers` are numbers to look for beside those that
    /// the directory lists.
    pub async fn exchange(&mut self, record: &Value, peers: &[u32]) -> Result<Exchange, LockError> {
        let mut exchange = self.files.exchange(record, peers).await?;
        if let Some(external) = &mut self.external {
            exchange.not_held = external.not_held();
        }
        Ok(exchange)
    }

    /// Reads all records without writing.
    pub async fn read(&mut self, peers: &[u32]) -> Result<Exchange, LockError> {
        let mut exchange = self.files.read(peers).await?;
        if let Some(external) = &mut self.external {
            exchange.not_held = external.not_held();
        }
        Ok(exchange)
    }

    /// Ends the helpers; the lock is free afterwards.
    pub async fn stop(&mut self) {
        if let Some(external) = &mut self.external {
            external.stop().await;
        }
        self.files.stop().await;
    }
}
