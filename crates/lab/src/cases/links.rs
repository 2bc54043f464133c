//! Two networks: the clients' one, and one between the nodes for control and storage. One of a node's cables is out.

use super::{Ctx, vip_of};
use crate::lab::Net;
use crate::probe::now_us;
use crate::probe::run::{Probe, Seen};
use crate::steadfast::{self, Status};
use crate::{sh, site, switch};
use anyhow::{Result, bail};
use std::time::Duration;

const VICTIM: usize = 3;
/// Clients of other nodes.
const OTHERS: f64 = 100.0;
/// Nodes tell each other of their clients' connections within a second of a change.
const WARM: Duration = Duration::from_millis(1500);

/// What clients of the victim's address and of another node's saw.
struct Saw {
    moved: Seen,
    stayed: Seen,
    /// A writer on the victim's address, until the cable was in again.
    writer: Option<Seen>,
    at: u64,
}

/// Takes the cable out until the victim's address answers from elsewhere, and a second longer.
fn unplugged(ctx: &Ctx<'_>, net: Net, writes: bool, meanwhile: impl FnOnce(&Status) -> Result<()>) -> Result<Saw> {
    let lab = ctx.lab;
    let host = site::name(VICTIM);
    let before = steadfast::status(lab, 0)?;
    let moved = Probe::tcp(lab, "tcp-moved", &vip_of(&before, VICTIM)?)?;
    let stayed = Probe::tcp(lab, "tcp-stayed", &vip_of(&before, 1)?)?;
    let writer = writes.then(|| Probe::nfs_writer(lab, "writer", &vip_of(&before, VICTIM)?, "nfs/unplugged"));
    let writer = writer.transpose()?;
    for probe in [&moved, &stayed].into_iter().chain(&writer) {
        probe.wait_ok(0, Duration::from_secs(10))?;
    }
    std::thread::sleep(WARM);
    let at = now_us();
    switch::link(lab, &host, net, false)?;
    let elsewhere = sh::wait_for("the address to answer elsewhere", Duration::from_secs(5), || {
        let seen = moved.seen();
        Ok((seen.last_us > at + 200_000 && seen.who != host).then_some(()))
    });
    std::thread::sleep(Duration::from_secs(1));
    let found = elsewhere.and_then(|()| steadfast::status(lab, 0)).and_then(|during| {
        // Addresses of other nodes stay where they are.
        for (vip, held) in before.snapshot.vips.iter().filter(|(_, v)| v.holder != Some(VICTIM)) {
            let now = during.holder(vip);
            if now != held.holder {
                bail!("{vip} went from {:?} to {now:?}, though its node lost nothing", held.holder);
            }
        }
        meanwhile(&during)
    });
    let writer = writer.map(|writer| writer.wait_ok(at + 200_000, Duration::from_secs(5)).and_then(|()| writer.stop()));
    switch::link(lab, &host, net, true)?;
    found?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    Ok(Saw { moved: moved.stop()?, stayed: stayed.stop()?, writer: writer.transpose()?, at })
}

/// The cable to the clients: the node says so over the private network, and nobody waits for a lease (600 ms). Measured:
/// 41 to 45 ms.
pub(crate) fn public(ctx: &Ctx<'_>) -> Result<()> {
    ctx.watched(|| {
        let saw = unplugged(ctx, Net::Public, false, |during| {
            if during.snapshot.view.as_ref().is_some_and(|v| v.members.contains_key(&VICTIM)) {
                Ok(())
            } else {
                bail!("a node that has only lost its clients' network was dropped")
            }
        })?;
        ctx.bound("tcp, moved address: longest outage", saw.moved.longest_ms(saw.at), 200.0)?;
        ctx.bound("tcp, address of another node: longest stall", saw.stayed.longest_ms(saw.at), OTHERS)
    })
}

/// The cable to the other nodes: without it there is no lease, so the addresses go, after it and not before.
/// Measured: 253 ms, for the node goes on answering until its lease is over.
pub(crate) fn private(ctx: &Ctx<'_>) -> Result<()> {
    ctx.watched(|| {
        let saw = unplugged(ctx, Net::Private, false, |_| Ok(()))?;
        ctx.bound("tcp, moved address: longest outage", saw.moved.longest_ms(saw.at), 500.0)?;
        ctx.bound("tcp, address of another node: longest stall", saw.stayed.longest_ms(saw.at), OTHERS)
    })
}

/// The cable to the clients again, under a writer on GlusterFS: the NFS server that has lost all of its clients begins anew,
/// so that none of them waits for the second that GlusterFS keeps its inner lock of a file. Measured: 175 to 260 ms on a
/// machine with a load of 29; without it 1005 to 1240.
pub(crate) fn under_a_writer(ctx: &Ctx<'_>) -> Result<()> {
    ctx.watched(|| {
        let saw = unplugged(ctx, Net::Public, true, |_| Ok(()))?;
        let writer = saw.writer.as_ref().map_or(f64::MAX, |writer| writer.longest_ms(saw.at));
        ctx.bound("NFSv3 writer on the moved address: longest outage", writer, 700.0)
    })
}
