//! Halves of a cluster that find each other again, link by link as connections are made anew.
//!
//! ```text
//! HEAL_SEEDS=2000 cargo test --profile lab -p sim --test heal -- --nocapture
//! ```

use sim::rng::Rng;
use sim::{Kind, MS, Micros, S, Setup, World, settle};
use std::net::IpAddr;

/// Four nodes of which two pairs reach only each other. Connections come back as slowly as the daemon's do: a dial that
/// is given up after 800 ms, and a pause of 800 ms before the next one.
fn at_rest(seed: u64) -> World {
    let mut setup = Setup::plain(4);
    setup.connect = 1_600 * MS;
    let random = Setup::random(&mut Rng::new(seed), Some(4));
    setup.vips = random.vips;
    if !seed.is_multiple_of(3) {
        setup.noise = random.noise;
        setup.slow_fsync = 20_000;
    }
    let mut world = World::new(seed, setup, true);
    world.power_on_all();
    settle(&mut world, 60 * S);
    world
}

fn split(world: &mut World, lasts: Micros) {
    world.inflict(Kind::Split { side: vec![0, 1], all: true }, lasts);
}

#[track_caller]
fn assert_clean(seed: u64, world: &World) {
    if let Some(violation) = &world.violation {
        let lines = &world.story.lines;
        panic!("seed {seed}: {violation:?}\n{}", lines[lines.len().saturating_sub(100)..].join("\n"));
    }
}

#[test]
fn no_address_goes_to_and_fro() {
    let seeds = std::env::var("HEAL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let mut found = Vec::new();
    let first = 3_000;
    for seed in (first..first + seeds).chain([3_022, 3_158, 4_714, 4_846, 4_865]) {
        let lasts = 3 * S + (seed * 7_919 % 9_000) * MS;
        let mut world = at_rest(seed);
        split(&mut world, lasts);
        world.run_for(lasts + 20 * S);
        found.extend(world.violation.map(|v| format!("seed {seed}: {}: {}", v.check, v.text)));
    }
    assert!(found.is_empty(), "{} of {seeds} seeds:\n{}", found.len(), found.join("\n"));
}

/// The storage hangs in both halves: all services fail everywhere. Whoever hears a member of the other half again knows
/// of its services only what was true before, and gives it no address for that.
#[test]
fn what_a_member_said_before_it_fell_silent_moves_nothing() {
    let mut judged = 0;
    for seed in 0..40 {
        let mut world = at_rest(seed);
        world.setup.connect = 100 * MS;
        let before: Vec<(IpAddr, Vec<usize>)> =
            world.setup.vips.iter().map(|(vip, _)| (*vip, world.answering(*vip))).collect();
        split(&mut world, 8 * S);
        world.run_for(2 * S);
        for node in 0..4 {
            world.inflict(Kind::Service { node, name: "nfs".to_owned() }, 15 * S);
        }
        world.run_for(5 * S);
        let members = world.members();
        let elsewhere = |w: &World| {
            let moved = |(vip, hosts): &&(IpAddr, Vec<usize>)| w.answering(*vip).iter().any(|h| !hosts.contains(h));
            before
                .iter()
                .find(moved)
                .map(|(vip, hosts)| format!("{vip} was on {hosts:?}, is on {:?}", w.answering(*vip)))
        };
        let mut moved = None;
        world.run_until(4 * S, |w| {
            moved = elsewhere(w);
            moved.is_some()
        });
        assert_clean(seed, &world);
        // A node that was put out of the view for want of a connection has lost its addresses for that.
        if world.members() != members || world.setup.lock {
            continue;
        }
        judged += 1;
        let lines = &world.story.lines;
        assert_eq!(moved, None, "seed {seed}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
    }
    assert!(judged >= 20, "only {judged} seeds kept their view");
}
