//! Samba's clustered databases: on every server the real [`ctdb::server::Server`] beside the real cluster core, with
//! files in memory and processes as smbd's that count in records, commit, traverse and ask who is alive.
//!
//! | file | what it does |
//! |---|---|
//! | `drive` | carries out what the servers ask for, with delays; start, end, pause |
//! | `work` | what smbd's processes do |
//! | `talk` | messages between them |
//! | `detach` | somebody detaches a database that others use |
//! | `replace` | somebody wipes or restores a database |
//! | `counts` | what a record says |
//! | `truth` | what they have done, and what must therefore be so, at every step |
//!
//! Its chances are its own, so that seeds without databases are what they were before.

mod counts;
mod detach;
mod drive;
mod replace;
mod talk;
mod truth;
mod work;

use crate::clock::Micros;
use crate::rng::Rng;
use counts::Counts;
use ctdb::memory::File;
use ctdb::server::{ClientId, FileAnswer, Input, Output, Picture, Server};
use ctdb::wire::Packet;
use detach::{Spare, Spares};
use replace::{Registry, Replacing};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use talk::Talk;
use truth::Truth;

/// A database whose records move.
const VOLATILE: &str = "locking.tdb";
/// A database that every node has all of.
const PERSISTENT: &str = "secrets.tdb";
/// Hot keys, which all processes want.
pub(crate) const HOT: usize = 4;

/// One seed of eight runs databases.
#[must_use]
pub fn has_databases(seed: u64) -> bool {
    matches!(seed % 16, 1 | 10)
}

/// What happens to a node's databases.
#[derive(Debug)]
pub(crate) enum Event {
    /// The server hears what the cluster looks like.
    Look,
    /// A file answers.
    File { db: u32, answer: FileAnswer },
    /// The server asked to be woken.
    Wake,
    /// A process does something.
    Work,
}

/// What a process is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    /// Opens the databases.
    Attaches {
        volatile: u32,
        persistent: u32,
    },
    Nothing,
    /// Waits for a record.
    Waits {
        reqid: u32,
        key: usize,
    },
    /// Waits for what is in a record.
    Reads {
        reqid: u32,
        key: usize,
        /// What was counted when it began.
        floor: Counts,
    },
    /// Has a record's chain locked.
    Holds {
        key: usize,
    },
    /// Asks whether a process is alive.
    Asks {
        reqid: u32,
        node: usize,
        process: ClientId,
    },
    /// Waits for a transaction.
    Commits {
        reqid: u32,
        wanted: u64,
    },
    /// Waits for the records of all nodes.
    Traverses {
        srvid: u64,
        seen: BTreeSet<Vec<u8>>,
        /// Keys that must be shown, each with its place when the traverse began ([`Databases::place`]).
        expects: Vec<(usize, (usize, u64))>,
        mark: (Option<(u64, u32)>, u64),
    },
    /// Opens the database that is replaced, to read it.
    Opens {
        reqid: u32,
    },
    /// Replaces the content of a database.
    Replaces(Replacing),
    /// Has to do with the database that is detached now and then.
    Spare(Spare),
}

/// One process of Samba, with its connection.
#[derive(Debug)]
struct Process {
    doing: Doing,
    since: Micros,
    packets: VecDeque<Packet>,
    address: talk::Address,
    /// The file of the database that is detached now and then.
    has_spare_open: bool,
}

/// One node.
#[derive(Debug, Default)]
struct Node {
    server: Option<Server>,
    files: BTreeMap<u32, File>,
    /// Arrived, not handled yet: the daemon is paused.
    inbox: VecDeque<Input>,
    /// Files answer in order.
    answers_after: Micros,
    told: Option<Picture>,
    look_planned: bool,
    /// When it is woken, and for which time of its own clock.
    wake_at: Option<(Micros, Duration)>,
    /// The daemon looks whether a process is at rest.
    awaits_rest: bool,
    processes: BTreeMap<ClientId, Process>,
    /// Links and members that came or went.
    changes: u64,
}

/// The databases of a simulated cluster.
#[derive(Debug)]
pub(crate) struct Databases {
    nodes: Vec<Node>,
    rng: Rng,
    truth: Truth,
    talk: Talk,
    registry: Registry,
    spares: Spares,
    volatile: u32,
    persistent: u32,
    /// Who only reads gets a copy.
    gives_copies: bool,
    next_reqid: u32,
    /// Nobody begins anything new.
    winding_down: bool,
    /// What came to an end.
    pub(crate) done: Done,
    /// Of a server that is handling something. Kept for its memory, as `answers` is.
    outputs: Vec<Output>,
    /// Of a file that is obeying an order.
    answers: Vec<FileAnswer>,
}

/// What the processes got done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Locked increments.
    pub increments: u64,
    /// Records read by processes that do not write them, and how often a copy in the node's own file.
    pub reads: u64,
    /// See `reads`.
    pub copies_read: u64,
    /// Acknowledged transactions.
    pub commits: u64,
    /// Traverses.
    pub traverses: u64,
    /// Questions about life that were answered, and how many of them by "dead".
    pub questions: u64,
    /// See `questions`.
    pub dead: u64,
    /// Messages that arrived.
    pub messages: u64,
    /// Databases that were wiped or restored.
    pub replaced: u64,
    /// Databases that were detached, and how often such a one was used between.
    pub detached: u64,
    /// See `detached`.
    pub spare_uses: u64,
}

impl Databases {
    pub(crate) fn new(nodes: usize, mut rng: Rng) -> Self {
        let gives_copies = rng.index(2) == 0;
        let spares = Spares::new(rng.fork(0xde).chance(250_000));
        Self {
            gives_copies,
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            rng,
            truth: Truth::default(),
            talk: Talk::default(),
            registry: Registry::default(),
            spares,
            volatile: ctdb::database_id(VOLATILE),
            persistent: ctdb::database_id(PERSISTENT),
            next_reqid: 0,
            winding_down: false,
            done: Done::default(),
            outputs: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn some(&mut self, range: std::ops::RangeInclusive<u64>) -> Micros {
        self.rng.range(range)
    }
}
