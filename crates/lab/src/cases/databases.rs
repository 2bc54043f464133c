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

fn look(ctx: &Ctx<'_>, node: usize, set: &str) -> Result<Found> {
    let nodes = ctx.lab.site.nodes.to_string();
    let words = [&PROBE[..], &["look", "--set", set, "--nodes", &nodes]].concat();
    let said = ctx.lab.exec(&site::name(node), &words, Duration::from_secs(30))?;
    serde_json::from_str(said.trim()).with_context(|| format!("{} says {said}", site::name(node)))
}

/// Clients on all nodes count and commit, one of a living node's never reads its socket, and a node is lost.
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
    let start = |n| Worker::start(ctx, n, &["count", "--set", if n == lost { &theirs } else { set }]);
    let mut workers: Vec<Worker> = ctx.all().into_iter().map(start).collect::<Result<_>>()?;
    let mut deaf = Worker::start(ctx, living[0], &["deaf"])?;
    std::thread::sleep(BEFORE);
    for worker in &workers {
        worker.wait("to work", |seen| seen.volatile > 0 && seen.persistent > 0)?;
    }
    fault()?;
    std::thread::sleep(AFTER);
    let of_lost = workers.remove(lost).seen();
    let mut counted = 0;
    let mut longest = (0.0f64, 0.0f64);
    let mut acknowledged = vec![(lost as u32, of_lost.persistent)];
    for (worker, &node) in workers.iter_mut().zip(&living) {
        let seen = worker.end()?;
        let (volatile, persistent) = seen.longest.unwrap_or_default();
        longest = (longest.0.max(volatile), longest.1.max(persistent));
        counted += seen.volatile;
        acknowledged.push((node as u32, seen.persistent));
    }
    let unread = deaf.wait("to have asked", |seen| seen.volatile > 0)?.volatile;
    deaf.end()?;
    ctx.figure(format!(
        "{counted} increments and as many transactions on {} living nodes; {unread} requests by a client that reads nothing",
        living.len()
    ));
    for &node in &living {
        let found = look(ctx, node, set)?;
        if found.volatile != counted {
            bail!("living clients counted {counted}, and {} finds {}", site::name(node), found.volatile);
        }
        for &(of, acknowledged) in &acknowledged {
            let has = found.persistent.get(&of).copied().unwrap_or_default();
            // What was under way when the node was lost may be there.
            if has < acknowledged || has > acknowledged + u64::from(of as usize == lost) {
                bail!("node {of} had {acknowledged} transactions acknowledged, and {} has {has}", site::name(node));
            }
        }
    }
    for (node, before) in living.iter().zip(&before) {
        let gone = before - &smbds(ctx, *node)?;
        if !gone.is_empty() {
            bail!("smbd ended on {}, which lives: pids {gone:?}", site::name(*node));
        }
    }
    ctx.bound("longest increment of a living node's client", longest.0, 3000.0)?;
    ctx.bound("longest transaction of a living node's client", longest.1, 3000.0)
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
    let lab = ctx.lab;
    ctx.figure(format!("the daemon before: {:.1} MB", memory(ctx, 0)? * 1.024 / 1000.0));
    Worker::start(ctx, 0, &["attach"])?;
    let before = memory(ctx, 0)?;
    ctx.limit("the daemon with 16 more databases", before * 1.024 / 1000.0, 40.0, "MB")?;
    let mut workers: Vec<Worker> =
        (0..2).map(|n| Worker::start(ctx, n, &["count", "--set", "crowd"])).collect::<Result<_>>()?;
    let mut crowd = Worker::start(ctx, 0, &["crowd", "--clients", &CLIENTS.to_string()])?;
    ctx.limit("memory for each of 10,000 clients", (memory(ctx, 0)? - before) / CLIENTS as f64, 32.0, "KiB")?;
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
