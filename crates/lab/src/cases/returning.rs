//! Nodes without a lease and the shared filesystem: what waits goes on, and who was dropped cannot write any more.

use super::Ctx;
use crate::bench::Placement;
use crate::lab::{Lab, Net};
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::site::{self, MOUNT};
use crate::streams::{self, Streams};
use crate::{parts, sh, steadfast, switch};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Longest that a lock of a dropped node's program may stay taken, from the fault on: lease, margin, eviction.
const LOCK_FREE: f64 = 3000.0;

/// Longest stall of a writer on another node when a daemon comes back, in ms. Measured: 216 to 761 at a load of 35 on two processors,
/// where every client stood still at the same times; 3100 to 4400 where the bricks keep old locks.
const BACK: f64 = 1200.0;

pub(super) fn writer(lab: &Lab, node: usize, file: &str, tag: &str) -> Result<Probe> {
    let path = format!("{MOUNT}/{file}");
    Probe::start(lab, &site::name(node), tag, &["mount-writer", "--path", &path, "--tag", tag])
}

/// One program on a node writes under a lock; `fault` takes the node away; another node gets the lock and writes;
/// `mend` brings the node back: not one byte of the first may change what the second wrote.
fn cannot_write(
    ctx: &Ctx<'_>,
    what: &str,
    fault: impl FnOnce() -> Result<()>,
    mend: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let lab = ctx.lab;
    let node = 2;
    steadfast::settle(lab)?;
    let [name, _] = streams::files_on(lab, node, what)?;
    let file = format!("nfs/{name}");
    let old = writer(lab, node, &file, "A")?;
    old.wait_ok(0, Duration::from_secs(30))?;
    let (at, begun) = (now_us(), Instant::now());
    fault()?;
    let path = format!("{MOUNT}/{file}");
    let words = ["/usr/local/sbin/steadfast-lab", "probe", "mount-writer", "--once", "--path", &path, "--tag", "B"];
    // The lock is on files of the lost node's own bricks: it is free once the other brick knows that it is gone.
    let said = lab.exec("gluster1", &words, Duration::from_secs(60))?;
    if !said.contains(&format!("N {} 0", crate::probe::mount_writer::BLOCKS)) {
        bail!("{what}: the second writer could not write: {said}");
    }
    ctx.bound(
        &format!("{what}: another node has the lock and has written after"),
        begun.elapsed().as_secs_f64() * 1000.0,
        1000.0 + LOCK_FREE,
    )?;
    std::thread::sleep(Duration::from_secs(2));
    mend()?;
    // Time for what waits in a socket or in the kernel to arrive.
    std::thread::sleep(Duration::from_secs(3));
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(120))?;
    parts::wait_healed(lab, Duration::from_secs(120))?;
    let seen = old.stop()?;
    ctx.figure(format!(
        "{what}: the first writer's last success was {} ms after the fault; {} of its writes failed",
        seen.last_us.saturating_sub(at) / 1000,
        seen.errors
    ));
    let brick = format!("/data/brick/b/{file}");
    for (host, path) in [("gluster1", &path), ("gluster3", &path), ("gluster3", &brick), ("gluster4", &brick)] {
        let count = lab.shell(host, &format!("grep -vc '^B' {path} || true"))?;
        if count.trim() != "0" {
            bail!("{what}: {} lines of {path} on {host} are not the second writer's", count.trim());
        }
    }
    Ok(())
}

/// Its daemon is stopped, the rest of the node lives.
pub(crate) fn daemon_stopped(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    cannot_write(ctx, "stopped", || steadfast::signal(lab, 2, "STOP"), || steadfast::signal(lab, 2, "CONT"))
}

/// Its cable is out.
pub(crate) fn cut_off(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let host = site::name(2);
    cannot_write(
        ctx,
        "cut-off",
        || switch::link(lab, &host, Net::Public, false),
        || switch::link(lab, &host, Net::Public, true),
    )
}

/// All its processes are stopped, as a paused machine's, but its kernel goes on sending what it has.
pub(crate) fn paused(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let all = |signal: &str| lab.shell("gluster3", &format!("kill -{signal} -1")).map(drop);
    cannot_write(ctx, "paused", || all("STOP"), || all("CONT"))
}

/// A node that starts while another is dropped: shut out before glusterd runs, by the view on disk alone.
pub(crate) fn fence_before_glusterd(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let fence = |node: usize| lab.shell(&site::name(node), "nft list table inet steadfast_fence");
    lab.power_off(&site::name(3))?;
    steadfast::wait_whole(lab, &[0, 1, 2], Duration::from_secs(60))?;
    lab.power_off(&site::name(1))?;
    steadfast::wait_whole(lab, &[0, 2], Duration::from_secs(60)).context("two of the three are left")?;
    parts::boot(lab, 1)?;
    let there = fence(1).context("there is no fence before the daemon runs")?;
    let lost = lab.site.private(3);
    if !there.contains(&lost) {
        bail!("the fence made from the view on disk does not shut {lost} out:\n{there}");
    }
    parts::boot(lab, 3)?;
    for node in [1, 3] {
        steadfast::start(lab, node)?;
    }
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(120))?;
    if fence(1)?.contains(&lost) {
        bail!("{lost} was admitted and is still shut out");
    }
    Ok(())
}

/// A killed daemon comes back, and with it a brick whose copies are old: programs on the other nodes that write all the while
/// read back what they have written, and not those.
pub(crate) fn old_copies_are_not_read(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::settle(lab)?;
    let leader = status.snapshot.leader.context("the cluster has no leader")?;
    let victim = ctx.but(leader)[0];
    let read_back = |node: &usize| {
        let directory = format!("{MOUNT}/nfs/back{}-{node}", now_us());
        Probe::start(lab, &site::name(*node), &site::name(*node), &["read-back", "--directory", &directory])
    };
    let all: Vec<Probe> = ctx.but(victim).iter().map(read_back).collect::<Result<_>>()?;
    let bricks: usize = lab.site.replica_sets().iter().map(Vec::len).sum();
    let connected = |to: usize| {
        sh::wait_for(&format!("{to} bricks to be connected to"), Duration::from_secs(60), || {
            let is = |node: &usize| Ok(parts::bricks_connected(lab, &site::name(*node), MOUNT)? == to);
            let all: Vec<bool> = ctx.but(victim).iter().map(is).collect::<Result<_>>()?;
            Ok(all.into_iter().all(|is| is).then_some(()))
        })
    };
    let wait_ok = |since: u64| all.iter().try_for_each(|probe| probe.wait_ok(since, Duration::from_secs(30)));
    wait_ok(0)?;
    steadfast::signal(lab, victim, "KILL")?;
    dropped(lab, leader, victim)?;
    connected(bricks - 1)?;
    wait_ok(now_us())?;
    // So long its copies grow old.
    std::thread::sleep(Duration::from_secs(2));
    steadfast::start(lab, victim)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90))?;
    connected(bricks)?;
    // GlusterFS's inner lock lasts for a second: by then every file has been read under it, and after.
    std::thread::sleep(Duration::from_millis(1500));
    wait_ok(now_us())?;
    let (mut reads, mut stale, mut first) = (0, 0, Vec::new());
    for probe in all {
        let name = probe.name.clone();
        let seen = probe.stop()?;
        let [old, which] = &seen.extra[..] else { bail!("{name}: the probe did not end: {:?}", seen.extra) };
        let old: u64 = old.parse().with_context(|| format!("{name}: {old} is no number of reads"))?;
        (reads, stale) = (reads + seen.ok, stale + old);
        first.extend((old > 0).then(|| format!("{name}: {which}")));
    }
    ctx.figure(format!("{reads} reads of what was just written; old ones: {}", first.join(", ")));
    ctx.limit("reads of an old copy", stale as f64, 0.0, "reads")
}

/// Waits for a view without it.
fn dropped(lab: &Lab, leader: usize, victim: usize) -> Result<()> {
    sh::wait_for("a view without it", Duration::from_secs(20), || {
        let view = steadfast::status(lab, leader)?.snapshot.view;
        Ok(view.is_some_and(|v| !v.members.contains_key(&victim)).then_some(()))
    })
}

/// A killed daemon comes back, and with it the brick that has the files of other nodes' clients: those connect to it again, and
/// must not find there what their connections of before still hold.
pub(crate) fn stalls_no_writer(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let leader = status.snapshot.leader.context("the cluster has no leader")?;
    let victim = ctx.but(leader)[0];
    ctx.watched(|| {
        let tag = format!("back{}", now_us());
        let streams = Streams::start(lab, &Placement::from(&status), victim, &tag, Duration::from_millis(2500))?;
        let at = now_us();
        steadfast::signal(lab, victim, "KILL")?;
        dropped(lab, leader, victim)?;
        streams.wait_ok(at, Duration::from_secs(20))?;
        // It is let in some 6 s after this. A brick that keeps old connections tries them again 6 and 13 s after the fault, and
        // hears then that they are gone: in between the clients come back.
        std::thread::sleep(Duration::from_millis(1500));
        let back = now_us();
        steadfast::start(lab, victim)?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(90))?;
        streams.wait_ok(now_us(), Duration::from_secs(20))?;
        let (saw, written) = streams.stop()?;
        ctx.bound(
            "NFSv3 writer of another node: longest stall since the daemon is back",
            saw.nfs_unmoved.longest_ms(back),
            BACK,
        )?;
        written.read_back(lab)?;
        written.remove(lab, victim)
    })
}
