//! The cluster changes: the view, the lease, the links, the addresses.

use super::io::{Level, Output, Picture};
use super::{Input, Server};
use crate::peer::Said;
use crate::recovery::Lead;
use crate::srvid;
use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;

impl Server {
    /// A new picture of the cluster.
    pub(super) fn look(&mut self, picture: Picture) {
        let was_member = self.is_member();
        let old = mem::replace(&mut self.picture, picture);
        let view_changed = old.epoch != self.picture.epoch || old.members != self.picture.members;
        if view_changed && self.is_member() {
            self.new_view();
        } else if was_member && !self.is_member() {
            self.dropped();
        }
        if self.lead.is_some() && self.picture.harmless && self.harmless != self.picture.epoch {
            self.send_connected(&Said::Harmless { epoch: self.picture.epoch });
            self.heard_harmless(self.picture.epoch);
        }
        if !old.leased && self.picture.leased {
            self.go_on();
        }
        self.addresses_moved(&old);
        self.look_at_moves();
        self.look_at_questions();
    }

    fn new_view(&mut self) {
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
            self.lead = Some(Lead::begin(epoch, &members, self.harmless == epoch, &mut orders));
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
        self.recovering.clear();
        let mut effects = Vec::new();
        self.member.dropped(&mut effects);
        self.effects(effects);
        self.held.retain(|input| !matches!(input, Input::Peer { .. }));
        self.close_all();
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
        for input in mem::take(&mut self.held) {
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
        for client in self.clients.listeners(srvid::RECONFIGURE) {
            self.message_to(client, srvid::RECONFIGURE, &[]);
        }
    }

    /// A link came up or went down.
    pub(super) fn link(&mut self, peer: u32, up: bool) {
        if !up {
            self.up.remove(&peer);
            self.link_lost(peer);
            return;
        }
        self.up.insert(peer);
        if self.picture.members.contains(&peer) && self.is_member() {
            // Whatever was said while it was down is lost.
            self.want_recovery(&format!("the link to node {peer} was down"));
        }
        if self.lead.is_some() && self.harmless == self.picture.epoch {
            self.send(peer, Said::Harmless { epoch: self.picture.epoch });
        }
        self.ask_again(peer);
    }

    /// Everything is to be recovered again.
    pub(super) fn want_recovery(&mut self, why: &str) {
        if self.lead.is_some() {
            self.recover_again(why);
        } else if let Some(leader) = self.picture.leader.filter(|_| self.is_member()) {
            self.send(leader, Said::Recover { epoch: self.picture.epoch, why: why.to_owned() });
        }
    }

    /// As the leader.
    pub(super) fn recover_again(&mut self, why: &str) {
        let Some(lead) = &mut self.lead else { return };
        let mut orders = Vec::new();
        lead.again(&mut orders);
        self.round += 1;
        self.recovery_began = self.now;
        self.statistics.recoveries += 1;
        self.log(Level::Info, format!("all databases are recovered again: {why}"));
        self.send_connected(&Said::Round { epoch: self.picture.epoch, round: self.round });
        self.orders(orders);
    }

    /// Samba is told of addresses that came or went.
    fn addresses_moved(&mut self, old: &Picture) {
        let mine = |picture: &Picture| -> BTreeMap<IpAddr, bool> {
            picture.addresses.iter().map(|a| (a.address, a.holder == Some(self.me))).collect()
        };
        let (before, after) = (mine(old), mine(&self.picture));
        if old.addresses != self.picture.addresses {
            self.timers.addresses_moved(self.now);
        }
        let mut moved = false;
        for (address, here) in &after {
            match (before.get(address).copied().unwrap_or(false), here) {
                (true, false) => self.say_address(srvid::RELEASE_IP, *address),
                (false, true) => self.say_address(srvid::TAKE_IP, *address),
                _ => continue,
            }
            moved = true;
        }
        let gone = before.iter().filter(|(a, here)| **here && !after.contains_key(a)).map(|(a, _)| *a);
        for address in gone.collect::<Vec<_>>() {
            self.say_address(srvid::RELEASE_IP, address);
            moved = true;
        }
        if moved {
            for client in self.clients.listeners(srvid::IPREALLOCATED) {
                self.message_to(client, srvid::IPREALLOCATED, &[]);
            }
        }
    }
}
