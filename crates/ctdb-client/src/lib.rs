//! A blocking client of CTDB's protocol, as smbd and the `ctdb` tool are clients: it talks to whichever daemon answers
//! on the socket, ours or the original.
//!
//! One connection per [`Client`]. Records are changed in the TDB file itself under its locks, with the flags that the
//! daemon tells ([`Database`]); the daemon is asked only for what is elsewhere.

mod client;
mod database;
mod error;
mod g_lock;
mod transaction;

pub use client::{Client, SOCKET};
pub use database::{Database, Held, Kind};
pub use error::Error;
pub use g_lock::{GLock, Mode};
pub use transaction::{Transaction, sequence_number};
