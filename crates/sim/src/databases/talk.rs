//! Messages between Samba's processes: each has a number of its own, as smbd has, and hears what is sent to it.
//!
//! A message arrives at most once, at the process that it is for, and in the order in which its sender sent them, unless
//! the view has changed in between. It may be lost: with its link, its node, or because nobody listens any more; where all
//! of these last, it has arrived when everything is at rest.

use super::{Databases, Doing};
use crate::clock::{Micros, S};
use crate::world::World;
use cluster::{Epoch, Incarnation};
use ctdb::control::Opcode;
use ctdb::node;
use ctdb::server::{ClientId, Input};
use ctdb::srvid;
use ctdb::wire::{Body, Message, Reader, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// An address leaves at one in so many of the moments in which processes do something.
const LEAVES: u64 = 64;
/// The upper half of all processes' numbers.
const NUMBERS: u64 = 0x7100_0000_0000_0000;

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

/// A message that has not been heard yet.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    at: Micros,
    from: usize,
    to: usize,
    /// Nothing if it may get lost: there is no link.
    way: Option<Way>,
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
    }

    /// Now and then an address of the node is about to leave: those of its processes that serve it hear so.
    pub(super) fn address_leaves(&mut self, host: usize) {
        let idle = |databases: &Databases| databases.nodes[host].inbox.is_empty();
        if self.now.is_multiple_of(LEAVES) && self.hosts[host].is_live() && self.databases.as_deref().is_some_and(idle)
        {
            self.databases_input(host, Input::Leaves(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
    }

    /// A process hears that an address leaves. Samba takes that for "dead" where it waits for an answer about life.
    pub(super) fn hears_of_address(&mut self, host: usize, client: ClientId) {
        let Some(process) = self.databases.as_ref().and_then(|d| d.nodes[host].processes.get(&client)) else { return };
        if let Doing::Asks { reqid, node, .. } = process.doing
            && !process.packets.iter().any(|packet| packet.header.reqid == reqid)
        {
            self.object(format!(
                "process {} hears that an address leaves while it waits to hear who lives on n{node}",
                client.0
            ));
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
        let mut all: Vec<(ClientId, usize)> =
            databases.truth.people.iter().filter(|(_, p)| p.lives).map(|(c, p)| (*c, p.node)).collect();
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
        let (now, way) = (self.now, self.way(host, node));
        let Some(databases) = self.databases.as_mut() else { return };
        let talk = &mut databases.talk;
        let sent = talk.sent.entry((client.0, to.0)).or_default();
        *sent += 1;
        if talk.listeners.contains(&to.0) {
            talk.under_way.insert((client.0, to.0, *sent), UnderWay { at: now, from: host, to: node, way });
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

    /// With everything at rest: a message whose way has lasted, between two who live, has arrived.
    pub(super) fn talk_at_rest(&self) -> Result<(), String> {
        let Some(databases) = self.databases.as_ref() else { return Ok(()) };
        let lives = |who: u32| databases.truth.people.get(&ClientId(who)).is_some_and(|p| p.lives);
        let lost = databases.talk.under_way.iter().find(|((from, to, _), message)| {
            let late = message.at + S < self.now;
            late && lives(*from)
                && lives(*to)
                && message.way.is_some()
                && message.way == self.way(message.from, message.to)
        });
        match lost {
            Some(((from, to, number), _)) => Err(format!("process {to} never hears message {number} from {from}")),
            None => Ok(()),
        }
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
