//! What the runs say: a table for the terminal, one JSON object, and the failover part of docs/benchmarks.md.

use super::{Fault, PROBES, Run, round};
use crate::site::{Storage, Subject};
use anyhow::{Context, Result};
use drill::percentile;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// All systems, in the order in which they are shown.
pub(super) const SUBJECTS: [Subject; 4] =
    [Subject::Steadfast, Subject::SteadfastFast, Subject::Ctdb, Subject::CtdbTuned];

/// The written parts of the page, one for each kind of storage, lie between these two lines; what is outside is left alone.
fn marks(storage: Storage) -> [&'static str; 2] {
    match storage {
        Storage::Gluster => [
            "<!-- failover: written by scripts/bench failover; what is between these marks is replaced -->",
            "<!-- failover: end -->",
        ],
        Storage::Local => [
            "<!-- failover on a shared directory: written by scripts/bench failover --storage local; what is between these \
             marks is replaced -->",
            "<!-- failover on a shared directory: end -->",
        ],
    }
}

fn title(subject: Subject) -> &'static str {
    match subject {
        Subject::Steadfast => "Steadfast",
        Subject::SteadfastFast => "Steadfast, fast preset",
        Subject::Ctdb => "CTDB, defaults",
        Subject::CtdbTuned => "CTDB, tuned",
        Subject::Parts => "parts",
    }
}

/// The daemon with its fast preset only where it was tried; the others always.
fn columns(runs: &[Run]) -> Vec<Subject> {
    let fast = runs.iter().any(|r| r.subject == Subject::SteadfastFast);
    SUBJECTS.into_iter().filter(|s| *s != Subject::SteadfastFast || fast).collect()
}

/// The two first lines of a table.
fn head(first: &str, columns: &[Subject]) -> String {
    let titles: Vec<&str> = columns.iter().map(|s| title(*s)).collect();
    format!("| {first} | client | target | {} |\n|---|---|---|{}\n", titles.join(" | "), "---|".repeat(columns.len()))
}

/// One client under one fault and one system.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    case: Fault,
    subject: Subject,
    storage: Storage,
    probe: &'static str,
    unit: &'static str,
    n: usize,
    p50: f64,
    p99: f64,
    max: f64,
    /// Runs in which it was not served again as long as it was waited for: their figures are lower bounds.
    never: usize,
    errors: u64,
    /// Runs in which two nodes answered for one address at the same time.
    double: usize,
    /// Runs without figures.
    failed: usize,
}

fn row(runs: &[Run], case: Fault, subject: Subject, probe: &'static str) -> Option<Row> {
    let rejoin = case == Fault::Rejoin;
    let of = |r: &&Run| r.subject == subject && if rejoin { r.case.is_power_off() } else { r.case == case };
    figured(&runs.iter().filter(of).collect::<Vec<_>>(), case, subject, probe, rejoin)
}

/// What a client saw when the fault was over: the node, its link or its service came back.
fn row_back(runs: &[Run], case: Fault, subject: Subject, probe: &'static str) -> Option<Row> {
    let mine: Vec<&Run> = runs.iter().filter(|r| r.subject == subject && r.case == case).collect();
    figured(&mine, case, subject, probe, true)
}

fn figured(mine: &[&Run], case: Fault, subject: Subject, probe: &'static str, back: bool) -> Option<Row> {
    let storage = mine.first()?.storage;
    // A node that did not come back was not seen coming back.
    let figured = mine.iter().filter(|r| !back || r.failure.is_none());
    let seen: Vec<_> = figured.filter_map(|r| r.probes.get(probe)).collect();
    let ms: Vec<f64> = seen.iter().map(|f| if back { f.mended_ms } else { f.fault_ms }).collect();
    Some(Row {
        case,
        subject,
        storage,
        probe,
        unit: "ms",
        n: ms.len(),
        p50: round(percentile(&ms, 50.0)),
        p99: round(percentile(&ms, 99.0)),
        max: round(percentile(&ms, 100.0)),
        never: seen.iter().filter(|f| f.never).count(),
        errors: seen.iter().map(|f| f.errors).sum(),
        double: mine.iter().filter(|r| r.double > 0).count(),
        failed: mine.iter().filter(|r| r.failure.is_some()).count(),
    })
}

fn rows(runs: &[Run]) -> Vec<Row> {
    let mut all = Vec::new();
    for case in Fault::ALL {
        for probe in PROBES {
            for subject in SUBJECTS {
                all.extend(row(runs, case, subject, probe));
            }
        }
    }
    all
}

pub(super) fn json(runs: &[Run]) -> Result<String> {
    Ok(serde_json::to_string(&serde_json::json!({"bench": "failover", "rows": rows(runs)}))?)
}

pub(super) fn text(runs: &[Run]) -> String {
    let mut text = String::from(
        "case                  probe         subject      n   p50 ms   p99 ms   max ms  never  errors  double  failed\n",
    );
    for r in rows(runs) {
        let _ = writeln!(
            text,
            "{:21} {:13} {:10} {:3} {:8.0} {:8.0} {:8.0} {:6} {:7} {:7} {:7}",
            r.case.word(),
            r.probe,
            r.subject.word(),
            r.n,
            r.p50,
            r.p99,
            r.max,
            r.never,
            r.errors,
            r.double,
            r.failed
        );
    }
    text
}

/// What this project wants of itself; milliseconds, medians.
fn target(case: Fault, probe: &str) -> &'static str {
    match (case, probe) {
        (Fault::PowerOff | Fault::LeaderPowerOff, "tcp" | "nfs3-moved") => "900",
        (Fault::PowerOff | Fault::LeaderPowerOff, "nfs3-unmoved") => "1000",
        (Fault::DaemonKilled, "tcp" | "nfs3-moved") => "150",
        (Fault::DaemonStopped, "tcp" | "nfs3-moved") => "1200",
        (Fault::LinkDown, "tcp" | "nfs3-moved") => "300",
        // The lease decides: nobody can say anything.
        (Fault::LinkDownOneNetwork, "tcp" | "nfs3-moved") => "900",
        (Fault::ServiceKilled, "nfs3-moved") => "500",
        (Fault::Drain | Fault::Rejoin, "tcp" | "nfs3-moved") => "200",
        (Fault::Rejoin, _) => "200",
        // A lost link takes a GlusterFS server away.
        (Fault::LinkDownOneNetwork, "nfs3-unmoved") => "1000",
        _ => "100",
    }
}

fn cell(row: Option<Row>) -> String {
    let Some(r) = row else { return "-".into() };
    let mut text = format!("**{:.0}** / {:.0} ({})", r.p50, r.max, r.n);
    if r.never > 0 {
        let _ = write!(text, ", {} not back", r.never);
    }
    if r.errors > 0 {
        let _ = write!(text, ", {} errors", r.errors);
    }
    if r.double > 0 && r.probe == PROBES[0] {
        let _ = write!(text, ", two holders in {}", r.double);
    }
    if r.failed > 0 {
        let _ = write!(text, ", {} runs failed", r.failed);
    }
    text
}

/// First line that a program prints; "?" without it.
pub(super) fn says(words: &[&str]) -> String {
    let done = Command::new(words[0]).args(&words[1..]).output();
    let text = done.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("?").trim().to_owned()
}

pub(super) fn machine() -> String {
    let proc = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or("").to_owned();
        line.split(':').nth(1).unwrap_or("?").trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kib: u64 =
        field(&proc("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(0);
    format!(
        "{cores} cores ({}), {} GB, Linux {}",
        field(&proc("/proc/cpuinfo"), "model name"),
        (kib + 524_288) / 1_048_576,
        says(&["uname", "-r"])
    )
}

pub(super) fn versions() -> String {
    let of = |package: &str| says(&["dpkg-query", "-W", "-f", "${Version}\n", package]);
    ["ctdb", "samba", "nfs-ganesha", "glusterfs-server"].map(|p| format!("{p} {}", of(p))).join(", ")
}

/// A file has runs on one kind of storage.
fn storage(runs: &[Run]) -> Storage {
    runs.first().map_or(Storage::Gluster, |r| r.storage)
}

fn markdown(name: &str, runs: &[Run]) -> String {
    let mut text = String::new();
    let storage = if storage(runs) == Storage::Gluster { "gluster" } else { "local" };
    let words = |all: BTreeSet<&'static str>| all.into_iter().collect::<Vec<_>>().join(",");
    let cases = words(runs.iter().map(|r| r.case.word()).collect());
    let subjects = words(runs.iter().map(|r| r.subject.word()).collect());
    let most = runs.iter().map(|r| r.run + 1).max().unwrap_or(0);
    let _ = write!(
        text,
        "    scripts/bench failover --storage {storage} --runs {most} --case {cases} --subject {subjects}\n\n\
         Longest gap that a client saw, in milliseconds: **median** / maximum (runs). Below 25 ms (TCP) and 80 ms (NFSv3)\n\
         a gap counts as none. Of an even number of runs the median is the lower of the two in the middle; with fewer than 100 runs the 99th percentile is the maximum. `target` is what we want of the\n\
         median under Steadfast. Raw figures, one run per line, with every gap: [benchmarks/{name}](benchmarks/{name}).\n\n"
    );
    let columns = columns(runs);
    text.push_str(&head("fault", &columns));
    for case in Fault::ALL {
        for probe in PROBES {
            let cells: Vec<_> = columns.iter().map(|s| row(runs, case, *s, probe)).collect();
            if cells.iter().all(Option::is_none) {
                continue;
            }
            let cells = cells.into_iter().map(cell).collect::<Vec<_>>().join(" | ");
            let _ = writeln!(text, "| {} | `{probe}` | {} | {cells} |", case.word(), target(case, probe));
        }
    }
    text.push_str(&back(runs));
    let loads: Vec<f64> = runs.iter().map(|r| r.load).collect();
    let when = |unix: Option<u64>| {
        unix.map_or_else(|| "?".into(), |u| says(&["date", "-u", "-d", &format!("@{u}"), "+%Y-%m-%d %H:%M"]))
    };
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

/// The way back from the faults that `rejoin` does not show. Nothing, if there are none.
fn back(runs: &[Run]) -> String {
    let mut text = String::new();
    let columns = columns(runs);
    for case in Fault::ALL.into_iter().filter(|case| case.is_undone()) {
        for probe in PROBES {
            let cells: Vec<_> = columns.iter().map(|s| row_back(runs, case, *s, probe)).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(cell).collect::<Vec<_>>().join(" | ");
                let _ = writeln!(text, "| {} | `{probe}` | 200 | {cells} |", case.word());
            }
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "\nThe longest gap when what was broken comes back, other than by a power cut (`rejoin`):\n\n{}{text}",
        head("back from", &columns)
    )
}

/// Replaces the part between the marks; a page without marks gets it at its end.
pub(super) fn write_markdown(page: &Path, name: &str, runs: &[Run]) -> Result<()> {
    let old = std::fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let [begin, end] = marks(storage(runs));
    let new = replaced(&old, &markdown(name, runs), begin, end);
    std::fs::write(page, new).with_context(|| format!("cannot write {}", page.display()))
}

pub(super) fn replaced(old: &str, part: &str, begin: &str, end: &str) -> String {
    let marked = format!("{begin}\n\n{part}\n{end}");
    match (old.find(begin), old.find(end)) {
        (Some(from), Some(to)) if from < to => format!("{}{marked}{}", &old[..from], &old[to + end.len()..]),
        _ => format!("{}\n\n{marked}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Figures;

    fn run(subject: Subject, case: Fault, number: usize, ms: f64) -> Run {
        let figures = Figures { fault_ms: ms, mended_ms: ms / 10.0, ..Figures::default() };
        Run {
            subject,
            storage: Storage::Gluster,
            case,
            run: number,
            unix: 1,
            load: 0.5,
            victim: "gluster2".into(),
            fault_at_us: 1,
            mended_at_us: 2,
            seconds: 9.0,
            failure: None,
            notes: Vec::new(),
            double: 0,
            probes: [("tcp".to_owned(), figures)].into(),
        }
    }

    #[test]
    fn both_systems_stand_side_by_side() {
        let runs = [
            run(Subject::Steadfast, Fault::PowerOff, 0, 600.0),
            run(Subject::Steadfast, Fault::PowerOff, 1, 700.0),
            run(Subject::Ctdb, Fault::LeaderPowerOff, 0, 45_000.0),
            run(Subject::Ctdb, Fault::PowerOff, 0, 44_000.0),
        ];
        let text = markdown("x.json", &runs);
        assert!(text.contains("| power-off | `tcp` | 900 | **600** / 700 (2) | **44000** / 44000 (1) | - |"), "{text}");
        assert!(!text.contains("back from"), "{text}");
        let killed = markdown("x.json", &[run(Subject::Steadfast, Fault::DaemonKilled, 0, 50.0)]);
        assert!(killed.contains("| daemon-killed | `tcp` | 150 | **50** / 50 (1) | - | - |"), "{killed}");
        let back = killed.split("back from").nth(1).unwrap();
        assert!(back.contains("| daemon-killed | `tcp` | 200 | **5** / 5 (1) | - | - |"), "{killed}");
        // The return of a node is measured by both kinds of power cut.
        assert!(text.contains("| rejoin | `tcp` | 200 | **60** / 70 (2) | **4400** / 4500 (2) | - |"), "{text}");
    }

    #[test]
    fn the_fast_preset_has_a_column_where_it_was_tried() {
        let runs = [
            run(Subject::Steadfast, Fault::PowerOff, 0, 600.0),
            run(Subject::SteadfastFast, Fault::PowerOff, 0, 290.0),
        ];
        let text = markdown("x.json", &runs);
        assert!(
            text.contains("| fault | client | target | Steadfast | Steadfast, fast preset | CTDB, defaults | CTDB, tuned |\n|---|---|---|---|---|---|---|\n"),
            "{text}"
        );
        assert!(text.contains("| power-off | `tcp` | 900 | **600** / 600 (1) | **290** / 290 (1) | - | - |"), "{text}");
        assert!(text.contains("--subject steadfast,steadfast-fast"), "{text}");
        assert!(!markdown("x.json", &runs[..1]).contains("fast preset"));
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let [begin, end] = marks(Storage::Gluster);
        let first = replaced("# Page\n\nwords\n", "one\n", begin, end);
        assert!(first.starts_with("# Page\n\nwords\n\n<!--"));
        let more = format!("{first}\n## After\n");
        let second = replaced(&more, "two\n", begin, end);
        assert!(second.contains("\ntwo\n") && !second.contains("one") && second.ends_with("\n## After\n"));
        let [begin, end] = marks(Storage::Local);
        let third = replaced(&second, "three\n", begin, end);
        assert!(third.contains("\ntwo\n") && third.contains("\nthree\n"), "one part for each storage: {third}");
    }
}
