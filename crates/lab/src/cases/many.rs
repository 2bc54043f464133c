//! Many addresses: a node with 200 of 800 loses its power.

use super::Ctx;
use crate::probe::now_us;
use crate::probe::run::{Gap, Probe};
use crate::steadfast::{self, CONFIG, Status};
use crate::{parts, site};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const EACH: usize = 200;
/// The lease, the margin that follows it, and what is allowed for the takeover of all of them.
const BOUND: f64 = 600.0 + 50.0 + 300.0;

fn config(base: &str, nodes: usize) -> String {
    let mut text = base.to_owned();
    for n in 0..nodes {
        for i in 1..=EACH {
            let _ = write!(text, "\n[[vip]]\naddress = \"10.8.{n}.{i}/16\"\ninterface = \"eth0\"\n");
        }
    }
    text
}

pub(super) fn put(ctx: &Ctx<'_>, text: &str) -> Result<()> {
    for name in ctx.lab.site.names() {
        ctx.lab.write(&name, CONFIG, text)?;
    }
    let reload = |n: usize| ctx.lab.exec(&site::name(n), &["steadfast", "reload"], Duration::from_secs(30)).map(drop);
    // The leader last: who does not know an address yet when it is placed gets its share one by one later.
    let leader = steadfast::status(ctx.lab, 0)?.snapshot.leader;
    parts::each_node(ctx.lab, |n| if Some(n) == leader { Ok(()) } else { reload(n) })?;
    leader.map_or(Ok(()), reload)
}

/// All of them are taken by the others, the last one within 0.3 s after the lease of the node that is gone.
pub(crate) fn power_off(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let base = steadfast::config(&lab.site);
    lab.client("ip addr add 10.8.255.10/16 dev eth0")?;
    let outcome = cut(ctx, &config(&base, lab.site.nodes));
    // Whatever came of it: the next test wants the site as it was.
    let mended = mend(ctx, &base);
    outcome.and(mended)
}

fn mend(ctx: &Ctx<'_>, base: &str) -> Result<()> {
    ctx.lab.client("ip addr del 10.8.255.10/16 dev eth0")?;
    for n in ctx.all() {
        if !ctx.lab.is_on(&site::name(n)) {
            parts::boot(ctx.lab, n)?;
            ctx.lab.write(&site::name(n), CONFIG, base)?;
            steadfast::start(ctx.lab, n)?;
            steadfast::wait_answers(ctx.lab, n)?;
        }
    }
    put(ctx, base)?;
    steadfast::wait_whole(ctx.lab, &ctx.all(), Duration::from_secs(60)).map(drop)
}

fn cut(ctx: &Ctx<'_>, config: &str) -> Result<()> {
    let lab = ctx.lab;
    let begun = Instant::now();
    put(ctx, config)?;
    let status = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    ctx.figure(format!(
        "{} addresses held {:.1} s after the reload that brought them",
        status.snapshot.vips.len(),
        begun.elapsed().as_secs_f64()
    ));
    let victim = lab.site.nodes - 1;
    let mine: Vec<String> = many(&status, victim);
    if mine.len() != EACH {
        bail!("{} holds {} of the addresses, not {EACH}", site::name(victim), mine.len());
    }
    readable(ctx, 0)?;
    let sweep = Probe::start(lab, site::CLIENT, "sweep", &["sweep", "--targets", &mine.join(",")])?;
    sweep.wait_ok(0, Duration::from_secs(10))?;
    let at = now_us();
    lab.power_off(&site::name(victim))?;
    sweep.wait_ok(at + 200_000, Duration::from_secs(20))?;
    let seen = sweep.stop()?;
    let gaps: Vec<&Gap> = seen.gaps.iter().filter(|g| g.to_us > at).collect();
    let moved: BTreeSet<&str> = gaps.iter().map(|g| g.before.as_str()).collect();
    if moved.len() != EACH {
        bail!("{} of {EACH} addresses went away and came back: was the power cut?", moved.len());
    }
    let back = |pick: fn(u64, u64) -> u64, from| gaps.iter().map(|g| g.to_us - at).fold(from, pick) as f64 / 1000.0;
    ctx.figure(format!("the first of {EACH} answers {:.0} ms after the power cut", back(u64::min, u64::MAX)));
    ctx.bound(&format!("the last of {EACH} answers after the power cut"), back(u64::max, 0), BOUND)
}

fn many(status: &Status, node: usize) -> Vec<String> {
    status.held_by(node).into_iter().filter(|a| a.starts_with("10.8.")).collect()
}

/// What people and programs read stays small and quick.
fn readable(ctx: &Ctx<'_>, node: usize) -> Result<()> {
    for words in [&["steadfast", "status"][..], &["steadfast", "status", "--json"], &["steadfast", "ip"]] {
        let begun = Instant::now();
        let done = ctx.lab.try_exec(&site::name(node), words, Duration::from_secs(10))?;
        let (lines, bytes) = (done.stdout.lines().count(), done.stdout.len());
        ctx.figure(format!("{}: {lines} lines, {bytes} bytes, {} ms", words.join(" "), begun.elapsed().as_millis()));
    }
    let answer = ctx.lab.client(&format!("dig +tcp +short {}.{} A | wc -l", site::NFS_NAME, site::ZONE))?;
    let count: usize = answer.trim().parse().context("dig")?;
    ctx.figure(format!("{} has {count} addresses over TCP", site::NFS_NAME));
    Ok(())
}
