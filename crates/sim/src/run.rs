//! One seed from beginning to end: a site, faults, and what must be true afterwards.

use crate::checks::Violation;
use crate::checks::rest::{can_decide, has_all, is_fit, unrest};
use crate::clock::{MS, Micros, S};
use crate::databases::{Done, has_databases};
use crate::faults::{Fault, Kind, Plan};
use crate::host::Host;
use crate::rng::Rng;
use crate::setup::{Setup, interface_of};
use crate::versions::are_mixed;
use crate::world::{Totals, World};
use cluster::{AdminRequest, AdminState, Pnn};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Within this after the last fault everything must be at rest. Join delays double at each relapse, and addresses
/// come back one a second, so it is far longer than any outage. Longer where a node was dropped so often that its delay is.
pub const BOUND: Micros = 90 * S;
/// From the time at which the last node is let in: its services start, and addresses come back one by one.
const REST: Micros = 40 * S;
/// Before the first fault: members have found each other.
const QUIET: Micros = 9 * S;
/// At rest a process of Samba gets what it wants within this: a control that was lost is given up after a minute.
const PATIENCE: Micros = 70 * S;
/// At rest is what stays so for this long.
const STEADY: Micros = 1_500 * MS;
/// In so many of a million seeds without databases an administrator moves an address at rest.
const MOVES: u32 = 125_000;
/// Nothing has been wrong for so long before: what happens then excuses nothing any more.
const UNTROUBLED: Micros = 5 * S;
/// An address that is moved by hand is there within this. It may wait 5 s for the storage, and for NFS servers.
const ARRIVES: Micros = 10 * S;
/// A node from which an address has disappeared is no host for it for so long.
const FORGOTTEN: Micros = 11 * S;
/// It is looked at for so long after: for two pauses between moves for an even spread.
const STAYS: Micros = 6 * S;

/// What to run.
#[derive(Clone, Debug)]
pub struct Task {
    /// The seed.
    pub seed: u64,
    /// Fixes the number of nodes.
    pub nodes: Option<usize>,
    /// Keep only these faults of the plan.
    pub only: Option<BTreeSet<usize>>,
    /// Keep the story.
    pub story: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The first thing that must not be, if any.
    pub violation: Option<Violation>,
    /// A quorum's disks were lost, so that only `force-view` could help; where a node had all that was committed it did.
    pub stuck: bool,
    /// From the last fault to rest.
    pub settled: Option<Micros>,
    /// Nodes of the list.
    pub nodes: usize,
    /// World time that passed.
    pub simulated: Micros,
    /// Was it a calm one, with an hour of world time for its faults?
    pub calm: bool,
    /// Faults of the plan.
    pub faults: usize,
    /// What Samba's processes got done, if there were any.
    pub databases: Option<Done>,
    /// Counters.
    pub totals: Totals,
    /// Of every event.
    pub fingerprint: u64,
    /// The story, if kept.
    pub story: Vec<String>,
}

/// One seed of 64 is calm: as many faults as the others have within seconds fall within an hour. Long rest between
/// faults finds what grows, drifts and runs out.
#[must_use]
pub fn is_calm(seed: u64) -> bool {
    seed % 64 == 9
}

/// Runs one seed.
#[must_use]
pub fn run(task: &Task) -> Outcome {
    let rng = Rng::new(task.seed);
    let setup = Setup::random(&mut rng.fork(1), task.nodes);
    let plan = Plan::random(&mut rng.fork(2), &setup, QUIET, is_calm(task.seed));
    let faults = plan.faults.len();
    let end = plan.end().max(QUIET);
    let mut world = World::new(task.seed, setup, task.story);
    if has_databases(task.seed) {
        world.with_databases();
    }
    if are_mixed(task.seed) {
        world.with_two_versions();
    }
    world.power_on_all();
    world.adopt(plan, task.only.as_ref());
    world.run_to(end);
    // Who was dropped five times within minutes is let in later than that.
    let bound = BOUND.max(world.drops.longest_wait(&world.setup.timing, world.now) + REST);
    let settled = settle(&mut world, bound);
    let stuck = settled.is_none() && world.violation.is_none() && !can_decide(&world);
    if settled.is_none() && !stuck {
        never_rests(&mut world, bound);
    }
    if settled.is_some() || (stuck && begin_anew(&mut world, bound)) {
        wind_down(&mut world);
        // From a stream of its own, and after all else: what came before stays as it is.
        let mut moves = rng.fork(3);
        if world.databases.is_none() && world.violation.is_none() && moves.chance(MOVES) {
            move_one(&mut world, &mut moves);
        }
    }
    Outcome {
        seed: task.seed,
        violation: world.violation.clone(),
        stuck,
        settled,
        nodes: world.setup.nodes,
        simulated: world.now,
        calm: is_calm(task.seed),
        faults,
        databases: world.databases_done(),
        totals: world.totals,
        fingerprint: world.fingerprint,
        story: std::mem::take(&mut world.story.lines),
    }
}

fn never_rests(world: &mut World, bound: Micros) {
    if world.violation.is_none() {
        let text = unrest(world).unwrap_or_else(|| "never at rest for long".to_owned());
        let text = format!("{} s after the last fault: {text}", bound / S);
        world.violated(Violation { check: "rest", at: world.now, text });
    }
}

/// More than half are gone for good: an administrator goes on (`force-view`) on one of those that know most and have all that
/// was committed. Does all come to rest after that? False also where there is no such node.
fn begin_anew(world: &mut World, bound: Micros) -> bool {
    let view = |host: &Host| host.disk.durable.view.clone();
    // What only those knew that are gone for good was committed all the same.
    let known = world.hosts.iter().filter(|h| h.power || world.databases.is_some());
    let newest = known.filter_map(view).max_by_key(|view| view.rank());
    let Some(newest) = newest else { return false };
    let knows_all =
        |host: &&Host| view(host).is_some_and(|v| v.rank() == newest.rank()) && has_all(world, &newest, host);
    let servers = world.hosts.iter().filter(|h| h.is_live() && !world.setup.is_witness(h.index));
    let Some(node) = servers.filter(knows_all).map(|h| h.index).next() else { return false };
    world.admin(node, AdminRequest::ForceView { because: "the others are gone for good".to_owned() });
    let rests = settle(world, bound).is_some();
    if !rests {
        never_rests(world, bound);
    }
    rests
}

/// With everything at rest Samba's processes end what they do; then the databases are looked at.
pub fn wind_down(world: &mut World) {
    if world.databases.is_none() {
        return;
    }
    world.run_for(2 * S);
    world.databases_wind_down();
    let begin = world.now;
    while world.violation.is_none() && world.databases_stuck(0).or_else(|| world.databases_recovered()).is_some() {
        world.run_for(100 * MS);
        if world.now < begin + PATIENCE {
            continue;
        }
        if let Some(text) = world.databases_stuck(PATIENCE).or_else(|| world.databases_recovered()) {
            world.story.world(world.now, || format!("VIOLATION (rest): {text}"));
            world.violation = Some(Violation { check: "rest", at: world.now, text });
        }
    }
    if world.violation.is_none() {
        world.databases_at_rest();
    }
    if world.violation.is_none() {
        stop_one(world);
    }
}

/// A member is stopped: its records are with the others afterwards, and none is lost.
fn stop_one(world: &mut World) {
    let members = world.members();
    let Some(node) = members.iter().copied().nth(world.now as usize % members.len().max(1)) else { return };
    // Where all are stopped, somebody holds the records all the same.
    let active = |node: &usize| world.hosts[*node].disk.durable.admin == AdminState::Active;
    if !members.iter().any(|other| *other != node && active(other)) {
        return;
    }
    world.set_state(node, AdminState::Stopped);
    let begin = world.now;
    // Asked again: who was asked may not have been able to.
    while world.violation.is_none() && world.hosts[node].disk.durable.admin != AdminState::Stopped {
        world.run_for(2 * S);
        world.set_state(node, AdminState::Stopped);
        if world.now > begin + PATIENCE {
            return;
        }
    }
    world.run_for(S);
    while world.violation.is_none()
        && let Some(text) = world.databases_left_on(node)
    {
        world.run_for(100 * MS);
        if world.now > begin + PATIENCE {
            world.story.world(world.now, || format!("VIOLATION (databases): {text}"));
            world.violation = Some(Violation { check: "databases", at: world.now, text });
        }
    }
    if world.violation.is_none() {
        world.databases_at_rest();
    }
}

/// While nothing is wrong an administrator moves an address to a node that has at least as many as any other: it goes there.
/// That it stays there, and others go for an even spread, is looked at by the checker of addresses that go to and fro.
fn move_one(world: &mut World, moves: &mut Rng) {
    world.run_for(UNTROUBLED);
    let vip = world.setup.vips[moves.index(world.setup.vips.len())].0;
    // Where somebody has taken it off a node, that node is no host for it until it is forgotten, and says so.
    let removed =
        |f: &Fault| matches!(f.kind, Kind::RemoveAddress { vip: v } if v == vip) && f.at + FORGOTTEN > world.now;
    if world.plan.faults.iter().any(removed) {
        return;
    }
    let Some(view) = world.newest_view() else { return };
    let beside = |v: &&(IpAddr, u8)| interface_of(v.0) == interface_of(vip);
    let has = |node: usize| {
        let vips = world.setup.vips.iter().filter(beside);
        vips.filter(|v| world.hosts[node].answers(v.0, world.now)).count()
    };
    let held = world.answering(vip);
    let free = (0..world.setup.nodes).filter(|node| !held.contains(node) && is_fit(world, view, *node, vip));
    let Some(to) = free.max_by_key(|node| has(*node)).filter(|_| !held.is_empty()) else { return };
    world.admin(to, AdminRequest::MoveIp { vip, to: Pnn(to as u16) });
    if world.run_until(ARRIVES, |world| world.answering(vip) == [to]).is_none() && world.violation.is_none() {
        let text = format!("{vip} does not go to n{to}, where an administrator wants it");
        world.violated(Violation { check: "rest", at: world.now, text });
    }
    world.run_for(STAYS);
}

/// A time of the day at which every simulated site lets addresses go back to nodes that returned.
pub const NIGHT: u16 = 23 * 60;

/// Waits until the cluster has been at rest for a while. How long it took to come to rest, or `None` if it did not
/// within `bound`. Administrators lift what they forgot, and it becomes night, when addresses may go back.
pub fn settle(world: &mut World, bound: Micros) -> Option<Micros> {
    let begin = world.now;
    let mut since = None;
    let mut asked = begin;
    for node in 0..world.hosts.len() {
        world.time_of_day(node, NIGHT);
    }
    while world.violation.is_none() && world.now < begin + bound {
        world.run_for(100 * MS);
        if world.now >= asked + 2 * S {
            asked = world.now;
            for node in 0..world.hosts.len() {
                if world.hosts[node].is_live() && world.hosts[node].disk.durable.admin != AdminState::Active {
                    world.set_state(node, AdminState::Active);
                }
            }
        }
        if unrest(world).is_some() {
            since = None;
            continue;
        }
        let since = *since.get_or_insert(world.now);
        if world.now >= since + STEADY {
            return Some(since - begin);
        }
    }
    None
}

/// The smallest number of nodes with which the seed still makes the same checker object, and what comes of it.
#[must_use]
pub fn shrink_nodes(task: &Task, found: &Outcome) -> Option<Outcome> {
    if task.only.is_some() {
        return None;
    }
    let check = found.violation.as_ref().map(|v| v.check);
    (2..found.nodes).find_map(|nodes| {
        let outcome = run(&Task { nodes: Some(nodes), story: false, ..task.clone() });
        (outcome.violation.as_ref().map(|v| v.check) == check).then_some(outcome)
    })
}

/// Leaves out faults one after the other while the same checker still objects; the faults that are needed.
#[must_use]
pub fn shrink(task: &Task, found: &Outcome) -> BTreeSet<usize> {
    let mut needed: BTreeSet<usize> = task.only.clone().unwrap_or_else(|| (0..found.faults).collect());
    let check = found.violation.as_ref().map(|v| v.check);
    let mut again = true;
    while again {
        again = false;
        for i in needed.clone() {
            let mut fewer = needed.clone();
            fewer.remove(&i);
            let outcome = run(&Task { only: Some(fewer.clone()), story: false, ..task.clone() });
            if outcome.violation.as_ref().map(|v| v.check) == check {
                needed = fewer;
                again = true;
            }
        }
    }
    needed
}
