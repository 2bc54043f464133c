//! The state directory: this node's votes and identity, on a local disk that survives a power cut.
//!
//! ```text
//! /var/lib/steadfast/          0700, root's
//!   lock                       held while a daemon (or `steadfast init`, `join`) uses the directory
//!   votes.json                 identity, newest view, promise, what was accepted; see `file`
//!   events.jsonl, events.jsonl.1   the timeline
//! ```
//!
//! A voter that forgets splits the cluster, so nothing here is repaired by guessing: what cannot be read is
//! refused, with the way out (a node with a new identity joins again; its old one is a dead voter).

mod dir;
mod file;

use std::path::PathBuf;
use std::{fmt, io};

pub use dir::{DEFAULT_DIR, StateDir};
pub use file::StateStore;

/// Why the state directory cannot be used. Each says what to do.
#[derive(Debug)]
pub enum StateError {
    /// A file operation failed.
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// Others than root could read or change it.
    Exposed { path: PathBuf, mode: u32 },
    /// It belongs to somebody else.
    Foreign { path: PathBuf, uid: u32 },
    /// Another process uses it.
    InUse { path: PathBuf, pid: Option<u32> },
    /// The votes are damaged.
    Corrupt { path: PathBuf, why: String },
    /// They were written by a newer program.
    Newer { path: PathBuf, format: u64 },
    /// They are another node's.
    OtherNode { path: PathBuf, found: cluster::Pnn, me: cluster::Pnn },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, path, source } => write!(f, "cannot {what} {}: {source}", path.display()),
            Self::Exposed { path, mode } => write!(
                f,
                "{} may be read or written by others than root (mode {mode:04o}), and it holds this node's votes \
                 and key; if nobody has tampered with it: chmod -R go= {}",
                path.display(),
                path.display()
            ),
            Self::Foreign { path, uid } => write!(
                f,
                "{} belongs to user {uid}, who could change this node's votes; if nobody has tampered with it: \
                 chown -R root: {}",
                path.display(),
                path.display()
            ),
            Self::InUse { path, pid } => {
                write!(f, "another steadfast process")?;
                if let Some(pid) = pid {
                    write!(f, " (pid {pid})")?;
                }
                write!(
                    f,
                    " uses {}: only one daemon may run on a node; stop it first, or give this one another --state-dir",
                    path.display()
                )
            }
            Self::Corrupt { path, why } => write!(
                f,
                "the votes in {} are damaged ({why}); a node that does not know its votes must not vote. Move the \
                 file away and let this node join as a new one: mv {} {}.damaged, then `steadfast token` on a \
                 member and `steadfast join TOKEN` here",
                path.display(),
                path.display(),
                path.display()
            ),
            Self::Newer { path, format } => write!(
                f,
                "{} was written by a newer steadfast (format {format}; this one reads {}): install that version again",
                path.display(),
                file::FORMAT
            ),
            Self::OtherNode { path, found, me } => write!(
                f,
                "the votes in {} belong to node {found} and this is node {me}: was the disk copied, or the nodes \
                 list reordered? Put the list back in order, or move the file away and join as a new node",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

pub(crate) fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StateError {
    let path = path.into();
    move |source| StateError::Io { what, path, source }
}
