//! Known faults of others as scenarios: what happened to them must not happen here. Each with where it is told of.

use cluster::{AdminState, Pnn};
use sim::checks::rest::unrest;
use sim::{Kind, MS, S, Setup, World, settle};
use std::net::IpAddr;

fn at_rest(seed: u64, setup: Setup, databases: bool) -> World {
    let mut world = World::new(seed, setup, true);
    if databases {
        world.with_databases();
    }
    world.power_on_all();
    let took = settle(&mut world, 60 * S);
    assert_clean(&world);
    assert!(took.is_some(), "never at rest: {:?}\n{}", unrest(&world), tail(&world));
    world
}

fn tail(world: &World) -> String {
    let lines = &world.story.lines;
    lines[lines.len().saturating_sub(60)..].join("\n")
}

#[track_caller]
fn assert_clean(world: &World) {
    if let Some(violation) = &world.violation {
        panic!("{violation:?}\n{}", tail(world));
    }
}

fn vips(world: &World) -> Vec<IpAddr> {
    world.setup.vips.iter().map(|(vip, _)| *vip).collect()
}

fn held_by(world: &World, node: usize) -> usize {
    vips(world).into_iter().filter(|vip| world.answering(*vip) == [node]).count()
}

fn all_held(world: &World) -> bool {
    vips(world).iter().all(|vip| world.answering(*vip).len() == 1)
}

fn leader(world: &World) -> usize {
    usize::from(world.newest_view().and_then(cluster::View::leader).expect("a leader").0)
}

#[track_caller]
fn settles(world: &mut World) {
    let took = settle(world, 60 * S);
    assert_clean(world);
    assert!(took.is_some(), "not at rest: {:?}\n{}", unrest(world), tail(world));
}

/// CTDB without a cluster lock: the leader that was cut off stayed "OK" and took all public addresses while the others
/// served them too (samba-technical, November 2018, message 130863).
#[test]
fn the_leader_that_is_cut_off_claims_no_addresses() {
    for lock in [false, true] {
        let mut world = at_rest(31, Setup { lock, ..Setup::plain(3) }, true);
        let cut_off = leader(&world);
        world.inflict(Kind::Isolate { node: cut_off, deaf: false }, 10 * S);
        // The checker of one answer per address looks at every step.
        world.run_for(1_200 * MS);
        assert_eq!(held_by(&world, cut_off), 0, "{}", tail(&world));
        assert!(all_held(&world), "{}", tail(&world));
        world.run_for(10 * S);
        settles(&mut world);
    }
}

/// gluster/glusterfs issue 2300: CTDB's nodes banned each other until all were banned, and nobody served. Here a node is
/// out only while it cannot be reached, and nobody but an administrator bans.
#[test]
fn a_network_that_comes_and_goes_leaves_nobody_banned() {
    let mut world = at_rest(32, Setup::plain(3), false);
    for round in 0..6 {
        world.inflict(Kind::Isolate { node: round % 3, deaf: round % 2 == 0 }, 900 * MS);
        world.run_for(1_500 * MS);
        assert_clean(&world);
    }
    world.inflict(Kind::Split { side: vec![0], all: true }, 700 * MS);
    world.run_for(S);
    world.run_until(5 * S, all_held).unwrap_or_else(|| panic!("nobody serves\n{}", tail(&world)));
    settles(&mut world);
    for host in &world.hosts {
        assert_eq!(host.disk.durable.admin, AdminState::Active);
    }
    assert_eq!(world.members().len(), 3);
}

/// All nodes told to host nothing at once, as by a ban of all: the addresses stay where somebody can serve.
#[test]
fn the_last_node_is_not_taken_out_of_service_by_a_drain() {
    let mut world = at_rest(33, Setup::plain(3), false);
    for node in 0..3 {
        world.set_state(node, AdminState::Drained);
        world.run_for(12 * S);
    }
    assert_clean(&world);
    assert!(all_held(&world), "{}", tail(&world));
}

/// Of VRRP: a master that hangs and goes on answers beside its successor (keepalived issues 166, 2387, 2649; kube-vip
/// 277, 1377, 1418; MetalLB 767). The same with one that is cut off one way.
#[test]
fn two_masters_of_an_address_there_are_not() {
    for seed in 40..46 {
        let mut world = at_rest(seed, Setup::plain(3), false);
        let node = (seed % 3) as usize;
        world.inflict(Kind::Pause { node, between: seed % 2 == 0 }, 3 * S);
        world.run_for(5 * S);
        world.inflict(Kind::Isolate { node, deaf: true }, 3 * S);
        world.run_for(2 * S);
        assert_clean(&world);
        assert_eq!(held_by(&world, node), 0, "{}", tail(&world));
        assert!(all_held(&world), "{}", tail(&world));
        world.run_for(2 * S);
        settles(&mut world);
    }
}

/// An address that a hung node keeps: its daemon stands still for ever, its kernel would answer on. It is served by
/// another one, and the hung one is silent by itself.
#[test]
fn a_hung_node_keeps_no_address() {
    let mut world = at_rest(34, Setup::plain(4), true);
    let hung = (leader(&world) + 1) % 4;
    world.inflict(Kind::Pause { node: hung, between: true }, 60 * S);
    world.run_for(1_500 * MS);
    assert_clean(&world);
    assert_eq!(held_by(&world, hung), 0, "{}", tail(&world));
    assert!(all_held(&world), "{}", tail(&world));
    world.run_for(10 * S);
    assert_clean(&world);
}

/// CTDB bug 16082: a leader on its way out still ran a recovery beside the new one's, and the databases differed. Leaders
/// change here in the middle of recoveries, with processes that count and commit; the databases' checkers look at every
/// step, and at the end.
#[test]
fn a_leader_that_goes_in_the_middle_of_a_recovery_leaves_the_databases_whole() {
    for seed in 50..56 {
        let mut world = at_rest(seed, Setup::plain(4), true);
        world.run_for(3 * S);
        let first = leader(&world);
        world.inflict(Kind::Kill { node: (first + 1) % 4, guard: true }, 8 * S);
        // The recovery that follows from it is under way.
        world.run_for(10 * MS + (seed - 50) * 20 * MS);
        match seed % 3 {
            0 => world.inflict(Kind::Stop { node: first }, 8 * S),
            1 => world.inflict(Kind::Pause { node: first, between: false }, 2 * S),
            _ => world.inflict(Kind::Isolate { node: first, deaf: false }, 3 * S),
        }
        world.run_for(12 * S);
        assert_clean(&world);
        settles(&mut world);
        sim::wind_down(&mut world);
        assert_clean(&world);
        let done = world.databases_done().expect("databases");
        assert!(done.increments > 200 && done.commits > 5, "little was done: {done:?}");
    }
}

/// CTDB bug 16152 (and 13800): elections within elections where the cluster lock is slow to get. Here the lock hangs for a
/// minute while one leader after the other dies: with a majority nobody waits for it, and every view has one leader.
#[test]
fn leaders_that_die_one_after_the_other_while_the_lock_hangs() {
    let mut world = at_rest(35, Setup { lock: true, ..Setup::plain(5) }, false);
    world.inflict(Kind::StorageHangs { node: None }, 60 * S);
    world.run_for(S);
    for _ in 0..2 {
        let node = leader(&world);
        world.inflict(Kind::PowerOff { node }, 20 * S);
        let took = world.run_until(3 * S, |w| all_held(w) && leader(w) != node);
        assert_clean(&world);
        assert!(took.is_some(), "{}", tail(&world));
        assert!(!world.newest_view().expect("a view").members.contains_key(&Pnn(node as u16)));
    }
}
