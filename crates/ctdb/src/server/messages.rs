//! Messages: from client to client on whatever node, and to the daemon itself.

use super::io::{Level, Output};
use super::{ClientId, Server, packets};
use crate::node;
use crate::peer::Said;
use crate::planted::{Planted, planted};
use crate::srvid;
use crate::wire::{Body, Message, Reader, Tunnel, Writer};
use std::net::IpAddr;
use std::time::Duration;

impl Server {
    /// A message to a node, or to several.
    pub(super) fn route(&mut self, dest: u32, srvid: u64, data: Vec<u8>) {
        if dest == self.me || dest == node::CURRENT {
            return self.deliver(srvid, &data);
        }
        let said = Said::Message { srvid, data };
        if !node::is_broadcast(dest) {
            // Nobody is told if there is no such node, or it is down.
            return self.send(dest, said);
        }
        for to in self.up.clone() {
            let active = self.flags_of(to) & node::flags::INACTIVE == 0;
            if dest != node::BROADCAST_ACTIVE || active {
                self.send(to, said.clone());
            }
        }
        // The sender's own node is always among them.
        if let Said::Message { srvid, data } = said {
            self.deliver(srvid, &data);
        }
    }

    /// For the clients here that registered the number, and for the daemon.
    pub(super) fn deliver(&mut self, srvid: u64, data: &[u8]) {
        self.for_daemon(srvid, data);
        for client in self.clients.listeners(srvid) {
            self.message_to(client, srvid, data);
        }
    }

    pub(super) fn message_to(&mut self, client: ClientId, srvid: u64, data: &[u8]) {
        self.packet_for(client, 0, Body::Message(Message { srvid, data: data.to_vec() }));
    }

    pub(super) fn deliver_tunnel(&mut self, _from: u32, id: u64, flags: u32, reqid: u32, data: Vec<u8>) {
        if let Some(client) = self.clients.tunnel(id) {
            self.packet_for(client, reqid, Body::Tunnel(Tunnel { id, flags, data }));
        }
    }

    /// Requests to the daemon that come as messages; the answer goes to a number that the asker has registered.
    fn for_daemon(&mut self, srvid: u64, data: &[u8]) {
        match srvid {
            srvid::TAKEOVER_RUN => {
                // Only the leader answers: when the addresses are at rest.
                if self.picture.leader == Some(self.me)
                    && self.is_member()
                    && let Some(to) = asker(data)
                {
                    self.timers.takeover_asked(self.now, to);
                }
            }
            // Addresses and recoveries are decided by the cluster, not by rounds that could be disabled: that nothing
            // stands in the way is all that the asker wants to know.
            srvid::DISABLE_TAKEOVER_RUNS | srvid::DISABLE_RECOVERIES => {
                if let Some(to) = asker(data) {
                    let me = self.me.to_ne_bytes();
                    self.reply_to(to, &me);
                }
            }
            srvid::MEM_DUMP => {
                if let Some(to) = asker(data) {
                    let text = self.memory();
                    self.reply_to(to, text.as_bytes());
                }
            }
            _ => self.pushed_by_hand(srvid, data),
        }
    }

    /// An answer to a request that came as a message. Number 0: none is wanted.
    pub(super) fn reply_to(&mut self, (pnn, srvid): (u32, u64), data: &[u8]) {
        if srvid != 0 {
            self.route(pnn, srvid, data.to_vec());
        }
    }

    /// Who leads, for those who want to know: the original's leader says it each second.
    pub(super) fn say_leader(&mut self, to: Option<ClientId>) {
        let Some(leader) = self.leader().filter(|_| self.is_member()) else { return };
        let mut data = Writer::default();
        data.u32(leader);
        let data = data.finish();
        match to {
            Some(client) => self.message_to(client, srvid::LEADER, &data),
            None => {
                for client in self.clients.listeners_of(srvid::LEADER) {
                    self.message_to(client, srvid::LEADER, &data);
                }
            }
        }
    }

    /// Answers those who wait for the addresses to be at rest.
    pub(super) fn takeover_done(&mut self) {
        let me = i32::try_from(self.me).unwrap_or(i32::MAX).to_ne_bytes();
        for to in self.timers.takeovers_due(self.now) {
            self.reply_to(to, &me);
        }
    }

    /// What is held here, in words.
    pub(super) fn memory(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{} clients, {} controls asked of other nodes\n", self.clients.len(), self.asked.len());
        for db in self.dbs.values() {
            let (name, busy, empty) = (&db.have.name, db.migration.busy(), db.to_delete.len());
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name}: {busy} records under way, {empty} empty ones to be deleted");
        }
        text
    }

    /// An address has left this node, or come to it.
    pub(super) fn say_address(&mut self, srvid: u64, address: IpAddr) {
        let mut text = Writer::default();
        text.text(&address.to_string());
        let text = text.finish();
        self.log(Level::Debug, format!("clients are told {srvid:#x} of {address}"));
        for client in self.clients.listeners(srvid) {
            self.address_to(client, srvid, address, text.clone());
        }
    }

    /// Samba (4.17, source3/lib/ctdbd_conn.c) takes a RELEASE_IP of its own address that it reads while it waits for the
    /// answer to "is this process alive?" for the answer "no", and takes away what the living process holds. So the answer
    /// comes first, however long it takes; and one that is doing something else may be about to ask, and would find
    /// RELEASE_IP in its socket then. Where it waits for events it reads RELEASE_IP for what it is.
    fn address_to(&mut self, client: ClientId, srvid: u64, address: IpAddr, text: Vec<u8>) {
        let now = self.now.mono;
        let asks = self.asks_about_life(client) && !planted(Planted::AddressBeforeAnswer);
        let its = srvid == srvid::RELEASE_IP && self.serves(client, address) && !planted(Planted::AddressWhileBusy);
        let Some(known) = self.clients.get(client) else { return };
        if !asks && !its && known.later.is_empty() {
            return self.message_to(client, srvid, &text);
        }
        if known.later.is_empty() {
            known.later_since = now;
        }
        if known.later.last().is_none_or(|(last, said)| *last != srvid || *said != text) {
            known.later.push((srvid, text));
        }
        if its && !std::mem::replace(&mut known.rest_awaited, true) {
            self.out.push(Output::AwaitRest { client });
        }
        self.clients.later.insert(client);
    }

    /// Its process waits for events.
    pub(super) fn at_rest(&mut self, client: ClientId) {
        let asks = self.asks_about_life(client) && !planted(Planted::AddressBeforeAnswer);
        let Some(known) = self.clients.get(client).filter(|known| known.rest_awaited) else { return };
        if asks {
            // It was so before it asked.
            return self.out.push(Output::AwaitRest { client });
        }
        known.rest_awaited = false;
        self.tell_later(client);
    }

    /// Does it wait for an answer about life?
    fn asks_about_life(&self, client: ClientId) -> bool {
        self.asked.values().any(|asked| asked.is_about_life_for(client))
            || self.held.iter().any(|input| packets::is_about_life_for(input, client))
    }

    /// Does it serve somebody at this address, by what it has told? What is held for want of a lease has been told, too.
    fn serves(&self, client: ClientId, address: IpAddr) -> bool {
        let told = |input| packets::connection_told_by(input, client).is_some_and(|c| c.server.ip() == address);
        self.clients.look(client).is_some_and(|known| known.serves.iter().any(|c| c.server.ip() == address))
            || self.held.iter().any(told)
    }

    /// When there is something to be done about what was put off for this client: it gets it, or by the clock it is looked
    /// after for the first time. None: when it is answered, or there is nothing.
    fn later_due(&self, client: ClientId) -> Option<Duration> {
        let known = self.clients.look(client).filter(|known| !known.later.is_empty())?;
        let asks = self.asks_about_life(client) && !planted(Planted::AddressBeforeAnswer);
        let by_the_clock = known.later_seen.map_or(known.later_since + LATEST - READING, |seen| seen + READING);
        let due = if known.rest_awaited { by_the_clock } else { known.later_since };
        (!asks).then_some(due)
    }

    /// When the next one gets what was put off.
    pub(super) fn next_later(&self) -> Option<Duration> {
        self.clients.later.iter().filter_map(|client| self.later_due(*client)).min()
    }

    /// What was put off for this client, if it is due. By the clock that takes two looks: what was in the sockets at the first
    /// has been read by the second, unless the daemon has stood still between them. Then the second is the first, whatever
    /// the daemon reads before it: what clients have asked meanwhile has not been read yet.
    pub(super) fn tell_later(&mut self, client: ClientId) {
        let now = self.now.mono;
        if self.later_due(client).is_none_or(|due| due > now) {
            return;
        }
        let Some(known) = self.clients.get(client) else { return };
        if known.rest_awaited && known.later_seen.is_none_or(|seen| seen + STANDSTILL < now) {
            known.later_seen = Some(now);
            return;
        }
        known.rest_awaited = false;
        known.later_seen = None;
        let later = std::mem::take(&mut known.later);
        self.clients.later.remove(&client);
        for (srvid, text) in later {
            // One whose connection has ended meanwhile wants to hear of addresses no more.
            if self.clients.hears(client, srvid) {
                self.message_to(client, srvid, &text);
            }
        }
    }

    /// The same, by the clock.
    pub(super) fn later_is_due(&mut self) {
        for client in self.clients.later.clone() {
            self.tell_later(client);
        }
    }
}

/// `srvid_message`: node number, padding, number for the answer.
fn asker(data: &[u8]) -> Option<(u32, u64)> {
    let mut r = Reader::new(data);
    let pnn = r.u32("node").ok()?;
    r.u32("padding").ok()?;
    Some((pnn, r.u64("number").ok()?))
}

/// A process that is never seen at rest hears that its address leaves after this, whatever it does. Long enough for what
/// smbd does between two looks at its sockets; its connection has been ended by the kernel by then, so that it rarely needs
/// to hear at all.
const LATEST: Duration = Duration::from_secs(1);
/// Within this a daemon that runs has read what was in its clients' sockets.
const READING: Duration = Duration::from_millis(20);
/// A daemon that comes back to a client later than this after it has seen that something is due has stood still.
const STANDSTILL: Duration = Duration::from_millis(40);
/// Addresses are at rest when nothing has changed for so long.
pub(super) const AT_REST: Duration = Duration::from_millis(300);
