//! Every parser of foreign bytes, as functions of bytes that return for any input, soon and with little memory.
//!
//! `fuzz/` feeds them to libFuzzer (nightly); `tests/corpora.rs` replays `fuzz/corpus` on the stable toolchain. What a
//! parser gives is put back into bytes where there is a way: what was understood must be understood again, the same.

mod databases;
mod names;

pub use databases::{ctdb_packet, ctdb_payload, servers, tdb_file};
pub use names::dns_query;

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("admin", admin),
    ("config", config),
    ("ctdb_files", ctdb_files),
    ("ctdb_packet", ctdb_packet),
    ("ctdb_payload", ctdb_payload),
    ("datagram", datagram),
    ("dns_query", dns_query),
    ("netlink", netlink),
    ("peer_frames", peer_frames),
    ("servers", servers),
    ("tdb_file", tdb_file),
];

/// A peer's side of a link, as frames.
pub fn peer_frames(bytes: &[u8]) {
    node::fuzzing::frames(bytes);
}

/// A datagram between nodes, as it comes and after it was opened.
pub fn datagram(bytes: &[u8]) {
    node::fuzzing::datagram(bytes);
}

/// A request to the admin socket.
pub fn admin(bytes: &[u8]) {
    node::fuzzing::admin(bytes);
}

/// `steadfast.toml`.
pub fn config(bytes: &[u8]) {
    node::fuzzing::config(&String::from_utf8_lossy(bytes));
}

/// CTDB's files, one after the other, between bytes of zero: nodes, public_addresses, ctdb.conf, the settings of an event
/// script, a list of tunables.
pub fn ctdb_files(bytes: &[u8]) {
    node::fuzzing::ctdb_files(bytes);
}

/// What the kernel answers over netlink and sock_diag, ARP and neighbour discovery.
pub fn netlink(bytes: &[u8]) {
    net::fuzzing::all(bytes);
}
