//! `bench failover`, from outside: which laboratories are brought up when, and what becomes of the figures.
//!
//! The subjects take turns: a block of runs under one, a block under the next, each in a fresh laboratory that is alone
//! on the machine; only laboratories of CTDB, whose outages are long waits for timers, may run side by side
//! (`--side-by-side`). Every run is on disk when it ends: a stop at any time loses at most the run under way, and
//! `--append` goes on from there.

use super::block::Block;
use super::{Fault, PROBES, Run, report};
use crate::args::Shape;
use crate::site::{Storage, Subject};
use crate::{launch, parts, strings};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Faults: power-off, leader-power-off, daemon-killed, daemon-stopped, link-down (two networks),
    /// link-down-one-network, service-killed, drain, rejoin; all
    #[arg(long, default_value = "power-off", value_delimiter = ',')]
    case: Vec<String>,
    /// Systems: steadfast, steadfast-fast (with its fast preset), ctdb (at its defaults), ctdb-tuned; all
    #[arg(long, default_value = "steadfast", value_delimiter = ',')]
    subject: Vec<String>,
    /// Runs of each fault under each system
    #[arg(long, default_value_t = 10)]
    runs: usize,
    /// Runs of each fault under CTDB, if not as many
    #[arg(long)]
    ctdb_runs: Option<usize>,
    #[arg(long, value_enum, default_value = "gluster")]
    storage: Storage,
    /// Begin no run that would end later than this many minutes from now
    #[arg(long)]
    minutes: Option<f64>,
    /// Runs of each fault before the other system has its turn
    #[arg(long, default_value_t = 5)]
    block: usize,
    /// How many laboratories of CTDB run at the same time
    #[arg(long, default_value_t = 1)]
    side_by_side: usize,
    /// Keep the runs that the raw file has, and do only those that are missing
    #[arg(long)]
    append: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Write DIR/benchmarks.md and DIR/benchmarks/failover-STORAGE.json
    #[arg(long)]
    docs: Option<PathBuf>,
    /// The program under test (default: beside this one)
    #[arg(long)]
    steadfast: Option<PathBuf>,
}

/// Seconds that a run takes, roughly, before one was seen.
fn guess(subject: Subject, case: Fault) -> f64 {
    match (subject, case.is_power_off()) {
        (Subject::Ctdb, true) => 190.0,
        (Subject::Ctdb, false) => 110.0,
        (Subject::CtdbTuned, true) => 60.0,
        (Subject::CtdbTuned, false) => 40.0,
        (_, true) => 20.0,
        (_, false) => 15.0,
    }
}

pub(super) fn choose<T: ValueEnum>(words: &[String], all: &[T]) -> Result<Vec<T>> {
    let mut chosen = Vec::new();
    for word in words {
        if word == "all" {
            chosen.extend_from_slice(all);
        } else {
            chosen.push(T::from_str(word, false).map_err(anyhow::Error::msg)?);
        }
    }
    Ok(chosen)
}

/// One laboratory's share of a block.
struct Share {
    subject: Subject,
    runs: Vec<(Fault, usize)>,
}

struct Work {
    options: Options,
    subjects: Vec<Subject>,
    cases: Vec<Fault>,
    /// What is done, earlier runs included.
    runs: Vec<Run>,
    /// What was tried this time.
    tried: BTreeSet<(Subject, Fault, usize)>,
    raw: PathBuf,
    begun: Instant,
    until: Option<u64>,
}

pub(crate) fn main(options: Options) -> Result<i32> {
    let subjects = choose(&options.subject, &report::SUBJECTS)?;
    let mut cases: Vec<Fault> = choose(&options.case, &Fault::ALL)?;
    // Whoever cuts the power sees the node come back.
    if cases.contains(&Fault::Rejoin) && !cases.iter().any(|c| c.is_power_off()) {
        cases.push(Fault::PowerOff);
    }
    cases.retain(|c| *c != Fault::Rejoin);
    cases.sort_unstable();
    cases.dedup();
    if options.runs == 0 || options.block == 0 || options.side_by_side == 0 {
        bail!("--runs, --block and --side-by-side: at least 1");
    }
    for &subject in &subjects {
        if subject == Subject::Parts {
            bail!("--subject parts: nothing would move its addresses");
        }
        parts::check_programs(options.storage, subject)?;
    }
    launch::sweep();
    let word = if options.storage == Storage::Gluster { "gluster" } else { "local" };
    let name = format!("failover-{word}.json");
    let raw = match &options.docs {
        Some(docs) => docs.join("benchmarks").join(&name),
        None => crate::artifacts("bench").join(&name),
    };
    let runs = if options.append && raw.exists() { read(&raw)? } else { Vec::new() };
    let until = options.minutes.map(|m| unix() + (m * 60.0) as u64);
    let mut work = Work { options, subjects, cases, runs, tried: BTreeSet::new(), raw, begun: Instant::now(), until };
    let code = work.all()?;
    work.keep()?;
    if work.options.json {
        println!("{}", report::json(&work.runs)?);
    } else {
        print!("{}", report::text(&work.runs));
    }
    if let Some(docs) = &work.options.docs {
        report::write_markdown(&docs.join("benchmarks.md"), &name, &work.runs)?;
        eprintln!("written: {}", docs.join("benchmarks.md").display());
    }
    eprintln!("raw data: {}", work.raw.display());
    Ok(code)
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn read(path: &Path) -> Result<Vec<Run>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what this program writes", path.display()))
}

impl Work {
    fn wanted(&self, subject: Subject) -> usize {
        let ctdb = self.options.ctdb_runs.filter(|_| subject.is_ctdb());
        ctdb.unwrap_or(self.options.runs)
    }

    fn done(&self, subject: Subject, case: Fault, number: usize) -> bool {
        self.runs.iter().any(|r| r.subject == subject && r.case == case && r.run == number && r.failure.is_none())
    }

    /// Blocks in turn until all is done or the time is over; 130 when it was interrupted.
    fn all(&mut self) -> Result<i32> {
        let block = self.options.block;
        let most = self.subjects.iter().map(|&s| self.wanted(s)).max().unwrap_or(0);
        for first in (0..most).step_by(block) {
            for subject in self.subjects.clone() {
                let numbers = first..(first + block).min(self.wanted(subject));
                let wanted: Vec<(Fault, usize)> =
                    numbers.flat_map(|n| self.cases.iter().map(move |&c| (c, n))).collect();
                // A failed run ends its laboratory: what was still to be done there is done in another one.
                loop {
                    let before = self.tried.len();
                    let mut todo: Vec<(Fault, usize)> = wanted
                        .iter()
                        .copied()
                        .filter(|&(c, n)| !self.done(subject, c, n) && !self.tried.contains(&(subject, c, n)))
                        .collect();
                    if todo.is_empty() || self.until.is_some_and(|until| unix() + 60 > until) {
                        break;
                    }
                    // A cut-off server may leave files behind whose copies differ for good: last, for nobody's trouble.
                    todo.sort_by_key(|(case, _)| (case.two_networks(), *case == Fault::LinkDownOneNetwork));
                    // One kind of site at a time.
                    let two = todo[0].0.two_networks();
                    todo.retain(|(case, _)| case.two_networks() == two);
                    let these: Vec<_> = todo.iter().map(|&(case, number)| (subject, case, number)).collect();
                    let many = if subject.is_ctdb() { self.options.side_by_side.min(todo.len()) } else { 1 };
                    let mut shares: Vec<Share> = (0..many).map(|_| Share { subject, runs: Vec::new() }).collect();
                    for (i, run) in todo.into_iter().enumerate() {
                        shares[i % many].runs.push(run);
                    }
                    if self.block(shares)? == 130 {
                        return Ok(130);
                    }
                    if self.tried.len() == before {
                        eprintln!("{} no run of {} was made: left out", self.clock(), subject.word());
                        self.tried.extend(these);
                    }
                }
            }
        }
        Ok(0)
    }

    /// Runs laboratories until they end; takes what they wrote.
    fn block(&mut self, shares: Vec<Share>) -> Result<i32> {
        let dir = crate::artifacts("bench");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let subject = shares[0].subject;
        let count: usize = shares.iter().map(|s| s.runs.len()).sum();
        eprintln!("{} {}: {count} runs in {} laboratories", self.clock(), subject.word(), shares.len());
        let mut files = Vec::new();
        let mut waiting = Vec::new();
        for (i, share) in shares.into_iter().enumerate() {
            let id = format!("{}-{}-{i}", crate::new_id(), unix());
            let out = dir.join(format!("{id}.lines"));
            let plan = dir.join(format!("{id}.plan"));
            let block = Block {
                runs: share.runs,
                until: self.until,
                expect: self.cases.iter().map(|&c| (c, self.expect(subject, c))).collect(),
                out: out.clone(),
            };
            std::fs::write(&plan, serde_json::to_string(&block)?)?;
            let mut shape = Shape::reference(self.options.storage, self.options.steadfast.clone());
            shape.subject = subject;
            shape.private_net = block.runs.iter().any(|(case, _)| case.two_networks());
            shape.site(&id)?;
            let mut words = strings(&["bench-block"]);
            words.extend(shape.words());
            words.extend(["--plan".into(), plan.display().to_string()]);
            let launched = launch::Launched::start(&id, &words)?;
            waiting.push(std::thread::spawn(move || launched.wait()));
            files.push((out, plan, 0));
        }
        while waiting.iter().any(|w| !w.is_finished()) {
            std::thread::sleep(Duration::from_millis(500));
            self.collect(&mut files)?;
        }
        self.collect(&mut files)?;
        for (out, plan, _) in files {
            // A laboratory that did not come up has written nothing.
            let _ = std::fs::remove_file(out);
            let _ = std::fs::remove_file(plan);
        }
        let mut code = 0;
        for thread in waiting {
            match thread.join() {
                Ok(Ok(0)) => {}
                Ok(Ok(130)) => code = 130,
                Ok(Ok(other)) => {
                    eprintln!("{} a laboratory of {} ended with code {other}", self.clock(), subject.word())
                }
                Ok(Err(e)) => return Err(e),
                Err(_) => bail!("a thread that waits for a laboratory ended"),
            }
        }
        Ok(code)
    }

    fn collect(&mut self, files: &mut [(PathBuf, PathBuf, usize)]) -> Result<()> {
        for (out, _, taken) in files {
            let Ok(text) = std::fs::read_to_string(&*out) else { continue };
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            for line in text[*taken..whole].lines() {
                let run: Run = serde_json::from_str(line)?;
                self.tried.insert((run.subject, run.case, run.run));
                let again = |r: &Run| (r.subject, r.case, r.run) == (run.subject, run.case, run.run);
                // Done again because it had failed: the failure stays in the file only while nothing better is there.
                self.runs.retain(|r| !(again(r) && r.failure.is_some()));
                self.runs.push(run.clone());
                self.say(&run);
                self.keep()?;
            }
            *taken = whole;
        }
        Ok(())
    }

    fn say(&self, run: &Run) {
        let what = format!("{} {} run {} ({} s)", run.subject.word(), run.case.word(), run.run + 1, run.seconds);
        let figures: Vec<String> = PROBES
            .iter()
            .filter_map(|p| Some((p, run.probes.get(*p)?)))
            .map(|(p, f)| format!("{p} {}{:.0}", if f.never { ">" } else { "" }, f.fault_ms))
            .collect();
        eprintln!("{} {what}: {} ms; {}", self.clock(), figures.join(", "), self.left());
        if let Some(why) = &run.failure {
            eprintln!("      failed: {}", why.replace('\n', "\n      "));
        }
        for note in &run.notes {
            eprintln!("      note: {}", note.lines().next().unwrap_or(""));
        }
    }

    fn clock(&self) -> String {
        format!("[{:5.1} min]", self.begun.elapsed().as_secs_f64() / 60.0)
    }

    /// Mean seconds of such a run so far.
    fn expect(&self, subject: Subject, case: Fault) -> f64 {
        let took: Vec<f64> =
            self.runs.iter().filter(|r| r.subject == subject && r.case == case).map(|r| r.seconds).collect();
        if took.is_empty() { guess(subject, case) } else { took.iter().sum::<f64>() / took.len() as f64 }
    }

    /// How much is left, in words.
    fn left(&self) -> String {
        let mut seconds = 0.0;
        let mut count = 0;
        for &subject in &self.subjects {
            let many = if subject.is_ctdb() { self.options.side_by_side } else { 1 };
            for &case in &self.cases {
                let todo = (0..self.wanted(subject)).filter(|&n| !self.done(subject, case, n)).count();
                count += todo;
                seconds += todo as f64 * self.expect(subject, case) / many as f64;
            }
        }
        let end = self.until.map_or_else(String::new, |until| {
            format!(", the time is over in {} min", until.saturating_sub(unix()) / 60)
        });
        format!("{count} runs left, about {:.0} min{end}", seconds / 60.0)
    }

    /// Writes the raw file anew, whole or not at all.
    fn keep(&mut self) -> Result<()> {
        self.runs.sort_by_key(|r| (r.case, r.subject, r.run, r.unix));
        if let Some(dir) = self.raw.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        // One run per line: the file is read by people and by `git diff`, too.
        let lines: Vec<String> = self.runs.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        let new = self.raw.with_extension("new");
        std::fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        std::fs::rename(&new, &self.raw).with_context(|| format!("cannot write {}", self.raw.display()))
    }
}
