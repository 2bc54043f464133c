//! The cluster's own certificates: the CA that `steadfast init` makes, node certificates, one-time tokens, `join`.
//!
//! ```text
//! /var/lib/steadfast/pki/   0700
//!   ca.pem       the cluster's CA: who is not certified by it is no node
//!   ca.key       its key, 0600; on servers, not on witnesses: where it is, `steadfast token` works
//!   node.pem     this node's certificate; names it in a URI: steadfast://CLUSTER-ID/NODE-NAME
//!   node.key     its key, 0600; never leaves the node
//!   tokens.json  tokens given out here, as hashes, used ones too until they have expired; 0600
//! ```
//!
//! Every server gets a copy of the CA's key when it joins. All of them hold all of the data anyway, and a cluster
//! whose first server died could otherwise never admit a replacement.
//!
//! Certificates do not expire (RFC 5280's dates are set as wide as they go): a node with a wrong clock, or a
//! forgotten renewal, must not end the service. Who is in the nodes list decides who may connect.
//!
//! Not here: the links that use the certificates (see [`crate::peer`]).

mod authority;
mod dir;
mod enrol;
mod error;
mod found;
mod join;
mod ledger;
mod loopback;
mod name;
#[cfg(test)]
mod tests;
mod text;
mod tls;
mod token;

pub use authority::Authority;
#[cfg(test)]
pub(crate) use authority::new_request;
pub use dir::{Credentials, PkiDir};
pub use enrol::{Enroller, JoinAnswer, JoinRequest, MAX_JOIN};
pub use error::PkiError;
pub use found::{Founded, found};
pub use join::{Joined, join};
pub use ledger::Ledger;
pub use loopback::loopback;
pub use name::{ClusterId, Identity};
pub use tls::{DATA_PROTOCOL, JOIN_PROTOCOL, LINK_PROTOCOL, Tls};
pub use token::Token;
