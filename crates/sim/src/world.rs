//! The scheduler: virtual time, one queue, one thread. Same seed, same story.

use crate::checks::{Checks, PULSE, Violation};
use crate::clock::{Clock, MS, Micros};
use crate::databases::Databases;
use crate::driver::service;
use crate::drops::Drops;
use crate::event::{Agenda, What, input_name, mark, output_name};
use crate::faults::Plan;
use crate::host::{Disk, Host, Kernel};
use crate::lock::Lock;
use crate::network::Network;
use crate::pins::Pins;
use crate::reload::TakenOut;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::story::Story;
use crate::versions::Versions;
use cluster::{
    AdminReply, Config, Durable, Epoch, Health, Incarnation, Input, Member, NodeUid, Output, Pnn, Restraint, Rules,
    RunId, Time, View,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Datagrams and inputs that a stopped daemon's sockets keep; more are lost.
const SOCKET_BUFFER: usize = 400;

/// What was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Events of the scheduler.
    pub events: u64,
    /// Datagrams sent.
    pub datagrams: u64,
    /// Messages sent over links.
    pub messages: u64,
    /// Outputs of all cores.
    pub outputs: u64,
    /// Faults that began.
    pub faults: u64,
}

/// A simulated cluster.
#[derive(Debug)]
pub struct World {
    /// World time.
    pub now: Micros,
    /// The site.
    pub setup: Setup,
    /// The machines.
    pub hosts: Vec<Host>,
    /// What is between them.
    pub net: Network,
    /// The cluster lock and its records.
    pub lock: Lock,
    /// What happened, for people.
    pub story: Story,
    /// First violation; the simulation stops there.
    pub violation: Option<Violation>,
    /// Counters.
    pub totals: Totals,
    /// What will be done to it.
    pub plan: Plan,
    /// Until when a node may rightly be taken for sick.
    pub node_trouble: Vec<Micros>,
    /// Until when two nodes may rightly miss each other.
    pub edge_trouble: BTreeMap<(usize, usize), Micros>,
    /// Since when nothing gets through between two nodes, in one direction at least; of faults that overlap, the first.
    pub edge_cut: BTreeMap<(usize, usize), Micros>,
    /// How often views have dropped each node.
    pub(crate) drops: Drops,
    pub(crate) pins: Pins,
    /// Nodes of a version that nobody understands: no link to them comes up.
    pub strangers: BTreeSet<usize>,
    pub(crate) taken_out: TakenOut,
    /// Addresses that machines outside of the cluster use, and how many each.
    pub(crate) strange_vips: BTreeMap<IpAddr, u32>,
    /// Which node runs which of two versions, where there are two.
    pub(crate) versions: Option<Versions>,
    /// Replies to requests of administrators, by ticket.
    pub replies: BTreeMap<u64, AdminReply>,
    /// Requests made so far.
    pub tickets: u64,
    /// When the last one was made, and for which address.
    pub asked: Option<(Micros, Option<IpAddr>)>,
    /// Of every event and output; equal for equal runs.
    pub fingerprint: u64,
    /// The databases, if the site has them.
    pub(crate) databases: Option<Box<Databases>>,
    pub(crate) rng: Rng,
    pub(crate) checks: Option<Checks>,
    agenda: Agenda,
    scratch: Vec<Output>,
}

impl World {
    /// A world at time 0: all machines off, disks prepared.
    #[must_use]
    pub fn new(seed: u64, setup: Setup, keep_story: bool) -> Self {
        let mut rng = Rng::new(seed);
        let uids: Vec<NodeUid> = (0..setup.nodes).map(|_| NodeUid(rng.wide())).collect();
        let incarnation = Incarnation { number: 0, id: rng.next() };
        let disks = first_disks(&setup, &uids, incarnation, &mut rng);
        let hosts = disks
            .into_iter()
            .enumerate()
            .map(|(index, durable)| Host {
                index,
                power: false,
                power_serial: 0,
                lock_doubted: false,
                restraint: Restraint::default(),
                dark_since: 0,
                clock: Clock::new(
                    rng.range(1_000..=1_000_000_000_000),
                    rng.range(0..=2 * setup.drift as u64) as i64 - setup.drift,
                ),
                disk: Disk { durable, writing: None, queued: None, full: false, slow: 0 },
                kernel: Kernel::default(),
                core_lease: Time(0),
                daemon: None,
                generation: 0,
                guard: None,
                kept_down: 0,
                config: setup.config(index),
                interfaces_down: BTreeMap::new(),
                broken: BTreeMap::new(),
                minute: (seed % 1440) as u16,
                thawed_at: None,
                nfs_settled: BTreeMap::new(),
                nfs_moves: BTreeSet::new(),
                proved: None,
                letting_go: BTreeMap::new(),
                rng: rng.fork(index as u64),
            })
            .collect();
        let mut world = Self {
            now: 0,
            net: Network::new(setup.nodes, setup.nets, setup.noise),
            lock: Lock::default(),
            story: Story::new(keep_story),
            violation: None,
            totals: Totals::default(),
            plan: Plan::default(),
            node_trouble: vec![0; setup.nodes],
            edge_trouble: BTreeMap::new(),
            edge_cut: BTreeMap::new(),
            drops: Drops::new(setup.nodes),
            pins: Pins::default(),
            strangers: BTreeSet::new(),
            taken_out: TakenOut::default(),
            strange_vips: BTreeMap::new(),
            versions: None,
            replies: BTreeMap::new(),
            tickets: 0,
            asked: None,
            fingerprint: 0xcbf2_9ce4_8422_2325,
            checks: Some(Checks::new(&setup)),
            databases: None,
            agenda: Agenda::new(setup.nodes),
            scratch: Vec::new(),
            hosts,
            setup,
            rng,
        };
        let about = world.setup.describe();
        world.story.world(0, || about);
        world.after(0, What::Pulse);
        world
    }

    /// Switches every machine on, within two seconds.
    pub fn power_on_all(&mut self) {
        for host in 0..self.hosts.len() {
            let delay = self.rng.below(2_000) * MS;
            let power = self.hosts[host].power_serial;
            self.after(delay, What::PowerOn { host, power });
        }
    }

    /// Schedules `what` for `delay` from now.
    pub(crate) fn after(&mut self, delay: Micros, what: What) {
        self.agenda.plan(self.now + delay, what);
    }

    /// A random delay, microseconds.
    pub fn some(&mut self, range: std::ops::RangeInclusive<u64>) -> Micros {
        self.rng.range(range)
    }

    /// Runs until world time `end` or the first violation.
    pub fn run_to(&mut self, end: Micros) {
        while self.violation.is_none() && self.agenda.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        if self.violation.is_none() {
            self.now = self.now.max(end);
        }
    }

    /// Runs for a while.
    pub fn run_for(&mut self, time: Micros) {
        self.run_to(self.now + time);
    }

    /// Runs until `done`, at most for `limit`. How long it took, or `None`.
    pub fn run_until(&mut self, limit: Micros, mut done: impl FnMut(&Self) -> bool) -> Option<Micros> {
        let begin = self.now;
        loop {
            if done(self) {
                return Some(self.now - begin);
            }
            if self.violation.is_some() || self.agenda.next_at().is_none_or(|at| at > begin + limit) {
                return None;
            }
            self.step();
        }
    }

    /// The next event.
    fn step(&mut self) {
        let Some((at, what)) = self.agenda.next() else { return };
        self.now = at;
        self.totals.events += 1;
        self.hash(at);
        self.hash(mark(&what));
        self.happen(what);
    }

    pub(crate) fn hash(&mut self, value: u64) {
        self.fingerprint = (self.fingerprint ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Wake { host, generation } => self.wake(host, generation),
            What::Process { host, generation } => self.process_next(host, generation),
            What::Datagram { to, datagram } => {
                if self.has_keys_for(to, datagram.from()) {
                    self.arrive(to, datagram.into(), true);
                }
            }
            What::Local { host, generation, input } => self.local(host, generation, *input),
            What::LinkUp { a, b, change } => self.link_up(a, b, change),
            What::LinkDown { me, other, change } => self.link_down(me, other, change),
            What::LinkDeliver { from, to, session } => self.link_deliver(from, to, session),
            What::DiskDone { host, power } => self.disk_done(host, power),
            What::Vip { host, generation, vip, step } => self.vip_step(host, generation, vip, step),
            What::LockTry { host, generation } => self.lock_try(host, generation),
            What::LockFree { host, generation } => self.lock_free(host, generation),
            What::Exchange { host, generation, ticket, record, deadline } => {
                self.exchange_step(host, generation, ticket, record, deadline)
            }
            What::Evicted { host, generation, serial, epoch, nodes } => {
                self.evict_done(host, generation, serial, epoch, nodes);
            }
            What::Graced { host, generation, number, nodes, refused } => {
                self.grace_entered((host, generation), number, nodes, refused);
            }
            What::GracedForMove { host, generation, node, request, refused } => {
                self.grace_for_move_entered((host, generation), node, request, refused);
            }
            What::Proved { host, generation, number } => self.proved(host, generation, number),
            What::LetGo { host, generation, vip, end, refused } => {
                self.let_go_done((host, generation), vip, end, refused);
            }
            What::Services { host, generation, serial, up } => self.services_step(host, generation, serial, up),
            What::Guard { host, power } => self.guard_cleans(host, power),
            What::Start { host } => self.start_daemon(host),
            What::PowerOn { host, power } => self.power_on(host, power),
            What::Reap { host, generation } => self.reap(host, generation),
            What::Databases { host, generation, event } => self.databases_event(host, generation, *event),
            What::Recheck { host } => self.answers_changed(host),
            What::Fault(i) => self.begin_fault(i),
            What::Undo(i) => self.end_fault(i),
            What::Reload { host } => self.reload(host),
            What::Pulse => {
                self.after(PULSE, What::Pulse);
                self.check(|checks, world| checks.pulse(world));
                self.look_at_talk();
            }
        }
    }

    /// The running daemon of that start, if it is still the one.
    pub(crate) fn is_current(&self, host: usize, generation: u64) -> bool {
        self.hosts[host].daemon.is_some() && self.hosts[host].generation == generation
    }

    /// Something that a daemon began has an answer.
    pub(crate) fn local(&mut self, host: usize, generation: u64, input: Input) {
        if !self.is_current(host, generation) {
            return;
        }
        if !self.hosts[host].runs() {
            // A paused machine: its kernel answers when it goes on.
            self.after(10 * MS, What::Local { host, generation, input: Box::new(input) });
            return;
        }
        // News of an interface is only a hint to look at it: news that waited say what is, not what was.
        let input = match input {
            Input::Interface { name, .. } => {
                let up = !self.hosts[host].interface_down(&name);
                Input::Interface { name, up }
            }
            // So do news of services that run.
            Input::Service { name, health }
                if matches!(health.state, Health::Ok | Health::Failed)
                    && self.hosts[host].daemon.as_ref().is_some_and(|d| d.services_up) =>
            {
                let works = !self.hosts[host].is_broken(&name);
                if works == (health.state == Health::Ok) {
                    Input::Service { name, health }
                } else if works {
                    service(&name, Health::Ok, "")
                } else {
                    service(&name, Health::Failed, "does not answer")
                }
            }
            input => input,
        };
        self.arrive(host, input, false);
    }

    /// Schedules an input for the daemon that runs now.
    pub(crate) fn answer_after(&mut self, delay: Micros, host: usize, input: Input) {
        let generation = self.hosts[host].generation;
        self.after(delay, What::Local { host, generation, input: Box::new(input) });
    }

    /// An input reaches a daemon: handled at once, or put in line.
    pub(crate) fn arrive(&mut self, host: usize, input: Input, droppable: bool) {
        if !self.hosts[host].runs() {
            return;
        }
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        if !daemon.paused && daemon.slow == 0 && daemon.inbox.is_empty() {
            self.process(host, [input]);
            return;
        }
        if droppable && daemon.inbox.len() >= SOCKET_BUFFER {
            return;
        }
        daemon.inbox.push_back(input);
        self.schedule_process(host);
    }

    /// Sees to it that a daemon with a filled inbox goes on.
    pub(crate) fn schedule_process(&mut self, host: usize) {
        let generation = self.hosts[host].generation;
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        if daemon.paused || daemon.processing || daemon.inbox.is_empty() {
            return;
        }
        daemon.processing = true;
        let slow = daemon.slow;
        let delay = self.some(0..=slow);
        self.after(delay, What::Process { host, generation });
    }

    fn process_next(&mut self, host: usize, generation: u64) {
        if !self.is_current(host, generation) {
            return;
        }
        let runs = self.hosts[host].runs();
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        daemon.processing = false;
        if daemon.paused || !runs {
            return;
        }
        // As many together as have come, or fewer.
        let waiting = daemon.inbox.len();
        let count = self.some(0..=waiting as u64) as usize;
        if let Some(daemon) = self.hosts[host].daemon.as_mut() {
            let inputs: Vec<Input> = daemon.inbox.drain(..count.max(1).min(waiting)).collect();
            if !inputs.is_empty() {
                self.process(host, inputs);
            }
        }
        self.schedule_process(host);
    }

    fn wake(&mut self, host: usize, generation: u64) {
        if !self.is_current(host, generation) {
            return;
        }
        let now = self.now;
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        if daemon.wake_at != Some(now) {
            return;
        }
        daemon.wake_at = None;
        self.arrive(host, Input::Tick, true);
    }

    /// Feeds inputs to a core, all at the same time, and carries out what comes out.
    fn process(&mut self, host: usize, inputs: impl AsRef<[Input]> + IntoIterator<Item = Input>) {
        let now = self.now;
        let local = self.hosts[host].clock.local(now);
        if self.hosts[host].daemon.is_none() {
            return;
        }
        for input in inputs.as_ref() {
            if let Input::Interface { name, up } = input {
                self.check(|checks, world| checks.interface(world, host, name, *up));
            }
            if let Input::Service { name, health } = input {
                self.check(|checks, world| checks.service(world, host, name, health.state));
            }
            if let Input::TakeFailed { vip, .. } = input {
                self.check(|checks, world| checks.take_failed(world, host, *vip));
            }
        }
        let mut out = std::mem::take(&mut self.scratch);
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        let second = now / crate::clock::S;
        if daemon.busy.second != second {
            daemon.busy.second = second;
            daemon.busy.count = 0;
            daemon.busy.kinds.clear();
        }
        if self.story.keep {
            for input in inputs.as_ref() {
                *daemon.busy.kinds.entry(input_name(input)).or_default() += 1;
            }
        }
        let count = inputs.as_ref().len() as u64;
        daemon.core.handle_all(local, inputs, &mut out);
        daemon.busy.count += count + out.len() as u64;
        if self.story.keep {
            for output in &out {
                *daemon.busy.kinds.entry(output_name(output)).or_default() += 1;
            }
        }
        self.totals.outputs += out.len() as u64;
        self.hash(out.len() as u64);
        self.check(|checks, world| checks.outputs(world, host, &out));
        if let Some(daemon) = self.hosts[host].daemon.as_mut().filter(|d| d.stall_next && !out.is_empty()) {
            daemon.stall_next = false;
            daemon.stalled = std::mem::take(&mut out);
            daemon.paused = true;
            self.story.node(now, host, || "daemon stopped between decision and action".to_owned());
            self.recheck_links(host);
        } else {
            self.carry_out(host, &mut out);
        }
        out.clear();
        self.scratch = out;
        self.set_alarm(host);
    }

    /// Schedules the wake-up that the core asks for.
    pub(crate) fn set_alarm(&mut self, host: usize) {
        let now = self.now;
        let late = self.some(0..=400);
        let generation = self.hosts[host].generation;
        let machine = &mut self.hosts[host];
        let Some(daemon) = machine.daemon.as_mut() else {
            return;
        };
        if daemon.paused {
            return;
        }
        let at = machine.clock.world(daemon.core.next_timeout()).max(now) + 1 + late;
        if daemon.wake_at.is_none_or(|planned| planned < now || at < planned) {
            daemon.wake_at = Some(at);
            self.agenda.wake(host, at, generation);
        }
    }

    /// Lets the checkers look; the first objection stops the run.
    pub(crate) fn check(&mut self, look: impl FnOnce(&mut Checks, &Self) -> Result<(), Violation>) {
        if self.violation.is_some() {
            return;
        }
        let Some(mut checks) = self.checks.take() else {
            return;
        };
        if let Err(violation) = look(&mut checks, self) {
            self.violated(violation);
        }
        self.checks = Some(checks);
    }

    /// Something is not as it must be: the run ends here.
    pub(crate) fn violated(&mut self, violation: Violation) {
        let text = format!("VIOLATION ({}): {}", violation.check, violation.text);
        self.story.world(self.now, || text);
        self.violation = Some(violation);
    }

    /// From now on daemons start in either of two versions of the program.
    pub fn with_two_versions(&mut self) {
        self.versions = Some(Versions::new(self.rng.fork(9)));
    }

    /// An administrator at a node asks for something.
    pub fn admin(&mut self, host: usize, request: cluster::AdminRequest) -> u64 {
        self.tickets += 1;
        let vip = if let cluster::AdminRequest::MoveIp { vip, .. } = &request { Some(*vip) } else { None };
        self.asked = Some((self.now, vip));
        if let cluster::AdminRequest::MoveIp { vip, to } = &request {
            let to = usize::from(to.0);
            if self.answering(*vip) != [to] {
                self.pins.asked(*vip, to);
            }
        }
        let ticket = self.tickets;
        let text = format!("administrator: {request:?}");
        self.story.node(self.now, host, || text);
        self.arrive(host, Input::Admin { ticket, request }, false);
        ticket
    }

    /// Gives a node another configuration, as after an edit and a reload.
    pub fn reconfigure(&mut self, host: usize, config: Config) {
        self.hosts[host].config = config.clone();
        self.story.node(self.now, host, || "configuration reloaded".to_owned());
        self.arrive(host, Input::Config(Box::new(config)), false);
    }

    /// Nodes that answer for an address now.
    #[must_use]
    pub fn answering(&self, vip: IpAddr) -> Vec<usize> {
        self.hosts.iter().filter(|h| h.answers(vip, self.now)).map(|h| h.index).collect()
    }

    /// View that a node's daemon published last.
    #[must_use]
    pub fn view(&self, host: usize) -> Option<&View> {
        self.hosts[host].snapshot().and_then(|s| s.view.as_deref())
    }

    /// Newest view that any running daemon has published.
    #[must_use]
    pub fn newest_view(&self) -> Option<&View> {
        (0..self.hosts.len()).filter_map(|h| self.view(h)).max_by_key(|v| v.rank())
    }

    /// Epoch of the newest view.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.newest_view().map(|v| v.epoch)
    }

    /// Members of the newest view.
    #[must_use]
    pub fn members(&self) -> BTreeSet<usize> {
        self.newest_view().map(|v| v.members.keys().map(|p| usize::from(p.0)).collect()).unwrap_or_default()
    }
}

/// Disks as `init` (node 0 alone) or a long life (everybody in one view) left them.
fn first_disks(setup: &Setup, uids: &[NodeUid], incarnation: Incarnation, rng: &mut Rng) -> Vec<Durable> {
    let servers = || (0..setup.nodes).filter(|i| !setup.is_witness(*i));
    let view = if setup.mature {
        let epoch = Epoch(rng.range(1..=40));
        let voters: Vec<usize> = (0..setup.nodes).collect();
        View {
            incarnation,
            epoch,
            members: servers()
                .map(|i| {
                    let member = Member { uid: uids[i], run: RunId(rng.next()), since: epoch };
                    (Pnn(i as u16), member)
                })
                .collect(),
            voters: voters.iter().map(|i| (Pnn(*i as u16), uids[*i])).collect(),
            rules: Rules { lock: setup.lock },
            keepers: servers().map(|i| uids[i]).collect(),
            evicted: BTreeMap::new(),
            because: "the view before the power cut".to_owned(),
        }
    } else {
        View::founding(incarnation, Epoch(0), Pnn(0), uids[0], "init".to_owned())
    };
    (0..setup.nodes)
        .map(|i| {
            let mut disk = Durable::blank(Pnn(i as u16), uids[i]);
            if setup.mature || i == 0 {
                disk.view = Some(view.clone());
            }
            disk
        })
        .collect()
}
