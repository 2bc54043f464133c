//! What nodes say to each other. Everything here has been authenticated before it reaches the core.

use crate::{
    Accepted, AdminReply, AdminRequest, AdminState, Ballot, Epoch, Incarnation, NodeUid, Pnn, PnnSet, RunId,
    ServiceHealth, Time, View,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Sent every heartbeat interval to every peer, on every network, as a sealed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's identity.
    pub uid: NodeUid,
    /// The sender's start.
    pub run: RunId,
    /// Life of the cluster and newest view that the sender learned; none before it has joined.
    pub view: Option<(Incarnation, Epoch)>,
    /// The sender's clock when it sent this; comes back in the grant, means nothing to others.
    pub sent: Time,
    /// Peers that the sender hears and has a working link to.
    pub hears: PnnSet,
}

/// A voter's answer to one heartbeat: "under this epoch, you may".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grant {
    /// Identity of the voter.
    pub uid: NodeUid,
    /// Which start of the asking node this is for.
    pub to_run: RunId,
    /// Life of the cluster.
    pub incarnation: Incarnation,
    /// The view that it is granted under.
    pub epoch: Epoch,
    /// `Heartbeat::sent` of the heartbeat that this answers.
    pub sent: Time,
}

/// Said for a daemon by its guard, when that daemon is dead and all its addresses are gone. The daemon itself seals it
/// beforehand, anew for each view; nobody else can make one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GuardWord {
    /// The start of the dead daemon: the word means no other.
    pub run: RunId,
    /// Life of the cluster.
    pub incarnation: Incarnation,
    /// The newest view that it had learned.
    pub epoch: Epoch,
}

/// How long ago a voter gave each node its last grant; absent = longer ago than any lease lives.
pub type Ages = BTreeMap<Pnn, Duration>;

/// Sent over the links, reliably and in order while the link lasts. What is large is on the heap: every input of the core
/// is as large as the largest message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// Paxos, first phase: promise not to answer lower ballots for this epoch.
    Prepare { incarnation: Incarnation, epoch: Epoch, ballot: Ballot },
    /// Answer to `Prepare`.
    Promise { epoch: Epoch, ballot: Ballot, accepted: Option<Box<Accepted>> },
    /// Paxos, second phase.
    Accept { ballot: Ballot, view: Box<View> },
    /// Answer to `Accept`. From here on the voter grants nothing under the view before.
    Accepted { epoch: Epoch, ballot: Ballot, ages: Ages },
    /// "No": a higher ballot was promised.
    Refused { epoch: Epoch, ballot: Ballot, promised: Ballot },
    /// A view that is decided. `fences`: for how long from now a node that it dropped may still act.
    Decided { view: Box<View>, fences: BTreeMap<Pnn, Duration> },
    /// What a node is, holds and thinks of itself.
    Report(Arc<Report>),
    /// Leader to member: these addresses you shall hold, and no other.
    Orders(Orders),
    /// A request of the administrator that only the leader can carry out.
    Admin { ticket: u64, request: AdminRequest },
    /// Its answer.
    AdminDone { ticket: u64, reply: AdminReply },
}

impl Message {
    /// Every kind by its name in what is sent. A message of another kind is a later version's.
    pub const KINDS: [&str; 10] =
        ["prepare", "promise", "accept", "accepted", "refused", "decided", "report", "orders", "admin", "admin_done"];
}

/// A node about itself. Sent to every peer when it changes and every `Timing::refresh`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// The reporting start.
    pub run: RunId,
    /// Its identity.
    pub uid: NodeUid,
    /// Newest view it learned.
    pub epoch: Epoch,
    /// Revision of the newest orders of this epoch that it has seen; 0 = none.
    pub orders: u64,
    /// Addresses that it holds, is taking or has not finished releasing; and those that it has lost with its lease, while
    /// servers there may still have something in hand.
    pub holding: BTreeSet<IpAddr>,
    /// Those of them that answer: added, announced.
    pub serving: BTreeSet<IpAddr>,
    /// Addresses it tried to take and could not, with the reason.
    pub failed: BTreeMap<IpAddr, String>,
    /// Addresses that a machine outside of the cluster answers for, with its MAC: nobody shall take them.
    #[serde(default)]
    pub conflicts: BTreeMap<IpAddr, String>,
    /// Newest epoch whose dropped nodes it has shut out from the storage; `None` before the first.
    pub evicted: Option<Epoch>,
    /// Clients are recorded with its NFS server.
    #[serde(default)]
    pub nfs_clients: bool,
    /// Newest epoch for whose lost nodes' NFS clients its own NFS server is in its grace period, or none is needed there.
    #[serde(default)]
    pub graced: Epoch,
    /// Its number of a planned move by which NFS clients' locks would move: all members' NFS servers shall be in their grace
    /// period for its clients.
    #[serde(default)]
    pub parting: Option<u64>,
    /// Newest such move of each member's run for which its own NFS server is in its grace period, or none is needed there.
    #[serde(default)]
    pub partings: BTreeMap<Pnn, (RunId, u64)>,
    /// It has everything that was committed before the view of `epoch`, and so all that is committed in it. Not said by older
    /// versions.
    #[serde(default)]
    pub recovered: Option<bool>,
    /// What the administrator said.
    pub admin: AdminState,
    /// It is drained, but clients may still be on their way to its addresses by what DNS told them: they stay for now.
    #[serde(default)]
    pub lingers: bool,
    /// Health by service.
    pub services: Arc<BTreeMap<String, ServiceHealth>>,
    /// Public interfaces that are down or missing.
    pub links_down: BTreeSet<String>,
    /// True when its kernel lease has whole seconds only.
    pub whole_seconds: bool,
    /// Has it a valid node lease?
    pub leased: bool,
    /// It is about to go away on purpose: no address for it any more.
    #[serde(default)]
    pub leaving: bool,
    /// It is going away on purpose and done with it: addresses released, services stopped, mount gone.
    pub left: bool,
    /// It holds nothing that it could serve with: no addresses, no services, no mount. Only such a node is admitted.
    #[serde(default)]
    pub clean: bool,
    /// Fingerprint of its configuration.
    pub fingerprint: u64,
    /// Version of its program.
    pub version: String,
    /// Standing warnings.
    pub warnings: Vec<String>,
}

/// The leader's word on what one member shall hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Orders {
    /// Only valid in this epoch.
    pub epoch: Epoch,
    /// Grows within an epoch.
    pub revision: u64,
    /// The addresses, each with the reason.
    pub hold: BTreeMap<IpAddr, String>,
    /// Where every address is meant to be: for readers (status, DNS) on every node.
    pub placement: Arc<BTreeMap<IpAddr, Pnn>>,
    /// Why an address is where it is or nowhere.
    pub because: Arc<BTreeMap<IpAddr, String>>,
}
