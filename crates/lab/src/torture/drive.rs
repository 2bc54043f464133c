//! Inside a laboratory: brings its subject up and runs its tests, several at a time.

use super::{Kind, Outcome, Ran, Stand, Test, stand};
use crate::bench::Rival;
use crate::cases::keep_logs;
use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::steadfast;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a laboratory is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) tests: Vec<Test>,
    /// Tests at a time; those on a node are one after the other beside them.
    pub(super) jobs: usize,
    /// Seconds that a test may take.
    pub(super) limit: u64,
    /// No test begins later than this, seconds since 1970.
    pub(super) until: Option<u64>,
    pub(super) multi_channel: bool,
    /// One [`Line`] is appended for each test.
    pub(super) out: PathBuf,
    /// What tests that did not pass have printed.
    pub(super) logs: PathBuf,
}

/// A run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) test: String,
    pub(super) kind: Kind,
    pub(super) outcome: Outcome,
    pub(super) seconds: f64,
}

pub(crate) fn main(lab: &Lab, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let plan: Plan = serde_json::from_str(&text)?;
    let progress = Progress::silent();
    parts::up(lab, &progress)?;
    let rival = Rival::new(lab);
    rival.form(&progress)?;
    let placement = rival.settle()?;
    let address = |node| Some(placement.of(node)?.to_owned());
    let addresses: Vec<String> = (0..lab.site.nodes).filter_map(address).collect();
    if addresses.len() != lab.site.nodes {
        bail!("a node holds no address: {:?}", placement.holders);
    }
    if lab.site.subject.is_ctdb() {
        equal_footing(lab)?;
    } else {
        patient(lab)?;
    }
    stand::add_other_user(lab)?;
    // The last lane is for those on a node.
    let stand = Stand::new(lab, addresses, plan.jobs + 1, plan.multi_channel)?;
    let out = std::fs::OpenOptions::new().create(true).append(true).open(&plan.out);
    let out = Mutex::new(out.with_context(|| format!("cannot write {}", plan.out.display()))?);
    let (local, by_smb): (VecDeque<Test>, VecDeque<Test>) =
        plan.tests.iter().cloned().partition(|t| t.kind == Kind::Local);
    let (local, by_smb) = (Mutex::new(local), Mutex::new(by_smb));
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..=plan.jobs)
            .map(|lane| {
                let (stand, plan, out) = (&stand, &plan, &out);
                let queue = if lane == plan.jobs { &local } else { &by_smb };
                scope.spawn(move || work(stand, plan, lane, queue, out))
            })
            .collect();
        lanes.into_iter().try_for_each(|lane| match lane.join() {
            Ok(done) => done,
            Err(_) => bail!("a thread that ran tests has panicked"),
        })
    })?;
    keep_logs(lab, &format!("smbtorture-{}", lab.site.subject.word()));
    crashes(lab, &plan.logs)
}

/// CTDB's event scripts, and the smbd that they start, are niced (10), which costs them the processor where other programs
/// want it: the tests' time limits would be what is tested. This daemon's smbd has the daemon's footing.
fn equal_footing(lab: &Lab) -> Result<()> {
    for host in lab.site.names() {
        let line =
            "renice -n 0 -p $(pgrep smbd) >/dev/null; echo -10 >/proc/$(cat /run/samba/smbd.pid)/autogroup || true";
        lab.shell(&host, line)?;
    }
    Ok(())
}

fn work(
    stand: &Stand<'_>,
    plan: &Plan,
    lane: usize,
    queue: &Mutex<VecDeque<Test>>,
    out: &Mutex<std::fs::File>,
) -> Result<()> {
    loop {
        if plan.until.is_some_and(|until| unix() > until) {
            return Ok(());
        }
        let Some(test) = queue.lock().map_err(|_| anyhow::anyhow!("another lane has panicked"))?.pop_front() else {
            return Ok(());
        };
        let ran = stand.run(&test, lane, Duration::from_secs(plan.limit))?;
        if ran.outcome != Outcome::Pass {
            keep(&plan.logs, &test, &ran)?;
        }
        let seconds = (ran.seconds * 10.0).round() / 10.0;
        let line = Line { test: test.name, kind: test.kind, outcome: ran.outcome, seconds };
        let mut out = out.lock().map_err(|_| anyhow::anyhow!("another lane has panicked"))?;
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
}

fn keep(logs: &Path, test: &Test, ran: &Ran) -> Result<()> {
    let name = format!("{}-{}.log", test.name, test.kind.words()).replace(['/', ' '], "_");
    let file = logs.join(name);
    std::fs::write(&file, &ran.said).with_context(|| format!("cannot write {}", file.display()))
}

/// A smbd that crashed may have been taken for a connection that ended: said, whatever the tests made of it.
fn crashes(lab: &Lab, logs: &Path) -> Result<()> {
    for host in lab.site.names() {
        let said = lab.shell(&host, "grep -h -A 30 'INTERNAL ERROR' /var/log/samba/log.* || true")?;
        let count = said.matches("INTERNAL ERROR").count();
        if count > 0 {
            let file = logs.join(format!("crashes-{host}.log"));
            std::fs::write(&file, &said).with_context(|| format!("cannot write {}", file.display()))?;
            println!("{}: smbd crashed {count} times on {host} ({})", lab.site.subject.word(), file.display());
        }
    }
    Ok(())
}

/// An smbd that is not given the processor for 1.7 s loses its addresses here, and every test under way its connection; CTDB
/// waits for minutes. That is measured elsewhere.
fn patient(lab: &Lab) -> Result<()> {
    let text = steadfast::config(&lab.site) + "\n[health]\nfailures = 60\n";
    for host in lab.site.names() {
        lab.write(&host, steadfast::CONFIG, &text)?;
        lab.exec(&host, &["steadfast", "reload"], Duration::from_secs(30))?;
    }
    Ok(())
}

pub(super) fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
