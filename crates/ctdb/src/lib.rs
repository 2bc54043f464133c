//! The CTDB core: the client protocol that Samba and the `ctdb` tool speak, and the clustered databases behind it,
//! **without I/O**.
//!
//! No socket, clock, thread, file or async runtime: bytes and times come in, bytes and orders go out. The daemon and the
//! simulator drive the very same code.

pub mod call;
pub mod control;
pub mod database;
pub mod eventd;
mod hash;
#[doc(hidden)]
pub mod memory;
pub mod node;
pub mod peer;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
pub mod recovery;
pub mod server;
pub mod srvid;
pub mod wire;

pub use hash::{database_id, lookup3};
