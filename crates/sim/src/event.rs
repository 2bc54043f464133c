//! What the scheduler's queue holds.

use crate::clock::Micros;
use crate::databases;
use crate::network::Datagram;
use cluster::{Epoch, Input, LockRecord, Message, Output, Pnn, RunId};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::IpAddr;

/// Something that will happen. `generation` ties it to one start of a daemon, `power` to one power cycle.
#[derive(Debug)]
pub(crate) enum What {
    /// The core asked to be woken.
    Wake { host: usize, generation: u64 },
    /// A slow or resumed daemon handles its next input.
    Process { host: usize, generation: u64 },
    /// A datagram arrives, for whichever daemon is there.
    Datagram { to: usize, datagram: Datagram },
    /// The answer to something that a daemon has begun.
    Local { host: usize, generation: u64, input: Box<Input> },
    /// Two nodes connect.
    LinkUp { a: usize, b: usize, change: u64 },
    /// A node gives a link up.
    LinkDown { me: usize, other: usize, change: u64 },
    /// The oldest message on the way between two nodes arrives.
    LinkDeliver { from: usize, to: usize, session: u64 },
    /// The disk is done with what it writes.
    DiskDone { host: usize, power: u64 },
    /// An address job reaches its next step: 0 = the kernel changes, 1 = the core is told.
    Vip { host: usize, generation: u64, vip: IpAddr, step: u8 },
    /// A node tries for the lock.
    LockTry { host: usize, generation: u64 },
    /// The storage frees what a node held in that life.
    LockFree { host: usize, generation: u64 },
    /// An exchange writes (stage 0), then reads (stage 1).
    Exchange { host: usize, generation: u64, ticket: u64, record: Option<Box<LockRecord>>, deadline: Micros },
    /// An eviction is done.
    Evicted { host: usize, generation: u64, serial: u64, epoch: Epoch, nodes: Vec<Pnn> },
    /// An NFS server is in its grace period for these, or will never be.
    Graced { host: usize, generation: u64, number: u64, nodes: BTreeSet<Pnn>, refused: bool },
    /// An NFS server is in its grace period for this move, or will never be.
    GracedForMove { host: usize, generation: u64, node: Pnn, request: (RunId, u64), refused: bool },
    /// A node's servers have answered, or do not.
    Proved { host: usize, generation: u64, number: u64 },
    /// An NFS server has let go of what clients had by an address, or will not.
    LetGo { host: usize, generation: u64, vip: IpAddr, end: bool, refused: bool },
    /// Services have started, or ended.
    Services { host: usize, generation: u64, serial: u64, up: bool },
    /// The guard of a dead daemon takes the addresses away, then says so.
    Guard { host: usize, power: u64 },
    /// A daemon starts, unless one runs.
    Start { host: usize },
    /// Power comes back.
    PowerOn { host: usize, power: u64 },
    /// A supervisor ends a daemon that did not stop by itself.
    Reap { host: usize, generation: u64 },
    /// Something about the databases of a node.
    Databases { host: usize, generation: u64, event: Box<databases::Event> },
    /// Who answers is looked at again.
    Recheck { host: usize },
    /// A fault of the plan begins.
    Fault(usize),
    /// A fault of the plan is over.
    Undo(usize),
    /// A node reads its configuration.
    Reload { host: usize },
    /// Regular look at everything.
    Pulse,
}

/// What will happen, in the order of its time; of equal times in the order in which it was planned.
///
/// The heap holds small keys only, each one number: it is what a simulation does most.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    heap: BinaryHeap<Reverse<Key>>,
    slots: Vec<Option<What>>,
    free: Vec<u32>,
    /// The next wake-up of each host. A new one replaces the one before, as nobody would heed that any more.
    wakes: Vec<Option<(Micros, u64, u64)>>,
    first_wake: Option<(Micros, u64, usize)>,
    seq: u64,
}

/// Time, number and slot of an entry, the time on top; comparing one number takes no branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u128);

impl Key {
    /// Entries at the same time; more than a run has in all.
    const SEQ_BITS: u32 = 40;
    /// Entries that wait at once.
    const SLOT_BITS: u32 = 24;

    fn new(at: Micros, seq: u64, slot: u32) -> Self {
        assert!(
            seq >> Self::SEQ_BITS == 0 && slot >> Self::SLOT_BITS == 0,
            "too many events: {seq}, {slot} of them wait"
        );
        Self(u128::from(at) << 64 | u128::from(seq << Self::SLOT_BITS | u64::from(slot)))
    }

    fn at(self) -> Micros {
        (self.0 >> 64) as Micros
    }

    fn seq(self) -> u64 {
        self.0 as u64 >> Self::SLOT_BITS
    }

    fn slot(self) -> usize {
        (self.0 as usize) & ((1 << Self::SLOT_BITS) - 1)
    }
}

impl Agenda {
    pub(crate) fn new(hosts: usize) -> Self {
        Self { wakes: vec![None; hosts], ..Self::default() }
    }

    pub(crate) fn plan(&mut self, at: Micros, what: What) {
        self.seq += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(what);
                slot
            }
            None => {
                self.slots.push(Some(what));
                self.slots.len() as u32 - 1
            }
        };
        self.heap.push(Reverse(Key::new(at, self.seq, slot)));
    }

    /// A host's daemon of that start is to be woken, then and not before.
    pub(crate) fn wake(&mut self, host: usize, at: Micros, generation: u64) {
        self.seq += 1;
        self.wakes[host] = Some((at, self.seq, generation));
        match self.first_wake {
            Some((_, _, first)) if first == host => self.look_for_first_wake(),
            Some((first, seq, _)) if (first, seq) < (at, self.seq) => {}
            _ => self.first_wake = Some((at, self.seq, host)),
        }
    }

    fn look_for_first_wake(&mut self) {
        let all = self.wakes.iter().enumerate();
        self.first_wake = all.filter_map(|(host, wake)| wake.map(|(at, seq, _)| (at, seq, host))).min();
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<Micros> {
        let heap = self.heap.peek().map(|Reverse(key)| key.at());
        let wake = self.first_wake.map(|(at, ..)| at);
        heap.into_iter().chain(wake).min()
    }

    pub(crate) fn next(&mut self) -> Option<(Micros, What)> {
        let heap = self.heap.peek().map(|Reverse(key)| (key.at(), key.seq()));
        if let Some((at, seq, host)) = self.first_wake
            && heap.is_none_or(|heap| (at, seq) < heap)
        {
            let generation = self.wakes[host].take().map_or(0, |(_, _, generation)| generation);
            self.look_for_first_wake();
            return Some((at, What::Wake { host, generation }));
        }
        let Reverse(key) = self.heap.pop()?;
        self.free.push(key.slot() as u32);
        Some((key.at(), self.slots[key.slot()].take()?))
    }
}

/// What kind of thing it is and whom it hits, for the fingerprint of a run.
#[must_use]
pub(crate) fn mark(what: &What) -> u64 {
    let (kind, node) = match what {
        What::Wake { host, .. } => (1, *host),
        What::Process { host, .. } => (2, *host),
        What::Datagram { to, .. } => (3, *to),
        What::Local { host, .. } => (4, *host),
        What::LinkUp { a, .. } => (5, *a),
        What::LinkDown { me, .. } => (6, *me),
        What::LinkDeliver { to, .. } => (7, *to),
        What::DiskDone { host, .. } => (8, *host),
        What::Vip { host, .. } => (9, *host),
        What::LockTry { host, .. } => (10, *host),
        What::LockFree { host, .. } => (11, *host),
        What::Exchange { host, .. } => (12, *host),
        What::Evicted { host, .. } => (13, *host),
        What::Services { host, .. } => (14, *host),
        What::Guard { host, .. } => (15, *host),
        What::Start { host } => (16, *host),
        What::PowerOn { host, .. } => (17, *host),
        What::Reap { host, .. } => (18, *host),
        What::Recheck { host } => (19, *host),
        What::Fault(i) => (20, *i),
        What::Undo(i) => (21, *i),
        What::Pulse => (22, 0),
        What::Reload { host } => (28, *host),
        What::Databases { host, .. } => (23, *host),
        What::Graced { host, .. } => (24, *host),
        What::GracedForMove { host, .. } => (25, *host),
        What::LetGo { host, .. } => (26, *host),
        What::Proved { host, .. } => (27, *host),
    };
    kind * 1_000 + node as u64
}

/// A short name of a message, for the story.
#[must_use]
pub(crate) fn message_name(message: &Message) -> &'static str {
    match message {
        Message::Prepare { .. } => "prepare",
        Message::Promise { .. } => "promise",
        Message::Accept { .. } => "accept",
        Message::Accepted { .. } => "accepted",
        Message::Refused { .. } => "refused",
        Message::Decided { .. } => "decided",
        Message::Report(_) => "report",
        Message::Orders(_) => "orders",
        Message::Admin { .. } => "admin",
        Message::AdminDone { .. } => "admin done",
    }
}

/// A short name of an input.
#[must_use]
pub(crate) fn input_name(input: &Input) -> &'static str {
    match input {
        Input::Tick => "<tick",
        Input::Heartbeat { .. } => "<heartbeat",
        Input::Grant { .. } => "<grant",
        Input::Guard { .. } => "<guard",
        Input::Message { message, .. } => message_name(message),
        Input::Persisted { .. } => "<persisted",
        _ => "<other",
    }
}

/// A short name of an output.
#[must_use]
pub(crate) fn output_name(output: &Output) -> &'static str {
    match output {
        Output::SendHeartbeat { .. } => ">heartbeat",
        Output::SendGrant { .. } => ">grant",
        Output::Send { .. } => ">message",
        Output::Persist { .. } => ">persist",
        Output::RenewLease { .. } => ">lease",
        Output::Publish(_) => ">publish",
        Output::Event(_) => ">event",
        Output::Take { .. } | Output::Release { .. } => ">address",
        _ => ">other",
    }
}
