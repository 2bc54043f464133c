//! The task that runs the scripts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::PoisonError;
use std::time::SystemTime;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tracing::{info, warn};

use super::script::{self, End, Hung};
use super::{Event, Job, Outcome, Plan, Ran, Record, Records, scripts};

const MONITOR: &str = "monitor";

pub(super) struct Runner {
    plan: Plan,
    queue: UnboundedReceiver<Job>,
    waiting: VecDeque<Job>,
    records: Records,
    /// Why each script is not run, that was told in the log.
    told: BTreeMap<String, &'static str>,
    /// The unreadable directory was told.
    unreadable: bool,
}

impl Runner {
    pub(super) fn new(plan: Plan, queue: UnboundedReceiver<Job>, records: Records) -> Self {
        Self { plan, queue, waiting: VecDeque::new(), records, told: BTreeMap::new(), unreadable: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            let job = match self.waiting.pop_front() {
                Some(job) => job,
                None => match self.queue.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            self.work(job).await;
        }
    }

    /// Runs one event, while others come in.
    async fn work(&mut self, job: Job) {
        let pushed_aside = job.event.name == MONITOR;
        let list = self.scripts();
        let plan = self.plan.clone();
        let (event, until) = (job.event.clone(), job.timeout.map(|limit| Instant::now() + limit));
        let before = self.last(&event).map(|record| record.summary);
        let records = self.records.clone();
        let so_far = |record| insert(&records, &event, record);
        let mut run = Box::pin(run_all(&plan, &list, &event, until, job.all, &so_far));
        let mut open = true;
        let record = loop {
            tokio::select! {
                biased;
                more = self.queue.recv(), if open => match more {
                    Some(more) => {
                        let other = more.event.name != MONITOR;
                        enqueue(&mut self.waiting, more);
                        if pushed_aside && other {
                            break None;
                        }
                    }
                    // What has begun is carried to its end.
                    None => open = false,
                },
                record = &mut run => break Some(record),
            }
        };
        // Kills what still runs.
        drop(run);
        let outcome = match record {
            None => Outcome::Cancelled,
            Some(record) => {
                self.note(&event, before, &record);
                Outcome::Done(record)
            }
        };
        if let Some(reply) = job.reply {
            // Who asked may have gone.
            let _ = reply.send(outcome);
        }
    }

    fn last(&self, event: &Event) -> Option<Record> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).get(&event.name).cloned()
    }

    /// `before`: how the same event went the last time.
    fn note(&self, event: &Event, before: Option<i32>, record: &Record) {
        let words = [std::slice::from_ref(&event.name), &event.args].concat().join(" ");
        insert(&self.records, event, record.clone());
        // Of a monitor that goes on failing the core tells.
        let again = before == Some(record.summary) && event.name == MONITOR;
        match record.failure() {
            Some((ran, why)) if !again => warn!(output = %ran.output.trim_end(), "event {words}: {why}"),
            _ => {}
        }
        for ran in record.scripts.iter().filter(|ran| ran.result == 0 && event.name != MONITOR) {
            if !ran.output.trim().is_empty() {
                info!(script = %ran.name, "event {words}: {}", ran.output.trim_end());
            }
        }
    }

    /// The scripts as they are now; those that are not to be run here as disabled ones.
    fn scripts(&mut self) -> Vec<scripts::Script> {
        let mut list = match scripts::list(&self.plan.base) {
            Ok(list) => list,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    warn!(
                        "the event scripts below {} cannot be read and are not run: {error}",
                        self.plan.base.display()
                    );
                }
                return Vec::new();
            }
        };
        self.unreadable = false;
        let mut refused = BTreeSet::new();
        for script in list.iter_mut().filter(|script| script.enabled) {
            let Some(why) = self.plan.built_in.refuses(&script.name) else { continue };
            script.enabled = false;
            refused.insert(script.name.clone());
            if self.told.insert(script.name.clone(), why).is_none() {
                warn!("{} is not run, though it is enabled: {why}", script.path.display());
            }
        }
        self.told.retain(|name, _| refused.contains(name));
        list
    }
}

/// Puts a job behind the others. Of an address that leaves before its coming was told, nothing is told; what begins again
/// before its end was told goes on for the scripts; nor is anything said twice in a row that has no arguments and nobody who
/// waits for it.
fn enqueue(waiting: &mut VecDeque<Job>, job: Job) {
    if job.reply.is_none() {
        let undone = match job.event.name.as_str() {
            "releaseip" => Some("takeip"),
            "takeip" => Some("releaseip"),
            "startipreallocate" => Some("ipreallocated"),
            "startrecovery" => Some("recovered"),
            _ => None,
        };
        let same = |other: &Job| other.reply.is_none() && other.event.args == job.event.args;
        if let Some(undone) = undone
            && let Some(at) = waiting.iter().rposition(|other| other.event.name == undone && same(other))
        {
            waiting.remove(at);
            return;
        }
        if waiting.iter().any(|other| other.event.name == job.event.name && same(other)) {
            return;
        }
    }
    waiting.push_back(job);
}

fn insert(records: &Records, event: &Event, record: Record) {
    records.lock().unwrap_or_else(PoisonError::into_inner).insert(event.name.clone(), record);
}

/// `so_far` is told before somebody looks at a script that hangs.
async fn run_all(
    plan: &Plan,
    list: &[scripts::Script],
    event: &Event,
    until: Option<Instant>,
    all: bool,
    so_far: &(dyn Fn(Record) + Sync),
) -> Record {
    let args = [std::slice::from_ref(&event.name), &event.args].concat();
    let mut record = Record::default();
    for script in list {
        let begin = SystemTime::now();
        let ran = |end: &End, output| Ran {
            name: script.name.clone(),
            begin,
            end: SystemTime::now(),
            result: end.result(),
            output,
        };
        let hangs = |output| {
            let mut record = record.clone();
            record.scripts.push(ran(&End::TimedOut, output));
            if record.summary == 0 {
                record.summary = End::TimedOut.result();
            }
            so_far(record);
        };
        let (end, output) = if script.enabled {
            let hung = plan.hung.as_deref().map(|program| Hung { program, seen: &hangs });
            script::run(&script.path, &args, &plan.base, until, hung).await
        } else {
            (End::Exit(0), String::new())
        };
        let mut ran = ran(&end, output);
        if !script.enabled {
            ran.result = -libc::ENOEXEC;
        }
        let result = ran.result;
        record.scripts.push(ran);
        if script.enabled && result != 0 && record.summary == 0 {
            record.summary = result;
        }
        // The time is over for the others too.
        if end == End::TimedOut || (record.summary != 0 && !all) {
            break;
        }
    }
    record
}
