//! A new view: what it means for leases, addresses and the nodes that it dropped.

use super::*;

impl Cluster {
    pub(super) fn learn(&mut self, now: Time, view: View, fences: BTreeMap<Pnn, Time>, out: &mut Vec<Output>) {
        let old = self.view().cloned();
        if !self.arbiter.learn(now, view.clone(), out) {
            return;
        }
        let me = self.config.me;
        self.set_fences(now, old.as_ref(), &view, &fences);
        let goes_on = old.as_ref().is_some_and(|o| {
            o.has_run(me, self.run) && view.members.get(&me).is_some_and(|m| m.run == self.run && m.since <= o.epoch)
        });
        if let Some(old) = &old {
            self.let_in(old, &view, out);
        }
        self.lease.new_view(goes_on || planted(Planted::LeaseOutlivesView));
        if goes_on {
            self.holder.new_epoch(view.epoch);
        } else {
            self.holder.forget_orders(view.epoch);
            self.expire(now, out);
        }
        let nodes = view.evicted.iter().filter(|(p, _)| **p != me).map(|(p, a)| (*p, a.clone())).collect();
        // Who serves on may give the lost ones' locks to others.
        let lost = old.iter().filter(|_| goes_on).flat_map(|o| &o.members);
        let lost = lost
            .filter(|(p, m)| !view.has_run(**p, m.run) && self.had_nfs_clients(**p, m.run))
            .map(|(p, _)| *p)
            .collect();
        // Views may have been missed: any of them may have dropped these.
        let first = old.as_ref().map_or(view.epoch, |o| o.epoch.next().min(view.epoch));
        self.grace.learned(now, (first, view.epoch), lost, nodes, out);
        let word = GuardWord { run: self.run, incarnation: view.incarnation, epoch: view.epoch };
        out.push(Output::Guard { word });
        let leads = (view.leader() == Some(me) || planted(Planted::AllLead)) && view.has_run(me, self.run);
        let before = self.placing.take();
        self.placing = leads.then(|| Placing::new(view.epoch, self.placement.as_ref().clone(), before));
        if let Some(old) = &old {
            for (pnn, member) in &old.members {
                let left = self.reports.get(pnn).is_some_and(|r| r.run == member.run && r.left);
                if !view.has_run(*pnn, member.run) && !left {
                    if *pnn != me && !self.guards.released(*pnn) {
                        self.pace.dropped(*pnn, member.run);
                    }
                    let (count, _) = self.relapses.get(pnn).copied().unwrap_or((0, now));
                    self.relapses.insert(*pnn, (count + 1, now));
                }
            }
        }
        for pnn in view.members.keys() {
            self.pace.admitted(*pnn);
        }
        self.need = None;
        self.kicked = None;
        self.half = false;
        self.dirty = true;
        self.next_heartbeat = now;
        self.shut_out.retain(|p, _| view.evicted.contains_key(p));
        for pnn in view.evicted.keys() {
            self.shut_out.entry(*pnn).or_insert_with(|| Eviction::by(&view, now));
        }
        let names: Vec<String> = view.members.keys().map(|p| self.name(*p)).collect();
        let leader = view.leader().map_or_else(|| "nobody".into(), |l| self.name(l));
        let text = format!("view {}: members {}; leader {leader}", view.epoch, list(&names));
        self.event(Level::Info, "view", None, text, view.because, out);
    }

    /// Until when nodes that the view does not have may still act under an older lease.
    pub(super) fn set_fences(&mut self, now: Time, old: Option<&View>, view: &View, told: &BTreeMap<Pnn, Time>) {
        let timing = &self.config.timing;
        let full = now + timing.lease + timing.margin;
        let next = old.is_some_and(|o| o.incarnation == view.incarnation && o.epoch.next() == view.epoch);
        let all: BTreeSet<Pnn> = self
            .config
            .nodes
            .keys()
            .chain(old.iter().flat_map(|o| o.members.keys()))
            .copied()
            .filter(|p| *p != self.config.me)
            .collect();
        for pnn in all {
            if view.members.contains_key(&pnn) {
                self.fences.remove(&pnn);
                self.guards.unknown(pnn);
                continue;
            }
            let member = old.and_then(|o| o.members.get(&pnn));
            match member {
                Some(member) if next => self.guards.dropped(pnn, member.run),
                _ if !next => self.guards.unknown(pnn),
                _ => {}
            }
            if self.guards.released(pnn) {
                // Said to those who learn the view from here as no time to wait.
                self.fences.insert(pnn, now);
                continue;
            }
            let mut until = match (next, member.is_some()) {
                // Its last lease ended before the view that dropped it, or is counted in what stands already.
                (true, false) => continue,
                (true, true) => told.get(&pnn).copied().unwrap_or(full).min(full),
                (false, _) => full,
            };
            if self.reports.get(&pnn).is_none_or(|r| r.whole_seconds) {
                until = until + timing.whole_seconds;
            }
            let fence = self.fences.entry(pnn).or_insert(until);
            *fence = (*fence).max(until);
        }
    }

    pub(super) fn decided(&mut self, now: Time, decision: Decision, out: &mut Vec<Output>) {
        self.learn(now, decision.view, decision.fences, out);
        let peers: Vec<Pnn> = self.reach.peers.keys().copied().collect();
        for peer in peers {
            self.news.remove(&peer);
            self.tell_news(now, peer, out);
        }
    }

    /// Tells a peer that is behind what was decided.
    pub(super) fn tell_news(&mut self, now: Time, to: Pnn, out: &mut Vec<Output>) {
        if self.news.get(&to).is_some_and(|t| now.since(*t) < NEWS_PAUSE) {
            return;
        }
        let Some(view) = self.view().cloned() else { return };
        self.news.insert(to, now);
        let fences = self.fences.iter().map(|(p, t)| (*p, t.since(now))).collect();
        out.push(Output::Send { to, message: Message::Decided { view: Box::new(view), fences } });
    }
}

pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
