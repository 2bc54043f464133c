//! The daemon: wires the cores to sockets, clocks and disks.

pub mod admin;
pub mod clock;
pub mod config;
pub mod ctdbd;
pub mod daemon;
pub mod databases;
#[doc(hidden)]
pub mod fuzzing;
pub mod guard;
pub mod log;
pub mod peer;
pub mod pki;
mod priority;
pub mod random;
pub mod state;
pub mod sync;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
