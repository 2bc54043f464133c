//! The cluster's own certificates: the CA that `steadfast init` makes, node certificates, tokens, `join`.
//!
//! Not here: the links that use them (see [`crate::peer`]).

mod dir;
pub use dir::PkiDir;
