//! Runs a drill: clients, fault, mending, report.

use crate::clients::{Line, Spec, Stream};
use crate::report::{Marks, Report};
use crate::{Fault, now_us};
use anyhow::{Context, Result, anyhow, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients are left alone for so long before the fault, and after all is well: the nodes tell each other of
/// connections within a second.
const CALM: Duration = Duration::from_millis(2500);
/// A stream works if its last success is no older.
const FRESH_US: u64 = 1_500_000;

/// Where a drill is played: a live cluster or the laboratory.
pub trait Stage {
    /// The process that calls [`crate::clients::main`], on a host where clients are.
    ///
    /// # Errors
    /// It cannot be started there.
    fn clients(&self) -> Result<Command>;
    /// Makes the fault. For [`Fault::Rejoin`]: cuts the power.
    ///
    /// # Errors
    /// It could not be made.
    fn inflict(&mut self, fault: Fault) -> Result<()>;
    /// Takes it back, as far as it does not mend itself.
    ///
    /// # Errors
    /// It could not; what is to be done by hand.
    fn mend(&mut self, fault: Fault) -> Result<()>;
    /// Why the cluster is not whole; nothing when it is.
    ///
    /// # Errors
    /// Nobody can be asked.
    fn not_whole(&self) -> Result<Option<String>>;
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The fault.
    pub fault: Fault,
    /// Name of the node that it hits.
    pub node: String,
    /// Addresses that the node holds.
    pub moved: Vec<String>,
    /// The clients.
    pub spec: Spec,
    /// How long clients, and then the cluster, are waited for.
    pub patience: Duration,
}

#[derive(Debug, Default)]
struct Heard {
    streams: Vec<Stream>,
    done: bool,
}

/// A process of clients; it ends with this value.
#[derive(Debug)]
pub struct Clients {
    child: Child,
    heard: Arc<Mutex<Heard>>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Clients {
    /// Starts `command`, which calls [`crate::clients::main`].
    ///
    /// # Errors
    /// It cannot be started, or does not listen.
    pub fn start(mut command: Command, spec: &Spec) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the clients")?;
        // Not an argument: it has a password.
        let mut stdin = child.stdin.as_ref().context("no pipe to the clients")?;
        writeln!(stdin, "{}", serde_json::to_string(spec)?)?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let out = child.stdout.take().context("no pipe from the clients")?;
        let told = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let mut heard = told.lock().unwrap_or_else(PoisonError::into_inner);
                match serde_json::from_str(&line) {
                    Ok(Line::Alive(streams)) => heard.streams = streams,
                    Ok(Line::Done(streams)) => *heard = Heard { streams, done: true },
                    Err(_) => {}
                }
            }
        });
        Ok(Self { child, heard })
    }

    fn with<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Clients that have not succeeded since `since_us`, or not lately; clients that cannot work are not waited for.
    fn waiting(&self, since_us: u64) -> Vec<String> {
        let now = now_us();
        let late =
            |s: &&Stream| s.wrong.is_none() && (s.last_us <= since_us || now.saturating_sub(s.last_us) > FRESH_US);
        self.with(|h| h.streams.iter().filter(late).map(|s| format!("{} to {}", s.protocol, s.vip)).collect())
    }

    /// What keeps clients from working at all, before any fault.
    fn unfit(&self) -> Option<String> {
        let why = |s: &Stream| Some(format!("{} to {}: {}", s.protocol, s.vip, s.wrong.as_ref()?));
        let all: Vec<String> = self.with(|h| h.streams.iter().filter_map(why).collect());
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Waits until each has succeeded after `since_us`, and lately; those that have not when patience is over.
    ///
    /// # Errors
    /// They have ended.
    pub fn wait(&mut self, since_us: u64, patience: Duration) -> Result<Option<String>> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the clients have ended by themselves ({status})");
            }
            let waiting = self.waiting(since_us);
            if waiting.is_empty() && !self.with(|h| h.streams.is_empty()) {
                return Ok(None);
            }
            if Instant::now() > end {
                return Ok(Some(format!("after {} s these do not go on: {}", patience.as_secs(), waiting.join(", "))));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends them; what they saw. Reading back takes a while: a minute longer than `patience` at most.
    ///
    /// # Errors
    /// They have ended before, or do not end.
    pub fn stop(mut self, patience: Duration) -> Result<Vec<Stream>> {
        drop(self.child.stdin.take());
        let end = Instant::now() + patience + Duration::from_secs(60);
        while Instant::now() < end {
            if self.with(|h| h.done) {
                return Ok(self.with(|h| h.streams.clone()));
            }
            if self.child.try_wait()?.is_some() && !self.with(|h| h.done) {
                std::thread::sleep(Duration::from_millis(200));
                if !self.with(|h| h.done) {
                    bail!("the clients ended without a report");
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the clients do not end")
    }
}

/// Runs it. `say` gets a line for every step. The fault is mended whatever happens.
///
/// # Errors
/// It could not be run, or not to the end; the fault is mended, or the error says what is to be done by hand.
pub fn conduct(stage: &mut dyn Stage, plan: &Plan, mut say: impl FnMut(&str)) -> Result<Report> {
    let mut clients = Clients::start(stage.clients()?, &plan.spec)?;
    say("clients begin");
    if let Some(why) = clients.wait(0, Duration::from_secs(60))? {
        bail!("nothing was done: {why}. Is the cluster well? steadfast status");
    }
    std::thread::sleep(CALM);
    if let Some(why) = clients.wait(now_us().saturating_sub(FRESH_US), Duration::from_secs(10))? {
        bail!("nothing was done: {why}");
    }
    if let Some(why) = clients.unfit() {
        bail!("nothing was done: {why}");
    }
    let mut notes = Vec::new();
    let mut marks = Marks { began_us: now_us(), ..Marks::default() };
    say(&format!("{} on {}", plan.fault, plan.node));
    marks.fault_us = now_us();
    if let Err(e) = stage.inflict(plan.fault) {
        return Err(match stage.mend(plan.fault) {
            Ok(()) => e.context("the fault could not be made"),
            Err(mend) => {
                anyhow!("the fault could not be made: {e:#}; nor taken back, in case it was made after all: {mend:#}")
            }
        });
    }
    let through = clients.wait(marks.fault_us + 500_000, plan.patience);
    std::thread::sleep(CALM);
    say("mending");
    marks.mended_us = now_us();
    stage.mend(plan.fault).with_context(|| format!("the {} is NOT mended", plan.fault))?;
    notes.extend(through?);
    say("waiting for the cluster to be whole");
    let end = Instant::now() + plan.patience;
    while let Some(why) = stage.not_whole().unwrap_or_else(|e| Some(format!("{e:#}"))) {
        if Instant::now() > end {
            notes.push(format!("after {} s the cluster is not whole: {why}", plan.patience.as_secs()));
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    notes.extend(clients.wait(now_us().saturating_sub(FRESH_US), plan.patience)?);
    std::thread::sleep(CALM);
    marks.ended_us = now_us();
    say("reading back and comparing");
    let streams = clients.stop(plan.patience)?;
    Ok(Report { fault: plan.fault, node: plan.node.clone(), moved: plan.moved.clone(), marks, streams, notes })
}
