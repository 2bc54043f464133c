//! Planned moves: nobody should notice.

use super::{Ctx, vip_of};
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::steadfast;
use crate::{sh, site};
use anyhow::{Result, bail};
use std::time::Duration;

/// Between a move and the move back: the watcher takes an address that is back at once for one with two holders.
const APART: Duration = Duration::from_millis(2500);

fn command(ctx: &Ctx<'_>, node: usize, words: &[&str]) -> Result<()> {
    let all = [&["steadfast"], words].concat();
    ctx.lab.exec(&site::name(node), &all, Duration::from_secs(30)).map(drop)
}

/// Everything off a node and back again under NFS writers: no failed operation.
pub(crate) fn drain(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let node = 1;
    let (vip, other) = (vip_of(&status, node)?, vip_of(&status, 2)?);
    ctx.watched(|| {
        let moved = Probe::nfs_writer(lab, "drained", &vip, "nfs/drain-a")?;
        let stays = Probe::nfs_writer(lab, "beside", &other, "nfs/drain-b")?;
        let tcp = Probe::tcp(lab, "tcp", &vip)?;
        for p in [&moved, &stays, &tcp] {
            p.wait_ok(0, Duration::from_secs(30))?;
        }
        std::thread::sleep(Duration::from_secs(2));
        let at = now_us();
        command(ctx, 0, &["drain", &site::name(node)])?;
        sh::wait_for("the node to be drained", Duration::from_secs(30), || {
            let s = steadfast::status(lab, 0)?;
            let elsewhere = s.holder(&vip).is_some_and(|h| h != node);
            Ok((s.held_by(node).is_empty() && elsewhere).then_some(()))
        })?;
        moved.wait_ok(at + 200_000, Duration::from_secs(30))?;
        std::thread::sleep(APART);
        command(ctx, 0, &["resume", &site::name(node)])?;
        let all: Vec<usize> = (0..lab.site.nodes).collect();
        steadfast::wait_whole(lab, &all, Duration::from_secs(60))?;
        std::thread::sleep(Duration::from_secs(1));
        let (moved, stays, tcp) = (moved.stop()?, stays.stop()?, tcp.stop()?);
        if moved.errors + stays.errors > 0 {
            bail!("{} operations failed", moved.errors + stays.errors);
        }
        ctx.bound("NFSv3 writer on the drained address: longest stall", moved.longest_ms(at), 2000.0)?;
        ctx.bound("NFSv3 writer beside it: longest stall", stays.longest_ms(at), 1000.0)?;
        ctx.bound("tcp on the drained address: longest outage", tcp.longest_ms(at), 1500.0)
    })
}

/// One address on request.
pub(crate) fn move_ip(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let vip = vip_of(&status, 1)?;
    ctx.watched(|| {
        let tcp = Probe::tcp(lab, "tcp", &vip)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        let at = now_us();
        command(ctx, 0, &["move-ip", &vip, &site::name(3)])?;
        sh::wait_for("the address to have moved", Duration::from_secs(20), || {
            Ok((steadfast::status(lab, 0)?.holder(&vip) == Some(3)).then_some(()))
        })?;
        tcp.wait_ok(at + 200_000, Duration::from_secs(10))?;
        let seen = tcp.stop()?;
        ctx.bound("tcp on the moved address: longest outage", seen.longest_ms(at), 1500.0)?;
        std::thread::sleep(APART);
        command(ctx, 0, &["move-ip", &vip, &site::name(1)])?;
        sh::wait_for("the address to have moved back", Duration::from_secs(20), || {
            Ok((steadfast::status(lab, 0)?.holder(&vip) == Some(1)).then_some(()))
        })
    })
}

/// A daemon that is asked to end gives its addresses away first and leaves none behind.
pub(crate) fn clean_stop(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let node = 2;
    let vip = vip_of(&status, node)?;
    ctx.watched(|| {
        let tcp = Probe::tcp(lab, "tcp", &vip)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        let at = now_us();
        steadfast::stop(lab, node)?;
        let left = lab.shell(&site::name(node), "ip -o addr show dev eth0")?;
        if lab.site.vips().iter().chain(&lab.site.vips6()).any(|v| left.contains(&format!("{v}/"))) {
            bail!("a VIP was left behind:\n{left}");
        }
        tcp.wait_ok(at + 100_000, Duration::from_secs(20))?;
        let seen = tcp.stop()?;
        ctx.bound("tcp: longest outage", seen.longest_ms(at), 2500.0)?;
        steadfast::start(lab, node)?;
        let all: Vec<usize> = (0..lab.site.nodes).collect();
        steadfast::wait_whole(lab, &all, Duration::from_secs(60)).map(drop)
    })
}
