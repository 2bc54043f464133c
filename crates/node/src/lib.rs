//! The daemon: wires the cores to sockets, clocks and disks.

pub mod admin;
pub mod peer;
pub mod pki;
