//! What readers see: one immutable picture of the cluster as this node knows it.

use crate::news::same_text;
use crate::{AdminState, Epoch, NodeUid, PaceStatus, Pnn, Role, ServiceHealth, Time, View};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Published after every change; never changed after that. What has not changed from one to the next is the same object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// This node's clock when it was made.
    pub at: Time,
    /// Grows with every snapshot of this run.
    pub serial: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub me: Pnn,
    /// Newest view learned; none before the node has joined.
    pub view: Option<Arc<View>>,
    /// The leader of that view.
    pub leader: Option<Pnn>,
    /// Is this run of this node a member of it?
    pub member: bool,
    /// This node's lease.
    pub lease: LeaseStatus,
    /// Nodes outside of the view can do no harm any more: their last leases are over, and every member has reported under
    /// this view and has shut the dropped ones out of the storage. For the leader's own use: the databases may go on.
    /// False on every other node, without a view, and while the leader has no lease.
    #[serde(default)]
    pub harmless: bool,
    /// Planned moves are due, or soon: of addresses that are served well where they are. For the leader's own use: it
    /// prepares the storage for them. False on every other node, and while the leader has no lease.
    #[serde(default)]
    pub planned_moves: bool,
    /// All nodes of the list.
    pub nodes: BTreeMap<Pnn, Arc<NodeStatus>>,
    /// All public addresses.
    pub vips: BTreeMap<IpAddr, Arc<VipStatus>>,
    /// The cluster lock.
    pub lock: LockStatus,
    /// Wait before a silent node's addresses are given away, as it follows from the leases in force.
    pub takeover_wait: Duration,
    /// Stalls of this node, and failovers that it saw to be needless.
    #[serde(default)]
    pub pace: PaceStatus,
    /// Standing warnings of this node and of the cluster as a whole.
    pub warnings: Vec<String>,
}

/// This node's right to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Valid when the snapshot was made.
    pub valid: bool,
    /// Until when, if it was ever held.
    pub until: Option<Time>,
    /// Voters whose grants are fresh, of how many.
    pub grants: usize,
    /// Number of voters.
    pub voters: usize,
}

/// In one word, for tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Member, serves.
    Ok,
    /// Member; a service failed.
    Unhealthy,
    /// Member; services are starting.
    Starting,
    /// Member; told to host no addresses.
    Drained,
    /// Told to run no services.
    Stopped,
    /// Banned.
    Banned,
    /// Heard, but not a member (yet).
    Joining,
    /// Member that has gone silent; a view without it is being decided.
    Suspected,
    /// Not heard.
    Down,
    /// Votes only, and is heard.
    Witness,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Serves, or votes only.
    pub role: Role,
    /// Private addresses.
    pub addresses: Vec<IpAddr>,
    /// In one word.
    pub state: NodeState,
    /// Why it is not OK; empty when it is.
    pub because: String,
    /// Identity, when known.
    pub uid: Option<NodeUid>,
    /// Is it a member of the view?
    pub member: bool,
    /// Is it a voter of the view?
    pub voter: bool,
    /// The members keep its storage traffic out; none: they do not.
    pub evicted: Option<Eviction>,
    /// Since when it is heard, or silent (this node's clock).
    pub since: Time,
    /// What the administrator said.
    pub admin: AdminState,
    /// It is drained and waits for clients to forget what DNS has told them.
    #[serde(default)]
    pub lingers: bool,
    /// Its public interfaces without a link.
    #[serde(default)]
    pub links_down: BTreeSet<String>,
    /// Health by service.
    pub services: Arc<BTreeMap<String, ServiceHealth>>,
    /// Clients are recorded with its NFS server, which could have locks or open files there.
    #[serde(default)]
    pub nfs_clients: bool,
    /// Addresses that it holds and that answer.
    pub vips: BTreeSet<IpAddr>,
    /// Version of its program, when known.
    pub version: String,
    /// Its own standing warnings.
    pub warnings: Vec<String>,
}

/// Why a node is shut out of the storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eviction {
    /// Since when this node knows of it (this node's clock).
    pub since: Time,
    /// Why the view that began it was proposed.
    pub because: String,
}

impl Eviction {
    /// By this view, as this node learns of it.
    pub(crate) fn by(view: &View, now: Time) -> Self {
        Self { since: now, because: view.because.clone() }
    }
}

/// What an address is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VipState {
    /// A node holds it and answers.
    Held,
    /// On its way to a node.
    Moving,
    /// Waits: for an old lease, an eviction, a service.
    Waiting,
    /// No node can host it.
    Unserved,
}

/// One public address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// What it is doing.
    pub state: VipState,
    /// Who answers for it.
    pub holder: Option<Pnn>,
    /// Where it is meant to be.
    pub target: Option<Pnn>,
    /// Prefix length.
    pub prefix_len: u8,
    /// Interface on the holder, or on this node.
    pub interface: String,
    /// Is the holder healthy (or, on the move, is the target)?
    pub healthy: bool,
    /// Why it is where it is.
    pub because: String,
    /// Since when in this state (this node's clock).
    pub since: Time,
}

/// The cluster lock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockStatus {
    /// May it break ties here?
    pub usable: bool,
    /// Does this node hold it?
    pub held: bool,
    /// Why (not).
    pub because: String,
    /// Under which epoch the last change was seen.
    pub epoch: Epoch,
}

impl LockStatus {
    /// Does it say the same as the other? Asked after every change, and mostly there is no reason to compare.
    pub(crate) fn says(&self, other: &Self) -> bool {
        let Self { usable, held, because, epoch } = self;
        (*usable, *held, *epoch) == (other.usable, other.held, other.epoch) && same_text(because, &other.because)
    }
}
