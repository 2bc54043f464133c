//! What has changed for readers since the last snapshot.
//!
//! Asked after every change, and most change little that readers see. So the parts of a snapshot are made from what is quick
//! to compare ([`Facts`] of each node, and a [`Basis`] of all else), and made anew only when that is another one.

use crate::reach::Reach;
use crate::status::{Facts, Nodes, Vips, serving};
use crate::{Cluster, Config, Epoch, Incarnation, NodeStatus, Pnn, PnnSet, Snapshot, Time, VipState};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A snapshot goes out at least this often, so that its times stay fresh.
const AT_LEAST: Duration = Duration::from_secs(1);

/// What people and readers have been told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    heard: PnnSet,
    told: Option<Box<Told>>,
}

/// What readers have been told.
#[derive(Clone, Debug, Default)]
struct Told {
    vips: BTreeMap<IpAddr, (VipState, Option<Pnn>, Time)>,
    last: Option<Arc<Snapshot>>,
    /// What each node's status in `last` was made from; all of them under the configuration of `basis`.
    facts: BTreeMap<Pnn, Facts>,
    /// What the addresses and warnings in `last` were made from, beside its nodes.
    basis: Option<Basis>,
}

/// All that addresses and warnings are made from, beside the nodes.
#[derive(Clone, Debug)]
struct Basis {
    config: Arc<Config>,
    /// A node learns newer views only: the same rank is the same view.
    view: Option<(Incarnation, Epoch)>,
    placement: Arc<BTreeMap<IpAddr, Pnn>>,
    because: Arc<BTreeMap<IpAddr, String>>,
    waits: Option<String>,
    leased: bool,
    lock: String,
    records_error: Option<String>,
}

impl Basis {
    fn of(core: &Cluster) -> Self {
        Self {
            config: core.config.clone(),
            view: core.rank(),
            placement: core.placement.clone(),
            because: core.because.clone(),
            waits: core.waits.clone(),
            leased: core.leased,
            lock: core.lock.because.clone(),
            records_error: core.arbiter.records_error.clone(),
        }
    }

    /// Is it still so?
    fn holds(&self, core: &Cluster) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Self { config, view, placement, because, waits, leased, lock, records_error } = self;
        Arc::ptr_eq(config, &core.config)
            && *view == core.rank()
            && Arc::ptr_eq(placement, &core.placement)
            && Arc::ptr_eq(because, &core.because)
            && *waits == core.waits
            && *leased == core.leased
            && same_text(lock, &core.lock.because)
            && *records_error == core.arbiter.records_error
    }
}

impl Seen {
    /// Peers that have come or gone since the last call: (who, is it heard, why not).
    pub(crate) fn heard_changes(&mut self, reach: &Reach, now: Time) -> Vec<(Pnn, bool, String)> {
        let heard = reach.heard();
        let mut changes: Vec<(Pnn, bool, String)> =
            heard.without(&self.heard).iter().map(|p| (p, true, String::new())).collect();
        for pnn in self.heard.without(&heard).iter() {
            changes.push((pnn, false, reach.why_silent(pnn, now)));
        }
        self.heard = heard;
        changes
    }
}

impl Told {
    /// The next snapshot, if the last one does not say the same or is old.
    fn next(&mut self, core: &Cluster, now: Time) -> Option<Arc<Snapshot>> {
        let last = self.last.clone();
        let parts = self.changed_parts(core, last.as_deref(), now);
        if let Some(last) = last.as_deref().filter(|last| now.since(last.at) < AT_LEAST)
            && parts.as_ref().is_none_or(|parts| parts.are_of(last))
            && core.is_as_in(last, now)
        {
            return None;
        }
        let parts = parts.or_else(|| last.as_deref().map(Parts::of))?;
        Some(self.publish(core.with_the_rest(last.as_deref(), now, parts)))
    }

    /// The larger parts of the next snapshot; nothing if all that they are made from is as it was.
    fn changed_parts(&mut self, core: &Cluster, last: Option<&Snapshot>, now: Time) -> Option<Parts> {
        if self.basis.as_ref().is_none_or(|basis| !Arc::ptr_eq(&basis.config, &core.config)) {
            self.facts.clear();
        }
        let holds = self.basis.as_ref().is_some_and(|basis| basis.holds(core));
        let facts = core.config.nodes.keys().map(|pnn| (*pnn, core.facts(*pnn)));
        let changed = facts.filter(|(pnn, now)| self.facts.get(pnn).is_none_or(|known| !now.are(known)));
        let changed: Vec<(Pnn, Facts)> = changed.map(|(pnn, now)| (pnn, now.kept())).collect();
        if holds && changed.is_empty() {
            debug_assert!(last.is_none_or(|last| self.is_all_of(core, last, now)), "what it was made from has changed");
            return None;
        }
        let mut nodes = last.map(|last| last.nodes.clone()).unwrap_or_default();
        if !nodes.keys().eq(core.config.nodes.keys()) {
            nodes.retain(|pnn, _| core.config.nodes.contains_key(pnn));
        }
        for (pnn, facts) in changed {
            let status = core.node_status(pnn, &facts);
            if nodes.get(&pnn).is_none_or(|known| **known != status) {
                nodes.insert(pnn, Arc::new(status));
            }
            self.facts.insert(pnn, facts);
        }
        let vips = match last.filter(|last| holds && serve_the_same(&last.nodes, &nodes)) {
            Some(last) => last.vips.clone(),
            None => core.vips_now(last, &nodes, now),
        };
        if !holds {
            self.basis = Some(Basis::of(core));
        }
        Some(Parts { nodes, vips, warnings: core.all_warnings(&self.facts) })
    }

    /// Would everything large be the same if it were made anew? For tests: what nothing was compared with is found here.
    fn is_all_of(&self, core: &Cluster, last: &Snapshot, now: Time) -> bool {
        let mut nodes = self.facts.iter();
        nodes.all(|(pnn, facts)| last.nodes.get(pnn).is_some_and(|known| **known == core.node_status(*pnn, facts)))
            && same(&core.vips_now(Some(last), &last.nodes, now), &last.vips)
            && core.all_warnings(&self.facts) == last.warnings
    }

    /// Numbers the next snapshot and remembers it.
    fn publish(&mut self, mut next: Snapshot) -> Arc<Snapshot> {
        // What is not shared with the last one is new.
        for (vip, status) in next.vips.iter_mut().filter_map(|(vip, s)| Some((*vip, Arc::get_mut(s)?))) {
            match self.vips.get(&vip) {
                Some((state, holder, since)) if *state == status.state && *holder == status.holder => {
                    status.since = *since
                }
                _ => {
                    self.vips.insert(vip, (status.state, status.holder, next.at));
                }
            }
        }
        next.serial = self.last.as_ref().map_or(0, |last| last.serial + 1);
        let next = Arc::new(next);
        self.last = Some(next.clone());
        next
    }
}

/// What of a snapshot is large. What is as in the last one is the same object.
pub(crate) struct Parts {
    pub(crate) nodes: Nodes,
    pub(crate) vips: Vips,
    pub(crate) warnings: Vec<String>,
}

impl Parts {
    fn of(last: &Snapshot) -> Self {
        Self { nodes: last.nodes.clone(), vips: last.vips.clone(), warnings: last.warnings.clone() }
    }

    fn are_of(&self, last: &Snapshot) -> bool {
        same(&self.nodes, &last.nodes) && same(&self.vips, &last.vips) && self.warnings == last.warnings
    }
}

/// Is all that addresses have to do with nodes the same?
fn serve_the_same(one: &Nodes, other: &Nodes) -> bool {
    let same = |a: &Arc<NodeStatus>, b: &Arc<NodeStatus>| Arc::ptr_eq(a, b) || serving(a) == serving(b);
    one.len() == other.len() && one.iter().zip(other).all(|((k, a), (other_k, b))| k == other_k && same(a, b))
}

/// As `==`, but quick for texts of which there is nothing: glibc's comparison of 0 bytes takes 140 ns on processors of AMD with
/// AVX-512.
pub(crate) fn same_text(one: &str, other: &str) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}

/// Are these the very same objects?
fn same<K: PartialEq, T>(one: &BTreeMap<K, Arc<T>>, other: &BTreeMap<K, Arc<T>>) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|((k, a), (other_k, b))| k == other_k && Arc::ptr_eq(a, b))
}

impl Cluster {
    /// The next snapshot, if the last one does not say the same or is old.
    pub(crate) fn news(&mut self, now: Time) -> Option<Arc<Snapshot>> {
        let mut told = self.seen.told.take().unwrap_or_default();
        let next = told.next(self, now);
        self.seen.told = Some(told);
        next
    }
}
