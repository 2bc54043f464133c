//! What comes in: routes each input to its part.

use super::*;

/// A standing warning; heeded only while this node leads, but nobody knows who will lead next.
const NO_TAKEOVER: &str = "NoIPTakeover is set here: while this node leads, an address that leaves its host goes nowhere; \
    `ctdb setvar NoIPTakeover 0` lifts it";

impl Cluster {
    pub(super) fn input(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Heartbeat { from, net, heartbeat } => self.heartbeat(now, from, net, &heartbeat, out),
            Input::Grant { from, grant } => self.grant(now, from, &grant, out),
            Input::Guard { from, word } => self.guard_word(now, from, &word, out),
            Input::Message { from, message } => self.message(now, from, message, out),
            Input::Link { peer, up } => {
                self.reach.link(peer, up, now);
                self.dirty = true;
                if up {
                    self.awaited.insert(peer);
                    self.greet(peer, out);
                }
            }
            Input::Persisted { ticket } => {
                self.arbiter.persisted(now, ticket, out);
                self.dirty = true;
            }
            Input::PersistFailed { ticket: _, error } => {
                if self.arbiter.disk_error.as_ref() != Some(&error) {
                    let text = "cannot write its votes: it takes part in no decision until it can".to_string();
                    self.event(Level::Error, "storage", Some(self.config.me), text, error.clone(), out);
                }
                self.arbiter.persist_failed(now, error);
                self.dirty = true;
            }
            Input::Lock { held, because } => self.lock_input(held, because, out),
            Input::LockUsable { usable, because } => {
                self.lock.usable = usable;
                self.lock.because = because;
                self.dirty = true;
            }
            Input::Records { ticket, result } => {
                self.arbiter.records(now, ticket, result, out);
                self.dirty = true;
            }
            Input::Taken { vip } => {
                if self.holder.taken(vip) {
                    let because = self.because.get(&vip).cloned().unwrap_or_default();
                    self.event(Level::Info, "take", Some(self.config.me), format!("{vip} is held here"), because, out);
                } else if self.holder.unwanted(vip) {
                    // The driver and the core disagree: nobody may believe that it is free while it is here.
                    out.push(Output::Release { vip, because: "it was taken though nobody wants it here".into() });
                }
                self.dirty = true;
            }
            Input::TakeFailed { vip, because } => {
                let text = format!("{vip} could not be taken");
                self.event(Level::Error, "take", Some(self.config.me), text, because.clone(), out);
                self.holder.take_failed(now, vip, because);
                self.dirty = true;
            }
            // Said twice: by the end of the lease, and by the order to release.
            Input::Released { vip } if !self.holder.has(vip) || self.holder.lets_go(vip) => {}
            Input::Released { vip } => {
                // By plan, for without a lease or a view nothing is left to the NFS server's grace. What was lost leaves later.
                let planned = self.holder.parts(vip) && self.may_serve().is_ok() && !self.holder.is_lost(vip);
                let asked = self.holder.released(now, vip);
                if asked && planned {
                    self.left_by_plan(now, vip, out);
                }
                if !asked {
                    let because = "it disappeared; nobody may believe that it is free before that is certain".into();
                    out.push(Output::Release { vip, because });
                }
                let (level, because) = if asked {
                    (Level::Info, String::new())
                } else {
                    (Level::Warning, "nobody here asked for it: somebody else removed it, or its lifetime ended".into())
                };
                self.event(
                    level,
                    "release",
                    Some(self.config.me),
                    format!("{vip} is gone from this node"),
                    because,
                    out,
                );
                self.dirty = true;
            }
            Input::Conflict { vip, mac } => {
                if self.holder.conflict(now, vip, &mac) {
                    let text = format!("{mac} answers for {vip} too");
                    let because = "another machine uses this address; find it by its MAC and take the address off it";
                    self.event(Level::Error, "take", Some(self.config.me), text, because.into(), out);
                }
                self.dirty = true;
            }
            Input::NoConflict { vip } => self.dirty |= self.holder.no_conflict(vip),
            Input::Evicted { epoch } => {
                self.evicted = self.evicted.max(Some(epoch));
                self.evict_error = None;
                self.dirty = true;
            }
            Input::EvictFailed { epoch: _, because } => {
                if self.evict_error.as_ref() != Some(&because) {
                    let text = "cannot shut lost nodes out of the storage; their addresses wait".to_string();
                    self.event(Level::Error, "storage", Some(self.config.me), text, because.clone(), out);
                }
                self.evict_error = Some(because);
                self.dirty = true;
            }
            Input::NfsClients(clients) => {
                self.dirty |= self.grace.clients != clients;
                self.grace.clients = clients;
            }
            Input::Graced { number, because } => {
                self.grace.entered(number);
                if let Some(because) = because {
                    let text = "locks and open files of NFS clients were not kept for their owners";
                    self.event(Level::Error, "service", Some(self.config.me), text.into(), because, out);
                }
                self.dirty = true;
            }
            Input::NfsLocks { addresses, grace } => self.dirty |= self.parting.locks(addresses, grace),
            Input::GracedForMove { node, run, number, because } => {
                self.dirty |= self.parting.entered(node, (run, number));
                if let Some(because) = because {
                    let text = "locks of NFS clients are not kept for their owners over a planned move";
                    self.event(Level::Error, "service", Some(self.config.me), text.into(), because, out);
                }
            }
            Input::Proved { number, because } => {
                let news = self.unfinished.proved(now, number, because.is_none());
                self.dirty |= news;
                if let Some(because) = because.filter(|_| news) {
                    self.hangs(now, because, out);
                }
            }
            Input::LetGo { vip, end, because } => {
                self.dirty |= self.holder.let_go(vip, end);
                if let Some(because) = because {
                    self.not_let_go(vip, end, because, out);
                }
            }
            Input::Recovered { view } => {
                self.dirty |= self.recovered < Some(view);
                self.recovered = self.recovered.max(Some(view));
                if self.arbiter.durable.recovered < Some(view) {
                    self.arbiter.durable.recovered = Some(view);
                    self.arbiter.persist(Vec::new(), out);
                }
            }
            Input::Service { name, health } => self.service(now, name, health, out),
            Input::Interface { name, up } => {
                let changed = if up { self.links_down.remove(&name) } else { self.links_down.insert(name.clone()) };
                if changed {
                    let level = if up { Level::Info } else { Level::Error };
                    let text = format!("public interface {name} is {}", if up { "up" } else { "down" });
                    self.event(level, "service", Some(self.config.me), text, String::new(), out);
                    self.interfaces_changed();
                }
                self.dirty = true;
            }
            Input::WholeSeconds(yes) => {
                self.whole_seconds = yes;
                self.dirty = true;
            }
            Input::TimeOfDay { minute } => {
                let allowed = |m| self.config.fail_back.allows(m).is_ok();
                self.dirty |= allowed(self.minute) != allowed(Some(minute));
                self.minute = Some(minute);
            }
            Input::MovesWait(wait) => {
                self.dirty |= self.moves_wait != wait;
                self.moves_wait = wait;
            }
            Input::Restraint(restraint) => {
                self.dirty |= self.restraint != restraint;
                self.restraint = restraint;
                let text = if restraint.no_takeover { NO_TAKEOVER } else { "" };
                self.warning("restraint", text, out);
            }
            Input::Warning { key, text } => self.warning(&key, &text, out),
            Input::Admin { ticket, request } => self.admin_request(now, Asker::Local, ticket, request, out),
            Input::Config(config) => self.reconfigure(now, *config, out),
            Input::Stop => {
                if self.stopping == Stopping::No {
                    self.stopping = Stopping::Moving(now + LEAVE_DEADLINE);
                    self.event(
                        Level::Info,
                        "admin",
                        Some(self.config.me),
                        "the daemon is being stopped".into(),
                        String::new(),
                        out,
                    );
                }
                self.dirty = true;
            }
            Input::ServicesStopped => {
                if self.serve == Some(false) {
                    self.clean = true;
                    self.dirty = true;
                }
            }
        }
    }

    pub(super) fn heartbeat(&mut self, now: Time, from: Pnn, net: u8, hb: &Heartbeat, out: &mut Vec<Output>) {
        if net != 0 {
            // Membership and leases run over the network of control and storage only: a node that has lost it must not
            // be kept by another one. The others tell people that it is alive.
            self.reach.heard_elsewhere(from, now);
            return;
        }
        let Some(arrival) = self.reach.heartbeat(from, hb, now) else { return };
        if let Some(gap) = arrival.gap {
            self.pace.gap(gap);
        }
        self.dirty |= arrival.new_run;
        let mine = self.rank();
        if hb.view < mine {
            self.tell_news(now, from, out);
        }
        let Some(view) = self.view() else { return };
        if arrival.link && hb.view == mine && view.has_run(from, hb.run) && self.arbiter.grants() {
            let grant = Grant {
                uid: self.arbiter.durable.uid,
                to_run: hb.run,
                incarnation: view.incarnation,
                epoch: view.epoch,
                sent: hb.sent,
            };
            out.push(Output::SendGrant { to: from, net, grant });
            self.arbiter.granted(from, now);
        }
    }

    /// A peer's daemon is dead and its addresses are gone: it is silent from now on, and there is no lease to wait for.
    pub(super) fn guard_word(&mut self, now: Time, from: Pnn, word: &GuardWord, out: &mut Vec<Output>) {
        let known = self.config.nodes.contains_key(&from) && from != self.config.me;
        let ours = self.view().is_some_and(|v| v.incarnation == word.incarnation);
        if !known || !ours || !self.guards.hear(from, word) {
            return;
        }
        self.reach.gone(from, word.run);
        if self.guards.released(from) && self.fences.get(&from).is_some_and(|t| now < *t) {
            self.fences.insert(from, now);
        }
        let text = format!("the daemon of {} is dead, its addresses are gone", self.name(from));
        let because = format!("its guard says so; the newest view that it knew is {}", word.epoch);
        self.event(Level::Warning, "suspect", Some(from), text, because, out);
        self.dirty = true;
    }

    pub(super) fn grant(&mut self, now: Time, from: Pnn, grant: &Grant, out: &mut Vec<Output>) {
        let Some(view) = self.arbiter.view() else { return };
        if !view.has_run(self.config.me, self.run) {
            return;
        }
        self.lease.grant(from, grant, view, self.run, now);
        self.renew(now, out);
    }

    pub(super) fn renew(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(view) = self.arbiter.view() else { return };
        if !view.has_run(self.config.me, self.run) || matches!(self.stopping, Stopping::Gone(_) | Stopping::Done) {
            return;
        }
        if let Some(until) = self.lease.renew(view, self.config.timing.lease)
            && until > now
        {
            out.push(Output::RenewLease { until });
            if !self.leased {
                self.leased = true;
                self.dirty = true;
                let because = format!("more than half of {} voters grant it", view.voters.len());
                self.event(Level::Info, "lease", Some(self.config.me), "has the right to serve".into(), because, out);
            }
        }
    }

    pub(super) fn message(&mut self, now: Time, from: Pnn, message: Message, out: &mut Vec<Output>) {
        match message {
            Message::Decided { view, fences } => {
                let fences = fences.into_iter().map(|(p, d)| (p, now + d)).collect();
                self.learn(now, *view, fences, out);
            }
            Message::Report(report) => {
                for vip in report.conflicts.keys() {
                    self.holder.sighted(now, *vip);
                }
                self.dirty |= self.awaited.remove(&from);
                // Most reports only repeat the last one; nothing follows from those.
                if self.reports.get(&from) != Some(&report) {
                    let run = report.run;
                    let before = self.reports.insert(from, report).filter(|r| r.run != run && r.nfs_clients);
                    if let Some(before) = before.filter(|r| self.view().is_some_and(|v| v.has_run(from, r.run))) {
                        self.grace.reports_no_more(from, before.run);
                    }
                    self.dirty = true;
                }
            }
            Message::Orders(orders) => self.orders(from, orders, out),
            Message::Admin { ticket, request } => {
                self.admin_request(now, Asker::Peer(from, ticket), ticket, request, out)
            }
            Message::AdminDone { ticket, reply } => {
                if let Some(i) = self.asked.iter().position(|a| a.ticket == ticket && a.disk.is_none()) {
                    let asked = self.asked.remove(i);
                    Self::answer(asked.by, asked.ticket, reply, out);
                }
            }
            Message::Prepare { .. }
            | Message::Promise { .. }
            | Message::Accept { .. }
            | Message::Accepted { .. }
            | Message::Refused { .. } => {
                self.arbiter.message(now, from, message, out);
                self.dirty = true;
            }
        }
    }

    /// Addresses that will come here once a lost holder's lease is over: is anybody else using them? (RFC 5227)
    fn look_ahead(&self, orders: &Orders, out: &mut Vec<Output>) {
        let members = self.view().map(|v| v.members.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
        for (vip, _) in orders.placement.iter().filter(|(v, p)| **p == self.config.me && !orders.hold.contains_key(v)) {
            let held = members.iter().any(|p| self.reports.get(p).is_some_and(|r| r.holding.contains(vip)));
            let interface = self.config.vips.get(vip).and_then(|c| c.hosts.get(&self.config.me));
            if let Some(interface) = interface.filter(|_| !held) {
                out.push(Output::ProbeAddress { vip: *vip, interface: interface.clone() });
            }
        }
    }

    pub(super) fn orders(&mut self, from: Pnn, orders: Orders, out: &mut Vec<Output>) {
        let old = self.view().and_then(View::leader) != Some(from) || orders.epoch != self.epoch();
        if !self.is_member() || (old && !planted(Planted::OldOrdersObeyed)) {
            return;
        }
        if self.holder.orders(&orders) {
            self.look_ahead(&orders, out);
            self.placed(orders.placement);
            self.because = orders.because;
            self.dirty = true;
        }
    }

    pub(super) fn lock_input(&mut self, held: bool, because: String, out: &mut Vec<Output>) {
        if self.lock.held != held {
            let text = format!("the cluster lock is {} here", if held { "held" } else { "no longer held" });
            self.event(Level::Info, "lock", Some(self.config.me), text, because.clone(), out);
        }
        self.lock.held = held;
        self.lock.epoch = self.epoch();
        if !because.is_empty() {
            self.lock.because = because;
        }
        self.arbiter.lock_held = held;
        self.dirty = true;
    }

    pub(super) fn service(&mut self, now: Time, name: String, health: ServiceHealth, out: &mut Vec<Output>) {
        let hung = unfinished::hangs(&self.services);
        let old = Arc::make_mut(&mut self.services).insert(name.clone(), health.clone());
        if old.as_ref() == Some(&health) {
            return;
        }
        self.dirty = true;
        if old.as_ref().map(|o| o.state) != Some(health.state) {
            let level = match health.state {
                crate::Health::Failed => Level::Error,
                crate::Health::Failing => Level::Warning,
                _ => Level::Info,
            };
            let text = format!("{name} is {}", crate::fitness::word(health.state));
            self.event(level, "service", Some(self.config.me), text, health.because, out);
        }
        self.unfinished.services(&self.services);
        if !hung && unfinished::hangs(&self.services) {
            self.end_for_who_left(now, out);
        }
    }

    pub(super) fn reconfigure(&mut self, now: Time, config: Config, out: &mut Vec<Output>) {
        if config == *self.config {
            return;
        }
        self.added.configure(now, &self.config, &config);
        self.config = Arc::new(config);
        self.placed(self.placement.clone());
        self.reach.configure(&self.config, now);
        self.arbiter.set_timing(self.config.timing.clone());
        let view = self.arbiter.view();
        self.reports.retain(|pnn, report| {
            let listed = self.config.nodes.contains_key(pnn);
            // A run that no view has let in serves nobody; what its member's run had is known already.
            let member = view.is_some_and(|view| view.has_run(*pnn, report.run));
            if !listed && member && report.nfs_clients {
                self.grace.reports_no_more(*pnn, report.run);
            }
            listed
        });
        self.dirty = true;
        self.event(
            Level::Info,
            "config",
            Some(self.config.me),
            "a new configuration is in force".into(),
            String::new(),
            out,
        );
    }

    /// A standing warning of this node; an empty text ends it.
    fn warning(&mut self, key: &str, text: &str, out: &mut Vec<Output>) {
        if text.is_empty() {
            self.warnings.remove(key);
        } else if self.warnings.get(key).is_none_or(|said| said != text) {
            let level = Level::Warning;
            self.event(level, "storage", Some(self.config.me), text.to_owned(), String::new(), out);
            self.warnings.insert(key.to_owned(), text.to_owned());
        }
        self.dirty = true;
    }
}
