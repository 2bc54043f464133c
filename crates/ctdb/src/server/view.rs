//! The cluster changes: the view, the lease, the links, the addresses.

use super::io::{Level, Output, Picture};
use super::{Input, Server};
use crate::peer::Said;
use crate::planted::{Planted, planted};
use crate::recovery::Lead;
use crate::srvid;
use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;

impl Server {
    /// A new picture of the cluster.
    pub(super) fn look(&mut self, picture: Picture) {
        let (was_member, led) = (self.is_member(), self.leader());
        self.is_member = picture.members.contains(&self.me);
        let old = mem::replace(&mut self.picture, picture);
        let view_changed = old.epoch != self.picture.epoch || old.members != self.picture.members;
        if view_changed && self.is_member() {
            self.new_view();
        } else if was_member && !self.is_member() {
            self.dropped();
        }
        let idle = self.picture.idle.clone();
        if !view_changed && old.idle != idle && self.lead.is_some() {
            self.recover_again(&format!("of the members {idle:?} are stopped or banned, and hold no records"));
        }
        if self.lead.is_some() && self.picture.harmless && self.harmless != self.picture.epoch {
            self.send_connected(&Said::Harmless { epoch: self.picture.epoch });
            self.heard_harmless(self.picture.epoch);
        }
        if !old.leased && self.picture.leased {
            self.go_on();
        }
        self.look_at_roles(led);
        self.restrain();
        self.addresses_moved(&old);
        self.look_at_moves();
        self.look_at_lists();
        self.look_at_questions();
    }

    fn new_view(&mut self) {
        self.by_hand_over();
        self.detaching_over();
        for peer in self.up.clone() {
            self.tell_role(peer);
        }
        if planted(Planted::MessagesForgotten) {
            self.held.retain(|input| super::packets::message(input).is_none());
        }
        let Some(leader) = self.picture.leader else { return };
        let (epoch, members) = (self.picture.epoch, self.picture.members.clone());
        self.round = 1;
        self.recovery_began = self.now;
        self.statistics.recoveries += 1;
        self.recovering = self.dbs.keys().copied().collect();
        self.log(Level::Info, format!("view {epoch}: {} databases are recovered by {members:?}", self.dbs.len()));
        let mut effects = Vec::new();
        self.member.view(epoch, &members, leader, &mut effects);
        self.effects(effects);
        self.lead = None;
        if leader == self.me {
            let mut orders = Vec::new();
            let others = self.no_masters();
            self.lead = Some(Lead::begin(epoch, &members, &others, self.harmless == epoch, &mut orders));
            self.orders(orders);
        }
        self.members_left();
        for (from, word) in mem::take(&mut self.early) {
            self.word(from, word);
        }
        self.look_whether_recovered();
    }

    /// This node is no member any more: its Samba must not go on with what others decide about now.
    fn dropped(&mut self) {
        self.log(Level::Warning, "this node is dropped from the cluster: its Samba processes are disconnected".into());
        self.lead = None;
        self.by_hand_over();
        self.detaching_over();
        self.recovering.clear();
        let mut effects = Vec::new();
        self.member.dropped(&mut effects);
        self.effects(effects);
        // What others ask is answered all the same: who asks whether somebody is alive waits for as long as it takes.
        self.held.retain(|input| !matches!(input, Input::Peer { .. }) || super::packets::is_question(input));
        if !planted(Planted::ProcessesKept) {
            self.close_all();
        }
        self.members_left();
        self.go_on();
    }

    /// Ends every client's connection.
    fn close_all(&mut self) {
        for client in self.clients.ids() {
            self.out.push(Output::Close { client });
        }
    }

    /// What has been held while there was no lease.
    fn go_on(&mut self) {
        if planted(Planted::MessagesOvertake) {
            self.held.make_contiguous().reverse();
        }
        // What waits still is seen to wait.
        while let Some(input) = self.held.pop_front() {
            self.take(input);
            self.settle();
        }
    }

    /// The nodes that the view does not have can do no harm any more.
    pub(super) fn heard_harmless(&mut self, epoch: u64) {
        if epoch < self.picture.epoch {
            return;
        }
        self.harmless = epoch;
        if let Some(lead) = self.lead.as_mut().filter(|_| epoch == self.picture.epoch) {
            let mut orders = Vec::new();
            lead.harmless(&mut orders);
            self.orders(orders);
        }
        self.look_at_questions();
        self.look_whether_recovered();
    }

    pub(super) fn look_whether_recovered(&mut self) {
        if self.is_recovering() || self.recovery_ended.mono >= self.recovery_began.mono && self.ran {
            return;
        }
        self.recovery_ended = self.now;
        self.ran = true;
        let took = self.now.mono.saturating_sub(self.recovery_began.mono).as_millis();
        self.log(Level::Info, format!("all databases are in use again after {took} ms"));
        self.say_to_listeners(srvid::RECONFIGURE);
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, peer: u32, up: bool) {
        if !up {
            self.up.remove(&peer);
            self.link_lost(peer);
            return;
        }
        self.up.insert(peer);
        // It says so again, if it is still so.
        self.hear_role(peer, true, false);
        self.tell_role(peer);
        if self.picture.members.contains(&peer) && self.is_member() {
            // Whatever was said while it was down is lost.
            self.want_recovery(&format!("the link to node {peer} was down"));
        }
        if self.lead.is_some() && self.harmless == self.picture.epoch {
            self.send(peer, Said::Harmless { epoch: self.picture.epoch });
        }
        self.ask_again(peer);
    }

    /// The last client has gone: a node that is stopped gives back the records that its clients had brought.
    pub(super) fn give_back(&mut self) {
        if self.clients.len() > 0 || !self.is_member() || !self.is_inactive() {
            return;
        }
        let held = self.dbs.values().filter(|db| db.migration.holds_out_of_place()).map(|db| db.have.db);
        let mut effects = Vec::new();
        for id in held.collect::<Vec<_>>() {
            self.member.trouble(id, "this node is stopped, and its last client has gone".into(), &mut effects);
        }
        self.effects(effects);
    }

    /// Everything is to be recovered again.
    pub(super) fn want_recovery(&mut self, why: &str) {
        if planted(Planted::LostWordsForgotten) {
            return;
        }
        if self.lead.is_some() {
            self.recover_again(why);
        } else if let Some(leader) = self.picture.leader.filter(|_| self.is_member()) {
            self.send(leader, Said::Recover { epoch: self.picture.epoch, why: why.to_owned() });
        }
    }

    /// As the leader.
    pub(super) fn recover_again(&mut self, why: &str) {
        let others = self.no_masters();
        let Some(lead) = &mut self.lead else { return };
        let mut orders = Vec::new();
        lead.again(&others, &mut orders);
        self.round += 1;
        self.recovery_began = self.now;
        self.statistics.recoveries += 1;
        self.log(Level::Info, format!("all databases are recovered again: {why}"));
        self.send_connected(&Said::Round { epoch: self.picture.epoch, round: self.round });
        self.orders(orders);
    }

    /// An address is about to leave this node by an order. Samba hears of it while it is there; once it has left, the
    /// picture says so too.
    pub(super) fn address_leaves(&mut self, address: IpAddr) {
        self.addresses_begin_to_move();
        self.say_address(srvid::RELEASE_IP, address);
        self.leaving.insert(address);
    }

    /// Samba is told of addresses that came or went.
    fn addresses_moved(&mut self, old: &Picture) {
        let holders = |picture: &Picture| -> BTreeMap<IpAddr, Option<u32>> {
            picture.addresses.iter().map(|a| (a.address, a.holder)).collect()
        };
        let (before, after) = (holders(old), holders(&self.picture));
        if old.addresses != self.picture.addresses {
            self.timers.addresses_moved(self.now);
        }
        let moving = self.picture.addresses.iter().any(|a| a.moving);
        if before != after || moving {
            self.addresses_begin_to_move();
        }
        let me = Some(self.me);
        let gone = before.iter().filter(|(a, holder)| **holder == me && after.get(a).copied().flatten() != me);
        for address in gone.map(|(a, _)| *a).collect::<Vec<_>>() {
            // Not a second time.
            if !self.leaving.remove(&address) {
                self.say_address(srvid::RELEASE_IP, address);
            }
        }
        let come = after.iter().filter(|(a, holder)| **holder == me && before.get(a).copied().flatten() != me);
        for address in come.map(|(a, _)| *a).collect::<Vec<_>>() {
            self.say_address(srvid::TAKE_IP, address);
        }
        if !moving && mem::take(&mut self.reallocating) {
            self.say_to_listeners(srvid::IPREALLOCATED);
        }
    }

    /// Said once, until all addresses are at rest again.
    fn addresses_begin_to_move(&mut self) {
        if !mem::replace(&mut self.reallocating, true) {
            self.say_to_listeners(srvid::START_IPREALLOCATE);
        }
    }

    fn say_to_listeners(&mut self, srvid: u64) {
        for client in self.clients.listeners(srvid) {
            self.message_to(client, srvid, &[]);
        }
    }
}
