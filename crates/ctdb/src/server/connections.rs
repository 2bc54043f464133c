//! Clients' TCP connections to public addresses.
//!
//! There is one list per address, of its holder: what the holder's kernel shows, whoever serves it, and what Samba's
//! processes and tools there have told. The daemon puts it together and publishes it to all nodes (so the next holder can
//! tickle them); this server tells the daemon of what it was told ([`Output::Connection`]), and hears of every list
//! ([`super::Input::Connections`]) to show it.
//!
//! What is told leaves it when whoever told it takes it back or ends; of tools also when the address comes to this node:
//! its clients have been tickled then.

use super::io::{ClientId, Output};
use super::{Origin, Server};
use crate::control::{Opcode, TickleList};
use crate::wire::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// What this server knows of them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Told here, and by how many.
    told: BTreeMap<Connection, u32>,
    /// Of these, told by tools: they stay when the tool has gone.
    added: BTreeSet<Connection>,
    /// The holders' lists.
    published: BTreeMap<IpAddr, BTreeSet<Connection>>,
}

impl Connections {
    /// True: it is the first that tells of it.
    fn tell(&mut self, connection: Connection) -> bool {
        let by = self.told.entry(connection).or_insert(0);
        *by += 1;
        *by == 1
    }

    /// True: nobody else tells of it.
    fn take_back(&mut self, connection: Connection) -> bool {
        let Some(by) = self.told.get_mut(&connection) else { return false };
        *by -= 1;
        let last = *by == 0;
        if last {
            self.told.remove(&connection);
        }
        last
    }

    /// Of this address, on this node as its holder or as another.
    fn of(&self, address: SocketAddr, holder: bool) -> Vec<Connection> {
        let wanted = |c: &&Connection| {
            c.server.ip() == address.ip() && (address.port() == 0 || c.server.port() == address.port())
        };
        let published = self.published.get(&address.ip()).into_iter().flatten();
        // What clients of a node tell that has lost the address is of the past.
        let told = self.told.keys().filter(|c| holder || self.added.contains(c));
        published.chain(told).filter(wanted).copied().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Server {
    /// A client's TCP connection to a public address.
    pub(super) fn connection(
        &mut self,
        client: Option<ClientId>,
        origin: Origin,
        opcode: Opcode,
        connection: Connection,
    ) {
        let holder = self.picture.addresses.iter().find(|a| a.address == connection.server.ip()).map(|a| a.holder);
        if let Some(known) = client.and_then(|id| self.clients.get(id)) {
            match opcode {
                Opcode::TCP_CLIENT => drop(known.serves.insert(connection)),
                Opcode::TCP_CLIENT_DISCONNECTED | Opcode::TCP_CLIENT_PASSED => drop(known.serves.remove(&connection)),
                _ => {}
            }
        }
        match opcode {
            Opcode::TCP_CLIENT => {
                if holder.is_some_and(|holder| holder != Some(self.me)) {
                    return self.answer_status(origin, -1);
                }
                if let Some(client) = client.and_then(|id| self.clients.get(id)).filter(|_| holder.is_some())
                    && client.connections.insert(connection)
                {
                    self.told_of(connection);
                }
            }
            Opcode::TCP_CLIENT_DISCONNECTED | Opcode::TCP_CLIENT_PASSED => {
                if client.and_then(|id| self.clients.get(id)).is_some_and(|c| c.connections.remove(&connection)) {
                    self.took_back(connection);
                }
            }
            Opcode::TCP_REMOVE => {
                if self.connections.added.remove(&connection) {
                    self.took_back(connection);
                }
                for _ in 0..self.clients.forget_connection(&connection) {
                    self.took_back(connection);
                }
                // Who asks now must not find it; where the kernel shows it still, the daemon's next list has it again.
                if let Some(published) = self.connections.published.get_mut(&connection.server.ip()) {
                    published.remove(&connection);
                }
            }
            // Of an address that is none of this cluster's nobody ever asks.
            _ => {
                if holder.is_some() {
                    self.add_connection(connection);
                }
            }
        }
        self.answer_status(origin, 0);
    }

    fn add_connection(&mut self, connection: Connection) {
        if self.connections.added.insert(connection) {
            self.told_of(connection);
        }
    }

    fn told_of(&mut self, connection: Connection) {
        if self.connections.tell(connection) {
            self.out.push(Output::Connection { connection, told: true });
        }
    }

    pub(super) fn took_back(&mut self, connection: Connection) {
        if self.connections.take_back(connection) {
            self.out.push(Output::Connection { connection, told: false });
        }
    }

    /// Instead of whatever tools have told of an address that another node has.
    pub(super) fn set_connections(&mut self, origin: Origin, list: TickleList) {
        let address = list.address.ip();
        let Some(holder) = self.picture.addresses.iter().find(|a| a.address == address).map(|a| a.holder) else {
            return self.answer_status(origin, 1);
        };
        // The holder knows better.
        if holder != Some(self.me) {
            self.drop_added(address);
            list.connections.into_iter().filter(|c| c.server.ip() == address).for_each(|c| self.add_connection(c));
        }
        self.answer_status(origin, 0);
    }

    fn drop_added(&mut self, address: IpAddr) {
        let gone: Vec<_> = self.connections.added.iter().filter(|c| c.server.ip() == address).copied().collect();
        for connection in gone {
            self.connections.added.remove(&connection);
            self.took_back(connection);
        }
    }

    /// The address is here now, and its clients are being tickled.
    pub(super) fn address_comes(&mut self, address: IpAddr) {
        self.leaving.remove(&address);
        self.drop_added(address);
    }

    /// Its holder's list, as the daemon has it.
    pub(super) fn published(&mut self, address: IpAddr, connections: Vec<Connection>) {
        self.connections.published.insert(address, connections.into_iter().collect());
    }

    /// The list of an address that is this cluster's; of one port, if that is not 0.
    pub(super) fn connections_of(&self, address: SocketAddr, holder: Option<u32>) -> TickleList {
        let connections = self.connections.of(address, holder == Some(self.me));
        TickleList { address: SocketAddr::new(address.ip(), 0), connections }
    }
}
