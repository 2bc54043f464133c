//! Inside a laboratory: brings the databases of its subject up and does each case once.

use super::worker::Said;
use super::{Case, Run, Work, counters};
use crate::bench::rival::Rival;
use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::site;
use crate::{bench, sh, steadfast, stock};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// What a laboratory is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) cases: Vec<Case>,
    pub(super) run: usize,
    pub(super) seconds: f64,
    pub(super) records: u64,
    /// How long a recovery is waited for, in minutes.
    pub(super) patience: f64,
    /// One JSON object per line is appended for each case.
    pub(super) out: PathBuf,
}

pub(crate) fn main(lab: &Lab, file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let plan: Plan = serde_json::from_str(&text)?;
    let progress = Progress::silent();
    parts::up(lab, &progress)?;
    if plan.cases.iter().any(|c| c.work().is_none()) {
        let rival = Rival::new(lab);
        rival.form(&progress)?;
        rival.settle()?;
    } else if lab.site.subject.is_ctdb() {
        let tunables = if plan.cases.iter().any(|c| c.patient()) { stock::PATIENT } else { "" };
        stock::start_bare(lab, tunables)?;
    } else {
        steadfast::form(lab, &progress)?;
        steadfast::settle(lab)?;
    }
    let mut out = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&plan.out)
        .with_context(|| format!("cannot write {}", plan.out.display()))?;
    for &case in &plan.cases {
        let mut run = Run::new(lab.site.subject, case, plan.run, super::unix());
        match measure(lab, &plan, &mut run) {
            Ok(value) => run.value = Some(bench::round(value)),
            Err(e) => run.failure = Some(format!("{e:#}")),
        }
        writeln!(out, "{}", serde_json::to_string(&run)?)?;
    }
    Ok(())
}

/// The clients, by node.
struct Clients(Vec<Client>);

struct Client {
    host: String,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Clients {
    fn start(lab: &Lab, plan: &Plan, case: Case, work: Work) -> Result<Self> {
        let (nodes, seconds, records) = (case.nodes().to_string(), plan.seconds.to_string(), plan.records.to_string());
        let words = ["/usr/local/sbin/steadfast-lab", "probe", "database", "--work", work.word()];
        let patience = plan.patience.to_string();
        let limits = ["--nodes", &nodes, "--seconds", &seconds, "--records", &records, "--patience", &patience];
        let words = [&words[..], &limits].concat();
        let mut all = Self(Vec::new());
        for host in lab.site.names() {
            let mut command = lab.command(&host, &words)?;
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let orders = child.stdin.take().context("no way to give orders")?;
            let answers = BufReader::new(child.stdout.take().context("no way to hear answers")?);
            all.0.push(Client { host, child, orders, answers });
        }
        for client in &mut all.0 {
            let line = client.line()?;
            if line != "ready" {
                bail!("the client on {} says {line:?}", client.host);
            }
        }
        Ok(all)
    }

    /// Gives all of them an order at once; their answers, by node.
    fn all(&mut self, order: &str) -> Result<Vec<Said>> {
        for client in &mut self.0 {
            writeln!(client.orders, "{order}")?;
        }
        self.0.iter_mut().map(Client::answer).collect()
    }

    fn first(&mut self, order: &str) -> Result<Said> {
        let client = self.0.first_mut().context("there is no client")?;
        writeln!(client.orders, "{order}")?;
        client.answer()
    }
}

impl Client {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the client on {} has ended ({})", self.host, self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }

    fn answer(&mut self) -> Result<Said> {
        let said: Said = serde_json::from_str(&self.line()?)?;
        match &said.failed {
            Some(why) => bail!("the client on {}: {why}", self.host),
            None => Ok(said),
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for client in &mut self.0 {
            sh::kill_group(&mut client.child);
        }
    }
}

/// Does one case; its figure, in its unit.
fn measure(lab: &Lab, plan: &Plan, run: &mut Run) -> Result<f64> {
    let case = run.case;
    let Some(work) = case.work() else { return counters::measure(lab, plan.seconds, &mut run.beside) };
    let mut clients = Clients::start(lab, plan, case, work)?;
    let said = clients.all("go")?;
    let count: u64 = said.iter().map(|s| s.count).sum();
    if case == Case::Recovery1m {
        if count != plan.records {
            bail!("{count} records were written, not {}", plan.records);
        }
        clients.all("watch")?;
        let done = clients.first("recover")?;
        if done.unfinished {
            run.unfinished = true;
            run.beside.insert("records".into(), plan.records as f64);
            return Ok(done.seconds * 1000.0);
        }
        let others = clients.all("watched")?.iter().map(|s| s.longest_ms).fold(0.0, f64::max);
        let left = clients.first("check")?;
        if left.count != plan.records {
            bail!("{} records are left after the recovery, not {}", left.count, plan.records);
        }
        let filled = said.iter().map(|s| s.seconds).fold(0.0, f64::max);
        for (name, value) in [
            ("blocked_ms", done.longest_ms),
            ("blocked_other_ms", others),
            ("records", plan.records as f64),
            ("fill_ms", filled * 1000.0),
            ("check_ms", left.seconds * 1000.0),
        ] {
            run.beside.insert(name.into(), bench::round(value));
        }
        return Ok(done.seconds * 1000.0);
    }
    if count == 0 {
        bail!("nothing went round");
    }
    let seconds = said.iter().map(|s| s.seconds).fold(0.0, f64::max);
    run.beside.insert("longest_ms".into(), bench::round(said.iter().map(|s| s.longest_ms).fold(0.0, f64::max)));
    run.beside.insert("again".into(), said.iter().map(|s| s.again).sum::<u64>() as f64);
    let whole = count as f64 / seconds;
    match case {
        Case::FetchRing2 | Case::FetchRing4 => {
            let shown = clients.first("check")?.count;
            if shown != count {
                bail!("{count} additions were made and the record shows {shown}");
            }
        }
        Case::Transactions2 | Case::Transactions4 => {
            for (node, copy) in clients.all("check")?.iter().enumerate() {
                if copy.count != count || copy.sequence != count {
                    let host = site::name(node);
                    bail!("{count} commits, but on {host}: total {}, sequence number {}", copy.count, copy.sequence);
                }
            }
            return Ok(whole);
        }
        _ => {}
    }
    // As the original's own tools count: what each node sees.
    Ok(whole / case.nodes() as f64)
}
