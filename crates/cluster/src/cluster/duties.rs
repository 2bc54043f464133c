//! Standing duties: the next view, the lock, services, an orderly end.

use super::*;

/// What a look at the others has shown.
struct Look {
    /// Half of the voters are here: the lock would make them a quorum.
    half: bool,
    wish: Wish,
    recheck: Option<Time>,
    /// Voters and members that are not here.
    absent: PnnSet,
}

impl Cluster {
    /// Wants the next view, and proposes it when it is this node's turn.
    pub(super) fn consider_view(&mut self, now: Time, out: &mut Vec<Output>) {
        self.wake = None;
        let Some(look) = self.look(now) else {
            let why = "this node has not joined a cluster yet: `steadfast init` on the first node, `steadfast join TOKEN` on the others";
            self.waits = Some(why.into());
            return;
        };
        let Look { half, wish, recheck, absent } = look;
        self.half = half;
        self.wake = recheck;
        let lacks = matches!(wish, Wish::Lack(_)) && self.is_member();
        if let Wish::Lack(why) = &wish
            && lacks
            && !self.lacks
        {
            let text = LACKS.into();
            self.event(Level::Error, "view", None, text, why.clone(), out);
        }
        self.lacks = lacks;
        let (wished, order) = match wish {
            Wish::Content => {
                self.need = None;
                self.waits = None;
                (None, Vec::new())
            }
            Wish::Wait(why) | Wish::Lack(why) => {
                self.need = None;
                self.waits = Some(why);
                (None, Vec::new())
            }
            Wish::Change { view, order } => {
                self.waits = Some(format!("view {} is being decided: {}", view.epoch, view.because));
                (Some(*view), order)
            }
        };
        let me = self.config.me;
        // Somebody's accepted but undecided view stops leases until it is decided: finish it if nobody else does.
        let undecided = self.arbiter.undecided_since();
        let turn = order.iter().position(|p| *p == me).unwrap_or_else(|| usize::from(me.0) % 16);
        let step = PROPOSER_STEP * u32::try_from(turn).unwrap_or(16);
        let (wished, due) = match (wished, undecided) {
            (_, Some(since)) => {
                let accepted = self.arbiter.durable.accepted.as_ref().map(|a| a.view.clone());
                (accepted, since + PUSH_AFTER + step)
            }
            (Some(view), None) => {
                let since = *self.need.get_or_insert(now);
                (Some(view), since + step)
            }
            (None, None) => return,
        };
        let Some(wished) = wished else { return };
        let due = due.max(self.arbiter.not_before());
        if self.arbiter.proposing() {
            return;
        }
        if now < due {
            self.wake = Some(self.wake.map_or(due, |w| w.min(due)));
            return;
        }
        if self.half && self.kicked != Some(absent) {
            let next = self.epoch().next();
            let members = self.view().into_iter().flat_map(|view| &view.members);
            let lost = members.filter(|(p, m)| absent.contains(**p) && self.had_nfs_clients(**p, m.run));
            let lost = lost.map(|(p, _)| *p).collect();
            if let Some(until) = self.grace.before_kick(now, next, lost, out) {
                self.wake = Some(self.wake.map_or(until, |w| w.min(until)));
                return;
            }
            let nodes = absent.iter().filter_map(|p| Some((p, self.config.private_addresses(p)?.clone()))).collect();
            out.push(Output::Kick { nodes });
            self.kicked = Some(absent);
        }
        self.arbiter.propose(now, wished, out);
    }

    /// What this node sees of the others, and the view that it would have; nothing before it has joined.
    fn look(&mut self, now: Time) -> Option<Look> {
        let mut wished = self.wished.take();
        let look = self.look_beside(&mut wished, now);
        self.wished = wished;
        look
    }

    fn look_beside(&self, wished: &mut Option<Wished>, now: Time) -> Option<Look> {
        let view = self.view()?;
        let present = self.present(view);
        let reachable =
            view.voters.iter().filter(|(p, u)| present.get(p).is_some_and(|n| n.direct && n.uid == **u)).count();
        let silent = |p: Pnn| self.reach.why_silent(p, now);
        let edge = |a: Pnn, b: Pnn| self.reach.edge(a, b);
        let site = Site {
            now,
            config: &self.config,
            view,
            present,
            edge: &edge,
            lock_usable: self.lock.usable,
            silent: &silent,
            dead: view.members.iter().filter(|(p, m)| self.guards.gone(**p, m.run)).map(|(p, _)| *p).collect(),
        };
        let (wish, recheck) = Wished::look(wished, &site, &self.config, self.reach.edge_changes);
        let absent =
            view.voters.keys().chain(view.members.keys()).filter(|p| !site.present.contains_key(p)).copied().collect();
        Some(Look { half: view.is_half_with_lock(reachable), wish, recheck, absent })
    }

    /// The leader keeps the lock in the background; a tie needs it.
    pub(super) fn mind_lock(&mut self, out: &mut Vec<Output>) {
        let leads = self.placing.is_some() && self.stopping == Stopping::No;
        let wanted = self.lock.usable && (leads || (self.half && (self.arbiter.proposing() || self.need.is_some())));
        if wanted != self.lock_wanted {
            self.lock_wanted = wanted;
            out.push(Output::Lock { wanted });
        }
        if self.half {
            self.arbiter.ask_lock(out);
        }
    }

    pub(super) fn may_serve(&self) -> Result<(), &'static str> {
        if !self.is_member() {
            return Err("this node is not a member of the view");
        }
        match self.stopping {
            Stopping::No | Stopping::Moving(_) => {}
            Stopping::Closing | Stopping::Gone(_) | Stopping::Done => {
                return Err("the daemon is being stopped");
            }
        }
        if !self.leased {
            return Err("this node has no valid lease");
        }
        Ok(())
    }

    pub(super) fn reconcile(&mut self, now: Time, out: &mut Vec<Output>) {
        let may = self.may_serve();
        if let Some(view) = self.arbiter.view() {
            self.parting.judge((self.config.me, self.run), view, &self.reports);
        }
        if self.unfinished.expire(now) {
            self.hangs(now, format!("no answer within {} ms", PROOF_WAIT.as_millis()), out);
        }
        if !self.is_member() || !unfinished::runs(&self.services) || self.has_stopped() {
            self.holder.nothing_in_hand();
        }
        let mut leave =
            Leave { parting: &mut self.parting, unfinished: &mut self.unfinished, services: &self.services };
        let found = self.holder.reconcile(now, &self.config, may, &mut leave, out);
        for (vip, end) in found.late {
            let because = if end {
                format!("what hangs here did not end within {} ms", END_WAIT.as_millis())
            } else {
                format!("the NFS server did not say so within {} ms", LET_GO_WAIT.as_millis())
            };
            self.not_let_go(vip, end, because, out);
        }
        if let Some(why) = may.err().filter(|_| !found.left.is_empty()) {
            let text = "addresses that were lost are wanted elsewhere: what servers here may have in hand is ended";
            self.event(Level::Warning, "service", Some(self.config.me), text.into(), why.into(), out);
        }
        for vip in found.left {
            self.left_by_plan(now, vip, out);
        }
        if let Some(view) = self.arbiter.view().filter(|view| view.has_run(self.config.me, self.run)) {
            self.parting.tell((self.config.me, self.run), view, &self.reports, out);
        }
    }

    /// An address has left by plan: the NFS server here lets go of what came by it, or what hangs is ended.
    pub(super) fn left_by_plan(&mut self, now: Time, vip: IpAddr, out: &mut Vec<Output>) {
        let end = self.unfinished.left(now, vip, &self.services, out);
        if (end || self.parting.has_locks(vip)) && !planted(Planted::LetGoNotAwaited) {
            let wait = if end { END_WAIT } else { LET_GO_WAIT };
            self.holder.wait_to_let_go(now + wait, vip, end);
        }
        out.push(Output::LetGo { vip, end });
    }

    /// Have services and mount been stopped?
    fn has_stopped(&self) -> bool {
        self.clean && self.serve == Some(false)
    }

    pub(super) fn is_clean(&self) -> bool {
        self.has_stopped() && self.holder.is_empty()
    }

    /// A node that a view shuts out of the storage, and on which nothing is served any more, ends the connections that the others'
    /// clients have to its storage, and once more those of each member that has evicted it after that. They have destroyed
    /// their ends behind a fence, so nobody has told the servers here: these keep what the connections hold, and the same
    /// clients would wait for it when they come back.
    pub(super) fn free_storage(&mut self, out: &mut Vec<Output>) {
        let Some(view) = self.view().filter(|v| v.evicted.contains_key(&self.config.me) && self.is_clean()) else {
            return;
        };
        let rank = view.rank();
        let known = self.freed.as_ref().filter(|(of, _)| *of == rank).map(|(_, known)| known);
        let evicted = |p: &Pnn| self.reports.get(p).is_some_and(|r| r.evicted >= Some(view.epoch));
        let news: BTreeSet<Pnn> =
            view.members.keys().copied().filter(|p| known.is_none_or(|k| !k.contains(p)) && evicted(p)).collect();
        if (news.is_empty() && known.is_some()) || planted(Planted::StorageNotFreed) {
            return;
        }
        let due = |p: &Pnn| if known.is_some() { news.contains(p) } else { *p != self.config.me };
        // A member that is not listed here may have shut this node out all the same.
        let nodes = self.config.nodes.keys().chain(self.config.removed.keys()).filter(|p| due(p));
        let nodes = nodes.filter_map(|p| Some((*p, self.config.private_addresses(*p)?.clone()))).collect();
        let known = known.into_iter().flatten().chain(&news).copied().collect();
        self.freed = Some((rank, known));
        out.push(Output::FreeStorage { nodes });
    }

    /// A view lets this node in again. A member that has left meanwhile, and whose word that it had evicted this node has never
    /// come, may have been connected for a moment after the others' connections were ended: nobody else ends that one.
    pub(super) fn let_in(&self, old: &View, view: &View, out: &mut Vec<Output>) {
        let me = self.config.me;
        if !old.evicted.contains_key(&me) || !view.members.contains_key(&me) || planted(Planted::StorageNotFreed) {
            return;
        }
        let heard = |p: &Pnn| self.freed.as_ref().is_some_and(|(of, known)| *of == old.rank() && known.contains(p));
        // Who is evicted is so by this node as well, which ends its connections.
        let has_left = |p: &Pnn| !view.members.contains_key(p) && !view.evicted.contains_key(p);
        let due = old.members.keys().filter(|p| has_left(p) && !heard(p));
        let nodes: BTreeMap<_, _> =
            due.filter_map(|p| Some((*p, self.config.private_addresses(*p)?.clone()))).collect();
        if !nodes.is_empty() {
            out.push(Output::FreeStorage { nodes });
        }
    }

    pub(super) fn mind_services(&mut self, out: &mut Vec<Output>) {
        let role = self.config.nodes.get(&self.config.me).map(|n| n.role);
        let serve = self.is_member()
            && role == Some(Role::Server)
            && matches!(self.admin(), AdminState::Active | AdminState::Drained)
            && matches!(self.stopping, Stopping::No | Stopping::Moving(_));
        if self.serve != Some(serve) {
            self.serve = Some(serve);
            self.clean = false;
            out.push(Output::Serve(serve));
        }
    }

    pub(super) fn interfaces_changed(&mut self) {
        let public = crate::io::public_interfaces(&self.config);
        let down = public.intersection(&self.links_down).count();
        self.deserted.interfaces(down > 0, down > 0 && down == public.len(), &self.holder.holding());
    }

    /// Could clients of this run's NFS server want something back? What a later run says of itself says nothing of that: it
    /// knows of no client before it has read who is recorded.
    pub(super) fn had_nfs_clients(&self, pnn: Pnn, run: RunId) -> bool {
        match self.reports.get(&pnn).filter(|r| r.run == run) {
            Some(report) => report.nfs_clients,
            None => self.grace.had_clients(pnn, run),
        }
    }

    /// What waits for NFS servers to enter their grace period.
    pub(super) fn mind_evictions(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Some(view) = self.arbiter.view() {
            self.grace.evict_when_ready(now, view, &self.reports, out);
        }
    }

    /// The NFS server of this node could not be made to let go of the locks that moved away with an address; or what hangs here
    /// could not be ended.
    pub(super) fn not_let_go(&self, vip: IpAddr, end: bool, because: String, out: &mut Vec<Output>) {
        let text = if end {
            format!(
                "what hangs here may still be written over what {vip}'s clients write elsewhere: end the NFS server and the \
                 shared mount's client process before the storage answers again"
            )
        } else {
            format!("locks of {vip}'s NFS clients may still be held here, against themselves too")
        };
        self.event(Level::Error, "service", Some(self.config.me), text, because, out);
    }

    /// The NFS server of this node, or the storage, does not answer while addresses leave.
    pub(super) fn hangs(&mut self, now: Time, because: String, out: &mut Vec<Output>) {
        let text = "addresses leave, and the NFS server or the storage does not answer: what hangs is ended";
        self.event(Level::Warning, "service", Some(self.config.me), text.into(), because, out);
        self.end_for_who_left(now, out);
    }

    /// Something hangs: it is ended for the sake of addresses that have left it a moment ago. One that still waits for the NFS
    /// server to let go has left as well, and nobody else has it yet: it waits for the end instead.
    pub(super) fn end_for_who_left(&mut self, now: Time, out: &mut Vec<Output>) {
        for vip in self.unfinished.hung(now, |vip| self.holder.has(vip) && !self.holder.lets_go(vip)) {
            if self.holder.lets_go(vip) {
                self.holder.wait_to_let_go(now + END_WAIT, vip, true);
            }
            out.push(Output::LetGo { vip, end: true });
        }
    }

    /// Says when nobody is left who wants anything of this node's services.
    pub(super) fn mind_clients(&mut self, out: &mut Vec<Output>) {
        let (me, epoch) = (self.config.me, self.epoch());
        let member = self.is_member() && self.serve == Some(true);
        let serves = |vip: &IpAddr| {
            let old = planted(Planted::DesertedByOldReport);
            let mut others = self.reports.iter().filter(|(p, r)| **p != me && (r.epoch == epoch || old));
            others.any(|(p, r)| r.serving.contains(vip) && (self.reach.hears(*p) || old))
        };
        if member && self.deserted.now(self.holder.is_empty(), serves) {
            out.push(Output::Deserted);
        }
    }

    pub(super) fn mind_stop(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Stopping::Moving(until) = self.stopping {
            let others =
                self.view().is_some_and(|v| v.members.keys().any(|p| *p != self.config.me && self.reach.hears(*p)));
            if self.holder.is_empty() || !others || !self.is_member() || now >= until {
                self.stopping = Stopping::Closing;
                // What nobody took in time is left to nobody before the services here have been stopped, or what hangs is ended.
                if !planted(Planted::StopCountsAsReleased) {
                    self.holder.lose_all(now);
                }
                self.reconcile(now, out);
                self.mind_services(out);
            }
        }
        if self.stopping == Stopping::Closing && self.is_clean() {
            self.stopping = Stopping::Gone(now + Duration::from_secs(1));
            self.lease.end();
            self.expire(now, out);
        }
        if let Stopping::Gone(until) = self.stopping {
            let known = !self.is_member() || self.reach.heard().is_empty();
            if known || now >= until {
                self.stopping = Stopping::Done;
                self.report(true, out);
                out.push(Output::Stopped);
            }
        }
    }
}
