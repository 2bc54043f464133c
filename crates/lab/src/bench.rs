//! Benchmarks: figures with their raw data, no verdicts.
//!
//! `failover` repeats a fault on the reference site and measures what three clients see: `tcp` (5 ms probe of a moved
//! address), `nfs3-moved` and `nfs3-unmoved` (hard-mounted NFSv3 writers on a moved and on an unmoved address; both
//! files are on the victim's brick). The figure of a run is the longest gap between two successes.

use crate::cases::outage::{self, Saw};
use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::site;
use crate::stats::percentile;
use crate::steadfast;
use anyhow::{Context, Result};
use serde::Serialize;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// Cables out, then every process of the node killed at once
    PowerOff,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    Steadfast,
}

#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    subject: &'static str,
    probe: &'static str,
    unit: &'static str,
    n: usize,
    p50: f64,
    p99: f64,
    max: f64,
    errors: u64,
}

#[derive(Debug, Serialize)]
struct Table {
    bench: &'static str,
    rows: Vec<Row>,
}

/// One run's raw data.
#[derive(Debug, Serialize)]
struct Raw {
    run: usize,
    victim: String,
    was_leader: bool,
    fault_at_us: u64,
    tcp: crate::probe::run::Seen,
    nfs3_moved: crate::probe::run::Seen,
    nfs3_unmoved: crate::probe::run::Seen,
}

const PROBES: [&str; 3] = ["tcp", "nfs3-moved", "nfs3-unmoved"];

/// Runs inside the laboratory; prints the table, or one JSON object.
pub(crate) fn failover(lab: &Lab, runs: usize, json: bool) -> Result<()> {
    let progress = Progress::to_stderr();
    parts::up(lab, &progress)?;
    steadfast::form(lab, &progress)?;
    let mut longest: [Vec<f64>; 3] = Default::default();
    let mut errors = [0u64; 3];
    let mut raws = Vec::new();
    for run in 0..runs {
        progress.step(&format!("run {} of {runs}: waiting for the cluster to be whole", run + 1));
        let status = steadfast::settle(lab)?;
        let victim = run % lab.site.nodes;
        let leader = status.snapshot.leader;
        let (saw, at) = outage::cut(lab, &status, victim, &format!("bench{run}"))?;
        let Saw { tcp, moved, unmoved } = saw;
        for (i, seen) in [&tcp, &moved, &unmoved].into_iter().enumerate() {
            longest[i].push(seen.longest_ms(at));
            // The TCP probe's failures are the outage itself; what answered wrongly would be an error.
            errors[i] += if i == 0 { 0 } else { seen.errors };
        }
        let last: Vec<String> = longest.iter().filter_map(|l| l.last()).map(|ms| format!("{ms:.0}")).collect();
        progress.step(&format!(
            "run {}: {} lost its power; tcp, nfs3-moved, nfs3-unmoved: {} ms",
            run + 1,
            site::name(victim),
            last.join(", ")
        ));
        raws.push(Raw {
            run,
            victim: site::name(victim),
            was_leader: leader == Some(victim),
            fault_at_us: at,
            tcp,
            nfs3_moved: moved,
            nfs3_unmoved: unmoved,
        });
    }
    let rows = (0..3)
        .map(|i| Row {
            case: "power-off",
            subject: "steadfast",
            probe: PROBES[i],
            unit: "ms",
            n: longest[i].len(),
            p50: round(percentile(&longest[i], 50.0)),
            p99: round(percentile(&longest[i], 99.0)),
            max: round(percentile(&longest[i], 100.0)),
            errors: errors[i],
        })
        .collect();
    let dir = crate::artifacts("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = dir.join(format!("failover-{}.json", lab.site.id));
    std::fs::write(&file, serde_json::to_string_pretty(&raws)?)?;
    let table = Table { bench: "failover", rows };
    if json {
        println!("{}", serde_json::to_string(&table)?);
    } else {
        println!("case       subject    probe           n   p50 ms   p99 ms   max ms  errors");
        for r in &table.rows {
            println!(
                "{:10} {:10} {:13} {:3} {:8.0} {:8.0} {:8.0} {:7}",
                r.case, r.subject, r.probe, r.n, r.p50, r.p99, r.max, r.errors
            );
        }
    }
    eprintln!("raw data: {}", file.display());
    Ok(())
}

/// Memory and CPU of each node's idle daemon.
pub(crate) fn idle(lab: &Lab, seconds: u64, json: bool) -> Result<()> {
    let progress = Progress::to_stderr();
    parts::up(lab, &progress)?;
    steadfast::form(lab, &progress)?;
    steadfast::settle(lab)?;
    progress.step(&format!("idle for {seconds} s"));
    let before: Vec<(f64, f64)> = (0..lab.site.nodes).map(|n| usage(lab, n)).collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let mut rows = Vec::new();
    for (node, (_, cpu_before)) in before.iter().enumerate() {
        let (rss, cpu) = usage(lab, node)?;
        let percent = (cpu - cpu_before) / seconds as f64 * 100.0;
        rows.push(serde_json::json!({
            "case": "idle", "subject": "steadfast", "node": site::name(node),
            "rss_mb": round(rss), "cpu_percent": (percent * 100.0).round() / 100.0,
        }));
    }
    if json {
        println!("{}", serde_json::json!({"bench": "idle", "rows": rows}));
    } else {
        for row in rows {
            println!("{} rss {} MB, cpu {} % of a core", row["node"], row["rss_mb"], row["cpu_percent"]);
        }
    }
    Ok(())
}

/// Resident megabytes and CPU seconds of the daemon with all processes of its program (guard, helpers).
fn usage(lab: &Lab, node: usize) -> Result<(f64, f64)> {
    let host = site::name(node);
    let line = "for p in $(pgrep -x steadfast); do
        rss=$(awk '/^VmRSS/{print $2}' /proc/$p/status); set -- $(sed 's/.*) //' /proc/$p/stat)
        echo $rss ${12} ${13}; done; getconf CLK_TCK";
    let text = lab.shell(&host, line)?;
    let mut lines: Vec<&str> = text.lines().collect();
    let ticks: f64 = lines.pop().and_then(|l| l.trim().parse().ok()).context("no CLK_TCK")?;
    let (mut rss, mut cpu) = (0.0, 0.0);
    for l in lines {
        let n: Vec<f64> = l.split(' ').filter_map(|w| w.parse().ok()).collect();
        if let [r, u, s] = n[..] {
            rss += r / 1024.0;
            cpu += (u + s) / ticks;
        }
    }
    Ok((rss, cpu))
}

fn round(v: f64) -> f64 {
    (v * 10.0).round() / 10.0
}
