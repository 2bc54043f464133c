//! The daemon: wires the cores to sockets, clocks and disks.

pub mod admin;
pub mod clock;
pub mod config;
pub mod peer;
pub mod pki;
pub mod random;
pub mod state;
