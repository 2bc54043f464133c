//! By which addresses of this node the clients came who are recorded with its NFS server.
//!
//! Records do not say it, connections do. A client that holds locks may have none for hours (Linux closes what is idle for
//! five minutes), so what was seen once counts until its record is gone. One that was never seen, since this daemon began or
//! since it came, may have come by any address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use net::ClientConnection;
use services::nfs_state::Clients;

/// What was seen of recorded clients.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways(BTreeMap<IpAddr, BTreeSet<IpAddr>>);

impl Ways {
    /// These clients are recorded; others are forgotten.
    pub(super) fn recorded(&mut self, clients: &Clients) {
        let known: BTreeSet<IpAddr> = of_v4(clients).chain(of_nlm(clients)).filter_map(|(_, client)| client).collect();
        self.0.retain(|client, _| known.contains(client));
    }

    /// These connections are there; those of recorded clients to the NFS server's port count.
    pub(super) fn connected(&mut self, list: &[ClientConnection], port: u16, clients: &Clients) {
        let known: BTreeSet<IpAddr> = of_v4(clients).chain(of_nlm(clients)).filter_map(|(_, client)| client).collect();
        for connection in list.iter().filter(|c| c.vip.port() == port) {
            let client = connection.client.ip().to_canonical();
            if known.contains(&client) {
                self.0.entry(client).or_default().insert(connection.vip.ip().to_canonical());
            }
        }
    }

    /// The NFS server has let go of what came by this address: who was seen there alone has nothing here any more.
    pub(super) fn let_go(&mut self, vip: IpAddr) {
        for ways in self.0.values_mut() {
            ways.remove(&vip);
        }
    }

    /// May this client, a host's name where it has no address, have come by this address?
    pub(super) fn may_use(&self, client: Option<IpAddr>, vip: IpAddr) -> bool {
        let Some(client) = client else { return true };
        match self.0.get(&client) {
            Some(ways) => ways.contains(&vip),
            None => client.is_ipv4() == vip.is_ipv4(),
        }
    }

    /// Those of these addresses by which hosts with NFSv3 locks may have come, and, with `v4`, NFSv4 clients.
    pub(super) fn used(&self, held: &BTreeSet<IpAddr>, clients: &Clients, v4: bool) -> BTreeSet<IpAddr> {
        let mut used = BTreeSet::new();
        for (_, client) in of_nlm(clients).chain(of_v4(clients).filter(|_| v4)) {
            match client.map(|client| (client, self.0.get(&client))) {
                Some((_, Some(ways))) => used.extend(ways.intersection(held)),
                Some((client, None)) => used.extend(held.iter().filter(|vip| vip.is_ipv4() == client.is_ipv4())),
                None => used.extend(held),
            }
            if used.len() == held.len() {
                break;
            }
        }
        used
    }

    /// Those of these clients that may have come by this address.
    pub(super) fn by(&self, vip: IpAddr, clients: &Clients) -> Clients {
        let fits = |(name, client): (&String, Option<IpAddr>)| self.may_use(client, vip).then(|| name.clone());
        Clients {
            v4: of_v4(clients).filter_map(fits).collect(),
            nlm: of_nlm(clients).filter_map(fits).collect(),
            left_out: clients.left_out,
        }
    }
}

/// NFSv4 clients, with their addresses.
fn of_v4(clients: &Clients) -> impl Iterator<Item = (&String, Option<IpAddr>)> {
    let address = |name: &str| Some(name.split_once("-(")?.0.parse::<IpAddr>().ok()?.to_canonical());
    clients.v4.iter().map(move |name| (name, address(name)))
}

/// Hosts with NFSv3 locks, with their addresses where they are known by those.
fn of_nlm(clients: &Clients) -> impl Iterator<Item = (&String, Option<IpAddr>)> {
    clients.nlm.iter().map(|name| (name, address_of(name)))
}

/// The address that a host with NFSv3 locks is known by.
pub(super) fn address_of(host: &str) -> Option<IpAddr> {
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn clients() -> Clients {
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Clients {
            v4: set(&["::ffff:10.0.0.9-(3:abc)"]),
            nlm: set(&["10.0.0.7", "10.0.0.8", "fd00::7", "client9"]),
            left_out: 0,
        }
    }

    fn connection(client: &str, vip: &str) -> ClientConnection {
        ClientConnection { vip: vip.parse().unwrap(), client: client.parse().unwrap() }
    }

    #[test]
    fn who_was_never_seen_may_have_come_by_any_address_of_its_family() {
        let ways = Ways::default();
        let found = ways.by(ip("10.0.0.1"), &clients());
        assert_eq!(found.v4.len(), 1);
        assert_eq!(found.nlm, ["10.0.0.7", "10.0.0.8", "client9"].map(String::from).into());
        assert_eq!(ways.by(ip("fd00::1"), &clients()).nlm, ["client9", "fd00::7"].map(String::from).into());
    }

    #[test]
    fn who_was_seen_came_by_those_addresses_until_its_record_is_gone() {
        let mut ways = Ways::default();
        let list = [
            connection("[::ffff:10.0.0.7]:700", "[::ffff:10.0.0.1]:2049"),
            connection("10.0.0.7:701", "10.0.0.2:445"),
            connection("10.0.0.8:700", "10.0.0.2:2049"),
            connection("10.0.0.9:700", "10.0.0.2:2049"),
            connection("10.0.0.10:700", "10.0.0.1:2049"),
        ];
        ways.connected(&list, 2049, &clients());
        assert_eq!(ways.by(ip("10.0.0.1"), &clients()).nlm, ["10.0.0.7", "client9"].map(String::from).into());
        // It is idle: no connection any more.
        ways.connected(&[], 2049, &clients());
        ways.recorded(&clients());
        assert_eq!(ways.by(ip("10.0.0.1"), &clients()).v4.len(), 0);
        assert_eq!(ways.by(ip("10.0.0.2"), &clients()).v4.len(), 1);
        assert!(!ways.may_use(Some(ip("10.0.0.7")), ip("10.0.0.2")), "SMB's connection is none of NFS");
        let held = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"].map(ip).into();
        let known = Clients { nlm: ["10.0.0.7".to_owned()].into(), ..clients() };
        assert_eq!(ways.used(&held, &known, false), ["10.0.0.1"].map(ip).into());
        assert_eq!(ways.used(&held, &known, true), ["10.0.0.1", "10.0.0.2"].map(ip).into(), "NFSv4's too");
        let unseen = Clients { nlm: ["fd00::7".to_owned()].into(), ..known };
        assert_eq!(ways.used(&held, &unseen, false), ["fd00::1"].map(ip).into());
        assert_eq!(ways.used(&held, &clients(), false), held, "a name may have come by any");
        // It has moved away with its address. A record that stays behind is of no address.
        ways.let_go(ip("10.0.0.1"));
        assert!(!ways.may_use(Some(ip("10.0.0.7")), ip("10.0.0.1")));
        // Once that is gone too, it begins anew.
        ways.recorded(&Clients::default());
        assert!(ways.may_use(Some(ip("10.0.0.7")), ip("10.0.0.1")));
    }
}
