//! Does this node keep time, and was a silence worth a failover? Counted for people; nothing is decided by it.

use crate::{Pnn, RunId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A dropped node that is heard again within this, still the same run, had only paused.
const PAUSED: Duration = Duration::from_secs(10);
/// Stalls that cost nothing are told at most this often; all are counted.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Since this run of the daemon began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaceStatus {
    /// How often this node itself woke up later than it wanted, by more than a heartbeat's interval.
    pub stalls: u64,
    /// The longest of these.
    pub longest_stall: Duration,
    /// The longest time between two heartbeats of a peer that was heard all along, as this node got to see them.
    pub longest_gap: Duration,
    /// Nodes that a view dropped for their silence and that were heard again, not restarted, within 10 s.
    pub false_failovers: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    pub(crate) status: PaceStatus,
    told: Option<Time>,
    /// Runs that a view dropped without their consent.
    dropped: BTreeMap<Pnn, RunId>,
}

impl Pace {
    /// This node woke up late. True if people should hear of it.
    pub(crate) fn stalled(&mut self, now: Time, late: Duration, cost: bool) -> bool {
        self.status.stalls += 1;
        self.status.longest_stall = self.status.longest_stall.max(late);
        let tell = cost || self.told.is_none_or(|t| now.since(t) >= TELL_AGAIN);
        if tell {
            self.told = Some(now);
        }
        tell
    }

    pub(crate) fn gap(&mut self, gap: Duration) {
        self.status.longest_gap = self.status.longest_gap.max(gap);
    }

    pub(crate) fn dropped(&mut self, pnn: Pnn, run: RunId) {
        self.dropped.insert(pnn, run);
    }

    pub(crate) fn admitted(&mut self, pnn: Pnn) {
        self.dropped.remove(&pnn);
    }

    /// A node is heard again after a silence. True if it had been dropped for nothing more than that.
    pub(crate) fn heard_again(&mut self, pnn: Pnn, run: Option<RunId>, silence: Duration) -> bool {
        let paused = self.dropped.remove(&pnn).is_some_and(|r| Some(r) == run) && silence < PAUSED;
        self.status.false_failovers += u64::from(paused);
        paused
    }
}
