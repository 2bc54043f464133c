//! The clients' connections to public addresses, known to every node, so that the heir of an address can tickle them.
//!
//! The holder lists the connections of its addresses every [`LIST`] and sends them to the others when they changed
//! (and every [`REFRESH`] in any case, for those that came later). Who takes an address sends each client of the last
//! holder's list a tickle, at once and [`AGAIN`] later: the client notices that its connection is gone and makes a
//! new one, instead of waiting for its own time-out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cluster::Pnn;
use net::{ClientConnection, Command};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::inbox::{Inbox, Item};
use crate::peer::Peers;

/// Channel of the peer links.
pub(crate) const CHANNEL: u8 = 2;
const LIST: Duration = Duration::from_millis(1000);
const REFRESH: Duration = Duration::from_secs(5);
/// A client answers one in half a second.
const AGAIN: [Duration; 2] = [Duration::from_millis(600), Duration::from_millis(2000)];
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
    /// A peer's list.
    Frame { from: Pnn, bytes: Vec<u8> },
}

/// One address of the sender: ports of the service and ends of the clients.
#[derive(Debug, Serialize, Deserialize)]
struct Frame {
    vip: IpAddr,
    clients: BTreeSet<(u16, SocketAddr)>,
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
    told: BTreeMap<IpAddr, BTreeSet<(u16, SocketAddr)>>,
    refresh: Instant,
    /// What the last holder of each address said, with its number.
    others: BTreeMap<IpAddr, (Pnn, BTreeSet<(u16, SocketAddr)>)>,
    again: Vec<(Instant, Vec<ClientConnection>)>,
}

impl Tickles {
    pub(crate) fn new(inbox: Inbox, peers: Peers) -> Self {
        Self {
            inbox,
            peers,
            held: BTreeSet::new(),
            told: BTreeMap::new(),
            refresh: Instant::now(),
            others: BTreeMap::new(),
            again: Vec::new(),
        }
    }

    /// Runs until nobody sends news any more.
    pub(crate) async fn run(mut self, mut news: UnboundedReceiver<News>) {
        let mut list = interval(LIST);
        list.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let again = self.again.iter().map(|(at, _)| *at).min();
            tokio::select! {
                news = news.recv() => match news {
                    Some(news) => self.take(news),
                    None => return,
                },
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => self.send_again(),
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
                // Also the answer to a repeated order.
                if self.held.insert(vip) {
                    self.tickle(vip);
                }
            }
            News::Released(vip) => {
                self.held.remove(&vip);
                self.told.remove(&vip);
            }
            News::Connections(list) => self.tell(&list),
            News::Frame { from, bytes } => match serde_json::from_slice::<Frame>(&bytes) {
                Ok(frame) if frame.clients.len() <= MOST => {
                    self.others.insert(frame.vip, (from, frame.clients));
                }
                Ok(_) => {
                    tracing::warn!(node = from.0, "a list of connections with more than {MOST} clients is ignored")
                }
                Err(error) => tracing::warn!(node = from.0, "an unreadable list of connections: {error}"),
            },
        }
    }

    fn tickle(&mut self, vip: IpAddr) {
        let Some((_, clients)) = self.others.remove(&vip) else { return };
        if clients.is_empty() {
            return;
        }
        let connections: Vec<ClientConnection> = clients
            .into_iter()
            .map(|(port, client)| ClientConnection { vip: SocketAddr::new(vip, port), client })
            .collect();
        tracing::info!(%vip, "{} clients are told that their connections have moved", connections.len());
        self.inbox.put(Item::ToNet(Command::Tickle { connections: connections.clone() }));
        let now = Instant::now();
        self.again.extend(AGAIN.map(|after| (now + after, connections.clone())));
    }

    fn send_again(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
        self.again = later;
        let due: Vec<(Instant, Vec<ClientConnection>)> = due;
        for (_, mut connections) in due {
            connections.retain(|c| self.held.contains(&c.vip.ip()));
            if !connections.is_empty() {
                self.inbox.put(Item::ToNet(Command::Tickle { connections }));
            }
        }
    }

    fn tell(&mut self, list: &[ClientConnection]) {
        let mut now: BTreeMap<IpAddr, BTreeSet<(u16, SocketAddr)>> =
            self.held.iter().map(|vip| (*vip, BTreeSet::new())).collect();
        for connection in list {
            if let Some(clients) = now.get_mut(&connection.vip.ip())
                && clients.len() < MOST
            {
                clients.insert((connection.vip.port(), connection.client));
            }
        }
        let refresh = self.refresh <= Instant::now();
        if refresh {
            self.refresh = Instant::now() + REFRESH;
        }
        for (vip, clients) in &now {
            if refresh || self.told.get(vip) != Some(clients) {
                let frame = Frame { vip: *vip, clients: clients.clone() };
                if let Ok(bytes) = serde_json::to_vec(&frame) {
                    for link in self.peers.links() {
                        // Without a link it learns of them later, by the refresh.
                        self.peers.send_bytes(link.peer, CHANNEL, &bytes);
                    }
                }
            }
        }
        self.told = now;
    }
}
