//! The view: who serves, who decides the next view, under which rules.

use crate::planted::{Planted, planted};
use crate::{Epoch, Incarnation, NodeUid, Pnn, RunId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Bits of [`View::number`] that count views.
const EPOCH_BITS: u32 = 36;
/// Bits below the number of the cluster's life that tell lives of one number apart.
const LIFE_BITS: u32 = 12;

/// A node that serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The identity on its vote disk.
    pub uid: NodeUid,
    /// The start of its daemon that was admitted; another run of the same node is no member.
    pub run: RunId,
    /// The epoch that admitted this run. The member with the lowest one leads.
    pub since: Epoch,
}

/// Rules that the voters of a view follow when they decide the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rules {
    /// The cluster lock breaks ties: exactly half of the voters and the lock are a quorum.
    pub lock: bool,
}

/// The agreed members, voters and rules. View e+1 is one Paxos decision of the voters of view e.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    /// Which life of the cluster.
    pub incarnation: Incarnation,
    /// Number of the view.
    pub epoch: Epoch,
    /// Who serves.
    pub members: BTreeMap<Pnn, Member>,
    /// Who decides the next view.
    pub voters: BTreeMap<Pnn, NodeUid>,
    /// How the next view is decided.
    pub rules: Rules,
    /// Identities that have every committed write: a view must hold one of them, or databases could go back in time.
    pub keepers: BTreeSet<NodeUid>,
    /// Nodes whose storage traffic the members shut out, with the addresses to shut out (also made from disk at
    /// boot, so they stand here and not only in the configuration).
    pub evicted: BTreeMap<Pnn, Vec<IpAddr>>,
    /// Why this view was proposed, for people.
    pub because: String,
}

impl View {
    /// View 0 of `steadfast init` (and, with a later incarnation and epoch, of `force-view`): one voter, nobody
    /// serves until its daemon is admitted by the next view.
    #[must_use]
    pub fn founding(incarnation: Incarnation, epoch: Epoch, pnn: Pnn, uid: NodeUid, because: String) -> Self {
        Self {
            incarnation,
            epoch,
            members: BTreeMap::new(),
            voters: BTreeMap::from([(pnn, uid)]),
            rules: Rules::default(),
            keepers: BTreeSet::from([uid]),
            evicted: BTreeMap::new(),
            because,
        }
    }

    /// The member with the longest service; the lowest PNN of those.
    #[must_use]
    pub fn leader(&self) -> Option<Pnn> {
        self.members.iter().min_by_key(|(pnn, m)| (m.since, **pnn)).map(|(pnn, _)| *pnn)
    }

    /// Is this run of this node a member?
    #[must_use]
    pub fn has_run(&self, pnn: Pnn, run: RunId) -> bool {
        self.members.get(&pnn).is_some_and(|m| m.run == run)
    }

    /// Is this identity a voter?
    #[must_use]
    pub fn is_voter(&self, pnn: Pnn, uid: NodeUid) -> bool {
        self.voters.get(&pnn) == Some(&uid)
    }

    /// More than half of the voters.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Are `count` voters a quorum for the next view without the lock?
    #[must_use]
    pub fn is_majority(&self, count: usize) -> bool {
        2 * count > self.voters.len() || (planted(Planted::HalfIsEnough) && 2 * count == self.voters.len())
    }

    /// Are `count` voters a quorum together with the lock?
    #[must_use]
    pub fn is_half_with_lock(&self, count: usize) -> bool {
        self.rules.lock && count > 0 && 2 * count == self.voters.len()
    }

    /// A number that no other view has, and that grows, for the databases.
    ///
    /// Epochs alone are not enough: `force-view` begins a new life of the cluster with the next epoch, while the nodes that
    /// it leaves behind may count on in the old one. So the life's number stands before the epoch, and between them some
    /// bits of its random name, for lives begun apart at two nodes. In the cluster's first life it is the epoch itself.
    /// The order is that of [`View::rank`].
    #[must_use]
    pub fn number(&self) -> u64 {
        let life = self.incarnation;
        let name = if life.number == 0 { 0 } else { life.id >> (u64::BITS - LIFE_BITS) };
        (u64::from(life.number) << (EPOCH_BITS + LIFE_BITS))
            | (name << EPOCH_BITS)
            | (self.epoch.0 & ((1 << EPOCH_BITS) - 1))
    }

    /// (incarnation, epoch): orders all views of a cluster.
    #[must_use]
    pub fn rank(&self) -> (Incarnation, Epoch) {
        (self.incarnation, self.epoch)
    }
}
