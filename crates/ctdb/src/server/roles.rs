//! Who leads, as clients see it: what shall happen once in the cluster is done there. And whom an administrator has told
//! not to be a location master.
//!
//! The view's leader, who decides about addresses and recoveries, leads as long as it is a member, stopped or not. For
//! clients' scripts that must not be: CTDB's leader is never a node that is stopped or banned, or that an administrator
//! has told not to lead. So for them another member leads then, which decides nothing; and goes on when the first one
//! continues, as with CTDB.

use super::Server;
use crate::node::flags;
use crate::peer::Said;
use std::collections::BTreeSet;

/// What the nodes have said of themselves.
#[derive(Debug, Default)]
pub(super) struct Roles {
    /// They shall not lead.
    never: BTreeSet<u32>,
    /// They were stopped or banned while they led: others go before.
    yield_to: BTreeSet<u32>,
    /// They shall not be location masters.
    no_lmasters: BTreeSet<u32>,
}

fn set(nodes: &mut BTreeSet<u32>, node: u32, is_in: bool) -> bool {
    if is_in { nodes.insert(node) } else { nodes.remove(&node) }
}

impl Server {
    /// The leader for clients.
    pub(super) fn leader(&self) -> Option<u32> {
        let leader = self.picture.leader?;
        let can =
            |pnn: &u32| self.flags_of(*pnn) & (flags::STOPPED | flags::BANNED) == 0 && !self.roles.never.contains(pnn);
        let first = |pnn: &u32| can(pnn) && !self.roles.yield_to.contains(pnn);
        let all = || std::iter::once(leader).chain(self.picture.members.iter().copied());
        all().find(first).or_else(|| all().find(can))
    }

    /// May this node lead?
    pub(super) fn may_lead(&self) -> bool {
        !self.roles.never.contains(&self.me)
    }

    /// What this node may be by its configuration, before anything is served: the leader for clients, a location master.
    /// Clients can change it later, as if it had never been said.
    pub fn limit_roles(&mut self, leads: bool, lmaster: bool) {
        set(&mut self.roles.never, self.me, !leads);
        set(&mut self.roles.no_lmasters, self.me, !lmaster);
    }

    /// An administrator wants this node to be the leader, or not.
    pub(super) fn set_role(&mut self, leader: bool) {
        if set(&mut self.roles.never, self.me, !leader) {
            self.tell_roles();
        }
    }

    /// `before`: who led until now. It yields when it is stopped, until it leads again.
    pub(super) fn look_at_roles(&mut self, before: Option<u32>) {
        let leads = self.leader() == Some(self.me);
        let yields =
            !leads && (self.roles.yield_to.contains(&self.me) || before == Some(self.me) && self.is_inactive());
        if set(&mut self.roles.yield_to, self.me, yields) {
            self.tell_roles();
        }
    }

    fn role(&self) -> Said {
        Said::Role { leader: self.may_lead(), yields: self.roles.yield_to.contains(&self.me) }
    }

    fn tell_roles(&mut self) {
        self.send_connected(&self.role());
        self.say_leader(None);
    }

    /// To a peer that may have forgotten it, or never knew.
    pub(super) fn tell_role(&mut self, peer: u32) {
        if !self.may_lead() || self.roles.yield_to.contains(&self.me) {
            self.send(peer, self.role());
        }
        // Always: what it was before a restart the peer remembers, and the next recovery may be on its way.
        self.send(peer, Said::Lmaster { can: self.may_be_lmaster() });
    }

    /// Another node says what it shall be; says nothing when it begins.
    pub(super) fn hear_role(&mut self, from: u32, leader: bool, yields: bool) {
        let changed = [set(&mut self.roles.never, from, !leader), set(&mut self.roles.yield_to, from, yields)];
        if changed.contains(&true) {
            self.say_leader(None);
        }
    }

    /// May this node be a location master?
    pub(super) fn may_be_lmaster(&self) -> bool {
        !self.roles.no_lmasters.contains(&self.me)
    }

    /// An administrator wants this node to be a location master, or not.
    pub(super) fn set_lmaster(&mut self, can: bool) {
        if set(&mut self.roles.no_lmasters, self.me, !can) {
            self.send_connected(&Said::Lmaster { can });
            self.masters_change(self.me);
        }
    }

    /// Another node says what it shall be.
    pub(super) fn hear_lmaster(&mut self, from: u32, can: bool) {
        if set(&mut self.roles.no_lmasters, from, !can) {
            self.masters_change(from);
        }
    }

    /// As the leader: the new ones know of the records after a recovery.
    fn masters_change(&mut self, member: u32) {
        if self.picture.members.contains(&member) {
            self.recover_again(&format!("node {member} was told to be a location master, or none"));
        }
    }

    /// Members that are not to be location masters: those that are stopped or banned, and those that shall not. If none is
    /// left the leader is one, as with CTDB, whose leader is never stopped; where ours is, the first who is not.
    pub(super) fn no_masters(&self) -> BTreeSet<u32> {
        let idle = &self.picture.idle;
        let mut others: BTreeSet<u32> = idle.union(&self.roles.no_lmasters).copied().collect();
        let members = &self.picture.members;
        if members.iter().all(|member| others.contains(member)) {
            let first = self.leader().into_iter().chain(members.iter().copied()).find(|member| !idle.contains(member));
            let Some(master) = first else { return idle.clone() };
            others.remove(&master);
        }
        others
    }
}
