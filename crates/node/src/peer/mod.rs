//! Links and heartbeats between the nodes.
//!
//! A link is one TLS 1.3 connection per pair of nodes, both ends authenticated by certificates of the cluster's own
//! CA; the node with the lower PNN dials. Heartbeats and grants are sealed UDP datagrams, on every network, under
//! keys exported from the link's TLS session, so they need no certificate check of their own and go on while a link
//! is made anew. Nothing is decided here: what arrives is handed to the caller's function, authenticated.
//!
//! Beside its link a pair has a data link, a second connection that belongs to the databases: it is made here and then
//! handed over, and lasts no longer than the link.
//!
//! ```text
//!              tokio tasks                            own thread
//!   dial ──┐                                     ┌── receive (poll, all networks)
//!   accept ┴─> link ─> slot ─> PeerEvent         └─> keys.open ─> wire.read ─> PeerEvent
//!          └─> data ─> DataSink
//!               ^ queue (bounded)
//!   send ───────┘              send_heartbeat, send_grant ─> keys.seal ─> sendto, from the caller's thread
//! ```

mod accept;
mod data;
mod datagrams;
mod dial;
mod error;
mod event;
mod frame;
mod gate;
mod keys;
mod link;
mod queue;
mod seal;
mod shared;
mod slot;
mod socket;
#[cfg(test)]
pub(crate) mod tests;
mod wall;
mod wire;

use crate::guard::SealedWord;
use crate::pki::{PkiDir, Tls};
use crate::sync::locked;
use cluster::{Grant, GuardWord, Heartbeat, Message, NodeConf, Pnn};
pub(crate) use data::{DataLink, DataSink};
use datagrams::Datagrams;
pub use error::PeerError;
pub use event::{LinkInfo, PeerConfig, PeerEvent, PeerStats};
use shared::{Counters, Shared, Sink, Site};
use slot::Slot;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::AbortHandle;
pub use wall::WallClock;

/// Longest payload of a frame on a link, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// All links and heartbeat sockets of this node. Cheap to clone; [`Peers::stop`] ends it.
#[derive(Clone, Debug)]
pub struct Peers {
    shared: Arc<Shared>,
    datagrams: Arc<Datagrams>,
    listeners: Arc<Mutex<BTreeMap<IpAddr, AbortHandle>>>,
}

impl Peers {
    /// Binds the sockets, starts the links on `runtime` and the thread that receives heartbeats. `events` is called
    /// from both; it must not block, and not call back into the peers. `data` gets the data links.
    ///
    /// # Errors
    /// Certificates missing, unreadable or another node's; port in use.
    pub(crate) fn start(
        config: PeerConfig,
        runtime: &tokio::runtime::Handle,
        data: impl DataSink + 'static,
        events: impl Fn(PeerEvent) + Send + Sync + 'static,
    ) -> Result<Self, PeerError> {
        let site = read_site(config.me, &config.pki, config.nodes, config.config_text)?;
        let sockets = datagrams::open(config.me, config.port, &site, &[])?;
        let events: Sink = Arc::new(events);
        let shared = Arc::new(Shared {
            me: config.me,
            port: config.port,
            version: config.version,
            pki: config.pki,
            patience: config.lease * 3,
            ping: config.lease.clamp(Duration::from_millis(200), Duration::from_secs(1)),
            events,
            data: Box::new(data),
            site: Mutex::new(Arc::new(site)),
            slots: Mutex::default(),
            keys: keys::Keys::default(),
            counters: Arc::new(Counters::default()),
            refusals: gate::Gate::default(),
            drops: gate::Gate::default(),
            losses: gate::Gate::default(),
            runtime: runtime.clone(),
        });
        let datagrams = Datagrams::start(Arc::clone(&shared), sockets)?;
        let peers = Self { shared, datagrams: Arc::new(datagrams), listeners: Arc::default() };
        if let Err(error) = peers.listen(&peers.shared.site()) {
            peers.stop();
            return Err(error);
        }
        peers.meet_nodes(&BTreeMap::new());
        Ok(peers)
    }

    /// Queues a message; never blocks. Lost if there is no link.
    pub fn send(&self, to: Pnn, message: &Message) {
        let Some(slot) = self.shared.slot(to) else { return };
        match frame::message(message) {
            Ok(frame) => {
                slot.send(frame);
            }
            Err(error) => tracing::error!(%to, %error, "a message cannot be sent"),
        }
    }

    /// Queues bytes for another part of the peer's daemon; false if there is no link, or they are more than
    /// [`MAX_FRAME`] less one. Never blocks.
    pub fn send_bytes(&self, to: Pnn, channel: u8, bytes: &[u8]) -> bool {
        match (self.shared.slot(to), frame::bytes(channel, bytes)) {
            (Some(slot), Ok(frame)) => slot.send(frame),
            _ => false,
        }
    }

    /// Sends a heartbeat on every network; never blocks. Lost before the first link has agreed on keys.
    pub fn send_heartbeat(&self, to: Pnn, heartbeat: &Heartbeat) {
        self.datagrams.send_heartbeat(to, heartbeat);
    }

    /// Sends a grant on the network that the heartbeat came by; never blocks.
    pub fn send_grant(&self, to: Pnn, net: u8, grant: &Grant) {
        self.datagrams.send_grant(to, net, grant);
    }

    /// What a guard is to send to the peers for this node when its daemon is dead.
    pub(crate) fn seal_guard(&self, word: &GuardWord) -> Vec<SealedWord> {
        self.datagrams.seal_guard(word)
    }

    /// Takes a new nodes list (and configuration text for joiners), and reads the certificates again. Links to nodes
    /// that have not changed stay up.
    ///
    /// # Errors
    /// Certificates unreadable, an own address that cannot be bound: the old ones stay in force.
    pub fn reconfigure(&self, nodes: BTreeMap<Pnn, NodeConf>, config_text: Option<String>) -> Result<(), PeerError> {
        let site = read_site(self.shared.me, &self.shared.pki, nodes, config_text)?;
        let before = self.shared.site();
        let sockets = datagrams::open(self.shared.me, self.shared.port, &site, &self.datagrams.sockets())?;
        self.listen(&site)?;
        self.datagrams.replace(sockets);
        *locked(&self.shared.site) = Arc::new(site);
        self.meet_nodes(&before.nodes);
        Ok(())
    }

    /// The links as they are now.
    #[must_use]
    pub fn links(&self) -> Vec<LinkInfo> {
        locked(&self.shared.slots).values().map(|slot| slot.info()).collect()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> PeerStats {
        self.shared.counters.read()
    }

    /// Closes everything. No event is delivered once it has returned.
    pub fn stop(&self) {
        for (_, task) in std::mem::take(&mut *locked(&self.listeners)) {
            task.abort();
        }
        for (_, slot) in std::mem::take(&mut *locked(&self.shared.slots)) {
            slot.close(false);
        }
        self.datagrams.stop();
    }

    /// One listener per own address; those of addresses that are gone end. All or nothing.
    fn listen(&self, site: &Site) -> Result<(), PeerError> {
        let _context = self.shared.runtime.enter();
        let mut listeners = locked(&self.listeners);
        let mut added = Vec::new();
        for ip in own_addresses(self.shared.me, site).filter(|ip| !listeners.contains_key(ip)) {
            added.push((ip, socket::listen(SocketAddr::new(ip, self.shared.port))?));
        }
        listeners.retain(|ip, task| {
            let stays = own_addresses(self.shared.me, site).any(|own| own == *ip);
            if !stays {
                task.abort();
            }
            stays
        });
        for (ip, listener) in added {
            let task = tokio::spawn(accept::keep_accepting(Arc::clone(&self.shared), listener));
            listeners.insert(ip, task.abort_handle());
        }
        Ok(())
    }

    /// A slot for each peer of the list; those of nodes that left or changed are closed.
    fn meet_nodes(&self, before: &BTreeMap<Pnn, NodeConf>) {
        let site = self.shared.site();
        let same = |pnn: &Pnn| {
            let (old, new) = (before.get(pnn), site.nodes.get(pnn));
            old.zip(new).is_some_and(|(a, b)| a.name == b.name && a.addresses.first() == b.addresses.first())
        };
        let mut slots = locked(&self.shared.slots);
        slots.retain(|pnn, slot| {
            let stays = same(pnn);
            if !stays {
                slot.close(true);
                self.shared.keys.forget(*pnn);
            }
            stays
        });
        for pnn in site.nodes.keys().filter(|pnn| **pnn != self.shared.me) {
            if slots.contains_key(pnn) {
                continue;
            }
            let slot = Arc::new(Slot::new(*pnn, Arc::clone(&self.shared.events)));
            slots.insert(*pnn, Arc::clone(&slot));
            if self.shared.me < *pnn {
                let dialling = dial::keep_dialling(Arc::clone(&self.shared), Arc::clone(&slot));
                slot.dialed_by(self.shared.runtime.spawn(dialling).abort_handle());
            }
        }
    }
}

fn own_addresses(me: Pnn, site: &Site) -> impl Iterator<Item = IpAddr> {
    site.nodes.get(&me).into_iter().flat_map(|node| node.addresses.iter().copied())
}

fn read_site(
    me: Pnn,
    pki: &PkiDir,
    nodes: BTreeMap<Pnn, NodeConf>,
    config_text: Option<String>,
) -> Result<Site, PeerError> {
    let credentials = pki.credentials()?;
    let tls = Tls::new(&credentials)?;
    let own = nodes.get(&me).filter(|n| !n.addresses.is_empty()).ok_or(PeerError::NotListed(me))?;
    if own.name != credentials.identity.name {
        return Err(PeerError::WrongName { certified: credentials.identity.name, listed: own.name.clone() });
    }
    Ok(Site { nodes, config_text, identity: credentials.identity, tls })
}

/// Reads frames as a link does; for [`crate::fuzzing`].
pub(crate) fn fuzz_frames(mut bytes: &[u8]) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    // A slice is always ready.
    while let std::task::Poll::Ready(Ok(_)) = std::pin::pin!(frame::read(&mut bytes, MAX_FRAME)).poll(&mut context) {}
}

/// Reads a datagram's envelope, and the same bytes as what was in one; for [`crate::fuzzing`].
pub(crate) fn fuzz_datagram(bytes: &[u8]) {
    let _ = seal::key_id(bytes);
    let _ = wire::read(bytes);
    let keys = seal::SessionKeys::new(&[7; seal::EXPORTED], true);
    if let Ok(mut keys) = keys {
        let _ = keys.receiving.open(0, &mut bytes.to_vec());
    }
}
