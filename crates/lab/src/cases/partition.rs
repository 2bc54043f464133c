//! Broken networks between the nodes, while clients still reach every one of them: never two holders.

use super::Ctx;
use crate::lab::Net;
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::steadfast::{self, Status};
use crate::switch;
use crate::{sh, site};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

fn names(nodes: &[usize]) -> Vec<String> {
    nodes.iter().map(|&n| site::name(n)).collect()
}

fn heal(ctx: &Ctx<'_>) -> Result<()> {
    switch::partition(ctx.lab, &[], &[])?;
    let begun = Instant::now();
    let all: Vec<usize> = (0..ctx.lab.site.nodes).collect();
    steadfast::wait_whole(ctx.lab, &all, Duration::from_secs(120))?;
    ctx.figure(format!("whole again {:.1} s after the networks were mended", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn first_v4(status: &Status, node: usize) -> Result<String> {
    let held = status.held_by(node);
    held.into_iter().find(|a| !a.contains(':')).with_context(|| format!("{} holds no address", site::name(node)))
}

/// One node is cut off from the three others on the private network.
pub(crate) fn three_one(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let loner = status.snapshot.leader.context("the cluster has no leader")?;
    let others: Vec<usize> = (0..lab.site.nodes).filter(|&n| n != loner).collect();
    ctx.watched(|| {
        let probe = Probe::tcp(lab, "tcp", &first_v4(&status, loner)?)?;
        probe.wait_ok(0, Duration::from_secs(10))?;
        let at = now_us();
        switch::partition(lab, &[names(&[loner]), names(&others)], &[Net::Private])?;
        steadfast::wait_whole(lab, &others, Duration::from_secs(60))?;
        probe.wait_ok(at + 200_000, Duration::from_secs(30))?;
        let seen = probe.stop()?;
        ctx.bound("tcp, address of the node cut off: longest outage", seen.longest_ms(at), 1300.0)?;
        let alone = steadfast::status(lab, loner)?;
        let serves = lab.shell(&site::name(loner), "ip -o addr show dev eth0")?;
        if lab.site.vips().iter().any(|v| serves.contains(&format!("{v}/"))) {
            bail!("the node that was cut off still has a VIP:\n{serves}");
        }
        ctx.figure(format!("{} says: member {}", site::name(loner), alone.snapshot.member));
        heal(ctx)
    })
}

/// Two halves. Nobody need serve; both must not.
pub(crate) fn two_two(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    ctx.watched(|| {
        switch::partition(lab, &[names(&[0, 1]), names(&[2, 3])], &[Net::Private])?;
        std::thread::sleep(Duration::from_secs(8));
        let served: Vec<usize> = [0, 2]
            .iter()
            .map(|&n| match steadfast::status(lab, n) {
                Ok(s) => (0..lab.site.nodes).map(|m| s.held_by(m).len()).sum(),
                Err(_) => 0,
            })
            .collect();
        ctx.figure(format!("VIPs served after 8 s, as each half sees it: {served:?}"));
        heal(ctx)
    })
}

/// One cable of the mesh: exactly one of the two nodes stays out.
pub(crate) fn one_link(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    ctx.watched(|| {
        switch::partition(lab, &[names(&[1]), names(&[2])], &[Net::Private])?;
        let members = sh::wait_for("one node to stay out", Duration::from_secs(30), || {
            let status = steadfast::status(lab, 0)?;
            let members: Vec<usize> =
                status.snapshot.view.as_ref().map(|v| v.members.keys().copied().collect()).unwrap_or_default();
            let out: Vec<usize> = (0..lab.site.nodes).filter(|n| !members.contains(n)).collect();
            Ok((out == [1] || out == [2]).then_some(members))
        })?;
        let status = steadfast::wait_whole(lab, &members, Duration::from_secs(30))?;
        let epoch = status.epoch();
        std::thread::sleep(Duration::from_secs(6));
        let later = steadfast::status(lab, 0)?;
        ctx.figure(format!("members {members:?}; {} views in the 6 s after", later.epoch() - epoch));
        if later.epoch() != epoch {
            bail!("the view changes again and again while the cable is cut: epoch {epoch}, then {}", later.epoch());
        }
        heal(ctx)
    })
}
