//! Does a machine without a free processor make failovers that nobody needs?

use super::round;
use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::{site, steadfast};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Four nodes whose processors are all taken by ordinary work, for a while.
pub(crate) fn load(lab: &Lab, minutes: f64, json: bool) -> Result<()> {
    let length = Duration::try_from_secs_f64(minutes * 60.0).context("--minutes: a positive number")?;
    let progress = Progress::to_stderr();
    parts::up(lab, &progress)?;
    steadfast::form(lab, &progress)?;
    steadfast::settle(lab)?;
    let before: Vec<steadfast::Status> =
        (0..lab.site.nodes).map(|n| steadfast::status(lab, n)).collect::<Result<_>>()?;
    let processors = std::thread::available_parallelism()?.get();
    for host in lab.site.names() {
        for i in 0..processors {
            // What the laboratory starts is preferred by the scheduler; this is to be ordinary work.
            let line = "echo 0 >/proc/self/autogroup; while :; do :; done";
            lab.service(&host, &format!("spinner{i}"), &["sh", "-c", line])?;
        }
    }
    progress.step(&format!("{processors} busy loops on each node, for {minutes} min"));
    let end = Instant::now() + length;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left.min(Duration::from_secs(60)));
        let view = steadfast::wait_answers(lab, 0)?.epoch();
        progress
            .step(&format!("view {view}, {:.0} s left", end.saturating_duration_since(Instant::now()).as_secs_f64()));
    }
    let mut rows = Vec::new();
    for (node, before) in before.iter().enumerate() {
        let after = steadfast::wait_answers(lab, node)?;
        let (was, now) = (&before.snapshot.pace, &after.snapshot.pace);
        rows.push(serde_json::json!({
            "case": "load", "subject": "steadfast", "node": site::name(node), "minutes": minutes,
            "view_changes": after.epoch().saturating_sub(before.epoch()),
            "false_failovers": now.false_failovers - was.false_failovers,
            "stalls": now.stalls - was.stalls,
            "longest_stall_ms": round(now.longest_stall.as_secs_f64() * 1000.0),
            "longest_gap_ms": round(now.longest_gap.as_secs_f64() * 1000.0),
            "longest_gap_ms_before": round(was.longest_gap.as_secs_f64() * 1000.0),
        }));
    }
    if json {
        println!("{}", serde_json::json!({"bench": "load", "rows": rows}));
        return Ok(());
    }
    for row in rows {
        println!(
            "{} view changes {}, false failovers {}, stalls {} (longest {} ms), longest gap between heartbeats {} ms ({} ms \
             before the load)",
            row["node"],
            row["view_changes"],
            row["false_failovers"],
            row["stalls"],
            row["longest_stall_ms"],
            row["longest_gap_ms"],
            row["longest_gap_ms_before"]
        );
    }
    Ok(())
}
