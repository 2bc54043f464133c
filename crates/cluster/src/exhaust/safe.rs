//! The rules as they are: no two decisions, no two that serve.

use super::explore::{Found, Order, explore};
use super::state::{Bounds, Loss, Records};
use std::time::Instant;

pub(super) fn bounds(nodes: u16, lock: bool, epochs: u64, attempts: u8, crashes: u8) -> Bounds {
    Bounds {
        nodes,
        lock,
        records: Records::Each,
        epochs,
        attempts,
        crashes,
        loss: Loss::None,
        all_wishes: true,
        proposers: u16::MAX,
    }
}

/// Prints a line, so that figures for the documentation come from here.
pub(super) fn look(name: &str, b: &Bounds, order: Order, limit: usize) -> Found {
    let begun = Instant::now();
    let found = explore(b, order, limit);
    let end = match &found.violation {
        Some((what, _)) => format!("VIOLATION: {what}"),
        None if found.complete => "complete".into(),
        None => "limit reached".into(),
    };
    println!("{name}: {} states, {end}, {:.1} s", found.states, begun.elapsed().as_secs_f64());
    if let Some((_, story)) = &found.violation {
        for line in story {
            println!("    {line}");
        }
    }
    found
}

fn safe(name: &str, b: &Bounds) {
    let found = look(name, b, Order::Depth, 40_000_000);
    assert!(found.violation.is_none(), "{name}: {:?}", found.violation);
    assert!(found.complete, "{name}: not everything was looked at");
}

/// Complete, in some seconds.
#[test]
fn small_clusters() {
    safe("2 nodes, lock, 1 view, 2 attempts", &bounds(2, true, 1, 2, 0));
    safe("2 nodes, lock, 2 views, 2 attempts", &bounds(2, true, 2, 2, 0));
    let few = Bounds { all_wishes: false, ..bounds(3, false, 1, 2, 0) };
    safe("3 nodes, 1 view, 2 attempts, two wishes", &few);
    let crash = Bounds { all_wishes: false, proposers: 1, ..bounds(3, false, 1, 2, 1) };
    safe("3 nodes, 1 view, 2 attempts of one, 1 crash, two wishes", &crash);
}

/// What `scripts/test --long` adds.
#[test]
#[ignore = "some minutes: scripts/test --long"]
fn larger_clusters() {
    safe("2 nodes, lock, 1 view, 3 attempts", &Bounds { all_wishes: false, ..bounds(2, true, 1, 3, 0) });
    safe("2 nodes, lock, 1 view, 2 attempts, 1 crash", &bounds(2, true, 1, 2, 1));
    safe("3 nodes, 1 view, 2 attempts", &bounds(3, false, 1, 2, 0));
    safe(
        "3 nodes, 1 view, 2 attempts, 1 crash, two wishes",
        &Bounds { all_wishes: false, ..bounds(3, false, 1, 2, 1) },
    );
    let replaced = Bounds { loss: Loss::Replaced, all_wishes: false, proposers: 3, ..bounds(3, false, 1, 2, 1) };
    safe("3 nodes, 1 view, 2 attempts, one disk replaced, two wishes", &replaced);
    safe(
        "4 nodes, 1 view, 2 attempts, two wishes",
        &Bounds { all_wishes: false, proposers: 3, ..bounds(4, false, 1, 2, 0) },
    );
}

/// Any other bounds: `EXHAUST=nodes,lock,views,attempts,crashes cargo test -p cluster bounds_of_choice -- --ignored --nocapture`.
#[test]
#[ignore = "needs EXHAUST"]
fn bounds_of_choice() {
    let text = std::env::var("EXHAUST").unwrap_or_else(|_| "2,1,1,2,1".into());
    let v: Vec<u8> = text.split(',').filter_map(|x| x.parse().ok()).collect();
    let [nodes, lock, epochs, attempts, crashes] = v[..] else { panic!("EXHAUST: five numbers, not {text}") };
    let b = bounds(u16::from(nodes), lock != 0, u64::from(epochs), attempts, crashes);
    safe(&text, &Bounds { all_wishes: std::env::var_os("EXHAUST_ALL").is_some(), ..b });
}
