//! Messages between Samba's processes: each has a number of its own, as smbd has, and hears what is sent to it.
//!
//! A message arrives at most once, at the process that it is for, and in the order in which its sender sent them, unless
//! the view has changed in between. It may be lost: with its link, its node, or because nobody listens any more; where all
//! of these last, it has arrived once nothing holds it: no server, for want of a lease or because it stands still, and no link.

use super::{Databases, Doing, Process};
use crate::clock::{MS, Micros};
use crate::network::side;
use crate::world::World;
use cluster::{Epoch, Incarnation};
use ctdb::control::Opcode;
use ctdb::node;
use ctdb::server::{ClientId, Input};
use ctdb::srvid;
use ctdb::wire::{Body, Connection, Message, Reader, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// An address leaves at one in so many of the moments in which processes do something.
const LEAVES: u64 = 64;
/// The upper half of all processes' numbers.
const NUMBERS: u64 = 0x7100_0000_0000_0000;

/// What all processes serve.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// One that was never seen at rest for so long may be told all the same.
const PATIENCE: Micros = 990 * MS;

/// What a process knows of the address that it serves.
#[derive(Debug, Default)]
pub(super) struct Address {
    /// In the middle of something, though it waits for no answer: what it begins next comes before it looks at its sockets.
    busy: bool,
    /// It is leaving, and the process has not been told.
    leaves: Option<Micros>,
    /// It was told, and has not read it.
    unread: bool,
    /// The daemon looks whether the process is at rest.
    rest_awaited: bool,
}

impl Process {
    /// It begins or ends something.
    pub(super) fn acts(&mut self, now: Micros) {
        self.address.busy = now.is_multiple_of(2);
        self.address.unread &= !self.is_at_rest();
    }

    /// It waits for events, and reads what comes.
    fn is_at_rest(&self) -> bool {
        self.doing == Doing::Nothing && !self.address.busy
    }
}

/// What one process has heard from another.
#[derive(Debug, Default)]
struct Heard {
    numbers: BTreeSet<u64>,
    /// The newest view at the last one.
    view: Option<(Incarnation, Epoch)>,
}

/// What carries a message: daemons by their starts, the link between them by its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    daemons: [u64; 2],
    session: u64,
}

/// A message that has not been heard yet, and must be as long as its way lasts.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    from: usize,
    to: usize,
    way: Way,
}

/// All that was said.
#[derive(Debug, Default)]
pub(super) struct Talk {
    sent: BTreeMap<(u32, u32), u64>,
    heard: BTreeMap<(u32, u32), Heard>,
    /// By who says it to whom, and its number.
    under_way: BTreeMap<(u32, u32, u64), UnderWay>,
    /// Who has heard something, and so listens.
    listeners: BTreeSet<u32>,
}

impl Talk {
    /// `by` hears message `number` of `from` for `to`.
    fn hear(
        &mut self,
        by: u32,
        (from, to): (u32, u32),
        number: u64,
        view: Option<(Incarnation, Epoch)>,
    ) -> Result<(), String> {
        let sent = self.sent.get(&(from, to)).copied().unwrap_or(0);
        if by != to || number > sent {
            return Err(format!("process {by} hears message {number} of {sent} from {from} to {to}"));
        }
        let heard = self.heard.entry((from, to)).or_default();
        let newest = heard.numbers.last().copied().unwrap_or(0);
        if !heard.numbers.insert(number) {
            return Err(format!("process {to} hears message {number} from {from} twice"));
        }
        if number < newest && heard.view == view {
            return Err(format!("process {to} hears message {number} from {from} after {newest}"));
        }
        heard.view = view;
        self.listeners.insert(to);
        self.under_way.remove(&(from, to, number));
        Ok(())
    }
}

fn number_of(client: ClientId) -> u64 {
    NUMBERS | u64::from(client.0)
}

/// Is this one process' number?
pub(super) fn is_number(srvid: u64) -> bool {
    srvid & !u64::from(u32::MAX) == NUMBERS
}

impl World {
    /// From now on the process hears what is sent to it.
    pub(super) fn listens(&mut self, host: usize, client: ClientId) {
        for number in [number_of(client), srvid::RELEASE_IP] {
            self.control(host, client, node::CURRENT, Opcode::REGISTER_SRVID, number, &[]);
        }
        let mut data = Writer::default();
        Connection { client: (ADDRESS, 1_000).into(), server: (ADDRESS, 445).into() }.put(&mut data);
        self.control(host, client, node::CURRENT, Opcode::TCP_CLIENT, 0, &data.finish());
    }

    /// Now and then an address of the node is about to leave: those of its processes that serve it hear so.
    pub(super) fn address_leaves(&mut self, host: usize) {
        let now = self.now;
        if !now.is_multiple_of(LEAVES) || !self.hosts[host].is_live() {
            return;
        }
        let Some(node) = self.databases.as_mut().map(|d| &mut d.nodes[host]) else { return };
        if node.inbox.is_empty() {
            let listens = |process: &&mut Process| !matches!(process.doing, Doing::Attaches { .. });
            for process in node.processes.values_mut().filter(listens) {
                process.address.leaves.get_or_insert(now);
            }
            self.databases_input(host, Input::Leaves(ADDRESS));
            self.look_at_rest(host);
        }
    }

    /// The daemon looks from now on whether the process is at rest.
    pub(super) fn rest_awaited(&mut self, host: usize, client: ClientId) {
        let Some(node) = self.databases.as_mut().map(|d| &mut d.nodes[host]) else { return };
        if let Some(process) = node.processes.get_mut(&client) {
            process.address.rest_awaited = true;
            node.awaits_rest = true;
        }
    }

    /// The daemon looks.
    pub(super) fn look_at_rest(&mut self, host: usize) {
        let live = self.hosts[host].is_live();
        let Some(node) = self.databases.as_mut().map(|d| &mut d.nodes[host]).filter(|_| live) else { return };
        let awaited = |process: &Process| process.address.rest_awaited;
        if !node.awaits_rest {
            debug_assert!(!node.processes.values().any(awaited), "{node:?}");
            return;
        }
        let mut found = Vec::new();
        for (client, process) in &mut node.processes {
            if process.address.rest_awaited && process.is_at_rest() {
                process.address.rest_awaited = false;
                found.push(*client);
            }
        }
        node.awaits_rest = node.processes.values().any(awaited);
        for client in found {
            self.databases_input(host, Input::AtRest(client));
        }
    }

    /// A process hears that its address leaves. Samba takes that for "dead" where it waits for an answer about life.
    pub(super) fn hears_of_address(&mut self, host: usize, client: ClientId) {
        let now = self.now;
        let Some(process) = self.databases.as_mut().and_then(|d| d.nodes[host].processes.get_mut(&client)) else {
            return;
        };
        // Of several at once only the first means something: Samba takes its connection for closed then.
        if let Some(since) = process.address.leaves.take() {
            process.address.unread = !process.is_at_rest() && now < since + PATIENCE;
        }
        if let Doing::Asks { reqid, node, .. } = process.doing
            && !process.packets.iter().any(|packet| packet.header.reqid == reqid)
        {
            self.object(format!(
                "process {} hears that an address leaves while it waits to hear who lives on n{node}",
                client.0
            ));
        }
    }

    /// Whoever waits for an answer reads what is in its socket first.
    pub(super) fn reads_its_socket(&mut self, host: usize, client: ClientId, body: &Body) {
        let Some(process) = self.databases.as_mut().and_then(|d| d.nodes[host].processes.get_mut(&client)) else {
            return;
        };
        match body {
            Body::Message(_) => {}
            Body::Control(control) if control.opcode == Opcode::PROCESS_EXISTS.0 => {
                if std::mem::take(&mut process.address.unread) {
                    self.object(format!("process {} asks who lives, and reads that its address leaves", client.0));
                }
            }
            _ => process.address.unread = false,
        }
    }

    /// Some messages, one after the other, to somebody who lives; to one on a node without a lease, if there is any, for that
    /// is where messages have to wait.
    pub(super) fn says(&mut self, host: usize, client: ClientId) {
        let waits = |node: usize| {
            let node = &self.hosts[node];
            node.runs() && node.core_lease <= node.clock.local(self.now)
        };
        let waiting: BTreeSet<usize> = (0..self.hosts.len()).filter(|node| waits(*node)).collect();
        let Some(databases) = self.databases.as_mut() else { return };
        let mut all: Vec<(ClientId, usize)> = databases.truth.people().living().map(|(c, p)| (c, p.node)).collect();
        if all.iter().any(|(_, node)| waiting.contains(node)) {
            all.retain(|(_, node)| waiting.contains(node));
        }
        let (to, node) = all[databases.rng.index(all.len())];
        for _ in 0..databases.rng.range(1..=3) {
            self.say(host, client, to, node);
        }
        self.doing(host, client, Doing::Nothing);
    }

    fn say(&mut self, host: usize, client: ClientId, to: ClientId, node: usize) {
        let way = self.way(host, node);
        let Some(databases) = self.databases.as_mut() else { return };
        let talk = &mut databases.talk;
        let sent = talk.sent.entry((client.0, to.0)).or_default();
        *sent += 1;
        if let Some(way) = way.filter(|_| talk.listeners.contains(&to.0)) {
            talk.under_way.insert((client.0, to.0, *sent), UnderWay { from: host, to: node, way });
        }
        let mut data = Writer::default();
        data.u32(client.0).u32(to.0).u64(*sent);
        let message = Message { srvid: number_of(to), data: data.finish() };
        self.send_packet(host, client, node as u32, Body::Message(message));
    }

    /// What a message between two nodes would go by now.
    fn way(&self, a: usize, b: usize) -> Option<Way> {
        let (daemons, whole) = ([a, b].map(|h| self.hosts[h].generation), a == b || self.net.pair(a, b).is_whole());
        let session = if a == b { 0 } else { self.net.pair(a, b).session };
        whole.then_some(Way { daemons, session })
    }

    /// Now and then: a message between two who live, whose way has lasted and where nothing holds it any more, has been heard.
    pub(crate) fn look_at_talk(&mut self) {
        let Some(databases) = self.databases.as_ref() else { return };
        let lives = |who: u32| databases.truth.people().lives(ClientId(who));
        let mut over = Vec::new();
        let mut lost = None;
        for (key, message) in &databases.talk.under_way {
            let (from, to, number) = *key;
            if !lives(from) || !lives(to) || self.way(message.from, message.to) != Some(message.way) {
                over.push(*key);
            } else if !self.may_be_held(message.from, message.to) {
                lost.get_or_insert_with(|| format!("process {to} never hears message {number} from {from}"));
            }
        }
        if let Some(databases) = self.databases.as_mut() {
            for key in over {
                databases.talk.under_way.remove(&key);
            }
        }
        if let Some(text) = lost {
            self.object(text);
        }
    }

    /// May there be anything between two servers that has been said and not been heard?
    fn may_be_held(&self, from: usize, to: usize) -> bool {
        let holds_nothing = |host: usize| {
            let node = self.databases.as_ref().map(|d| &d.nodes[host]);
            let told = node.filter(|node| node.inbox.is_empty()).and_then(|node| node.told.as_ref());
            self.hosts[host].is_live() && told.is_some_and(|t| t.leased && t.members.contains(&(host as u32)))
        };
        let carried = from != to && !self.net.pair(from, to).queue[side(from, to)].is_empty();
        carried || !holds_nothing(from) || !holds_nothing(to)
    }

    /// A process hears a message to such a number.
    pub(super) fn hears(&mut self, by: ClientId, message: &Message) {
        let Some(databases) = self.databases.as_mut() else { return };
        if let Err(text) = databases.hear(by, message) {
            self.object(text);
        }
    }
}

impl Databases {
    fn hear(&mut self, by: ClientId, message: &Message) -> Result<(), String> {
        let mut r = Reader::new(&message.data);
        let parts = (r.u32("from"), r.u32("to"), r.u64("number"));
        let (Ok(from), Ok(to), Ok(number)) = parts else {
            return Err(format!("process {} hears {} bytes that nobody has sent", by.0, message.data.len()));
        };
        self.done.messages += 1;
        self.talk.hear(by.0, (from, to), number, self.truth.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(epoch: u64) -> Option<(Incarnation, Epoch)> {
        Some((Incarnation::default(), Epoch(epoch)))
    }

    #[test]
    fn what_is_heard_twice_late_or_by_somebody_else_is_found() {
        let mut talk = Talk { sent: BTreeMap::from([((1, 2), 4)]), ..Talk::default() };
        let mut hear = |by, number, epoch| talk.hear(by, (1, 2), number, view(epoch));
        assert_eq!(hear(2, 1, 1), Ok(()));
        assert_eq!(hear(2, 3, 1), Ok(()), "one may be lost");
        assert!(hear(2, 3, 1).is_err_and(|e| e.contains("twice")));
        assert!(hear(2, 2, 1).is_err_and(|e| e.contains("after 3")));
        assert!(hear(3, 4, 1).is_err(), "it was for process 2");
        assert!(hear(2, 5, 1).is_err(), "nobody has sent it");
        assert_eq!(hear(2, 4, 2), Ok(()));
    }
}
