//! A block: some runs, one after the other, in one laboratory that is brought up for them.

use super::rival::Rival;
use super::{Fault, Run, run};
use crate::lab::Lab;
use crate::parts::{self, Progress};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a laboratory is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Block {
    /// Faults and the numbers of their runs, in this order.
    pub(crate) runs: Vec<(Fault, usize)>,
    /// No run begins that would, by what runs of its kind took so far, end after this (seconds since 1970).
    pub(crate) until: Option<u64>,
    /// Seconds that a run of each kind is expected to take before there was one.
    pub(crate) expect: BTreeMap<Fault, f64>,
    /// One JSON object per line is appended for each run.
    pub(crate) out: PathBuf,
}

/// Brings the site up and does the runs; each is on disk when it is over.
pub(crate) fn main(lab: &Lab, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut block: Block = serde_json::from_str(&text)?;
    let progress = Progress::silent();
    let rival = Rival::new(lab);
    parts::up(lab, &progress)?;
    rival.form(&progress)?;
    rival.settle()?;
    let mut out = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&block.out)
        .with_context(|| format!("cannot write {}", block.out.display()))?;
    for (case, number) in block.runs {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let needs = block.expect.get(&case).copied().unwrap_or(0.0);
        if block.until.is_some_and(|until| now + needs > until as f64) {
            continue;
        }
        let done: Run = run::run(rival, case, number);
        block.expect.insert(case, done.seconds);
        writeln!(out, "{}", serde_json::to_string(&done)?)?;
        if done.failure.is_some() {
            keep_logs(lab, &done);
            // What a failed run leaves behind would be the next one's trouble: the others get a fresh laboratory.
            return Ok(());
        }
    }
    Ok(())
}

/// The nodes' logs of a failed run, below target/lab-logs.
fn keep_logs(lab: &Lab, run: &Run) {
    let dir =
        crate::artifacts("lab-logs").join(format!("bench-{}-{}-{}", run.subject.word(), run.case.word(), run.unix));
    if std::fs::create_dir_all(&dir).is_err() {
        return;
    }
    for host in lab.site.names() {
        for from in ["var/log/steadfast.log", "var/log/ctdb/log.ctdb", "var/log/ganesha/ganesha.log"] {
            let name = from.rsplit('/').next().unwrap_or(from);
            // What is not there belongs to the other system.
            let _ = std::fs::copy(lab.disk(&host).join(from), dir.join(format!("{host}-{name}")));
        }
    }
}
