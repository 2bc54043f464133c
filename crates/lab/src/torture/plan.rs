//! `steadfast-lab smbtorture`, from outside: the laboratories, what is run again, and what is kept.
//!
//! First every test once on both, at the same time. What differs without a known reason is run once more on both, in fresh
//! laboratories: some tests depend on time. What differs for multi-channel is run with that let on. All is on disk as soon
//! as it is known: `--append` goes on.

use super::drive::{Line, Plan, unix};
use super::{Column, Outcome, Row, Test, known, list, report};
use crate::args::Shape;
use crate::site::{Storage, Subject};
use crate::{launch, parts, strings};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Suites or tests (smb2.lock, smb2.lock.async, smb2.*.rw*); all
    tests: Vec<String>,
    /// Show the tests and end
    #[arg(long)]
    list: bool,
    /// Tests at a time under each system; most of them wait
    #[arg(long, default_value_t = 12)]
    jobs: usize,
    /// Seconds that a test may take
    #[arg(long, default_value_t = 150)]
    limit: u64,
    /// Begin no test later than this many minutes from now; --append goes on
    #[arg(long)]
    minutes: Option<f64>,
    /// Keep the runs that the raw file has, and do only those that are missing
    #[arg(long)]
    append: bool,
    /// Keep the raw file as DIR/benchmarks/smbtorture.json
    #[arg(long)]
    docs: Option<PathBuf>,
    /// The program under test (default: beside this one)
    #[arg(long)]
    steadfast: Option<PathBuf>,
}

/// The smallest cluster in which a client may come by two ways.
const NODES: usize = 2;

pub(crate) fn main(options: &Options) -> Result<i32> {
    let tests = list::chosen(&options.tests)?;
    if options.list {
        for test in &tests {
            println!("{:9}  {}", test.kind.words(), test.name);
        }
        return Ok(0);
    }
    if options.jobs == 0 || options.limit == 0 {
        bail!("--jobs and --limit: at least 1");
    }
    for subject in [Subject::Ctdb, Subject::Steadfast] {
        parts::check_programs(Storage::Local, subject)?;
    }
    launch::sweep();
    let raw = match &options.docs {
        Some(docs) => docs.join("benchmarks/smbtorture.json"),
        None => crate::artifacts("lab-logs").join("smbtorture.json"),
    };
    let until = options.minutes.map(|m| unix() + (m * 60.0) as u64);
    let rows = if options.append && raw.exists() { read(&raw)? } else { Vec::new() };
    let mut work = Work { options, tests, rows, raw, until, begun: Instant::now() };
    let code = work.all()?;
    let found = report::report(&work.chosen());
    print!("{}", found.text);
    eprintln!("raw data: {}; what tests printed: {}", work.raw.display(), logs().display());
    Ok(if code == 0 { i32::from(!found.good) } else { code })
}

fn logs() -> PathBuf {
    crate::artifacts("lab-logs").join("smbtorture")
}

fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what this program writes", path.display()))
}

struct Work<'a> {
    options: &'a Options,
    tests: Vec<Test>,
    /// What is known, of tests that were not chosen too.
    rows: Vec<Row>,
    raw: PathBuf,
    until: Option<u64>,
    begun: Instant,
}

/// A laboratory that is at work.
struct Running {
    column: Column,
    of: usize,
    out: PathBuf,
    plan: PathBuf,
    /// Bytes of `out` that were read.
    taken: usize,
    done: usize,
}

impl Work<'_> {
    fn row(&mut self, test: &str, kind: super::Kind) -> &mut Row {
        let at = self.rows.iter().position(|r| r.test == test && r.kind == kind);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row { test: test.to_owned(), kind, ..Row::default() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// The rows of the tests that were chosen, in the list's order.
    fn chosen(&self) -> Vec<Row> {
        let of = |test: &Test| {
            let found = self.rows.iter().find(|r| r.test == test.name && r.kind == test.kind);
            found.cloned().unwrap_or_else(|| Row { test: test.name.clone(), kind: test.kind, ..Row::default() })
        };
        self.tests.iter().map(of).collect()
    }

    /// What is to be done next, by system: first runs; when all have one, second ones and proofs.
    fn todo(&self) -> Vec<(Column, Vec<Test>)> {
        let rows = self.chosen();
        let of = |wanted: &dyn Fn(&Row) -> bool| -> Vec<Test> {
            let pairs = self.tests.iter().zip(&rows);
            pairs.filter(|(_, row)| wanted(row)).map(|(test, _)| test.clone()).collect()
        };
        let both = [Column::Ctdb, Column::Steadfast];
        let mut todo: Vec<_> = both.map(|column| (column, of(&|row| row.runs(column).is_empty()))).into();
        if todo.iter().all(|(_, tests)| tests.is_empty()) {
            todo = both.map(|column| (column, of(&|row| again(row, column)))).into();
            todo.push((Column::MultiChannel, of(&proof)));
        }
        todo.retain(|(_, tests)| !tests.is_empty());
        todo
    }

    /// Laboratories until all is done or the time is over; 130 when it was interrupted.
    fn all(&mut self) -> Result<i32> {
        loop {
            let todo = self.todo();
            if todo.is_empty() || self.until.is_some_and(|until| unix() > until) {
                return Ok(0);
            }
            let code = self.together(todo.clone())?;
            if code == 130 {
                return Ok(130);
            }
            if self.todo() == todo {
                bail!("no test was run: what the laboratories say is above");
            }
        }
    }

    fn together(&mut self, todo: Vec<(Column, Vec<Test>)>) -> Result<i32> {
        let (mut running, mut waiting) = (Vec::new(), Vec::new());
        for (column, tests) in todo {
            let (lab, launched) = self.start(column, tests)?;
            running.push(lab);
            waiting.push(std::thread::spawn(move || launched.wait()));
        }
        let mut said = Instant::now();
        while waiting.iter().any(|w| !w.is_finished()) {
            std::thread::sleep(Duration::from_millis(500));
            self.collect(&mut running)?;
            if said.elapsed() > Duration::from_secs(30) {
                said = Instant::now();
                self.say(&running);
            }
        }
        self.collect(&mut running)?;
        self.say(&running);
        for lab in running {
            // A laboratory that did not come up has written nothing.
            let _ = std::fs::remove_file(lab.out);
            let _ = std::fs::remove_file(lab.plan);
        }
        let mut code = 0;
        for thread in waiting {
            match thread.join() {
                Ok(ended) => code = code.max(ended?),
                Err(_) => bail!("a thread that waits for a laboratory ended"),
            }
        }
        Ok(code)
    }

    fn start(&self, column: Column, tests: Vec<Test>) -> Result<(Running, launch::Launched)> {
        let word = word(column);
        let logs = logs().join(word);
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let id = format!("{}-{word}", crate::new_id());
        let dir = crate::artifacts("lab-logs");
        let (out, file) = (dir.join(format!("{id}.lines")), dir.join(format!("{id}.plan")));
        let of = tests.len();
        let plan = Plan {
            tests,
            jobs: self.options.jobs,
            limit: self.options.limit,
            until: self.until,
            multi_channel: column == Column::MultiChannel,
            out: out.clone(),
            logs,
        };
        std::fs::write(&file, serde_json::to_string(&plan)?)?;
        let shape = Shape {
            nodes: NODES,
            clustering: true,
            subject: if column == Column::Ctdb { Subject::Ctdb } else { Subject::Steadfast },
            ..Shape::reference(Storage::Local, self.options.steadfast.clone())
        };
        shape.site(&id)?;
        let mut words = strings(&["smbtorture"]);
        words.extend(shape.words());
        words.extend(["--plan".into(), file.display().to_string()]);
        let launched = launch::Launched::start(&id, &words)?;
        Ok((Running { column, of, out, plan: file, taken: 0, done: 0 }, launched))
    }

    /// Takes what the laboratories have written since the last time.
    fn collect(&mut self, running: &mut [Running]) -> Result<()> {
        let mut news = false;
        for lab in running {
            let Ok(text) = std::fs::read_to_string(&lab.out) else { continue };
            let whole = text.rfind('\n').map_or(0, |at| at + 1);
            for line in text[lab.taken..whole].lines() {
                let line: Line = serde_json::from_str(line)?;
                self.row(&line.test, line.kind).runs_mut(lab.column).push(line.outcome);
                lab.done += 1;
                news = true;
            }
            lab.taken = whole;
        }
        if news { self.keep() } else { Ok(()) }
    }

    fn say(&self, running: &[Running]) {
        let parts = running.iter().map(|lab| format!("{} {} of {}", word(lab.column), lab.done, lab.of));
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        eprintln!("[{minutes:5.1} min] {}", parts.collect::<Vec<_>>().join(", "));
    }

    /// Writes the raw file anew, whole or not at all; a test on each line.
    fn keep(&mut self) -> Result<()> {
        self.rows.sort_by(|a, b| (a.kind, &a.test).cmp(&(b.kind, &b.test)));
        if let Some(dir) = self.raw.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let lines: Vec<String> = self.rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        let new = self.raw.with_extension("new");
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        std::fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
        std::fs::rename(&new, &self.raw).with_context(|| format!("cannot write {}", self.raw.display()))
    }
}

fn word(column: Column) -> &'static str {
    match column {
        Column::Ctdb => "ctdb",
        Column::Steadfast => "steadfast",
        Column::MultiChannel => "multi-channel",
    }
}

/// A difference without a reason is looked at twice, on both.
fn again(row: &Row, column: Column) -> bool {
    let once = |column| row.runs(column).len() == 1;
    let both = once(Column::Ctdb) || once(Column::Steadfast);
    both && once(column)
        && known::why(&row.test, row.kind).is_none()
        && (row.differs() || row.ctdb.len() != row.steadfast.len())
}

/// Is there something to be shown with multi-channel let on? Twice at most, as with the others.
fn proof(row: &Row) -> bool {
    let for_it = row.differs() && known::why(&row.test, row.kind).is_some_and(known::Why::is_multi_channel);
    let wanted = row.verdict(Column::Ctdb) == Some(Outcome::Pass);
    let shown = row.verdict(Column::MultiChannel).map(|o| o == Outcome::Pass);
    for_it && shown != Some(wanted) && row.multi_channel.len() < 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Fail, Pass};

    #[test]
    fn a_difference_is_looked_at_twice_on_both() {
        let row = |ctdb: &[Outcome], steadfast: &[Outcome]| Row {
            test: "smb2.x".into(),
            ctdb: ctdb.into(),
            steadfast: steadfast.into(),
            ..Row::default()
        };
        let todo = |row: &Row| [again(row, Column::Ctdb), again(row, Column::Steadfast)];
        assert_eq!(todo(&row(&[Pass], &[Pass])), [false, false]);
        assert_eq!(todo(&row(&[Pass], &[Fail])), [true, true]);
        assert_eq!(todo(&row(&[Fail], &[Pass])), [true, true]);
        // Interrupted in between, though the first one has changed what is thought of it.
        assert_eq!(todo(&row(&[Pass], &[Fail, Pass])), [true, false]);
        assert_eq!(todo(&row(&[Pass, Pass], &[Fail, Fail])), [false, false]);
    }

    #[test]
    fn a_reason_is_proved_once_and_tried_twice() {
        let mut row =
            Row { test: "smb2.session.bind1".into(), ctdb: vec![Pass], steadfast: vec![Fail], ..Row::default() };
        assert!(proof(&row) && !again(&row, Column::Ctdb));
        row.multi_channel = vec![Fail];
        assert!(proof(&row));
        row.multi_channel = vec![Fail, Fail];
        assert!(!proof(&row));
        row.multi_channel = vec![Pass];
        assert!(!proof(&row));
    }
}
