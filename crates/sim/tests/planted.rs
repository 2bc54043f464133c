//! The simulator is tested too: each rule left out of the cores on purpose must be found within 10,000 seeds.
//!
//! ```text
//! cargo test --profile lab -p sim --features planted --test planted -- --ignored --nocapture
//! ```

use ctdb::planted::{Planted, plant};
use sim::{Task, has_databases, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const SEEDS: u64 = 10_000;

const BUGS: &[Planted] = &[
    Planted::DeadTooEarly,
    Planted::MemberForgotten,
    Planted::NewestNotPreferred,
    Planted::StaleCopiesKept,
    Planted::RsnNotRaised,
    Planted::EarlyCommit,
    Planted::ContentsDiffer,
    Planted::TraverseMissesMember,
    Planted::LostWordsForgotten,
];

/// The first seed that finds it, with what objects.
fn find(bug: Planted) -> Option<(u64, String)> {
    plant(Some(bug));
    let found = (1..=SEEDS).filter(|seed| has_databases(*seed)).find_map(|seed| {
        let outcome = run(&Task { seed, nodes: None, only: None, story: false });
        outcome.violation.map(|v| (seed, format!("{}: {}", v.check, v.text)))
    });
    plant(None);
    found
}

#[test]
#[ignore = "takes minutes: scripts/test --long"]
fn each_rule_left_out_is_found() {
    let only = std::env::var("PLANTED").unwrap_or_default();
    let bugs: Vec<Planted> = BUGS.iter().copied().filter(|bug| format!("{bug:?}").contains(&only)).collect();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match find(*bug) {
                        Some((seed, what)) => println!("{bug:?}: found by seed {seed}: {what}"),
                        None => {
                            println!("{bug:?}: NOT FOUND in {SEEDS} seeds");
                            missed.lock().expect("no panic").push(*bug);
                        }
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().expect("no panic");
    assert!(missed.is_empty(), "not found in {SEEDS} seeds: {missed:?}");
}
