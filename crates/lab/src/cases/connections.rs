//! Clients' connections, of which the heir of an address must know: how soon the other nodes do.

use super::{Ctx, many, vip_of};
use crate::probe::run::Probe;
use crate::{sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// On the site for as long as the test.
const VIP6: &str = "fd5f:122::250";
const CLIENT6: &str = "fd5f:122::10/64";
/// Connections of the crowd to each of two addresses, and of each that comes later.
const CROWD: usize = 1000;
const MORE: usize = 10;
const CHANGES: u16 = 5;
/// The first port.
const PORT: u16 = 7801;
/// What is promised. Measured: 438 ms for the crowd, 659 to 713 for what came later (load of 40); the holder looks every 800 ms.
const KNOWN: f64 = 1000.0;

/// A daemon that has just started and been let in may be the heir at once: it knows them by then, but for the time that it takes to
/// ask it. Unchanged lists went out every 5 s only, once.
const KNOWN_WHEN_IN: f64 = 500.0;

/// 2,000 connections to an IPv4 and an IPv6 address, and then a few more again and again: every other node knows all of them
/// within a second.
pub(crate) fn known_to_peers(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let base = steadfast::config(&lab.site);
    lab.client(&format!("ip addr add {CLIENT6} dev eth0 nodad"))?;
    let outcome = crowds(ctx, &format!("{base}\n[[vip]]\naddress = \"{VIP6}/64\"\ninterface = \"eth0\"\n"));
    // Whatever came of it: the next test wants the site as it was.
    lab.client(&format!("ip addr del {CLIENT6} dev eth0"))?;
    many::put(ctx, &base)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    outcome
}

fn crowds(ctx: &Ctx<'_>, config: &str) -> Result<()> {
    let lab = ctx.lab;
    many::put(ctx, config)?;
    let status = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    let holder = status.holder(VIP6).context("nobody holds the IPv6 address")?;
    let vip = vip_of(&status, holder)?;
    let mut kept = Vec::new();
    let mut worst: f64 = 0.0;
    for round in 0..=CHANGES {
        let (port, count) = (PORT + round, if round == 0 { CROWD } else { MORE });
        let (targets, count) = (format!("{vip}:{port},[{VIP6}]:{port}"), count.to_string());
        let both = ["--targets", &targets, "--count", &count];
        let words = ["crowd-server", "--port", &port.to_string()];
        let server = Probe::start(lab, &site::name(holder), "server", &words)?;
        once(&server)?;
        let ask = |n: usize| Probe::start(lab, &site::name(n), &site::name(n), &[&["crowd-known"], &both[..]].concat());
        let peers: Vec<Probe> = ctx.but(holder).into_iter().map(ask).collect::<Result<_>>()?;
        let crowd = Probe::start(lab, site::CLIENT, "crowd", &[&["crowd"], &both[..]].concat())?;
        let there = once(&crowd)?;
        let last = peers.iter().map(once).collect::<Result<Vec<u64>>>()?.into_iter().max().unwrap_or_default();
        let ms = last.saturating_sub(there) as f64 / 1000.0;
        ctx.figure(format!("{} connections: all three others know them after {ms:.0} ms", crowd.seen().ok));
        worst = worst.max(ms);
        kept.push((server, crowd));
    }
    ctx.bound("the last node that knows, after the last connection", worst, KNOWN)?;
    let targets = format!("{vip}:{PORT},[{VIP6}]:{PORT}");
    let count = CROWD.to_string();
    for node in ctx.but(holder) {
        steadfast::stop(lab, node)?;
        steadfast::start(lab, node)?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
        let begun = Instant::now();
        let words = ["crowd-known", "--targets", &targets, "--count", &count];
        once(&Probe::start(lab, &site::name(node), "newcomer", &words)?)?;
        let ms = begun.elapsed().as_secs_f64() * 1000.0;
        ctx.bound(&format!("{} knows, after it was let in", site::name(node)), ms, KNOWN_WHEN_IN)?;
    }
    Ok(())
}

/// When a probe had all it wants; it says so once.
fn once(probe: &Probe) -> Result<u64> {
    sh::wait_for(&format!("probe {} to succeed", probe.name), Duration::from_secs(30), || {
        let seen = probe.seen();
        if let Some(why) = seen.failed {
            bail!("{}: {why}", probe.name);
        }
        Ok((seen.last_us > 0).then_some(seen.last_us))
    })
}
