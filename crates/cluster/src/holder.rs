//! The addresses of this node: what the leader ordered, what is there, and the way from one to the other.

use crate::parting::Parting;
use crate::planted::{Planted, planted};
use crate::unfinished::{LEASE_WAIT, Unfinished};
use crate::{Config, END_WAIT, Epoch, LET_GO_WAIT, Orders, Output, ServiceHealth, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// A failed take or a lost address is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Who has a say when an address is to leave this node by plan.
#[derive(Debug)]
pub(crate) struct Leave<'a> {
    pub(crate) parting: &'a mut Parting,
    pub(crate) unfinished: &'a mut Unfinished,
    pub(crate) services: &'a BTreeMap<String, ServiceHealth>,
}

impl Leave<'_> {
    /// May it leave now? Asks for what has to come before, all at the same time.
    fn may(&mut self, now: Time, vip: IpAddr, out: &mut Vec<Output>) -> bool {
        let graced = self.parting.may_leave(now, vip);
        let proved = self.unfinished.may_leave(now, vip, self.services, out);
        graced && proved
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Taking,
    Held,
    Releasing,
    /// It has left; the NFS server has yet to let go of what clients had by it, or to be ended, until then.
    LettingGo {
        until: Time,
        end: bool,
    },
}

/// A second look for another user of an address that has not been answered is over after this.
const SECOND_LOOK: Duration = Duration::from_millis(300);
/// An address that another machine uses is tried again after this.
const CONFLICT: Duration = Duration::from_secs(10);
/// A first sighting is forgotten after this.
const SIGHTING: Duration = Duration::from_secs(5);

/// Another machine answered for an address that this node was about to take.
#[derive(Clone, Debug)]
struct Sighting {
    at: Time,
    /// When the second look began: the first may have seen the last holder, whose lease was not over.
    again: Option<Time>,
    /// Nobody answered in the second look.
    free: bool,
}

/// What a look at what is to be done has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Addresses for which the NFS server did not let go in time; or (true) what hangs did not end.
    pub(crate) late: Vec<(IpAddr, bool)>,
    /// Addresses that were lost, and leave by plan now.
    pub(crate) left: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Holder {
    local: BTreeMap<IpAddr, State>,
    /// Addresses that were lost, with the lease, at the end of the daemon or by somebody's hand, and may be here still: what
    /// servers have in hand of them was not proved to be finished. They count as held, and wait for a lease until then if they are wanted elsewhere.
    lost: BTreeMap<IpAddr, Time>,
    /// What the leader wants here, with the reason.
    wanted: BTreeMap<IpAddr, String>,
    epoch: Epoch,
    pub(crate) revision: u64,
    pub(crate) failed: BTreeMap<IpAddr, (Time, String)>,
    sightings: BTreeMap<IpAddr, Sighting>,
    conflicts: BTreeMap<IpAddr, (Time, String)>,
    /// Addresses for which the NFS server was told in this turn to let go, or to be ended.
    told: Vec<IpAddr>,
    /// When this node last looked at what is to be done.
    reconciled: Time,
}

impl Holder {
    /// May it still answer from here, or soon?
    pub(crate) fn has(&self, vip: IpAddr) -> bool {
        self.local.contains_key(&vip)
    }

    /// Was it lost, with nothing proved since?
    pub(crate) fn is_lost(&self, vip: IpAddr) -> bool {
        self.lost.contains_key(&vip)
    }

    /// All addresses go, and nobody is asked what servers have in hand: the lease is over, or the daemon ends.
    pub(crate) fn lose_all(&mut self, now: Time) {
        let goes = |(_, s): &(&IpAddr, &State)| !matches!(s, State::LettingGo { .. });
        for (vip, _) in self.local.iter().filter(goes) {
            self.lost.entry(*vip).or_insert(now + LEASE_WAIT);
        }
    }

    /// Nobody is left here who could have anything in hand, or be listened to by the storage.
    pub(crate) fn nothing_in_hand(&mut self) {
        self.lost.clear();
    }

    /// Is it being released?
    pub(crate) fn parts(&self, vip: IpAddr) -> bool {
        self.local.get(&vip) == Some(&State::Releasing)
    }

    /// Has it left, and only the NFS server has yet to let go?
    pub(crate) fn lets_go(&self, vip: IpAddr) -> bool {
        matches!(self.local.get(&vip), Some(State::LettingGo { .. }))
    }

    /// It has left and counts as held until the NFS server has let go, or has ended.
    pub(crate) fn wait_to_let_go(&mut self, until: Time, vip: IpAddr, end: bool) {
        self.local.insert(vip, State::LettingGo { until, end });
        self.told.push(vip);
    }

    /// What was decided in the last turn has been carried out by now, and not before: a daemon may stand still in between. So
    /// the NFS server is waited for from now on. True if it is.
    pub(crate) fn carried_out(&mut self, now: Time) -> bool {
        let mut waits = false;
        for vip in std::mem::take(&mut self.told) {
            if let Some(State::LettingGo { until, end }) = self.local.get_mut(&vip)
                && !planted(Planted::WaitsWhileStanding)
            {
                *until = now + if *end { END_WAIT } else { LET_GO_WAIT };
                waits = true;
            }
        }
        waits
    }

    /// The NFS server has let go, or ended. True if that was waited for: one that has let go may hang still.
    pub(crate) fn let_go(&mut self, vip: IpAddr, ended: bool) -> bool {
        let due = matches!(self.local.get(&vip), Some(State::LettingGo { end, .. }) if ended || !end);
        due && self.local.remove(&vip).is_some()
    }

    /// Everything that may still answer from here, or may soon, or has left something in hand here.
    pub(crate) fn holding(&self) -> BTreeSet<IpAddr> {
        let early = planted(Planted::ReleaseSaidEarly);
        let here = self.local.iter().filter(|(_, s)| !early || **s != State::Releasing).map(|(v, _)| v);
        here.chain(self.lost.keys()).copied().collect()
    }

    pub(crate) fn serving(&self) -> BTreeSet<IpAddr> {
        self.local.iter().filter(|(_, s)| **s == State::Held).map(|(v, _)| *v).collect()
    }

    /// Are these what `holding` and `serving` say?
    pub(crate) fn holds_exactly(&self, holding: &BTreeSet<IpAddr>, serving: &BTreeSet<IpAddr>) -> bool {
        let held = self.local.iter().filter(|(_, s)| **s == State::Held).map(|(v, _)| v);
        let same = match self.lost.is_empty() && !planted(Planted::ReleaseSaidEarly) {
            true => self.local.keys().eq(holding),
            false => self.holding() == *holding,
        };
        same && held.eq(serving)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.lost.is_empty()
    }

    /// A new view in which this run goes on serving: keep what is here until its leader speaks.
    pub(crate) fn new_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.revision = 0;
        let held: BTreeSet<IpAddr> =
            self.local.iter().filter(|(_, s)| matches!(s, State::Taking | State::Held)).map(|(v, _)| *v).collect();
        self.wanted.retain(|v, _| held.contains(v));
    }

    /// This run serves no more (dropped, or not yet admitted).
    pub(crate) fn forget_orders(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.revision = 0;
        self.wanted.clear();
    }

    /// The leader's word. False if it is old.
    pub(crate) fn orders(&mut self, orders: &Orders) -> bool {
        let old = orders.epoch != self.epoch || orders.revision <= self.revision;
        if old && !planted(Planted::OldOrdersObeyed) {
            return false;
        }
        self.revision = orders.revision;
        self.wanted.clone_from(&orders.hold);
        true
    }

    /// Takes and releases what is not as it should be. `may_serve`: there is a valid node lease. Without one all addresses go
    /// at once; with one, an address that is wanted elsewhere leaves when `leave` lets it, one that was lost too.
    pub(crate) fn reconcile(
        &mut self,
        now: Time,
        config: &Config,
        may_serve: Result<(), &str>,
        leave: &mut Leave<'_>,
        out: &mut Vec<Output>,
    ) -> Found {
        self.reconciled = now;
        self.conflicts.retain(|_, (at, _)| now.since(*at) < CONFLICT);
        self.sightings.retain(|_, s| now.since(s.at) < SIGHTING);
        self.failed.retain(|_, (at, _)| now.since(*at) < RETRY * 10);
        let late = self.local.iter().filter_map(|(vip, state)| match state {
            State::LettingGo { until, end } if now >= *until => Some((*vip, *end)),
            _ => None,
        });
        let late: Vec<(IpAddr, bool)> = late.collect();
        for (vip, _) in &late {
            self.local.remove(vip);
        }
        let mut leaving = BTreeSet::new();
        for (vip, state) in &mut self.local {
            let because = match may_serve {
                Err(why) => why.to_string(),
                Ok(()) if !self.wanted.contains_key(vip) => "the leader placed it elsewhere".to_string(),
                Ok(()) if !config.vips.contains_key(vip) => "it is no longer in the configuration".to_string(),
                Ok(()) => continue,
            };
            if !matches!(state, State::Taking | State::Held) {
                continue;
            }
            // What is being taken may answer already, and clients may have something by it again.
            let here = *state == State::Held || !planted(Planted::TakingLeavesAtOnce);
            if here && may_serve.is_ok() && !leave.may(now, *vip, out) {
                leaving.insert(*vip);
            } else {
                *state = State::Releasing;
                out.push(Output::Release { vip: *vip, because });
            }
        }
        let left = self.lost_that_leave(now, config, may_serve, leave, (&mut leaving, out));
        leave.parting.leaving(&leaving);
        let found = Found { late, left };
        // What was wanted under the view before may be somebody else's by now: take nothing before this view's leader spoke.
        if may_serve.is_err() || self.revision == 0 {
            return found;
        }
        for (vip, because) in &self.wanted {
            if self.local.contains_key(vip) || self.failed.get(vip).is_some_and(|(at, _)| now.since(*at) < RETRY) {
                continue;
            }
            let Some(conf) = config.vips.get(vip) else {
                continue;
            };
            let Some(interface) = conf.hosts.get(&config.me) else {
                continue;
            };
            if let Some(sighting) = self.sightings.get_mut(vip) {
                let begun = *sighting.again.get_or_insert_with(|| {
                    out.push(Output::ProbeAddress { vip: *vip, interface: interface.clone() });
                    now
                });
                if !sighting.free && now.since(begun) < SECOND_LOOK {
                    continue;
                }
                self.sightings.remove(vip);
            }
            self.local.insert(*vip, State::Taking);
            out.push(Output::Take {
                vip: *vip,
                interface: interface.clone(),
                prefix_len: conf.prefix_len,
                because: because.clone(),
            });
        }
        found
    }

    /// Addresses that were lost, are wanted elsewhere and have nothing to wait for any more. What waits for the leave of others
    /// is added to `leaving`.
    fn lost_that_leave(
        &mut self,
        now: Time,
        config: &Config,
        may_serve: Result<(), &str>,
        leave: &mut Leave<'_>,
        (leaving, out): (&mut BTreeSet<IpAddr>, &mut Vec<Output>),
    ) -> Vec<IpAddr> {
        if may_serve.is_ok() {
            // The lease was back before it left: it is like any other.
            self.lost.retain(|vip, _| self.local.get(vip) != Some(&State::Held));
        }
        let mut left = Vec::new();
        // Before this view's leader spoke nobody knows what is wanted where.
        for (vip, until) in self.lost.iter().filter(|_| self.revision > 0) {
            let stays = self.wanted.contains_key(vip) && config.vips.contains_key(vip);
            if stays || self.local.contains_key(vip) {
                continue;
            }
            if may_serve.is_err() {
                if now >= *until {
                    leave.unfinished.suspect(*vip);
                    left.push(*vip);
                }
            } else if leave.may(now, *vip, out) {
                left.push(*vip);
            } else {
                leaving.insert(*vip);
            }
        }
        self.lost.retain(|vip, _| !left.contains(vip));
        left
    }

    pub(crate) fn taken(&mut self, vip: IpAddr) -> bool {
        self.failed.remove(&vip);
        match self.local.get_mut(&vip) {
            Some(s @ State::Taking) => {
                *s = State::Held;
                self.lost.remove(&vip);
                true
            }
            _ => false,
        }
    }

    /// It is here though it was taken for gone: it counts as held until its release is confirmed. False if that was known.
    pub(crate) fn unwanted(&mut self, vip: IpAddr) -> bool {
        let news = !self.local.contains_key(&vip) || self.lets_go(vip);
        if news {
            self.local.insert(vip, State::Releasing);
        }
        news
    }

    /// Somebody saw another machine answer for it: look before taking it.
    pub(crate) fn sighted(&mut self, now: Time, vip: IpAddr) {
        let sighting = self.sightings.entry(vip).or_insert(Sighting { at: now, again: None, free: false });
        if sighting.again.is_none() {
            sighting.at = now;
        }
    }

    /// Nobody answers for this address. True if that ends a second look. An answer to the first one counts for nothing: a
    /// second one begins only after somebody was seen.
    pub(crate) fn no_conflict(&mut self, vip: IpAddr) -> bool {
        match self.sightings.get_mut(&vip) {
            Some(sighting) if sighting.again.is_some() => !std::mem::replace(&mut sighting.free, true),
            _ => false,
        }
    }

    /// Addresses that a machine outside of the cluster uses, with its MAC.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.conflicts.iter().map(|(vip, (_, mac))| (*vip, mac.as_str()))
    }

    /// Another machine answers for this address. True when that is certain: it was seen in a second look, so the last
    /// holder's lease is over. This node then does not fight for it.
    pub(crate) fn conflict(&mut self, now: Time, vip: IpAddr, mac: &str) -> bool {
        if self.local.contains_key(&vip) {
            return true;
        }
        match self.sightings.remove(&vip) {
            Some(Sighting { again: Some(_), .. }) => {
                self.conflicts.insert(vip, (now, mac.to_string()));
                true
            }
            _ => {
                self.sighted(now, vip);
                false
            }
        }
    }

    pub(crate) fn take_failed(&mut self, now: Time, vip: IpAddr, because: String) {
        self.failed.insert(vip, (now, because));
        if self.local.get(&vip) == Some(&State::Taking) {
            self.local.remove(&vip);
        }
    }

    /// It is gone from this machine. False if nobody here asked for that.
    pub(crate) fn released(&mut self, now: Time, vip: IpAddr) -> bool {
        match self.local.get_mut(&vip) {
            Some(state @ (State::Taking | State::Held)) => {
                // It may be the late answer to an older order: it counts as held until a release is confirmed.
                *state = State::Releasing;
                self.lost.entry(vip).or_insert(now + LEASE_WAIT);
                self.failed.insert(vip, (now, "it disappeared from this node".into()));
                false
            }
            Some(State::Releasing | State::LettingGo { .. }) | None => {
                self.local.remove(&vip);
                true
            }
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let letting_go = self.local.values().filter_map(|s| match s {
            State::LettingGo { until, .. } => Some(*until),
            State::Taking | State::Held | State::Releasing => None,
        });
        // With a lease they wait for what has a timeout of its own.
        let lost = self.lost.values().copied().filter(|t| *t > self.reconciled);
        let letting_go = letting_go.chain(lost).min();
        if self.failed.is_empty() && self.sightings.is_empty() && self.conflicts.is_empty() {
            return letting_go;
        }
        let failed = self.failed.iter().filter(|(v, _)| self.wanted.contains_key(v)).map(|(_, (at, _))| *at + RETRY);
        let looks = self.sightings.values().filter_map(|s| s.again).map(|t| t + SECOND_LOOK);
        let conflicts = self.conflicts.values().map(|(at, _)| *at + CONFLICT);
        // What was due and could not be done, for there is no lease, waits for that and not for a time.
        failed.chain(looks).chain(conflicts).chain(letting_go).filter(|t| *t > self.reconciled).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(5_000_000);

    fn vip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn held(n: u8) -> Holder {
        Holder { local: [(vip(n), State::Held)].into(), ..Holder::default() }
    }

    /// Lost with the lease, and gone from the machine.
    fn lost(n: u8) -> Holder {
        let mut holder = held(n);
        holder.lose_all(NOW);
        holder.local.insert(vip(n), State::Releasing);
        assert!(holder.released(NOW, vip(n)));
        holder
    }

    #[test]
    fn what_was_lost_counts_as_held_until_it_is_here_again() {
        let mut holder = lost(1);
        let all = BTreeSet::from([vip(1)]);
        assert!(!holder.has(vip(1)) && holder.is_lost(vip(1)) && !holder.is_empty());
        assert!(holder.holding() == all && holder.holds_exactly(&all, &BTreeSet::new()));
        holder.local.insert(vip(1), State::Taking);
        holder.take_failed(NOW, vip(1), "its interface is down".into());
        assert_eq!(holder.holding(), all, "it did not come back");
        holder.local.insert(vip(1), State::Taking);
        assert!(holder.taken(vip(1)) && !holder.is_lost(vip(1)));
    }

    #[test]
    fn the_nfs_server_is_waited_for_from_when_it_can_have_been_told() {
        let mut holder = held(1);
        holder.wait_to_let_go(NOW, vip(1), false);
        // The daemon stood still before it told anybody anything.
        let told = NOW + Duration::from_secs(7);
        assert!(holder.carried_out(told));
        assert_eq!(holder.next_timeout(), Some(told + LET_GO_WAIT));
        assert!(!holder.carried_out(told + LET_GO_WAIT), "once");
        assert_eq!(holder.next_timeout(), Some(told + LET_GO_WAIT));
    }

    #[test]
    fn what_has_left_already_is_not_lost_with_the_lease() {
        let mut holder = held(1);
        holder.wait_to_let_go(NOW, vip(1), true);
        holder.lose_all(NOW);
        assert!(!holder.is_lost(vip(1)));
    }

    #[test]
    fn what_disappears_is_lost_as_well() {
        let mut holder = held(1);
        assert!(!holder.released(NOW, vip(1)) && holder.released(NOW, vip(1)));
        assert_eq!(holder.holding(), BTreeSet::from([vip(1)]));
        holder.nothing_in_hand();
        assert!(holder.is_empty());
    }

    #[test]
    fn it_waits_for_a_lease_from_its_first_loss_on() {
        let mut holder = lost(1);
        holder.lose_all(NOW + LEASE_WAIT);
        assert_eq!(holder.next_timeout(), Some(NOW + LEASE_WAIT));
    }
}
