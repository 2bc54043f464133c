//! Whole servers, hurt at random: everything that is under way goes on in any order; nodes die, are cut off and dropped,
//! lose their lease and get it back, start anew; links break. Clients count in records, commit, and ask who is alive.
//!
//! What must hold: one holder of a record; what a node that was never dropped has counted is counted; what was committed
//! stays; nobody who lives is called dead; nobody waits for ever.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use common::Dice;
use ctdb::call;
use ctdb::control::Opcode;
use ctdb::node;
use ctdb::server::Input;
use ctdb::wire::{Body, Call, LtdbHeader, Record, RecordBuffer, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use world::{Client, World};

const KEYS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
const SEQNUM: &[u8] = b"__db_sequence_number__\0";
const NODES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Waits { reqid: u32, key: usize },
    Holds { key: usize },
    Asks { reqid: u32, node: usize, run: u32 },
}

struct Worker {
    client: Client,
    doing: Doing,
    left: u32,
}

struct Story {
    world: World,
    dice: Dice,
    volatile: u32,
    persistent: u32,
    workers: Vec<Worker>,
    /// By node and key: what its clients have counted.
    counted: BTreeMap<(usize, usize), u64>,
    /// Nodes that were dropped at some time: what their clients counted last may be lost.
    dropped: BTreeSet<usize>,
    committing: Option<(Client, u32, u64)>,
    committed: u64,
    /// Counts the lives of each node.
    runs: [u32; NODES],
}

/// Counts by node, as the data of a record.
fn vector(data: &[u8]) -> Vec<u64> {
    let mut counts: Vec<u64> = data.chunks(8).map(|c| world::number(Some(c))).collect();
    counts.resize(NODES, 0);
    counts
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut world = World::new(NODES as u32);
        let mut workers = Vec::new();
        let (mut volatile, mut persistent) = (0, 0);
        for n in 0..NODES {
            for _ in 0..2 {
                let client = world.connect(n, 100 + workers.len() as i32);
                volatile = world.attach(client, Opcode::DB_ATTACH, "locking.tdb").unwrap();
                persistent = world.attach(client, Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb").unwrap();
                workers.push(Worker { client, doing: Doing::Nothing, left: 20 });
            }
        }
        world.dice = Some(seed);
        Self {
            world,
            dice: Dice(seed),
            volatile,
            persistent,
            workers,
            counted: BTreeMap::new(),
            dropped: BTreeSet::new(),
            committing: None,
            committed: 0,
            runs: [0; NODES],
        }
    }

    fn lives(&self, n: usize) -> bool {
        self.world.nodes[n].alive
    }

    /// Is a client connected, on a node that runs?
    fn usable(&self, client: Client) -> bool {
        let n = client.node;
        self.lives(n) && self.runs[n] == 0 && !self.world.nodes[n].closed.contains(&client.id)
    }

    /// A worker does the next thing that it can do.
    fn work(&mut self, w: usize) {
        let Worker { client, doing, left } = self.workers[w];
        let n = client.node;
        let db = self.volatile;
        if !self.usable(client) {
            // The process has ended, and its locks with it.
            if let Doing::Holds { key } = doing {
                self.workers[w].doing = Doing::Nothing;
                if self.runs[n] == 0 {
                    self.world.unlock(n, db, KEYS[key]);
                }
            }
            return;
        }
        match doing {
            Doing::Nothing if left == 0 => {}
            Doing::Nothing if self.dice.roll(6) == 0 => {
                let other = self.dice.roll(NODES);
                let pid = 100 + 2 * other as i32;
                let reqid = self.world.control(client, other as u32, Opcode::PROCESS_EXISTS, 0, &pid.to_ne_bytes());
                self.workers[w].doing = Doing::Asks { reqid, node: other, run: self.runs[other] };
            }
            Doing::Nothing => {
                let key = self.dice.roll(KEYS.len());
                self.try_key(w, key);
            }
            Doing::Waits { reqid, key } => {
                if self.world.answer(client, reqid).is_some() {
                    self.try_key(w, key);
                }
            }
            Doing::Holds { key } => {
                self.workers[w].doing = Doing::Nothing;
                self.workers[w].left -= 1;
                self.world.unlock(n, db, KEYS[key]);
            }
            Doing::Asks { reqid, node, run } => {
                if let Some(Body::ControlReply(reply)) = self.world.answer(client, reqid) {
                    let same = self.lives(node) && self.runs[node] == run && !self.dropped.contains(&node);
                    assert!(reply.status == 0 || !same, "a process on living node {node} is called dead");
                    self.workers[w].doing = Doing::Nothing;
                }
            }
        }
    }

    /// Locks the chain and counts, if the record is here; else has it brought.
    fn try_key(&mut self, w: usize, key: usize) {
        let client = self.workers[w].client;
        let n = client.node;
        let file = self.world.nodes[n].files.get_mut(&self.volatile).unwrap();
        if file.is_locked(KEYS[key]) {
            self.workers[w].doing = Doing::Nothing;
            return;
        }
        let value = file.records.get(KEYS[key]).cloned().unwrap_or_default();
        match LtdbHeader::split(&value) {
            Ok((header, data)) if header.dmaster == n as u32 => {
                let mut counts = vector(data);
                counts[n] += 1;
                let mut value = header.to_bytes();
                counts.iter().for_each(|c| value.extend_from_slice(&c.to_ne_bytes()));
                file.records.insert(KEYS[key].to_vec(), value);
                file.locked.insert(KEYS[key].to_vec());
                *self.counted.entry((n, key)).or_default() += 1;
                self.workers[w].doing = Doing::Holds { key };
            }
            _ => {
                let call = Call {
                    flags: call::flags::IMMEDIATE_MIGRATION,
                    db: self.volatile,
                    function: call::NULL,
                    hops: 0,
                    key: KEYS[key].to_vec(),
                    argument: Vec::new(),
                };
                let reqid = self.world.send(client, 0, Body::Call(call));
                self.workers[w].doing = Doing::Waits { reqid, key };
            }
        }
    }

    /// One transaction at a time, as Samba's lock on them sees to it.
    fn commit(&mut self) {
        if let Some((client, reqid, wanted)) = self.committing {
            let n = client.node;
            if !self.usable(client) {
                // Whether it is committed nobody knows; the next one looks.
                self.committing = None;
                return;
            }
            if let Some(Body::ControlReply(reply)) = self.world.answer(client, reqid) {
                let there = self.seqnum(n);
                assert!(reply.status != 0 || there >= wanted, "an acknowledged transaction is not here");
                if there >= wanted {
                    self.committed = self.committed.max(wanted);
                }
                self.committing = None;
            }
            return;
        }
        let Some(client) = self.workers.iter().map(|w| w.client).nth(self.dice.roll(2 * NODES)) else { return };
        let n = client.node;
        if !self.usable(client) || self.world.nodes[n].files.get(&self.persistent).is_none_or(|f| f.is_locked(SEQNUM)) {
            return;
        }
        let wanted = self.seqnum(n) + 1;
        let header = LtdbHeader { rsn: wanted, dmaster: n as u32, reserved: 0, flags: 0 };
        let data = [&header.to_bytes()[..], &wanted.to_ne_bytes()].concat();
        let record = |key: &[u8]| Record { reqid: 0, key: key.to_vec(), data: data.clone() };
        let mut out = Writer::default();
        RecordBuffer { db: self.persistent, records: vec![record(b"value"), record(SEQNUM)] }.put(&mut out);
        let reqid =
            self.world.control(client, node::CURRENT, Opcode::TRANS3_COMMIT, self.persistent.into(), &out.finish());
        self.committing = Some((client, reqid, wanted));
    }

    fn seqnum(&self, n: usize) -> u64 {
        let file = &self.world.nodes[n].files[&self.persistent];
        world::number(file.records.get(SEQNUM).and_then(|v| v.get(24..)))
    }

    /// Something goes wrong, or is mended.
    fn hurt(&mut self) {
        let members: Vec<u32> = self.world.members.iter().copied().collect();
        let n = self.dice.roll(NODES);
        let member = members.contains(&(n as u32));
        match self.dice.roll(5) {
            // A node dies or is cut off, and is dropped.
            0 if member && members.len() > 2 => {
                let rest: Vec<u32> = members.iter().copied().filter(|m| *m as usize != n).collect();
                self.dropped.insert(n);
                if self.dice.roll(2) == 0 {
                    self.world.kill(n);
                } else {
                    let picture = self.world.picture(n, false, false);
                    self.world.input(n, Input::Picture(Box::new(picture)));
                    for m in (0..NODES).filter(|m| *m != n) {
                        self.world.cut.insert((n, m));
                        self.world.cut.insert((m, n));
                    }
                }
                let quick = self.dice.roll(2) == 0;
                self.world.view_but(&rest, quick);
            }
            // It comes back, with a daemon that starts anew or one that goes on.
            1 if !member => {
                if !self.lives(n) || self.dice.roll(2) == 0 {
                    if self.lives(n) {
                        self.world.kill(n);
                    }
                    self.runs[n] += 1;
                    self.world.restart(n);
                }
                for m in (0..NODES).filter(|m| *m != n) {
                    let was = self.world.cut.remove(&(n, m)) | self.world.cut.remove(&(m, n));
                    if was && self.lives(m) {
                        self.world.break_link(n, m);
                    }
                }
                let mut more = members.clone();
                more.push(n as u32);
                more.sort_unstable();
                self.world.view_but(&more, true);
            }
            2 if member && self.lives(n) => {
                let m = self.dice.roll(NODES);
                if m != n && self.lives(m) && members.contains(&(m as u32)) {
                    self.world.break_link(n, m);
                }
            }
            // A lease is lost and comes back.
            3 if member && self.lives(n) => {
                let leased = self.dice.roll(2) == 0;
                let picture = self.world.picture(n, leased, true);
                self.world.input(n, Input::Picture(Box::new(picture)));
            }
            4 if member && self.lives(n) => {
                let workers: Vec<Client> = self.workers.iter().map(|w| w.client).filter(|c| c.node == n).collect();
                if self.dice.roll(2) == 0 {
                    let on = (self.dice.roll(2) as u32).to_ne_bytes();
                    self.world.control(workers[0], node::CURRENT, Opcode::SET_LMASTERROLE, 0, &on);
                }
                self.world.control(workers[0], node::CURRENT, Opcode::SET_RECMODE, 0, &1u32.to_ne_bytes());
            }
            _ => {}
        }
    }

    /// All that is broken is mended, everything comes to rest, everybody who waits gets what he waits for.
    fn end(mut self) {
        let leases: Vec<usize> = (0..NODES).filter(|n| self.lives(*n)).collect();
        for n in leases {
            let picture = self.world.picture(n, true, true);
            self.world.input(n, Input::Picture(Box::new(picture)));
        }
        for _ in 0..400 {
            while self.world.step(&mut self.dice) {}
            for w in 0..self.workers.len() {
                self.work(w);
            }
            self.commit();
            self.world.later(Duration::from_millis(200));
        }
        while self.world.step(&mut self.dice) {}
        let members: Vec<usize> = self.world.members.iter().map(|m| *m as usize).collect();
        for worker in &self.workers {
            let n = worker.client.node;
            if members.contains(&n)
                && self.lives(n)
                && !self.world.nodes[n].closed.contains(&worker.client.id)
                && self.runs[n] == 0
            {
                let waits: Vec<_> = self.world.nodes.iter().map(|n| n.server.waiting()).collect();
                assert_eq!(
                    (worker.left, worker.doing),
                    (0, Doing::Nothing),
                    "a client on node {n} waits for ever ({waits:?})"
                );
            }
        }
        for (k, key) in KEYS.iter().enumerate() {
            let holders: Vec<Vec<u64>> = members
                .iter()
                .filter_map(|n| {
                    let value = self.world.nodes[*n].files.get(&self.volatile)?.records.get(*key)?;
                    let (header, data) = LtdbHeader::split(value).ok()?;
                    (header.dmaster == *n as u32).then(|| vector(data))
                })
                .collect();
            assert!(holders.len() <= 1, "{} holders of {key:?}", holders.len());
            for n in (0..NODES).filter(|n| !self.dropped.contains(n)) {
                let counted = self.counted.get(&(n, k)).copied().unwrap_or(0);
                let there = holders.first().map_or(0, |counts| counts[n]);
                assert_eq!(there, counted, "node {n} has counted {counted} in {key:?}");
            }
        }
        for n in members {
            assert!(self.seqnum(n) >= self.committed, "transaction {} is not on node {n}", self.committed);
        }
    }
}

fn run(seed: u64, faults: usize) {
    let mut story = Story::new(seed);
    for _ in 0..faults * 60 {
        match story.dice.roll(60) {
            0 => story.hurt(),
            1 => {
                story.commit();
            }
            2 => {
                let leader = story.world.leader_of();
                if let Some(leader) = leader.filter(|l| story.lives(*l)) {
                    let picture = story.world.picture(leader, true, true);
                    story.world.input(leader, Input::Picture(Box::new(picture)));
                }
            }
            3..=20 => {
                let w = story.dice.roll(story.workers.len());
                story.work(w);
            }
            _ => {
                story.world.step(&mut story.dice);
            }
        }
    }
    story.end();
}

#[test]
fn nothing_is_lost_without_faults() {
    for seed in 0..20 {
        run(seed, 0);
    }
}

#[test]
fn hurt_at_random() {
    let (first, seeds) = (
        std::env::var("CTDB_CHAOS_FIRST").ok().and_then(|v| v.parse().ok()).unwrap_or(0),
        std::env::var("CTDB_CHAOS_SEEDS").ok().and_then(|v| v.parse().ok()).unwrap_or(100),
    );
    for seed in first..first + seeds {
        let told = std::panic::catch_unwind(|| run(seed, 10));
        if let Err(why) = told {
            eprintln!("seed {seed}: CTDB_CHAOS_FIRST={seed} CTDB_CHAOS_SEEDS=1 cargo test -p ctdb --test chaos");
            std::panic::resume_unwind(why);
        }
    }
}
