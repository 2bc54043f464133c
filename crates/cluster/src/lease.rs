//! This node's lease: fresh grants of more than half of the voters.

use crate::planted::{Planted, planted};
use crate::{Grant, Pnn, RunId, Time, View};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    /// When the heartbeats were sent that each voter answered last.
    grants: BTreeMap<Pnn, Time>,
    until: Option<Time>,
    /// Working memory of `renew`: it runs at every grant.
    sent: Vec<Time>,
}

impl Lease {
    /// The leases of one view do not count for the next, but time that was already granted to this run stays good:
    /// the new view still has it as a member, so nobody gives its addresses away without its word.
    pub(crate) fn new_view(&mut self, goes_on: bool) {
        self.grants.clear();
        if !goes_on {
            self.until = None;
        }
    }

    pub(crate) fn grant(&mut self, from: Pnn, grant: &Grant, view: &View, run: RunId, now: Time) {
        let fits = grant.to_run == run
            && (grant.incarnation, grant.epoch) == view.rank()
            && view.is_voter(from, grant.uid)
            && grant.sent <= now;
        if fits {
            let begins = if planted(Planted::LeaseFromArrival) { now } else { grant.sent };
            let sent = self.grants.entry(from).or_insert(begins);
            *sent = (*sent).max(begins);
        }
    }

    /// This node grants to itself, at the moment it sends its heartbeats.
    pub(crate) fn own_grant(&mut self, me: Pnn, sent: Time) {
        self.grants.insert(me, sent);
    }

    pub(crate) fn no_own_grant(&mut self, me: Pnn) {
        self.grants.remove(&me);
    }

    /// Recomputes the end; returns it when it moved.
    pub(crate) fn renew(&mut self, view: &View, lease: Duration) -> Option<Time> {
        let needed = if planted(Planted::LeaseByHalf) { view.voters.len().div_ceil(2) } else { view.majority() };
        // Most grants are not the one that makes enough of them newer.
        let newer = |sent: Time| self.until.is_none_or(|until| sent + lease > until);
        if self.grants.values().filter(|sent| newer(**sent)).count() < needed {
            return None;
        }
        self.sent.clear();
        self.sent.extend(self.grants.iter().filter(|(p, _)| view.voters.contains_key(p)).map(|(_, t)| *t));
        self.sent.sort_unstable_by(|a, b| b.cmp(a));
        let until = *self.sent.get(needed - 1)? + lease;
        (self.until.is_none_or(|u| until > u)).then(|| {
            self.until = Some(until);
            until
        })
    }

    pub(crate) fn valid(&self, now: Time) -> bool {
        self.until.is_some_and(|u| now < u)
    }

    pub(crate) fn until(&self) -> Option<Time> {
        self.until
    }

    /// Gives the lease up before its end.
    pub(crate) fn end(&mut self) {
        self.until = None;
        self.grants.clear();
    }

    pub(crate) fn fresh(&self, view: &View, lease: Duration, now: Time) -> usize {
        self.grants.iter().filter(|(p, t)| view.voters.contains_key(p) && **t + lease > now).count()
    }
}
