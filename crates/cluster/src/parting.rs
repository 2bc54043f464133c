//! A planned move of an address by which NFS clients hold locks: what its holder waits for before and after it lets go.
//!
//! The old server lives on. So every NFS server of the view enters its grace period first, [`crate::GRACE_WAIT`] at most,
//! while the address still serves; then the address leaves, and the old server lets go of what those clients had with it,
//! [`LET_GO_WAIT`] at most, before anybody else may have the address. The holder asks for it in its report, whoever
//! wants the address moved; each member answers in its own.

use crate::planted::{Planted, planted};
use crate::{GRACE_WAIT, Output, Pnn, Report, RunId, Time, View};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long an address that has left waits for the NFS server to let go of its clients' locks.
pub const LET_GO_WAIT: Duration = Duration::from_millis(500);

/// What this run has asked of all members.
#[derive(Clone, Debug)]
struct Asked {
    /// The addresses that are to leave.
    vips: BTreeSet<IpAddr>,
    until: Time,
    /// All members have answered.
    ready: bool,
    /// They have been waited for long enough.
    over: bool,
}

impl Asked {
    fn waits(&self) -> bool {
        !self.ready && !self.over
    }
}

/// A member's part in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parting {
    /// Addresses of this node by which its NFS server's clients hold something.
    locks: BTreeSet<IpAddr>,
    /// A planned move waits for the grace period.
    grace: bool,
    /// How often this run has asked.
    number: u64,
    asked: Option<Asked>,
    /// The newest request of each member's run that this node's NFS server was told of.
    told: BTreeMap<Pnn, (RunId, u64)>,
    /// The newest that it has answered.
    answered: BTreeMap<Pnn, (RunId, u64)>,
}

impl Parting {
    /// By these addresses clients hold something here. True if that is news.
    pub(crate) fn locks(&mut self, addresses: BTreeSet<IpAddr>, grace: bool) -> bool {
        let news = self.locks != addresses || self.grace != grace;
        self.locks = addresses;
        self.grace = grace;
        news
    }

    /// Is anything held by way of this address?
    pub(crate) fn has_locks(&self, vip: IpAddr) -> bool {
        self.locks.contains(&vip)
    }

    /// The request that waits for answers, for the report.
    pub(crate) fn request(&self) -> Option<u64> {
        self.asked.as_ref().filter(|asked| asked.waits()).map(|_| self.number)
    }

    /// What this node has answered, for the report.
    pub(crate) fn answers(&self) -> &BTreeMap<Pnn, (RunId, u64)> {
        &self.answered
    }

    /// May this address, which is wanted elsewhere, leave now? Asks the members where that is not so yet.
    pub(crate) fn may_leave(&mut self, now: Time, vip: IpAddr) -> bool {
        if !self.grace || !self.has_locks(vip) {
            return true;
        }
        match &mut self.asked {
            // The lists of clients are a node's: the answers will be for this address too.
            Some(asked) if asked.waits() && now < asked.until => {
                asked.vips.insert(vip);
            }
            Some(asked) if asked.vips.contains(&vip) => {
                // Nothing is due any more, whatever else keeps the address here.
                asked.over |= !asked.ready;
                return true;
            }
            _ => {
                self.number += 1;
                self.asked =
                    Some(Asked { vips: BTreeSet::from([vip]), until: now + GRACE_WAIT, ready: false, over: false });
            }
        }
        planted(Planted::MoveGraceNotAwaited)
    }

    /// These addresses are still to leave: what was asked for others is over.
    pub(crate) fn leaving(&mut self, vips: &BTreeSet<IpAddr>) {
        if let Some(asked) = &mut self.asked {
            asked.vips.retain(|vip| vips.contains(vip));
            if asked.vips.is_empty() {
                self.asked = None;
            }
        }
    }

    /// Passes on what this node's NFS server is asked for, by members and by this run itself.
    pub(crate) fn tell(
        &mut self,
        (me, run): (Pnn, RunId),
        view: &View,
        reports: &BTreeMap<Pnn, Arc<Report>>,
        out: &mut Vec<Output>,
    ) {
        self.answered.retain(|pnn, _| view.members.contains_key(pnn));
        self.told.retain(|pnn, _| view.members.contains_key(pnn));
        for (pnn, member) in &view.members {
            let number = if *pnn == me {
                self.request()
            } else {
                reports.get(pnn).filter(|r| r.run == member.run).and_then(|r| r.parting)
            };
            let run = if *pnn == me { run } else { member.run };
            let Some(number) = number else { continue };
            if self.told.get(pnn) != Some(&(run, number)) {
                self.told.insert(*pnn, (run, number));
                out.push(Output::GraceForMove { node: *pnn, run, number });
            }
        }
    }

    /// This node's NFS server is in its grace period for this request of that node's run, or never will be. False if that is
    /// old news.
    pub(crate) fn entered(&mut self, node: Pnn, request: (RunId, u64)) -> bool {
        let asked = self.told.get(&node) == Some(&request);
        asked && self.answered.insert(node, request) != Some(request)
    }

    /// Have all members answered?
    pub(crate) fn judge(&mut self, (me, run): (Pnn, RunId), view: &View, reports: &BTreeMap<Pnn, Arc<Report>>) {
        let wanted = (run, self.number);
        let own = self.answered.get(&me) == Some(&wanted);
        let answers = |(pnn, member): (&Pnn, &crate::Member)| {
            let report = reports.get(pnn).filter(|r| r.run == member.run);
            if *pnn == me { own } else { report.is_some_and(|r| r.partings.get(&me) == Some(&wanted)) }
        };
        if let Some(asked) = &mut self.asked {
            // Who has joined meanwhile could give these locks to others as well.
            asked.ready = view.members.iter().all(answers);
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.asked.as_ref().filter(|asked| asked.waits()).map(|asked| asked.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, Incarnation, Member, NodeUid};

    const ME: (Pnn, RunId) = (Pnn(0), RunId(10));

    fn vip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn at(ms: u64) -> Time {
        Time(5_000_000) + Duration::from_millis(ms)
    }

    fn view() -> View {
        let member = |n: u16| Member { uid: NodeUid(u128::from(n)), run: RunId(10 + u64::from(n)), since: Epoch(1) };
        View {
            epoch: Epoch(5),
            members: [0, 1, 2].map(|n| (Pnn(n), member(n))).into(),
            ..View::founding(Incarnation { number: 1, id: 1 }, Epoch(0), Pnn(0), NodeUid(1), String::new())
        }
    }

    /// A member that asks for this, and has answered that.
    fn report(pnn: u16, parting: Option<u64>, partings: &[(u16, u64, u64)]) -> Arc<Report> {
        let base = crate::grace::tests::report(Epoch(5), Epoch(5));
        let partings = partings.iter().map(|(p, run, n)| (Pnn(*p), (RunId(*run), *n))).collect();
        Arc::new(Report { run: RunId(10 + u64::from(pnn)), parting, partings, ..base })
    }

    /// Whose moves the own NFS server is asked for.
    fn told(parting: &mut Parting, reports: &BTreeMap<Pnn, Arc<Report>>) -> Vec<(u16, u64)> {
        let mut out = Vec::new();
        parting.tell(ME, &view(), reports, &mut out);
        let asked = |output| match output {
            Output::GraceForMove { node, run, number } if run.0 == 10 + u64::from(node.0) => (node.0, number),
            other => panic!("{other:?}"),
        };
        out.into_iter().map(asked).collect()
    }

    fn with_locks(grace: bool) -> Parting {
        let mut parting = Parting::default();
        assert!(parting.locks([vip(1), vip(2)].into(), grace));
        parting
    }

    #[test]
    fn what_nobody_holds_anything_by_leaves_at_once() {
        let mut parting = with_locks(true);
        assert!(parting.may_leave(at(0), vip(3)));
        assert!(with_locks(false).may_leave(at(0), vip(1)), "the grace period is never entered");
        assert_eq!((parting.request(), parting.next_timeout()), (None, None));
        assert!(told(&mut parting, &BTreeMap::new()).is_empty());
    }

    #[test]
    fn an_address_leaves_when_all_members_have_answered_for_this_run() {
        let mut parting = with_locks(true);
        assert!(!parting.may_leave(at(0), vip(1)) && !parting.may_leave(at(1), vip(2)));
        assert_eq!((parting.request(), parting.next_timeout()), (Some(1), Some(at(200))));
        let mut reports: BTreeMap<_, _> =
            [(Pnn(1), report(1, None, &[(0, 10, 1)])), (Pnn(2), report(2, None, &[(0, 9, 1)]))].into();
        assert_eq!(told(&mut parting, &reports), [(0, 1)]);
        assert!(told(&mut parting, &reports).is_empty(), "asked once");
        parting.judge(ME, &view(), &reports);
        assert!(!parting.may_leave(at(5), vip(1)), "not even the own server");
        assert!(parting.entered(Pnn(0), (RunId(10), 1)) && !parting.entered(Pnn(0), (RunId(10), 1)));
        parting.judge(ME, &view(), &reports);
        assert!(!parting.may_leave(at(6), vip(1)), "what node 2 answered was asked by an earlier run");
        reports.insert(Pnn(2), report(2, None, &[(0, 10, 1)]));
        parting.judge(ME, &view(), &reports);
        assert!(parting.may_leave(at(7), vip(1)) && parting.may_leave(at(7), vip(2)), "one grace period for both");
        // Once they have left, the next move asks anew.
        parting.leaving(&BTreeSet::new());
        assert_eq!(parting.request(), None);
        assert!(!parting.may_leave(at(500), vip(1)));
        assert_eq!(parting.request(), Some(2));
    }

    #[test]
    fn it_waits_200_ms_at_most() {
        let mut parting = with_locks(true);
        assert!(!parting.may_leave(at(0), vip(1)));
        assert!(!parting.may_leave(at(199), vip(1)));
        assert!(parting.may_leave(at(200), vip(1)));
        // One that comes later is asked for itself.
        assert!(!parting.may_leave(at(200), vip(2)));
        assert_eq!((parting.request(), parting.next_timeout()), (Some(2), Some(at(400))));
    }

    #[test]
    fn an_address_that_is_to_stay_after_all_keeps_nothing_waiting() {
        let mut parting = with_locks(true);
        assert!(!parting.may_leave(at(0), vip(1)));
        parting.leaving(&BTreeSet::new());
        assert_eq!((parting.request(), parting.next_timeout()), (None, None));
    }

    #[test]
    fn others_are_answered_once_and_only_members_of_the_view() {
        let mut parting = Parting::default();
        let mut reports: BTreeMap<_, _> = [(Pnn(1), report(1, Some(4), &[])), (Pnn(7), report(7, Some(1), &[]))].into();
        assert_eq!(told(&mut parting, &reports), [(1, 4)]);
        assert!(!parting.entered(Pnn(1), (RunId(11), 3)), "an older request's");
        assert!(!parting.entered(Pnn(1), (RunId(9), 4)), "an earlier run's");
        assert!(!parting.entered(Pnn(7), (RunId(17), 1)), "never asked");
        assert!(parting.entered(Pnn(1), (RunId(11), 4)));
        assert_eq!(parting.answers().get(&Pnn(1)), Some(&(RunId(11), 4)));
        reports.insert(Pnn(1), report(1, Some(5), &[]));
        assert_eq!(told(&mut parting, &reports), [(1, 5)]);
        // It has been started anew since, and is no member yet.
        let stranger = Report { run: RunId(99), ..(*reports[&Pnn(1)]).clone() };
        reports.insert(Pnn(1), Arc::new(Report { parting: Some(6), ..stranger }));
        assert!(told(&mut parting, &reports).is_empty());
    }
}
