//! What the peers hand to the daemon, and what the daemon hands to the peers.

use super::wall::WallClock;
use crate::pki::PkiDir;
use cluster::{Grant, GuardWord, Heartbeat, Message, NodeConf, Pnn};
use std::collections::BTreeMap;
use std::time::Duration;

/// What came from a peer. Everything in it has been authenticated as that peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// A heartbeat over network `net` (index into the address lists).
    Heartbeat { from: Pnn, net: u8, heartbeat: Heartbeat },
    /// A grant.
    Grant { from: Pnn, grant: Grant },
    /// The guard of the peer's dead daemon says what that daemon sealed for it.
    Guard { from: Pnn, word: GuardWord },
    /// A message of the cluster core.
    Message { from: Pnn, message: Message },
    /// Bytes of another part of the daemon, at most [`super::MAX_FRAME`] long.
    Bytes { from: Pnn, channel: u8, bytes: Vec<u8> },
    /// A reading of the peer's wall clock, every 16 questions (10 s at the default lease) of the node with the lower PNN.
    Clock { peer: Pnn, name: String, clock: WallClock },
    /// The link came up or went down. Between an `up` and the next `down` messages arrive in order and none is lost.
    Link { peer: Pnn, up: bool },
}

/// What the peers start from.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// This node.
    pub me: Pnn,
    /// The nodes list; the i-th address of each node is network i. Links use network 0.
    pub nodes: BTreeMap<Pnn, NodeConf>,
    /// TCP port of the links and UDP port of the heartbeats.
    pub port: u16,
    /// The node lease; a link that gives no answer for three of them is down.
    pub lease: Duration,
    /// Version of the program, told to the peers.
    pub version: String,
    /// Where this node's certificate, key and the cluster's CA are.
    pub pki: PkiDir,
    /// Text of the configuration file, for joining nodes that have none.
    pub config_text: Option<String>,
}

/// A link as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The peer.
    pub peer: Pnn,
    /// Is it up?
    pub up: bool,
    /// Counts its connections, of which the last is this one: who is at its other end now may be another run of the peer's
    /// daemon than before.
    pub generation: u64,
    /// Version of the peer's program, once it was up.
    pub version: String,
    /// Why it is down: the last error; empty when it is up.
    pub because: String,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Connections refused: no or a wrong certificate, garbage, a wrong node.
    pub refused_links: u64,
    /// Links closed since the peer did not read fast enough.
    pub overflowed_links: u64,
    /// Datagrams dropped: no known key, garbled, or replayed.
    pub dropped_datagrams: u64,
    /// Datagrams not sent: no key agreed yet, or the network said no.
    pub unsent_datagrams: u64,
}
