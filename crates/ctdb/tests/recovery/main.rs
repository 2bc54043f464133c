//! Nodes fail and return while clients count in records that migrate and commit transactions. Whatever a seed makes of
//! it: no counter of a living holder is wrong, no acknowledged transaction is lost, all copies are equal in the end.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod files;

use common::Dice;
use ctdb::database::{
    Caller, Change, CommitOutput, Commits, Function, Kind, Message, Migration, Output, Stored, Token, Under, Write,
};
use ctdb::recovery::{Answer, Claim, Content, Edit, Effect, Generation, Have, Lead, Member, Phase, Word};
use ctdb::wire::{LtdbHeader, Record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const VOLATILE: u32 = 1;
const PERSISTENT: u32 = 2;
const SEQNUM: &[u8] = b"__db_sequence_number__\0";

#[derive(Clone, Debug)]
enum Said {
    Word(Word),
    Migration(Under<Message>),
    Change(Under<Change>),
}

/// What a database's own thread has still to do, in order.
#[derive(Debug)]
enum Work {
    Effect(Effect),
    Lock(Vec<u8>),
    Transact { asker: u32, id: u64, records: Vec<Record>, generation: Generation },
}

type File = BTreeMap<Vec<u8>, Vec<u8>>;

struct Node {
    alive: bool,
    member: Member,
    lead: Option<Lead>,
    migration: Migration,
    commits: Commits,
    volatile: File,
    persistent: File,
    synced: Generation,
    frozen: BTreeMap<u32, bool>,
    work: BTreeMap<u32, VecDeque<Work>>,
    /// Chain locks asked for while the file is frozen.
    blocked: Vec<Vec<u8>>,
    /// Its client has asked for a record.
    waits: Option<Vec<u8>>,
}

/// The one transaction that may run in the cluster (Samba's own lock sees to that).
#[derive(Debug)]
struct Transaction {
    node: usize,
    seqnum: u64,
}

struct World {
    dice: Dice,
    nodes: Vec<Node>,
    links: BTreeMap<(usize, usize), VecDeque<Said>>,
    epoch: u64,
    counted: BTreeMap<Vec<u8>, u64>,
    /// The least that counts after a failure, until somebody reads the record.
    at_least: BTreeMap<Vec<u8>, u64>,
    transaction: Option<Transaction>,
    acknowledged: u64,
    kills: usize,
    commits: usize,
    harmless_in: usize,
}

fn haves() -> [Have; 2] {
    [
        Have { db: VOLATILE, name: "locking.tdb".into(), kind: Kind::Volatile },
        Have { db: PERSISTENT, name: "secrets.tdb".into(), kind: Kind::Persistent },
    ]
}

fn number(value: Option<&Vec<u8>>) -> u64 {
    value.and_then(|v| LtdbHeader::split(v).unwrap().1.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn header(value: &[u8]) -> LtdbHeader {
    LtdbHeader::split(value).unwrap().0
}

impl Node {
    fn new(n: usize, persistent: File, synced: Generation) -> Self {
        let mut member = Member::new(n as u32);
        for have in haves() {
            member.found(have);
        }
        Self {
            alive: true,
            member,
            lead: None,
            migration: Migration::new(n as u32),
            commits: Commits::default(),
            volatile: File::new(),
            persistent,
            synced,
            frozen: BTreeMap::new(),
            work: BTreeMap::new(),
            blocked: Vec::new(),
            waits: None,
        }
    }

    fn open(&self, db: u32) -> bool {
        self.member.phase(db) == Some(Phase::Open) && !self.frozen.get(&db).copied().unwrap_or(true)
    }

    fn checksum(&self) -> u64 {
        self.persistent.iter().fold(7u64, |sum, (k, v)| {
            k.iter().chain(v).fold(sum, |s, b| s.wrapping_mul(1_000_003).wrapping_add(u64::from(*b) + 1))
        })
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = 2 + dice.roll(4);
        let kills = dice.roll(8);
        let commits = 5 + dice.roll(20);
        let nodes = (0..count).map(|n| Node::new(n, File::new(), Generation::default())).collect();
        let mut world = Self {
            dice,
            nodes,
            links: BTreeMap::new(),
            epoch: 0,
            counted: BTreeMap::new(),
            at_least: BTreeMap::new(),
            transaction: None,
            acknowledged: 0,
            kills,
            commits,
            harmless_in: 0,
        };
        world.view();
        world
    }

    fn living(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&n| self.nodes[n].alive).collect()
    }

    fn view(&mut self) {
        self.epoch += 1;
        let living = self.living();
        let members: Vec<u32> = living.iter().map(|n| *n as u32).collect();
        let leader = members[self.dice.roll(members.len())];
        for n in living {
            let mut effects = Vec::new();
            self.nodes[n].lead = None;
            self.nodes[n].member.view(self.epoch, &members, leader, &mut effects);
            self.effects(n, effects);
        }
        let mut orders = Vec::new();
        let idle = self.some_idle();
        let lead = Lead::begin(self.epoch, &members, &idle, false, &mut orders);
        self.nodes[leader as usize].lead = Some(lead);
        self.orders(leader as usize, orders);
        self.harmless_in = 1 + self.dice.roll(60);
    }

    /// Nobody, or some members: they are stopped.
    fn some_idle(&mut self) -> BTreeSet<u32> {
        let some = self.dice.roll(3);
        (0..some).map(|_| self.dice.roll(self.nodes.len()) as u32).collect()
    }

    fn stop_others(&mut self) {
        let idle = self.some_idle();
        for n in self.living() {
            let mut orders = Vec::new();
            if let Some(lead) = self.nodes[n].lead.as_mut() {
                lead.again(&idle, &mut orders);
            }
            self.orders(n, orders);
        }
    }

    fn orders(&mut self, from: usize, orders: Vec<(u32, Word)>) {
        for (to, word) in orders {
            self.send(from, to as usize, Said::Word(word));
        }
    }

    fn send(&mut self, from: usize, to: usize, said: Said) {
        if self.nodes[to].alive {
            self.links.entry((from, to)).or_default().push_back(said);
        }
    }

    fn effects(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, word } => self.send(n, to as usize, Said::Word(word)),
                Effect::Suspend(VOLATILE) => self.nodes[n].migration.freeze(),
                Effect::Suspend(_) => self.nodes[n].commits.freeze(),
                Effect::Create(_) | Effect::Finished(_) => {}
                Effect::Vacate { .. } | Effect::Leave(_) | Effect::Kept { .. } | Effect::Detached(_) => {
                    panic!("{effect:?}")
                }
                Effect::Freeze { db, .. }
                | Effect::Scan { db, .. }
                | Effect::Edit { db, .. }
                | Effect::Read { db, .. }
                | Effect::Dump { db, .. }
                | Effect::Replace { db, .. }
                | Effect::Prune { db, .. }
                | Effect::Thaw { db, .. } => self.nodes[n].work.entry(db).or_default().push_back(Work::Effect(effect)),
            }
        }
    }

    fn moves(&mut self, n: usize, out: Vec<Output>) {
        let generation = self.nodes[n].member.generation(VOLATILE).unwrap();
        for output in out {
            match output {
                Output::Lock(key) => self.nodes[n].work.entry(VOLATILE).or_default().push_back(Work::Lock(key)),
                Output::Unlock { key, write } => {
                    let before = self.nodes[n].volatile.clone();
                    match write {
                        Write::Nothing => continue,
                        Write::Delete => self.nodes[n].volatile.remove(&key),
                        Write::Value(value) => self.nodes[n].volatile.insert(key.clone(), value),
                    };
                    let mine = |f: &File| f.get(&key).is_some_and(|v| header(v).dmaster == n as u32);
                    if mine(&self.nodes[n].volatile) && !mine(&before) {
                        self.one_holder(&key);
                    }
                }
                Output::Send { to, message } => {
                    self.send(n, to as usize, Said::Migration(Under { generation, db: VOLATILE, what: message }));
                }
                Output::Reply { .. } => self.nodes[n].waits = None,
                Output::DeleteLater(_) => {}
                Output::Inconsistent { why } => panic!("epoch {}: {why}", self.epoch),
            }
        }
    }

    fn one_holder(&self, key: &[u8]) {
        let holders: Vec<_> = self
            .living()
            .into_iter()
            .filter(|&n| self.nodes[n].volatile.get(key).is_some_and(|v| header(v).dmaster == n as u32))
            .collect();
        assert!(holders.len() < 2, "nodes {holders:?} hold {key:?}");
    }

    fn commit_outputs(&mut self, n: usize, out: Vec<CommitOutput>) {
        let generation = self.nodes[n].member.generation(PERSISTENT).unwrap();
        for output in out {
            match output {
                CommitOutput::Send { to, change } => {
                    self.send(n, to as usize, Said::Change(Under { generation, db: PERSISTENT, what: change }));
                }
                CommitOutput::Transact { asker, id, records } => {
                    let work = Work::Transact { asker, id, records, generation };
                    self.nodes[n].work.entry(PERSISTENT).or_default().push_back(work);
                }
                CommitOutput::Reply { status, .. } => self.committed(n, status),
                CommitOutput::Trouble(why) => {
                    let mut effects = Vec::new();
                    self.nodes[n].member.trouble(PERSISTENT, why, &mut effects);
                    self.effects(n, effects);
                }
            }
        }
    }

    /// The client is told, and looks at its file where it is told to.
    fn committed(&mut self, n: usize, status: i32) {
        let transaction = self.transaction.take().unwrap();
        assert_eq!(transaction.node, n);
        let seen = number(self.nodes[n].persistent.get(SEQNUM));
        if status == 0 {
            assert_eq!(seen, transaction.seqnum, "visible here before it is acknowledged");
            for m in self.living() {
                let theirs = number(self.nodes[m].persistent.get(SEQNUM));
                assert_eq!(theirs, seen, "on node {m} before it is acknowledged");
            }
        } else {
            assert!(
                seen == transaction.seqnum || seen + 1 == transaction.seqnum,
                "Samba takes anything else for an error"
            );
        }
        if seen == transaction.seqnum {
            self.acknowledged = seen;
        }
    }

    fn deliver(&mut self) {
        let busy: Vec<_> = self.links.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        if busy.is_empty() {
            return;
        }
        let (from, to) = busy[self.dice.roll(busy.len())];
        let said = self.links.get_mut(&(from, to)).unwrap().pop_front().unwrap();
        let sender = from as u32;
        match said {
            Said::Word(word) => {
                let mut orders = Vec::new();
                let mut effects = Vec::new();
                if let Some(lead) = &mut self.nodes[to].lead {
                    lead.word(sender, word.clone(), &mut orders);
                }
                self.nodes[to].member.word(sender, word, &mut effects);
                self.orders(to, orders);
                self.effects(to, effects);
            }
            Said::Migration(under) if self.nodes[to].member.generation(under.db) == Some(under.generation) => {
                let mut out = Vec::new();
                self.nodes[to].migration.message(sender, under.what, &mut out);
                self.moves(to, out);
            }
            Said::Change(under) if self.nodes[to].member.generation(under.db) == Some(under.generation) => {
                let mut out = Vec::new();
                self.nodes[to].commits.change(sender, under.what, &mut out);
                self.commit_outputs(to, out);
            }
            Said::Migration(_) | Said::Change(_) => {}
        }
    }

    fn client(&mut self) {
        let living = self.living();
        let n = living[self.dice.roll(living.len())];
        if self.nodes[n].waits.is_none() {
            let key = format!("key{}", self.dice.roll(3)).into_bytes();
            let frozen = self.nodes[n].frozen.get(&VOLATILE).copied().unwrap_or(true);
            let value = self.nodes[n].volatile.get(&key).cloned();
            match value.filter(|v| header(v).dmaster == n as u32) {
                // Samba looks at the file alone: it goes on with what it has while its node thinks about the view.
                Some(value) if !frozen => {
                    let seen = number(Some(&value));
                    let count = self.counted.entry(key.clone()).or_default();
                    let least = self.at_least.remove(&key).unwrap_or(*count);
                    assert!(
                        (least..=*count).contains(&seen),
                        "node {n} reads {seen} of {key:?} in epoch {}, not {least} to {count}",
                        self.epoch
                    );
                    *count = seen + 1;
                    let bytes = [header(&value).to_bytes(), count.to_le_bytes().to_vec()].concat();
                    self.nodes[n].volatile.insert(key, bytes);
                }
                Some(_) => {}
                None => {
                    self.nodes[n].waits = Some(key.clone());
                    let mut out = Vec::new();
                    self.nodes[n].migration.call(
                        key,
                        Caller { token: Token(n as u64), function: Function::Null, reads: false },
                        &mut out,
                    );
                    self.moves(n, out);
                }
            }
        }
    }

    fn transact(&mut self) {
        let living = self.living();
        let n = living[self.dice.roll(living.len())];
        if self.transaction.is_some() || self.commits == 0 || !self.nodes[n].open(PERSISTENT) {
            return;
        }
        let seen = number(self.nodes[n].persistent.get(SEQNUM));
        assert!(seen >= self.acknowledged, "node {n} has {seen}, {} was acknowledged", self.acknowledged);
        let seqnum = seen + 1;
        let value = [LtdbHeader { rsn: seqnum, ..LtdbHeader::default() }.to_bytes(), seqnum.to_le_bytes().to_vec()];
        let record = |key: &[u8]| Record { reqid: 0, key: key.to_vec(), data: value.concat() };
        let mark = format!("by {n} in {}", self.epoch);
        let records = [record(SEQNUM), record(mark.as_bytes())];
        let mut out = Vec::new();
        if self.nodes[n].commits.commit(Token(99), &records, &mut out).is_ok() {
            self.commits -= 1;
            self.transaction = Some(Transaction { node: n, seqnum });
            self.commit_outputs(n, out);
        }
    }

    /// A node fails, or one that failed comes back. The cluster core sees to it that a view holds a member that has
    /// every commit: one that went on under the newest generation.
    fn fail_or_return(&mut self) {
        let n = self.dice.roll(self.nodes.len());
        if self.nodes[n].alive {
            let newest = self.nodes.iter().map(|x| x.synced).max().unwrap();
            let others: Vec<_> = self.living().into_iter().filter(|&m| m != n).collect();
            if !others.iter().any(|&m| self.nodes[m].synced == newest) {
                return;
            }
            let file = std::mem::take(&mut self.nodes[n].persistent);
            let synced = self.nodes[n].synced;
            self.lost_counts(n);
            self.nodes[n] = Node::new(n, file, synced);
            self.nodes[n].alive = false;
            self.links.retain(|(from, to), _| *from != n && *to != n);
            if self.transaction.as_ref().is_some_and(|t| t.node == n) {
                self.transaction = None;
            }
        } else {
            self.nodes[n].alive = true;
        }
        self.kills -= 1;
        self.view();
    }

    /// Counts of which only the failed node knew are gone, unless they had just been sent on: the newest other copy is
    /// the least that is left.
    fn lost_counts(&mut self, n: usize) {
        let keys: Vec<_> = self.counted.keys().cloned().collect();
        for key in keys {
            let held = self.nodes[n].volatile.get(&key).is_some_and(|v| header(v).dmaster == n as u32);
            // Given to it, and on the way or in its hands.
            let elsewhere =
                self.living().into_iter().filter(|&m| m != n).filter_map(|m| self.nodes[m].volatile.get(&key));
            let newest = elsewhere.max_by_key(|v| header(v).rsn).cloned();
            let holder_lives = self
                .living()
                .into_iter()
                .filter(|&m| m != n)
                .any(|m| self.nodes[m].volatile.get(&key).is_some_and(|v| header(v).dmaster == m as u32));
            if held || !holder_lives {
                let left = number(newest.as_ref());
                self.at_least.entry(key).and_modify(|least| *least = left.min(*least)).or_insert(left);
            }
        }
    }

    fn step(&mut self) {
        if self.harmless_in > 0 {
            self.harmless_in -= 1;
            if self.harmless_in == 0 {
                for n in self.living() {
                    let mut orders = Vec::new();
                    if let Some(lead) = &mut self.nodes[n].lead {
                        lead.harmless(&mut orders);
                    }
                    self.orders(n, orders);
                }
            }
        }
        let living = self.living();
        let n = living[self.dice.roll(living.len())];
        match self.dice.roll(8) {
            0..=2 => self.deliver(),
            3..=5 => self.work(n),
            6 => self.client(),
            _ => self.transact(),
        }
    }

    fn run(&mut self) {
        for _ in 0..40_000 {
            self.step();
            if self.kills > 0 && self.dice.roll(400) == 0 {
                self.fail_or_return();
            }
            if self.kills > 0 && self.dice.roll(900) == 0 {
                let living = self.living();
                let n = living[self.dice.roll(living.len())];
                let db = [VOLATILE, PERSISTENT][self.dice.roll(2)];
                let mut effects = Vec::new();
                self.nodes[n].member.trouble(db, "the test says so".into(), &mut effects);
                self.effects(n, effects);
            }
            if self.kills > 0 && self.dice.roll(900) == 0 {
                self.stop_others();
            }
        }
        for n in self.living() {
            for db in [VOLATILE, PERSISTENT] {
                assert!(self.nodes[n].open(db), "database {db} of node {n} does not go on: {:?}", self.waiting());
            }
        }
        // A transaction that is still under way is one that is just being made.
        self.commits = 0;
        while self.transaction.is_some() {
            self.step();
        }
        let sums: Vec<_> = self.living().into_iter().map(|n| self.nodes[n].checksum()).collect();
        assert!(sums.windows(2).all(|w| w[0] == w[1]), "all copies are equal");
        assert!(!self.counted.is_empty() && self.acknowledged > 0, "something was done");
    }

    fn waiting(&self) -> Vec<String> {
        let leads = self.nodes.iter().filter_map(|n| n.lead.as_ref());
        leads.flat_map(|l| l.waiting().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>()).collect()
    }
}

#[test]
fn counters_and_commits_survive_failures_of_nodes() {
    for seed in 0..100 {
        println!("seed {seed}");
        World::new(seed).run();
    }
}
