//! Controls: questions and orders to a daemon, and the structures that they carry.

mod database;
mod ip;
mod nodes;
mod opcode;
mod request;

pub use database::{DbMap, db_flags};
pub use ip::{Iface, Ifaces, PublicIp, PublicIpInfo, PublicIps, TickleList};
pub use nodes::{NodeEntry, NodeMap, Uptime, VnnMap};
pub use opcode::{Opcode, flags};
pub use request::{DeleteLater, Request};
