//! Records migrate between nodes while clients count in them, in any interleaving that a seed gives: of messages,
//! chain locks, clients, vacuuming and recoveries. Counters end exact, and nobody waits for ever.

#![allow(clippy::unwrap_used)]

mod common;

use common::Dice;
use ctdb::database::{Caller, Function, Message, Migration, Output, Token, Write};
use ctdb::wire::LtdbHeader;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Daemon,
    Client(usize),
}

/// What one process of Samba does: counts up in a record under its chain lock.
#[derive(Debug)]
struct Client {
    node: usize,
    key: Vec<u8>,
    left: u32,
    /// Empties the record when it has counted (as a closed file's record is).
    empties: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    WaitsForLock,
    Locked,
    WaitsForReply,
    Done,
}

#[derive(Default)]
struct File {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Who holds a chain lock, and who waits for it.
    locks: BTreeMap<Vec<u8>, (Option<Owner>, Vec<Owner>)>,
}

struct World {
    dice: Dice,
    nodes: Vec<Migration>,
    files: Vec<File>,
    links: BTreeMap<(usize, usize), VecDeque<(u32, Message)>>,
    generations: Vec<u32>,
    generation: u32,
    clients: Vec<Client>,
    delete: Vec<Vec<Vec<u8>>>,
    counted: BTreeMap<Vec<u8>, u64>,
    steps: usize,
}

fn counter(value: &[u8]) -> u64 {
    let (_, data) = LtdbHeader::split(value).unwrap();
    data.try_into().map_or(0, u64::from_le_bytes)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = 2 + dice.roll(4);
        let keys = 1 + dice.roll(3);
        let clients = (0..2 + dice.roll(8))
            .map(|_| Client {
                node: dice.roll(count),
                key: format!("key{}", dice.roll(keys)).into_bytes(),
                left: 1 + dice.roll(12) as u32,
                empties: false,
                state: State::Idle,
            })
            .collect();
        let mut world = Self {
            dice,
            nodes: (0..count).map(|n| Migration::new(n as u32)).collect(),
            files: (0..count).map(|_| File::default()).collect(),
            links: BTreeMap::new(),
            generations: vec![1; count],
            generation: 1,
            clients,
            delete: vec![Vec::new(); count],
            counted: BTreeMap::new(),
            steps: 0,
        };
        world.recover();
        world
    }

    /// A recovery as a whole: everybody freezes, the newest copies win, everybody thaws, one after the other.
    fn recover(&mut self) {
        for node in &mut self.nodes {
            node.freeze();
        }
        // Freezing waits for the chain locks: clients finish what they do under one; the daemons let go of theirs.
        for node in 0..self.nodes.len() {
            loop {
                let held: Vec<_> =
                    self.files[node].locks.iter().filter_map(|(k, (o, _))| o.map(|o| (k.clone(), o))).collect();
                let Some((key, owner)) = held.into_iter().next() else { break };
                match owner {
                    Owner::Client(c) => self.client_under_lock(c),
                    Owner::Daemon => self.daemon_locked(node, &key),
                }
            }
        }
        let mut newest: BTreeMap<Vec<u8>, (LtdbHeader, Vec<u8>)> = BTreeMap::new();
        for file in &self.files {
            for (key, value) in &file.records {
                let (header, data) = LtdbHeader::split(value).unwrap();
                let better = newest.get(key).is_none_or(|(h, _)| header.rsn > h.rsn);
                if better {
                    newest.insert(key.clone(), (header, data.to_vec()));
                }
            }
        }
        self.generation += 1;
        let masters: Vec<u32> = (0..self.nodes.len() as u32).collect();
        let lead = self.dice.roll(self.nodes.len()) as u32;
        for (node, file) in self.files.iter_mut().enumerate() {
            file.records.clear();
            for (key, (header, data)) in newest.iter().filter(|(_, (_, data))| !data.is_empty()) {
                // The holder counts up when it stores; from then on its copy alone may change.
                let rsn = header.rsn + u64::from(lead as usize == node);
                let value = LtdbHeader { rsn, dmaster: lead, reserved: 0, flags: 0x0001_0000 };
                let mut bytes = value.to_bytes();
                bytes.extend_from_slice(data);
                file.records.insert(key.clone(), bytes);
            }
        }
        for generation in &mut self.generations {
            *generation = self.generation;
        }
        // In any order; those that have thawed already talk to those that have not.
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        while !order.is_empty() {
            let n = order.remove(self.dice.roll(order.len()));
            let mut out = Vec::new();
            self.nodes[n].thaw(masters.clone(), &mut out);
            self.perform(n, out);
            for _ in 0..self.dice.roll(6) {
                self.deliver();
            }
        }
    }

    fn perform(&mut self, node: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Lock(key) => self.ask(node, &key, Owner::Daemon),
                Output::Unlock { key, write } => {
                    match write {
                        Write::Nothing => {}
                        Write::Delete => {
                            self.files[node].records.remove(&key);
                        }
                        Write::Value(value) => {
                            self.files[node].records.insert(key.clone(), value);
                        }
                    }
                    self.check_one_holder(&key);
                    self.release(node, &key);
                }
                Output::Send { to, message } => {
                    assert_ne!(to as usize, node, "nobody sends to himself");
                    let item = (self.generations[node], message);
                    self.links.entry((node, to as usize)).or_default().push_back(item);
                }
                Output::Reply { token, .. } => {
                    let client = &mut self.clients[token.0 as usize];
                    assert_eq!(client.state, State::WaitsForReply, "answered once");
                    client.state = State::Idle;
                }
                Output::DeleteLater(key) => self.delete[node].push(key),
                Output::Inconsistent { why } => panic!("{why}"),
            }
        }
    }

    fn check_one_holder(&self, key: &[u8]) {
        let holders: Vec<_> = (0..self.nodes.len()).filter(|&n| self.holds(n, key)).collect();
        assert!(holders.len() < 2, "nodes {holders:?} hold {key:?}");
    }

    fn holds(&self, node: usize, key: &[u8]) -> bool {
        let value = self.files[node].records.get(key);
        value.is_some_and(|v| LtdbHeader::split(v).unwrap().0.dmaster == node as u32)
    }

    fn ask(&mut self, node: usize, key: &[u8], owner: Owner) {
        let lock = self.files[node].locks.entry(key.to_vec()).or_default();
        if lock.0.is_none() && lock.1.is_empty() {
            lock.0 = Some(owner);
        } else {
            lock.1.push(owner);
        }
        if let (Some(Owner::Client(c)), Owner::Client(_)) = (self.files[node].locks[key].0, owner) {
            self.clients[c].state = State::Locked;
        }
    }

    /// The next that gets it is anybody who waits: fcntl locks know no order.
    fn release(&mut self, node: usize, key: &[u8]) {
        let Some(lock) = self.files[node].locks.get_mut(key) else { panic!("not locked") };
        lock.0 = None;
        if lock.1.is_empty() {
            self.files[node].locks.remove(key);
            return;
        }
        let next = lock.1.remove(self.dice.roll(lock.1.len()));
        lock.0 = Some(next);
        if let Owner::Client(c) = next {
            self.clients[c].state = State::Locked;
        }
    }

    fn daemon_locked(&mut self, node: usize, key: &[u8]) {
        let value = self.files[node].records.get(key).cloned();
        let mut out = Vec::new();
        self.nodes[node].locked(key, value.as_deref(), &mut out);
        assert!(matches!(&out[0], Output::Unlock { key: k, .. } if k == key), "let go first");
        self.perform(node, out);
    }

    fn client_under_lock(&mut self, c: usize) {
        let (node, key) = (self.clients[c].node, self.clients[c].key.clone());
        let value = self.files[node].records.get(&key).cloned();
        if let Some(value) = value.filter(|_| self.holds(node, &key)) {
            let (header, _) = LtdbHeader::split(&value).unwrap();
            let seen = counter(&value);
            let count = self.counted.entry(key.clone()).or_default();
            assert_eq!(seen, *count, "{} reads an old value of {key:?}", c);
            *count += 1;
            let mut bytes = header.to_bytes();
            if self.clients[c].empties && self.dice.roll(2) == 0 {
                *count = 0;
                self.delete[node].push(key.clone());
            } else {
                bytes.extend_from_slice(&count.to_le_bytes());
            }
            self.files[node].records.insert(key.clone(), bytes);
            self.clients[c].left -= 1;
            self.clients[c].state = if self.clients[c].left == 0 { State::Done } else { State::Idle };
            self.release(node, &key);
        } else {
            self.clients[c].state = State::WaitsForReply;
            self.release(node, &key);
            let caller = Caller { token: Token(c as u64), function: Function::Null };
            let mut out = Vec::new();
            self.nodes[node].call(&key, caller, &mut out);
            self.perform(node, out);
        }
    }

    fn deliver(&mut self) -> bool {
        let busy: Vec<_> = self.links.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        if busy.is_empty() {
            return false;
        }
        let (from, to) = busy[self.dice.roll(busy.len())];
        let (generation, message) = self.links.get_mut(&(from, to)).unwrap().pop_front().unwrap();
        if generation == self.generations[to] {
            let mut out = Vec::new();
            self.nodes[to].message(from as u32, message, &mut out);
            self.perform(to, out);
        }
        true
    }

    fn step(&mut self) {
        self.steps += 1;
        match self.dice.roll(4) {
            0 => {
                self.deliver();
            }
            1 => {
                let node = self.dice.roll(self.nodes.len());
                let held: Vec<_> = self.files[node]
                    .locks
                    .iter()
                    .filter(|(_, (o, _))| *o == Some(Owner::Daemon))
                    .map(|(k, _)| k.clone())
                    .collect();
                if !held.is_empty() {
                    let key = held[self.dice.roll(held.len())].clone();
                    self.daemon_locked(node, &key);
                }
            }
            2 => {
                let c = self.dice.roll(self.clients.len());
                match self.clients[c].state {
                    State::Idle => {
                        self.clients[c].state = State::WaitsForLock;
                        let (node, key) = (self.clients[c].node, self.clients[c].key.clone());
                        self.ask(node, &key, Owner::Client(c));
                    }
                    State::Locked => self.client_under_lock(c),
                    State::WaitsForLock | State::WaitsForReply | State::Done => {}
                }
            }
            _ => {
                let node = self.dice.roll(self.nodes.len());
                if self.dice.roll(3) == 0
                    && let Some(key) = self.delete[node].pop()
                {
                    let mut out = Vec::new();
                    self.nodes[node].vacuum(&key, &mut out);
                    self.perform(node, out);
                }
            }
        }
    }

    fn run(&mut self, recoveries: usize) {
        let mut recoveries = recoveries;
        while self.clients.iter().any(|c| c.state != State::Done) {
            self.step();
            assert!(self.steps < 2_000_000, "somebody waits for ever: {:?}", self.clients);
            if recoveries > 0 && self.dice.roll(300) == 0 {
                recoveries -= 1;
                self.recover();
            }
        }
        // And then there is quiet.
        for _ in 0..20_000 {
            self.step();
        }
        assert!(self.links.values().all(VecDeque::is_empty));
        for (n, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.busy(), 0, "node {n} still does something");
        }
        for (key, count) in &self.counted {
            let holder = (0..self.nodes.len()).find(|&n| self.holds(n, key));
            let value = holder.map_or(0, |n| counter(&self.files[n].records[key]));
            assert_eq!(value, *count, "{key:?}");
        }
    }
}

#[test]
fn counters_are_exact_in_every_interleaving() {
    for seed in 0..200 {
        World::new(seed).run(0);
    }
}

#[test]
fn counters_survive_recoveries() {
    for seed in 1000..1200 {
        World::new(seed).run(4);
    }
}

#[test]
fn emptied_records_are_deleted_and_made_anew() {
    for seed in 2000..2200 {
        let mut world = World::new(seed);
        for client in &mut world.clients {
            client.empties = true;
        }
        let recoveries = (seed % 3) as usize;
        world.run(recoveries);
    }
}

#[test]
fn nothing_moves_before_the_first_recovery() {
    let mut node = Migration::new(0);
    let mut out = Vec::new();
    node.call(b"key", Caller { token: Token(1), function: Function::Fetch }, &mut out);
    assert!(out.is_empty());
    node.thaw(vec![0], &mut out);
    assert_eq!(out, [Output::Lock(b"key".to_vec())]);
    out.clear();
    node.locked(b"key", None, &mut out);
    let [Output::Unlock { write: Write::Value(value), .. }, Output::DeleteLater(_), Output::Reply { data, .. }] =
        &out[..]
    else {
        panic!("{out:?}")
    };
    let (header, empty) = LtdbHeader::split(value).unwrap();
    assert_eq!((header.dmaster, header.rsn, empty, &data[..]), (0, 1, &[][..], &[][..]));
}
