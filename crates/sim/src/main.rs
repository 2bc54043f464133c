//! `cargo run -p sim -- --seed 42`: replays one seed and tells its story. With `--first-seed` and `--seeds`: runs
//! many and says which fail. Exit code 0: nothing found; 1: a violation; 2: usage.

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sim::story::stamp;
use sim::{Done, Outcome, S, Task, has_databases, run, shrink, shrink_nodes};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates clusters from seeds.
#[derive(Debug, Parser)]
struct Options {
    /// Replay this seed and tell its story
    #[arg(long, conflicts_with_all = ["first_seed", "seeds"])]
    seed: Option<u64>,
    /// First seed of a range
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Number of seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Go on for so many minutes, whatever the number of seeds
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    minutes: Option<u64>,
    /// Threads
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Number of nodes, 2 to 64; without it the seed says
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=64))]
    nodes: Option<u16>,
    /// Keep only these faults of the seed's plan, by number
    #[arg(long, value_delimiter = ',')]
    only: Option<Vec<usize>>,
    /// Do not look for the faults that matter
    #[arg(long)]
    no_shrink: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Found {
    seed: u64,
    check: &'static str,
    at_s: f64,
    what: String,
    replay: String,
}

#[derive(Debug, Serialize)]
struct Summary {
    seeds: u64,
    violations: usize,
    stuck: usize,
    simulated_hours: f64,
    /// Of these, those of calm seeds.
    calm_hours: f64,
    wall_s: f64,
    /// How fast it went, by what the seeds are like.
    dense: Speed,
    calm: Speed,
    databases: Speed,
    /// Of all events of all seeds: equal where every seed went as before.
    fingerprint: String,
    events: u64,
    faults: u64,
    /// Seeds that ran databases, and what the processes there got done.
    database_seeds: usize,
    increments: u64,
    reads: u64,
    /// Of these, in the node's own copy.
    copies_read: u64,
    commits: u64,
    traverses: u64,
    questions: u64,
    messages: u64,
    replaced: u64,
    detached: u64,
    spare_uses: u64,
    slowest_settling_s: f64,
    found: Vec<Found>,
}

/// Simulated hours, and what they cost.
#[derive(Debug, Default, Serialize)]
struct Speed {
    hours: f64,
    /// Processor time. Unlike `wall_s` it says the same on a busy machine, or nearly so.
    cpu_s: f64,
    hours_per_cpu_minute: f64,
}

impl Speed {
    fn of<'a>(runs: impl Iterator<Item = &'a Run>) -> Self {
        let (simulated, cpu) =
            runs.fold((0, Duration::ZERO), |(simulated, cpu), run| (simulated + run.outcome.simulated, cpu + run.cpu));
        let (hours, cpu_s) = (simulated as f64 / S as f64 / 3600.0, cpu.as_secs_f64());
        Self { hours, cpu_s, hours_per_cpu_minute: if cpu_s > 0.0 { hours * 60.0 / cpu_s } else { 0.0 } }
    }
}

/// A seed that was run.
struct Run {
    outcome: Outcome,
    /// Processor time.
    cpu: Duration,
}

impl Run {
    fn of(task: impl FnOnce() -> Outcome) -> Self {
        let begin = cpu_time();
        let outcome = task();
        Self { outcome, cpu: cpu_time().saturating_sub(begin) }
    }
}

/// Processor time that this thread has had.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn main() -> anyhow::Result<ExitCode> {
    match simulate(&Options::parse()) {
        // Whoever reads has seen enough, as `head`; what was found is not known to have been told.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(ExitCode::FAILURE)
        }
        done => done,
    }
}

fn simulate(options: &Options) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let runs = match options.seed {
        Some(seed) => {
            let run = Run::of(|| run(&task(options, seed, true)));
            if !options.json {
                tell(&run.outcome)?;
            }
            vec![run]
        }
        None => many(options),
    };
    let kind = |databases: bool, calm: bool| {
        let of_kind = move |run: &&Run| has_databases(run.outcome.seed) == databases && run.outcome.calm == calm;
        runs.iter().filter(of_kind)
    };
    let (dense, calm) = (Speed::of(kind(false, false)), Speed::of(kind(false, true)));
    let databases = Speed::of(kind(true, false).chain(kind(true, true)));
    let outcomes: Vec<&Outcome> = runs.iter().map(|run| &run.outcome).collect();
    let fingerprint = outcomes.iter().fold(0_u64, |all, o| (all ^ o.fingerprint).wrapping_mul(0x0000_0100_0000_01b3));
    let found: Vec<Found> = outcomes.iter().filter_map(|outcome| describe(options, outcome)).collect();
    let hours = |calm: bool| {
        let all = outcomes.iter().filter(|o| calm <= o.calm).map(|o| o.simulated);
        all.sum::<u64>() as f64 / S as f64 / 3600.0
    };
    let done = |what: fn(&Done) -> u64| outcomes.iter().flat_map(|o| &o.databases).map(what).sum();
    let summary = Summary {
        seeds: outcomes.len() as u64,
        violations: found.len(),
        stuck: outcomes.iter().filter(|o| o.stuck).count(),
        simulated_hours: hours(false),
        calm_hours: hours(true),
        wall_s: begin.elapsed().as_secs_f64(),
        dense,
        calm,
        databases,
        fingerprint: format!("{fingerprint:016x}"),
        events: outcomes.iter().map(|o| o.totals.events).sum(),
        faults: outcomes.iter().map(|o| o.totals.faults).sum(),
        database_seeds: outcomes.iter().filter(|o| o.databases.is_some()).count(),
        increments: done(|d| d.increments),
        reads: done(|d| d.reads),
        copies_read: done(|d| d.copies_read),
        commits: done(|d| d.commits),
        traverses: done(|d| d.traverses),
        questions: done(|d| d.questions),
        messages: done(|d| d.messages),
        replaced: done(|d| d.replaced),
        detached: done(|d| d.detached),
        spare_uses: done(|d| d.spare_uses),
        slowest_settling_s: outcomes.iter().filter_map(|o| o.settled).max().unwrap_or(0) as f64 / S as f64,
        found,
    };
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        for found in &summary.found {
            writeln!(
                out,
                "seed {}: {} at {:.3} s: {}\n  replay: {}",
                found.seed, found.check, found.at_s, found.what, found.replay
            )?;
        }
        writeln!(
            out,
            "{} seeds with databases: {} locked increments, {} reads ({} of copies), {} transactions, {} traverses, {} \
             questions about life, {} messages, {} databases wiped or restored, {} detached (used {} times)",
            summary.database_seeds,
            summary.increments,
            summary.reads,
            summary.copies_read,
            summary.commits,
            summary.traverses,
            summary.questions,
            summary.messages,
            summary.replaced,
            summary.detached,
            summary.spare_uses
        )?;
        writeln!(
            out,
            "{} seeds, {} violations, {} without a quorum of disks, {:.2} simulated hours ({:.2} of them calm), {} faults, {:.1} s, slowest settling {:.1} s",
            summary.seeds,
            summary.violations,
            summary.stuck,
            summary.simulated_hours,
            summary.calm_hours,
            summary.faults,
            summary.wall_s,
            summary.slowest_settling_s
        )?;
        for (what, speed) in
            [("dense faults", &summary.dense), ("calm", &summary.calm), ("with databases", &summary.databases)]
        {
            if speed.cpu_s > 0.0 {
                let (hours, each) = (speed.hours, speed.hours_per_cpu_minute);
                writeln!(out, "{what}: {hours:.2} simulated hours, {each:.0} in a minute of one processor")?;
            }
        }
    }
    Ok(ExitCode::from(u8::from(summary.violations > 0)))
}

fn task(options: &Options, seed: u64, story: bool) -> Task {
    Task { seed, nodes: options.nodes.map(usize::from), only: options.only.clone().map(BTreeSet::from_iter), story }
}

/// The story of one seed.
fn tell(outcome: &Outcome) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in &outcome.story {
        writeln!(out, "{line}")?;
    }
    let settled = outcome.settled.map_or_else(
        || "not at rest".to_owned(),
        |t| format!("at rest {:.1} s after the last fault", t as f64 / S as f64),
    );
    writeln!(
        out,
        "{} {settled}, {} events, {} datagrams, {} messages, fingerprint {:016x}",
        stamp(outcome.simulated),
        outcome.totals.events,
        outcome.totals.datagrams,
        outcome.totals.messages,
        outcome.fingerprint
    )
}

/// A range of seeds on several threads; outcomes in the order of the seeds.
fn many(options: &Options) -> Vec<Run> {
    let begin = Instant::now();
    let goes_on = |i| match options.minutes {
        Some(minutes) => begin.elapsed() < Duration::from_secs(60 * minutes),
        None => i < options.seeds,
    };
    let next = AtomicU64::new(0);
    let runs = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if !goes_on(i) {
                        return;
                    }
                    let run = Run::of(|| run(&task(options, options.first_seed + i, false)));
                    if let Some(violation) = &run.outcome.violation {
                        // Said at once: a long run may be ended before its summary.
                        eprintln!("seed {}: {}", run.outcome.seed, violation.check);
                    }
                    runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(run);
                }
            });
        }
    });
    let mut runs = runs.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    runs.sort_by_key(|run| run.outcome.seed);
    runs
}

/// A violation with the command that shows it again.
fn describe(options: &Options, outcome: &Outcome) -> Option<Found> {
    outcome.violation.as_ref()?;
    let mut replay = format!("cargo run -p sim -- --seed {}", outcome.seed);
    let mut task = task(options, outcome.seed, false);
    let fewer = (!options.no_shrink && options.nodes.is_none()).then(|| shrink_nodes(&task, outcome)).flatten();
    if let Some(fewer) = &fewer {
        task.nodes = Some(fewer.nodes);
    }
    let outcome = fewer.as_ref().unwrap_or(outcome);
    let violation = outcome.violation.as_ref()?;
    if let Some(nodes) = task.nodes {
        replay += &format!(" --nodes {nodes}");
    }
    if !options.no_shrink {
        let needed = shrink(&task, outcome);
        let list: Vec<String> = needed.iter().map(ToString::to_string).collect();
        if list.is_empty() {
            replay += " --only 999";
        } else {
            replay += &format!(" --only {}", list.join(","));
        }
    } else if let Some(only) = &options.only {
        let list: Vec<String> = only.iter().map(ToString::to_string).collect();
        replay += &format!(" --only {}", list.join(","));
    }
    Some(Found {
        seed: outcome.seed,
        check: violation.check,
        at_s: violation.at as f64 / S as f64,
        what: violation.text.clone(),
        replay,
    })
}
