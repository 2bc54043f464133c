//! What can go wrong with certificates, tokens and joining; each text says what to do.

use crate::state::StateError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a certificate, token or join was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// This node has no certificate.
    #[error(
        "this node belongs to no cluster yet ({} is missing): run `steadfast init` on the first node of a new \
         cluster, or `steadfast token` on a member and `steadfast join TOKEN` here",
        path.display()
    )]
    NoCluster { path: PathBuf },
    /// This node has a certificate already.
    #[error(
        "this node is already '{name}' of cluster {cluster} ({} exists); to let it join as a new node, stop its \
         daemon and move the state directory away first: mv {} {}.old",
        path.display(), state_dir.display(), state_dir.display()
    )]
    AlreadyInCluster { name: String, cluster: String, path: PathBuf, state_dir: PathBuf },
    /// Votes of an earlier life.
    #[error(
        "{} holds votes of an earlier life of this node, and this node has no certificate: if that life is over, move \
         the state directory away first: mv {} {}.old",
        path.display(), state_dir.display(), state_dir.display()
    )]
    OldVotes { path: PathBuf, state_dir: PathBuf },
    /// A file is not what it should be.
    #[error(
        "{} is damaged ({why}): put it back from a backup; or stop the daemon, move the state directory that it is in \
         away and let this node join as a new one",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    /// A key that others can read.
    #[error(
        "{} can be read or written by others (mode {mode:04o}): if nobody has copied it, chmod 600 {}; else set \
         up the cluster's certificates anew",
        path.display(), path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    /// No CA key here.
    #[error(
        "this node has no key of the cluster's CA ({} is missing; witnesses have none): run this command on a server",
        path.display()
    )]
    NoAuthority { path: PathBuf },
    /// A name that cannot stand in a certificate.
    #[error("'{0}' cannot be a node's name: 1 to 63 letters, digits, '-', '_' or '.'")]
    Name(String),
    /// The text is no token.
    #[error("this is no token ({0}): copy the whole line that `steadfast token` printed")]
    NoToken(&'static str),
    /// No member named by the token answered.
    #[error("no member of the cluster could be reached:{}\nIs the daemon running there, and does a firewall let this \
        node reach that TCP port?", .0.iter().map(|(a, e)| format!("\n  {a}: {e}")).collect::<String>())]
    Unreachable(Vec<(SocketAddr, String)>),
    /// Somebody else answered.
    #[error("{0} is not the cluster that this token is for ({1}); nothing was sent to it")]
    WrongCluster(SocketAddr, String),
    /// The member said no.
    #[error("{0} refused: {1}")]
    Refused(SocketAddr, String),
    /// The member's answer makes no sense.
    #[error("{0} answered something unexpected: {1}; do both nodes run the same version of steadfast?")]
    Answer(SocketAddr, String),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A library refused; not expected.
    #[error("cannot {what}: {why}")]
    Crypto { what: &'static str, why: String },
}

impl PkiError {
    /// For `map_err` on file operations.
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// For `map_err` on the certificate and TLS libraries.
    pub(super) fn crypto<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Crypto { what, why: e.to_string() }
    }
}
