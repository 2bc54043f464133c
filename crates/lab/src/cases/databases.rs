//! The clustered databases while a node is lost, as their clients see it.

use super::samba::{smbds, standing};
use super::{Ctx, vip_of};
use crate::probe::databases::{AtHand, Found};
use crate::smb::Session;
use crate::{parts, sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const PROBE: [&str; 3] = ["/usr/local/sbin/steadfast-lab", "probe", "client-of-databases"];
/// Of each node.
const WORKERS: usize = 6;
/// Work before the fault, and after it.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(4);

#[derive(Debug, Default, Clone)]
struct Seen {
    ready: bool,
    /// Increments and transactions that were acknowledged.
    volatile: u64,
    persistent: u64,
    /// The longest of each, once it has ended.
    longest: Option<(f64, f64)>,
    failed: Option<String>,
}

impl Seen {
    fn take(&mut self, line: &str) {
        let mut words = line.split(' ');
        let kind = words.next();
        let numbers: Vec<u64> = words.filter_map(|w| w.parse().ok()).collect();
        match (kind, &numbers[..]) {
            (Some("ready"), _) => self.ready = true,
            (Some("A"), &[volatile, persistent]) => (self.volatile, self.persistent) = (volatile, persistent),
            (Some("N"), &[volatile, persistent, v, p]) => {
                (self.volatile, self.persistent) = (volatile, persistent);
                self.longest = Some((v as f64, p as f64));
            }
            _ => self.failed = Some(line.to_owned()),
        }
    }
}

/// A client of a node's databases; killed with this value.
struct Worker {
    host: String,
    child: Child,
    seen: Arc<Mutex<Seen>>,
}

impl Worker {
    fn start(ctx: &Ctx<'_>, node: usize, words: &[&str]) -> Result<Self> {
        let host = site::name(node);
        let mut command = ctx.lab.command(&host, &[&PROBE, words].concat())?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("no way to hear the client")?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let to = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                to.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
            }
        });
        let worker = Self { host, child, seen };
        worker.wait("to be attached", |seen| seen.ready)?;
        Ok(worker)
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wait(&self, what: &str, is: impl Fn(&Seen) -> bool) -> Result<Seen> {
        sh::wait_for(&format!("the client on {} {what}", self.host), Duration::from_secs(30), || {
            let seen = self.seen();
            if is(&seen) {
                return Ok(Some(seen));
            }
            match &seen.failed {
                Some(why) => bail!("it says: {why}"),
                None => Ok(None),
            }
        })
    }

    /// Has it end after what it is doing.
    fn end(&mut self) -> Result<Seen> {
        drop(self.child.stdin.take());
        self.wait("to end", |seen| seen.longest.is_some())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        sh::kill_group(&mut self.child);
    }
}

fn look(ctx: &Ctx<'_>, node: usize, set: &str, names: &[String]) -> Result<Found> {
    let names = names.join(",");
    let words = [&PROBE[..], &["look", "--set", set, "--names", &names]].concat();
    let said = ctx.lab.exec(&site::name(node), &words, Duration::from_secs(30))?;
    serde_json::from_str(said.trim()).with_context(|| format!("{} says {said}", site::name(node)))
}

/// Several clients on each node count, in records of all, and commit, in one database of all; one of a living node's never
/// reads its socket, and a node is lost.
fn through(ctx: &Ctx<'_>, lost: usize, set: &str, fault: impl FnOnce() -> Result<()>) -> Result<()> {
    let lab = ctx.lab;
    let living = ctx.but(lost);
    let status = steadfast::status(lab, living[0])?;
    // So that every living node has an smbd that serves somebody.
    let _sessions: Vec<Session> =
        living.iter().map(|&n| Session::open(lab, &vip_of(&status, n)?)).collect::<Result<_>>()?;
    let before = standing(ctx, &living)?;
    // The records that the lost node has at its end are lost with it: it counts in others.
    let theirs = format!("{set}-of-the-lost");
    let name = |n: usize, i: usize| format!("{set}-{n}-{i}");
    let start = |n: usize, i: usize| {
        Worker::start(ctx, n, &["count", "--set", if n == lost { &theirs } else { set }, "--name", &name(n, i)])
    };
    let ids: Vec<(usize, usize)> = ctx.all().into_iter().flat_map(|n| (0..WORKERS).map(move |i| (n, i))).collect();
    let mut workers: Vec<(usize, String, Worker)> =
        ids.into_iter().map(|(n, i)| Ok((n, name(n, i), start(n, i)?))).collect::<Result<_>>()?;
    let mut deaf = Worker::start(ctx, living[0], &["deaf"])?;
    std::thread::sleep(BEFORE);
    for (_, _, worker) in &workers {
        worker.wait("to work", |seen| seen.volatile > 0 && seen.persistent > 0)?;
    }
    fault()?;
    std::thread::sleep(AFTER);
    // What it has been told; it may be told more, if it lives on, or have had one under way.
    let of_lost: Vec<Seen> = workers.iter().filter(|w| w.0 == lost).map(|w| w.2.seen()).collect();
    let mut of_lost = of_lost.iter();
    let mut counted = 0;
    let mut longest = (0.0f64, 0.0f64);
    let mut acknowledged: Vec<(bool, u64)> = Vec::new();
    for (node, _, worker) in &mut workers {
        let seen = if *node == lost { of_lost.next().cloned().context("a client too few")? } else { worker.end()? };
        acknowledged.push((*node == lost, seen.persistent));
        if *node != lost {
            let (volatile, persistent) = seen.longest.unwrap_or_default();
            longest = (longest.0.max(volatile), longest.1.max(persistent));
            counted += seen.volatile;
        }
    }
    let names: Vec<String> = workers.iter().map(|w| w.1.clone()).collect();
    drop(workers);
    let unread = deaf.wait("to have asked", |seen| seen.volatile > 0)?.volatile;
    deaf.end()?;
    ctx.figure(format!(
        "{counted} increments and {} transactions of {WORKERS} clients on each of {} living nodes; {unread} requests by a client that reads nothing",
        acknowledged.iter().filter(|a| !a.0).map(|a| a.1).sum::<u64>(),
        living.len()
    ));
    for &node in &living {
        let found = look(ctx, node, set, &names)?;
        if found.volatile != counted {
            bail!("living clients counted {counted}, and {} finds {}", site::name(node), found.volatile);
        }
        for (name, &(of_lost, acknowledged)) in names.iter().zip(&acknowledged) {
            let has = found.persistent.get(name).copied().unwrap_or_default();
            if has < acknowledged || !of_lost && has > acknowledged {
                bail!("client {name} had {acknowledged} transactions acknowledged, and {} has {has}", site::name(node));
            }
        }
    }
    whole_transactions(ctx, &living)?;
    for (node, before) in living.iter().zip(&before) {
        let gone = before - &smbds(ctx, *node)?;
        if !gone.is_empty() {
            bail!("smbd ended on {}, which lives: pids {gone:?}", site::name(*node));
        }
    }
    ctx.bound("longest increment of a living node's client", longest.0, 3000.0)?;
    ctx.bound("longest transaction of a living node's client", longest.1, 3000.0)
}

/// Every transaction has added to its client's record, to everybody's, and to the number that the database keeps itself: on
/// every node all have the same, for no transaction is there in part.
fn whole_transactions(ctx: &Ctx<'_>, nodes: &[usize]) -> Result<()> {
    let names: Vec<String> = ["off", "stopped", "crowd"]
        .iter()
        .flat_map(|set| ctx.all().into_iter().flat_map(move |n| (0..WORKERS).map(move |i| format!("{set}-{n}-{i}"))))
        .collect();
    for &node in nodes {
        let found = look(ctx, node, "none", &names)?;
        let sum: u64 = found.persistent.values().sum();
        if found.total != sum || found.sequence != sum {
            let (total, sequence) = (found.total, found.sequence);
            bail!(
                "{}: clients have {sum} transactions, all together {total}, and the database {sequence}",
                site::name(node)
            );
        }
    }
    Ok(())
}

/// A record that is on this node is locked, changed and unlocked without the daemon.
pub(crate) fn at_hand(ctx: &Ctx<'_>) -> Result<()> {
    /// Other clients may say something meanwhile: one undisturbed time of several is enough, for each change would show.
    const TIMES: usize = 10;
    let mut last = String::new();
    for _ in 0..TIMES {
        let said = ctx.lab.exec(&site::name(0), &[&PROBE[..], &["local"]].concat(), Duration::from_secs(60))?;
        let found: AtHand = serde_json::from_str(said.trim()).with_context(|| format!("the client says {said}"))?;
        // The question for the counters is one itself.
        if (found.packets_from_clients, found.packets_to_clients, found.calls) == (1, 1, 0) {
            let each = found.micros as f64 / found.changes as f64;
            ctx.figure(format!("{} changes of a record that is here: no packet; {each:.1} us each", found.changes));
            return Ok(());
        }
        last = said;
    }
    bail!("no {TIMES} runs of 10,000 changes without a packet to the daemon; the last: {last}")
}

/// The leader's power goes.
pub(crate) fn outlive_a_node(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let lost = steadfast::status(lab, 0)?.snapshot.leader.context("no leader")?;
    through(ctx, lost, "off", || lab.power_off(&site::name(lost)))?;
    parts::boot(lab, lost)?;
    steadfast::start(lab, lost)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
}

/// A daemon stands still for five seconds, and is dropped meanwhile; then it goes on, and has to notice.
pub(crate) fn outlive_a_stopped_daemon(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let leader = steadfast::status(lab, 0)?.snapshot.leader.context("no leader")?;
    let lost = (leader + 1) % lab.site.nodes;
    through(ctx, lost, "stopped", || {
        steadfast::signal(lab, lost, "STOP")?;
        std::thread::sleep(Duration::from_secs(5));
        steadfast::signal(lab, lost, "CONT")
    })?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
}

/// Memory of a node's daemon that is its own, and its share of what it has in common with others: PSS, in KiB.
fn memory(ctx: &Ctx<'_>, node: usize) -> Result<f64> {
    let host = site::name(node);
    let pid = ctx.lab.service_pid(&host, "steadfast")?;
    let text = ctx.lab.exec(&host, &["cat", &format!("/proc/{pid}/smaps_rollup")], Duration::from_secs(5))?;
    let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no PSS")?;
    pss.split_whitespace().next().context("no PSS")?.parse().context("PSS")
}

/// As many clients as a large server's smbds, and more databases than they have: memory, and whether others notice.
pub(crate) fn ten_thousand_clients(ctx: &Ctx<'_>) -> Result<()> {
    const CLIENTS: usize = 10_000;
    /// What the daemon's tables have of each is more than this, in KiB.
    const LEAST: f64 = 0.25;
    /// Seen: 0.7 KiB for each, where 32 are the aim, and 9 MB for the daemon, where 40 are.
    const MOST: f64 = 2.0;
    const MOST_MB: f64 = 16.0;
    let lab = ctx.lab;
    // One that has served nobody: what clients of earlier tests have left would be used again, and not be counted.
    steadfast::stop(lab, 0)?;
    steadfast::start(lab, 0)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    ctx.figure(format!("the daemon before: {:.1} MB", memory(ctx, 0)? * 1.024 / 1000.0));
    Worker::start(ctx, 0, &["attach"])?;
    let before = memory(ctx, 0)?;
    ctx.limit("the daemon with 16 more databases", before * 1.024 / 1000.0, MOST_MB, "MB")?;
    let mut workers: Vec<Worker> = (0..2)
        .map(|n| Worker::start(ctx, n, &["count", "--set", "crowd", "--name", &format!("crowd-{n}-0")]))
        .collect::<Result<_>>()?;
    let mut crowd = Worker::start(ctx, 0, &["crowd", "--clients", &CLIENTS.to_string()])?;
    let each = (memory(ctx, 0)? - before) / CLIENTS as f64;
    ctx.limit("memory for each of 10,000 clients", each, MOST, "KiB")?;
    if each < LEAST {
        bail!("{each:.2} KiB for each of {CLIENTS} clients cannot be all: something else has become less meanwhile");
    }
    crowd.end()?;
    // Killed at once, all of them.
    let crowd = Worker::start(ctx, 0, &["crowd", "--clients", &CLIENTS.to_string()])?;
    drop(crowd);
    sh::wait_for("the crowd's clients to be forgotten", Duration::from_secs(20), || {
        let text = lab.exec(&site::name(0), &["ctdb", "statistics"], Duration::from_secs(10))?;
        let clients =
            text.lines().find_map(|line| line.trim().strip_prefix("num_clients")).context("no num_clients")?;
        let clients: usize = clients.trim().parse().context("num_clients")?;
        Ok((clients < 1000).then_some(()))
    })?;
    for worker in &mut workers {
        let seen = worker.end()?;
        let (volatile, persistent) = seen.longest.unwrap_or_default();
        ctx.bound(&format!("longest wait of a client on {} meanwhile", worker.host), volatile.max(persistent), 1000.0)?;
    }
    Ok(())
}
