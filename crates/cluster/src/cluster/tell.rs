//! What this node says: reports, the leader's orders, the picture for readers.

use super::*;
use std::borrow::Cow;

impl Cluster {
    pub(super) fn own_report(&self) -> Report {
        Report {
            run: self.run,
            uid: self.arbiter.durable.uid,
            epoch: self.epoch(),
            orders: self.holder.revision,
            holding: self.holder.holding(),
            serving: self.holder.serving(),
            failed: self.failed(),
            conflicts: self.holder.conflicts().map(|(vip, mac)| (vip, mac.to_owned())).collect(),
            evicted: self.evicted,
            nfs_clients: self.grace.clients,
            graced: self.grace.ready(self.epoch()),
            parting: self.parting.request(),
            partings: self.parting.answers().clone(),
            recovered: Some(self.has_recovered()),
            admin: self.admin(),
            lingers: self.lingers.is_some(),
            services: self.services.clone(),
            links_down: self.links_down.clone(),
            whole_seconds: self.whole_seconds,
            leased: self.leased,
            leaving: self.stopping != Stopping::No,
            left: matches!(self.stopping, Stopping::Gone(_) | Stopping::Done),
            clean: self.is_clean(),
            fingerprint: self.config.fingerprint,
            version: self.version.clone(),
            warnings: self.own_warnings().map(Cow::into_owned).collect(),
        }
    }

    /// Would `own_report` say the same? Asked at every change, and mostly so.
    fn is_own_report(&self, said: &Report) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Report {
            run,
            uid,
            epoch,
            orders,
            holding,
            serving,
            failed,
            conflicts,
            evicted,
            nfs_clients,
            graced,
            parting,
            partings,
            recovered,
            admin,
            lingers,
            services,
            links_down,
            whole_seconds,
            leased,
            leaving,
            left,
            clean,
            fingerprint,
            version,
            warnings,
        } = said;
        *run == self.run
            && *uid == self.arbiter.durable.uid
            && *epoch == self.epoch()
            && *orders == self.holder.revision
            && self.holder.holds_exactly(holding, serving)
            && *evicted == self.evicted
            && *nfs_clients == self.grace.clients
            && *graced == self.grace.ready(self.epoch())
            && *parting == self.parting.request()
            && partings == self.parting.answers()
            && *recovered == Some(self.has_recovered())
            && *admin == self.admin()
            && *lingers == self.lingers.is_some()
            && *whole_seconds == self.whole_seconds
            && *leased == self.leased
            && *leaving == (self.stopping != Stopping::No)
            && *left == matches!(self.stopping, Stopping::Gone(_) | Stopping::Done)
            && *clean == self.is_clean()
            && *fingerprint == self.config.fingerprint
            && *version == self.version
            && *links_down == self.links_down
            && *services == self.services
            && conflicts.iter().map(|(vip, mac)| (*vip, mac.as_str())).eq(self.holder.conflicts())
            && self.fails_exactly(failed)
            && self.own_warnings().eq(warnings.iter().map(String::as_str))
    }

    /// Has this node everything that was committed before its view?
    pub(super) fn has_recovered(&self) -> bool {
        let here = || {
            let view = self.view().map(View::number);
            view.is_some() && (self.recovered == view || self.arbiter.durable.recovered == view)
        };
        !self.waits_for_databases() || here()
    }

    /// Are there databases, so that a member of a view may yet lack what was committed before it? Where an older version leads
    /// nobody is told when all are recovered: who knows the view counts as one that has it, as it did to that version.
    pub(super) fn waits_for_databases(&self) -> bool {
        self.config.databases && !self.an_older_version_leads() && !planted(Planted::RecoveryNotAwaited)
    }

    fn an_older_version_leads(&self) -> bool {
        let leader = self.view().and_then(|view| view.members.get_key_value(&view.leader()?));
        leader.is_some_and(|(pnn, member)| {
            self.reports.get(pnn).is_some_and(|r| r.run == member.run && r.recovered.is_none())
        })
    }

    fn own_warnings(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let disk = self.arbiter.disk_error.iter().map(|e| format!("votes cannot be written: {e}").into());
        let evict = self.evict_error.iter();
        let evict = evict.map(|e| format!("lost nodes cannot be shut out of the storage: {e}").into());
        let waits = self.waits.iter().filter(|_| self.lacks);
        let waits = waits.map(|why| format!("{LACKS}: {why}").into());
        self.warnings.values().map(|w| w.as_str().into()).chain(disk).chain(evict).chain(waits)
    }

    /// Addresses that cannot be here, with the reason.
    fn failed(&self) -> BTreeMap<IpAddr, String> {
        let mut failed: BTreeMap<IpAddr, String> =
            self.holder.failed.iter().map(|(v, (_, why))| (*v, why.clone())).collect();
        for vip in &self.strange {
            failed.insert(*vip, "it is not in this node's configuration".into());
        }
        failed
    }

    /// Would `failed` say the same?
    fn fails_exactly(&self, said: &BTreeMap<IpAddr, String>) -> bool {
        match self.holder.failed.is_empty() && self.strange.is_empty() {
            true => said.is_empty(),
            false => self.failed() == *said,
        }
    }

    /// The leader has said where all addresses are to be, or this node has another configuration.
    pub(super) fn placed(&mut self, placement: Arc<BTreeMap<IpAddr, Pnn>>) {
        let known = |vip| self.config.vips.get(vip).is_some_and(|c| c.hosts.contains_key(&self.config.me));
        self.strange = placement.keys().filter(|v| !known(v)).copied().collect();
        self.placement = placement;
    }

    pub(super) fn report(&mut self, anyway: bool, out: &mut Vec<Output>) {
        let said = self.reports.get(&self.config.me).filter(|said| self.is_own_report(said));
        if said.is_some() && !anyway {
            return;
        }
        let report = said.cloned().unwrap_or_else(|| Arc::new(self.own_report()));
        for (to, _) in self.reach.peers.iter().filter(|(_, p)| p.link) {
            out.push(Output::Send { to: *to, message: Message::Report(report.clone()) });
        }
        self.reports.insert(self.config.me, report);
    }

    /// A link has come up: the peer knows nothing of us.
    pub(super) fn greet(&mut self, peer: Pnn, out: &mut Vec<Output>) {
        self.news.remove(&peer);
        out.push(Output::Send { to: peer, message: Message::Report(Arc::new(self.own_report())) });
    }

    pub(super) fn with_placing<T>(&mut self, f: impl FnOnce(&mut Placing, &Scene<'_>) -> T) -> Option<T> {
        let mut placing = self.placing.take()?;
        let suspected = self.suspected();
        let result = self.scene(&suspected).map(|scene| f(&mut placing, &scene));
        self.placing = Some(placing);
        result
    }

    /// Does this node lead, and can nobody outside of its view do harm?
    pub(crate) fn harmless(&self) -> bool {
        let nobody = BTreeSet::new();
        self.placing.as_ref().zip(self.scene(&nobody)).is_some_and(|(placing, scene)| placing.harmless(&scene))
    }

    /// Does this node lead, and are planned moves due, or soon?
    pub(crate) fn planned_moves(&self) -> bool {
        self.placing.as_ref().is_some_and(Placing::planned_moves)
    }

    /// Members that have gone silent, or were and have yet to say how they are now.
    fn suspected(&self) -> BTreeSet<Pnn> {
        let members = self.view().into_iter().flat_map(|v| v.members.keys());
        let unknown = |p: &Pnn| !self.reach.hears(*p) || self.awaited.contains(p);
        members.filter(|p| **p != self.config.me && unknown(p)).copied().collect()
    }

    fn scene<'a>(&'a self, suspected: &'a BTreeSet<Pnn>) -> Option<Scene<'a>> {
        Some(Scene {
            now: self.now,
            config: &self.config,
            view: self.view()?,
            reports: &self.reports,
            fences: &self.fences,
            suspected,
            minute: self.minute,
            moves_wait: self.moves_wait,
            restraint: self.restraint,
            added: &self.added,
        })
    }

    /// The leader's decisions about addresses.
    pub(super) fn place(&mut self, refresh: bool, _now: Time, out: &mut Vec<Output>) {
        // Without a lease of its own a leader may be an old one: it says nothing.
        if !self.leased {
            return;
        }
        let decided = self.with_placing(|placing, scene| {
            let changed = placing.step(scene, refresh);
            match changed {
                Some(orders) => (orders, true),
                None if refresh => {
                    let behind = |p: &Pnn| scene.reports.get(p).is_none_or(|r| r.orders < placing.revision());
                    (placing.current(scene).into_iter().filter(|(p, _)| behind(p)).collect(), false)
                }
                None => (Vec::new(), false),
            }
        });
        let Some((orders, changed)) = decided else { return };
        if changed {
            self.note_placement(out);
        }
        let me = self.config.me;
        for (to, orders) in orders {
            if to == me {
                self.orders(me, orders, out);
            } else {
                out.push(Output::Send { to, message: Message::Orders(orders) });
            }
        }
        if let Some(p) = self.placing.as_ref().filter(|p| p.revision() > 0 && *self.placement != p.target) {
            let placement = Arc::new(p.target.clone());
            self.placed(placement);
        }
        if let Some(p) = self.placing.as_ref().filter(|p| p.revision() > 0) {
            p.update_reasons(&mut self.because);
        }
    }

    /// Tells of what the leader has moved: `self.placement` is still as it was.
    pub(super) fn note_placement(&self, out: &mut Vec<Output>) {
        let Some(placing) = &self.placing else { return };
        let before = &self.placement;
        for (vip, to) in placing.target.iter().filter(|(v, p)| before.get(v) != Some(p)) {
            let text = match before.get(vip) {
                Some(from) => format!("{vip} goes from {} to {}", self.name(*from), self.name(*to)),
                None => format!("{vip} goes to {}", self.name(*to)),
            };
            let because = placing.because.get(vip).cloned().unwrap_or_default();
            self.event(Level::Info, "placement", Some(*to), text, because, out);
        }
    }

    pub(super) fn publish(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Some(snapshot) = self.news(now) {
            out.push(Output::Publish(snapshot));
        }
    }
}
