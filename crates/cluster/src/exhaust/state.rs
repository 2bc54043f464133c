//! A state of the model: whole arbiters, their disks, the wire, the records beside the lock.

use crate::arbiter::Arbiter;
use crate::lease::Lease;
use crate::{
    Ballot, Durable, Epoch, Grant, Incarnation, LockRecord, Member, Message, NodeUid, Output, Pnn, Rules, RunId, Time,
    Timing, View,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// When everything happens.
const NOW: Time = Time(1_000_000_000);

/// What keeps the records beside the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Records {
    /// One record per node: write the own one, then read all. What the daemon does.
    Each,
    /// One record for all, read and then written, as the first text of the design had it.
    One,
}

/// What can happen to one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Loss {
    None,
    /// It has forgotten its votes and kept its name, as a snapshot that was rolled back: no rule survives that.
    Forgets,
    /// It is a new one with a new name.
    Replaced,
}

/// What is explored.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) nodes: u16,
    /// May the lock break ties?
    pub(super) lock: bool,
    pub(super) records: Records,
    /// Views that may be decided one after the other.
    pub(super) epochs: u64,
    /// Proposals in all.
    pub(super) attempts: u8,
    /// Crashes with restart, in all. Zero: disks write at once.
    pub(super) crashes: u8,
    /// What one of these crashes may do to a disk.
    pub(super) loss: Loss,
    /// Every set of nodes is wished for; otherwise all, and the proposer alone.
    pub(super) all_wishes: bool,
    /// Who may propose, as a mask.
    pub(super) proposers: u16,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) arbiter: Arbiter,
    run: u64,
    disk: Durable,
    writes: VecDeque<(u64, Durable)>,
    /// One helper does one exchange at a time: (ticket, record, written).
    exchanges: VecDeque<(u64, LockRecord, bool)>,
    /// What the shared record said when it was read ([`Records::One`]).
    read: Option<Vec<LockRecord>>,
    hash: u64,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Wishes for the nodes of this mask.
    Propose(u16, u16),
    GiveUp(u16),
    Deliver(u16),
    Written(u16),
    AskLock(u16),
    RecordStep(u16),
    RecordLost(u16),
    Learn(u16, u8),
    Crash(u16),
    LoseDisk(u16),
}

#[derive(Clone, Debug)]
pub(super) struct State {
    nodes: Vec<Rc<Node>>,
    /// With the hash of each.
    wire: Vec<(Pnn, Pnn, Rc<Message>, u64)>,
    records: BTreeMap<Pnn, LockRecord>,
    /// View 0 and what was decided since; what cannot be known to any node is known here.
    decided: Vec<Rc<View>>,
    attempts: u8,
    crashes: u8,
    loss: Loss,
    split: Option<String>,
}

fn uid(i: u16) -> NodeUid {
    NodeUid(0x100 + u128::from(i))
}

/// Much faster than the standard library's, and good enough to tell some millions of states apart.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }
    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }
    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        self.0 = (mixed ^ (mixed >> 29)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 ^= self.0 >> 32;
    }
    fn write_u128(&mut self, n: u128) {
        self.write_u64(n as u64);
        self.write_u64((n >> 64) as u64);
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = Quick::default();
    value.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn names(set: impl IntoIterator<Item = Pnn>) -> String {
    set.into_iter().map(|p| char::from(b'A' + u8::try_from(p.0).unwrap_or(0))).collect()
}

impl State {
    pub(super) fn first(b: &Bounds) -> Self {
        let voters: Vec<u16> = (0..b.nodes).collect();
        let view = View {
            incarnation: Incarnation::default(),
            epoch: Epoch(1),
            members: voters
                .iter()
                .map(|i| (Pnn(*i), Member { uid: uid(*i), run: RunId(1), since: Epoch(1) }))
                .collect(),
            voters: voters.iter().map(|i| (Pnn(*i), uid(*i))).collect(),
            rules: Rules { lock: b.lock },
            keepers: BTreeSet::new(),
            evicted: BTreeMap::new(),
            because: String::new(),
        };
        let nodes = (0..b.nodes)
            .map(|i| {
                let durable = Durable { view: Some(view.clone()), ..Durable::blank(Pnn(i), uid(i)) };
                let mut node = Node {
                    arbiter: Arbiter::new(Pnn(i), Timing::default(), durable.clone(), 1, NOW),
                    run: 1,
                    disk: durable,
                    writes: VecDeque::new(),
                    exchanges: VecDeque::new(),
                    read: None,
                    hash: 0,
                };
                node.rehash();
                Rc::new(node)
            })
            .collect();
        Self {
            nodes,
            wire: Vec::new(),
            records: BTreeMap::new(),
            decided: vec![Rc::new(view)],
            attempts: b.attempts,
            crashes: b.crashes,
            loss: b.loss,
            split: None,
        }
    }

    pub(super) fn hash(&self) -> u64 {
        let wire = self.wire.iter().fold(0u64, |sum, m| sum.wrapping_add(m.3));
        let nodes: Vec<u64> = self.nodes.iter().map(|n| n.hash).collect();
        hash_of(&(nodes, wire, &self.records, &self.decided, self.attempts, self.crashes, self.loss))
    }

    fn uid(&self, i: u16) -> NodeUid {
        self.nodes[usize::from(i)].arbiter.durable.uid
    }

    fn rank(&self, i: u16) -> Epoch {
        self.nodes[usize::from(i)].arbiter.view().map_or(Epoch(0), |v| v.epoch)
    }

    /// Everything that can happen next.
    pub(super) fn actions(&self, b: &Bounds) -> Vec<Action> {
        let mut all = Vec::new();
        for at in 0..self.wire.len() {
            all.push(Action::Deliver(u16::try_from(at).unwrap_or(u16::MAX)));
        }
        for i in 0..b.nodes {
            let node = &self.nodes[usize::from(i)];
            let proposing = node.arbiter.proposing();
            if self.attempts > 0 && proposing {
                all.push(Action::GiveUp(i));
            }
            let votes = node.arbiter.view().is_some_and(|v| v.is_voter(Pnn(i), node.arbiter.durable.uid));
            if self.attempts > 0 && b.proposers & (1 << i) != 0 && !proposing && votes && self.rank(i).0 <= b.epochs {
                if node.arbiter.durable.accepted.is_some() {
                    all.push(Action::Propose(i, 0));
                } else {
                    let full = (1u16 << b.nodes) - 1;
                    for mask in (1..=full).filter(|m| m & (1 << i) != 0) {
                        if b.all_wishes || mask == full || mask == 1 << i {
                            all.push(Action::Propose(i, mask));
                        }
                    }
                }
            }
            if !node.writes.is_empty() {
                all.push(Action::Written(i));
            }
            if b.lock && node.arbiter.needs_lock() {
                all.push(Action::AskLock(i));
            }
            if !node.exchanges.is_empty() {
                all.push(Action::RecordStep(i));
                if node.exchanges.len() > 1 {
                    all.push(Action::RecordLost(i));
                }
            }
            for (at, view) in self.decided.iter().enumerate() {
                if view.epoch > self.rank(i) {
                    all.push(Action::Learn(i, u8::try_from(at).unwrap_or(u8::MAX)));
                }
            }
            if self.crashes > 0 {
                all.push(Action::Crash(i));
                if self.loss != Loss::None {
                    all.push(Action::LoseDisk(i));
                }
            }
        }
        all
    }

    fn node(&mut self, i: u16) -> &mut Node {
        Rc::make_mut(&mut self.nodes[usize::from(i)])
    }

    /// The state after it.
    pub(super) fn after(&self, action: Action, b: &Bounds) -> Self {
        let mut s = self.clone();
        let mut out = Vec::new();
        let who = match action {
            Action::Propose(i, mask) => {
                s.attempts -= 1;
                let Some(view) = s.node(i).arbiter.view().cloned() else { return s };
                let wish = match &s.nodes[usize::from(i)].arbiter.durable.accepted {
                    Some(accepted) => accepted.view.clone(),
                    None => s.wish(&view, mask),
                };
                s.node(i).arbiter.propose(NOW, wish, &mut out);
                i
            }
            Action::GiveUp(i) => {
                s.node(i).arbiter.tick(NOW + Timing::default().proposal * 2, &mut out);
                i
            }
            Action::Deliver(at) => {
                let (from, to, message, _) = s.wire.swap_remove(usize::from(at));
                s.node(to.0).arbiter.message(NOW, from, Rc::unwrap_or_clone(message), &mut out);
                to.0
            }
            Action::Written(i) => {
                let node = s.node(i);
                if let Some((ticket, state)) = node.writes.pop_front() {
                    node.disk = state;
                    node.arbiter.persisted(NOW, ticket, &mut out);
                }
                i
            }
            Action::AskLock(i) => {
                let arbiter = &mut s.node(i).arbiter;
                arbiter.lock_held = true;
                arbiter.ask_lock(&mut out);
                arbiter.lock_held = false;
                i
            }
            Action::RecordStep(i) => {
                s.record_step(i, b.records, &mut out);
                i
            }
            Action::RecordLost(i) => {
                let node = s.node(i);
                node.exchanges.pop_front();
                node.read = None;
                i
            }
            Action::Learn(i, at) => {
                let view = View::clone(&s.decided[usize::from(at)]);
                s.node(i).arbiter.learn(NOW, view, &mut out);
                i
            }
            Action::Crash(i) | Action::LoseDisk(i) => {
                s.crashes -= 1;
                let loss = s.loss;
                let node = s.node(i);
                match (action, loss) {
                    (Action::LoseDisk(_), Loss::Replaced) => {
                        node.disk = Durable::blank(Pnn(i), NodeUid(0x200 + u128::from(i)));
                    }
                    (Action::LoseDisk(_), _) => {
                        node.disk.promised = Ballot::ZERO;
                        node.disk.accepted = None;
                    }
                    _ => {}
                }
                if matches!(action, Action::LoseDisk(_)) {
                    s.loss = Loss::None;
                }
                let node = s.node(i);
                node.run += 1;
                node.arbiter = Arbiter::new(Pnn(i), Timing::default(), node.disk.clone(), 1, NOW);
                node.writes.clear();
                node.exchanges.clear();
                node.read = None;
                i
            }
        };
        s.obey(who, out);
        s.forget_the_void();
        s
    }

    fn wish(&self, view: &View, mask: u16) -> View {
        let set: Vec<u16> = (0..16).filter(|i| mask & (1 << i) != 0).collect();
        let epoch = view.epoch.next();
        let members = set.iter().map(|i| {
            let run = RunId(self.nodes[usize::from(*i)].run);
            let since = view.members.get(&Pnn(*i)).filter(|m| m.run == run).map_or(epoch, |m| m.since);
            (Pnn(*i), Member { uid: self.uid(*i), run, since })
        });
        View {
            epoch,
            members: members.collect(),
            voters: set.iter().map(|i| (Pnn(*i), self.uid(*i))).collect(),
            ..view.clone()
        }
    }

    /// Carries out what a node's arbiter wants done.
    fn obey(&mut self, i: u16, mut out: Vec<Output>) {
        let sync = self.crashes == 0;
        loop {
            for output in std::mem::take(&mut out) {
                match output {
                    Output::Send { to, message } => {
                        let hash = hash_of(&(i, to, &message));
                        self.wire.push((Pnn(i), to, Rc::new(message), hash));
                    }
                    Output::Persist { ticket, state } => self.node(i).writes.push_back((ticket, *state)),
                    Output::Exchange { ticket, record } => self.node(i).exchanges.push_back((ticket, *record, false)),
                    _ => {}
                }
            }
            if let Some(decision) = self.node(i).arbiter.decisions.pop_front() {
                self.is_decided(&decision.view);
                self.node(i).arbiter.learn(NOW, decision.view, &mut out);
            } else if sync && !self.nodes[usize::from(i)].writes.is_empty() {
                let node = self.node(i);
                while let Some((ticket, state)) = node.writes.pop_front() {
                    node.disk = state;
                    node.arbiter.persisted(NOW, ticket, &mut out);
                }
            } else {
                break;
            }
        }
        self.node(i).rehash();
    }

    fn is_decided(&mut self, view: &View) {
        let known = self.decided.iter().find(|v| v.epoch == view.epoch);
        match known {
            None => self.decided.push(Rc::new(view.clone())),
            Some(v) if **v == *view => {}
            Some(v) => {
                let (a, b) = (names(v.members.keys().copied()), names(view.members.keys().copied()));
                self.split = Some(format!("view {} is decided twice: {{{a}}} and {{{b}}}", view.epoch));
            }
        }
    }

    fn record_step(&mut self, i: u16, kind: Records, out: &mut Vec<Output>) {
        let shared = Pnn(u16::MAX);
        let Some((ticket, record, written)) = self.node(i).exchanges.front().cloned() else { return };
        match kind {
            Records::Each if !written => {
                self.records.insert(Pnn(i), record);
                if let Some(front) = self.node(i).exchanges.front_mut() {
                    front.2 = true;
                }
            }
            Records::Each => {
                let all = self.records.values().cloned().collect();
                let node = self.node(i);
                node.exchanges.pop_front();
                node.arbiter.records(NOW, ticket, Ok(all), out);
            }
            Records::One => {
                let there: Vec<LockRecord> = self.records.values().cloned().collect();
                match self.node(i).read.take() {
                    None => self.node(i).read = Some(there),
                    Some(read) => {
                        self.records.insert(shared, record);
                        let node = self.node(i);
                        node.exchanges.pop_front();
                        node.arbiter.records(NOW, ticket, Ok(read), out);
                    }
                }
            }
        }
    }

    /// Messages that nobody will listen to any more make no difference; without them there are fewer states.
    fn forget_the_void(&mut self) {
        let nodes = &self.nodes;
        self.wire.retain(|(_, to, message, _)| {
            let arbiter = &nodes[usize::from(to.0)].arbiter;
            let epoch = arbiter.view().map_or(Epoch(0), |v| v.epoch);
            match &**message {
                Message::Prepare { epoch: e, .. } => *e > epoch,
                Message::Accept { view, .. } => view.epoch > epoch,
                Message::Promise { epoch: e, ballot, .. }
                | Message::Accepted { epoch: e, ballot, .. }
                | Message::Refused { epoch: e, ballot, .. } => arbiter.listens(*e, *ballot),
                // What is decided can be learned at any time: [`Action::Learn`].
                _ => false,
            }
        });
    }

    /// May this node answer for addresses, by grants that its voters give now?
    fn serves(&self, i: u16) -> Option<&View> {
        let node = &self.nodes[usize::from(i)];
        let view = node.arbiter.view()?;
        if !view.has_run(Pnn(i), RunId(node.run)) {
            return None;
        }
        let mut lease = Lease::default();
        for (at, voter) in self.nodes.iter().enumerate() {
            let pnn = Pnn(u16::try_from(at).unwrap_or(u16::MAX));
            if !voter.arbiter.grants() || voter.arbiter.view().map(View::rank) != Some(view.rank()) {
                continue;
            }
            if pnn == Pnn(i) {
                lease.own_grant(pnn, NOW);
            } else {
                let grant = Grant {
                    uid: voter.arbiter.durable.uid,
                    to_run: RunId(node.run),
                    incarnation: view.incarnation,
                    epoch: view.epoch,
                    sent: NOW,
                };
                lease.grant(pnn, &grant, view, RunId(node.run), NOW);
            }
        }
        lease.renew(view, Timing::default().lease);
        lease.valid(NOW).then_some(view)
    }

    /// What must never be, if it is so here.
    pub(super) fn violation(&self) -> Option<String> {
        self.split.clone().or_else(|| self.two_serve()).or_else(|| self.ballot_used_twice())
    }

    /// Two values under one ballot: what Paxos rests on.
    fn ballot_used_twice(&self) -> Option<String> {
        let mut values: BTreeMap<(Epoch, Ballot), &View> = BTreeMap::new();
        let votes = self.nodes.iter().flat_map(|n| [&n.arbiter.durable, &n.disk]).filter_map(|d| d.accepted.as_ref());
        let votes = votes.map(|a| (a.ballot, &a.view));
        let asked = self.wire.iter().filter_map(|(_, _, m, _)| match &**m {
            Message::Accept { ballot, view } => Some((*ballot, &**view)),
            _ => None,
        });
        for (ballot, view) in votes.chain(asked) {
            let first = *values.entry((view.epoch, ballot)).or_insert(view);
            if first != view {
                let (a, b) = (names(first.members.keys().copied()), names(view.members.keys().copied()));
                return Some(format!("a ballot is used twice: for {{{a}}} and for {{{b}}}"));
            }
        }
        None
    }

    /// Two nodes that serve under views of which the newer has dropped the one of the older.
    fn two_serve(&self) -> Option<String> {
        let serving: Vec<(u16, &View)> = (0..self.nodes.len())
            .filter_map(|i| u16::try_from(i).ok())
            .filter_map(|i| Some((i, self.serves(i)?)))
            .collect();
        for (i, old) in &serving {
            for (j, new) in &serving {
                if new.epoch < old.epoch || i == j || old == new {
                    continue;
                }
                let run = RunId(self.nodes[usize::from(*i)].run);
                let dropped = self
                    .decided
                    .iter()
                    .any(|v| v.epoch > old.epoch && v.epoch <= new.epoch && !v.has_run(Pnn(*i), run));
                if old.epoch == new.epoch || dropped {
                    return Some(format!(
                        "two serve: {} in view {} {{{}}} and {} in view {} {{{}}}",
                        names([Pnn(*i)]),
                        old.epoch,
                        names(old.members.keys().copied()),
                        names([Pnn(*j)]),
                        new.epoch,
                        names(new.members.keys().copied())
                    ));
                }
            }
        }
        None
    }

    /// An action in words.
    pub(super) fn say(&self, action: Action) -> String {
        let n = |i: u16| names([Pnn(i)]);
        match action {
            Action::Propose(i, 0) => format!("{} pushes what it has accepted", n(i)),
            Action::Propose(i, mask) => {
                format!("{} proposes {{{}}}", n(i), names((0..16).filter(|j| mask & (1 << j) != 0).map(Pnn)))
            }
            Action::GiveUp(i) => format!("{} gives its attempt up", n(i)),
            Action::Deliver(at) => {
                let (from, to, message, _) = &self.wire[usize::from(at)];
                let what = match &**message {
                    Message::Prepare { ballot, .. } => format!("prepare {}", ballot.round),
                    Message::Promise { ballot, accepted, .. } => {
                        let had = accepted.as_ref().map(|a| names(a.view.members.keys().copied()));
                        format!(
                            "promise {}, accepted before: {}",
                            ballot.round,
                            had.unwrap_or_else(|| "nothing".into())
                        )
                    }
                    Message::Accept { ballot, view } => {
                        format!("accept {} {{{}}}", ballot.round, names(view.members.keys().copied()))
                    }
                    Message::Accepted { ballot, .. } => format!("accepted {}", ballot.round),
                    Message::Refused { ballot, .. } => format!("refused {}", ballot.round),
                    other => format!("{other:?}"),
                };
                format!("{} hears from {}: {what}", n(to.0), n(from.0))
            }
            Action::Written(i) => format!("{}'s disk has written", n(i)),
            Action::AskLock(i) => format!("{} believes that it holds the lock", n(i)),
            Action::RecordStep(i) => format!("{} goes on with the records", n(i)),
            Action::RecordLost(i) => format!("{}'s older exchange is lost", n(i)),
            Action::Learn(i, at) => {
                let view = &self.decided[usize::from(at)];
                format!("{} learns view {} {{{}}}", n(i), view.epoch, names(view.members.keys().copied()))
            }
            Action::Crash(i) => format!("{} crashes and starts anew", n(i)),
            Action::LoseDisk(i) => format!("{} starts anew: {:?}", n(i), self.loss),
        }
    }
}

impl Node {
    fn rehash(&mut self) {
        let mut hasher = Quick::default();
        self.arbiter.fingerprint(&mut hasher);
        let current = self.exchanges.iter().map(|(t, r, w)| (self.arbiter.waits_for(*t), r, w)).collect::<Vec<_>>();
        let writes = self.writes.iter().map(|(_, s)| s).collect::<Vec<_>>();
        (self.run, &self.disk, writes, current, &self.read).hash(&mut hasher);
        self.hash = hasher.finish();
    }
}
