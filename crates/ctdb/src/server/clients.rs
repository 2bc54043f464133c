//! Who is connected, and what each has registered.

use super::io::ClientId;
use crate::srvid;
use crate::wire::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One connection of a client.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) pid: i32,
    srvids: BTreeSet<u64>,
    tunnels: BTreeSet<u64>,
    /// Sent when it is gone.
    pub(super) notify: BTreeMap<u64, Vec<u8>>,
    /// Clients' connections that it serves.
    pub(super) connections: BTreeSet<Connection>,
    /// The same, and those to addresses that this node was not known to have when it told of them.
    pub(super) serves: BTreeSet<Connection>,
    /// Messages about addresses that it gets later, oldest first, and since when there are any.
    pub(super) later: Vec<(u64, Vec<u8>)>,
    pub(super) later_since: Duration,
    /// It gets them when its process is at rest.
    pub(super) rest_awaited: bool,
    /// It is about to get them by the clock, and what it had asked until then is being read.
    pub(super) later_seen: Option<Duration>,
    /// `START_PERSISTENT_UPDATE` without its end; only counted.
    pub(super) updates: u32,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Clients {
    all: BTreeMap<ClientId, Client>,
    /// Who gets a message: each once, however often it has registered.
    listeners: BTreeMap<u64, BTreeSet<ClientId>>,
    tunnels: BTreeMap<u64, ClientId>,
    pids: BTreeMap<i32, BTreeSet<ClientId>>,
    /// Those for whom there are messages that they get later.
    pub(super) later: BTreeSet<ClientId>,
}

impl Clients {
    pub(super) fn add(&mut self, id: ClientId, pid: i32) {
        self.all.insert(id, Client { pid, ..Client::default() });
        self.pids.entry(pid).or_default().insert(id);
    }

    /// It is gone: nothing of it is known any more.
    pub(super) fn remove(&mut self, id: ClientId) -> Option<Client> {
        let client = self.all.remove(&id)?;
        for srvid in &client.srvids {
            drop_from(&mut self.listeners, *srvid, id);
        }
        drop_from(&mut self.pids, client.pid, id);
        self.later.remove(&id);
        self.tunnels.retain(|_, owner| *owner != id);
        Some(client)
    }

    pub(super) fn get(&mut self, id: ClientId) -> Option<&mut Client> {
        self.all.get_mut(&id)
    }

    pub(super) fn look(&self, id: ClientId) -> Option<&Client> {
        self.all.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn ids(&self) -> Vec<ClientId> {
        self.all.keys().copied().collect()
    }

    /// Nobody serves this connection any more. Returns how many did.
    pub(super) fn forget_connection(&mut self, connection: &Connection) -> usize {
        self.all.values_mut().map(|c| usize::from(c.connections.remove(connection))).sum()
    }

    pub(super) fn listen(&mut self, id: ClientId, srvid: u64) {
        if let Some(client) = self.all.get_mut(&id) {
            client.srvids.insert(srvid);
            self.listeners.entry(srvid).or_default().insert(id);
        }
    }

    /// False: it had not registered that.
    pub(super) fn unlisten(&mut self, id: ClientId, srvid: u64) -> bool {
        let had = self.all.get_mut(&id).is_some_and(|c| c.srvids.remove(&srvid));
        if had {
            drop_from(&mut self.listeners, srvid, id);
        }
        had
    }

    /// Who gets a message to this number.
    pub(super) fn listeners(&self, srvid: u64) -> BTreeSet<ClientId> {
        let mut who = self.listeners.get(&srvid).cloned().unwrap_or_default();
        who.extend(self.listeners.get(&srvid::ALL).into_iter().flatten());
        who
    }

    /// Those that registered exactly this number.
    pub(super) fn listeners_of(&self, srvid: u64) -> BTreeSet<ClientId> {
        self.listeners.get(&srvid).cloned().unwrap_or_default()
    }

    /// False: somebody else has it.
    pub(super) fn open_tunnel(&mut self, id: ClientId, tunnel: u64) -> bool {
        if self.tunnels.contains_key(&tunnel) {
            return false;
        }
        if let Some(client) = self.all.get_mut(&id) {
            client.tunnels.insert(tunnel);
            self.tunnels.insert(tunnel, id);
        }
        true
    }

    /// False: it was not this client's.
    pub(super) fn close_tunnel(&mut self, id: ClientId, tunnel: u64) -> bool {
        let had = self.all.get_mut(&id).is_some_and(|c| c.tunnels.remove(&tunnel));
        if had {
            self.tunnels.remove(&tunnel);
        }
        had
    }

    pub(super) fn tunnel(&self, tunnel: u64) -> Option<ClientId> {
        self.tunnels.get(&tunnel).copied()
    }

    /// Does this client get messages to this number?
    pub(super) fn hears(&self, id: ClientId, srvid: u64) -> bool {
        self.all.get(&id).is_some_and(|c| c.srvids.contains(&srvid) || c.srvids.contains(&srvid::ALL))
    }

    /// Has a process with this number a connection?
    pub(super) fn has_pid(&self, pid: i32) -> bool {
        self.pids.contains_key(&pid)
    }

    /// Has one of its connections registered this number?
    pub(super) fn has_pid_with(&self, pid: i32, srvid: u64) -> bool {
        let ids = self.pids.get(&pid).into_iter().flatten();
        ids.filter_map(|id| self.all.get(id)).any(|c| c.srvids.contains(&srvid))
    }
}

fn drop_from<K: Ord + Copy>(map: &mut BTreeMap<K, BTreeSet<ClientId>>, key: K, id: ClientId) {
    if let Some(ids) = map.get_mut(&key) {
        ids.remove(&id);
        if ids.is_empty() {
            map.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_once_however_often_it_was_registered() {
        let mut clients = Clients::default();
        let (a, b) = (ClientId(1), ClientId(2));
        clients.add(a, 10);
        clients.add(b, 11);
        clients.listen(a, 7);
        clients.listen(a, 7);
        clients.listen(b, srvid::ALL);
        assert_eq!(clients.listeners(7), BTreeSet::from([a, b]));
        assert_eq!(clients.listeners_of(7), BTreeSet::from([a]));
        assert!(clients.unlisten(a, 7));
        assert!(!clients.unlisten(a, 7));
    }

    #[test]
    fn a_process_is_known_as_long_as_one_of_its_connections_is() {
        let mut clients = Clients::default();
        for id in [1, 2] {
            clients.add(ClientId(id), 10);
        }
        clients.listen(ClientId(2), 99);
        clients.remove(ClientId(1));
        assert!(clients.has_pid(10) && clients.has_pid_with(10, 99));
        clients.remove(ClientId(2));
        assert!(!clients.has_pid(10) && !clients.has_pid_with(10, 99));
        assert!(clients.listeners(99).is_empty());
    }
}
