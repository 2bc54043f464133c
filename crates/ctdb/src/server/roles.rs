//! Who leads, as clients see it: what shall happen once in the cluster is done there.
//!
//! The view's leader, who decides about addresses and recoveries, leads as long as it is a member, stopped or not. For
//! clients' scripts that must not be: CTDB's leader is never a node that is stopped or banned, or that an administrator
//! has told not to lead. So for them another member leads then, which decides nothing.

use super::Server;
use crate::node::flags;
use crate::peer::Said;

impl Server {
    /// The leader for clients.
    pub(super) fn leader(&self) -> Option<u32> {
        let leader = self.picture.leader?;
        let can =
            |pnn: &u32| self.flags_of(*pnn) & (flags::STOPPED | flags::BANNED) == 0 && !self.no_lead.contains(pnn);
        Some(leader).filter(can).or_else(|| self.picture.members.iter().copied().find(can))
    }

    /// An administrator wants this node to be the leader, or not.
    pub(super) fn set_role(&mut self, leader: bool) {
        let changed = if leader { self.no_lead.remove(&self.me) } else { self.no_lead.insert(self.me) };
        if changed {
            self.send_connected(&Said::Role { leader });
            self.say_leader(None);
        }
    }

    /// A peer that may have forgotten it, or never knew.
    pub(super) fn tell_role(&mut self, peer: u32) {
        if self.no_lead.contains(&self.me) {
            self.send(peer, Said::Role { leader: false });
        }
    }

    /// Another node says what it shall be.
    pub(super) fn hear_role(&mut self, from: u32, leader: bool) {
        if leader {
            self.no_lead.remove(&from);
        } else {
            self.no_lead.insert(from);
        }
        self.say_leader(None);
    }
}
