//! A deterministic simulator: many nodes, one seed, one thread, no sockets.
//!
//! Every node runs the real [`cluster::Cluster`] core, and in one seed of eight beside it the real
//! [`ctdb::server::Server`] with processes as Samba's. Everything around it is simulated: clocks that drift, disks
//! that are slow or lose what was not yet written, networks that lose, delay, repeat and reorder, machines that lose
//! power or stand still, the kernel's address leases, the cluster lock and its records. Checkers look at every step.
//!
//! ```text
//!   faults ──> world (scheduler, virtual time) ──> host: core, disk, kernel ──> outputs
//!                ^                                                               │
//!                └──────── driver: network, lock, services, storage <────────────┘
//!                                                  checks look at both
//! ```
//!
//! It does not simulate bytes on wires, TLS, netlink or files: those have their own tests.

pub mod checks;
pub mod clock;
mod databases;
mod driver;
mod drops;
mod event;
pub mod faults;
pub mod host;
mod inflict;
mod life;
pub mod lock;
pub mod network;
mod nfs;
mod pins;
mod prepare;
mod reload;
pub mod rng;
pub mod run;
pub mod setup;
mod storage;
pub mod story;
pub mod versions;
pub mod world;

pub use checks::Violation;
pub use checks::rest::unrest;
pub use clock::{MS, Micros, S};
pub use databases::{Done, has_databases};
pub use faults::Kind;
pub use run::{Outcome, Task, is_calm, run, settle, shrink, shrink_nodes, wind_down};
pub use setup::Setup;
pub use world::World;
