//! `ctdb detach`: a database that processes open, use and close is taken away from all nodes while faults happen. Nobody's
//! file is closed under it; and what was said to be gone stays so until somebody attaches it anew, and is empty then.
//!
//! One seed of four does this. The others are what they were before.

use super::{Databases, Doing};
use crate::clock::{Micros, S};
use crate::world::World;
use ctdb::control::Opcode;
use ctdb::database::Kind;
use ctdb::server::{ClientId, FileOrder};
use ctdb::wire::{Body, Call, LtdbHeader, Packet, record_flags};
use ctdb::{call, node};
use std::collections::BTreeSet;

const NAME: &str = "spare.tdb";
const KEY: &[u8] = b"spare";
const TUNABLE: &str = "AllowClientDBAttach";
/// An attach of a process that has ended may still be on its way for so long.
const ON_ITS_WAY: Micros = 60 * S;

/// What a process has to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spare {
    /// Attaches it.
    Attaches { reqid: u32 },
    /// May open its file, which the daemon keeps to itself now.
    Opens,
    /// Waits for its record.
    Waits { reqid: u32 },
    /// Has it detached: all nodes are told to let no client attach, then it is detached, then they may again.
    Detaches { step: Step, nodes: Vec<u32>, awaited: Vec<u32> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Forbid,
    Detach,
    Allow,
}

/// What there is to know about it.
#[derive(Debug, Default)]
pub(super) struct Spares {
    id: u32,
    /// In this seed.
    pub(super) on: bool,
    /// Who detaches it; one at a time.
    pub(super) by: Option<ClientId>,
    /// The request to detach it, and since when.
    asked: Option<(ClientId, u32, Micros)>,
    /// It was detached, on a request of this time: what is older is gone.
    began: Micros,
    /// And nobody wants it since.
    gone: bool,
    wanted_at: Micros,
    /// Servers that closed it then, and run still: they know.
    closed_by: BTreeSet<usize>,
}

impl Spares {
    pub(super) fn new(on: bool) -> Self {
        Self { id: ctdb::database_id(NAME), on, ..Self::default() }
    }

    fn is_wanted(&mut self, at: Micros) {
        self.wanted_at = self.wanted_at.max(at);
        self.gone = false;
    }

    /// A daemon ends, and forgets.
    pub(super) fn daemon_ends(&mut self, host: usize) {
        self.closed_by.remove(&host);
    }
}

impl Databases {
    /// A process ends, and its handle on the file with it.
    pub(super) fn spare_process_ends(&mut self, host: usize, doing: &Doing, has_it_open: bool, now: Micros) {
        if let Doing::Spare(Spare::Attaches { .. }) = doing {
            self.spares.is_wanted(now + ON_ITS_WAY);
        }
        let file = self.nodes[host].files.get_mut(&self.spares.id);
        if let Some(file) = file.filter(|_| has_it_open) {
            file.users = file.users.saturating_sub(1);
        }
    }

    fn allow(&self, yes: bool) -> Vec<u8> {
        let mut data = u32::from(yes).to_ne_bytes().to_vec();
        data.extend_from_slice(&(TUNABLE.len() as u32 + 1).to_ne_bytes());
        data.extend_from_slice(TUNABLE.as_bytes());
        data.push(0);
        data
    }
}

impl World {
    /// What a server orders about its file.
    pub(super) fn spare_ordered(&mut self, host: usize, db: u32, order: &FileOrder) {
        if self.databases.as_ref().is_none_or(|d| d.spares.id != db) {
            return;
        }
        let member = self.is_in_newest(host);
        let Some(databases) = self.databases.as_mut() else { return };
        let told: BTreeSet<usize> =
            databases.nodes[host].told.iter().flat_map(|p| &p.members).map(|m| *m as usize).collect();
        let users = databases.nodes[host].files.get(&db).map_or(0, |file| file.users);
        let spares = &mut databases.spares;
        match order {
            FileOrder::Close => {
                spares.closed_by.insert(host);
                if member && users > 0 {
                    self.object(format!("{NAME} is closed on n{host}, where {users} processes use it"));
                }
            }
            FileOrder::Open(_) if spares.gone => {
                // Where nobody is left who knows it may come back, empty.
                spares.gone = false;
                if let Some(knows) = spares.closed_by.intersection(&told).next().copied().filter(|_| member) {
                    self.object(format!(
                        "{NAME} was detached, and n{host} opens it though n{knows} knows that it is gone"
                    ));
                }
            }
            _ => {}
        }
    }

    /// A client is answered.
    pub(super) fn spare_answered(&mut self, client: ClientId, packet: &Packet) {
        let Some(databases) = self.databases.as_mut() else { return };
        let Some((_, _, began)) =
            databases.spares.asked.take_if(|(by, r, _)| (*by, *r) == (client, packet.header.reqid))
        else {
            return;
        };
        let Body::ControlReply(reply) = &packet.body else { return };
        if reply.status != 0 {
            return;
        }
        let attaches = |doing: &Doing| matches!(doing, Doing::Spare(Spare::Attaches { .. }));
        let wanted = databases.nodes.iter().flat_map(|n| n.processes.values()).any(|p| attaches(&p.doing));
        let spares = &mut databases.spares;
        spares.began = began;
        spares.gone = !wanted && spares.wanted_at < began;
        databases.done.detached += 1;
    }

    /// A process that is at leisure opens, uses or closes it.
    pub(super) fn begins_with_spare(&mut self, host: usize, client: ClientId) {
        let now = self.now;
        let Some(databases) = self.databases.as_mut() else { return };
        let Some(process) = databases.nodes[host].processes.get_mut(&client) else { return };
        if process.has_spare_open {
            if databases.rng.index(2) == 0 {
                return self.uses_spare(host, client);
            }
            process.has_spare_open = false;
            return databases.spare_process_ends(host, &Doing::Nothing, true, now);
        }
        databases.spares.is_wanted(now);
        let name = format!("{NAME}\0").into_bytes();
        let reqid = self.control(host, client, node::CURRENT, Opcode::DB_ATTACH, 0, &name);
        self.doing(host, client, Doing::Spare(Spare::Attaches { reqid }));
    }

    /// It has found that it may not attach: whoever forbade it may be dead.
    pub(super) fn allows_attaching(&mut self, host: usize, client: ClientId) {
        let Some(databases) = self.databases.as_ref().filter(|d| d.spares.on) else { return };
        let lives = databases.spares.by.is_some_and(|by| databases.truth.people().lives(by));
        if !lives {
            let data = databases.allow(true);
            self.control(host, client, node::CURRENT, Opcode::SET_TUNABLE, 0, &data);
        }
    }

    pub(super) fn goes_on_with_spare(&mut self, host: usize, client: ClientId, spare: Spare) {
        let Some(databases) = self.databases.as_mut() else { return };
        match spare {
            Spare::Attaches { reqid } => {
                if let Some(reply) = databases.reply(host, client, reqid) {
                    let next = if reply.status == 0 { Doing::Spare(Spare::Opens) } else { Doing::Nothing };
                    self.doing(host, client, next);
                }
            }
            Spare::Opens => {
                let id = databases.spares.id;
                let Some(file) = databases.nodes[host].files.get_mut(&id).filter(|f| f.kind == Some(Kind::Volatile))
                else {
                    // Too late.
                    return self.doing(host, client, Doing::Nothing);
                };
                if file.sole {
                    return;
                }
                file.users += 1;
                if let Some(process) = databases.nodes[host].processes.get_mut(&client) {
                    process.has_spare_open = true;
                }
                self.uses_spare(host, client);
            }
            Spare::Waits { reqid } => match databases.answer(host, client, reqid) {
                None => {}
                Some(Body::CallReply(_)) => self.uses_spare(host, client),
                Some(_) => {
                    self.doing(host, client, Doing::Nothing);
                    if self.is_in_newest(host) {
                        self.object(format!(
                            "process {} on n{host} uses {NAME}, and is told that there is none",
                            client.0
                        ));
                    }
                }
            },
            Spare::Detaches { step, nodes, awaited } => self.goes_on_detaching(host, client, step, nodes, awaited),
        }
    }

    /// Says in the record when it was there.
    fn uses_spare(&mut self, host: usize, client: ClientId) {
        let (now, member) = (self.now, self.is_in_newest(host));
        let Some(databases) = self.databases.as_mut() else { return };
        let (id, began) = (databases.spares.id, databases.spares.began);
        let Some(file) = databases.nodes[host].files.get_mut(&id) else { return };
        if file.is_locked(KEY) {
            return self.doing(host, client, Doing::Nothing);
        }
        let value = file.records.get(KEY).cloned().unwrap_or_default();
        match LtdbHeader::split(&value) {
            Ok((header, data)) if header.dmaster == host as u32 => {
                let stamp = data.try_into().map(Micros::from_ne_bytes).ok();
                let header = LtdbHeader { flags: header.flags & !record_flags::AUTOMATIC, ..header };
                file.records.insert(KEY.to_vec(), [&header.to_bytes()[..], &now.to_ne_bytes()].concat());
                databases.done.spare_uses += 1;
                self.doing(host, client, Doing::Nothing);
                if let Some(stamp) = stamp.filter(|stamp| member && *stamp < began) {
                    self.object(format!(
                        "{NAME} was detached at {began} µs or later, and n{host} has its record of {stamp} µs again"
                    ));
                }
            }
            _ => {
                let (flags, function) = (call::flags::IMMEDIATE_MIGRATION, call::NULL);
                let (key, argument) = (KEY.to_vec(), Vec::new());
                let call = Call { flags, db: id, function, hops: 0, key, argument };
                let reqid = self.send_packet(host, client, 0, Body::Call(call));
                self.doing(host, client, Doing::Spare(Spare::Waits { reqid }));
            }
        }
    }

    /// Begins, if nobody else does it already.
    pub(super) fn begins_to_detach(&mut self, host: usize, client: ClientId) {
        let nodes: Vec<u32> = self.members().into_iter().map(|m| m as u32).collect();
        let Some(databases) = self.databases.as_mut() else { return };
        if let Some(by) = databases.spares.by
            && databases.truth.people().lives(by)
        {
            return;
        }
        databases.spares.by = Some(client);
        self.asks_detaching(host, client, Step::Forbid, nodes);
    }

    fn asks_detaching(&mut self, host: usize, client: ClientId, step: Step, nodes: Vec<u32>) {
        let Some(databases) = self.databases.as_ref() else { return };
        let (id, data) = (databases.spares.id, databases.allow(step == Step::Allow));
        let awaited = if step == Step::Detach {
            vec![self.control(host, client, node::CURRENT, Opcode::DB_DETACH, 0, &id.to_ne_bytes())]
        } else {
            nodes.iter().map(|n| self.control(host, client, *n, Opcode::SET_TUNABLE, 0, &data)).collect()
        };
        self.doing(host, client, Doing::Spare(Spare::Detaches { step, nodes, awaited }));
    }

    fn goes_on_detaching(&mut self, host: usize, client: ClientId, step: Step, nodes: Vec<u32>, awaited: Vec<u32>) {
        let now = self.now;
        let Some(databases) = self.databases.as_mut() else { return };
        let Some(process) = databases.nodes[host].processes.get(&client) else { return };
        if !awaited.iter().all(|r| process.packets.iter().any(|p| p.header.reqid == *r)) {
            return;
        }
        let replies: Vec<_> = awaited.iter().map(|r| databases.reply(host, client, *r)).collect();
        let done = replies.iter().all(|reply| reply.as_ref().is_some_and(|r| r.status == 0));
        let next = match step {
            Step::Forbid if done => Step::Detach,
            Step::Forbid | Step::Detach => Step::Allow,
            Step::Allow => {
                databases.spares.by = None;
                return self.doing(host, client, Doing::Nothing);
            }
        };
        if next == Step::Detach {
            databases.spares.closed_by.clear();
            // The answer may come while it is asked.
            databases.spares.asked = Some((client, databases.next_reqid + 1, now));
        }
        self.asks_detaching(host, client, next, nodes);
    }
}

impl Databases {
    /// At the end no member has it that was told so.
    pub(super) fn spare_at_rest(&self, members: &[usize]) -> Result<(), String> {
        let knows = members.iter().any(|m| self.spares.closed_by.contains(m));
        let has = |m: &&usize| self.nodes[**m].files.get(&self.spares.id).is_some_and(|f| f.kind.is_some());
        match members.iter().find(has).filter(|_| self.spares.gone && knows) {
            Some(host) => Err(format!("{NAME} was detached, and n{host} has it at rest")),
            None => Ok(()),
        }
    }
}
