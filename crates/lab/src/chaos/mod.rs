//! Random faults for a given time under real clients: what may happen to files, locks and counters, and what not.
//!
//! Four nodes with Samba (`clustering = yes`) and Ganesha. On every address clients of all kinds ([`clients`]): an SMB
//! client that counts in one file of all, under a lock, opens another file for itself alone, and writes blocks of its own
//! ([`smb`]); an NFSv3 and an NFSv4 writer; and an NFSv4 client that counts under a lock ([`nfs_count`]). One step of faults
//! after the other ([`plan`] draws them from the seed, [`hurt`] does them). After each round all is mended, every
//! acknowledged block is read through another address, and the history of locks and counters is judged ([`history`]).
//! The ARP watcher asks for all addresses the whole time.

mod clients;
mod history;
mod hurt;
mod nfs_count;
mod plan;
mod report;
mod smb;

use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::probe::arp::to_and_fro;
use crate::probe::run::Probe;
use crate::site::Storage;
use crate::{cases, site, steadfast};
use anyhow::{Context, Result, bail};
use clients::{Clients, Planted};
use plan::{Fault, Marks, Plan, Possible};
use report::Report;
use std::time::{Duration, Instant};

/// Files and histories of a round are kept in memory.
const ROUND: Duration = Duration::from_secs(480);
/// With all nodes mended, every address is held after so long, on a machine with other work.
const HELD_WITHIN: Duration = Duration::from_secs(60);
/// And three nodes are members: one that was lost again and again is let in after 192 s.
const THREE_WITHIN: Duration = Duration::from_secs(300);
const WHOLE_WITHIN: Duration = Duration::from_secs(400);
const HEALED_WITHIN: Duration = Duration::from_secs(300);
/// The watcher asks every 50 ms. Two that both answer are heard to and fro within one question; under faults a move that is
/// taken back at once, because the new host fails in that moment, is a matter of 100 ms.
const BOTH: Duration = Duration::from_millis(75);
/// Ganesha's grace period, until it notices its end, and until a new host with locks is known.
const LOCKED_WITHIN: Duration = Duration::from_secs(25);
/// Clients go on for so long on a whole cluster: who does not come back then never will.
const CALM: Duration = Duration::from_secs(10);

/// How it is done.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// For so long
    #[arg(long, default_value_t = 15.0)]
    pub(crate) minutes: f64,
    /// The same seed gives the same faults (not the same moments: the servers are real). Default: from the time of day
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// One JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep the nodes' logs whatever comes of it
    #[arg(long)]
    pub(crate) keep_logs: bool,
    /// Falsify something, to see that it is found
    #[arg(long, value_enum, hide = true)]
    pub(crate) planted: Option<Planted>,
}

impl Options {
    /// As words, the seed being drawn.
    pub(crate) fn words(&self) -> Vec<String> {
        let seed = self.seed.unwrap_or_else(|| ::drill::now_us() % 1_000_000);
        let mut words = vec!["--minutes".into(), self.minutes.to_string(), "--seed".into(), seed.to_string()];
        words.extend(self.json.then(|| "--json".to_owned()));
        words.extend(self.keep_logs.then(|| "--keep-logs".to_owned()));
        words.extend(self.planted.iter().flat_map(|p| ["--planted".to_owned(), p.word().to_owned()]));
        words
    }
}

/// One run.
struct Chaos<'a> {
    lab: &'a Lab,
    progress: Progress,
    plan: Plan,
    planted: Option<Planted>,
    begun: Instant,
    report: Report,
}

/// Runs it in a fresh laboratory; 1 when something was violated or does not go on.
pub(crate) fn main(lab: &Lab, options: &Options) -> Result<i32> {
    let length = Duration::try_from_secs_f64(options.minutes * 60.0).context("--minutes: a positive number")?;
    let seed = options.seed.context("no --seed")?;
    let progress = Progress::to_stderr();
    progress.step(&format!("chaos for {} min, --seed {seed}", options.minutes));
    parts::up(lab, &progress)?;
    steadfast::form(lab, &progress)?;
    steadfast::settle(lab)?;
    parts::wait_nfs_writable(lab)?;
    let gluster = lab.site.storage == Storage::Gluster;
    let possible = Possible { gluster, private_net: lab.site.private_net };
    let report = Report {
        seed,
        minutes: options.minutes,
        storage: if gluster { "gluster" } else { "local" },
        began: jiff::Timestamp::now().to_string(),
        began_us: ::drill::now_us(),
        ..Report::default()
    };
    let plan = Plan::new(seed, lab.site.nodes, possible);
    let mut chaos = Chaos { lab, progress, plan, planted: options.planted, begun: Instant::now(), report };
    let end = chaos.begun + length;
    while Instant::now() < end && chaos.report.is_clean() {
        chaos.report.rounds += 1;
        let round = chaos.round(end.min(Instant::now() + ROUND));
        if let Err(e) = round {
            chaos.report.stuck(format!("round {}: {e:#}", chaos.report.rounds));
        }
    }
    let report = chaos.report;
    if (!report.is_clean() || options.keep_logs)
        && let Some(dir) = cases::keep_logs(lab, &format!("chaos-{seed}"))
    {
        std::fs::write(dir.join("report.json"), serde_json::to_string_pretty(&report)?)?;
        for (n, history) in report.histories.iter().enumerate() {
            std::fs::write(dir.join(format!("counter-{n}.csv")), history)?;
        }
        eprintln!("logs: {}", dir.display());
    }
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report.print();
    }
    Ok(i32::from(!report.is_clean()))
}

impl Chaos<'_> {
    /// Clients, faults until `end`, mending, judgement.
    fn round(&mut self, end: Instant) -> Result<()> {
        let tag = format!("chaos-{}-{}", self.report.seed, self.report.rounds);
        self.progress.step(&format!("round {}: clients", self.report.rounds));
        let watcher = Probe::arp(self.lab)?;
        watcher.wait_ok(0, Duration::from_secs(15))?;
        let mut clients = Clients::start(self.lab, &tag, self.planted)?;
        let hurt = self.hurt(end, &mut clients);
        self.progress.step("mending");
        hurt::mend_all(self.lab)?;
        let whole = self.whole();
        std::thread::sleep(CALM);
        self.progress.step("reading back and comparing");
        clients.finish(self.lab, &mut self.report)?;
        let seen = watcher.stop()?;
        self.report.arp_claims += seen.ok;
        self.report.holder_changes += seen.changes.len() as u64;
        let double = to_and_fro(&seen.changes, BOTH);
        self.report.violations.extend(double.into_iter().map(|d| format!("two holders of an address: {d}")));
        if seen.ok == 0 {
            self.report.stuck("the ARP watcher saw no claim at all".into());
        }
        hurt.and(whole)
    }

    fn whole(&self) -> Result<()> {
        let all: Vec<usize> = (0..self.lab.site.nodes).collect();
        steadfast::wait_whole(self.lab, &all, WHOLE_WITHIN)?;
        parts::wait_healed(self.lab, HEALED_WITHIN)
    }

    fn hurt(&mut self, end: Instant, clients: &mut Clients) -> Result<()> {
        while Instant::now() < end {
            let step = self.plan.step();
            let (there, leader) = self.served(clients)?;
            std::thread::sleep(step.calm);
            let lab = self.lab;
            let lock = if step.under_lock { self.locked(clients) } else { None };
            let marks = Marks { leader, lock };
            let apart = |a, b| lab.site.apart(a, b);
            let there = if step.majority { (0..lab.site.nodes).collect() } else { there };
            self.report.steps += 1;
            self.inflict(&step.on(&there, marks, apart), step.majority, clients)?;
        }
        Ok(())
    }

    /// Waits until a client has a lock over NFSv3: the node that serves it. None: they have to do without for too long.
    fn locked(&mut self, clients: &Clients) -> Option<usize> {
        let until = Instant::now() + LOCKED_WITHIN;
        while Instant::now() < until {
            if let Some(vip) = clients.with_nfs3_lock() {
                let told = self.lab.nodes_on().into_iter().find_map(|node| steadfast::status(self.lab, node).ok());
                let node = told.and_then(|status| status.holder(vip));
                self.report.steps_under_lock += u64::from(node.is_some());
                return node;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn inflict(&mut self, faults: &[(Fault, usize)], majority: bool, clients: &mut Clients) -> Result<()> {
        let tell = |(f, node): &(Fault, usize)| {
            let after = if f.after.is_zero() { String::new() } else { format!(" after {} ms", f.after.as_millis()) };
            format!("{} on {}{after} for {} ms", f.kind.word(), site::name(*node), f.lasts.as_millis())
        };
        let what = faults.iter().map(tell).collect::<Vec<_>>().join(", ");
        self.progress.step(&what);
        self.report.story.push(format!("{:.1} {what}", self.begun.elapsed().as_secs_f64()));
        // Where most nodes go nobody is left who knows whom to tell.
        let frees = majority || faults.iter().any(|(f, _)| f.kind.frees_nfs3_locks(self.plan.possible));
        if frees {
            clients.rest()?;
        }
        let not_made = hurt::all(self.lab, faults)?;
        if frees {
            clients.go()?;
        }
        for (fault, _) in faults {
            *self.report.faults.entry(fault.kind.word()).or_default() += 1;
        }
        for what in not_made {
            self.progress.step(&format!("not made: {what}"));
            self.report.not_made.push(what);
        }
        Ok(())
    }

    /// Waits until every address is held and three nodes are members, and (where replicas may differ) these are healed;
    /// meanwhile something small happens now and then. The members and the leader.
    fn served(&mut self, clients: &mut Clients) -> Result<(Vec<usize>, Option<usize>)> {
        let mended = Instant::now();
        let mut held = None;
        let mut next = mended + Duration::from_secs(8);
        loop {
            let (members, _) = serving(self.lab);
            if !members.is_empty() {
                held.get_or_insert_with(|| mended.elapsed());
            }
            if held.is_none() && mended.elapsed() > HELD_WITHIN {
                bail!("{} s after all was mended: addresses nobody holds\n{}", HELD_WITHIN.as_secs(), self.told());
            }
            if members.len() >= 3 {
                break;
            }
            if mended.elapsed() > THREE_WITHIN {
                bail!("{} s after all was mended: members {members:?}\n{}", THREE_WITHIN.as_secs(), self.told());
            }
            if held.is_some() && Instant::now() > next {
                next = Instant::now() + Duration::from_secs(8);
                let fault = self.plan.mild();
                if let Some(node) = members.get(fault.node % members.len().max(1)) {
                    self.inflict(&[(fault, *node)], false, clients)?;
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let until = |longest: f64, time: Duration| longest.max(time.as_secs_f64());
        self.report.longest_until_three_s = until(self.report.longest_until_three_s, mended.elapsed());
        self.report.longest_until_held_s = until(self.report.longest_until_held_s, held.unwrap_or_default());
        parts::wait_healed(self.lab, HEALED_WITHIN)?;
        Ok(serving(self.lab))
    }

    fn told(&self) -> String {
        self.lab.nodes_on().iter().map(|n| steadfast::status_text(self.lab, *n) + "\n").collect()
    }
}

/// The members as one of them tells it, if every address is held; and who leads.
fn serving(lab: &Lab) -> (Vec<usize>, Option<usize>) {
    for node in lab.nodes_on() {
        if let Ok(status) = steadfast::status(lab, node)
            && status.snapshot.member
            && status.snapshot.vips.values().all(|v| v.state == "held")
        {
            let members = status.snapshot.view.map(|v| v.members.into_keys().collect());
            return (members.unwrap_or_default(), status.snapshot.leader);
        }
    }
    (Vec::new(), None)
}
