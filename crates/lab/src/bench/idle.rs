//! What the daemon costs when nothing happens.

use super::round;
use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::{site, steadfast};
use anyhow::{Context, Result};
use std::time::Duration;

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
