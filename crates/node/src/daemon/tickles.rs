//! The clients' connections to public addresses, known to every node, so that the heir of an address can tickle them.
//!
//! The holder lists the connections of its addresses every [`LIST`] and sends them to the others when they changed
//! (and every [`REFRESH`] in any case, for those that came later). An address that is released on purpose is listed a last
//! time when it is silenced. So the heir of a lost node does not know connections younger than [`LIST`]; their clients
//! notice by their own retransmission. The others' lists go to the network worker, which tickles when it takes an
//! address: each client notices that its connection is gone and makes a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cluster::Pnn;
use net::{ClientConnection, Command};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::inbox::{Inbox, Item};
use crate::peer::Peers;

/// Channel of the peer links.
pub(crate) const CHANNEL: u8 = 2;
/// With the time to list and to send, the others know of a change within a second.
const LIST: Duration = Duration::from_millis(800);
const REFRESH: Duration = Duration::from_secs(5);
/// How long a client counts after its connection was last seen: that of a server that died is gone, but the client
/// comes again, a kernel's NFS mount with the same port.
const LINGER: Duration = Duration::from_secs(5);
/// Connections of one address that are told to the others; 10 000 of them make half a megabyte, which a frame takes.
const MOST: usize = 10_000;

/// What the task hears of.
#[derive(Debug)]
pub(crate) enum News {
    /// The network worker holds an address.
    Taken(IpAddr),
    /// It does not any more.
    Released(IpAddr),
    /// Its answer to the question for all connections.
    Connections(Vec<ClientConnection>),
    /// What an address had when it was silenced for its release.
    Last(IpAddr, Vec<ClientConnection>),
    /// The service on this port answers again.
    Back(u16),
    /// A peer's list.
    Frame { from: Pnn, bytes: Vec<u8> },
}

/// Ports of the service and ends of the clients.
type Clients = BTreeSet<(u16, SocketAddr)>;

/// One address of the sender: ports of the service and ends of the clients.
#[derive(Debug, Serialize, Deserialize)]
struct Frame {
    vip: IpAddr,
    clients: Clients,
}

/// Puts news in; for the core's thread and those of the links.
pub(crate) type Sender = UnboundedSender<News>;

/// The task.
#[derive(Debug)]
pub(crate) struct Tickles {
    inbox: Inbox,
    peers: Peers,
    held: BTreeSet<IpAddr>,
    /// What was told to the others of the own addresses.
    told: BTreeMap<IpAddr, Clients>,
    /// When each connection to an own address was last seen.
    seen: BTreeMap<IpAddr, BTreeMap<(u16, SocketAddr), Instant>>,
    refresh: Instant,
    /// What the last holder of each address said.
    others: BTreeMap<IpAddr, Clients>,
}

impl Tickles {
    pub(crate) fn new(inbox: Inbox, peers: Peers) -> Self {
        Self {
            inbox,
            peers,
            held: BTreeSet::new(),
            told: BTreeMap::new(),
            seen: BTreeMap::new(),
            refresh: Instant::now(),
            others: BTreeMap::new(),
        }
    }

    /// Runs until nobody sends news any more.
    pub(crate) async fn run(mut self, mut news: UnboundedReceiver<News>) {
        let mut list = interval(LIST);
        list.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = news.recv() => match news {
                    Some(news) => self.take(news),
                    None => return,
                },
                _ = list.tick() => {
                    if !self.held.is_empty() {
                        self.inbox.put(Item::ToNet(Command::ListConnections));
                    }
                }
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Taken(vip) => {
                self.held.insert(vip);
                // The network worker has used it up.
                self.others.remove(&vip);
            }
            News::Released(vip) => {
                self.held.remove(&vip);
                self.told.remove(&vip);
                self.seen.remove(&vip);
            }
            News::Connections(list) => self.tell(&list),
            News::Last(vip, list) => {
                self.see(&list);
                let clients = self.clients_of(vip);
                if self.told.get(&vip) != Some(&clients) {
                    self.send(Frame { vip, clients });
                }
            }
            News::Back(port) => {
                for &addr in &self.held {
                    let clients = self.clients_of(addr).into_iter().filter(|(service, _)| *service == port).collect();
                    self.inbox.put(Item::ToNet(Command::Clients { addr, clients: connections(addr, &clients) }));
                }
            }
            News::Frame { from, bytes } => match serde_json::from_slice::<Frame>(&bytes) {
                Ok(frame) if frame.clients.len() <= MOST => {
                    self.learn(frame);
                }
                Ok(_) => {
                    tracing::warn!(node = from.0, "a list of connections with more than {MOST} clients is ignored")
                }
                Err(error) => tracing::warn!(node = from.0, "an unreadable list of connections: {error}"),
            },
        }
    }

    fn learn(&mut self, frame: Frame) {
        let Frame { vip: addr, clients } = frame;
        if self.others.get(&addr) == Some(&clients) {
            return;
        }
        self.inbox.put(Item::ToNet(Command::Clients { addr, clients: connections(addr, &clients) }));
        self.others.insert(addr, clients);
    }

    fn tell(&mut self, list: &[ClientConnection]) {
        self.see(list);
        let now: BTreeMap<IpAddr, Clients> = self.held.iter().map(|vip| (*vip, self.clients_of(*vip))).collect();
        let refresh = self.refresh <= Instant::now();
        if refresh {
            self.refresh = Instant::now() + REFRESH;
        }
        for (vip, clients) in &now {
            if refresh || self.told.get(vip) != Some(clients) {
                self.send(Frame { vip: *vip, clients: clients.clone() });
            }
        }
        self.told = now;
    }

    /// Remembers these, and forgets those that have been gone for long.
    fn see(&mut self, list: &[ClientConnection]) {
        let now = Instant::now();
        for connection in list {
            let seen = self.seen.entry(connection.vip.ip()).or_default();
            seen.insert((connection.vip.port(), connection.client), now);
        }
        for seen in self.seen.values_mut() {
            seen.retain(|_, last| now.duration_since(*last) < LINGER);
        }
    }

    /// The clients of an own address, those that are there before those that were.
    fn clients_of(&self, vip: IpAddr) -> Clients {
        let Some(seen) = self.seen.get(&vip) else { return Clients::new() };
        let mut all: Vec<_> = seen.iter().collect();
        if all.len() > MOST {
            all.sort_by_key(|(_, last)| std::cmp::Reverse(**last));
        }
        all.into_iter().take(MOST).map(|(client, _)| *client).collect()
    }

    fn send(&self, frame: Frame) {
        let bytes = match serde_json::to_vec(&frame) {
            Ok(bytes) => bytes,
            Err(error) => return tracing::warn!(vip = %frame.vip, "a list of connections cannot be sent: {error}"),
        };
        for link in self.peers.links() {
            // Without a link it learns of them later, by the refresh.
            self.peers.send_bytes(link.peer, CHANNEL, &bytes);
        }
    }
}

fn connections(addr: IpAddr, clients: &Clients) -> Arc<[ClientConnection]> {
    let of =
        |(port, client): &(u16, SocketAddr)| ClientConnection { vip: SocketAddr::new(addr, *port), client: *client };
    clients.iter().map(of).collect()
}
