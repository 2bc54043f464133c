//! Records migrate between nodes while clients count in them, in any interleaving that a seed gives: of messages,
//! chain locks, clients, vacuuming and recoveries. Counters end exact, and nobody waits for ever.

#![allow(clippy::unwrap_used)]

mod common;

use common::Dice;
use ctdb::database::{Caller, Function, Message, Migration, Output, Token, Write};
use ctdb::wire::{LtdbHeader, record_flags as flag};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// Only reads: with a copy if there is an old one here, as Samba does.
    reads: bool,
    /// What was counted when it began to read.
    floor: u64,
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
    /// Keys whose counts have begun anew: what a read may give is not known.
    emptied: BTreeSet<Vec<u8>>,
    /// Reads of copies in a node's own file.
    read_locally: u64,
    steps: usize,
}

impl Client {
    fn has_read(&mut self) {
        self.left -= 1;
        self.state = if self.left == 0 { State::Done } else { State::Idle };
    }
}

fn is_delegated(value: &[u8]) -> bool {
    LtdbHeader::split(value).unwrap().0.flags & flag::HAVE_DELEGATIONS != 0
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
                reads: false,
                floor: 0,
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
            emptied: BTreeSet::new(),
            read_locally: 0,
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
            self.nodes[n].thaw(masters.clone(), masters.clone(), &mut out);
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
                Output::Reply { token, data } => {
                    let client = &mut self.clients[token.0 as usize];
                    assert_eq!(client.state, State::WaitsForReply, "answered once");
                    client.state = State::Idle;
                    if client.reads {
                        // With or without header.
                        let seen = LtdbHeader::split(&data).map_or(&data[..], |(_, data)| data);
                        let seen = seen.try_into().map_or(0, u64::from_le_bytes);
                        let count = self.counted.get(&client.key).copied().unwrap_or(0);
                        let emptied = self.emptied.contains(&client.key);
                        let good = (client.floor..=count).contains(&seen) || emptied;
                        assert!(good, "{token:?} reads {seen} of {} to {count}", client.floor);
                        client.has_read();
                    }
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

    /// It reads its file if that may be read, or asks the daemon.
    fn reader_under_lock(&mut self, c: usize) {
        let (node, key) = (self.clients[c].node, self.clients[c].key.clone());
        let value = self.files[node].records.get(&key).cloned();
        let count = self.counted.get(&key).copied().unwrap_or(0);
        let flags = value.as_deref().map_or(0, |v| LtdbHeader::split(v).unwrap().0.flags);
        let copy = flags & flag::HAVE_READONLY != 0;
        if let Some(value) = value.as_deref().filter(|_| copy || self.holds(node, &key)) {
            assert_eq!(counter(value), count, "{c} reads an old value of {key:?}");
            self.read_locally += u64::from(copy);
            self.clients[c].has_read();
            self.release(node, &key);
        } else {
            self.clients[c].state = State::WaitsForReply;
            self.clients[c].floor = count;
            self.release(node, &key);
            let function = if self.dice.roll(8) == 0 { Function::FetchWithHeader } else { Function::Fetch };
            let caller = Caller { token: Token(c as u64), function, reads: value.is_some() };
            let mut out = Vec::new();
            self.nodes[node].call(key.clone(), caller, &mut out);
            self.perform(node, out);
        }
    }

    fn client_under_lock(&mut self, c: usize) {
        if self.clients[c].reads {
            return self.reader_under_lock(c);
        }
        let (node, key) = (self.clients[c].node, self.clients[c].key.clone());
        let value = self.files[node].records.get(&key).cloned();
        if let Some(value) = value.filter(|v| self.holds(node, &key) && !is_delegated(v)) {
            let (header, _) = LtdbHeader::split(&value).unwrap();
            let seen = counter(&value);
            let count = self.counted.entry(key.clone()).or_default();
            assert_eq!(seen, *count, "{} reads an old value of {key:?}", c);
            *count += 1;
            let mut bytes = header.to_bytes();
            if self.clients[c].empties && self.dice.roll(2) == 0 {
                *count = 0;
                self.emptied.insert(key.clone());
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
            let caller = Caller { token: Token(c as u64), function: Function::Null, reads: false };
            let mut out = Vec::new();
            self.nodes[node].call(key.clone(), caller, &mut out);
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

/// Some of the clients only read; returns how often they read a copy in their node's file, and how many were given.
fn with_readers(seed: u64, empties: bool, recoveries: usize) -> (u64, u64) {
    let mut world = World::new(seed);
    world.nodes.iter_mut().for_each(Migration::give_copies);
    for c in 0..world.clients.len() {
        world.clients[c].reads = world.dice.roll(2) == 0;
        world.clients[c].left *= if world.clients[c].reads { 4 } else { 1 };
        world.clients[c].empties = empties;
    }
    world.run(recoveries);
    (world.read_locally, world.nodes.iter().map(|node| node.delegations().0).sum())
}

#[test]
fn what_is_read_from_a_copy_is_never_old() {
    let (mut read, mut given) = (0, 0);
    for seed in 3000..3300 {
        let (r, g) = with_readers(seed, seed % 4 == 0, (seed % 3) as usize * 2);
        (read, given) = (read + r, given + g);
    }
    assert!(given > 1000 && read > given, "{given} copies given, {read} times read: the test tests nothing");
}

/// One node's file and what it is told, by hand.
fn pass(node: &mut Migration, file: &mut Option<Vec<u8>>, key: &[u8]) -> Vec<Output> {
    let mut out = Vec::new();
    node.locked(key, file.as_deref(), &mut out);
    if let Output::Unlock { write: Write::Value(value), .. } = &out[0] {
        *file = Some(value.clone());
    }
    out.remove(0);
    out
}

#[test]
fn copies_are_taken_back_before_the_holder_writes() {
    let value =
        |rsn, dmaster, flags| Some([&LtdbHeader { rsn, dmaster, reserved: 0, flags }.to_bytes()[..], b"data"].concat());
    let header = |file: &Option<Vec<u8>>| LtdbHeader::split(file.as_deref().unwrap()).unwrap().0;
    // The only location master holds it.
    let (mut holder, mut held) = (Migration::new(0), value(5, 0, 0));
    let mut out = Vec::new();
    holder.give_copies();
    holder.thaw(vec![0], vec![0, 1, 2, 3], &mut out);
    let key = b"key".to_vec();
    for from in [1, 2] {
        holder.message(from, Message::WantCopy { key: key.clone() }, &mut out);
        let out = pass(&mut holder, &mut held, &key);
        let flags = flag::HAVE_READONLY | flag::MIGRATED_WITH_DATA;
        let message = Message::Copy { key: key.clone(), rsn: 5, flags, data: b"data".to_vec() };
        assert_eq!(out, [Output::Send { to: from, message }]);
        assert_eq!(header(&held).flags, flag::HAVE_DELEGATIONS | flag::MIGRATED_WITH_DATA);
    }
    // Its own clients read on; one wants to write.
    holder.call(key.clone(), Caller { token: Token(1), function: Function::Fetch, reads: true }, &mut out);
    assert_eq!(pass(&mut holder, &mut held, &key), [Output::Reply { token: Token(1), data: b"data".to_vec() }]);
    holder.call(key.clone(), Caller { token: Token(2), function: Function::Null, reads: false }, &mut out);
    let revokes = [1, 2].map(|to| Output::Send { to, message: Message::Revoke { key: key.clone() } });
    assert_eq!(pass(&mut holder, &mut held, &key), revokes);
    assert_ne!(header(&held).flags & flag::HAVE_DELEGATIONS, 0, "nobody may write yet");
    assert_ne!(header(&held).flags & flag::REVOKING_READONLY, 0);
    // Meanwhile a reader gets the value, for this once.
    holder.message(3, Message::WantCopy { key: key.clone() }, &mut out);
    let once = Message::Copy { key: key.clone(), rsn: 5, flags: flag::MIGRATED_WITH_DATA, data: b"data".to_vec() };
    assert_eq!(pass(&mut holder, &mut held, &key), [Output::Send { to: 3, message: once }]);
    holder.message(2, Message::Revoked { key: key.clone() }, &mut out);
    assert_eq!(pass(&mut holder, &mut held, &key), []);
    holder.message(1, Message::Revoked { key: key.clone() }, &mut out);
    assert_eq!(pass(&mut holder, &mut held, &key), [Output::Reply { token: Token(2), data: Vec::new() }]);
    assert_eq!((header(&held).flags, header(&held).rsn), (flag::MIGRATED_WITH_DATA, 6), "newer than the copies");
    assert_eq!(holder.delegations(), (2, 1));
    // Its turn to write; then copies are given again.
    let given = |out: &[Output]| matches!(out, [Output::Send { message: Message::Copy { flags, .. }, .. }] if flags & flag::HAVE_READONLY != 0);
    let mut alone = 0;
    loop {
        holder.message(1, Message::WantCopy { key: key.clone() }, &mut out);
        if given(&pass(&mut holder, &mut held, &key)) {
            break;
        }
        alone += 1;
    }
    assert_eq!(alone, 16);
}

#[test]
fn who_began_to_read_later_is_not_answered_with_a_value_for_once() {
    let (mut node, mut file) = (Migration::new(1), None);
    let mut out = Vec::new();
    let key = b"key".to_vec();
    node.give_copies();
    node.thaw(vec![0], vec![0, 1, 2, 3], &mut out);
    let reader = |n| Caller { token: Token(n), function: Function::Fetch, reads: true };
    node.call(key.clone(), reader(1), &mut out);
    let ask = [Output::Send { to: 0, message: Message::WantCopy { key: key.clone() } }];
    assert_eq!(pass(&mut node, &mut file, &key), ask);
    node.call(key.clone(), reader(2), &mut out);
    assert_eq!(pass(&mut node, &mut file, &key), []);
    let copy = |flags| Message::Copy { key: key.clone(), rsn: 5, flags, data: b"data".to_vec() };
    node.message(0, copy(0), &mut out);
    let first = Output::Reply { token: Token(1), data: b"data".to_vec() };
    assert_eq!(pass(&mut node, &mut file, &key), [first, ask[0].clone()], "the second asks again");
    assert_eq!(file, None);
    // A copy that stays answers all.
    node.call(key.clone(), reader(3), &mut out);
    pass(&mut node, &mut file, &key);
    node.message(0, copy(flag::HAVE_READONLY), &mut out);
    let both = [2, 3].map(|n| Output::Reply { token: Token(n), data: b"data".to_vec() });
    assert_eq!(pass(&mut node, &mut file, &key), both);
    let (header, _) = LtdbHeader::split(file.as_deref().unwrap()).unwrap();
    assert_eq!((header.dmaster, header.rsn, header.flags), (0, 5, flag::HAVE_READONLY));
    // Taken back it stays as an old one.
    node.message(0, Message::Revoke { key: key.clone() }, &mut out);
    let done = Output::Send { to: 0, message: Message::Revoked { key: key.clone() } };
    assert_eq!(pass(&mut node, &mut file, &key), [done]);
    assert_eq!(LtdbHeader::split(file.as_deref().unwrap()).unwrap().0.flags, 0);
}

#[test]
fn nothing_moves_before_the_first_recovery() {
    let mut node = Migration::new(0);
    let mut out = Vec::new();
    node.call(b"key".to_vec(), Caller { token: Token(1), function: Function::Fetch, reads: false }, &mut out);
    assert!(out.is_empty());
    node.thaw(vec![0], vec![0, 1, 2, 3], &mut out);
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
