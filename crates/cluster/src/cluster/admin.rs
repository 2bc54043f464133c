//! The administrator's requests: answered here, or passed on to the node that can.

use super::*;
use crate::membership::has_all;

impl Cluster {
    pub(super) fn admin_request(
        &mut self,
        now: Time,
        by: Asker,
        ticket: u64,
        request: AdminRequest,
        out: &mut Vec<Output>,
    ) {
        let me = self.config.me;
        match request {
            AdminRequest::SetState { node, state, now: at_once } if node == me => {
                let text = format!("{} is {} from now on", self.name(me), admin_word(state));
                if self.admin() == state {
                    if at_once && self.lingers.take().is_some() {
                        self.dirty = true;
                        let text = format!("{} gives its addresses away without waiting for DNS", self.name(me));
                        return Self::answer(by, ticket, Ok(text), out);
                    }
                    return Self::answer(
                        by,
                        ticket,
                        Ok(format!("{} is {} already", self.name(me), admin_word(state))),
                        out,
                    );
                }
                let wait = self.config.drain_wait;
                let lingers = state == AdminState::Drained && !at_once && !wait.is_zero() && !self.holder.is_empty();
                self.lingers = lingers.then(|| now + wait);
                self.arbiter.durable.admin = state;
                let disk = self.arbiter.persist(Vec::new(), out);
                self.event(Level::Info, "admin", Some(me), text.clone(), "an administrator said so".into(), out);
                let what = "writing the new state to disk".to_string();
                self.asked.push(Asked { ticket, by, deadline: now + ADMIN_DEADLINE, what, disk: Some((disk, text)) });
                self.dirty = true;
            }
            AdminRequest::SetState { node, .. } => self.forward(now, by, ticket, node, request, out),
            AdminRequest::MoveIp { vip, to } => {
                let Some(leader) = self.view().and_then(View::leader).filter(|_| self.is_member()) else {
                    let why = format!("{} is not a member of a view with a leader; ask on another node", self.name(me));
                    return Self::answer(by, ticket, Err(why), out);
                };
                if leader != me {
                    return self.forward(now, by, ticket, leader, request, out);
                }
                let reply = self.with_placing(|placing, scene| placing.pin(scene, vip, to));
                self.dirty = true;
                Self::answer(
                    by,
                    ticket,
                    reply.unwrap_or_else(|| Err("the leader has not begun its work yet; try again".into())),
                    out,
                );
            }
            AdminRequest::ForceView { because } => {
                let reply = self.force_view(now, by, because, out);
                Self::answer(by, ticket, reply, out);
            }
            AdminRequest::Unknown => {
                let why = format!(
                    "{} runs version {}, which does not know this request; upgrade it first",
                    self.name(me),
                    self.version
                );
                Self::answer(by, ticket, Err(why), out);
            }
        }
    }

    pub(super) fn forward(
        &mut self,
        now: Time,
        by: Asker,
        ticket: u64,
        to: Pnn,
        request: AdminRequest,
        out: &mut Vec<Output>,
    ) {
        if !self.config.nodes.contains_key(&to) {
            return Self::answer(by, ticket, Err(format!("there is no node {to}; `steadfast nodes` lists them")), out);
        }
        if matches!(by, Asker::Peer(..)) {
            return Self::answer(by, ticket, Err("the request came to the wrong node; try again".into()), out);
        }
        if !self.reach.peers.get(&to).is_some_and(|p| p.link) {
            return Self::answer(by, ticket, Err(format!("{} is not connected to this node", self.name(to))), out);
        }
        out.push(Output::Send { to, message: Message::Admin { ticket, request } });
        let what = format!("waiting for {}", self.name(to));
        self.asked.push(Asked { ticket, by, deadline: now + ADMIN_DEADLINE, what, disk: None });
    }

    pub(super) fn answer(by: Asker, ticket: u64, reply: AdminReply, out: &mut Vec<Output>) {
        out.push(match by {
            Asker::Local => Output::AdminDone { ticket, reply },
            Asker::Peer(to, ticket) => Output::Send { to, message: Message::AdminDone { ticket, reply } },
        });
    }

    pub(super) fn answer_asked(&mut self, now: Time, out: &mut Vec<Output>) {
        let mut rest = Vec::new();
        for asked in std::mem::take(&mut self.asked) {
            match &asked.disk {
                Some((disk, text)) if self.arbiter.ticket_done(*disk) => {
                    Self::answer(asked.by, asked.ticket, Ok(text.clone()), out);
                }
                _ if asked.deadline <= now => {
                    let why = format!("no answer within {} s: {}", ADMIN_DEADLINE.as_secs(), asked.what);
                    Self::answer(asked.by, asked.ticket, Err(why), out);
                }
                _ => rest.push(asked),
            }
        }
        self.asked = rest;
    }

    /// A new life of the cluster with this node alone, at an administrator's word.
    pub(super) fn force_view(&mut self, now: Time, by: Asker, because: String, out: &mut Vec<Output>) -> AdminReply {
        if by != Asker::Local {
            return Err("force-view must be said at the node itself".into());
        }
        let Some(old) = self.view().cloned() else {
            return Err("this node has never been part of a cluster; use `steadfast init` or `steadfast join`".into());
        };
        // One whose disk was lost is there under its number, and its vote is not; nor does it have what was committed.
        let present = self.present(&old);
        let here = |p: &Pnn, uid: NodeUid| present.get(p).filter(|n| n.direct && n.uid == uid);
        let reachable = old.voters.iter().filter(|(p, uid)| here(p, **uid).is_some()).count();
        let keeper = old.members.iter().any(|(p, m)| here(p, m.uid).is_some_and(|node| has_all(&old, *p, node)));
        if old.is_majority(reachable) && keeper {
            return Err(format!(
                "{reachable} of {} voters are here: the cluster can decide by itself",
                old.voters.len()
            ));
        }
        self.next_ask += 1;
        let id = self.run.0 ^ self.next_ask;
        let incarnation = Incarnation { number: old.incarnation.number + 1, id };
        let uid = self.arbiter.durable.uid;
        let mut view = View::founding(incarnation, old.epoch.next(), self.config.me, uid, because);
        view.evicted.clone_from(&old.evicted);
        for pnn in old.members.keys().filter(|p| **p != self.config.me) {
            if let Some(addresses) = self.config.private_addresses(*pnn) {
                view.evicted.insert(*pnn, addresses.clone());
            }
        }
        self.learn(now, view, BTreeMap::new(), out);
        Ok("a new life of the cluster begins with this node; the others join it when they come back".into())
    }
}

pub(super) fn admin_word(state: AdminState) -> &'static str {
    match state {
        AdminState::Active => "active",
        AdminState::Drained => "drained",
        AdminState::Stopped => "stopped",
        AdminState::Banned => "banned",
    }
}
