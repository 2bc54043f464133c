//! What goes wrong: the kinds of faults, the plan that a seed makes of them, and how each begins and ends.

use crate::clock::{MS, Micros, S};
use crate::event::What;
use crate::reload::ONE_AFTER_ANOTHER;
use crate::rng::Rng;
use crate::setup::{Setup, interface_of};
use crate::world::World;
use cluster::{AdminRequest, AdminState, Epoch, Pnn, public_interfaces};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Faults of a calm seed fall within this.
const HOUR: Micros = 3_600 * S;

/// One kind of fault, with whom it hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A machine loses power and gets it back at the end.
    PowerOff { node: usize },
    /// A machine loses power for good.
    PowerOffForGood { node: usize },
    /// All machines lose power at once.
    PowerCut,
    /// As `PowerOff`, and the disk comes back empty. Only when the cluster can stand that.
    Wipe { node: usize },
    /// The daemon is killed, with or without its guard, and started again at the end.
    Kill { node: usize, guard: bool },
    /// The daemon is told to end and started again at the end.
    Stop { node: usize },
    /// The daemon stands still; `between` = between a decision and its effects.
    Pause { node: usize, between: bool },
    /// The machine stands still.
    Freeze { node: usize },
    /// Every input waits up to so many microseconds.
    Slow { node: usize, by: Micros },
    /// Writes take so much longer.
    SlowDisk { node: usize, by: Micros },
    /// Writes fail.
    FullDisk { node: usize },
    /// Only nodes of the same side reach each other; on network 0 alone or on all.
    Split { side: Vec<usize>, all: bool },
    /// Two nodes do not reach each other, or only one way.
    Cut { a: usize, b: usize, one_way: bool, all: bool },
    /// One node hears and reaches nobody; `deaf` = it hears nobody, but is heard.
    Isolate { node: usize, deaf: bool },
    /// Datagrams get lost and late everywhere.
    Storm { loss: u32, jitter: Micros, twice: u32 },
    /// A connection is reset.
    Reset { a: usize, b: usize },
    /// Lock and records hang for everybody, or for one node.
    StorageHangs { node: Option<usize> },
    /// Nobody can read a node's record.
    RecordUnreadable { node: usize },
    /// The lock's holder loses it and is not told.
    LockLost,
    /// Evictions fail at a node.
    EvictFails { node: usize },
    /// A service fails.
    Service { node: usize, name: String },
    /// A public interface is down.
    Interface { node: usize, name: String },
    /// All public interfaces of a node are down: they share a cable.
    Cable { node: usize },
    /// Somebody removes an address by hand.
    RemoveAddress { vip: IpAddr },
    /// An administrator sets a state, and takes it back at the end.
    Admin { node: usize, state: AdminState },
    /// An administrator moves an address.
    MoveIp { vip: IpAddr, to: usize },
    /// It is another time of the day at a node: it passes, or somebody sets the clock.
    TimeOfDay { node: usize, minute: u16 },
    /// An address disappears from the configuration, and comes back at the end.
    Config { vip: IpAddr },
    /// A node is taken off the others' list of nodes, on one after another, and put back at the end.
    Unlist { node: usize },
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// World time of its beginning.
    pub at: Micros,
    /// How long it lasts.
    pub lasts: Micros,
    /// What.
    pub kind: Kind,
}

/// All faults of a run, in no particular order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The faults.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// When the last one is over.
    #[must_use]
    pub fn end(&self) -> Micros {
        self.faults.iter().map(|f| f.at + f.lasts).max().unwrap_or(0)
    }

    /// A plan drawn from a seed; faults begin after `quiet`. Dense: one every second or two. Calm: as many within an hour.
    #[must_use]
    pub fn random(rng: &mut Rng, setup: &Setup, quiet: Micros, calm: bool) -> Self {
        let count = rng.range(1..=10);
        let dense = rng.range(2..=5) * count * S / 2;
        let span = if calm { HOUR } else { dense };
        // From a stream of its own: the other faults stay as they are.
        let mut cables = rng.fork(33);
        let mut faults: Vec<Fault> = (0..count)
            .map(|_| Fault {
                at: quiet + rng.below(span),
                lasts: match rng.index(4) {
                    0 => rng.range(20..=900) * MS,
                    1 => rng.range(500..=3_000) * MS,
                    2 => rng.range(1_000..=8_000) * MS,
                    _ => rng.range(3_000..=20_000) * MS,
                },
                kind: Kind::random(rng, setup),
            })
            .collect();
        for fault in &mut faults {
            if let Kind::Interface { node, .. } = fault.kind
                && cables.chance(500_000)
            {
                fault.kind = Kind::Cable { node };
            }
        }
        let mut lists = rng.fork(34);
        if lists.chance(60_000) {
            faults.push(Fault {
                at: quiet + lists.below(span),
                lasts: lists.range(4_000..=20_000) * MS,
                kind: Kind::Unlist { node: lists.index(setup.nodes) },
            });
        }
        Self { faults }
    }
}

impl Kind {
    fn random(rng: &mut Rng, setup: &Setup) -> Self {
        let node = rng.index(setup.nodes);
        let other = (node + 1 + rng.index(setup.nodes - 1)) % setup.nodes;
        let vip = setup.vips[rng.index(setup.vips.len())].0;
        let name = |rng: &mut Rng| {
            let names: Vec<&String> = setup.services.iter().collect();
            names[rng.index(names.len())].clone()
        };
        match rng.index(36) {
            0..=4 => Self::PowerOff { node },
            5 => Self::PowerOffForGood { node },
            6 => Self::PowerCut,
            7 => Self::Wipe { node },
            8..=10 => Self::Kill { node, guard: rng.chance(500_000) },
            11 => Self::Stop { node },
            12..=14 => Self::Pause { node, between: rng.chance(500_000) },
            15 => Self::Freeze { node },
            16 => Self::Slow { node, by: rng.range(1..=200) * MS },
            17 => Self::SlowDisk { node, by: rng.range(5..=600) * MS },
            18 => Self::FullDisk { node },
            19..=21 => {
                let mut side: Vec<usize> = (0..setup.nodes).filter(|_| rng.chance(500_000)).collect();
                if side.is_empty() || side.len() == setup.nodes {
                    side = vec![node];
                }
                Self::Split { side, all: rng.chance(700_000) }
            }
            22..=23 => Self::Cut { a: node, b: other, one_way: rng.chance(400_000), all: rng.chance(700_000) },
            24..=25 => Self::Isolate { node, deaf: rng.chance(300_000) },
            26 => Self::Storm {
                loss: rng.range(20_000..=500_000) as u32,
                jitter: rng.range(1..=300) * MS,
                twice: rng.range(0..=200_000) as u32,
            },
            27 => Self::Reset { a: node, b: other },
            28 => Self::StorageHangs { node: rng.chance(500_000).then_some(node) },
            29 => Self::RecordUnreadable { node },
            30 => Self::LockLost,
            31 => Self::EvictFails { node },
            32 => Self::Service { node, name: name(rng) },
            33 => match rng.index(2) {
                0 => Self::Interface { node, name: interface_of(vip).to_owned() },
                _ => Self::RemoveAddress { vip },
            },
            34 => match rng.index(3) {
                0 => Self::MoveIp { vip, to: node },
                1 => Self::TimeOfDay { node, minute: rng.index(1440) as u16 },
                _ => Self::Config { vip },
            },
            _ => Self::Admin {
                node,
                state: [AdminState::Drained, AdminState::Stopped, AdminState::Banned][rng.index(3)],
            },
        }
    }
}

impl World {
    /// Schedules the faults of a plan; `only` keeps some of them, by number.
    pub fn adopt(&mut self, plan: Plan, only: Option<&BTreeSet<usize>>) {
        for (i, fault) in plan.faults.iter().enumerate() {
            if only.is_none_or(|only| only.contains(&i)) {
                self.after(fault.at.saturating_sub(self.now), What::Fault(i));
            }
        }
        self.plan = plan;
    }

    /// A fault that begins now.
    pub fn inflict(&mut self, kind: Kind, lasts: Micros) {
        self.plan.faults.push(Fault { at: self.now, lasts, kind });
        self.begin_fault(self.plan.faults.len() - 1);
    }

    pub(crate) fn begin_fault(&mut self, i: usize) {
        let Some(fault) = self.plan.faults.get(i).cloned() else {
            return;
        };
        let lasts = fault.lasts;
        self.totals.faults += 1;
        self.story.world(self.now, || format!("fault {i}: {:?} for {} ms", fault.kind, lasts / MS));
        self.excuse(&fault.kind, lasts);
        match fault.kind {
            Kind::PowerOff { node } | Kind::PowerOffForGood { node } => self.power_off(node),
            Kind::PowerCut => {
                for node in 0..self.hosts.len() {
                    self.power_off(node);
                }
            }
            Kind::Wipe { node } => {
                if !self.may_wipe(node) {
                    self.story.world(self.now, || "not now: a quorum must stay".to_owned());
                    return;
                }
                self.power_off(node);
                self.wipe(node);
            }
            Kind::Kill { node, guard } => {
                self.hosts[node].kept_down += 1;
                self.kill_daemon(node, guard);
            }
            Kind::Stop { node } => {
                self.hosts[node].kept_down += 1;
                self.stop_daemon(node);
            }
            Kind::Pause { node, between } => self.pause_daemon(node, between),
            Kind::Freeze { node } => self.freeze(node),
            Kind::Slow { node, by } => {
                if let Some(daemon) = self.hosts[node].daemon.as_mut() {
                    daemon.slow = by;
                }
            }
            Kind::SlowDisk { node, by } => self.hosts[node].disk.slow = by,
            Kind::FullDisk { node } => self.hosts[node].disk.full = true,
            Kind::Split { .. } | Kind::Cut { .. } | Kind::Isolate { .. } => self.cut(&fault.kind, true),
            Kind::Storm { loss, jitter, twice } => {
                let noise = &mut self.net.noise;
                noise.loss = noise.loss.max(loss);
                noise.jitter = noise.jitter.max(jitter);
                noise.twice = noise.twice.max(twice);
            }
            Kind::Reset { a, b } => self.reset_link(a, b),
            Kind::StorageHangs { node } => {
                let until = self.now + lasts;
                match node {
                    Some(node) => {
                        self.lock.hangs_for.insert(node, until);
                    }
                    None => self.lock.hangs_until = self.lock.hangs_until.max(until),
                }
            }
            Kind::RecordUnreadable { node } => {
                self.lock.unreadable.insert(node, self.now + lasts);
            }
            Kind::LockLost => self.lock.holder = None,
            Kind::EvictFails { node } => {
                let until = self.now + lasts;
                if let Some(daemon) = self.hosts[node].daemon.as_mut() {
                    daemon.evict_fails_until = until;
                }
            }
            Kind::Service { node, ref name } => self.service(node, name, false),
            Kind::Interface { node, ref name } => self.interface(node, name, false),
            Kind::Cable { node } => self.cable(node, false),
            Kind::RemoveAddress { vip } => {
                for host in self.answering(vip) {
                    self.remove_address(host, vip);
                }
            }
            Kind::Admin { node, state } => self.set_state(node, state),
            Kind::MoveIp { vip, to } => {
                let to = Pnn(to as u16);
                let from = self.rng.index(self.hosts.len());
                self.admin(from, AdminRequest::MoveIp { vip, to });
            }
            Kind::TimeOfDay { node, minute } => self.time_of_day(node, minute),
            Kind::Config { vip } => self.change_vip(vip, false),
            Kind::Unlist { node } => self.change_node(node, false),
        }
        self.after(lasts, What::Undo(i));
    }

    pub(crate) fn end_fault(&mut self, i: usize) {
        let Some(fault) = self.plan.faults.get(i).cloned() else {
            return;
        };
        self.story.world(self.now, || format!("fault {i} is over"));
        match fault.kind {
            Kind::PowerOff { node } | Kind::Wipe { node } => {
                let power = self.hosts[node].power_serial;
                self.after(0, What::PowerOn { host: node, power });
            }
            Kind::PowerCut => self.power_on_all(),
            Kind::Kill { node, .. } | Kind::Stop { node } => {
                self.hosts[node].kept_down = self.hosts[node].kept_down.saturating_sub(1);
                // A daemon that is still ending is ended for good first.
                let generation = self.hosts[node].generation;
                self.reap(node, generation);
                self.after(10 * MS, What::Start { host: node });
            }
            Kind::Pause { node, .. } => self.resume_daemon(node),
            Kind::Freeze { node } => self.thaw(node),
            Kind::Slow { node, .. } => {
                if let Some(daemon) = self.hosts[node].daemon.as_mut() {
                    daemon.slow = 0;
                }
                self.schedule_process(node);
            }
            Kind::SlowDisk { node, .. } => self.hosts[node].disk.slow = 0,
            Kind::FullDisk { node } => self.hosts[node].disk.full = false,
            Kind::Split { .. } | Kind::Cut { .. } | Kind::Isolate { .. } => self.cut(&fault.kind, false),
            Kind::Storm { .. } => self.net.noise = self.setup.noise,
            Kind::Service { node, ref name } => self.service(node, name, true),
            Kind::Interface { node, ref name } => self.interface(node, name, true),
            Kind::Cable { node } => self.cable(node, true),
            Kind::Admin { node, .. } => self.set_state(node, AdminState::Active),
            Kind::Config { vip } => self.change_vip(vip, true),
            Kind::Unlist { node } => self.change_node(node, true),
            _ => {}
        }
    }

    /// All public interfaces of a node go down or come up.
    fn cable(&mut self, node: usize, up: bool) {
        for name in public_interfaces(&self.setup.config(node)) {
            self.interface(node, &name, up);
        }
    }

    /// Blocks or unblocks what a fault of the networks names.
    fn cut(&mut self, kind: &Kind, block: bool) {
        let nodes = self.hosts.len();
        let mut ways: Vec<(usize, usize, usize)> = Vec::new();
        let mut add = |from: usize, to: usize, all: bool| {
            for net in 0..if all { self.setup.nets } else { 1 } {
                ways.push((net, from, to));
            }
        };
        match kind {
            Kind::Split { side, all } => {
                for a in 0..nodes {
                    for b in 0..nodes {
                        if side.contains(&a) != side.contains(&b) {
                            add(a, b, *all);
                        }
                    }
                }
            }
            Kind::Cut { a, b, one_way, all } => {
                add(*a, *b, *all);
                if !one_way {
                    add(*b, *a, *all);
                }
            }
            Kind::Isolate { node, deaf } => {
                for other in (0..nodes).filter(|o| o != node) {
                    add(other, *node, true);
                    if !deaf {
                        add(*node, other, true);
                    }
                }
            }
            _ => {}
        }
        for (net, from, to) in ways {
            if block {
                self.net.block(net, from, to);
            } else {
                self.net.unblock(net, from, to);
            }
            self.recheck_link(from, to);
        }
    }

    /// Notes whom a fault excuses for being taken for sick, and until when.
    fn excuse(&mut self, kind: &Kind, lasts: Micros) {
        let over = if matches!(kind, Kind::Unlist { .. }) { ONE_AFTER_ANOTHER } else { 0 };
        let until = self.now + lasts + over + 2 * S;
        let nodes = self.hosts.len();
        let all_edges = || (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
        let (sick, edges): (Vec<usize>, Vec<(usize, usize)>) = match kind {
            Kind::PowerOff { node }
            | Kind::Wipe { node }
            | Kind::Kill { node, .. }
            | Kind::Stop { node }
            | Kind::Pause { node, .. }
            | Kind::Freeze { node }
            | Kind::Slow { node, .. }
            | Kind::SlowDisk { node, .. }
            | Kind::FullDisk { node } => (vec![*node], vec![]),
            Kind::PowerOffForGood { node } => {
                self.node_trouble[*node] = Micros::MAX / 2;
                (vec![], vec![])
            }
            Kind::PowerCut => ((0..nodes).collect(), vec![]),
            Kind::Split { side, .. } => {
                let crossing = |(a, b): &(usize, usize)| side.contains(a) != side.contains(b);
                (vec![], all_edges().filter(crossing).collect())
            }
            Kind::Cut { a, b, .. } | Kind::Reset { a, b } => (vec![], vec![(*a.min(b), *a.max(b))]),
            Kind::Isolate { node, .. } | Kind::Unlist { node } => {
                let touching = |(a, b): &(usize, usize)| a == node || b == node;
                (vec![*node], all_edges().filter(touching).collect())
            }
            Kind::Storm { .. } => (vec![], all_edges().collect()),
            _ => (vec![], vec![]),
        };
        for node in sick {
            self.node_trouble[node] = self.node_trouble[node].max(until);
        }
        let cuts = matches!(kind, Kind::Split { .. } | Kind::Cut { .. } | Kind::Isolate { .. });
        for edge in edges {
            let over = self.edge_trouble.get(&edge).is_none_or(|until| *until < self.now);
            if cuts && (over || !self.edge_cut.contains_key(&edge)) {
                self.edge_cut.insert(edge, self.now);
            }
            let known = self.edge_trouble.entry(edge).or_default();
            *known = (*known).max(until);
        }
    }

    /// Would the other identities still be a quorum that has all commits?
    fn may_wipe(&self, node: usize) -> bool {
        let Some(view) = self.newest_view() else {
            return false;
        };
        let uid = self.hosts[node].uid();
        let there = |id| id != uid && self.hosts.iter().any(|h| h.is_live() && h.uid() == id);
        let voters = view.voters.values().filter(|id| there(**id)).count();
        view.epoch > Epoch(0)
            && view.is_majority(voters)
            && view.keepers.iter().any(|id| there(*id))
            && self.hosts.iter().all(|h| h.is_live() || h.index == node)
    }

    /// An administrator sets a node's state, from a node that runs.
    pub fn set_state(&mut self, node: usize, state: AdminState) {
        let at = if self.hosts[node].is_live() {
            Some(node)
        } else {
            self.hosts.iter().find(|h| h.is_live()).map(|h| h.index)
        };
        if let Some(at) = at {
            let node = Pnn(node as u16);
            self.admin(at, AdminRequest::SetState { node, state, now: false });
        }
    }
}
