//! What Samba's processes do: count under the chain lock, commit, traverse, ask who is alive.

use super::counts::Counts;
use super::talk::Address;
use super::truth::{own_key, violation};
use super::{Databases, Doing, HOT, Node, PERSISTENT, Process, VOLATILE};
use crate::world::World;
use ctdb::control::Opcode;
use ctdb::server::{ClientId, Input};
use ctdb::wire::{
    Body, Call, Control, ControlReply, Header, LtdbHeader, Packet, Reader, Record, RecordBuffer, Writer, record_flags,
};
use ctdb::{call, node};
use std::collections::{BTreeSet, VecDeque};

/// Processes of a node.
const PROCESSES: usize = 3;
const SEQNUM: &[u8] = b"__db_sequence_number__\0";

impl Node {
    /// Number of the newest transaction in the file.
    pub(super) fn seqnum(&self, db: u32) -> u64 {
        let value = self.files.get(&db).and_then(|f| f.records.get(SEQNUM)).and_then(|v| v.get(24..));
        value.and_then(|v| v.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }
}

impl Databases {
    /// The answer to a request, if it has come.
    pub(super) fn answer(&mut self, host: usize, client: ClientId, reqid: u32) -> Option<Body> {
        let packets = &mut self.nodes[host].processes.get_mut(&client)?.packets;
        // The newest is most likely it: answers that nobody waits for are left where they are.
        let at = packets.iter().rposition(|p| p.header.reqid == reqid)?;
        packets.remove(at).map(|p| p.body)
    }

    pub(super) fn reply(&mut self, host: usize, client: ClientId, reqid: u32) -> Option<ControlReply> {
        match self.answer(host, client, reqid)? {
            Body::ControlReply(reply) => Some(reply),
            _ => None,
        }
    }
}

impl World {
    pub(super) fn send_packet(&mut self, host: usize, client: ClientId, dest: u32, body: Body) -> u32 {
        self.reads_its_socket(host, client, &body);
        let Some(databases) = self.databases.as_mut() else { return 0 };
        databases.next_reqid += 1;
        let reqid = databases.next_reqid;
        let packet = Packet { header: Header { generation: 0, dest, source: 0, reqid }, body }.encode();
        self.databases_input(host, Input::Packet { client, packet });
        reqid
    }

    pub(super) fn control(
        &mut self,
        host: usize,
        client: ClientId,
        dest: u32,
        opcode: Opcode,
        srvid: u64,
        data: &[u8],
    ) -> u32 {
        let control = Control { opcode: opcode.0, srvid, flags: 0, data: data.to_vec() };
        self.send_packet(host, client, dest, Body::Control(control))
    }

    pub(super) fn doing(&mut self, host: usize, client: ClientId, doing: Doing) {
        let now = self.now;
        if let Some(process) = self.databases.as_mut().and_then(|d| d.nodes[host].processes.get_mut(&client)) {
            process.doing = doing;
            process.since = now;
            process.acts(now);
        }
    }

    pub(super) fn object(&mut self, text: String) {
        if self.violation.is_none() {
            self.story.world(self.now, || format!("VIOLATION (databases): {text}"));
            self.violation = Some(violation(self.now, text));
        }
    }

    /// One process of a node does one thing.
    pub(super) fn work(&mut self, host: usize) {
        if !self.hosts[host].runs() {
            return;
        }
        let served = self.hosts[host].daemon.as_ref().is_some_and(|d| d.services_up);
        let live = self.hosts[host].is_live();
        let Some(databases) = self.databases.as_mut() else { return };
        let node = &databases.nodes[host];
        if !served {
            // The supervisor has stopped Samba.
            for client in node.processes.keys().copied().collect::<Vec<_>>() {
                self.process_ends(host, client);
            }
            return;
        }
        let member = node.server.as_ref().is_some_and(ctdb::server::Server::is_member);
        if live && member && node.processes.len() < PROCESSES && !databases.winding_down {
            return self.process_begins(host);
        }
        let Some((first, _)) = node.processes.first_key_value() else { return };
        let knows = node.server.is_some() && !member;
        if live && knows {
            // What others decide about now it must not go on with, whatever it was told before.
            let text = format!("process {} goes on, and n{host} knows that it was dropped", first.0);
            return self.object(text);
        }
        let which = databases.rng.index(node.processes.len());
        if let Some(client) = node.processes.keys().nth(which).copied() {
            self.process_works(host, client);
        }
    }

    fn process_begins(&mut self, host: usize) {
        let run = self.hosts[host].daemon.as_ref().map(|d| d.run);
        let now = self.now;
        let Some(databases) = self.databases.as_mut() else { return };
        // A node that others have dropped, and that does not know it yet.
        let lost = run.is_none_or(|run| !databases.truth.is_member(host, run));
        let client = databases.truth.begins(host, lost);
        let Some(pid) = databases.truth.people().get(client).map(|person| person.pid) else { return };
        let process = Process {
            doing: Doing::Nothing,
            since: now,
            packets: VecDeque::new(),
            address: Address::default(),
            has_spare_open: false,
        };
        databases.nodes[host].processes.insert(client, process);
        self.databases_input(host, Input::Connected { client, pid });
        let attach = |name: &str| format!("{name}\0").into_bytes();
        let volatile = self.control(host, client, node::CURRENT, Opcode::DB_ATTACH, 0, &attach(VOLATILE));
        let persistent =
            self.control(host, client, node::CURRENT, Opcode::DB_ATTACH_PERSISTENT, 0, &attach(PERSISTENT));
        self.doing(host, client, Doing::Attaches { volatile, persistent });
    }

    fn process_works(&mut self, host: usize, client: ClientId) {
        let Some(databases) = self.databases.as_mut() else { return };
        let Some(process) = databases.nodes[host].processes.get(&client) else { return };
        let come = |r: u32| process.packets.iter().any(|p| p.header.reqid == r);
        match process.doing {
            Doing::Attaches { volatile, persistent } => {
                if !come(volatile) || !come(persistent) {
                    return;
                }
                let fails =
                    [volatile, persistent].map(|r| databases.reply(host, client, r).is_none_or(|r| r.status != 0));
                if fails.contains(&true) {
                    self.allows_attaching(host, client);
                    return self.process_ends(host, client);
                }
                if databases.gives_copies {
                    let db = databases.volatile.to_ne_bytes();
                    self.control(host, client, node::CURRENT, Opcode::SET_DB_READONLY, 0, &db);
                }
                self.listens(host, client);
                self.doing(host, client, Doing::Nothing);
            }
            Doing::Reads { reqid, key, ref floor } => {
                if !come(reqid) {
                    return;
                }
                let floor = floor.clone();
                match databases.answer(host, client, reqid) {
                    Some(Body::CallReply(reply)) => {
                        self.has_read(host, client, key, &floor, &Counts::decode(&reply.data));
                    }
                    _ => self.process_ends(host, client),
                }
            }
            Doing::Nothing => self.process_begins_something(host, client),
            Doing::Waits { reqid, key } => {
                if databases.answer(host, client, reqid).is_some() {
                    self.try_key(host, client, key);
                }
            }
            Doing::Holds { key } => {
                let volatile = databases.volatile;
                if let Some(file) = databases.nodes[host].files.get_mut(&volatile) {
                    file.locked.remove(databases.truth.name(key));
                    file.go_on(&mut databases.answers);
                }
                self.files_answer(host, volatile);
                self.doing(host, client, Doing::Nothing);
            }
            Doing::Asks { reqid, node, process } => {
                if let Some(reply) = databases.reply(host, client, reqid) {
                    databases.done.questions += 1;
                    databases.done.dead += u64::from(reply.status != 0);
                    if reply.status != 0
                        && let Err(text) = self.may_be_dead(host, node, process)
                    {
                        self.object(text);
                    }
                    self.doing(host, client, Doing::Nothing);
                }
            }
            Doing::Commits { reqid, wanted } => {
                if let Some(reply) = databases.reply(host, client, reqid) {
                    if reply.status == 0 {
                        self.acknowledged(host, wanted);
                    }
                    if let Some(databases) = self.databases.as_mut() {
                        databases.truth.committing = None;
                    }
                    self.doing(host, client, Doing::Nothing);
                }
            }
            Doing::Traverses { .. } => self.traversing(host, client),
            Doing::Opens { reqid } => {
                if let Some(reply) = databases.reply(host, client, reqid) {
                    self.doing(host, client, Doing::Nothing);
                    if reply.status == 0 {
                        self.reads_registry(host);
                    }
                }
            }
            Doing::Spare(ref spare) => {
                let spare = spare.clone();
                self.goes_on_with_spare(host, client, spare);
            }
            Doing::Replaces(ref replacing) => {
                let replacing = replacing.clone();
                self.goes_on_replacing(host, client, replacing);
            }
        }
    }

    fn process_begins_something(&mut self, host: usize, client: ClientId) {
        let Some(databases) = self.databases.as_mut() else { return };
        if databases.winding_down {
            return;
        }
        let detaches = databases.spares.on;
        if detaches
            && databases.nodes[host].processes.get(&client).is_some_and(|p| p.has_spare_open)
            && databases.rng.index(3) == 0
        {
            return self.begins_with_spare(host, client);
        }
        match databases.rng.index(100) {
            // It ends; another one comes.
            0 => self.process_ends(host, client),
            1 => {
                // One in four first says whether its node is to know where records are.
                if client.0.is_multiple_of(4) {
                    let on = client.0 / 4 % 2;
                    self.control(host, client, node::CURRENT, Opcode::SET_LMASTERROLE, 0, &on.to_ne_bytes());
                }
                self.control(host, client, node::CURRENT, Opcode::SET_RECMODE, 0, &1u32.to_ne_bytes());
            }
            2..=11 => {
                // One of the newest.
                let people = databases.truth.people().iter();
                let which = databases.rng.index(people.len().min(40));
                let Some((process, person)) = people.rev().nth(which) else { return };
                let person = *person;
                let to = person.node as u32;
                let reqid = self.control(host, client, to, Opcode::PROCESS_EXISTS, 0, &person.pid.to_ne_bytes());
                self.doing(host, client, Doing::Asks { reqid, node: person.node, process });
            }
            12..=21 => self.commit(host, client),
            22..=25 => self.traverse(host, client),
            26..=40 => self.try_key(host, client, own_key(client)),
            41..=70 if databases.gives_copies => {
                let key = databases.rng.index(HOT);
                self.read(host, client, key);
            }
            41..=48 => self.says(host, client),
            49 => self.begins_to_replace(host, client),
            50..=51 => self.opens_registry(host, client),
            52..=54 if detaches => self.begins_with_spare(host, client),
            55..=56 if detaches => self.begins_to_detach(host, client),
            _ => {
                let key = databases.rng.index(HOT);
                self.try_key(host, client, key);
            }
        }
    }

    /// Locks the chain and counts, if the record is here; else has it brought.
    fn try_key(&mut self, host: usize, client: ClientId, key: usize) {
        let serves = self.may_serve(host) && !self.is_in_newest(host);
        let Some(databases) = self.databases.as_mut() else { return };
        let volatile = databases.volatile;
        let Some(file) = databases.nodes[host].files.get_mut(&volatile) else { return };
        let name = databases.truth.name(key);
        if file.is_locked(name) {
            return self.doing(host, client, Doing::Nothing);
        }
        let there = file.records.get_mut(name);
        let Some((value, header, mut counts)) = there.and_then(|value| {
            let (header, data) = LtdbHeader::split(value).ok()?;
            let here = header.dmaster == host as u32 && header.flags & record_flags::HAVE_DELEGATIONS == 0;
            let counts = here.then(|| Counts::decode(data))?;
            Some((value, header, counts))
        }) else {
            let call = Call {
                flags: call::flags::IMMEDIATE_MIGRATION,
                db: volatile,
                function: call::NULL,
                hops: 0,
                key: name.to_vec(),
                argument: Vec::new(),
            };
            let reqid = self.send_packet(host, client, 0, Body::Call(call));
            return self.doing(host, client, Doing::Waits { reqid, key });
        };
        let looked = databases.truth.check(key, client.0, &counts);
        counts.count(client.0);
        let header = LtdbHeader { flags: header.flags & !record_flags::AUTOMATIC, ..header };
        *value = header.to_bytes();
        counts.encode(value);
        file.locked.insert(name.to_vec());
        let generation = file.synced;
        let other = databases.nodes.iter().enumerate().find_map(|(other, node)| {
            let file = node.files.get(&volatile).filter(|f| other != host && !f.frozen && f.synced == generation)?;
            let (theirs, _) = LtdbHeader::split(file.records.get(name)?).ok()?;
            (node.server.is_some() && theirs.dmaster == other as u32).then_some(other)
        });
        let truth = &mut databases.truth;
        let lost = truth.is_lost(client.0);
        let grown = match lost {
            true if serves => truth.used_by_dropped(key, generation),
            true => Ok(()),
            false => truth.used(key, generation, header),
        };
        truth.count(key, client.0);
        databases.done.increments += 1;
        self.doing(host, client, Doing::Holds { key });
        if let Err(text) = looked.and(grown) {
            self.object(text);
        }
        if let Some(other) = other.filter(|_| !lost) {
            self.object(format!("n{host} and n{other} both hold key {key} in {generation:?}"));
        }
    }

    /// Reads a record in the node's file, if that may be read there; else asks for it, as Samba does: for a copy where an
    /// old one is there.
    fn read(&mut self, host: usize, client: ClientId, key: usize) {
        let Some(databases) = self.databases.as_mut() else { return };
        let volatile = databases.volatile;
        let Some(file) = databases.nodes[host].files.get(&volatile) else { return };
        let name = databases.truth.name(key);
        if file.is_locked(name) {
            return self.doing(host, client, Doing::Nothing);
        }
        let value = file.records.get(name);
        let floor = databases.truth.counted(key);
        let split = value.and_then(|v| LtdbHeader::split(v).ok());
        let copy = split.filter(|(header, _)| header.flags & record_flags::HAVE_READONLY != 0);
        if let Some((_, data)) = copy.or_else(|| split.filter(|(header, _)| header.dmaster == host as u32)) {
            databases.done.copies_read += u64::from(copy.is_some());
            let found = Counts::decode(data);
            return self.has_read(host, client, key, &floor, &found);
        }
        let flags = if value.is_some() { call::flags::WANT_READONLY } else { 0 };
        let call =
            Call { flags, db: volatile, function: call::FETCH, hops: 0, key: name.to_vec(), argument: Vec::new() };
        let reqid = self.send_packet(host, client, 0, Body::Call(call));
        self.doing(host, client, Doing::Reads { reqid, key, floor });
    }

    fn has_read(&mut self, host: usize, client: ClientId, key: usize, floor: &Counts, found: &Counts) {
        self.doing(host, client, Doing::Nothing);
        let Some(databases) = self.databases.as_mut() else { return };
        databases.done.reads += 1;
        if let Err(text) = databases.truth.read(key, client.0, floor, found) {
            self.object(text);
        }
    }

    /// "Dead" may be said of what has ended, or of a node that can do no harm any more.
    fn may_be_dead(&self, host: usize, node: usize, process: ClientId) -> Result<(), String> {
        let Some(databases) = self.databases.as_ref() else { return Ok(()) };
        let Some(person) = databases.truth.people().get(process).filter(|p| p.lives) else { return Ok(()) };
        let fresh = |h: usize| self.hosts[h].thawed_at.is_some_and(|at| self.now <= at + self.excused());
        let known_dropped = person.lost && !self.has_lease(node);
        // A node that was dropped itself and has not noticed asks and answers for nobody else's sake.
        if known_dropped || fresh(node) || fresh(host) || !self.is_in_newest(host) {
            return Ok(());
        }
        Err(format!("n{host} is told that process {} on n{node} is dead, and it lives", process.0))
    }

    /// By its own clock the node's lease is not over.
    fn has_lease(&self, node: usize) -> bool {
        let host = &self.hosts[node];
        host.runs() && host.clock.local(self.now) < host.core_lease
    }

    /// It has a lease, and none that stood still with its clock.
    fn may_serve(&self, node: usize) -> bool {
        let fresh = self.hosts[node].thawed_at.is_some_and(|at| self.now <= at + self.excused());
        self.has_lease(node) && !fresh
    }

    pub(super) fn is_in_newest(&self, host: usize) -> bool {
        let run = self.hosts[host].daemon.as_ref().map(|d| d.run);
        self.databases.as_ref().zip(run).is_some_and(|(d, run)| d.truth.is_member(host, run))
    }

    /// One transaction at a time, as Samba's lock on them sees to it.
    fn commit(&mut self, host: usize, client: ClientId) {
        let member = self.is_in_newest(host);
        let Some(databases) = self.databases.as_mut() else { return };
        // The lock of a process whose node was dropped is free: it is known to be dead.
        if let Some(holder) = databases.truth.committing
            && databases.truth.people().get(holder).is_some_and(|p| p.lives && !p.lost)
        {
            return;
        }
        let persistent = databases.persistent;
        let node = &databases.nodes[host];
        if !member || node.files.get(&persistent).is_none_or(|f| f.is_locked(SEQNUM)) {
            return;
        }
        let wanted = node.seqnum(persistent) + 1;
        databases.truth.committing = Some(client);
        let header = LtdbHeader { rsn: wanted, dmaster: host as u32, reserved: 0, flags: 0 };
        let data = [&header.to_bytes()[..], &wanted.to_ne_bytes()].concat();
        let record = |key: &[u8]| Record { reqid: 0, key: key.to_vec(), data: data.clone() };
        let mut out = Writer::default();
        RecordBuffer { db: persistent, records: vec![record(b"value"), record(SEQNUM)] }.put(&mut out);
        let reqid = self.control(host, client, node::CURRENT, Opcode::TRANS3_COMMIT, persistent.into(), &out.finish());
        self.doing(host, client, Doing::Commits { reqid, wanted });
    }

    /// A transaction is acknowledged: every member in the same generation has it.
    fn acknowledged(&mut self, host: usize, wanted: u64) {
        let Some(databases) = self.databases.as_mut() else { return };
        databases.done.commits += 1;
        databases.truth.committed = databases.truth.committed.max(wanted);
        let persistent = databases.persistent;
        let generation = databases.nodes[host].files.get(&persistent).map(|f| f.synced);
        let mut without = databases.nodes.iter().enumerate().filter(|(_, node)| {
            let same = node.server.as_ref().is_some_and(ctdb::server::Server::is_member)
                && node.files.get(&persistent).map(|f| f.synced) == generation;
            same && node.seqnum(persistent) < wanted
        });
        if let Some((other, _)) = without.next() {
            let text = format!("n{host} acknowledges transaction {wanted}, n{other} does not have it");
            drop(without);
            self.object(text);
        }
    }

    fn traverse(&mut self, host: usize, client: ClientId) {
        // Of nodes that cannot be reached nothing can be shown.
        let members = self.members();
        let all = members.iter().all(|m| *m == host || self.net.pair(host, *m).is_whole());
        let Some(databases) = self.databases.as_mut() else { return };
        let volatile = databases.volatile;
        databases.next_reqid += 1;
        let (number, srvid) = (databases.next_reqid, 0x7000_0000_0000_0000 | u64::from(databases.next_reqid));
        let truth = &databases.truth;
        // What a node has taken along that has just left is missing until the recovery.
        let place =
            |key: usize| databases.place(host, volatile, truth.name(key)).filter(|(at, _)| members.contains(at));
        let expects = truth.cold_keys().filter(|_| all).filter_map(|key| Some((key, place(key)?))).collect();
        let mark = databases.nodes[host].mark(volatile);
        self.control(host, client, node::CURRENT, Opcode::REGISTER_SRVID, srvid, &[]);
        let mut out = Writer::default();
        out.u32(volatile).u32(number).u64(srvid);
        self.control(host, client, node::CURRENT, Opcode::TRAVERSE_START, 0, &out.finish());
        self.doing(host, client, Doing::Traverses { srvid, seen: BTreeSet::new(), expects, mark });
    }

    fn traversing(&mut self, host: usize, client: ClientId) {
        let member = self.is_in_newest(host);
        let Some(databases) = self.databases.as_mut() else { return };
        let Some(process) = databases.nodes[host].processes.get_mut(&client) else { return };
        let Doing::Traverses { srvid, seen, .. } = &mut process.doing else { return };
        let mut done = false;
        for packet in process.packets.drain(..) {
            if let Body::Message(message) = packet.body
                && message.srvid == *srvid
            {
                match Record::get(&mut Reader::new(&message.data)) {
                    Ok(record) if !record.key.is_empty() => drop(seen.insert(record.key)),
                    _ => done = true,
                }
            }
        }
        if !done {
            return;
        }
        let Doing::Traverses { srvid, seen, expects, mark } = process.doing.clone() else { return };
        databases.done.traverses += 1;
        let (volatile, truth) = (databases.volatile, &databases.truth);
        // A recovery, a link that broke or a node that was dropped meanwhile excuses what is missing; so does a change of hands:
        // each node shows what it holds when it is its turn. A cold record changes hands where its process lives on a node that
        // is no location master, after each recovery.
        let excused = !member || mark.0.is_none() || mark != databases.nodes[host].mark(volatile);
        let missed = |(key, at): &&(usize, (usize, u64))| {
            let name = truth.name(*key);
            truth.is_kept(*key) && !seen.contains(name) && databases.place(host, volatile, name) == Some(*at)
        };
        let missing = expects.iter().filter(|_| !excused).find(missed).map(|(key, (at, _))| {
            let key = String::from_utf8_lossy(truth.name(*key));
            format!("a traverse on n{host} does not show {key}, which n{at} has held meanwhile")
        });
        self.control(host, client, node::CURRENT, Opcode::DEREGISTER_SRVID, srvid, &[]);
        self.doing(host, client, Doing::Nothing);
        if let Some(text) = missing {
            self.object(text);
        }
    }

    /// With everything at rest and nobody at work: what must be in the files.
    pub(crate) fn databases_at_rest(&mut self) {
        let members: Vec<usize> = self.members().into_iter().collect();
        let Some(databases) = self.databases.as_ref() else { return };
        let found = databases.truth.at_rest(&databases.nodes, &members, databases.volatile, databases.persistent);
        if let Err(text) =
            found.and_then(|()| databases.registry_at_rest(&members)).and_then(|()| databases.spare_at_rest(&members))
        {
            self.object(text);
        }
    }
}
