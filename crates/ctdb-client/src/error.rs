//! Why a daemon could not be asked, or what it refused.

use ctdb::control::Opcode;
use ctdb::wire::WireError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens on the socket.
    #[error("no daemon answers on {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    /// Reading from the connection or writing to it failed.
    #[error("{doing}: {source}")]
    Socket { doing: &'static str, source: io::Error },
    /// The daemon has ended, or does not want this client.
    #[error("the daemon has closed the connection")]
    Closed,
    /// No answer in time. What was asked may still be done.
    #[error("no answer to {what} after {} s", after.as_secs())]
    Timeout { what: String, after: Duration },
    /// The daemon says no.
    #[error("{opcode} to node {dest:#x}: status {status} {why}")]
    Refused { opcode: Opcode, dest: u32, status: i32, why: String },
    /// An answer of another kind than was asked for.
    #[error("{what} is answered by {got}")]
    Unexpected { what: String, got: String },
    /// Bytes that are no packet, or no such structure.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A database's file.
    #[error(transparent)]
    Tdb(#[from] tdb::Error),
}

impl Error {
    /// The status with which the daemon refused.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
