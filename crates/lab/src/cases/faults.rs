//! Faults below a power cut: the daemon killed or hung, a cable out.

use super::{Ctx, vip_of};
use crate::lab::Net;
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::steadfast;
use crate::{sh, site, switch};
use anyhow::{Context as _, Result};
use std::time::Duration;

/// Longest stall of an NFS writer, the way there and back, in ms. Measured: 0 to 683; a tickle that is missed costs more.
const THERE_AND_BACK: f64 = 1100.0;

/// What a fault may cost, in ms after it.
struct Bounds {
    /// The longest outage of a TCP client.
    outage: f64,
    /// The last answer of the node for its address, to ping and to ARP.
    silent: f64,
}

/// A stopped daemon's addresses end with its lease (600 ms); a claim that was on its way is heard after it.
const LEASE: f64 = 650.0;

/// Does `fault` to `node`, waits until its address answers from elsewhere, mends it, and waits until all is whole.
fn moved_by(
    ctx: &Ctx<'_>,
    node: usize,
    bounds: &Bounds,
    fault: impl FnOnce() -> Result<()>,
    mend: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let vip = vip_of(&status, node)?;
    let (at, changes) = ctx.watching(|| {
        let tcp = Probe::tcp(lab, "tcp", &vip)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        let ping = Probe::start(lab, site::CLIENT, "ping", &["sweep", "--targets", &vip])?;
        ping.wait_ok(0, Duration::from_secs(10))?;
        let nfs = Probe::nfs_writer(lab, "nfs", &vip, &format!("nfs/moved-by-{}", now_us()))?;
        nfs.wait_ok(0, Duration::from_secs(30))?;
        let at = now_us();
        fault()?;
        sh::wait_for("the address to answer elsewhere", Duration::from_secs(10), || {
            let seen = tcp.seen();
            Ok((seen.last_us > at + 200_000 && seen.who != site::name(node)).then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(1));
        let gone = ping.stop()?.gaps.iter().filter(|g| g.to_us >= at).map(|g| ms(g.from_us, at)).next();
        if let Some(gone) = gone {
            ctx.bound("its last answer to ping, before the gap", gone, bounds.silent)?;
        }
        mend()?;
        let all: Vec<usize> = (0..lab.site.nodes).collect();
        steadfast::wait_whole(lab, &all, Duration::from_secs(90))?;
        // It comes back by the port that it had: nothing of its first connection may be left on the node.
        nfs.wait_ok(now_us(), Duration::from_secs(20)).context("the NFS writer, with its address back")?;
        ctx.bound("NFSv3 writer: longest stall, the way back included", nfs.stop()?.longest_ms(at), THERE_AND_BACK)?;
        let seen = tcp.stop()?;
        ctx.bound("tcp: longest outage", seen.longest_ms(at), bounds.outage)?;
        Ok(at)
    })?;
    let left = changes.iter().find(|c| c.vip == vip && c.at_us > at);
    let left = left.with_context(|| format!("nobody else was seen to claim {vip}"))?;
    ctx.bound("its last answer to ARP", ms(left.old_until_us, at), bounds.silent)
}

/// From `at` to `then`, not below 0.
fn ms(then: u64, at: u64) -> f64 {
    then.saturating_sub(at) as f64 / 1000.0
}

/// kill -9 of the daemon: its guard takes the addresses away and says so, and nobody waits for a lease (600 ms); the
/// services' processes are taken over by the next start. Measured: 41 ms with the guard, 395 ms without it; the bound lies
/// between.
pub(crate) fn daemon_killed(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    moved_by(
        ctx,
        1,
        &Bounds { outage: 220.0, silent: 100.0 },
        || steadfast::signal(lab, 1, "KILL"),
        || steadfast::start(lab, 1),
    )
}

/// The guard killed alone is started again, and costs nothing; with its daemon it leaves a node that is as one whose
/// daemon hangs.
pub(crate) fn daemon_and_guard_killed(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let host = site::name(2);
    let daemon = lab.service_pid(&host, "steadfast")?;
    let pattern = format!("helper guard {}$", daemon.trim());
    let guard = || lab.shell(&host, &format!("pgrep -f '{pattern}'")).map(|pid| pid.trim().to_owned());
    let first = guard().context("the daemon has no guard")?;
    lab.shell(&host, &format!("kill -9 {first}"))?;
    let second = sh::wait_for("another guard", Duration::from_secs(10), || {
        Ok(guard().ok().filter(|pid| !pid.is_empty() && *pid != first))
    })?;
    let both = || lab.shell(&host, &format!("kill -9 {second} {daemon}")).map(drop);
    moved_by(ctx, 2, &Bounds { outage: 700.0, silent: LEASE }, both, || steadfast::start(lab, 2))
}

/// SIGSTOP, much longer than any lease, then SIGCONT: it must find that it lost its addresses.
pub(crate) fn daemon_hung(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let hung = || steadfast::signal(lab, 2, "STOP");
    moved_by(ctx, 2, &Bounds { outage: 700.0, silent: LEASE }, hung, || {
        std::thread::sleep(Duration::from_secs(3));
        steadfast::signal(lab, 2, "CONT")
    })
}

/// The cable to the clients is pulled; with one network that is the node's only one.
pub(crate) fn interface_down(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let host = site::name(3);
    moved_by(
        ctx,
        3,
        &Bounds { outage: 950.0, silent: 100.0 },
        || switch::link(lab, &host, Net::Public, false),
        || switch::link(lab, &host, Net::Public, true),
    )
}
