//! What a daemon starts from: votes on its disk that cannot be trusted, and clocks that are not what they were.

use super::{Ctx, log_length, log_since, vip_of};
use crate::probe::run::Probe;
use crate::steadfast::{self, STATE_DIR};
use crate::{sh, site};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// What happened to the file: a name, the shell line that does it, and a word that the refusal must have.
const DAMAGES: &[(&str, &str, &str)] = &[
    ("cut in half", "truncate -s $(($(stat -c %s votes.json) / 2)) votes.json", "damaged"),
    ("empty", ": > votes.json", "damaged"),
    ("random bytes", "head -c 700 /dev/urandom > votes.json", "damaged"),
    ("one digit changed", "sed -i '2,$s/[0-8]/9/' votes.json", "damaged"),
    ("open to everybody", "chmod 644 votes.json", "0644"),
];

/// Votes that are damaged or exposed: the daemon refuses to start, names the file and what to do; the others serve.
pub(crate) fn votes_damaged(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let node = 3;
    let host = site::name(node);
    let stays = vip_of(&steadfast::status(lab, 0)?, 0)?;
    ctx.watched(|| {
        steadfast::stop(lab, node)?;
        lab.shell(&host, &format!("cp -a {STATE_DIR}/votes.json /tmp/votes.good"))?;
        let before = steadfast::wait_whole(lab, &ctx.but(node), Duration::from_secs(30))?;
        let tcp = Probe::tcp(lab, "tcp", &stays)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        for (what, line, word) in DAMAGES {
            lab.shell(&host, &format!("cd {STATE_DIR}; cp -a /tmp/votes.good votes.json; {line}"))?;
            let mark = log_length(lab, node);
            steadfast::start(lab, node)?;
            let said = sh::wait_for(&format!("the daemon to refuse votes that are {what}"), limit(), || {
                let text = log_since(lab, node, mark)?;
                let line = text.lines().find(|l| l.contains("votes.json") && l.contains(word));
                Ok(line.filter(|_| !steadfast::daemon_runs(lab, node)).map(str::to_owned))
            })
            .with_context(|| steadfast::log_tail(lab, node, 8))?;
            ctx.figure(format!("{what}: {}", said.trim()));
        }
        let seen = tcp.stop()?;
        ctx.bound("tcp to another node: longest gap meanwhile", seen.longest_ms(0), 500.0)?;
        let after = steadfast::status(lab, 0)?;
        if after.epoch() != before.epoch() {
            bail!("a node that cannot start changed the view: epoch {} to {}", before.epoch(), after.epoch());
        }
        lab.shell(&host, &format!("cp -a /tmp/votes.good {STATE_DIR}/votes.json; rm /tmp/votes.good"))?;
        steadfast::start(lab, node)?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
    })
}

fn limit() -> Duration {
    Duration::from_secs(20)
}

/// Daemons whose CLOCK_BOOTTIME and CLOCK_MONOTONIC are days ahead of the others', then back at the machine's.
///
/// Nothing that one node's clock says may mean anything to another, or to what a daemon left on its disk. The time of
/// day is the whole machine's, and no test may set it.
pub(crate) fn clock_jumps(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let node = 2;
    let host = site::name(node);
    let stays = vip_of(&steadfast::status(lab, 0)?, 0)?;
    ctx.watched(|| {
        let tcp = Probe::tcp(lab, "tcp", &stays)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        for days in [400u64, 0] {
            steadfast::stop(lab, node)?;
            let offset = days * 86_400;
            steadfast::start_ahead(lab, node, offset)?;
            let status = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))
                .with_context(|| format!("clock {days} days ahead"))?;
            let pid = lab.service_pid(&host, "steadfast")?;
            let offsets = lab.shell(&host, &format!("cat /proc/{pid}/timens_offsets"))?;
            if !offsets.lines().any(|l| l.starts_with("boottime") && l.contains(&format!(" {offset} "))) {
                bail!("the daemon's clock is not shifted by {offset} s:\n{offsets}");
            }
            ctx.figure(format!("clock {days} days ahead: whole, holds {}", status.held_by(node).join(", ")));
            // A lease that trusts the other's clock would end, or not end, within this time.
            let epoch = status.epoch();
            std::thread::sleep(Duration::from_secs(3));
            let now = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(5))?;
            if now.epoch() != epoch {
                bail!("the view changed by itself: epoch {epoch} to {}", now.epoch());
            }
        }
        let seen = tcp.stop()?;
        ctx.bound("tcp to another node: longest gap meanwhile", seen.longest_ms(0), 500.0)?;
        // Its successor is the plain one again.
        steadfast::stop(lab, node)?;
        steadfast::start(lab, node)?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
    })
}
