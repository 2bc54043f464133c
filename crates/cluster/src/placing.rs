//! The leader's part: which node shall hold which address, and when it may take it.
//!
//! An address is given to a node only when nobody else can have it any more: every other member has confirmed
//! (or reported, under this view) that it does not hold it, every node that is no member has confirmed or its last
//! lease is over, and every member has shut the dropped nodes out of the storage.

mod hesitant;
mod words;

use crate::added::Added;
use crate::fitness::{Address, Host, Storage, Unfit};
use crate::placement::{Wanted, group, place};
use crate::planted::{Planted, planted};
use crate::series::{Reason, Series};
use crate::{Config, Epoch, Orders, Pnn, PnnSet, Report, Restraint, Time, View};
use hesitant::Hesitant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use words::{name, planned, spreads, why_not};

/// The next address leaves a drained node when the last one is settled, or after this.
const DRAIN_STEP: Duration = Duration::from_secs(1);

/// Nodes that were sick all alike recover within this of each other.
const RECOVERY: Duration = Duration::from_secs(3);

/// An address that is not where it is to be for longer than this after the last move may never come there.
const SETTLES: Duration = Duration::from_secs(5);

/// A placement, with what it was computed from.
#[derive(Clone, Debug)]
struct Placed {
    wanted: BTreeMap<IpAddr, Wanted>,
    spread: bool,
    ideal: BTreeMap<IpAddr, Pnn>,
    /// What an even spread would be; looked for where there is to be none, to say what stays for that reason.
    even: Option<BTreeMap<IpAddr, Pnn>>,
}

/// State of one view's leader.
#[derive(Clone, Debug)]
pub(crate) struct Placing {
    epoch: Epoch,
    revision: u64,
    /// Where each address is meant to be.
    pub(crate) target: BTreeMap<IpAddr, Pnn>,
    /// Why each address is where it is, or nowhere.
    pub(crate) because: BTreeMap<IpAddr, String>,
    /// What an address waits for at the moment.
    waiting: BTreeMap<IpAddr, String>,
    /// What each member was told last.
    orders: BTreeMap<Pnn, BTreeMap<IpAddr, String>>,
    /// Revision at which an address was last taken out of a member's orders.
    revoked: BTreeMap<(IpAddr, Pnn), u64>,
    /// Addresses that an administrator moved, while their host is fit.
    pins: BTreeMap<IpAddr, Pnn>,
    /// When the last address moved; the next one that moves only for the spread waits.
    last_spread: Option<Time>,
    /// Planned moves of the moment.
    series: Series,
    /// Members that were no good hosts of these addresses any more, and may not have released them yet.
    ousted: BTreeMap<IpAddr, Pnn>,
    /// When all possible hosts of an address were sick.
    all_sick: BTreeMap<IpAddr, Time>,
    /// Members whose storage hesitates, or did so lately.
    hesitant: Hesitant,
    /// Where each address was under the view before.
    before: BTreeMap<IpAddr, Pnn>,
    /// The last placement that was computed.
    placed: Option<Placed>,
    /// Last orders as sent, so that only changes go out.
    sent: Option<(BTreeMap<IpAddr, Pnn>, BTreeMap<IpAddr, String>)>,
}

/// What the leader looks at.
pub(crate) struct Scene<'a> {
    pub(crate) now: Time,
    pub(crate) config: &'a Config,
    pub(crate) view: &'a View,
    /// Newest report of each node of this run, this node's own included.
    pub(crate) reports: &'a BTreeMap<Pnn, Arc<Report>>,
    /// Until when a node that is no member may still act.
    pub(crate) fences: &'a BTreeMap<Pnn, Time>,
    /// Members that have gone silent, or were and have yet to say how they are now.
    pub(crate) suspected: &'a BTreeSet<Pnn>,
    /// The time of the day, in minutes after midnight.
    pub(crate) minute: Option<u16>,
    /// The storage is not prepared for planned moves, and may be soon.
    pub(crate) moves_wait: bool,
    /// What addresses shall not do.
    pub(crate) restraint: Restraint,
    /// Services that not all nodes may know of yet.
    pub(crate) added: &'a Added,
}

impl<'a> Scene<'a> {
    /// The report of a member's admitted run under this view.
    pub(crate) fn member(&self, pnn: Pnn) -> Option<&'a Report> {
        let run = self.view.members.get(&pnn)?.run;
        self.reports.get(&pnn).filter(|r| r.run == run && r.epoch == self.view.epoch).map(Arc::as_ref)
    }
}

impl Placing {
    /// Under a new view. `last`: this node led under the one before, too.
    pub(crate) fn new(epoch: Epoch, before: BTreeMap<IpAddr, Pnn>, last: Option<Self>) -> Self {
        Self {
            epoch,
            revision: 0,
            target: BTreeMap::new(),
            because: BTreeMap::new(),
            waiting: BTreeMap::new(),
            orders: BTreeMap::new(),
            revoked: BTreeMap::new(),
            // What an administrator has moved stays as long as this node leads.
            pins: last.map(|last| last.pins).unwrap_or_default(),
            last_spread: None,
            series: Series::default(),
            ousted: BTreeMap::new(),
            all_sick: BTreeMap::new(),
            hesitant: Hesitant::default(),
            before,
            placed: None,
            sent: None,
        }
    }

    /// Moves an address at an administrator's word.
    pub(crate) fn pin(&mut self, scene: &Scene<'_>, vip: IpAddr, to: Pnn) -> Result<String, String> {
        let conf = scene
            .config
            .vips
            .get(&vip)
            .ok_or_else(|| format!("{vip} is not a public address of this cluster; `steadfast ip` lists them"))?;
        let name = name(scene.config, to);
        if !conf.hosts.contains_key(&to) {
            return Err(format!("{name} cannot host {vip}: its list of public addresses does not have it"));
        }
        let host = Host::new(scene, to);
        if let Err(why) = host.map_or(Err(Unfit::NoMember), |h| h.fit(&Address::new(scene, vip, conf))) {
            return Err(format!("{name} cannot host {vip} now: {why}"));
        }
        self.ousted.remove(&vip);
        if self.target.get(&vip) == Some(&to) {
            return Ok(format!("{vip} is on {name} already"));
        }
        self.pins.insert(vip, to);
        Ok(format!("{vip} moves to {name}; it stays there while {name} is fit and this leader leads"))
    }

    /// Has every member reported under this view? Before that the leader does not know who holds what.
    fn knows_all(&self, scene: &Scene<'_>) -> Result<(), String> {
        for pnn in scene.view.members.keys() {
            if scene.member(*pnn).is_none() {
                return Err(format!("waits for {} to say what it holds", name(scene.config, *pnn)));
            }
        }
        Ok(())
    }

    /// Decides anew; returns the orders to send, if anything changed.
    /// What has changed in words alone goes out with a refresh: it would be all words of all addresses at every report.
    pub(crate) fn step(&mut self, scene: &Scene<'_>, refresh: bool) -> Option<Vec<(Pnn, Orders)>> {
        if let Err(why) = self.knows_all(scene) {
            self.waiting = scene.config.vips.keys().map(|vip| (*vip, why.clone())).collect();
            return None;
        }
        self.waiting.clear();
        // A silent member is on its way out: the next view decides, and nothing moves twice. Of one that was silent only
        // old news is known: it may be as sick as the others by now.
        if scene.suspected.is_empty() || self.sent.is_none() {
            self.choose(scene);
        }
        let mut next = BTreeMap::new();
        for vip in scene.config.vips.keys() {
            let Some(target) = self.target.get(vip).copied() else {
                continue;
            };
            // Stays, or goes on, where it already is or was ordered to be.
            let there = scene.reports.get(&target).is_some_and(|r| r.holding.contains(vip))
                || self.orders.get(&target).is_some_and(|o| o.contains_key(vip));
            let stays = there && !self.held_elsewhere(scene, *vip, target);
            let free = if stays { Ok(()) } else { self.free(scene, *vip, target) };
            match free {
                Err(why) => {
                    self.waiting.insert(*vip, format!("goes to {}: {why}", name(scene.config, target)));
                }
                Ok(()) => {
                    next.insert(*vip, target);
                }
            }
        }
        self.send(scene, &next, refresh)
    }

    /// Orders that each of these addresses is held by this member, and no other address by anybody.
    fn send(&mut self, scene: &Scene<'_>, next: &BTreeMap<IpAddr, Pnn>, refresh: bool) -> Option<Vec<(Pnn, Orders)>> {
        let same_hold = self.orders.keys().eq(scene.view.members.keys())
            && self.orders.values().map(BTreeMap::len).sum::<usize>() == next.len()
            && next.iter().all(|(vip, p)| self.orders.get(p).is_some_and(|o| o.contains_key(vip)));
        let same_target = self.sent.as_ref().is_some_and(|(target, _)| *target == self.target);
        if same_hold && same_target && !refresh {
            return None;
        }
        let public = (self.target.clone(), self.reasons());
        if same_hold && self.sent.as_ref() == Some(&public) {
            return None;
        }
        self.revision += 1;
        for (pnn, old) in &self.orders {
            for vip in old.keys().filter(|v| next.get(v) != Some(pnn)) {
                self.revoked.insert((*vip, *pnn), self.revision);
            }
        }
        // First orders of this leader: whatever a member holds and is not told to hold is taken from it.
        if self.sent.is_none() {
            for (pnn, report) in scene.reports {
                for vip in report.holding.iter().filter(|v| next.get(v) != Some(pnn)) {
                    self.revoked.insert((*vip, *pnn), self.revision);
                }
            }
        }
        self.orders = scene.view.members.keys().map(|p| (*p, BTreeMap::new())).collect();
        for (vip, pnn) in next {
            let because = self.because.get(vip).cloned().unwrap_or_default();
            self.orders.entry(*pnn).or_default().insert(*vip, because);
        }
        self.sent = Some(public);
        Some(self.current(scene))
    }

    /// The orders as they stand, for every member.
    pub(crate) fn current(&self, scene: &Scene<'_>) -> Vec<(Pnn, Orders)> {
        if self.revision == 0 {
            return Vec::new();
        }
        let (placement, because) = (Arc::new(self.target.clone()), Arc::new(self.reasons()));
        scene
            .view
            .members
            .keys()
            .map(|pnn| {
                let hold = self.orders.get(pnn).cloned().unwrap_or_default();
                let orders = Orders {
                    epoch: self.epoch,
                    revision: self.revision,
                    hold,
                    placement: placement.clone(),
                    because: because.clone(),
                };
                (*pnn, orders)
            })
            .collect()
    }

    /// Why each address is where it is, or what it waits for.
    pub(crate) fn reasons(&self) -> BTreeMap<IpAddr, String> {
        let mut reasons = self.because.clone();
        reasons.extend(self.waiting.iter().map(|(v, w)| (*v, w.clone())));
        reasons
    }

    /// As `reasons`, in place of those that mostly are the same.
    pub(crate) fn update_reasons(&self, known: &mut Arc<BTreeMap<IpAddr, String>>) {
        let waiting = self.waiting.keys().filter(|v| !self.because.contains_key(v)).count();
        let same = known.len() == self.because.len() + waiting
            && known.iter().all(|(vip, why)| self.waiting.get(vip).or_else(|| self.because.get(vip)) == Some(why));
        if !same {
            *known = Arc::new(self.reasons());
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    fn held_elsewhere(&self, scene: &Scene<'_>, vip: IpAddr, target: Pnn) -> bool {
        scene
            .reports
            .iter()
            .any(|(p, r)| *p != target && scene.view.members.contains_key(p) && r.holding.contains(&vip))
    }

    /// May `target` have this address now? Nobody else may be able to answer for it.
    fn free(&self, scene: &Scene<'_>, vip: IpAddr, target: Pnn) -> Result<(), String> {
        let others = scene.view.members.keys().filter(|p| **p != target && !planted(Planted::TakeBeforeRelease));
        if let Some(pnn) = others.copied().find(|p| self.may_have(scene, vip, *p)) {
            return Err(format!("waits until {} has released it", name(scene.config, pnn)));
        }
        self.shut_out(scene)
    }

    /// Can this member answer for the address, or take it by what it was told last? No, when it has heard that it is to
    /// release it and says that it does not hold it.
    fn may_have(&self, scene: &Scene<'_>, vip: IpAddr, pnn: Pnn) -> bool {
        let ordered = self.orders.get(&pnn).is_some_and(|o| o.contains_key(&vip));
        let report = scene.member(pnn).filter(|r| r.orders >= self.due(vip, pnn));
        ordered || report.is_none_or(|r| r.holding.contains(&vip))
    }

    /// The revision at which it was taken out of this member's orders.
    fn due(&self, vip: IpAddr, pnn: Pnn) -> u64 {
        self.revoked.get(&(vip, pnn)).copied().unwrap_or(0)
    }

    /// What was to leave a sick node stays there if that is fit again and has not begun to release it: the order may have
    /// been on its way for as long as the node was deaf, and clients would pay for a move now, and for another one back.
    fn reconsider(&mut self, scene: &Scene<'_>, hosts: &BTreeMap<Pnn, Host<'_>>) {
        for (vip, from) in std::mem::take(&mut self.ousted) {
            let to = self.target.get(&vip).copied();
            let gone = !self.may_have(scene, vip, from) || to.is_some_and(|to| self.may_have(scene, vip, to));
            let Some(conf) = scene.config.vips.get(&vip).filter(|_| !gone && to != Some(from)) else { continue };
            let fit = hosts.get(&from).is_some_and(|h| h.fit(&Address::new(scene, vip, conf)).is_ok());
            let report = scene.member(from);
            let here = report.is_some_and(|r| r.orders < self.due(vip, from) || r.serving.contains(&vip));
            if fit && here && !planted(Planted::NotReconsidered) {
                self.target.insert(vip, from);
                let text = format!("stays on {}, which is fit again and had not released it", name(scene.config, from));
                self.because.insert(vip, text);
            } else {
                self.ousted.insert(vip, from);
            }
        }
    }

    /// Can nodes outside of the view do no harm any more? Their last leases are over (or they say themselves that they
    /// hold nothing), and every member has shut the dropped ones out of the storage.
    fn shut_out(&self, scene: &Scene<'_>) -> Result<(), String> {
        for (pnn, until) in scene.fences {
            if scene.now < *until && !self.confirmed(scene, *pnn) && !planted(Planted::OldLeaseNotAwaited) {
                return Err(format!("waits for the end of {}'s lease", name(scene.config, *pnn)));
            }
        }
        let all_evicted = |p: &Pnn| scene.member(*p).is_some_and(|r| r.evicted.is_some_and(|e| e >= self.epoch));
        if let Some(pnn) = scene.view.members.keys().find(|p| !all_evicted(p) && !planted(Planted::EvictionNotAwaited))
        {
            return Err(format!("waits until {} has shut the lost nodes out of the storage", name(scene.config, *pnn)));
        }
        Ok(())
    }

    /// The same for more than addresses, once every member has said what it does under this view.
    pub(crate) fn harmless(&self, scene: &Scene<'_>) -> bool {
        self.knows_all(scene).is_ok() && self.shut_out(scene).is_ok()
    }

    /// A node outside of the view that knows that it is outside and holds nothing.
    fn confirmed(&self, scene: &Scene<'_>, pnn: Pnn) -> bool {
        scene.reports.get(&pnn).is_some_and(|r| r.epoch >= self.epoch && r.holding.is_empty())
    }

    fn choose(&mut self, scene: &Scene<'_>) {
        // A new leader starts from what the members hold. What nobody holds stays with the member that had it: one that
        // had no lease for a moment, as when halves of the cluster find each other again, is about to take it again.
        if self.sent.is_none() {
            for (pnn, report) in scene.reports.iter().filter(|(p, _)| scene.view.members.contains_key(p)) {
                for vip in &report.holding {
                    self.target.entry(*vip).or_insert(*pnn);
                }
            }
            let went_on = |p: &Pnn| scene.view.members.get(p).is_some_and(|m| m.since < scene.view.epoch);
            for (vip, pnn) in self.before.iter().filter(|(_, p)| went_on(p)) {
                self.target.entry(*vip).or_insert(*pnn);
            }
        }
        self.target.retain(|vip, _| scene.config.vips.contains_key(vip));
        self.because.retain(|vip, _| scene.config.vips.contains_key(vip));
        let hosts: BTreeMap<Pnn, Host<'_>> =
            scene.view.members.keys().filter_map(|p| Some((*p, Host::new(scene, *p)?))).collect();
        self.hesitant.look(scene.now, &hosts);
        self.reconsider(scene, &hosts);
        let mut wanted = BTreeMap::new();
        let mut draining = BTreeSet::new();
        for (vip, conf) in &scene.config.vips {
            let address = Address::new(scene, *vip, conf);
            let mut good = PnnSet::default();
            let mut poor = PnnSet::default();
            for (pnn, host) in hosts.iter().filter(|(p, _)| conf.hosts.contains_key(p)) {
                if host.fit(&address).is_ok() {
                    good.insert(*pnn);
                } else if host.last_resort(&address) {
                    poor.insert(*pnn);
                }
            }
            // Nobody is healthy: an address on a sick node is better than no address, and it stays where it is.
            let current = self.target.get(vip).copied();
            // A drained node that works keeps an address until its turn comes, and if nobody else can host it well.
            let drains = current.and_then(|p| Some((p, hosts.get(&p).filter(|h| h.drains(&address))?)));
            let stays = current.is_some_and(|p| poor.contains(p) && !good.contains(p));
            if good.is_empty() {
                self.all_sick.insert(*vip, scene.now);
            }
            // All are sick alike, or were a moment ago: moving it about would help nobody, and the first to recover
            // would get everything only to give it back.
            let alike = self.all_sick.get(vip).is_some_and(|t| scene.now.since(*t) < RECOVERY);
            let lone = good.is_empty();
            let mut candidates = if good.is_empty() { poor } else { good };
            if alike && stays {
                candidates = current.into_iter().collect();
            }
            // A volume that hangs is noticed by each node in its own time: addresses would be chased through all of them, each
            // of which fails in turn. So they go only where the storage answers for certain.
            let sure = |p: &Pnn| hosts.get(p).is_some_and(|h| h.storage() == Storage::Answers);
            if let Some(here) =
                current.filter(|p| hosts.get(p).is_some_and(|h| stays && h.storage() != Storage::Answers))
            {
                candidates = candidates.iter().filter(sure).collect();
                if candidates.is_empty() {
                    candidates = PnnSet::from([here]);
                    let text = format!("stays on {}: no other node's storage answers better", name(scene.config, here));
                    self.waiting.insert(*vip, text);
                }
            }
            if candidates.is_empty() {
                let able = |p: &Pnn| hosts.get(p).is_some_and(|h| h.able(&address));
                candidates = current.filter(able).into_iter().collect();
            }
            let forgotten = planted(Planted::PinForgotten) && self.pins.get(vip) == current.as_ref();
            if forgotten || self.pins.get(vip).is_some_and(|p| !candidates.contains(*p)) {
                self.pins.remove(vip);
            }
            if let Some(pin) = self.pins.get(vip) {
                candidates = PnnSet::from([*pin]);
            }
            if let Some((pnn, host)) = drains {
                if lone {
                    candidates = PnnSet::from([pnn]);
                    let here = name(scene.config, pnn);
                    let text = format!("stays on {here}, which is drained: no other node can host it");
                    self.waiting.insert(*vip, text);
                } else if host.lingers() {
                    candidates = PnnSet::from([pnn]);
                    let here = name(scene.config, pnn);
                    let text =
                        format!("leaves {here}, which is drained, when clients have forgotten what DNS told them");
                    self.waiting.insert(*vip, text);
                } else {
                    draining.insert(*vip);
                }
            }
            if scene.restraint.no_takeover && !self.pins.contains_key(vip) {
                candidates = current.filter(|p| candidates.contains(*p)).into_iter().collect();
            }
            let current = current.filter(|_| !planted(Planted::MovesTooMany));
            wanted.insert(*vip, Wanted { group: group(*vip, conf.prefix_len), candidates, current });
        }
        let spreads = spreads(scene);
        // Most reports change nothing that matters for the placement.
        let spread = spreads.is_ok();
        let mut placed = match self.placed.take() {
            Some(placed) if placed.wanted == wanted && placed.spread == spread => placed,
            _ => Placed { ideal: place(&wanted, spread), wanted, spread, even: None },
        };
        self.adopt(scene, &hosts, &placed.wanted, &draining, &placed.ideal);
        if let Err(why) = spreads {
            let even = placed.even.get_or_insert_with(|| place(&placed.wanted, true));
            self.explain_stay(scene, &placed.wanted, even, &why);
        }
        self.placed = Some(placed);
    }

    /// Takes over the ideal placement: at once for addresses without a fit host, one by one off a drained node, and
    /// one by one with pauses for the spread.
    fn adopt(
        &mut self,
        scene: &Scene<'_>,
        hosts: &BTreeMap<Pnn, Host<'_>>,
        wanted: &BTreeMap<IpAddr, Wanted>,
        draining: &BTreeSet<IpAddr>,
        ideal: &BTreeMap<IpAddr, Pnn>,
    ) {
        let settled = self.target.iter().all(|(v, p)| scene.reports.get(p).is_some_and(|r| r.serving.contains(v)));
        let pause = scene.config.timing.fail_back_interval;
        let mut may_spread = settled && self.last_spread.is_none_or(|t| scene.now.since(t) >= pause);
        self.series.begin();
        // What keeps everything waiting keeps nothing prepared for ever.
        let goes_on = settled || self.last_spread.is_some_and(|t| scene.now.since(t) < SETTLES);
        // An address that nobody manages to serve does not keep a drain for ever.
        let mut may_leave = settled || self.last_spread.is_none_or(|t| scene.now.since(t) >= DRAIN_STEP);
        for (vip, w) in wanted {
            let current = self.target.get(vip).copied();
            let Some(to) = ideal.get(vip).copied() else {
                if let Some(from) = self.target.remove(vip) {
                    self.ousted.entry(*vip).or_insert(from);
                }
                self.because.insert(*vip, format!("no node can host it: {}", why_not(scene, hosts, *vip)));
                continue;
            };
            if current == Some(to) {
                self.because.entry(*vip).or_insert_with(|| format!("stays on {}", name(scene.config, to)));
                continue;
            }
            let fit_now = current.is_some_and(|c| w.candidates.contains(c));
            if fit_now && !may_spread {
                if goes_on {
                    self.series.queued(pause);
                }
                let from = current.map_or_else(String::new, |c| name(scene.config, c));
                let to = name(scene.config, to);
                self.waiting.insert(*vip, format!("goes from {from} to {to} for an even spread, when it is its turn"));
                continue;
            }
            if let Some(slow) = self.hesitant.first([current, Some(to)]).filter(|_| fit_now) {
                let (slow, to) = (name(scene.config, slow), name(scene.config, to));
                let text =
                    format!("goes to {to} for an even spread when the storage of {slow} has answered well for 10 s");
                self.waiting.insert(*vip, text);
                continue;
            }
            if draining.contains(vip) && !std::mem::take(&mut may_leave) {
                self.series.queued(DRAIN_STEP);
                let from = current.map_or_else(String::new, |c| name(scene.config, c));
                let text =
                    format!("leaves {from}, which is drained, for {}, when it is its turn", name(scene.config, to));
                self.waiting.insert(*vip, text);
                continue;
            }
            may_spread = false;
            let ordered = !fit_now || self.pins.contains_key(vip) || draining.contains(vip);
            if let Some(from) = current.and_then(|c| planned(scene, hosts.get(&c)?, *vip))
                && !self.series.may_go(scene.now, scene.moves_wait, Reason::of(ordered, from.leaving()))
            {
                let what = if ordered { "" } else { " for an even spread" };
                let text = format!("goes to {}{what} when the storage is prepared for it", name(scene.config, to));
                self.waiting.insert(*vip, text);
                continue;
            }
            let because = match current {
                _ if self.pins.contains_key(vip) => {
                    format!("moved to {} by an administrator", name(scene.config, to))
                }
                Some(c) if fit_now => {
                    format!("spreads the load: from {} to {}", name(scene.config, c), name(scene.config, to))
                }
                Some(c) => {
                    let conf = scene.config.vips.get(vip);
                    let why = conf.map_or_else(String::new, |conf| {
                        let fit = |h: &Host<'_>| h.fit(&Address::new(scene, *vip, conf)).map_err(|why| why.to_string());
                        match hosts.get(&c).map_or_else(|| Err(Unfit::NoMember.to_string()), fit) {
                            Err(why) => why,
                            Ok(()) => "it is no candidate".into(),
                        }
                    });
                    format!("left {}: {why}", name(scene.config, c))
                }
                None => match self.before.get(vip).filter(|p| !scene.view.members.contains_key(p)) {
                    Some(lost) => format!("left {}: {}", name(scene.config, *lost), scene.view.because),
                    None => "had no host".to_string(),
                },
            };
            if let Some(from) = current.filter(|_| !fit_now && !self.pins.contains_key(vip)) {
                self.ousted.entry(*vip).or_insert(from);
            }
            self.last_spread = Some(scene.now);
            self.target.insert(*vip, to);
            self.because.insert(*vip, because);
        }
        self.series.end();
    }

    /// Are planned moves due, or soon?
    pub(crate) fn planned_moves(&self) -> bool {
        self.series.ahead()
    }

    /// Says of addresses that an even spread would move why they stay.
    fn explain_stay(
        &mut self,
        scene: &Scene<'_>,
        wanted: &BTreeMap<IpAddr, Wanted>,
        even: &BTreeMap<IpAddr, Pnn>,
        why: &str,
    ) {
        for (vip, to) in even {
            let Some(here) = self.target.get(vip).copied() else { continue };
            if here != *to && wanted.get(vip).is_some_and(|w| w.current == Some(here)) {
                let (here, to) = (name(scene.config, here), name(scene.config, *to));
                self.waiting.insert(*vip, format!("stays on {here}, though {to} has fewer addresses: {why}"));
            }
        }
    }

    /// When to look again though nothing happens.
    pub(crate) fn next_timeout(&self, scene_now: Time, config: &Config, fences: &BTreeMap<Pnn, Time>) -> Option<Time> {
        let fence = fences.values().filter(|t| **t > scene_now).min().copied();
        let last = |pause| self.last_spread.map(|t| t + pause).filter(|t| *t > scene_now);
        let series = self.series.next_timeout().filter(|t| *t > scene_now);
        let hesitant = self.hesitant.next_timeout().filter(|t| *t > scene_now);
        [fence, last(config.timing.fail_back_interval), last(DRAIN_STEP), series, hesitant].into_iter().flatten().min()
    }
}
