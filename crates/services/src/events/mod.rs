//! CTDB's event scripts: a single task runs them, one event at a time, in the order in which things happen.
//!
//! ```text
//!   Events::happened, Events::run ──> queue ──> runner: one script after the other, by name ──> records ──> Events::status
//! ```
//!
//! Nothing waits for it but who asks how an event went: addresses move, and databases recover, whatever a script does. A
//! `monitor` that runs is pushed aside by anything else that happens. An address that came and went before the scripts
//! heard of it is not told at all, so that scripts that hang have a short queue behind them.

mod runner;
mod script;
mod scripts;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use runner::Runner;
pub use scripts::{BuiltIn, LIBRARY, Script, enable, list, list_in};

/// How the scripts are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// CTDB's directory: `events/legacy` in it has the scripts, and it is their `CTDB_BASE`.
    pub base: PathBuf,
    pub built_in: BuiltIn,
    /// For all scripts of an event together.
    pub timeout: Duration,
    /// Run with a hung script's process id and the event's name before it is killed.
    pub hung: Option<PathBuf>,
}

/// An event and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub args: Vec<String>,
}

impl Event {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), args: Vec::new() }
    }

    /// An address has come to this node (`takeip`) or left it (`releaseip`).
    #[must_use]
    pub fn address(name: &str, interface: &str, address: std::net::IpAddr, prefix: u8) -> Self {
        Self { name: name.to_owned(), args: vec![interface.to_owned(), address.to_string(), prefix.to_string()] }
    }
}

/// How one script went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Without `.script`.
    pub name: String,
    pub begin: SystemTime,
    pub end: SystemTime,
    /// Its exit status, or a negative errno: `-ENOEXEC` for one that is not run.
    pub result: i32,
    /// What it wrote, from the end at most 4 KiB.
    pub output: String,
}

/// How the last run of an event went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// 0, or how the first script went that failed.
    pub summary: i32,
    pub scripts: Vec<Ran>,
}

impl Record {
    /// A script did not end in time, and was killed.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.summary == -libc::ETIMEDOUT
    }

    /// The script that failed, with its result in words and the first line of its output.
    #[must_use]
    pub fn failure(&self) -> Option<(&Ran, String)> {
        let ran = self.scripts.iter().find(|ran| ran.result != 0 && ran.result != -libc::ENOEXEC)?;
        let how = match ran.result {
            r if r == -libc::ETIMEDOUT => "was killed, for it did not end in time".to_owned(),
            r if r == -libc::EINTR => "was killed by a signal".to_owned(),
            r if r < 0 => "cannot be run".to_owned(),
            status => format!("ended with exit status {status}"),
        };
        let said = ran.output.lines().map(str::trim).find(|line| !line.is_empty());
        let said = said.map(|line| format!(": {line}")).unwrap_or_default();
        Some((ran, format!("{}.script {how}{said}", ran.name)))
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done(Record),
    /// Pushed aside by another event; only `monitor` is.
    Cancelled,
}

type Records = Arc<Mutex<BTreeMap<String, Record>>>;

struct Job {
    event: Event,
    timeout: Option<Duration>,
    /// Also after a script that fails.
    all: bool,
    reply: Option<oneshot::Sender<Outcome>>,
}

/// The handle to the runner. Cheap to clone; the runner ends when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Events {
    jobs: mpsc::UnboundedSender<Job>,
    records: Records,
    timeout: Duration,
    base: PathBuf,
}

impl Events {
    /// Starts the runner. What an administrator has enabled and is not run all the same is told in the log.
    #[must_use]
    pub fn spawn(plan: Plan) -> (Self, JoinHandle<()>) {
        let (jobs, queue) = mpsc::unbounded_channel();
        let records = Records::default();
        let (timeout, base) = (plan.timeout, plan.base.clone());
        let task = tokio::spawn(Runner::new(plan, queue, Arc::clone(&records)).run());
        (Self { jobs, records, timeout, base }, task)
    }

    /// Something has happened: the scripts will hear of it.
    pub fn happened(&self, event: Event) {
        self.put(event, Some(self.timeout), false, None);
    }

    /// As [`Self::happened`]; the outcome comes when it is there.
    pub fn run(&self, event: Event) -> oneshot::Receiver<Outcome> {
        self.run_within(event, Some(self.timeout), false)
    }

    /// With a time limit of its own (none: no limit), and with all scripts also after one that fails.
    pub fn run_within(&self, event: Event, timeout: Option<Duration>, all: bool) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        self.put(event, timeout, all, Some(reply));
        outcome
    }

    fn put(&self, event: Event, timeout: Option<Duration>, all: bool, reply: Option<oneshot::Sender<Outcome>>) {
        // The runner ends with the daemon; who waits for an outcome learns it by the reply's end.
        let _ = self.jobs.send(Job { event, timeout, all, reply });
    }

    /// Enables or disables a script by its name, without `.script`.
    ///
    /// # Errors
    /// There is no such script, or its mode cannot be changed.
    pub fn enable(&self, script: &str, on: bool) -> io::Result<()> {
        enable(&self.base, Path::new(LIBRARY), script, on)
    }

    /// How the last run of an event went, if it ever ran.
    #[must_use]
    pub fn status(&self, event: &str) -> Option<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(event).cloned()
    }
}

#[cfg(test)]
mod tests;
