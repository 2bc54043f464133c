//! Why the peers could not start or take a new list.

use crate::pki::PkiError;
use std::io;
use std::net::SocketAddr;

/// What to tell the operator.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A socket.
    #[error("cannot open {what} {address}: {source}{}", hint(source))]
    Bind { what: &'static str, address: SocketAddr, source: io::Error },
    /// This node is not in its own list.
    #[error("node {0} (this one) is not in the nodes list, or has no address there")]
    NotListed(cluster::Pnn),
    /// The certificate is another node's.
    #[error(
        "this node's certificate says that it is '{certified}', the nodes list says '{listed}': was the state \
         directory copied from another node, or the node renamed? Put the name back, or move the state directory \
         away and let this node join again"
    )]
    WrongName { certified: String, listed: String },
    /// The system.
    #[error("cannot start receiving heartbeats: {0}")]
    Receiver(io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program has the port; `ss -tulpn` says which)",
        io::ErrorKind::PermissionDenied => " (run it as root)",
        _ => "",
    }
}

/// What TLS says of a certificate of somebody else's CA, with what a person can do about it.
pub(super) fn explained(why: &str) -> String {
    let foreign = ["DecryptError", "BadSignature", "UnknownIssuer", "UnknownCA", "UnknownCa"];
    if foreign.iter().any(|word| why.contains(word)) {
        format!(
            "{why}: the other end's certificate is not of this cluster's CA, or it takes ours for one of another cluster; if it \
             belongs here, empty its state directory and `steadfast join` it with a fresh token"
        )
    } else {
        why.to_owned()
    }
}
