//! What can go wrong, for the person who reads it.

use std::io;
use std::path::Path;
use std::sync::Arc;

/// What a call returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call on a database failed. After any of these the database is as usable as before, except where said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {doing}: {source}", path.display())]
    Io { path: Arc<Path>, doing: &'static str, source: io::Error },
    /// The file's content breaks the format's rules. Set the database aside: no later answer from it can be trusted.
    #[error("{}: corrupt at offset {at}: {what}; restore it from a backup, or try `tdbtool {} check`", path.display(), path.display())]
    Corrupt { path: Arc<Path>, at: u32, what: &'static str },
    /// A sound TDB file of a kind that is not supported here.
    #[error("{}: {what}", path.display())]
    Unsupported { path: Arc<Path>, what: &'static str },
    /// Somebody else holds a lock and the call was not to wait.
    #[error("{}: locked by another process", path.display())]
    Busy { path: Arc<Path> },
    /// A record with this key is there already ([`Store::Insert`](crate::Store::Insert)).
    #[error("{}: the record exists already", path.display())]
    Exists { path: Arc<Path> },
    /// A write through a handle that was opened to read, or inside a read traverse.
    #[error("{}: opened only for reading, or inside a read traverse", path.display())]
    ReadOnly { path: Arc<Path> },
    /// The caller's locks do not allow this call.
    #[error("{}: {what}", path.display())]
    Order { path: Arc<Path>, what: &'static str },
    /// A record, or the file, would be larger than the format can say (4 GiB).
    #[error("{}: larger than the 4 GiB that a TDB file can have", path.display())]
    TooLarge { path: Arc<Path> },
    /// The wait for a lock was cancelled.
    #[error("{}: the wait for a lock was cancelled", path.display())]
    Cancelled { path: Arc<Path> },
}
