//! How a command ends.

use std::io;
use std::process::ExitCode;

/// What the shell sees. Documented in docs/commands.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It worked.
    Ok = 0,
    /// It did not.
    Failure = 1,
    /// The daemon answers, but the cluster is not healthy.
    Unhealthy = 3,
    /// The daemon on this node does not answer.
    NoDaemon = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fail {
    /// The daemon does not answer.
    #[error("{0}")]
    NoDaemon(String),
    /// Whoever reads our output has gone: no error, and nothing to say to anybody.
    #[error("nobody reads the output")]
    ClosedPipe,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Fail {
    pub(crate) fn other(text: impl std::fmt::Display) -> Self {
        Self::Other(text.to_string())
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::NoDaemon(_) => Exit::NoDaemon,
            Self::ClosedPipe => Exit::Ok,
            Self::Other(_) => Exit::Failure,
        }
    }
}

impl From<node::pki::PkiError> for Fail {
    fn from(error: node::pki::PkiError) -> Self {
        Self::other(error)
    }
}
impl From<serde_json::Error> for Fail {
    fn from(error: serde_json::Error) -> Self {
        Self::Other(format!("cannot make JSON: {error}"))
    }
}

/// For errors of writing to standard output.
pub(crate) fn output(error: io::Error) -> Fail {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Fail::ClosedPipe
    } else {
        Fail::Other(format!("cannot write the output: {error}"))
    }
}
