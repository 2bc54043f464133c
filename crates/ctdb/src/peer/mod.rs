//! What the servers of two nodes say to each other.

mod codec;

use crate::database::{Change, Message, Under};
use crate::recovery::Word;

/// One word. Links carry them in order and lose none while they are up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Of a recovery.
    Recovery(Word),
    /// A record changes hands.
    Migration(Under<Message>),
    /// A transaction.
    Commit(Under<Change>),
    /// For the clients that registered this number.
    Message {
        /// The number.
        srvid: u64,
        /// The sender's bytes.
        data: Vec<u8>,
    },
    /// Bytes for the client that registered this tunnel.
    Tunnel {
        /// The tunnel.
        id: u64,
        /// Flags of the sender.
        flags: u32,
        /// For the answer.
        reqid: u32,
        /// The sender's bytes.
        data: Vec<u8>,
    },
    /// A client's control for this node.
    Control {
        /// For the answer; 0: none is wanted.
        id: u64,
        /// Which.
        opcode: u32,
        /// A number that some take beside their data.
        srvid: u64,
        /// Flags of the control.
        flags: u32,
        /// Its data.
        data: Vec<u8>,
    },
    /// Its answer.
    ControlReply {
        /// Of the control.
        id: u64,
        /// 0: done.
        status: i32,
        /// Its data.
        data: Vec<u8>,
        /// Why not, for people.
        error: String,
    },
    /// Send the records of this database that you hold.
    Traverse {
        /// For the answer.
        id: u64,
        /// The database.
        db: u32,
        /// Also those without data.
        empty: bool,
    },
    /// Some of them.
    Traversed {
        /// Of the question.
        id: u64,
        /// Keys and whole values.
        records: Vec<(Vec<u8>, Vec<u8>)>,
        /// That was all.
        last: bool,
    },
    /// Stop that.
    StopTraverse {
        /// Of the question.
        id: u64,
    },
    /// From the leader: the nodes that this view does not have can do no harm any more.
    Harmless {
        /// The view.
        epoch: u64,
    },
    /// To the leader: recover everything again.
    Recover {
        /// The view.
        epoch: u64,
        /// Why, for the log.
        why: String,
    },
    /// From the leader: how often everything was recovered in this view.
    Round {
        /// The view.
        epoch: u64,
        /// From 1.
        round: u32,
    },
    /// A database has changed on the sender: count that.
    Changed {
        /// The database.
        db: u32,
    },
    /// What the sender shall be for clients.
    Role {
        /// It may be their leader.
        leader: bool,
        /// If no other node can.
        yields: bool,
    },
    /// May the sender be a location master? Said when that changes, and whenever a link comes up.
    Lmaster {
        /// It may.
        can: bool,
    },
}
