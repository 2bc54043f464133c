//! The DNS server of a node: authoritative for the service names, from the current view.
//!
//! ```text
//!   Snapshot ──> Zone::update ──> ZoneView ──> answer(&ZoneView, &Question, turn) ──> Answer     (pure)
//!                                                ▲                                      │
//!   UDP, TCP ──> server ──> wire::respond: parse ┘     rate limit, EDNS, truncation     └──> encode
//! ```
//!
//! Every node with a valid node lease answers; one without says SERVFAIL, so that a resolver asks the next. It gives
//! the addresses that are hosted and healthy now, those on the move, and all of them if none is healthy. What it does
//! not do: recursion, DNSSEC, zone transfers, updates. RFC 1034, 1035, 2181, 2308, 6891, 7766, 8482.

mod answer;
mod limit;
mod server;
mod text;
mod wire;
mod zone;

pub use answer::{Answer, Code, Data, Kind, Owner, Question, Record, answer};
pub use limit::Limiter;
pub use server::{Server, ServerConfig};
pub use text::zone_text;
pub use wire::{Transport, respond};
pub use zone::{Candidate, Entry, NameConf, Zone, ZoneConf, ZoneView, follow};
