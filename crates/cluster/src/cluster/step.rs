//! Consequences: what follows from any input, in a fixed order.

use super::*;

impl Cluster {
    /// Draws them all, if there may be any. True: there may have been.
    pub(super) fn consequences(&mut self, now: Time, out: &mut Vec<Output>) -> bool {
        self.dirty |= self.arbiter.tick(now, out);
        self.settle_decisions(now, out);
        let changed = self.reach.refresh(now);
        self.dirty |= changed.heard || changed.edges;
        if changed.heard {
            self.note_reach(out);
            // Only the own news goes out at once: answering others' news with heartbeats would never end.
            self.next_heartbeat = now;
        }
        if self.wake.is_some_and(|t| t <= now) {
            self.dirty = true;
        }
        if self.next_heartbeat <= now {
            self.send_heartbeats(now, out);
        }
        let refresh = self.next_refresh <= now;
        if refresh {
            self.next_refresh = now + self.config.timing.refresh;
            self.fences.retain(|_, t| *t + Duration::from_secs(10) > now);
            self.relapses.retain(|_, (_, at)| now.since(*at) < RELAPSE_MEMORY);
        }
        if !self.dirty && !refresh && !self.something_due(now) {
            return false;
        }
        self.dirty = false;
        self.added.expire(now);
        self.lingers = self.lingers.filter(|t| *t > now && !self.holder.is_empty());
        self.consider_view(now, out);
        self.mind_lock(out);
        self.settle_decisions(now, out);
        self.reconcile(now, out);
        self.mind_services(out);
        self.mind_stop(now, out);
        // Before anybody hears that this node may be let in again.
        self.free_storage(out);
        self.report(refresh, out);
        self.mind_evictions(now, out);
        self.place(refresh, now, out);
        self.reconcile(now, out);
        self.report(false, out);
        self.mind_clients(out);
        self.answer_asked(now, out);
        self.publish(now, out);
        true
    }

    /// Has a wait of the leader, the holder, an administrator or the end of the daemon run out?
    pub(super) fn something_due(&self, now: Time) -> bool {
        // All of these were counted in when the next look was planned.
        now >= self.planned && self.is_due(now)
    }

    fn is_due(&self, now: Time) -> bool {
        self.place_at.is_some_and(|t| t <= now)
            || self.lingers.is_some_and(|t| t <= now)
            || self.holder.next_timeout().is_some_and(|t| t <= now)
            || self.grace.next_timeout().is_some_and(|t| t <= now)
            || self.parting.next_timeout().is_some_and(|t| t <= now)
            || self.unfinished.next_timeout().is_some_and(|t| t <= now)
            || self.added.next_timeout().is_some_and(|t| t <= now)
            || self.asked.iter().any(|a| a.deadline <= now)
            || matches!(self.stopping, Stopping::Moving(t) | Stopping::Gone(t) if t <= now)
    }

    pub(super) fn settle_decisions(&mut self, now: Time, out: &mut Vec<Output>) {
        while let Some(decision) = self.arbiter.decisions.pop_front() {
            self.decided(now, decision, out);
        }
    }

    pub(super) fn note_reach(&mut self, out: &mut Vec<Output>) {
        for (pnn, heard, because) in self.seen.heard_changes(&self.reach, self.now) {
            if heard {
                let (run, silence) = (self.reach.run(pnn), self.reach.silence(pnn));
                if self.pace.heard_again(pnn, run, silence) {
                    let text = format!("{} was dropped by a false failover", self.name(pnn));
                    let because = format!(
                        "it is heard again after {} ms and had not ended: it, or the network to it, only paused",
                        silence.as_millis()
                    );
                    self.event(Level::Warning, "stall", Some(pnn), text, because, out);
                }
            }
            let (level, text) = if heard {
                (Level::Info, format!("{} is heard", self.name(pnn)))
            } else {
                (Level::Warning, format!("{} has gone silent", self.name(pnn)))
            };
            self.event(level, "suspect", Some(pnn), text, because, out);
        }
    }

    pub(super) fn send_heartbeats(&mut self, now: Time, out: &mut Vec<Output>) {
        self.next_heartbeat = now + self.config.timing.heartbeat;
        let me = self.config.me;
        let member = self.is_member();
        let heartbeat = Heartbeat {
            uid: self.arbiter.durable.uid,
            run: self.run,
            view: self.rank(),
            sent: now,
            hears: self.reach.heard(),
        };
        for to in self.reach.peers.keys() {
            out.push(Output::SendHeartbeat { to: *to, heartbeat });
        }
        if member && self.arbiter.grants() {
            self.arbiter.granted(me, now);
            self.lease.own_grant(me, now);
        } else {
            self.lease.no_own_grant(me);
        }
        self.renew(now, out);
    }

    pub(super) fn present(&self, view: &View) -> BTreeMap<Pnn, Present> {
        let me = self.config.me;
        let relapses = |p: &Pnn| self.relapses.get(p).map_or(0, |(n, _)| *n);
        let mut present = BTreeMap::new();
        present.insert(
            me,
            Present {
                uid: self.arbiter.durable.uid,
                run: self.run,
                direct: true,
                since: self.started,
                clean: self.is_clean() && self.stopping == Stopping::No,
                left: matches!(self.stopping, Stopping::Gone(_) | Stopping::Done),
                recovered: self.has_recovered(),
                relapses: 0,
            },
        );
        for (pnn, peer) in &self.reach.peers {
            let member = view.members.get(pnn);
            if let (true, Some(run), Some(uid)) = (peer.heard, peer.run, peer.uid) {
                let report = self.reports.get(pnn).filter(|r| r.run == run);
                let current = report.filter(|r| r.epoch == view.epoch && peer.view == Some(view.rank()));
                present.insert(
                    *pnn,
                    Present {
                        uid,
                        run,
                        direct: true,
                        since: peer.since,
                        clean: current.is_some_and(|r| r.clean && !r.leaving && r.holding.is_empty()),
                        left: report.is_some_and(|r| r.left),
                        // An older version does not say it; without databases there is nothing to have.
                        recovered: current.is_some_and(|r| r.recovered == Some(true) || !self.waits_for_databases()),
                        relapses: relapses(pnn),
                    },
                );
            } else if let Some(m) = member.filter(|m| {
                let heard = self.reach.heard_by_others(*pnn) && !planted(Planted::OutOnOneWord);
                heard && !self.guards.gone(*pnn, m.run)
            }) {
                let left = self.reports.get(pnn).is_some_and(|r| r.run == m.run && r.left);
                present.insert(
                    *pnn,
                    Present {
                        uid: m.uid,
                        run: m.run,
                        direct: false,
                        since: self.reach.heard_by_others_since(*pnn).unwrap_or(self.started),
                        clean: false,
                        left,
                        recovered: false,
                        relapses: 0,
                    },
                );
            }
        }
        present
    }
}
