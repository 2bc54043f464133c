//! The server of one node: clients, databases, and the servers of the other nodes, in one state machine.
//!
//! ```text
//! clients' packets ──┐                     ┌──> packets for clients
//! peers' words ──────┼──> Server::handle ──┼──> words for peers
//! the files' answers ┤                     ├──> orders to the files
//! the cluster ───────┘                     └──> wishes of administrators
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `clients` | who is connected, what each has registered |
//! | `packets` | a client's packet, to where it belongs |
//! | `view` | the cluster changes: recovery, lease, addresses |
//! | `by_hand` | the content of a database is replaced |
//! | `detach` | a database is taken away from all nodes |
//! | `databases` | attaching, records, transactions: the cores of one database each, and its file |
//! | `controls`, `answers` | controls that this node answers by itself |
//! | `remote` | controls of clients for other nodes, and "is this process alive?" |
//! | `connections` | whose clients are connected to which address |
//! | `roles` | who leads, as clients see it, and who shall know where records are |
//! | `lists` | this node's public addresses and interfaces, changed by word |
//! | `messages` | between clients, and to the daemon |
//! | `traverse` | all records of all nodes |
//! | `vacuum` | emptied records are deleted |
//! | `timers` | what happens by the clock |

mod answers;
mod by_hand;
mod clients;
mod connections;
mod controls;
mod databases;
mod detach;
mod hot_keys;
mod io;
mod lists;
mod messages;
mod packets;
mod remote;
mod roles;
mod statistics;
mod timers;
mod traverse;
mod tunables;
mod vacuum;
mod view;

pub use io::{
    AddressFacts, ClientId, FileAnswer, FileOrder, IfaceFacts, Input, Level, NodeFacts, Now, Output, Picture, Which,
    Wish,
};

use crate::database::{Change, Output as Moved, Token, Under};
use crate::node::{INVALID_GENERATION, flags};
use crate::peer::Said;
use crate::planted::{Planted, planted};
use crate::recovery::{Have, Lead, Member, Word};
use crate::wire::ControlReply;
use by_hand::ByHand;
use clients::Clients;
use connections::Connections;
use databases::{Call, Database};
use detach::Detaching;
use remote::Asked;
use roles::Roles;
use statistics::Statistics;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use timers::Timers;
use traverse::Traverse;
use tunables::Tunables;
use vacuum::Vacuums;

/// Who waits for a control's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A client of this node.
    Client { client: ClientId, reqid: u32 },
    /// A client of another node.
    Node { node: u32, id: u64 },
    /// Nobody.
    Nobody,
}

/// What this node says to itself: done after what it is in the middle of.
#[derive(Debug)]
enum Inner {
    Word(Word),
    Change(Under<Change>),
}

/// The server of one node.
#[derive(Debug)]
pub struct Server {
    me: u32,
    /// The daemon's process.
    pid: i32,
    started: Now,
    now: Now,
    picture: Picture,
    /// This node is among the members in `picture`: that is asked several times for each input.
    is_member: bool,
    clients: Clients,
    dbs: BTreeMap<u32, Database>,
    member: Member,
    lead: Option<Lead>,
    up: BTreeSet<u32>,
    /// What came while there was no lease.
    held: VecDeque<Input>,
    /// Words of a view that this node has not learned of.
    early: Vec<(u32, Word)>,
    /// The view whose absentees can do no harm any more.
    harmless: u64,
    /// Recoveries of everything in this view.
    round: u32,
    /// Databases that do not go on yet.
    recovering: BTreeSet<u32>,
    recovery_began: Now,
    recovery_ended: Now,
    ran: bool,
    serial: u64,
    /// Databases that were opened so far.
    opened: u64,
    calls: BTreeMap<Token, Call>,
    /// Controls whose answer depends on the file of this database.
    reads: BTreeMap<Token, (u32, Origin)>,
    asked: BTreeMap<u64, Asked>,
    traverses: BTreeMap<u64, Traverse>,
    by_hand: BTreeMap<u32, ByHand>,
    detaching: BTreeMap<u32, Detaching>,
    /// Copies given and taken back in databases that are detached since.
    delegations_gone: (u64, u64),
    connections: Connections,
    roles: Roles,
    /// Addresses that clients have been told of as leaving, and that this node does not have again.
    leaving: BTreeSet<IpAddr>,
    /// Clients have been told that addresses move, and not yet that they are at rest.
    reallocating: bool,
    tunables: Tunables,
    /// What tunables forbid addresses, as was said last: to be taken over, to go back.
    restrained: (bool, bool),
    statistics: Statistics,
    vacuums: Vacuums,
    timers: Timers,
    debug: i32,
    said_unknown: BTreeSet<u32>,
    inner: VecDeque<Inner>,
    /// What a database's migration wants done. Empty, and kept for its memory.
    moved: Vec<Moved>,
    out: Vec<Output>,
}

impl Server {
    /// The server of node `me` in process `pid`. `found`: persistent databases whose files are on disk.
    #[must_use]
    pub fn new(me: u32, pid: i32, found: Vec<Have>, now: Now) -> Self {
        let mut server = Self {
            me,
            pid,
            started: now,
            now,
            picture: Picture::default(),
            is_member: false,
            clients: Clients::default(),
            dbs: BTreeMap::new(),
            member: Member::new(me),
            lead: None,
            up: BTreeSet::new(),
            held: VecDeque::new(),
            early: Vec::new(),
            harmless: 0,
            round: 1,
            recovering: BTreeSet::new(),
            recovery_began: Now::default(),
            recovery_ended: Now::default(),
            ran: false,
            serial: 0,
            opened: 0,
            calls: BTreeMap::new(),
            reads: BTreeMap::new(),
            asked: BTreeMap::new(),
            traverses: BTreeMap::new(),
            by_hand: BTreeMap::new(),
            detaching: BTreeMap::new(),
            delegations_gone: (0, 0),
            connections: Connections::default(),
            roles: Roles::default(),
            leaving: BTreeSet::new(),
            reallocating: false,
            tunables: Tunables::default(),
            restrained: (false, false),
            statistics: Statistics { since: now, ..Statistics::default() },
            vacuums: Vacuums::default(),
            timers: Timers::new(now),
            debug: 3,
            said_unknown: BTreeSet::new(),
            inner: VecDeque::new(),
            moved: Vec::new(),
            out: Vec::new(),
        };
        for have in found {
            server.dbs.insert(have.db, Database::new(me, have.clone()));
            server.member.found(have);
        }
        server
    }

    /// Sets one of CTDB's tunables, before anything is served: for those of a file. One of another name changes nothing.
    pub fn tune(&mut self, name: &str, value: u32) {
        if let Some(known) = Tunables::find(name) {
            self.tunables.set(known, value);
        }
    }

    /// Something happens.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        self.now = now;
        if self.is_held(&input) {
            if planted(Planted::MessageTwice)
                && let Some((from, said)) = packets::message(&input)
            {
                self.said(from, said);
            }
            if !(planted(Planted::MessagesDropped) && packets::message(&input).is_some()) {
                self.held.push_back(input);
            }
        } else {
            self.take(input);
        }
        self.settle();
        if out.is_empty() {
            std::mem::swap(out, &mut self.out);
        } else {
            out.append(&mut self.out);
        }
    }

    /// When [`Input::Wake`] is due, on the monotonic clock.
    #[must_use]
    pub fn next_wake(&self) -> Option<std::time::Duration> {
        Some(self.timers.next(self))
    }

    /// Does this node have a part in the databases?
    #[must_use]
    pub fn is_member(&self) -> bool {
        debug_assert_eq!(self.is_member, self.picture.members.contains(&self.me), "{:?}", self.picture);
        self.is_member
    }

    /// Databases by name, with what each waits for; empty when all are in use.
    pub fn waiting(&self) -> Vec<(String, String)> {
        match &self.lead {
            Some(lead) => lead.waiting().map(|(name, why)| (name.to_owned(), why.to_owned())).collect(),
            None => {
                let waits = |id: &u32| Some((self.dbs.get(id)?.have.name.clone(), "the leader recovers it".to_owned()));
                self.recovering.iter().filter_map(waits).collect()
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Connected { client, pid } => {
                self.clients.add(client, pid);
            }
            Input::Packet { client, packet } => self.packet(client, &packet),
            Input::Disconnected { client } => self.disconnected(client),
            Input::Peer { from, bytes } => match Said::decode(&bytes) {
                Ok(said) => self.said(from, said),
                Err(error) => self.log(Level::Warning, format!("node {from} says what cannot be read: {error}")),
            },
            Input::Link { peer, up } => self.link(peer, up),
            Input::Picture(picture) => self.look(*picture),
            Input::Leaves(address) => self.address_leaves(address),
            Input::Comes(address) => self.address_comes(address),
            Input::AtRest(client) => self.at_rest(client),
            Input::Connections { address, connections } => self.published(address, connections),
            Input::File { db, answer } => self.file_answers(db, answer),
            Input::Wake => self.wake(),
        }
    }

    /// What this node has said to itself.
    fn settle(&mut self) {
        while let Some(inner) = self.inner.pop_front() {
            match inner {
                Inner::Word(word) => self.word(self.me, word),
                Inner::Change(change) => self.change(self.me, change),
            }
        }
    }

    fn said(&mut self, from: u32, said: Said) {
        let leader = self.picture.leader;
        self.statistics.heard(&said, leader == Some(from), leader == Some(self.me));
        match said {
            Said::Recovery(word) => self.word(from, word),
            Said::Migration(message) => self.migration(from, message),
            Said::Commit(change) => self.change(from, change),
            Said::Message { srvid, data } => self.deliver(srvid, &data),
            Said::Tunnel { id, flags, reqid, data } => self.deliver_tunnel(from, id, flags, reqid, data),
            Said::Control { id, opcode, srvid, flags, data } => {
                let origin = if id == 0 { Origin::Nobody } else { Origin::Node { node: from, id } };
                self.control(origin, opcode, srvid, flags, &data);
            }
            Said::ControlReply { id, status, data, error } => {
                self.answered(from, id, ControlReply { status, data, error });
            }
            Said::Traverse { id, db, empty } => self.traverse_for(from, id, db, empty),
            Said::Traversed { id, records, last } => self.traversed(from, id, records, last),
            Said::StopTraverse { id } => self.stop_traverse_for(from, id),
            Said::Harmless { epoch } => self.heard_harmless(epoch),
            Said::Recover { epoch, why } => {
                if epoch == self.picture.epoch {
                    self.recover_again(&format!("node {from}: {why}"));
                }
            }
            Said::Round { epoch, round } => {
                if epoch == self.picture.epoch {
                    self.round = round;
                }
            }
            Said::Changed { db } => self.bump(db),
            Said::Role { leader, yields } => self.hear_role(from, leader, yields),
            Said::Lmaster { can } => self.hear_lmaster(from, can),
        }
    }

    /// To another node or, later, to this one.
    fn send(&mut self, to: u32, said: Said) {
        if to == self.me {
            match said {
                Said::Recovery(word) => self.inner.push_back(Inner::Word(word)),
                Said::Commit(change) => self.inner.push_back(Inner::Change(change)),
                // Nothing else is said to oneself.
                _ => {}
            }
            return;
        }
        self.statistics.node_sent += 1;
        self.out.push(Output::Peer { to, bytes: said.encode() });
    }

    /// To every other node whose link is up.
    fn send_connected(&mut self, said: &Said) {
        for to in self.up.clone() {
            self.send(to, said.clone());
        }
    }

    /// The other members that are connected.
    fn others(&self) -> Vec<u32> {
        self.picture.members.iter().copied().filter(|to| *to != self.me && self.up.contains(to)).collect()
    }

    fn order(&mut self, db: u32, order: FileOrder) {
        self.out.push(Output::File { db, order });
    }

    fn log(&mut self, level: Level, text: String) {
        self.out.push(Output::Log { level, text });
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// The number that stands for view and round; never 0, and [`INVALID_GENERATION`] only outside of every view.
    fn generation(&self) -> u32 {
        if !self.is_member() {
            return INVALID_GENERATION;
        }
        // Asked for each packet to a client.
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.picture.epoch.to_le_bytes());
        bytes[8..].copy_from_slice(&self.round.to_le_bytes());
        crate::lookup3(&bytes).max(INVALID_GENERATION + 1)
    }

    /// Something is not as it was before the last change of the view.
    fn is_recovering(&self) -> bool {
        !self.is_member() || self.harmless != self.picture.epoch || !self.recovering.is_empty()
    }

    /// [`flags`] of a node; a node that is not listed is deleted.
    fn flags_of(&self, pnn: u32) -> u32 {
        let facts = self.picture.nodes.iter().find(|n| n.pnn == pnn);
        facts.map_or(flags::DELETED | flags::DISCONNECTED, |n| {
            if n.pnn == self.me { n.flags & !flags::DISCONNECTED } else { n.flags }
        })
    }

    fn is_connected(&self, pnn: u32) -> bool {
        pnn == self.me || self.up.contains(&pnn)
    }
}
