//! Controls of clients for other nodes, and whether a process there is alive.
//!
//! Samba takes every answer but 0 to "is this process alive?" for "it is dead", and takes away what it holds. So "dead"
//! is said only by the process's own node, or of a node that has been dropped and can do no harm any more; until then
//! the question waits, however long.

use super::io::{ClientId, Level};
use super::{Origin, Server};
use crate::control::Opcode;
use crate::node;
use crate::peer::Said;
use crate::planted::{Planted, planted};
use crate::wire::{Control, ControlReply};
use std::net::IpAddr;
use std::time::Duration;

/// A control that another node was asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) origin: Origin,
    pub(super) node: u32,
    control: Control,
    /// Questions about life have none.
    deadline: Option<Duration>,
}

/// Other controls are answered within this, one way or another: CTDB's `ControlTimeout`.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

impl Asked {
    /// Is it this client's question whether a process is alive?
    pub(super) fn is_about_life_for(&self, asker: ClientId) -> bool {
        self.deadline.is_none() && matches!(self.origin, Origin::Client { client, .. } if client == asker)
    }
}

pub(super) fn is_about_life(opcode: u32) -> bool {
    matches!(Opcode(opcode), Opcode::PROCESS_EXISTS | Opcode::CHECK_PID_SRVID)
}

impl Server {
    /// A client's control for another node.
    pub(super) fn ask(&mut self, origin: Origin, dest: u32, control: Control) {
        let life = is_about_life(control.opcode);
        if !life && !self.is_connected(dest) {
            return self.answer_error(origin, "ctdb_control to disconnected node");
        }
        let id = if origin == Origin::Nobody { 0 } else { self.next_serial() };
        if id != 0 {
            let deadline = (!life).then(|| self.now.mono + PATIENCE);
            self.asked.insert(id, Asked { origin, node: dest, control: control.clone(), deadline });
        }
        let Control { opcode, srvid, flags, data } = control;
        self.send(dest, Said::Control { id, opcode, srvid, flags, data });
        if life {
            self.look_at_questions();
        }
    }

    /// To several nodes; nobody waits.
    pub(super) fn broadcast_control(&mut self, client: Option<ClientId>, dest: u32, control: Control) {
        for to in self.up.clone() {
            let active = self.flags_of(to) & node::flags::INACTIVE == 0;
            if dest != node::BROADCAST_ACTIVE || active {
                self.ask(Origin::Nobody, to, control.clone());
            }
        }
        let Control { opcode, srvid, flags, data } = control;
        self.local_control(client, Origin::Nobody, opcode, srvid, flags, &data);
    }

    /// Another node has answered.
    pub(super) fn answered(&mut self, from: u32, id: u64, reply: ControlReply) {
        if let Some(asked) = self.asked.remove(&id)
            && asked.node == from
        {
            self.answer(asked.origin, reply);
        }
    }

    /// The link is down: who waits for an answer over it will not get it.
    pub(super) fn link_lost(&mut self, peer: u32) {
        let lost: Vec<u64> =
            self.asked.iter().filter(|(_, a)| a.node == peer && a.deadline.is_some()).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some(asked) = self.asked.remove(&id) {
                self.answer_error(asked.origin, "node is disconnected");
            }
        }
        self.traverse_without(peer);
    }

    /// The link is up: what has not been answered is asked again.
    pub(super) fn ask_again(&mut self, peer: u32) {
        let again: Vec<(u64, Control)> =
            self.asked.iter().filter(|(_, a)| a.node == peer).map(|(id, a)| (*id, a.control.clone())).collect();
        for (id, Control { opcode, srvid, flags, data }) in again {
            self.send(peer, Said::Control { id, opcode, srvid, flags, data });
        }
    }

    /// The view has changed.
    pub(super) fn members_left(&mut self) {
        for peer in self.traversed_nodes() {
            if !self.picture.members.contains(&peer) {
                self.traverse_without(peer);
            }
        }
    }

    /// Is this node known to be dead, with all that ran on it?
    fn is_dead(&self, pnn: u32) -> bool {
        // A node that is not listed (any more) is outside, too; without a view nobody knows.
        let outside = !self.picture.members.contains(&pnn) && pnn != self.me;
        let harmless = self.harmless == self.picture.epoch || planted(Planted::DeadTooEarly);
        self.is_member() && outside && harmless
    }

    /// Questions about life on nodes that are dead by now.
    pub(super) fn look_at_questions(&mut self) {
        let dead: Vec<u64> = self
            .asked
            .iter()
            .filter(|(_, a)| a.deadline.is_none() && self.is_dead(a.node))
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            if let Some(asked) = self.asked.remove(&id) {
                self.answer_status(asked.origin, -1);
            }
        }
    }

    /// Nobody has answered in time.
    pub(super) fn controls_due(&mut self) {
        let due = |a: &Asked| a.deadline.is_some_and(|d| d <= self.now.mono);
        let late: Vec<u64> = self.asked.iter().filter(|(_, a)| due(a)).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(asked) = self.asked.remove(&id) {
                let opcode = Opcode(asked.control.opcode);
                self.log(Level::Warning, format!("node {} does not answer {opcode}", asked.node));
                self.answer_error(asked.origin, "ctdb_control timed out");
            }
        }
    }

    /// The earliest time at which one is due.
    pub(super) fn next_control(&self) -> Option<Duration> {
        self.asked.values().filter_map(|a| a.deadline).min()
    }

    /// Clients that wait until an address is here.
    pub(super) fn look_at_moves(&mut self) {
        let here = |address: &IpAddr| {
            self.picture.addresses.iter().any(|a| a.address == *address && a.holder == Some(self.me))
        };
        let (done, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.timers.moves).into_iter().partition(|(address, ..)| here(address));
        let (late, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(.., deadline)| *deadline <= self.now.mono);
        self.timers.moves = waiting;
        for (_, origin, _) in done {
            self.answer_status(origin, 0);
        }
        for (address, origin, _) in late {
            self.answer_error(origin, format!("{address} did not come to this node"));
        }
    }
}
