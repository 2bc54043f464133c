//! The admin socket: what the `steadfast` command and the daemon say to each other.

pub mod api;
pub mod server;
