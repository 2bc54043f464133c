//! The view: who serves, who decides the next view, under which rules.

use crate::planted::{Planted, planted};
use crate::{Epoch, Incarnation, NodeUid, Pnn, RunId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

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

    /// (incarnation, epoch): orders all views of a cluster.
    #[must_use]
    pub fn rank(&self) -> (Incarnation, Epoch) {
        (self.incarnation, self.epoch)
    }
}
