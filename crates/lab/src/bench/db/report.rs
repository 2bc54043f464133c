//! What the runs say: a table for the terminal, one JSON object, and the databases' part of docs/benchmarks.md.

use super::{Case, Run};
use crate::bench::report::{machine, replaced, says, versions};
use crate::bench::round;
use crate::site::Subject;
use anyhow::{Context, Result};
use drill::percentile;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

const BEGIN: &str = "<!-- db: written by scripts/bench db; what is between these marks is replaced -->";
const END: &str = "<!-- db: end -->";
/// What is not as Debian ships it.
const NOTE: &str = "Debian's ctdbd runs at its defaults, without event scripts, but with `tdb mutexes = false`: the load generator \
                    locks records with file locks only. For `recovery-1m` its time limits are raised to ten minutes (ctdb.tunables: \
                    RecoverTimeout, TraverseTimeout, ControlTimeout and RecdPingTimeout 600, KeepaliveLimit 120; ctdb.conf: \
                    leader timeout 60): at its defaults a recovery that takes longer than 30 s is begun again and again.";

/// One case under one system.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    case: Case,
    subject: Subject,
    unit: &'static str,
    n: usize,
    median: f64,
    min: f64,
    max: f64,
    /// Of these, runs that were not over when they were no longer waited for: their figure is how long that was.
    unfinished: usize,
    /// Runs without a figure.
    failed: usize,
    /// Medians of what else was seen.
    beside: BTreeMap<String, f64>,
}

fn row(runs: &[Run], case: Case, subject: Subject) -> Option<Row> {
    let mine: Vec<&Run> = runs.iter().filter(|r| (r.case, r.subject) == (case, subject)).collect();
    if mine.is_empty() {
        return None;
    }
    let values: Vec<f64> = mine.iter().filter_map(|r| r.value).collect();
    let mut beside: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in mine.iter().flat_map(|r| &r.beside) {
        beside.entry(name.clone()).or_default().push(*value);
    }
    Some(Row {
        case,
        subject,
        unit: case.unit(),
        n: values.len(),
        median: round(percentile(&values, 50.0)),
        min: values.iter().copied().reduce(f64::min).unwrap_or(0.0),
        max: values.iter().copied().reduce(f64::max).unwrap_or(0.0),
        unfinished: mine.iter().filter(|r| r.unfinished).count(),
        failed: mine.len() - values.len(),
        beside: beside.into_iter().map(|(name, values)| (name, round(percentile(&values, 50.0)))).collect(),
    })
}

fn rows(runs: &[Run]) -> Vec<Row> {
    Case::ALL
        .into_iter()
        .flat_map(|case| [Subject::Steadfast, Subject::Ctdb].map(|subject| row(runs, case, subject)))
        .flatten()
        .collect()
}

impl Row {
    /// "> " where the median is of a run that was not over: those are the longest, one limit being for all.
    fn more(&self) -> &'static str {
        if self.unfinished > self.n / 2 { "> " } else { "" }
    }
}

/// How many times as good Steadfast is; at least so many, where the other's time is one that it was not ready in.
fn times(case: Case, steadfast: &Row, ctdb: &Row) -> Option<String> {
    let (ours, theirs) = (steadfast.median, ctdb.median);
    let (best, other) = if case == Case::Recovery1m { (theirs, ours) } else { (ours, theirs) };
    // With runs of ours that were not over nothing is known.
    let known = steadfast.n > 0 && ctdb.n > 0 && other > 0.0 && steadfast.unfinished == 0;
    known.then(|| format!("{}{:.1}", ctdb.more(), best / other))
}

pub(super) fn json(runs: &[Run]) -> Result<String> {
    Ok(serde_json::to_string(&serde_json::json!({"bench": "db", "note": NOTE, "rows": rows(runs), "runs": runs}))?)
}

pub(super) fn text(runs: &[Run]) -> String {
    let mut text =
        String::from("case             subject    unit   n     median        min        max  failed  not over\n");
    for r in rows(runs) {
        let _ = writeln!(
            text,
            "{:16} {:10} {:4} {:3} {:10.1} {:10.1} {:10.1} {:7} {:9}",
            r.case.word(),
            r.subject.word(),
            r.unit,
            r.n,
            r.median,
            r.min,
            r.max,
            r.failed,
            r.unfinished
        );
    }
    for case in Case::ALL {
        if let (Some(ours), Some(theirs)) = (row(runs, case, Subject::Steadfast), row(runs, case, Subject::Ctdb))
            && let Some(times) = times(case, &ours, &theirs)
        {
            let _ = writeln!(text, "{}: steadfast {times} times as fast", case.word());
        }
    }
    text += &waits(runs);
    let _ = writeln!(text, "{NOTE}");
    text
}

/// Who had to wait while the largest case's database was recovered; empty without such a run.
fn waits(runs: &[Run]) -> String {
    let case = Case::Recovery1m;
    let mut text = String::new();
    for (name, who) in [("blocked_ms", "that database"), ("blocked_other_ms", "another, small database")] {
        let wait = |subject| row(runs, case, subject).and_then(|row| row.beside.get(name).copied());
        let say = |wait: Option<f64>| wait.map_or_else(|| "-".into(), |ms| format!("{ms:.0} ms"));
        let (ours, theirs) = (wait(Subject::Steadfast), wait(Subject::Ctdb));
        if ours.is_some() || theirs.is_some() {
            let (word, ours, theirs) = (case.word(), say(ours), say(theirs));
            let _ =
                writeln!(text, "`{word}`: longest wait of a client of {who}, median: steadfast {ours}, ctdb {theirs}.");
        }
    }
    text
}

/// What is wanted of the case.
fn target(case: Case) -> &'static str {
    match case.work() {
        Some(super::Work::FetchRing) => "2",
        Some(super::Work::MessageRing) => "1.5",
        Some(super::Work::Transactions | super::Work::Recovery) => "3",
        None => "-",
    }
}

fn cell(row: Option<&Row>) -> String {
    let Some(r) = row else { return "-".into() };
    let failed = if r.failed > 0 { format!(", {} failed", r.failed) } else { String::new() };
    let unfinished = if r.unfinished > 0 { format!(", {} not over", r.unfinished) } else { String::new() };
    format!("**{}{:.0}** ({:.0} to {:.0}; {} runs{unfinished}{failed})", r.more(), r.median, r.min, r.max, r.n)
}

fn markdown(wanted: usize, runs: &[Run]) -> String {
    let mut text = format!(
        "    scripts/bench db --runs {wanted}\n\n\
         Medians (least to most). Rings: turns in a second as each node sees them. Transactions: of the whole cluster.\n\
         {NOTE} Raw figures: [benchmarks/db.json](benchmarks/db.json).\n\n\
         | case | unit | Steadfast | Debian's ctdbd | times as fast | target |\n|---|---|---|---|---|---|\n"
    );
    for case in Case::ALL {
        let (ours, theirs) = (row(runs, case, Subject::Steadfast), row(runs, case, Subject::Ctdb));
        let times = ours.as_ref().zip(theirs.as_ref()).and_then(|(o, t)| times(case, o, t));
        let times = times.unwrap_or_else(|| "-".into());
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {times} | {} |",
            case.word(),
            case.unit(),
            cell(ours.as_ref()),
            cell(theirs.as_ref()),
            target(case)
        );
    }
    let waits = waits(runs);
    if !waits.is_empty() {
        text = text + "\n" + &waits;
    }
    let when = |unix: Option<u64>| {
        unix.map_or_else(|| "?".into(), |u| says(&["date", "-u", "-d", &format!("@{u}"), "+%Y-%m-%d %H:%M"]))
    };
    let loads: Vec<f64> = runs.iter().map(|r| r.load).collect();
    let _ = write!(
        text,
        "\nMachine: {}. {}. Runs from {} to {} UTC, load average before a run {:.1} (median), {:.1} at most.\n",
        machine(),
        versions(),
        when(runs.iter().map(|r| r.unix).min()),
        when(runs.iter().map(|r| r.unix).max()),
        percentile(&loads, 50.0),
        percentile(&loads, 100.0),
    );
    text
}

/// Replaces the part between the marks; a page without marks gets it at its end.
pub(super) fn write_markdown(page: &Path, wanted: usize, runs: &[Run]) -> Result<()> {
    let old = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let new = replaced(&old, &markdown(wanted, runs), BEGIN, END);
    std::fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(subject: Subject, case: Case, number: usize, value: Option<f64>) -> Run {
        Run { value, ..Run::new(subject, case, number, 1) }
    }

    #[test]
    fn faster_is_more_turns_and_less_time() {
        let runs = [
            run(Subject::Steadfast, Case::FetchRing2, 0, Some(4000.0)),
            run(Subject::Ctdb, Case::FetchRing2, 0, Some(1000.0)),
            run(Subject::Ctdb, Case::FetchRing2, 1, None),
            run(Subject::Steadfast, Case::Recovery1m, 0, Some(500.0)),
            run(Subject::Ctdb, Case::Recovery1m, 0, Some(5000.0)),
            run(Subject::Steadfast, Case::MessageRing4, 0, Some(5000.0)),
        ];
        let text = markdown(5, &runs);
        assert!(text.contains("| **1000** (1000 to 1000; 1 runs, 1 failed) | 4.0 | 2 |"), "{text}");
        assert!(text.contains("| 10.0 | 3 |"), "{text}");
        assert!(!text.contains("longest wait"), "{text}");
        assert!(text.contains("| `message-ring-4` | 1/s | **5000** (5000 to 5000; 1 runs) | - | - | 1.5 |"), "{text}");
    }

    #[test]
    fn a_time_that_nobody_waited_for_is_a_bound() {
        let not_over = |number| Run { unfinished: true, ..run(Subject::Ctdb, Case::Recovery1m, number, Some(5000.0)) };
        let mut runs = vec![run(Subject::Steadfast, Case::Recovery1m, 0, Some(500.0)), not_over(0), not_over(1)];
        let text = markdown(5, &runs);
        assert!(text.contains("| **> 5000** (5000 to 5000; 2 runs, 2 not over) | > 10.0 | 3 |"), "{text}");
        runs[0].unfinished = true;
        assert!(markdown(5, &runs).contains("2 not over) | - | 3 |"));
    }

    #[test]
    fn who_waits_for_a_recovery_is_told() {
        let mut ours = run(Subject::Steadfast, Case::Recovery1m, 0, Some(500.0));
        ours.beside.insert("blocked_other_ms".into(), 21.4);
        let text = markdown(5, &[ours]);
        assert!(text.contains("another, small database, median: steadfast 21 ms, ctdb -.\n\nMachine"), "{text}");
        assert!(!text.contains("that database"), "{text}");
    }
}
