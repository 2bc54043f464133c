//! What the server of one node hears and says: its inputs, its outputs, and the orders to the files.

use crate::database::{Token, Write};
use crate::recovery::{Answer, Edit, Generation, Have};
use crate::wire::{Connection, Record};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One connection of a client. Never 0, and not given again within a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// Two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Since an arbitrary point; never goes back. All waiting is counted by it.
    pub mono: Duration,
    /// Since 1970; only shown.
    pub wall: Duration,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A client has connected; its process by SO_PEERCRED.
    Connected {
        /// The connection.
        client: ClientId,
        /// The process.
        pid: i32,
    },
    /// A client has sent a whole packet, as [`crate::wire::Frames`] cuts it.
    Packet {
        /// From whom.
        client: ClientId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// A client has gone, or was closed at our word.
    Disconnected {
        /// Which.
        client: ClientId,
    },
    /// Another node's server says something; in order, and nothing lost while the link is up.
    Peer {
        /// Node number.
        from: u32,
        /// As that node's [`Output::Peer`] gave them.
        bytes: Vec<u8>,
    },
    /// A link came up or went down. What was on its way when it went down is lost.
    Link {
        /// Node number.
        peer: u32,
        /// Up?
        up: bool,
    },
    /// The cluster has changed.
    Picture(Box<Picture>),
    /// This node is about to give this address up, by an order: it is still on its interface.
    Leaves(IpAddr),
    /// This node has this address now.
    Comes(IpAddr),
    /// The process of this client waits for whatever comes next, as [`Output::AwaitRest`] asked.
    AtRest(ClientId),
    /// Connections of clients to an address, as its holder publishes them: what its kernel shows, and what was told there
    /// ([`Output::Connection`]).
    Connections {
        /// The address.
        address: IpAddr,
        /// All of them.
        connections: Vec<Connection>,
    },
    /// A file's answer to an order.
    File {
        /// The database.
        db: u32,
        /// What.
        answer: FileAnswer,
    },
    /// The time that [`super::Server::next_wake`] named has come.
    Wake,
}

/// What is to be done. In the order given.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A packet for a client. Never dropped while it is connected.
    Client {
        /// To whom.
        client: ClientId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// Say [`Input::AtRest`] when this client's process waits for events: all that came before it has seen to, and it is in
    /// the middle of nothing. At once if that is so already, and what is said then is written before the next packet.
    AwaitRest {
        /// Which.
        client: ClientId,
    },
    /// End a client's connection, after what was sent to it before. Samba's processes end when theirs does.
    Close {
        /// Which.
        client: ClientId,
    },
    /// For another node's server. Dropped if the link is down.
    Peer {
        /// Node number; never the own.
        to: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// For a file. Orders for one database are carried out in the order given.
    File {
        /// The database.
        db: u32,
        /// What.
        order: FileOrder,
    },
    /// This node has everything that was committed before the view that the picture of this epoch showed, on disk. Said once
    /// in each view of which it is a member, when its recovery has come so far: until then a cluster of this node and others
    /// alike may lack transactions that were acknowledged.
    Recovered {
        /// As in [`Picture::epoch`].
        epoch: u64,
    },
    /// An administrator's wish, to be carried out as `steadfast` would. The answer comes as a new picture.
    Admin(Wish),
    /// A client's connection to a public address, told by a process of Samba or by a tool: a part of the list of that
    /// address from now on, if this node holds or comes to hold it; or no more.
    Connection {
        /// Which.
        connection: Connection,
        /// Told, or taken back?
        told: bool,
    },
    /// For the log.
    Log {
        /// How important it is.
        level: Level,
        /// What happened, where, what now.
        text: String,
    },
}

/// Importance of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is wrong and stays so until somebody mends it.
    Error,
    /// Something is wrong.
    Warning,
    /// Good to know.
    Info,
    /// Noise.
    Debug,
}

/// What clients may want of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Host no addresses.
    Disable(u32),
    /// Host addresses again.
    Enable(u32),
    /// Serve nothing.
    Stop(u32),
    /// Serve again.
    Continue(u32),
    /// Serve nothing for so long; zero: serve again.
    Ban(u32, Duration),
    /// Host this address here.
    Move(IpAddr, u32),
    /// Add this address, with the length of its network's prefix and an interface, to this node's list; as long as the
    /// list is not read again.
    Add(IpAddr, u32, String),
    /// Take this address out of this node's list, for as long.
    Remove(IpAddr),
    /// Take this interface of this node to be up, or down.
    Link(String, bool),
    /// Tell the network anew where this address, which this node has, is.
    Announce(IpAddr),
    /// While this node leads: no node takes an address that it does not have (`NoIPTakeover`), and none moves for an even
    /// spread (`NoIPFailback`). Neither at start.
    Restrain {
        /// Addresses do not go to other nodes.
        no_takeover: bool,
        /// Addresses do not go back.
        no_failback: bool,
    },
    /// Read the configuration again.
    Reload,
    /// End this node's daemon.
    ShutDown,
}

/// Which records of a file are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that have data.
    WithData,
    /// Those that have none.
    Empty,
    /// All.
    All,
}

impl Which {
    /// Those that have data, and perhaps those that have none.
    #[must_use]
    pub fn with_empty(empty: bool) -> Self {
        if empty { Self::All } else { Self::WithData }
    }

    /// Is a record with, or without, data meant?
    #[must_use]
    pub fn has(self, empty: bool) -> bool {
        match self {
            Self::WithData => !empty,
            Self::Empty => empty,
            Self::All => true,
        }
    }
}

/// An order to a file. "Answer" means [`Input::File`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOrder {
    /// Open it, make it if it is not there. Answer [`FileAnswer::Opened`]. Volatile: whatever an earlier daemon left in it
    /// is wiped before. First order for every database; again for one that is open already (found on disk at start):
    /// answered with its path.
    Open(Have),
    /// Get the chain lock of this key, however long it takes. Answer [`FileAnswer::Locked`]. Not asked for again before
    /// it is let go.
    Lock {
        /// The key.
        key: Vec<u8>,
    },
    /// Write, then let the lock go.
    Unlock {
        /// The key.
        key: Vec<u8>,
        /// What.
        write: Write,
    },
    /// Take the lock on all of the file, however long it takes. Answer [`Answer::Frozen`]; at once if it is held already.
    /// It is kept until [`FileOrder::Thaw`]; a second one meanwhile replaces the first's generation.
    Freeze {
        /// For the answer.
        generation: Generation,
        /// First delete all records: they are older than a recovery that this node had no part in. (Volatile.)
        wipe: bool,
    },
    /// Answer [`Answer::Scanned`] with header and emptiness of every record, in pieces; before, change each header as
    /// [`crate::database::recovered`] says. Frozen.
    Scan {
        /// For the answer.
        generation: Generation,
    },
    /// Change records. Frozen.
    Edit {
        /// Keys and changes.
        edits: Vec<(Vec<u8>, Edit)>,
    },
    /// Answer [`Answer::Read`]. Frozen.
    Read {
        /// For the answer.
        generation: Generation,
        /// Which; those that are not there are left out.
        keys: Vec<Vec<u8>>,
        /// For the answer.
        asker: u32,
    },
    /// Answer [`Answer::Dumped`] with every record, in pieces of about 256 KiB. Frozen.
    Dump {
        /// For the answer.
        generation: Generation,
    },
    /// Make this the content, in one transaction, on disk; answer [`Answer::Replaced`]. Frozen.
    Replace {
        /// For the answer.
        generation: Generation,
        /// All of it.
        records: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Delete every record that [`crate::database::store`] would not keep. Frozen.
    Prune {
        /// The location masters.
        masters: Vec<u32>,
    },
    /// Answer [`Answer::Vacated`]: is this daemon the only one that has it open? Then nobody else gets it open until it is let
    /// go, frozen anew, or closed. Frozen, and volatile.
    Vacate {
        /// For the answer.
        generation: Generation,
    },
    /// Let the lock on all of the file go. Persistent: first note the generation on disk
    /// ([`crate::recovery::Content::synced`]).
    Thaw {
        /// Noted.
        generation: Generation,
    },
    /// Write these in one transaction, on disk where the database is persistent; answer [`FileAnswer::Written`]. Refused as
    /// a whole if a record there has an RSN not below the new one's, and other data.
    Transact {
        /// For the answer.
        generation: Generation,
        /// For the answer.
        asker: u32,
        /// For the answer.
        id: u64,
        /// Keys and whole values.
        records: Vec<Record>,
    },
    /// Answer [`FileAnswer::Fetched`].
    Fetch {
        /// For the answer.
        token: Token,
        /// Which record.
        key: Vec<u8>,
    },
    /// Answer [`FileAnswer::Traversed`] with the records, in pieces, while the file is in use (it waits while it is frozen).
    Traverse {
        /// For the answer.
        token: Token,
        /// Only those that this node holds.
        held_by: Option<u32>,
        /// Of those.
        which: Which,
    },
    /// Stop that.
    StopTraverse {
        /// Which.
        token: Token,
    },
    /// From now on changes count in the file's sequence number. Answer [`FileAnswer::Counting`].
    CountChanges,
    /// Answer [`FileAnswer::Sequence`].
    LookSequence,
    /// Count one change. Answer [`FileAnswer::Bumped`].
    Bump,
    /// Empty it if it is frozen, and close it. The file stays: who has its path from before and opens it late finds an
    /// empty one, and shares it with whoever opens it after that.
    Close,
}

/// What the files answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileAnswer {
    /// The file is open, with its path; or why it cannot be used.
    Opened(Result<String, String>),
    /// A chain lock is held, with the value found.
    Locked {
        /// The key.
        key: Vec<u8>,
        /// The value; nothing if there is no record.
        value: Option<Vec<u8>>,
    },
    /// Of a recovery.
    Recovery {
        /// As ordered.
        generation: Generation,
        /// What.
        answer: Answer,
    },
    /// A transaction is on disk; or why nothing was written.
    Written {
        /// As ordered.
        generation: Generation,
        /// As ordered.
        asker: u32,
        /// As ordered.
        id: u64,
        /// The reason.
        result: Result<(), String>,
    },
    /// A record.
    Fetched {
        /// As ordered.
        token: Token,
        /// Its value; nothing if it is not there or cannot be read.
        value: Option<Vec<u8>>,
    },
    /// Some records.
    Traversed {
        /// As ordered.
        token: Token,
        /// Keys and values, headers included.
        records: Vec<(Vec<u8>, Vec<u8>)>,
        /// That was all.
        last: bool,
    },
    /// The file's sequence number.
    Sequence(u32),
    /// Changes count from now on; the sequence number before the first.
    Counting(u32),
    /// One change has been counted.
    Bumped,
    /// The file is damaged, or an operation on it failed: it must not be used until it is recovered.
    Damaged(String),
}

/// The cluster as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Picture {
    /// Epoch of the newest view; 0 before the first.
    pub epoch: u64,
    /// Its members, this node among them only if this run of it has been admitted.
    pub members: Vec<u32>,
    /// Members that are stopped or banned: they know and hold no records. The leader's word counts.
    pub idle: BTreeSet<u32>,
    /// Its leader.
    pub leader: Option<u32>,
    /// This node may serve now.
    pub leased: bool,
    /// Nodes outside of the view can do no harm any more: their leases are over and every member has shut them out.
    pub harmless: bool,
    /// All nodes of the list, in order of their numbers.
    pub nodes: Vec<NodeFacts>,
    /// All public addresses, in their order.
    pub addresses: Vec<AddressFacts>,
    /// This node's interfaces that public addresses are on.
    pub ifaces: Vec<IfaceFacts>,
    /// The cluster lock's file; empty: there is none.
    pub lock: String,
    /// This node has a list of public addresses of its own, as with CTDB's files.
    pub own_list: bool,
    /// Interfaces are up or down as clients say, for there are none: all nodes are on one machine.
    pub links_by_word: bool,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its number.
    pub pnn: u32,
    /// [`crate::node::flags`].
    pub flags: u32,
    /// Its private address, with the port of the links.
    pub address: SocketAddr,
}

/// One public address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressFacts {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix, in bits.
    pub prefix: u8,
    /// Who has it.
    pub holder: Option<u32>,
    /// Is it on its way to another node?
    pub moving: bool,
    /// Is it in this node's list? Then the interface.
    pub here: Option<String>,
}

/// One interface of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IfaceFacts {
    /// Its name.
    pub name: String,
    /// Has it a link?
    pub up: bool,
}
