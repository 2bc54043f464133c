//! The state machine: routes inputs to its parts and draws the consequences.

mod admin;
mod duties;
mod input;
mod learn;
mod step;
mod tell;

use crate::added::Added;
use crate::arbiter::{Arbiter, Decision};
use crate::deserted::Deserted;
use crate::grace::Grace;
use crate::guard::Guards;
use crate::holder::{Holder, Leave};
use crate::lease::Lease;
use crate::membership::{Present, Site, Wish, Wished};
use crate::news::Seen;
use crate::pace::Pace;
use crate::parting::Parting;
use crate::placing::{Placing, Scene};
use crate::planted::{Planted, planted};
use crate::reach::Reach;
use crate::status::LACKS;
use crate::unfinished::{self, Unfinished};
use crate::{
    AdminReply, AdminRequest, AdminState, Config, Durable, END_WAIT, Epoch, Event, Eviction, Grant, GuardWord,
    Heartbeat, Incarnation, Input, LET_GO_WAIT, Level, LockStatus, Message, NodeUid, Orders, Output, PROOF_WAIT, Pnn,
    PnnSet, Report, Restraint, Role, RunId, ServiceHealth, Time, View,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Between two tellings of the newest view to one peer that is behind.
const NEWS_PAUSE: Duration = Duration::from_millis(100);
/// Head start of each possible proposer before the next one.
const PROPOSER_STEP: Duration = Duration::from_millis(100);
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

/// Later than any time that a core lives to see.
const NEVER: Time = Time(u64::MAX);

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
    pub(crate) config: Arc<Config>,
    pub(crate) run: RunId,
    pub(crate) version: String,
    pub(crate) reach: Reach,
    pub(crate) arbiter: Arbiter,
    pub(crate) lease: Lease,
    pub(crate) leased: bool,
    pub(crate) holder: Holder,
    pub(crate) placing: Option<Placing>,
    pub(crate) reports: BTreeMap<Pnn, Arc<Report>>,
    /// Peers that have not reported since the link to them came up: what they said before may be long past.
    awaited: BTreeSet<Pnn>,
    pub(crate) fences: BTreeMap<Pnn, Time>,
    pub(crate) guards: Guards,
    pub(crate) evicted: Option<Epoch>,
    pub(crate) evict_error: Option<String>,
    pub(crate) grace: Grace,
    parting: Parting,
    unfinished: Unfinished,
    /// The view under which the databases here were recovered last.
    recovered: Option<u64>,
    /// Whom the view shuts out of the storage.
    pub(crate) shut_out: BTreeMap<Pnn, Eviction>,
    pub(crate) services: Arc<BTreeMap<String, ServiceHealth>>,
    pub(crate) links_down: BTreeSet<String>,
    deserted: Deserted,
    pub(crate) whole_seconds: bool,
    /// The time of the day, in minutes after midnight.
    pub(crate) minute: Option<u16>,
    /// The storage is not prepared for planned moves, and may be soon.
    pub(crate) moves_wait: bool,
    /// What addresses shall not do while this node leads.
    restraint: Restraint,
    pub(crate) added: Added,
    /// Until when a drain waits for clients to forget what DNS has told them.
    pub(crate) lingers: Option<Time>,
    pub(crate) warnings: BTreeMap<String, String>,
    pub(crate) lock: LockStatus,
    /// What keeps this node from serving, or what it waits for.
    pub(crate) waits: Option<String>,
    /// This member waits because none that would go on has everything that was committed.
    lacks: bool,
    /// What the leader last said of the placement.
    pub(crate) placement: Arc<BTreeMap<IpAddr, Pnn>>,
    /// Addresses of it that this node cannot have: the leader has read a newer configuration.
    strange: BTreeSet<IpAddr>,
    pub(crate) because: Arc<BTreeMap<IpAddr, String>>,
    pub(crate) seen: Seen,
    pub(crate) pace: Pace,
    pub(crate) started: Time,
    lock_wanted: bool,
    kicked: Option<PnnSet>,
    /// For which view without this node its storage was freed, and which members had evicted it by then.
    freed: Option<((Incarnation, Epoch), BTreeSet<Pnn>)>,
    half: bool,
    serve: Option<bool>,
    clean: bool,
    stopping: Stopping,
    relapses: BTreeMap<Pnn, (u32, Time)>,
    news: BTreeMap<Pnn, Time>,
    asked: Vec<Asked>,
    next_ask: u64,
    wished: Option<Wished>,
    need: Option<Time>,
    wake: Option<Time>,
    place_at: Option<Time>,
    /// The first of all times that only consequences change.
    waits_until: Time,
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
        let Start { config, durable, run, seed, version } = start;
        let me = config.me;
        let timing = config.timing.clone();
        let epoch = durable.view.as_ref().map_or(Epoch(0), |v| v.epoch);
        // What others were granted before this start is forgotten: they may act for one more lease.
        let wait = timing.lease + timing.margin + timing.whole_seconds;
        let fences = config.nodes.keys().filter(|p| **p != me).map(|p| (*p, now + wait)).collect();
        let shut_out = durable.view.iter().flat_map(|v| v.evicted.keys().map(|p| (*p, Eviction::by(v, now)))).collect();
        let mut holder = Holder::default();
        holder.forget_orders(epoch);
        Self {
            reach: Reach::new(&config, now),
            arbiter: Arbiter::new(me, timing, durable, seed, now),
            config: Arc::new(config),
            run,
            version,
            lease: Lease::default(),
            leased: false,
            holder,
            placing: None,
            reports: BTreeMap::new(),
            awaited: BTreeSet::new(),
            fences,
            guards: Guards::default(),
            evicted: None,
            evict_error: None,
            grace: Grace::default(),
            parting: Parting::default(),
            unfinished: Unfinished::default(),
            recovered: None,
            shut_out,
            services: Arc::default(),
            links_down: BTreeSet::new(),
            deserted: Deserted::default(),
            whole_seconds: false,
            minute: None,
            moves_wait: false,
            restraint: Restraint::default(),
            added: Added::default(),
            lingers: None,
            warnings: BTreeMap::new(),
            lock: LockStatus::default(),
            waits: None,
            lacks: false,
            placement: Arc::default(),
            strange: BTreeSet::new(),
            because: Arc::default(),
            seen: Seen::default(),
            pace: Pace::default(),
            started: now,
            lock_wanted: false,
            kicked: None,
            freed: None,
            half: false,
            serve: None,
            clean: false,
            stopping: Stopping::No,
            relapses: BTreeMap::new(),
            news: BTreeMap::new(),
            asked: Vec::new(),
            next_ask: 1,
            wished: None,
            need: None,
            wake: None,
            place_at: None,
            waits_until: NEVER,
            dirty: true,
            next_heartbeat: now,
            next_refresh: now,
            // Nothing was planned yet that could be late.
            planned: NEVER,
            now,
        }
    }

    /// Takes one input; appends the effects.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        self.handle_all(now, [input], out);
    }

    /// Takes inputs that have come together, in order, and draws their consequences once: hundreds of addresses that
    /// are taken or reported at the same time cost no more than one.
    pub fn handle_all(&mut self, now: Time, inputs: impl IntoIterator<Item = Input>, out: &mut Vec<Output>) {
        // Time never goes back here, whatever the driver's clock does.
        let now = self.now.max(now);
        self.now = now;
        let late = now.since(self.planned);
        if late > self.config.timing.heartbeat {
            self.stalled(now, late, out);
        }
        let mut routine = !self.holder.carried_out(now);
        self.expire(now, out);
        for input in inputs {
            routine &= input.is_routine();
            self.input(now, input, out);
            self.settle_decisions(now, out);
        }
        if self.consequences(now, out) || !routine {
            self.place_at = self.next_placing();
            self.waits_until = self.next_wait();
        }
        debug_assert_eq!((self.place_at, self.waits_until), (self.next_placing(), self.next_wait()));
        self.planned = self.plan();
    }

    /// When to feed [`Input::Tick`] at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Time {
        // Nothing has changed since the last input.
        if self.planned == NEVER { self.plan() } else { self.planned }
    }

    fn plan(&self) -> Time {
        let others = [
            self.reach.next_timeout(self.now),
            self.arbiter.next_timeout(),
            self.lease.until().filter(|_| self.leased),
            Some(self.next_refresh),
            Some(self.waits_until),
        ];
        others.into_iter().flatten().fold(self.next_heartbeat, Time::min)
    }

    fn next_placing(&self) -> Option<Time> {
        self.placing.as_ref().and_then(|p| p.next_timeout(self.now, &self.config, &self.fences))
    }

    fn next_wait(&self) -> Time {
        let stopping = match self.stopping {
            Stopping::Moving(t) | Stopping::Gone(t) => Some(t),
            Stopping::No | Stopping::Closing | Stopping::Done => None,
        };
        let all = [
            self.wake,
            self.holder.next_timeout(),
            self.grace.next_timeout(),
            self.parting.next_timeout(),
            self.unfinished.next_timeout(),
            self.added.next_timeout(),
            self.asked.iter().map(|a| a.deadline).min(),
            self.place_at,
            self.lingers,
            stopping,
        ];
        all.into_iter().flatten().fold(NEVER, Time::min)
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

    pub(crate) fn rank(&self) -> Option<(Incarnation, Epoch)> {
        self.view().map(View::rank)
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.view().map_or(Epoch(0), |v| v.epoch)
    }

    pub(crate) fn name(&self, pnn: Pnn) -> String {
        self.config.nodes.get(&pnn).map_or_else(|| format!("node {pnn}"), |n| n.name.clone())
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

    /// This node did nothing for a while: its own lease may be over, and what others said waits in its queues.
    fn stalled(&mut self, now: Time, late: Duration, out: &mut Vec<Output>) {
        self.reach.stalled(now);
        let cost = self.leased && !self.has_lease(now);
        if !self.pace.stalled(now, late, cost) {
            return;
        }
        let text = format!("this node stalled for {} ms", late.as_millis());
        let lease = self.config.timing.lease.as_millis();
        let (level, because) = if cost {
            (
                Level::Error,
                format!(
                    "its lease of {lease} ms ran out meanwhile; docs/configuration.md, \"Keeping time\", says what helps"
                ),
            )
        } else {
            (
                Level::Warning,
                format!(
                    "no lease was lost by it (they last {lease} ms); the machine is short of processors or memory, or was paused"
                ),
            )
        };
        self.event(level, "stall", Some(self.config.me), text, because, out);
        self.dirty = true;
    }

    fn expire(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.leased && !self.has_lease(now) {
            self.leased = false;
            self.dirty = true;
            out.push(Output::LeaseLost);
            self.unfinished.lease_lost();
            if !planted(Planted::LostCountsAsReleased) {
                self.holder.lose_all(now);
            }
            let view = self.view();
            let (fresh, of) =
                view.map_or((0, 0), |v| (self.lease.fresh(v, self.config.timing.lease, now), v.voters.len()));
            let because = if self.is_member() {
                format!("only {fresh} of {of} voters have answered within {} ms", self.config.timing.lease.as_millis())
            } else {
                "this node is not a member of the view".to_string()
            };
            let (level, text) = if self.stopping == Stopping::No {
                (Level::Error, "lost the right to serve; all addresses dropped")
            } else {
                (Level::Info, "gives up the right to serve, for the daemon is being stopped")
            };
            self.event(level, "lease", Some(self.config.me), text.into(), because, out);
        }
    }
}
