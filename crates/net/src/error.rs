//! What can go wrong between this crate and the kernel.

use std::io;
use std::time::Duration;

/// Short for a result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed exchange with the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a socket failed.
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    /// The kernel answered no.
    #[error("the kernel refused to {what}: {source}{}", Paren(detail))]
    Refused {
        what: String,
        #[source]
        source: io::Error,
        /// The kernel's own words, often empty.
        detail: String,
    },
    /// The kernel did not answer.
    #[error("no answer from the kernel within {after:?} to the order to {what}")]
    Timeout { what: String, after: Duration },
    /// The kernel's answer does not parse: a newer kernel than this program knows, or a bug.
    #[error("cannot understand the kernel's answer to the order to {what}: {why}")]
    Malformed { what: String, why: String },
    /// The named interface does not exist.
    #[error("there is no interface named {name:?} on this machine; `ip link` lists those that exist")]
    NoInterface { name: String },
    /// The kernel lacks something.
    #[error("this kernel cannot {what}: {hint}")]
    Unsupported { what: String, hint: String },
    /// The request itself is impossible.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The kernel's or the system call's error number, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }
}

/// Shows a non-empty text in parentheses after a blank.
struct Paren<'a>(&'a str);

impl std::fmt::Display for Paren<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}
