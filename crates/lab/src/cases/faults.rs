//! Faults below a power cut: the daemon killed or hung, a service killed, a cable out.

use super::{Ctx, vip_of};
use crate::lab::Net;
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::steadfast;
use crate::{files, sh, site, switch};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Does `fault` to `node`, waits until its address answers from elsewhere, mends it, and waits until all is whole.
fn moved_by(
    ctx: &Ctx<'_>,
    node: usize,
    bound: f64,
    fault: impl FnOnce() -> Result<()>,
    mend: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let vip = vip_of(&status, node)?;
    ctx.watched(|| {
        let tcp = Probe::tcp(lab, "tcp", &vip)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        let at = now_us();
        fault()?;
        sh::wait_for("the address to answer elsewhere", Duration::from_secs(30), || {
            let seen = tcp.seen();
            Ok((seen.last_us > at + 200_000 && seen.who != site::name(node)).then_some(()))
        })?;
        std::thread::sleep(Duration::from_secs(1));
        mend()?;
        let all: Vec<usize> = (0..lab.site.nodes).collect();
        steadfast::wait_whole(lab, &all, Duration::from_secs(90))?;
        let seen = tcp.stop()?;
        ctx.bound("tcp: longest outage", seen.longest_ms(at), bound)
    })
}

/// kill -9 of the daemon: the addresses go, the services' processes are taken over by the next start.
pub(crate) fn daemon_killed(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    moved_by(ctx, 1, 2500.0, || steadfast::signal(lab, 1, "KILL"), || steadfast::start(lab, 1))
}

/// SIGSTOP, much longer than any lease, then SIGCONT: it must find that it lost its addresses.
pub(crate) fn daemon_hung(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let hung = || steadfast::signal(lab, 2, "STOP");
    moved_by(ctx, 2, 3500.0, hung, || {
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
        3000.0,
        || switch::link(lab, &host, Net::Public, false),
        || switch::link(lab, &host, Net::Public, true),
    )
}

/// Kills the service's oldest process, whose children end with it, and makes sure that it is gone.
fn kill_service(ctx: &Ctx<'_>, node: usize, process: &str) -> Result<()> {
    let host = site::name(node);
    let line = format!(
        "pid=$(pgrep -o -x {process}); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.01; done; echo $pid"
    );
    let pid = ctx.lab.shell(&host, &line).with_context(|| format!("no {process} runs on {host}"))?;
    ctx.figure(format!("{process} on {host} killed (pid {})", pid.trim()));
    Ok(())
}

/// smbd dies: started again, or its addresses move; clients can connect within seconds.
pub(crate) fn smbd_killed(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let vip = vip_of(&steadfast::status(lab, 0)?, 1)?;
    ctx.watched(|| {
        kill_service(ctx, 1, "smbd")?;
        let begun = Instant::now();
        let line = format!("smbclient -U {} //{vip}/share -c ls >/dev/null 2>&1", files::smb_login());
        // The parent's death does not end connections at once: the first good answer after it counts.
        sh::wait_for("SMB to answer", Duration::from_secs(30), || {
            let done = lab.try_exec(site::CLIENT, &["sh", "-c", &line], Duration::from_secs(10))?;
            Ok(done.ok().then_some(()))
        })?;
        ctx.bound("SMB answers again after", begun.elapsed().as_secs_f64() * 1000.0, 10_000.0)?;
        let all: Vec<usize> = (0..lab.site.nodes).collect();
        steadfast::wait_whole(lab, &all, Duration::from_secs(60)).map(drop)
    })
}

/// Ganesha dies: an NFS client only waits.
pub(crate) fn ganesha_killed(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let vip = vip_of(&steadfast::status(lab, 0)?, 1)?;
    ctx.watched(|| {
        let writer = Probe::nfs_writer(lab, "nfs3", &vip, "nfs/ganesha-killed")?;
        writer.wait_ok(0, Duration::from_secs(30))?;
        let at = now_us();
        kill_service(ctx, 1, "ganesha.nfsd")?;
        writer.wait_ok(at + 200_000, Duration::from_secs(60))?;
        let all: Vec<usize> = (0..lab.site.nodes).collect();
        steadfast::wait_whole(lab, &all, Duration::from_secs(90))?;
        let seen = writer.stop()?;
        if seen.errors > 0 {
            bail!("{} operations failed", seen.errors);
        }
        ctx.bound("NFSv3 writer: longest stall", seen.longest_ms(at), 20_000.0)
    })
}
