//! NFS clients' locks over the loss of their server: nobody else may get one before its owner could reclaim it.
//!
//! The storage keeps a lost node's locks until it is evicted. Before that every NFS server of the view enters its grace
//! period, in which only reclaims are answered; the eviction waits for all of them, [`WAIT`] at most, and only where the
//! lost node had clients that could want something back.

use crate::planted::{Planted, planted};
use crate::{Epoch, Output, Pnn, Report, RunId, Time, View};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long an eviction waits for NFS servers to enter their grace period.
pub const GRACE_WAIT: Duration = Duration::from_millis(200);

/// An eviction that is put off.
#[derive(Clone, Debug)]
struct Waiting {
    /// The view that dropped the node with the clients.
    epoch: Epoch,
    until: Time,
    /// The newest view's eviction.
    evict: (Epoch, BTreeMap<Pnn, Vec<IpAddr>>),
}

/// A grace period that is to be entered.
#[derive(Clone, Debug)]
struct Due {
    oldest: Epoch,
    newest: Epoch,
    nodes: BTreeSet<Pnn>,
}

/// A member's part in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grace {
    /// Clients are recorded with this node's own NFS server, with which they could have state.
    pub(crate) clients: bool,
    /// Runs of members with whose NFS servers clients were recorded, and whose reports are gone before a view dropped them.
    had_clients: BTreeMap<Pnn, RunId>,
    /// For which lost nodes this node's own NFS server has yet to enter its grace period, by the oldest and the newest view
    /// that may have dropped any of them.
    due: Option<Due>,
    /// How often it was asked for.
    asked: u64,
    waiting: Option<Waiting>,
    /// Silent nodes whose connections are about to be destroyed, and until when that waits.
    kick: Option<(BTreeSet<Pnn>, Time)>,
}

impl Grace {
    /// The newest view for whose lost nodes' clients this node's NFS server is ready; `epoch` is the newest learned.
    pub(crate) fn ready(&self, epoch: Epoch) -> Epoch {
        self.due.as_ref().map_or(epoch, |due| Epoch(due.oldest.0.saturating_sub(1)))
    }

    /// This run of a member's had clients, and reports no more: its daemon was started anew, or its node is no longer in the
    /// nodes list. What it had is known no other way.
    pub(crate) fn reports_no_more(&mut self, pnn: Pnn, run: RunId) {
        if !planted(Planted::ClientsOfLastRunForgotten) {
            self.had_clients.insert(pnn, run);
        }
    }

    /// Had this run clients, which reports no more?
    pub(crate) fn had_clients(&self, pnn: Pnn, run: RunId) -> bool {
        self.had_clients.get(&pnn) == Some(&run)
    }

    /// A view is learned, which drops these nodes with clients of NFS (often none), and shuts these out of the storage.
    /// `first`: the oldest view that may have dropped any of them, where several were learned at once.
    pub(crate) fn learned(
        &mut self,
        now: Time,
        (first, epoch): (Epoch, Epoch),
        lost: BTreeSet<Pnn>,
        nodes: BTreeMap<Pnn, Vec<IpAddr>>,
        out: &mut Vec<Output>,
    ) {
        self.kick = None;
        if !lost.is_empty() {
            self.order((first, epoch), lost, out);
            // An eviction that waits already waits no longer for this one.
            let until = self.waiting.as_ref().map_or(now + GRACE_WAIT, |w| w.until);
            self.waiting = Some(Waiting { epoch, until, evict: (epoch, nodes) });
        } else if let Some(waiting) = &mut self.waiting {
            waiting.evict = (epoch, nodes);
        } else {
            out.push(Output::Evict { epoch, nodes });
        }
    }

    /// These silent nodes with clients of NFS are to be kicked, which frees their locks on this node before a view can be
    /// decided. The time until which that waits; none: no longer.
    pub(crate) fn before_kick(
        &mut self,
        now: Time,
        next: Epoch,
        lost: BTreeSet<Pnn>,
        out: &mut Vec<Output>,
    ) -> Option<Time> {
        if lost.is_empty() {
            return None;
        }
        let until = match &self.kick {
            Some((nodes, until)) if *nodes == lost => *until,
            _ => {
                self.order((next, next), lost.clone(), out);
                self.kick = Some((lost, now + GRACE_WAIT));
                now + GRACE_WAIT
            }
        };
        (self.due.is_some() && now < until).then_some(until)
    }

    /// The own NFS server is in its grace period for the nodes of this order, or never will be. The answer to an older order
    /// is none: one more node may have been lost since, under the same view.
    pub(crate) fn entered(&mut self, number: u64) {
        if number == self.asked {
            self.due = None;
        }
    }

    /// Wants the own NFS server in its grace period, for these nodes and those of earlier orders that it has not confirmed.
    fn order(&mut self, (first, epoch): (Epoch, Epoch), lost: BTreeSet<Pnn>, out: &mut Vec<Output>) {
        if self.due.as_ref().is_some_and(|due| due.newest == epoch && due.nodes.is_superset(&lost)) {
            // The answer to the last order is that to this one.
            return;
        }
        let due = self.due.get_or_insert(Due { oldest: first, newest: epoch, nodes: BTreeSet::new() });
        due.newest = epoch;
        due.nodes.extend(lost);
        self.asked += 1;
        out.push(Output::Grace { number: self.asked, epoch, nodes: due.nodes.clone() });
    }

    /// Evicts when every member that is heard is ready, or the time is over.
    pub(crate) fn evict_when_ready(
        &mut self,
        now: Time,
        view: &View,
        reports: &BTreeMap<Pnn, Arc<Report>>,
        out: &mut Vec<Output>,
    ) {
        let Some(waiting) = &self.waiting else { return };
        let ready = |p: &Pnn| reports.get(p).is_some_and(|r| r.epoch >= waiting.epoch && r.graced >= waiting.epoch);
        if now < waiting.until && !view.members.keys().all(ready) && !planted(Planted::GraceNotAwaited) {
            return;
        }
        if let Some(Waiting { evict: (epoch, nodes), .. }) = self.waiting.take() {
            out.push(Output::Evict { epoch, nodes });
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.waiting.as_ref().map(|w| w.until)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{AdminState, Incarnation, Member, NodeUid, RunId};

    fn at(ms: u64) -> Time {
        Time(0) + Duration::from_millis(ms)
    }

    fn nodes(list: &[u16]) -> BTreeSet<Pnn> {
        list.iter().map(|n| Pnn(*n)).collect()
    }

    pub(crate) fn report(epoch: Epoch, graced: Epoch) -> Report {
        Report {
            run: RunId(1),
            uid: NodeUid(1),
            epoch,
            orders: 0,
            holding: BTreeSet::new(),
            serving: BTreeSet::new(),
            failed: BTreeMap::new(),
            conflicts: BTreeMap::new(),
            evicted: None,
            nfs_clients: false,
            graced,
            parting: None,
            partings: BTreeMap::new(),
            recovered: Some(true),
            admin: AdminState::Active,
            lingers: false,
            services: Arc::default(),
            links_down: BTreeSet::new(),
            whole_seconds: false,
            leased: true,
            leaving: false,
            left: false,
            clean: false,
            fingerprint: 0,
            version: String::new(),
            warnings: Vec::new(),
        }
    }

    /// What came out: orders to enter the grace period, and evictions.
    fn said(out: &mut Vec<Output>) -> Vec<String> {
        let text = |output| match output {
            Output::Grace { epoch, nodes, .. } => {
                format!("grace {} {:?}", epoch.0, nodes.iter().map(|p| p.0).collect::<Vec<_>>())
            }
            Output::Evict { epoch, .. } => format!("evict {}", epoch.0),
            other => format!("{other:?}"),
        };
        out.drain(..).map(text).collect()
    }

    #[test]
    fn without_clients_nothing_waits() {
        let (mut grace, mut out) = (Grace::default(), Vec::new());
        grace.learned(at(0), (Epoch(5), Epoch(5)), BTreeSet::new(), BTreeMap::new(), &mut out);
        assert_eq!(said(&mut out), ["evict 5"]);
        assert_eq!(grace.before_kick(at(1), Epoch(6), BTreeSet::new(), &mut out), None);
        assert!(out.is_empty() && grace.ready(Epoch(5)) == Epoch(5) && grace.next_timeout().is_none());
    }

    #[test]
    fn a_second_loss_meanwhile_asks_for_both_and_waits_no_longer() {
        let (mut grace, mut out) = (Grace::default(), Vec::new());
        grace.learned(at(0), (Epoch(5), Epoch(5)), nodes(&[1]), BTreeMap::new(), &mut out);
        assert_eq!(said(&mut out), ["grace 5 [1]"]);
        assert_eq!(grace.ready(Epoch(5)), Epoch(4));
        grace.learned(at(50), (Epoch(6), Epoch(6)), nodes(&[2]), BTreeMap::new(), &mut out);
        assert_eq!(said(&mut out), ["grace 6 [1, 2]"]);
        // The answer to the first order is none to the second.
        grace.entered(1);
        assert_eq!((grace.ready(Epoch(6)), grace.next_timeout()), (Epoch(4), Some(at(200))));
        // A view that drops nobody with clients does not make the eviction any earlier.
        grace.learned(at(60), (Epoch(7), Epoch(7)), BTreeSet::new(), BTreeMap::new(), &mut out);
        assert!(said(&mut out).is_empty());
        grace.entered(2);
        assert_eq!(grace.ready(Epoch(7)), Epoch(7));
    }

    /// View 6 dropped node 1; this node hears of that with view 7. Who has learned view 6 waits for it even so.
    #[test]
    fn what_was_lost_under_a_view_that_was_missed_is_minded_by_nobody_before_the_answer() {
        let (mut grace, mut out) = (Grace::default(), Vec::new());
        grace.learned(at(0), (Epoch(6), Epoch(7)), nodes(&[1]), BTreeMap::new(), &mut out);
        assert_eq!(said(&mut out), ["grace 7 [1]"]);
        assert_eq!(grace.ready(Epoch(7)), Epoch(5));
        grace.entered(1);
        assert_eq!(grace.ready(Epoch(7)), Epoch(7));
    }

    /// Both go silent within a millisecond; the view that drops them is decided later.
    #[test]
    fn a_second_loss_before_the_view_is_not_answered_by_the_answer_to_the_first() {
        let (mut grace, mut out) = (Grace::default(), Vec::new());
        assert_eq!(grace.before_kick(at(0), Epoch(8), nodes(&[2]), &mut out), Some(at(200)));
        assert_eq!(grace.before_kick(at(1), Epoch(8), nodes(&[2, 3]), &mut out), Some(at(201)));
        assert_eq!(said(&mut out), ["grace 8 [2]", "grace 8 [2, 3]"]);
        grace.entered(1);
        assert_eq!(grace.before_kick(at(3), Epoch(8), nodes(&[2, 3]), &mut out), Some(at(201)));
        grace.learned(at(4), (Epoch(8), Epoch(8)), nodes(&[2, 3]), BTreeMap::new(), &mut out);
        assert!(said(&mut out).is_empty(), "asked already");
        assert_eq!(grace.ready(Epoch(8)), Epoch(7));
        grace.entered(2);
        assert_eq!(grace.ready(Epoch(8)), Epoch(8));
    }

    #[test]
    fn an_eviction_waits_for_all_members_and_200_ms_at_most() {
        let member = Member { uid: NodeUid(1), run: RunId(1), since: Epoch(1) };
        let view = View {
            epoch: Epoch(5),
            members: [0, 2].map(|n| (Pnn(n), member.clone())).into(),
            ..View::founding(Incarnation { number: 1, id: 1 }, Epoch(0), Pnn(0), NodeUid(1), String::new())
        };
        let mut reports = BTreeMap::new();
        for late in [false, true] {
            let (mut grace, mut out) = (Grace::default(), Vec::new());
            grace.learned(at(0), (Epoch(5), Epoch(5)), nodes(&[1]), BTreeMap::new(), &mut out);
            said(&mut out);
            let mut tell = |pnn: u16, graced: u64| {
                let report = report(Epoch(5), Epoch(graced));
                reports.insert(Pnn(pnn), Arc::new(report));
            };
            tell(0, 5);
            tell(2, 4);
            grace.evict_when_ready(at(199), &view, &reports, &mut out);
            assert!(said(&mut out).is_empty());
            if late {
                grace.evict_when_ready(at(200), &view, &reports, &mut out);
            } else {
                reports.insert(Pnn(2), Arc::new(report(Epoch(5), Epoch(5))));
                grace.evict_when_ready(at(199), &view, &reports, &mut out);
            }
            assert_eq!(said(&mut out), ["evict 5"], "late: {late}");
            assert_eq!(grace.next_timeout(), None);
        }
    }

    #[test]
    fn a_kick_waits_for_the_own_server() {
        let (mut grace, mut out) = (Grace::default(), Vec::new());
        assert_eq!(grace.before_kick(at(0), Epoch(5), nodes(&[1]), &mut out), Some(at(200)));
        assert_eq!(said(&mut out), ["grace 5 [1]"]);
        assert_eq!(grace.before_kick(at(10), Epoch(5), nodes(&[1]), &mut out), Some(at(200)));
        assert!(said(&mut out).is_empty(), "asked once");
        grace.entered(1);
        assert_eq!(grace.before_kick(at(11), Epoch(5), nodes(&[1]), &mut out), None);
        // Never confirmed.
        assert_eq!(grace.before_kick(at(20), Epoch(5), nodes(&[1, 2]), &mut out), Some(at(220)));
        assert_eq!(grace.before_kick(at(220), Epoch(5), nodes(&[1, 2]), &mut out), None);
    }
}
