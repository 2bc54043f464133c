//! Some seeds within bounded time, and the proof that a seed says everything.

use sim::{Task, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn task(seed: u64, story: bool) -> Task {
    Task { seed, nodes: None, only: None, story }
}

#[test]
fn the_same_seed_tells_the_same_story_twice() {
    for seed in [3, 77, 4_711] {
        let (one, two) = (run(&task(seed, true)), run(&task(seed, true)));
        assert_eq!(one.fingerprint, two.fingerprint);
        assert!(one.story == two.story, "seed {seed} tells two stories");
        // Telling it changes nothing.
        assert_eq!(run(&task(seed, false)).fingerprint, one.fingerprint);
    }
}

#[test]
fn past_findings_stay_mended() {
    let corpus = include_str!("../corpus.txt");
    let lines = corpus.lines().filter(|line| !line.starts_with('#'));
    let seeds: Vec<u64> = lines.filter_map(|line| line.split_once(' ')?.0.parse().ok()).collect();
    assert!(seeds.len() >= 11, "the corpus cannot be read");
    for seed in seeds {
        let outcome = run(&task(seed, false));
        assert_eq!(outcome.violation, None, "replay: cargo run -p sim -- --seed {seed}");
    }
}

#[test]
fn sixty_seeds_hold() {
    let begin = Instant::now();
    let next = AtomicU64::new(1);
    let bad = Mutex::new(Vec::new());
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                // A busy machine runs fewer; it says so below.
                while begin.elapsed() < Duration::from_secs(50) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > 60 {
                        return;
                    }
                    let outcome = run(&task(seed, false));
                    done.fetch_add(1, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation {
                        bad.lock().expect("no panic").push(format!(
                            "seed {seed}: {} at {} us: {}\n  replay: cargo run -p sim -- --seed {seed}",
                            violation.check, violation.at, violation.text
                        ));
                    }
                }
            });
        }
    });
    let (done, bad) = (done.into_inner(), bad.into_inner().expect("no panic"));
    println!("{done} of 60 seeds in {:.1} s", begin.elapsed().as_secs_f64());
    assert!(done >= 20, "only {done} seeds in {:?}", begin.elapsed());
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
