//! The state machine: routes inputs to its parts and draws the consequences.

use crate::arbiter::{Arbiter, Decision};
use crate::holder::Holder;
use crate::lease::Lease;
use crate::membership::{self, Present, Site, Wish};
use crate::placing::{Placing, Scene};
use crate::reach::Reach;
use crate::status::Seen;
use crate::{
    AdminReply, AdminRequest, AdminState, Config, Durable, Epoch, Event, Grant, Heartbeat, Incarnation,
    Input, Level, LockStatus, Message, Orders, Output, Pnn, Report, Role, RunId, ServiceHealth, Time, View,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Between two tellings of the newest view to one peer that is behind.
const NEWS_PAUSE: Duration = Duration::from_millis(100);
/// Head start of each possible proposer before the next one.
const PROPOSER_STEP: Duration = Duration::from_millis(40);
/// An accepted view that is not decided after this is pushed by others.
const PUSH_AFTER: Duration = Duration::from_millis(100);
/// A relapse is forgotten after this.
const RELAPSE_MEMORY: Duration = Duration::from_secs(600);
/// Answer to an administrator at the latest.
const ADMIN_DEADLINE: Duration = Duration::from_secs(5);
/// How long a stopping node waits for its addresses to find other hosts.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);

/// What a run of the daemon starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The site.
    pub config: Config,
    /// The votes read from disk ([`Durable::blank`] for a new disk).
    pub durable: Durable,
    /// Random number of this start.
    pub run: RunId,
    /// Seed of the core's own random delays.
    pub seed: u64,
    /// Version of the program, for `status`.
    pub version: String,
}

/// How far a daemon that ends has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// Others take the addresses, until then at the latest.
    Moving(Time),
    /// Services stop.
    Closing,
    /// Everything is released; the others are told, until then.
    Gone(Time),
    Done,
}

/// An administrator who waits for an answer.
#[derive(Clone, Debug)]
struct Asked {
    ticket: u64,
    by: Asker,
    deadline: Time,
    what: String,
    disk: Option<(u64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Local,
    Peer(Pnn, u64),
}

/// One node's cluster core.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) config: Config,
    pub(crate) run: RunId,
    pub(crate) version: String,
    pub(crate) reach: Reach,
    pub(crate) arbiter: Arbiter,
    pub(crate) lease: Lease,
    pub(crate) leased: bool,
    pub(crate) holder: Holder,
    pub(crate) placing: Option<Placing>,
    pub(crate) reports: BTreeMap<Pnn, Report>,
    pub(crate) fences: BTreeMap<Pnn, Time>,
    pub(crate) evicted: Option<Epoch>,
    pub(crate) evict_error: Option<String>,
    pub(crate) services: BTreeMap<String, ServiceHealth>,
    pub(crate) links_down: BTreeSet<String>,
    pub(crate) whole_seconds: bool,
    pub(crate) warnings: BTreeMap<String, String>,
    pub(crate) lock: LockStatus,
    pub(crate) waits: String,
    /// What the leader last said of the placement.
    pub(crate) placement: BTreeMap<IpAddr, Pnn>,
    pub(crate) because: BTreeMap<IpAddr, String>,
    pub(crate) seen: Seen,
    pub(crate) started: Time,
    lock_wanted: bool,
    kicked: Option<BTreeSet<Pnn>>,
    half: bool,
    serve: Option<bool>,
    clean: bool,
    stopping: Stopping,
    relapses: BTreeMap<Pnn, (u32, Time)>,
    news: BTreeMap<Pnn, Time>,
    asked: Vec<Asked>,
    next_ask: u64,
    need: Option<Time>,
    wake: Option<Time>,
    dirty: bool,
    next_heartbeat: Time,
    next_refresh: Time,
    planned: Time,
    now: Time,
}

impl Cluster {
    /// A daemon that has just started. All addresses of an earlier run must be gone from the machine by now:
    /// its first report says so to the others.
    #[must_use]
    pub fn new(start: Start, now: Time) -> Self {
        let Start {
            config,
            durable,
            run,
            seed,
            version,
        } = start;
        let me = config.me;
        let timing = config.timing.clone();
        let epoch = durable.view.as_ref().map_or(Epoch(0), |v| v.epoch);
        let mut holder = Holder::default();
        holder.forget_orders(epoch);
        Self {
            reach: Reach::new(&config, now),
            arbiter: Arbiter::new(me, timing, durable, seed, now),
            config,
            run,
            version,
            lease: Lease::default(),
            leased: false,
            holder,
            placing: None,
            reports: BTreeMap::new(),
            fences: BTreeMap::new(),
            evicted: None,
            evict_error: None,
            services: BTreeMap::new(),
            links_down: BTreeSet::new(),
            whole_seconds: false,
            warnings: BTreeMap::new(),
            lock: LockStatus::default(),
            waits: String::new(),
            placement: BTreeMap::new(),
            because: BTreeMap::new(),
            seen: Seen::default(),
            started: now,
            lock_wanted: false,
            kicked: None,
            half: false,
            serve: None,
            clean: false,
            stopping: Stopping::No,
            relapses: BTreeMap::new(),
            news: BTreeMap::new(),
            asked: Vec::new(),
            next_ask: 1,
            need: None,
            wake: None,
            dirty: true,
            next_heartbeat: now,
            next_refresh: now,
            planned: now,
            now,
        }
    }

    /// Takes one input; appends the effects.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        // Time never goes back here, whatever the driver's clock does.
        let now = self.now.max(now);
        self.now = now;
        if now.since(self.planned) > self.config.timing.heartbeat {
            self.reach.stalled(now);
        }
        self.expire(now, out);
        self.input(now, input, out);
        self.consequences(now, out);
        self.planned = self.next_timeout();
    }

    /// When to feed [`Input::Tick`] at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Time {
        let placing = self
            .placing
            .as_ref()
            .and_then(|p| p.next_timeout(self.now, &self.config, &self.fences));
        let stopping = match self.stopping {
            Stopping::Moving(t) | Stopping::Gone(t) => Some(t),
            Stopping::No | Stopping::Closing | Stopping::Done => None,
        };
        [
            Some(self.next_heartbeat),
            Some(self.next_refresh),
            self.reach.next_timeout(self.now),
            self.arbiter.next_timeout(),
            self.lease.until().filter(|_| self.leased),
            self.wake,
            self.holder.next_timeout(),
            self.asked.iter().map(|a| a.deadline).min(),
            placing,
            stopping,
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.next_heartbeat)
    }

    /// The newest view that this node has learned.
    #[must_use]
    pub fn view(&self) -> Option<&View> {
        self.arbiter.view()
    }

    /// Is this run a member of the newest view?
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.view().is_some_and(|v| v.has_run(self.config.me, self.run))
    }

    /// Does this node have the right to serve at `now`?
    #[must_use]
    pub fn has_lease(&self, now: Time) -> bool {
        self.is_member() && self.lease.valid(now)
    }

    /// The votes as they should be on disk.
    #[must_use]
    pub fn durable(&self) -> &Durable {
        &self.arbiter.durable
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn relapse_count(&self, pnn: Pnn) -> u32 {
        self.relapses.get(&pnn).map_or(0, |(n, _)| *n)
    }

    pub(crate) fn admin(&self) -> AdminState {
        self.arbiter.durable.admin
    }

    fn rank(&self) -> Option<(Incarnation, Epoch)> {
        self.view().map(View::rank)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.view().map_or(Epoch(0), |v| v.epoch)
    }

    pub(crate) fn name(&self, pnn: Pnn) -> String {
        self.config
            .nodes
            .get(&pnn)
            .map_or_else(|| format!("node {pnn}"), |n| n.name.clone())
    }

    pub(crate) fn event(
        &self,
        level: Level,
        kind: &str,
        node: Option<Pnn>,
        text: String,
        because: String,
        out: &mut Vec<Output>,
    ) {
        out.push(Output::Event(Event {
            at: self.now,
            level,
            kind: kind.into(),
            epoch: self.epoch(),
            node,
            text,
            because,
        }));
    }

    // ---- time -------------------------------------------------------------------------------------------

    fn expire(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.leased && !self.has_lease(now) {
            self.leased = false;
            self.dirty = true;
            out.push(Output::LeaseLost);
            let view = self.view();
            let (fresh, of) = view.map_or((0, 0), |v| {
                (self.lease.fresh(v, self.config.timing.lease, now), v.voters.len())
            });
            let because = if self.is_member() {
                format!(
                    "only {fresh} of {of} voters have answered within {} ms",
                    self.config.timing.lease.as_millis()
                )
            } else {
                "this node is not a member of the view".to_string()
            };
            self.event(
                Level::Error,
                "lease",
                Some(self.config.me),
                "lost the right to serve; all addresses dropped".into(),
                because,
                out,
            );
        }
    }

    // ---- inputs -----------------------------------------------------------------------------------------

    fn input(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::Heartbeat { from, net, heartbeat } => self.heartbeat(now, from, net, &heartbeat, out),
            Input::Grant { from, grant } => self.grant(now, from, &grant, out),
            Input::Message { from, message } => self.message(now, from, message, out),
            Input::Link { peer, up } => {
                self.reach.link(peer, up, now);
                self.dirty = true;
                if up {
                    self.greet(peer, out);
                }
            }
            Input::Persisted { ticket } => {
                self.arbiter.persisted(now, ticket, out);
                self.dirty = true;
            }
            Input::PersistFailed { ticket: _, error } => {
                if self.arbiter.disk_error.as_ref() != Some(&error) {
                    let text =
                        "cannot write its votes: it takes part in no decision until it can".to_string();
                    self.event(
                        Level::Error,
                        "storage",
                        Some(self.config.me),
                        text,
                        error.clone(),
                        out,
                    );
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
                    self.event(
                        Level::Info,
                        "take",
                        Some(self.config.me),
                        format!("{vip} is held here"),
                        because,
                        out,
                    );
                }
                self.dirty = true;
            }
            Input::TakeFailed { vip, because } => {
                let text = format!("{vip} could not be taken");
                self.event(
                    Level::Error,
                    "take",
                    Some(self.config.me),
                    text,
                    because.clone(),
                    out,
                );
                self.holder.take_failed(now, vip, because);
                self.dirty = true;
            }
            Input::Released { vip } => {
                let asked = self.holder.released(now, vip);
                let (level, because) = if asked {
                    (Level::Info, String::new())
                } else {
                    (
                        Level::Warning,
                        "nobody here asked for it: somebody else removed it, or its lifetime ended".into(),
                    )
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
                let text = format!("{mac} answers for {vip} too");
                let because =
                    "another machine uses this address; find it by its MAC and take the address off it"
                        .to_string();
                self.event(Level::Error, "take", Some(self.config.me), text, because, out);
            }
            Input::Evicted { epoch } => {
                self.evicted = self.evicted.max(Some(epoch));
                self.evict_error = None;
                self.dirty = true;
            }
            Input::EvictFailed { epoch: _, because } => {
                if self.evict_error.as_ref() != Some(&because) {
                    let text = "cannot shut lost nodes out of the storage; their addresses wait".to_string();
                    self.event(
                        Level::Error,
                        "storage",
                        Some(self.config.me),
                        text,
                        because.clone(),
                        out,
                    );
                }
                self.evict_error = Some(because);
                self.dirty = true;
            }
            Input::Service { name, health } => self.service(name, health, out),
            Input::Interface { name, up } => {
                let changed = if up {
                    self.links_down.remove(&name)
                } else {
                    self.links_down.insert(name.clone())
                };
                if changed {
                    let level = if up { Level::Info } else { Level::Error };
                    let text = format!("public interface {name} is {}", if up { "up" } else { "down" });
                    self.event(level, "service", Some(self.config.me), text, String::new(), out);
                }
                self.dirty = true;
            }
            Input::WholeSeconds(yes) => {
                self.whole_seconds = yes;
                self.dirty = true;
            }
            Input::Warning { key, text } => {
                if text.is_empty() {
                    self.warnings.remove(&key);
                } else if self.warnings.get(&key) != Some(&text) {
                    self.event(
                        Level::Warning,
                        "storage",
                        Some(self.config.me),
                        text.clone(),
                        String::new(),
                        out,
                    );
                    self.warnings.insert(key, text);
                }
                self.dirty = true;
            }
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

    fn heartbeat(&mut self, now: Time, from: Pnn, net: u8, hb: &Heartbeat, out: &mut Vec<Output>) {
        if !self.config.nodes.contains_key(&from) || from == self.config.me {
            return;
        }
        if self.reach.heartbeat(from, hb, now) {
            self.dirty = true;
        }
        let mine = self.rank();
        if hb.view < mine {
            self.tell_news(now, from, out);
        }
        let Some(view) = self.view() else { return };
        let link = self.reach.peers.get(&from).is_some_and(|p| p.link);
        if hb.view == mine && view.has_run(from, hb.run) && self.arbiter.grants() && link {
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

    fn grant(&mut self, now: Time, from: Pnn, grant: &Grant, out: &mut Vec<Output>) {
        let Some(view) = self.arbiter.view() else { return };
        if !view.has_run(self.config.me, self.run) {
            return;
        }
        self.lease.grant(from, grant, view, self.run, now);
        self.renew(now, out);
    }

    fn renew(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(view) = self.arbiter.view() else { return };
        if !view.has_run(self.config.me, self.run)
            || matches!(self.stopping, Stopping::Gone(_) | Stopping::Done)
        {
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
                self.event(
                    Level::Info,
                    "lease",
                    Some(self.config.me),
                    "has the right to serve".into(),
                    because,
                    out,
                );
            }
        }
    }

    fn message(&mut self, now: Time, from: Pnn, message: Message, out: &mut Vec<Output>) {
        match message {
            Message::Decided { view, fences } => {
                let fences = fences.into_iter().map(|(p, d)| (p, now + d)).collect();
                self.learn(now, view, fences, out);
            }
            Message::Report(report) => {
                self.reports.insert(from, report);
                self.dirty = true;
            }
            Message::Orders(orders) => self.orders(from, orders),
            Message::Admin { ticket, request } => {
                self.admin_request(now, Asker::Peer(from, ticket), ticket, request, out)
            }
            Message::AdminDone { ticket, reply } => {
                if let Some(i) = self
                    .asked
                    .iter()
                    .position(|a| a.ticket == ticket && a.disk.is_none())
                {
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

    fn orders(&mut self, from: Pnn, orders: Orders) {
        if !self.is_member()
            || self.view().and_then(View::leader) != Some(from)
            || orders.epoch != self.epoch()
        {
            return;
        }
        if self.holder.orders(&orders) {
            self.placement = orders.placement;
            self.because = orders.because;
            self.dirty = true;
        }
    }

    fn lock_input(&mut self, held: bool, because: String, out: &mut Vec<Output>) {
        if self.lock.held != held {
            let text = format!(
                "the cluster lock is {} here",
                if held { "held" } else { "no longer held" }
            );
            self.event(
                Level::Info,
                "lock",
                Some(self.config.me),
                text,
                because.clone(),
                out,
            );
        }
        self.lock.held = held;
        self.lock.epoch = self.epoch();
        if !because.is_empty() {
            self.lock.because = because;
        }
        self.arbiter.lock_held = held;
        self.dirty = true;
    }

    fn service(&mut self, name: String, health: ServiceHealth, out: &mut Vec<Output>) {
        let old = self.services.insert(name.clone(), health.clone());
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
            let text = format!("{name} is {}", crate::placing::word(health.state));
            self.event(level, "service", Some(self.config.me), text, health.because, out);
        }
    }

    fn reconfigure(&mut self, now: Time, config: Config, out: &mut Vec<Output>) {
        if config == self.config {
            return;
        }
        self.config = config;
        self.reach.configure(&self.config, now);
        self.arbiter.set_timing(self.config.timing.clone());
        self.reports.retain(|p, _| self.config.nodes.contains_key(p));
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

    // ---- administration ---------------------------------------------------------------------------------

    fn admin_request(
        &mut self,
        now: Time,
        by: Asker,
        ticket: u64,
        request: AdminRequest,
        out: &mut Vec<Output>,
    ) {
        let me = self.config.me;
        match request {
            AdminRequest::SetState { node, state } if node == me => {
                let text = format!("{} is {} from now on", self.name(me), admin_word(state));
                if self.admin() == state {
                    return Self::answer(
                        by,
                        ticket,
                        Ok(format!("{} is {} already", self.name(me), admin_word(state))),
                        out,
                    );
                }
                self.arbiter.durable.admin = state;
                let disk = self.arbiter.persist(Vec::new(), out);
                self.event(
                    Level::Info,
                    "admin",
                    Some(me),
                    text.clone(),
                    "an administrator said so".into(),
                    out,
                );
                let what = "writing the new state to disk".to_string();
                self.asked.push(Asked {
                    ticket,
                    by,
                    deadline: now + ADMIN_DEADLINE,
                    what,
                    disk: Some((disk, text)),
                });
                self.dirty = true;
            }
            AdminRequest::SetState { node, .. } => self.forward(now, by, ticket, node, request, out),
            AdminRequest::MoveIp { vip, to } => {
                let Some(leader) = self.view().and_then(View::leader).filter(|_| self.is_member()) else {
                    let why = format!(
                        "{} is not a member of a view with a leader; ask on another node",
                        self.name(me)
                    );
                    return Self::answer(by, ticket, Err(why), out);
                };
                if leader != me {
                    return self.forward(now, by, ticket, leader, request, out);
                }
                let reply = self.with_placing(|placing, scene| placing.pin(scene, vip, to));
                self.dirty = true;
                Self::answer(
                    by,
                    ticket,
                    reply.unwrap_or_else(|| Err("the leader has not begun its work yet; try again".into())),
                    out,
                );
            }
            AdminRequest::ForceView { because } => {
                let reply = self.force_view(now, by, because, out);
                Self::answer(by, ticket, reply, out);
            }
        }
    }

    fn forward(
        &mut self,
        now: Time,
        by: Asker,
        ticket: u64,
        to: Pnn,
        request: AdminRequest,
        out: &mut Vec<Output>,
    ) {
        if !self.config.nodes.contains_key(&to) {
            return Self::answer(
                by,
                ticket,
                Err(format!("there is no node {to}; `steadfast nodes` lists them")),
                out,
            );
        }
        if matches!(by, Asker::Peer(..)) {
            return Self::answer(
                by,
                ticket,
                Err("the request came to the wrong node; try again".into()),
                out,
            );
        }
        if !self.reach.peers.get(&to).is_some_and(|p| p.link) {
            return Self::answer(
                by,
                ticket,
                Err(format!("{} is not connected to this node", self.name(to))),
                out,
            );
        }
        out.push(Output::Send {
            to,
            message: Message::Admin { ticket, request },
        });
        let what = format!("waiting for {}", self.name(to));
        self.asked.push(Asked {
            ticket,
            by,
            deadline: now + ADMIN_DEADLINE,
            what,
            disk: None,
        });
    }

    fn answer(by: Asker, ticket: u64, reply: AdminReply, out: &mut Vec<Output>) {
        out.push(match by {
            Asker::Local => Output::AdminDone { ticket, reply },
            Asker::Peer(to, ticket) => Output::Send {
                to,
                message: Message::AdminDone { ticket, reply },
            },
        });
    }

    fn answer_asked(&mut self, now: Time, out: &mut Vec<Output>) {
        let mut rest = Vec::new();
        for asked in std::mem::take(&mut self.asked) {
            match &asked.disk {
                Some((disk, text)) if self.arbiter.ticket_done(*disk) => {
                    Self::answer(asked.by, asked.ticket, Ok(text.clone()), out);
                }
                _ if asked.deadline <= now => {
                    let why = format!("no answer within {} s: {}", ADMIN_DEADLINE.as_secs(), asked.what);
                    Self::answer(asked.by, asked.ticket, Err(why), out);
                }
                _ => rest.push(asked),
            }
        }
        self.asked = rest;
    }

    /// A new life of the cluster with this node alone, at an administrator's word.
    fn force_view(&mut self, now: Time, by: Asker, because: String, out: &mut Vec<Output>) -> AdminReply {
        if by != Asker::Local {
            return Err("force-view must be said at the node itself".into());
        }
        let Some(old) = self.view().cloned() else {
            return Err(
                "this node has never been part of a cluster; use `steadfast init` or `steadfast join`".into(),
            );
        };
        let heard = self.reach.heard();
        let reachable = old
            .voters
            .iter()
            .filter(|(p, _)| **p == self.config.me || heard.contains(p))
            .count();
        if old.is_majority(reachable) {
            return Err(format!(
                "{reachable} of {} voters are here: the cluster can decide by itself",
                old.voters.len()
            ));
        }
        self.next_ask += 1;
        let id = self.run.0 ^ self.next_ask;
        let incarnation = Incarnation {
            number: old.incarnation.number + 1,
            id,
        };
        let uid = self.arbiter.durable.uid;
        let mut view = View::founding(incarnation, old.epoch.next(), self.config.me, uid, because);
        view.evicted.clone_from(&old.evicted);
        for (pnn, conf) in old
            .members
            .keys()
            .filter_map(|p| Some((*p, self.config.nodes.get(p)?)))
        {
            if pnn != self.config.me {
                view.evicted.insert(pnn, conf.addresses.clone());
            }
        }
        self.learn(now, view, BTreeMap::new(), out);
        Ok("a new life of the cluster begins with this node; the others join it when they come back".into())
    }

    // ---- views ------------------------------------------------------------------------------------------

    fn learn(&mut self, now: Time, view: View, fences: BTreeMap<Pnn, Time>, out: &mut Vec<Output>) {
        let old = self.view().cloned();
        if !self.arbiter.learn(now, view.clone(), out) {
            return;
        }
        let me = self.config.me;
        self.set_fences(now, old.as_ref(), &view, &fences);
        let goes_on = old.as_ref().is_some_and(|o| {
            o.has_run(me, self.run)
                && view
                    .members
                    .get(&me)
                    .is_some_and(|m| m.run == self.run && m.since <= o.epoch)
        });
        self.lease.new_view(goes_on);
        if goes_on {
            self.holder.new_epoch(view.epoch);
        } else {
            self.holder.forget_orders(view.epoch);
            self.expire(now, out);
        }
        let nodes = view
            .evicted
            .iter()
            .filter(|(p, _)| **p != me)
            .map(|(p, a)| (*p, a.clone()))
            .collect();
        out.push(Output::Evict {
            epoch: view.epoch,
            nodes,
        });
        let leads = view.leader() == Some(me) && view.has_run(me, self.run);
        self.placing = leads.then(|| Placing::new(view.epoch));
        if let Some(old) = &old {
            for (pnn, member) in &old.members {
                let left = self
                    .reports
                    .get(pnn)
                    .is_some_and(|r| r.run == member.run && r.left);
                if !view.has_run(*pnn, member.run) && !left {
                    let (count, _) = self.relapses.get(pnn).copied().unwrap_or((0, now));
                    self.relapses.insert(*pnn, (count + 1, now));
                }
            }
        }
        self.need = None;
        self.kicked = None;
        self.half = false;
        self.dirty = true;
        self.next_heartbeat = now;
        let names: Vec<String> = view.members.keys().map(|p| self.name(*p)).collect();
        let leader = view.leader().map_or_else(|| "nobody".into(), |l| self.name(l));
        let text = format!("view {}: members {}; leader {leader}", view.epoch, list(&names));
        self.event(Level::Info, "view", None, text, view.because, out);
    }

    /// Until when nodes that the view does not have may still act under an older lease.
    fn set_fences(&mut self, now: Time, old: Option<&View>, view: &View, told: &BTreeMap<Pnn, Time>) {
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
                continue;
            }
            let was_member = old.is_some_and(|o| o.members.contains_key(&pnn));
            let mut until = match (next, was_member) {
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

    fn decided(&mut self, now: Time, decision: Decision, out: &mut Vec<Output>) {
        self.learn(now, decision.view, decision.fences, out);
        let peers: Vec<Pnn> = self.reach.peers.keys().copied().collect();
        for peer in peers {
            self.news.remove(&peer);
            self.tell_news(now, peer, out);
        }
    }

    /// Tells a peer that is behind what was decided.
    fn tell_news(&mut self, now: Time, to: Pnn, out: &mut Vec<Output>) {
        if self.news.get(&to).is_some_and(|t| now.since(*t) < NEWS_PAUSE) {
            return;
        }
        let Some(view) = self.view().cloned() else { return };
        self.news.insert(to, now);
        let fences = self.fences.iter().map(|(p, t)| (*p, t.since(now))).collect();
        out.push(Output::Send {
            to,
            message: Message::Decided { view, fences },
        });
    }

    // ---- consequences -----------------------------------------------------------------------------------

    fn consequences(&mut self, now: Time, out: &mut Vec<Output>) {
        self.arbiter.tick(now, out);
        self.settle_decisions(now, out);
        if self.reach.refresh(now) {
            self.note_reach(out);
            self.dirty = true;
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
        if !self.dirty && !refresh && !self.placing_due(now) {
            return;
        }
        self.dirty = false;
        self.consider_view(now, out);
        self.mind_lock(out);
        self.settle_decisions(now, out);
        self.reconcile(now, out);
        self.mind_services(out);
        self.mind_stop(now, out);
        self.report(refresh, out);
        self.place(refresh, now, out);
        self.reconcile(now, out);
        self.report(false, out);
        self.answer_asked(now, out);
        self.publish(now, out);
    }

    fn placing_due(&self, now: Time) -> bool {
        self.placing
            .as_ref()
            .and_then(|p| p.next_timeout(self.planned, &self.config, &self.fences))
            .is_some_and(|t| t <= now)
            || self.holder.next_timeout().is_some_and(|t| t <= now)
            || self.asked.iter().any(|a| a.deadline <= now)
            || matches!(self.stopping, Stopping::Moving(t) | Stopping::Gone(t) if t <= now)
    }

    fn settle_decisions(&mut self, now: Time, out: &mut Vec<Output>) {
        while let Some(decision) = self.arbiter.decisions.pop_front() {
            self.decided(now, decision, out);
        }
    }

    fn note_reach(&mut self, out: &mut Vec<Output>) {
        for (pnn, heard, because) in self.seen.heard_changes(&self.reach, self.now) {
            let (level, text) = if heard {
                (Level::Info, format!("{} is heard", self.name(pnn)))
            } else {
                (Level::Warning, format!("{} has gone silent", self.name(pnn)))
            };
            self.event(level, "suspect", Some(pnn), text, because, out);
        }
    }

    fn send_heartbeats(&mut self, now: Time, out: &mut Vec<Output>) {
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
            out.push(Output::SendHeartbeat {
                to: *to,
                heartbeat: heartbeat.clone(),
            });
        }
        if member && self.arbiter.grants() {
            self.arbiter.granted(me, now);
            self.lease.own_grant(me, now);
        } else {
            self.lease.no_own_grant(me);
        }
        self.renew(now, out);
    }

    fn present(&self, view: &View) -> BTreeMap<Pnn, Present> {
        let me = self.config.me;
        let relapses = |p: &Pnn| self.relapses.get(p).map_or(0, |(n, _)| *n);
        let mut present = BTreeMap::new();
        present.insert(
            me,
            Present {
                uid: self.arbiter.durable.uid,
                run: self.run,
                direct: true,
                clean: self.is_clean() && self.stopping == Stopping::No,
                left: matches!(self.stopping, Stopping::Gone(_) | Stopping::Done),
                recovered: true,
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
                        clean: current.is_some_and(|r| r.clean && !r.leaving && r.holding.is_empty()),
                        left: report.is_some_and(|r| r.left),
                        recovered: current.is_some(),
                        relapses: relapses(pnn),
                    },
                );
            } else if let Some(m) = member.filter(|_| self.reach.heard_by_others(*pnn)) {
                let left = self.reports.get(pnn).is_some_and(|r| r.run == m.run && r.left);
                present.insert(
                    *pnn,
                    Present {
                        uid: m.uid,
                        run: m.run,
                        direct: false,
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

    /// Wants the next view, and proposes it when it is this node's turn.
    fn consider_view(&mut self, now: Time, out: &mut Vec<Output>) {
        self.wake = None;
        let Some(view) = self.view().cloned() else {
            self.waits = "this node has not joined a cluster yet: `steadfast init` on the first node, `steadfast join TOKEN` on the others".into();
            return;
        };
        let present = self.present(&view);
        let reachable = view
            .voters
            .iter()
            .filter(|(p, u)| present.get(p).is_some_and(|n| n.direct && n.uid == **u))
            .count();
        self.half = view.is_half_with_lock(reachable);
        let silent = view
            .members
            .keys()
            .filter_map(|p| Some((*p, now.since(self.reach.peers.get(p)?.last?))))
            .collect();
        let edge = |a: Pnn, b: Pnn| self.reach.edge(a, b);
        let site = Site {
            now,
            config: &self.config,
            view: &view,
            present,
            edge: &edge,
            lock_usable: self.lock.usable,
            silent,
        };
        let (wish, recheck) = membership::wish(&site);
        let absent: BTreeSet<Pnn> = view
            .voters
            .keys()
            .chain(view.members.keys())
            .filter(|p| !site.present.contains_key(p))
            .copied()
            .collect();
        self.wake = recheck;
        let (wished, order) = match wish {
            Wish::Content => {
                self.need = None;
                self.waits.clear();
                (None, Vec::new())
            }
            Wish::Wait(why) => {
                self.need = None;
                self.waits = why;
                (None, Vec::new())
            }
            Wish::Change { view, order } => {
                self.waits = format!("view {} is being decided: {}", view.epoch, view.because);
                (Some(*view), order)
            }
        };
        let me = self.config.me;
        // Somebody's accepted but undecided view stops leases until it is decided: finish it if nobody else does.
        let undecided = self.arbiter.undecided_since();
        let turn = order
            .iter()
            .position(|p| *p == me)
            .unwrap_or(usize::from(me.0) % 16);
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
        if self.half && self.kicked.as_ref() != Some(&absent) {
            let nodes = absent
                .iter()
                .filter_map(|p| Some((*p, self.config.nodes.get(p)?.addresses.clone())))
                .collect();
            out.push(Output::Kick { nodes });
            self.kicked = Some(absent);
        }
        self.arbiter.propose(now, wished, out);
    }

    /// The leader keeps the lock in the background; a tie needs it.
    fn mind_lock(&mut self, out: &mut Vec<Output>) {
        let leads = self.placing.is_some() && self.stopping == Stopping::No;
        let wanted =
            self.lock.usable && (leads || (self.half && (self.arbiter.proposing() || self.need.is_some())));
        if wanted != self.lock_wanted {
            self.lock_wanted = wanted;
            out.push(Output::Lock { wanted });
        }
        if self.half {
            self.arbiter.ask_lock(out);
        }
    }

    fn may_serve(&self) -> Result<(), &'static str> {
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

    fn reconcile(&mut self, now: Time, out: &mut Vec<Output>) {
        let may = self.may_serve();
        self.holder.reconcile(now, &self.config, may, out);
    }

    fn is_clean(&self) -> bool {
        self.clean && self.serve == Some(false) && self.holder.is_empty()
    }

    fn mind_services(&mut self, out: &mut Vec<Output>) {
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

    fn mind_stop(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Stopping::Moving(until) = self.stopping {
            let others = self.view().is_some_and(|v| {
                v.members
                    .keys()
                    .any(|p| *p != self.config.me && self.reach.hears(*p))
            });
            if self.holder.is_empty() || !others || !self.is_member() || now >= until {
                self.stopping = Stopping::Closing;
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

    // ---- reports and orders -----------------------------------------------------------------------------

    fn own_report(&self) -> Report {
        let mut warnings: Vec<String> = self.warnings.values().cloned().collect();
        warnings.extend(
            self.arbiter
                .disk_error
                .iter()
                .map(|e| format!("votes cannot be written: {e}")),
        );
        warnings.extend(
            self.evict_error
                .iter()
                .map(|e| format!("lost nodes cannot be shut out of the storage: {e}")),
        );
        Report {
            run: self.run,
            uid: self.arbiter.durable.uid,
            epoch: self.epoch(),
            orders: self.holder.revision,
            holding: self.holder.holding(),
            serving: self.holder.serving(),
            failed: self
                .holder
                .failed
                .iter()
                .map(|(v, (_, why))| (*v, why.clone()))
                .collect(),
            evicted: self.evicted,
            admin: self.admin(),
            services: self.services.clone(),
            links_down: self.links_down.clone(),
            whole_seconds: self.whole_seconds,
            leased: self.leased,
            leaving: self.stopping != Stopping::No,
            left: matches!(self.stopping, Stopping::Gone(_) | Stopping::Done),
            clean: self.is_clean(),
            fingerprint: self.config.fingerprint,
            version: self.version.clone(),
            warnings,
        }
    }

    fn report(&mut self, anyway: bool, out: &mut Vec<Output>) {
        let report = self.own_report();
        if !anyway && self.reports.get(&self.config.me) == Some(&report) {
            return;
        }
        self.reports.insert(self.config.me, report.clone());
        for (to, _) in self.reach.peers.iter().filter(|(_, p)| p.link) {
            out.push(Output::Send {
                to: *to,
                message: Message::Report(report.clone()),
            });
        }
    }

    /// A link has come up: the peer knows nothing of us.
    fn greet(&mut self, peer: Pnn, out: &mut Vec<Output>) {
        self.news.remove(&peer);
        out.push(Output::Send {
            to: peer,
            message: Message::Report(self.own_report()),
        });
    }

    fn with_placing<T>(&mut self, f: impl FnOnce(&mut Placing, &Scene<'_>) -> T) -> Option<T> {
        let mut placing = self.placing.take()?;
        let result = self.arbiter.view().map(|view| {
            let suspected = view
                .members
                .keys()
                .filter(|p| **p != self.config.me && !self.reach.hears(**p))
                .copied()
                .collect();
            let scene = Scene {
                now: self.now,
                config: &self.config,
                view,
                reports: &self.reports,
                fences: &self.fences,
                suspected: &suspected,
            };
            f(&mut placing, &scene)
        });
        self.placing = Some(placing);
        result
    }

    /// The leader's decisions about addresses.
    fn place(&mut self, refresh: bool, _now: Time, out: &mut Vec<Output>) {
        // Without a lease of its own a leader may be an old one: it says nothing.
        if !self.leased {
            return;
        }
        let before = self
            .placing
            .as_ref()
            .map(|p| p.target.clone())
            .unwrap_or_default();
        let decided = self.with_placing(|placing, scene| {
            let changed = placing.step(scene);
            match changed {
                Some(orders) => (orders, true),
                None if refresh => {
                    let behind = |p: &Pnn| scene.reports.get(p).is_none_or(|r| r.orders < placing.revision());
                    (
                        placing
                            .current(scene)
                            .into_iter()
                            .filter(|(p, _)| behind(p))
                            .collect(),
                        false,
                    )
                }
                None => (Vec::new(), false),
            }
        });
        let Some((orders, changed)) = decided else { return };
        if changed {
            self.note_placement(&before, out);
        }
        let me = self.config.me;
        for (to, orders) in orders {
            if to == me {
                self.orders(me, orders);
            } else {
                out.push(Output::Send {
                    to,
                    message: Message::Orders(orders),
                });
            }
        }
        if let Some(p) = &self.placing {
            self.placement.clone_from(&p.target);
            self.because = p.reasons();
        }
    }

    fn note_placement(&self, before: &BTreeMap<IpAddr, Pnn>, out: &mut Vec<Output>) {
        let Some(placing) = &self.placing else { return };
        let reasons = placing.reasons();
        for (vip, to) in placing.target.iter().filter(|(v, p)| before.get(v) != Some(p)) {
            let text = match before.get(vip) {
                Some(from) => format!("{vip} goes from {} to {}", self.name(*from), self.name(*to)),
                None => format!("{vip} goes to {}", self.name(*to)),
            };
            let because = reasons.get(vip).cloned().unwrap_or_default();
            self.event(Level::Info, "placement", Some(*to), text, because, out);
        }
    }

    fn publish(&mut self, now: Time, out: &mut Vec<Output>) {
        let snapshot = self.snapshot(now);
        if let Some(snapshot) = self.seen.changed(snapshot) {
            out.push(Output::Publish(snapshot));
        }
    }
}

fn admin_word(state: AdminState) -> &'static str {
    match state {
        AdminState::Active => "active",
        AdminState::Drained => "drained",
        AdminState::Stopped => "stopped",
        AdminState::Banned => "banned",
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}
