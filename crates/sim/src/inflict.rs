//! How each fault begins and ends.

use crate::clock::{MS, Micros, S};
use crate::event::What;
use crate::faults::{Fault, Kind, Plan};
use crate::reload::ONE_AFTER_ANOTHER;
use crate::world::World;
use cluster::{AdminRequest, AdminState, Epoch, Input, Pnn, Restraint, public_interfaces};
use std::collections::BTreeSet;

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
            Kind::LockDoubted { node } => self.doubt_lock(node, true),
            Kind::Restrain { node, takeover, failback } => {
                self.restrain(node, Restraint { no_takeover: takeover, no_failback: failback });
            }
            Kind::Stranger { vip } => *self.strange_vips.entry(vip).or_default() += 1,
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
            Kind::LockDoubted { node } => self.doubt_lock(node, false),
            Kind::Restrain { node, .. } => self.restrain(node, Restraint::default()),
            Kind::Stranger { vip } => {
                self.strange_vips.entry(vip).and_modify(|times| *times = times.saturating_sub(1));
            }
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

    /// The test of the storage has another result at these nodes.
    fn doubt_lock(&mut self, node: Option<usize>, doubted: bool) {
        for host in (0..self.hosts.len()).filter(|host| node.is_none_or(|node| node == *host)) {
            self.hosts[host].lock_doubted = doubted;
            let input = self.lock_usable(host);
            self.arrive(host, input, false);
        }
    }

    /// What a node knows of whether the lock may break ties.
    pub(crate) fn lock_usable(&self, host: usize) -> Input {
        let doubted = self.hosts[host].lock_doubted;
        let because = match (self.setup.lock, doubted) {
            (false, _) => "no lock is configured",
            (true, true) => "the test failed",
            (true, false) => "tested",
        };
        Input::LockUsable { usable: self.setup.lock && !doubted, because: because.to_owned() }
    }

    fn restrain(&mut self, node: Option<usize>, restraint: Restraint) {
        for host in (0..self.hosts.len()).filter(|host| node.is_none_or(|node| node == *host)) {
            self.hosts[host].restraint = restraint;
            self.arrive(host, Input::Restraint(restraint), false);
        }
    }
}
