//! Nodes of different versions. Versions that understand each other are in the random seeds (`sim::versions`). What nodes say has
//! a range of versions that each tells the other when it greets (`crates/node/src/peer`): who has none in common is refused,
//! and both say why. So here a node speaks of the future: its heartbeats arrive, and no link to it ever comes up.

use cluster::{AdminRequest, AdminState, Pnn};
use sim::checks::rest::unrest;
use sim::{Kind, MS, S, Setup, World, settle};
use std::time::Duration;

fn assert_clean(world: &World) {
    if let Some(violation) = &world.violation {
        let lines = &world.story.lines;
        panic!("{violation:?}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
    }
}

fn held(world: &World, by: impl Fn(usize) -> bool) -> bool {
    world.setup.vips.iter().all(|(vip, _)| matches!(world.answering(*vip)[..], [one] if by(one)))
}

#[test]
fn a_node_of_the_future_is_refused_and_harms_nobody() {
    for seed in 0..8 {
        let mut world = World::new(seed, Setup { lock: seed % 2 == 0, ..Setup::plain(4) }, true);
        world.power_on_all();
        assert!(settle(&mut world, 60 * S).is_some(), "{:?}", unrest(&world));
        // It is upgraded past the others: stopped, and started with a program that they do not understand.
        let new = usize::try_from(seed % 4).expect("a node");
        world.inflict(Kind::PowerOff { node: new }, 3 * S);
        world.strangers.insert(new);
        let others_have_all = |w: &World| held(w, |node| node != new);
        assert!(world.run_until(3 * S, others_have_all).is_some(), "nobody took over from n{new}");
        let epoch = world.epoch();
        for _ in 0..200 {
            world.run_for(100 * MS);
            assert!(others_have_all(&world), "seed {seed}: an address is not held, or by n{new}");
        }
        assert_clean(&world);
        assert!(!world.members().contains(&new));
        assert_eq!(world.epoch(), epoch, "it costs no view");
        let waits = world.hosts[new].snapshot().map(|s| (s.member, s.lease.valid));
        assert_eq!(waits, Some((false, false)));
        // The others are upgraded, too.
        world.strangers.clear();
        for node in 0..4 {
            world.reconnect(node);
        }
        assert!(settle(&mut world, 60 * S).is_some(), "seed {seed}: {:?}", unrest(&world));
        assert_clean(&world);
        assert!(world.members().contains(&new));
    }
}

/// Half of the cluster is upgraded at once: two halves that do not understand each other are a split, and no more.
#[test]
fn halves_that_do_not_understand_each_other_never_both_serve() {
    for seed in 0..8 {
        let lock = seed % 2 == 0;
        let mut world = World::new(seed, Setup { lock, ..Setup::plain(4) }, true);
        world.power_on_all();
        assert!(settle(&mut world, 60 * S).is_some(), "{:?}", unrest(&world));
        world.strangers.insert(3);
        world.inflict(Kind::PowerOff { node: 3 }, S);
        world.run_for(8 * S);
        world.strangers.insert(2);
        world.inflict(Kind::PowerOff { node: 2 }, S);
        world.run_for(20 * S);
        assert_clean(&world);
        // Strangers understand nobody here, not even each other: the others are at least half of the last view.
        assert!(held(&world, |node| node < 2), "seed {seed}: {:?}", unrest(&world));
    }
}

/// From server to server, as docs/operating.md says it: drained, ended, started as either version, resumed.
#[test]
fn an_upgrade_from_server_to_server_leaves_no_address_unheld_for_long() {
    for seed in 0..8 {
        let mut world = World::new(seed, Setup { drain_wait: Duration::ZERO, ..Setup::plain(4) }, true);
        world.with_two_versions();
        world.power_on_all();
        assert!(settle(&mut world, 60 * S).is_some(), "{:?}", unrest(&world));
        for node in 0..4 {
            let pnn = Pnn(node as u16);
            let state = |state| AdminRequest::SetState { node: pnn, state, now: true };
            world.admin(node, state(AdminState::Drained));
            assert!(world.run_until(5 * S, |w| held(w, |by| by != node)).is_some(), "n{node} is not drained");
            world.inflict(Kind::Stop { node }, 500 * MS);
            for _ in 0..50 {
                world.run_for(100 * MS);
                assert!(held(&world, |by| by != node), "seed {seed}: n{node} is missed");
            }
            world.admin(node, state(AdminState::Active));
            assert!(settle(&mut world, 60 * S).is_some(), "seed {seed}: {:?}", unrest(&world));
            assert_clean(&world);
        }
    }
}
