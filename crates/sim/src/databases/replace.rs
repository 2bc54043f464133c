//! `ctdb wipedb` and `ctdb restoredb`: somebody replaces the content of a database on all nodes, step by step, while faults
//! happen. Whatever comes between, the content is then the old one or the new one on all nodes, never a mix.

use super::{Databases, Doing, Node};
use crate::world::World;
use ctdb::control::Opcode;
use ctdb::node;
use ctdb::server::{ClientId, Server};
use ctdb::wire::{Body, LtdbHeader, Message, Record, RecordBuffer, Writer};
use std::collections::BTreeSet;

/// The database that is replaced; nobody commits to it.
const NAME: &str = "registry.tdb";
const SEQNUM: &[u8] = b"__db_sequence_number__\0";
const KEYS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
/// By this number the records come.
const SRVID: u64 = 0x7200_0000_0000_0000;
/// What is asked of every node, in this order. A wipe has no records to push.
const STEPS: [Opcode; 7] = [
    Opcode::DB_FREEZE,
    Opcode::DB_TRANSACTION_START,
    Opcode::WIPE_DATABASE,
    Opcode::DB_PUSH_START,
    Opcode::DB_PUSH_CONFIRM,
    Opcode::DB_TRANSACTION_COMMIT,
    Opcode::DB_THAW,
];

/// How far somebody has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replacing {
    /// Nodes that are asked: the members when it began.
    nodes: Vec<u32>,
    /// The new content: 0 is none.
    version: u64,
    /// The next of `STEPS`.
    next: usize,
    /// Answers that are awaited.
    awaited: Vec<u32>,
}

/// What may be in the database.
#[derive(Debug)]
pub(super) struct Registry {
    id: u32,
    /// Versions that may be there.
    possible: BTreeSet<u64>,
    newest: u64,
    /// Who replaces it; one at a time.
    by: Option<ClientId>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { id: ctdb::database_id(NAME), possible: BTreeSet::from([0]), newest: 0, by: None }
    }
}

impl Node {
    /// The version in this node's file, and under which generation; nothing while the daemon has the file locked.
    fn registry(&self, id: u32) -> Option<Result<u64, String>> {
        let file = self.files.get(&id)?;
        if file.frozen || !self.server.as_ref().is_some_and(Server::is_member) {
            return None;
        }
        let there: BTreeSet<(&[u8], u64)> = file.records.iter().filter(|(k, _)| *k != SEQNUM).map(version).collect();
        let versions: BTreeSet<u64> = there.iter().map(|(_, version)| *version).collect();
        Some(match (versions.len(), there.len()) {
            (0, _) => Ok(0),
            (1, n) if n == KEYS.len() => Ok(versions.first().copied().unwrap_or(0)),
            _ => Err(format!("{there:?}")),
        })
    }
}

fn version<'a>((key, value): (&'a Vec<u8>, &Vec<u8>)) -> (&'a [u8], u64) {
    (key.as_slice(), value.get(24..).and_then(|v| v.try_into().ok()).map_or(0, u64::from_ne_bytes))
}

impl World {
    /// Begins, if nobody else does it already.
    pub(super) fn begins_to_replace(&mut self, host: usize, client: ClientId) {
        let nodes: Vec<u32> = self.members().into_iter().map(|m| m as u32).collect();
        let Some(databases) = self.databases.as_mut() else { return };
        if let Some(by) = databases.registry.by
            && databases.truth.people().lives(by)
        {
            return;
        }
        let registry = &mut databases.registry;
        registry.by = Some(client);
        let wipe = databases.rng.chance(300_000);
        let version = if wipe { 0 } else { registry.newest + 1 };
        registry.newest = registry.newest.max(version);
        let name = format!("{NAME}\0").into_bytes();
        let awaited = self.control(host, client, node::CURRENT, Opcode::DB_ATTACH_PERSISTENT, 0, &name);
        let replacing = Replacing { nodes, version, next: 0, awaited: vec![awaited] };
        self.doing(host, client, Doing::Replaces(replacing));
    }

    /// The next step, when all nodes have answered the one before.
    pub(super) fn goes_on_replacing(&mut self, host: usize, client: ClientId, mut replacing: Replacing) {
        let members: Vec<u32> = self.members().into_iter().map(|m| m as u32).collect();
        let Some(databases) = self.databases.as_mut() else { return };
        let Some(process) = databases.nodes[host].processes.get(&client) else { return };
        let come = |r: &u32| process.packets.iter().any(|p| p.header.reqid == *r);
        if !replacing.awaited.iter().all(come) {
            return;
        }
        let replies: Vec<_> = replacing.awaited.iter().map(|r| databases.reply(host, client, *r)).collect();
        let refused = replies.iter().any(|reply| reply.as_ref().is_none_or(|r| r.status != 0));
        if refused || replacing.next == STEPS.len() {
            databases.registry.by = None;
            // All have written it, and nobody has come or gone whose copy could count for more.
            if !refused && members == replacing.nodes {
                databases.done.replaced += 1;
            }
            return self.doing(host, client, Doing::Nothing);
        }
        let step = STEPS[replacing.next];
        replacing.next += if step == Opcode::WIPE_DATABASE && replacing.version == 0 { 3 } else { 1 };
        if step == Opcode::DB_TRANSACTION_COMMIT {
            databases.registry.possible.insert(replacing.version);
        }
        if step == Opcode::DB_THAW && members == replacing.nodes {
            databases.registry.possible = BTreeSet::from([replacing.version]);
        }
        let id = databases.registry.id;
        let seqnum = databases.rng.range(1..=5);
        if step == Opcode::DB_PUSH_CONFIRM {
            self.push(host, client, &replacing, seqnum);
        }
        let more = match step {
            Opcode::DB_PUSH_START => [&0u32.to_ne_bytes()[..], &SRVID.to_ne_bytes()].concat(),
            Opcode::DB_TRANSACTION_START | Opcode::WIPE_DATABASE | Opcode::DB_TRANSACTION_COMMIT => {
                1u32.to_ne_bytes().to_vec()
            }
            _ => Vec::new(),
        };
        let data = [&id.to_ne_bytes()[..], &more].concat();
        replacing.awaited = replacing.nodes.iter().map(|n| self.control(host, client, *n, step, 0, &data)).collect();
        self.doing(host, client, Doing::Replaces(replacing));
    }

    fn push(&mut self, host: usize, client: ClientId, replacing: &Replacing, seqnum: u64) {
        let Some(databases) = self.databases.as_ref() else { return };
        let header = LtdbHeader { rsn: seqnum, dmaster: host as u32, reserved: 0, flags: 0 }.to_bytes();
        let record = |key: &[u8], value: u64| Record {
            reqid: 0,
            key: key.to_vec(),
            data: [&header[..], &value.to_ne_bytes()].concat(),
        };
        let mut records: Vec<Record> = KEYS.iter().map(|key| record(key, replacing.version)).collect();
        records.push(record(SEQNUM, seqnum));
        let db = databases.registry.id;
        // In two messages, so that half of it can be there.
        let rest = records.split_off(2);
        for records in [records, rest] {
            let mut data = Writer::default();
            RecordBuffer { db, records }.put(&mut data);
            let data = data.finish();
            for node in &replacing.nodes {
                self.send_packet(host, client, *node, Body::Message(Message { srvid: SRVID, data: data.clone() }));
            }
        }
    }

    /// A process opens it; then it can be read.
    pub(super) fn opens_registry(&mut self, host: usize, client: ClientId) {
        let name = format!("{NAME}\0").into_bytes();
        let reqid = self.control(host, client, node::CURRENT, Opcode::DB_ATTACH_PERSISTENT, 0, &name);
        self.doing(host, client, Doing::Opens { reqid });
    }

    /// A process that has opened it reads it.
    pub(super) fn reads_registry(&mut self, host: usize) {
        if !self.is_in_newest(host) {
            return;
        }
        if let Some(Err(text)) = self.databases.as_ref().map(|d| d.read_registry(host)) {
            self.object(text);
        }
    }
}

impl Databases {
    fn read_registry(&self, host: usize) -> Result<(), String> {
        let id = self.registry.id;
        let node = &self.nodes[host];
        let Some(there) = node.registry(id) else { return Ok(()) };
        let there = there.map_err(|mix| format!("{NAME} on n{host} is a mix: {mix}"))?;
        if !self.registry.possible.contains(&there) {
            return Err(format!("{NAME} on n{host} has version {there}, possible are {:?}", self.registry.possible));
        }
        let synced = |node: &Node| node.files.get(&id).map(|f| f.synced);
        for (other, peer) in
            self.nodes.iter().enumerate().filter(|(_, n)| synced(n).is_some() && synced(n) == synced(node))
        {
            match peer.registry(id) {
                Some(Ok(version)) if version != there => {
                    return Err(format!("{NAME} has version {there} on n{host} and {version} on n{other}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// At the end every member has it, and the same; unless somebody has just stopped it, and has not gone on.
    pub(super) fn registry_at_rest(&self, members: &[usize]) -> Result<(), String> {
        if members.iter().any(|m| self.nodes[*m].files.get(&self.registry.id).is_some_and(|file| file.frozen)) {
            return Ok(());
        }
        let version = |m: &usize| self.nodes[*m].registry(self.registry.id).unwrap_or(Ok(0));
        let versions: BTreeSet<u64> = members.iter().map(version).collect::<Result<_, _>>()?;
        if versions.len() > 1 || versions.iter().any(|v| !self.registry.possible.contains(v)) {
            return Err(format!("{NAME} has {versions:?} at rest, possible are {:?}", self.registry.possible));
        }
        Ok(())
    }
}
