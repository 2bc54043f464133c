//! `bench db`, from outside: one laboratory after the other, the subjects in turn, and what becomes of the figures.

use super::drive::Plan;
use super::{Case, Run, report};
use crate::args::Shape;
use crate::bench::plan::choose;
use crate::site::{Storage, Subject};
use crate::{launch, parts, strings};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// fetch-ring-2, fetch-ring-4, message-ring-2, message-ring-4, transactions-2, transactions-4, recovery-1m,
    /// smb-counters-4 (Samba on a GlusterFS volume); all
    #[arg(long, default_value = "all", value_delimiter = ',')]
    case: Vec<String>,
    /// Systems: steadfast, ctdb (Debian's ctdbd); all
    #[arg(long, default_value = "all", value_delimiter = ',')]
    subject: Vec<String>,
    /// Runs of each case under each system
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long a ring turns in each run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Records of recovery-1m
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// How long the recovery of recovery-1m is waited for, in minutes; one that takes longer is told as "more than"
    #[arg(long, default_value_t = 60.0)]
    patience: f64,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Write DIR/benchmarks.md and DIR/benchmarks/db.json
    #[arg(long)]
    docs: Option<PathBuf>,
    /// Keep the runs that the raw file has, and do only those that are missing
    #[arg(long)]
    append: bool,
    /// The program under test (default: beside this one)
    #[arg(long)]
    steadfast: Option<PathBuf>,
}

pub(crate) fn main(options: &Options) -> Result<i32> {
    let mut subjects = choose(&options.subject, &[Subject::Steadfast, Subject::Ctdb])?;
    let mut cases: Vec<Case> = choose(&options.case, &Case::ALL)?;
    cases.sort_unstable();
    cases.dedup();
    subjects.sort_unstable();
    subjects.dedup();
    if options.runs == 0 || options.records == 0 || options.seconds.is_nan() || options.seconds <= 0.0 {
        bail!("--runs, --records and --seconds: more than 0");
    }
    if !(0.05..=1440.0).contains(&options.patience) {
        bail!("--patience: 0.05 to 1440 minutes");
    }
    for &subject in &subjects {
        if !matches!(subject, Subject::Steadfast | Subject::Ctdb) {
            bail!("--subject {}: databases are measured under steadfast and ctdb", subject.word());
        }
        for case in &cases {
            parts::check_programs(case.storage(), subject)?;
        }
    }
    launch::sweep();
    let raw = match &options.docs {
        Some(docs) => docs.join("benchmarks/db.json"),
        None => crate::artifacts("bench").join("db.json"),
    };
    let mut runs = if options.append && raw.exists() { read(&raw)? } else { Vec::new() };
    let begun = Instant::now();
    let mut code = 0;
    'all: for number in 0..options.runs {
        let sites = [(2, Storage::Local), (4, Storage::Local), (4, Storage::Gluster)];
        // With other time limits in a laboratory of their own.
        for ((nodes, storage), patient) in sites.into_iter().flat_map(|site| [(site, false), (site, true)]) {
            for &subject in &subjects {
                let done = |c: &Case| {
                    runs.iter().any(|r| (r.subject, r.case, r.run) == (subject, *c, number) && r.value.is_some())
                };
                let here = |c: &Case| (c.nodes(), c.storage(), c.patient()) == (nodes, storage, patient);
                let todo: Vec<Case> = cases.iter().copied().filter(|c| here(c) && !done(c)).collect();
                if todo.is_empty() {
                    continue;
                }
                eprintln!("[{:5.1} min] run {}: {} on {nodes} nodes", minutes(begun), number + 1, subject.word());
                let (ended, news) = laboratory(options, subject, (nodes, storage), &todo, number)?;
                for run in &news {
                    say(begun, run);
                }
                runs.retain(|r| !news.iter().any(|n| (n.subject, n.case, n.run) == (r.subject, r.case, r.run)));
                runs.extend(news);
                keep(&mut runs, &raw)?;
                if ended == 130 {
                    code = 130;
                    break 'all;
                }
            }
        }
    }
    if runs.iter().any(|r| r.value.is_none()) && code == 0 {
        code = 1;
    }
    if options.json {
        println!("{}", report::json(&runs)?);
    } else {
        print!("{}", report::text(&runs));
    }
    if let Some(docs) = &options.docs {
        report::write_markdown(&docs.join("benchmarks.md"), options.runs, &runs)?;
        eprintln!("written: {}", docs.join("benchmarks.md").display());
    }
    eprintln!("raw data: {}", raw.display());
    Ok(code)
}

fn minutes(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() / 60.0
}

fn say(begun: Instant, run: &Run) {
    let what = format!("[{:5.1} min] {} {} run {}", minutes(begun), run.subject.word(), run.case.word(), run.run + 1);
    match (run.value, &run.failure) {
        (Some(value), _) => {
            let beside: Vec<String> = run.beside.iter().map(|(name, value)| format!("{name} {value}")).collect();
            let more = if run.unfinished { "not over after " } else { "" };
            eprintln!("{what}: {more}{value} {} ({})", run.case.unit(), beside.join(", "));
        }
        (None, why) => {
            eprintln!("{what} failed: {}", why.as_deref().unwrap_or("the laboratory ended").replace('\n', "\n      "));
        }
    }
}

/// Brings one laboratory up for these cases; its exit code and what it has measured. A case that it did not get to is a
/// failed run.
fn laboratory(
    options: &Options,
    subject: Subject,
    (nodes, storage): (usize, Storage),
    cases: &[Case],
    number: usize,
) -> Result<(i32, Vec<Run>)> {
    let dir = crate::artifacts("bench");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let volume = if storage == Storage::Gluster { "v" } else { "" };
    let id = format!("{}-db{nodes}{volume}-{}-{number}", crate::new_id(), subject.word());
    let (out, file) = (dir.join(format!("{id}.lines")), dir.join(format!("{id}.plan")));
    let plan = Plan {
        cases: cases.to_vec(),
        run: number,
        seconds: options.seconds,
        records: options.records,
        patience: options.patience,
        out: out.clone(),
    };
    std::fs::write(&file, serde_json::to_string(&plan)?)?;
    let mut shape = Shape::reference(storage, options.steadfast.clone());
    shape.subject = subject;
    shape.nodes = nodes;
    shape.clustering = true;
    shape.site(&id)?;
    let mut words = strings(&["bench-database"]);
    words.extend(shape.words());
    words.extend(["--plan".into(), file.display().to_string()]);
    let unix = super::unix();
    let code = launch::Launched::start(&id, &words)?.wait()?;
    // A laboratory that did not come up has written nothing.
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    let mut runs: Vec<Run> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for file in [&out, &file] {
        let _ = std::fs::remove_file(file);
    }
    for &case in cases {
        if !runs.iter().any(|r| r.case == case) {
            let failure = Some(format!("the laboratory ended with code {code} before it"));
            runs.push(Run { failure, ..Run::new(subject, case, number, unix) });
        }
    }
    Ok((code, runs))
}

fn read(path: &Path) -> Result<Vec<Run>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what this program writes", path.display()))
}

/// Writes the raw file anew, whole or not at all; one run per line.
fn keep(runs: &mut [Run], raw: &Path) -> Result<()> {
    runs.sort_by_key(|r| (r.case, r.subject, r.run));
    if let Some(dir) = raw.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let lines: Vec<String> = runs.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let new = raw.with_extension("new");
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    std::fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    std::fs::rename(&new, raw).with_context(|| format!("cannot write {}", raw.display()))
}
