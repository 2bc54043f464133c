//! What all parts of the peers share.

use super::data::DataSink;
use super::error::explained;
use super::gate::Gate;
use super::keys::Keys;
use super::slot::Slot;
use super::{PeerEvent, PeerStats};
use crate::pki::{Identity, PkiDir, Tls};
use crate::sync::locked;
use cluster::{NodeConf, Pnn};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Where events go.
pub(super) type Sink = Arc<dyn Fn(PeerEvent) + Send + Sync>;

/// Counters since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) refused_links: AtomicU64,
    pub(super) overflowed_links: AtomicU64,
    pub(super) dropped_datagrams: AtomicU64,
    pub(super) unsent_datagrams: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> PeerStats {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerStats {
            refused_links: value(&self.refused_links),
            overflowed_links: value(&self.overflowed_links),
            dropped_datagrams: value(&self.dropped_datagrams),
            unsent_datagrams: value(&self.unsent_datagrams),
        }
    }
}

/// The nodes list and certificates in force; replaced as a whole.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) nodes: BTreeMap<Pnn, NodeConf>,
    pub(super) config_text: Option<String>,
    pub(super) identity: Identity,
    pub(super) tls: Tls,
}

impl Site {
    /// The peer that this identity is of, if it is one.
    pub(super) fn peer(&self, me: Pnn, identity: &Identity) -> Result<Pnn, String> {
        if identity.cluster != self.identity.cluster {
            return Err(format!("it is of another cluster ({})", identity.cluster));
        }
        let found = self.nodes.iter().find(|(_, node)| node.name == identity.name).map(|(pnn, _)| *pnn);
        match found {
            Some(pnn) if pnn == me => Err("it shows this node's own certificate".into()),
            Some(pnn) => Ok(pnn),
            None => Err(format!("its certificate is for '{}', which is not in the nodes list", identity.name)),
        }
    }
}

pub(super) struct Shared {
    pub(super) me: Pnn,
    pub(super) port: u16,
    pub(super) version: String,
    pub(super) pki: PkiDir,
    /// A link without an answer for so long is down.
    pub(super) patience: Duration,
    /// Between two pings.
    pub(super) ping: Duration,
    pub(super) events: Sink,
    pub(super) data: Box<dyn DataSink>,
    pub(super) site: Mutex<Arc<Site>>,
    pub(super) slots: Mutex<BTreeMap<Pnn, Arc<Slot>>>,
    pub(super) keys: Keys,
    pub(super) counters: Arc<Counters>,
    /// Log lines about connections, datagrams that came, datagrams that could not leave: none hides another.
    pub(super) refusals: Gate,
    pub(super) drops: Gate,
    pub(super) losses: Gate,
    pub(super) runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("me", &self.me).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Shared {
    /// May this connection be a link? Certificates that prove nothing are good between loopback addresses only.
    pub(super) fn may_link(&self, stream: &TcpStream) -> Result<(), String> {
        if !self.site().identity.cluster.is_loopback() {
            return Ok(());
        }
        for address in [stream.peer_addr(), stream.local_addr()] {
            let ip = address.map_err(|e| format!("its address cannot be told: {e}"))?.ip();
            if !ip.to_canonical().is_loopback() {
                return Err(format!(
                    "this node has no certificate of its own, and {ip} is no loopback address: only nodes on loopback \
                     addresses go without; make certificates with `steadfast init` and `steadfast join`"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn site(&self) -> Arc<Site> {
        Arc::clone(&locked(&self.site))
    }

    pub(super) fn slot(&self, peer: Pnn) -> Option<Arc<Slot>> {
        locked(&self.slots).get(&peer).cloned()
    }

    /// A connection that is not, or no longer, a peer's. Logged at most once a minute and source.
    pub(super) fn refuse(&self, from: SocketAddr, why: &str) {
        Counters::add(&self.counters.refused_links);
        if let Some(kept_back) = self.refusals.pass(from.ip(), Instant::now()) {
            tracing::warn!(%from, kept_back, "refused a connection: {}", explained(why));
        }
    }

    /// A datagram that is nobody's.
    pub(super) fn drop_datagram(&self, from: IpAddr, why: &str) {
        Counters::add(&self.counters.dropped_datagrams);
        if let Some(kept_back) = self.drops.pass(from, Instant::now()) {
            tracing::warn!(%from, kept_back, "dropped a datagram: {why}");
        }
    }
}
