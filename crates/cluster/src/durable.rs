//! What a node keeps on its disk before it answers anybody, and what it writes beside the cluster lock.

use crate::{AdminState, Ballot, Epoch, Incarnation, NodeUid, Pnn, View};
use serde::{Deserialize, Serialize};

/// A node's votes. Written, fsynced and renamed into place before the answers that depend on it leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Durable {
    /// This disk's identity.
    pub uid: NodeUid,
    /// The node that the votes belong to.
    pub pnn: Pnn,
    /// Newest view learned; none before the node has joined.
    pub view: Option<View>,
    /// Highest ballot promised for the epoch after `view`.
    pub promised: Ballot,
    /// What was accepted for the epoch after `view`.
    pub accepted: Option<Accepted>,
    /// What the administrator said of this node; kept across restarts.
    #[serde(default)]
    pub admin: AdminState,
    /// The newest view ([`View::number`]) whose members' databases this disk has, with all that was committed before it: while
    /// that is the newest view of all, nothing is committed that is not here as well, whatever becomes of the daemon.
    #[serde(default)]
    pub recovered: Option<u64>,
}

impl Durable {
    /// A new disk: no view, no votes.
    #[must_use]
    pub fn blank(pnn: Pnn, uid: NodeUid) -> Self {
        Self {
            uid,
            pnn,
            view: None,
            promised: Ballot::ZERO,
            accepted: None,
            admin: AdminState::default(),
            recovered: None,
        }
    }
}

/// A value accepted under a ballot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Accepted {
    /// The ballot it was accepted under.
    pub ballot: Ballot,
    /// The view.
    pub view: View,
}

/// One node's record beside the cluster lock (Disk Paxos): the lock's memory as an acceptor with half a vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockRecord {
    /// Whose record.
    pub pnn: Pnn,
    /// The identity that wrote it.
    pub uid: NodeUid,
    /// Which life of the cluster.
    pub incarnation: Incarnation,
    /// The epoch that is being decided.
    pub epoch: Epoch,
    /// Highest ballot that the writer has begun.
    pub ballot: Ballot,
    /// What the writer wants accepted, once it has read all records in the first phase.
    pub accepted: Option<Accepted>,
}
