//! The clients' connections to public addresses, known to every node, so that the heir of an address can tickle them.
//!
//! Two sources, one list ([`Lists`]): what the kernel shows, whoever serves it, and what Samba's processes and tools tell the
//! databases' server (`TCP_CLIENT`, `ctdb addtickle`). The holder lists the connections of its addresses every [`LIST`] and
//! sends them to the others when they changed (and when a link is new, and every [`REFRESH`] in any case). An address
//! that is released on purpose is listed a last time when it is silenced, changed or not: its heir may have just come. So the heir of a lost node does not know
//! connections younger than [`LIST`]; their clients notice by their own retransmission. The others' lists go to the network
//! worker, which tickles when it takes an address: each client notices that its connection is gone and makes a new one.
//! `ctdb gettickles` shows every node the same list.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cluster::Pnn;
use ctdb::wire::Connection;
use net::{ClientConnection, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::inbox::{Inbox, Item};
use super::lists::{Clients, Frame, Lists, MOST};
use super::newcomers::Newcomers;
use crate::databases::{self, Post};
use crate::peer::Peers;

/// Channel of the peer links.
pub(crate) const CHANNEL: u8 = 2;
/// With the time to list and to send, the others know of a change within a second.
const LIST: Duration = Duration::from_millis(800);
const REFRESH: Duration = Duration::from_secs(5);

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
    /// A process of Samba or a tool tells of a connection, or takes it back.
    Told { connection: ClientConnection, told: bool },
    /// The service on this port answers again.
    Back(u16),
    /// A peer's list.
    Frame { from: Pnn, bytes: Vec<u8> },
}

/// Puts news in; for the core's thread and those of the links.
pub(crate) type Sender = UnboundedSender<News>;

/// The task.
#[derive(Debug)]
pub(crate) struct Tickles {
    inbox: Inbox,
    peers: Peers,
    databases: Post,
    /// Tells the others.
    tells: bool,
    lists: Lists,
    newcomers: Newcomers,
    refresh: Instant,
}

impl Tickles {
    pub(crate) fn new(inbox: Inbox, peers: Peers, databases: Post, tells: bool) -> Self {
        let (lists, newcomers) = (Lists::default(), Newcomers::default());
        Self { inbox, peers, databases, tells, lists, newcomers, refresh: Instant::now() }
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
                    if !self.lists.held().is_empty() {
                        self.inbox.put(Item::ToNet(Command::ListConnections));
                    }
                }
            }
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Taken(vip) => self.lists.taken(vip),
            News::Released(vip) => self.lists.released(vip),
            News::Connections(list) => {
                self.lists.see(&list, Instant::now());
                let again = self.newcomers.look(&self.peers.links()) || self.refresh <= Instant::now();
                if again {
                    self.refresh = Instant::now() + REFRESH;
                }
                for vip in self.lists.held().clone() {
                    self.publish(vip, again);
                }
            }
            News::Last(vip, list) => {
                self.lists.see(&list, Instant::now());
                self.publish(vip, true);
            }
            News::Told { connection, told } => {
                self.lists.tell(connection, told);
                let vip = connection.vip.ip();
                // Of an own address it is published with what the kernel shows.
                if !self.lists.held().contains(&vip) {
                    self.heir(vip);
                }
            }
            News::Back(port) => {
                for &addr in self.lists.held() {
                    let clients = self.lists.of(addr).into_iter().filter(|(service, _)| *service == port).collect();
                    self.inbox.put(Item::ToNet(Command::Clients { addr, clients: connections(addr, &clients) }));
                }
            }
            News::Frame { from, bytes } => match serde_json::from_slice::<Frame>(&bytes) {
                Ok(frame) if frame.clients.len() <= MOST => {
                    if self.lists.learn(&frame) {
                        self.heir(frame.vip);
                        if !self.lists.held().contains(&frame.vip) {
                            self.show(frame.vip, &frame.clients);
                        }
                    }
                }
                Ok(_) => {
                    tracing::warn!(node = from.0, "a list of connections with more than {MOST} clients is ignored")
                }
                Err(error) => tracing::warn!(node = from.0, "an unreadable list of connections: {error}"),
            },
        }
    }

    /// The network worker has these to tickle when it takes the address, or tickles them now if it has.
    fn heir(&self, addr: IpAddr) {
        let clients = connections(addr, &self.lists.to_tickle(addr));
        self.inbox.put(Item::ToNet(Command::Clients { addr, clients }));
    }

    /// An own address's list, to the others and to the databases, if it has changed.
    fn publish(&mut self, vip: IpAddr, again: bool) {
        if let Some(frame) = self.lists.news(vip, again) {
            self.show(vip, &frame.clients);
            self.send(&frame);
        }
    }

    /// For who asks with `ctdb gettickles`.
    fn show(&self, address: IpAddr, clients: &Clients) {
        let of = |(port, client): &(u16, SocketAddr)| Connection {
            client: *client,
            server: SocketAddr::new(address, *port),
        };
        let connections = clients.iter().map(of).collect();
        // Without databases nobody asks.
        self.databases.put(databases::Item::Input(ctdb::server::Input::Connections { address, connections }));
    }

    fn send(&self, frame: &Frame) {
        if !self.tells {
            return;
        }
        let bytes = match serde_json::to_vec(frame) {
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
