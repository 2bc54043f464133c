//! Whose clients are connected to which public address, as this node knows it: for each address that it holds what its
//! kernel shows and what Samba's processes and tools have told, in one list; for each other what its holder said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use net::ClientConnection;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How long a client counts after the kernel showed its connection last: that of a server that died is gone, but the client
/// comes again, a kernel's NFS mount with the same port.
const LINGER: Duration = Duration::from_secs(5);
/// Connections of one address that are told to the others; 10 000 of them make half a megabyte, which a frame takes.
pub(super) const MOST: usize = 10_000;

/// Ports of the service and ends of the clients.
pub(super) type Clients = BTreeSet<(u16, SocketAddr)>;

/// One address of the sender.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Frame {
    pub(super) vip: IpAddr,
    pub(super) clients: Clients,
}

/// The lists.
#[derive(Debug, Default)]
pub(super) struct Lists {
    held: BTreeSet<IpAddr>,
    /// What was published of the own addresses.
    published: BTreeMap<IpAddr, Clients>,
    /// When the kernel showed each connection to an own address last.
    seen: BTreeMap<IpAddr, BTreeMap<(u16, SocketAddr), Instant>>,
    /// Told by Samba's processes and tools here.
    told: BTreeMap<IpAddr, Clients>,
    /// What the holder of each address said last.
    others: BTreeMap<IpAddr, Clients>,
}

impl Lists {
    /// Addresses that this node holds.
    pub(super) fn held(&self) -> &BTreeSet<IpAddr> {
        &self.held
    }

    pub(super) fn taken(&mut self, vip: IpAddr) {
        self.held.insert(vip);
        // Who takes it tickles these.
        self.others.remove(&vip);
    }

    pub(super) fn released(&mut self, vip: IpAddr) {
        self.held.remove(&vip);
        self.published.remove(&vip);
        self.seen.remove(&vip);
    }

    /// The kernel shows these, and no others: of all own addresses, or of one that is about to leave.
    pub(super) fn see(&mut self, list: &[ClientConnection], now: Instant) {
        for connection in list {
            let seen = self.seen.entry(connection.vip.ip()).or_default();
            seen.insert((connection.vip.port(), connection.client), now);
        }
        for seen in self.seen.values_mut() {
            seen.retain(|_, last| now.duration_since(*last) < LINGER);
        }
    }

    /// Samba or a tool tells of a connection, or takes it back.
    pub(super) fn tell(&mut self, connection: ClientConnection, told: bool) {
        let (address, client) = (connection.vip.ip(), (connection.vip.port(), connection.client));
        let clients = self.told.entry(address).or_default();
        if told {
            clients.insert(client);
        } else {
            clients.remove(&client);
        }
        if clients.is_empty() {
            self.told.remove(&address);
        }
    }

    /// Of an own address, what has changed since it was published; with `again` in any case.
    pub(super) fn news(&mut self, vip: IpAddr, again: bool) -> Option<Frame> {
        let clients = self.of(vip);
        let new = self.published.get(&vip) != Some(&clients);
        self.published.insert(vip, clients.clone());
        (new || again).then_some(Frame { vip, clients })
    }

    /// The holder of an address says this; false: nothing new.
    pub(super) fn learn(&mut self, frame: &Frame) -> bool {
        let new = self.others.get(&frame.vip) != Some(&frame.clients);
        if new {
            self.others.insert(frame.vip, frame.clients.clone());
        }
        new
    }

    /// Whom to tickle when an address is taken: what its last holder said, also where that comes late, and what tools told
    /// here.
    pub(super) fn to_tickle(&self, vip: IpAddr) -> Clients {
        let both = [&self.told, &self.others].into_iter().filter_map(|lists| lists.get(&vip));
        both.flatten().copied().collect()
    }

    /// The clients of an own address: all that are told; of those that the kernel showed, those that are there before those
    /// that were, if they are too many.
    pub(super) fn of(&self, vip: IpAddr) -> Clients {
        let mut all = self.told.get(&vip).cloned().unwrap_or_default();
        let mut seen: Vec<_> = self.seen.get(&vip).into_iter().flatten().collect();
        if all.len() + seen.len() > MOST {
            seen.sort_by_key(|(_, last)| std::cmp::Reverse(**last));
        }
        for (client, _) in seen {
            if all.len() >= MOST {
                break;
            }
            all.insert(*client);
        }
        all.into_iter().take(MOST).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn connection(port: u16) -> ClientConnection {
        ClientConnection { vip: SocketAddr::new(VIP, 445), client: SocketAddr::new([10, 1, 1, 1].into(), port) }
    }

    fn clients(ports: &[u16]) -> Clients {
        ports.iter().map(|port| (445, connection(*port).client)).collect()
    }

    #[test]
    fn what_is_told_and_what_the_kernel_shows_are_one_list() {
        let mut lists = Lists::default();
        let start = Instant::now();
        lists.taken(VIP);
        lists.see(&[connection(1), connection(2)], start);
        lists.tell(connection(2), true);
        lists.tell(connection(3), true);
        let all = Some(Frame { vip: VIP, clients: clients(&[1, 2, 3]) });
        assert_eq!(lists.news(VIP, false), all);
        assert_eq!(lists.news(VIP, false), None, "the same");
        assert_eq!(lists.news(VIP, true), all);
        // What is taken back goes at once, what the kernel shows no more a while later, what is told stays.
        lists.tell(connection(3), false);
        assert_eq!(lists.of(VIP), clients(&[1, 2]));
        lists.see(&[], start + LINGER / 2);
        assert_eq!(lists.of(VIP), clients(&[1, 2]));
        lists.see(&[], start + LINGER);
        assert_eq!(lists.of(VIP), clients(&[2]));
        lists.tell(connection(2), false);
        assert_eq!(lists.news(VIP, false), Some(Frame { vip: VIP, clients: clients(&[]) }));
    }

    #[test]
    fn of_anothers_address_it_is_what_its_holder_says_and_tools_here() {
        let mut lists = Lists::default();
        let frame = Frame { vip: VIP, clients: clients(&[1]) };
        assert!(lists.learn(&frame));
        assert!(!lists.learn(&frame));
        lists.tell(connection(7), true);
        assert_eq!(lists.to_tickle(VIP), clients(&[1, 7]));
        lists.taken(VIP);
        assert_eq!(lists.of(VIP), clients(&[7]), "the others have been tickled");
        assert!(lists.learn(&frame), "it comes late");
        assert_eq!(lists.to_tickle(VIP), clients(&[1, 7]));
        lists.taken(VIP);
        lists.released(VIP);
        assert!(lists.learn(&frame), "told anew by the next holder");
    }

    #[test]
    fn too_many_are_those_that_are_told_and_those_seen_last() {
        let mut lists = Lists::default();
        let start = Instant::now();
        lists.taken(VIP);
        let some: Vec<_> = (1..=6000).map(connection).collect();
        lists.see(&some, start);
        let later: Vec<_> = (6001..=14_000).map(connection).collect();
        lists.see(&later, start + Duration::from_secs(1));
        lists.tell(connection(60_000), true);
        let all = lists.of(VIP);
        assert_eq!(all.len(), MOST);
        assert!(later.iter().chain([&connection(60_000)]).all(|c| all.contains(&(445, c.client))));
    }
}
