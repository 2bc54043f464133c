//! The storage's half of a failover: how soon a lost node is shut out, how soon its locks are free, and what a daemon
//! that ends in order leaves behind.

use super::{Ctx, log_length, log_since};
use crate::lab::{Lab, Net};
use crate::probe::now_us;
use crate::site;
use crate::steadfast::{self, CONTROL_PORT};
use crate::{parts, sh, switch};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// From the first member that has the view to the last that has destroyed its connections, in ms. Measured: under 10.
const SHUT_OUT: f64 = 50.0;
/// From the view that drops its holder to another node that has the cluster lock, in ms.
const LOCK_FREE: f64 = 200.0;

/// The daemons' logs from some moment on.
#[derive(Debug)]
pub(crate) struct Logs(Vec<(usize, usize)>);

/// When the first line with all of these words was written, in ms; and the line.
fn when<'t>(log: &'t str, words: &[&str]) -> Option<(f64, &'t str)> {
    let line = log.lines().find(|l| words.iter().all(|w| l.contains(w)))?;
    let stamp: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
    Some((stamp.as_microsecond() as f64 / 1000.0, line))
}

/// What the members noted when they dropped a node; times in ms of the machine's clock.
#[derive(Debug)]
struct Dropped {
    /// The first that had the view.
    view: f64,
    /// The last that had shut the node out.
    shut_out: f64,
    connections: u64,
}

impl Logs {
    /// From now on.
    pub(crate) fn mark(lab: &Lab) -> Self {
        Self(lab.nodes_on().into_iter().map(|n| (n, log_length(lab, n))).collect())
    }

    fn of(&self, lab: &Lab, victim: usize) -> Result<Vec<(usize, String)>> {
        let left = self.0.iter().filter(|(n, _)| *n != victim);
        left.map(|&(n, mark)| Ok((n, log_since(lab, n, mark)?))).collect()
    }

    fn dropped(&self, lab: &Lab, victim: usize) -> Result<Dropped> {
        let because = format!("because=\"{} ", site::name(victim));
        let mut all = Dropped { view: f64::MAX, shut_out: 0.0, connections: 0 };
        for (node, log) in self.of(lab, victim)? {
            let told = || format!("{} noted nothing of it:\n{log}", site::name(node));
            let (view, line) = when(&log, &["kind=\"view\"", &because]).with_context(told)?;
            let epoch = line.split_whitespace().find(|w| w.starts_with("epoch=")).with_context(told)?;
            let end = format!("{epoch}\n");
            let done = log.split_inclusive('\n').filter(|l| l.ends_with(&end)).collect::<String>();
            let (shut_out, line) = when(&done, &["is shut out"]).with_context(told)?;
            let count = line.split(" connections destroyed").next().and_then(|l| l.split_whitespace().last());
            all.view = all.view.min(view).min(shut_out);
            all.shut_out = all.shut_out.max(shut_out);
            all.connections += count.and_then(|c| c.parse::<u64>().ok()).with_context(told)?;
        }
        Ok(all)
    }

    /// Every member that is left has destroyed its connections to and from the victim soon after the first had the
    /// view, and none is left.
    pub(crate) fn shut_out_in_time(&self, ctx: &Ctx<'_>, victim: usize) -> Result<()> {
        let lab = ctx.lab;
        let dropped = self.dropped(lab, victim)?;
        ctx.figure(format!("{} storage connections to the lost node destroyed by the members", dropped.connections));
        if dropped.connections == 0 {
            bail!("no storage connection to {} was destroyed", site::name(victim));
        }
        let control = format!(":{CONTROL_PORT}");
        for node in lab.nodes_on() {
            let words = ["ss", "-Htn", "state", "established", "dst", &lab.site.private(victim)];
            let text = lab.exec(&site::name(node), &words, Duration::from_secs(10))?;
            let left: Vec<&str> = text.lines().filter(|l| !l.contains(&control)).collect();
            if !left.is_empty() {
                bail!("{} still has connections to the lost node:\n{}", site::name(node), left.join("\n"));
            }
        }
        ctx.bound("the last member has shut it out after the view", dropped.shut_out - dropped.view, SHUT_OUT)
    }
}

/// The node that leads and holds the cluster lock loses its power: another node has the lock soon.
pub(crate) fn lock_of_a_dead_holder(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    super::split::on_arbiter(ctx, || {
        let mut worst: f64 = 0.0;
        for round in 1..=3 {
            let status = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(120))?;
            super::split::arbiter_healed(lab)?;
            let leader = status.snapshot.leader.context("the cluster has no leader")?;
            sh::wait_for("the leader to hold the cluster lock", Duration::from_secs(30), || {
                let log = log_since(lab, leader, 0)?;
                let last = log.lines().rfind(|l| l.contains("the cluster lock is "));
                Ok(last.is_some_and(|l| l.contains("is held here")).then_some(()))
            })?;
            let logs = Logs::mark(lab);
            lab.power_off(&site::name(leader))?;
            let left = ctx.but(leader);
            let (by, at) = sh::wait_for("another node to have the cluster lock", Duration::from_secs(30), || {
                let found = logs
                    .of(lab, leader)?
                    .into_iter()
                    .find_map(|(node, log)| when(&log, &["the cluster lock is held here"]).map(|(at, _)| (node, at)));
                Ok(found)
            })?;
            let dropped = logs.dropped(lab, leader)?;
            ctx.figure(format!(
                "round {round}: {} has the cluster lock of {} {:.0} ms after the view, {:.0} ms after the last eviction",
                site::name(by),
                site::name(leader),
                at - dropped.view,
                at - dropped.shut_out
            ));
            worst = worst.max(at - dropped.view);
            steadfast::wait_whole(lab, &left, Duration::from_secs(60))?;
            parts::boot(lab, leader)?;
            steadfast::start(lab, leader)?;
        }
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(120))?;
        ctx.bound("the cluster lock of a dead holder is held by another after the view", worst, LOCK_FREE)
    })
}

/// Two and two, on a volume that cannot be written on both sides: the half that gets the cluster lock goes on.
pub(crate) fn tie_broken_by_the_lock(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    super::split::on_arbiter(ctx, || {
        let halves = [[0, 2], [1, 3]];
        let logs = Logs::mark(lab);
        let at = now_us();
        switch::partition(lab, &halves.map(|h| h.map(site::name).to_vec()), &[Net::Public])?;
        let went_on = steadfast::wait_whole(lab, &halves[0], Duration::from_secs(30));
        let ms = (now_us() - at) as f64 / 1000.0;
        if went_on.is_err() {
            for (node, log) in logs.of(lab, usize::MAX)? {
                println!("--- {}\n{log}", site::name(node));
            }
        }
        went_on?;
        ctx.figure(format!("the half with the cluster lock serves all addresses {ms:.0} ms after the cut"));
        let other = steadfast::status(lab, halves[1][0])?;
        if halves[1].iter().any(|&n| !other.held_by(n).is_empty()) {
            bail!("the other half serves too");
        }
        switch::partition(lab, &[], &[])?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(120)).map(drop)
    })
}

/// A daemon that ends in order takes its hold with it, and its fence unless that shuts somebody out.
pub(crate) fn clean_stop(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let (node, lost) = (1, 3);
    let tables = || lab.shell(&site::name(node), "nft list tables");
    steadfast::stop(lab, node)?;
    let left = tables()?;
    if left.contains("steadfast") {
        bail!("the view had every node, and the daemon left tables behind:\n{left}");
    }
    steadfast::start(lab, node)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    lab.power_off(&site::name(lost))?;
    steadfast::wait_whole(lab, &ctx.but(lost), Duration::from_secs(60))?;
    steadfast::stop(lab, node)?;
    let left = tables()?;
    if left.contains("steadfast_hold") {
        bail!("the daemon left its hold behind:\n{left}");
    }
    let fence = lab.shell(&site::name(node), "nft list table inet steadfast_fence").context("the fence is gone")?;
    let address = lab.site.private(lost);
    if !fence.contains(&address) {
        bail!("the fence that the daemon left does not shut {address} out:\n{fence}");
    }
    ctx.figure("hold gone; the fence against the lost node stays");
    steadfast::start(lab, node)?;
    parts::boot(lab, lost)?;
    steadfast::start(lab, lost)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90)).map(drop)
}
