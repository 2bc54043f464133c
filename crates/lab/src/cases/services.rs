//! A service dies or hangs: it is back where it was before anybody looks elsewhere, or its addresses are.

use super::{Ctx, vip_of};
use crate::probe::now_us;
use crate::probe::run::{Probe, Seen};
use crate::{files, parts, sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// The node whose service suffers, and one that has nothing to do with it.
const NODE: usize = 1;
const OTHER: usize = 2;
/// Between a move and the move back: the watcher takes an address that is back at once for one with two holders.
const APART: Duration = Duration::from_millis(2500);
/// Longest stall of clients that have nothing to do with it, in milliseconds.
const BYSTANDERS: f64 = 100.0;

/// Kills the service's oldest process, whose children end with it, and makes sure that it is gone.
fn kill_service(ctx: &Ctx<'_>, node: usize, process: &str) -> Result<()> {
    let host = site::name(node);
    let line = format!(
        // A zombie is gone, too.
        "pid=$(pgrep -o -x {process}); kill -9 $pid; while [ -e /proc/$pid/exe ]; do sleep 0.01; done; echo $pid"
    );
    let pid = ctx.lab.shell(&host, &line).with_context(|| format!("no {process} runs on {host}"))?;
    ctx.figure(format!("{process} on {host} killed (pid {})", pid.trim()));
    Ok(())
}

/// smbd dies: started again in place, clients can connect within half a second.
pub(crate) fn smbd_killed(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let vip = vip_of(&steadfast::status(lab, 0)?, NODE)?;
    ctx.watched(|| {
        kill_service(ctx, NODE, "smbd")?;
        let begun = Instant::now();
        let line = format!("smbclient -U {} //{vip}/share -c ls >/dev/null 2>&1", files::smb_login());
        // The parent's death does not end connections at once: the first good answer after it counts.
        sh::wait_for("SMB to answer", Duration::from_secs(30), || {
            let done = lab.try_exec(site::CLIENT, &["sh", "-c", &line], Duration::from_secs(10))?;
            Ok(done.ok().then_some(()))
        })?;
        ctx.bound("SMB answers again after", begun.elapsed().as_secs_f64() * 1000.0, 1500.0)?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
    })
}

/// What the clients of the suffering node and of another one saw from `at` on.
struct Saw {
    hit: Seen,
    beside: Seen,
    tcp: Seen,
    at: u64,
}

/// Streams to the suffering node and to another one through `fault`, until the first flows again.
fn streams(
    ctx: &Ctx<'_>,
    tag: &str,
    fault: impl FnOnce() -> Result<()>,
    mend: impl FnOnce() -> Result<()>,
) -> Result<Saw> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let (vip, other) = (vip_of(&status, NODE)?, vip_of(&status, OTHER)?);
    let hit = Probe::nfs_writer(lab, "hit", &vip, &format!("nfs/{tag}-a"))?;
    let beside = Probe::nfs_writer(lab, "beside", &other, &format!("nfs/{tag}-b"))?;
    let tcp = Probe::tcp(lab, "tcp", &other)?;
    for probe in [&hit, &beside, &tcp] {
        probe.wait_ok(0, Duration::from_secs(30))?;
    }
    // The daemon knows connections after a second.
    std::thread::sleep(Duration::from_millis(1500));
    let at = now_us();
    fault()?;
    hit.wait_ok(now_us() + 200_000, Duration::from_secs(60))?;
    let holder = steadfast::status(lab, 0)?.holder(&vip);
    let moved = holder != Some(NODE);
    ctx.figure(format!("{vip} answers on {}", holder.map_or_else(|| "no node".into(), site::name)));
    let (beside, tcp) = (beside.stop()?, tcp.stop()?);
    if moved {
        std::thread::sleep(APART);
    }
    mend()?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90))?;
    Ok(Saw { hit: hit.stop()?, beside, tcp, at })
}

fn judge(ctx: &Ctx<'_>, saw: &Saw, bound: f64) -> Result<()> {
    if saw.hit.errors + saw.beside.errors > 0 {
        bail!("{} operations failed", saw.hit.errors + saw.beside.errors);
    }
    ctx.bound("NFSv3 writer: longest stall", saw.hit.longest_ms(saw.at), bound)?;
    ctx.bound("NFSv3 writer on another node: longest stall", saw.beside.longest_ms(saw.at), BYSTANDERS)?;
    ctx.bound("tcp to another node: longest outage", saw.tcp.longest_ms(saw.at), BYSTANDERS)
}

/// Ganesha dies and is started again in place: an NFS client only waits, half a second at most. Nobody has locks or open
/// files to reclaim, so new files are taken at once, without Ganesha's grace period of 10 s.
pub(crate) fn ganesha_killed(ctx: &Ctx<'_>) -> Result<()> {
    ctx.watched(|| {
        let mut created = Duration::ZERO;
        let vip = vip_of(&steadfast::status(ctx.lab, 0)?, NODE)?;
        let fault = || {
            kill_service(ctx, NODE, "ganesha.nfsd")?;
            let begun = Instant::now();
            parts::nfs_put(ctx.lab, &vip, "/etc/hostname", "nfs/after-kill")?;
            created = begun.elapsed();
            Ok(())
        };
        let saw = streams(ctx, "ganesha-killed", fault, || Ok(()))?;
        ctx.bound("NFSv3: a new file after", created.as_secs_f64() * 1000.0, 1500.0)?;
        judge(ctx, &saw, 500.0)
    })
}

/// Ganesha dies, and its successor takes seconds to start: the addresses do not wait for it.
pub(crate) fn ganesha_slow(ctx: &Ctx<'_>) -> Result<()> {
    const PROGRAM: &str = "/usr/bin/ganesha.nfsd";
    let host = site::name(NODE);
    let slow = format!(
        "mkdir -p /usr/lib/slow && mv {PROGRAM} /usr/lib/slow/ && \
         printf '#!/bin/sh\\nsleep 4; exec /usr/lib/slow/ganesha.nfsd \"$@\"\\n' >{PROGRAM} && chmod 755 {PROGRAM}"
    );
    ctx.watched(|| {
        let fault = || {
            ctx.lab.shell(&host, &slow)?;
            kill_service(ctx, NODE, "ganesha.nfsd")
        };
        let mend = || ctx.lab.shell(&host, &format!("mv /usr/lib/slow/ganesha.nfsd {PROGRAM}")).map(drop);
        let saw = streams(ctx, "ganesha-slow", fault, || Ok(()));
        mend()?;
        judge(ctx, &saw?, 1000.0)
    })
}

/// Ganesha hangs: three unanswered probes, and its addresses are elsewhere.
pub(crate) fn ganesha_hung(ctx: &Ctx<'_>) -> Result<()> {
    let host = site::name(NODE);
    let signal = |signal: &str| ctx.lab.shell(&host, &format!("kill -{signal} $(pgrep -x ganesha.nfsd)")).map(drop);
    ctx.watched(|| {
        let saw = streams(ctx, "ganesha-hung", || signal("STOP"), || signal("CONT"))?;
        judge(ctx, &saw, 3500.0)
    })
}
