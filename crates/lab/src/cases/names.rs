//! What the names give while a server loses its power.

use super::{Ctx, vip_of};
use crate::lab::Net;
use crate::probe::now_us;
use crate::site::{self, CLIENT, NFS_NAME, ZONE};
use crate::{parts, sh, steadfast, switch};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

const LOG: &str = "/tmp/names.log";
const STOP: &str = "/tmp/names.stop";

/// One answer: when it was asked for, the addresses.
struct Answer {
    at_us: u64,
    addresses: Vec<String>,
}

fn read(ctx: &Ctx<'_>) -> Result<Vec<Answer>> {
    let text = ctx.lab.read(CLIENT, LOG)?;
    let parse = |line: &str| -> Option<Answer> {
        let mut words = line.split_whitespace();
        // /proc/uptime has hundredths of a second of the boot clock, which here runs as the monotonic one does.
        let seconds: f64 = words.next()?.parse().ok()?;
        Some(Answer { at_us: (seconds * 1e6) as u64, addresses: words.map(str::to_owned).collect() })
    };
    Ok(text.lines().filter_map(parse).collect())
}

/// A name asked for at a surviving address, again and again through a power cut: never no answer, never none of the
/// addresses, and only addresses that are served or on the move.
pub(crate) fn power_off(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let victim = 2;
    let lost = vip_of(&status, victim)?;
    let at = vip_of(&status, 0)?;
    lab.client(&format!("rm -f {STOP} {LOG}"))?;
    let line = format!(
        "while [ ! -e {STOP} ]; do read now rest </proc/uptime
           answer=$(dig +time=1 +tries=1 +short @{at} {NFS_NAME}.{ZONE} A | grep -v '^;' | sort | tr '\\n' ' ')
           echo \"$now $answer\" >>{LOG}; sleep 0.03; done"
    );
    lab.service(CLIENT, "names", &["sh", "-c", &line])?;
    ctx.watched(|| {
        std::thread::sleep(Duration::from_secs(1));
        let cut_us = now_us();
        lab.power_off(&site::name(victim))?;
        steadfast::wait_whole(lab, &ctx.but(victim), Duration::from_secs(30))?;
        std::thread::sleep(Duration::from_secs(1));
        lab.client(&format!("touch {STOP}"))?;
        let answers = read(ctx)?;
        let all = lab.site.vips();
        for answer in &answers {
            if answer.addresses.is_empty() {
                bail!("no address was given {} ms after the power cut", ms(answer.at_us, cut_us));
            }
            if let Some(strange) = answer.addresses.iter().find(|a| !all.contains(a)) {
                bail!("{strange} was given, which is no VIP");
            }
        }
        // An address on the move is given all the time: who asks in that second is to wait for it, not to hear "none".
        let last = answers.last().context("nothing was answered")?;
        if last.at_us < cut_us + 1_000_000 || last.addresses != all {
            bail!("the last answer is {:?}, {:.0} ms after the power cut", last.addresses, ms(last.at_us, cut_us));
        }
        let slowest = answers.windows(2).map(|w| ms(w[1].at_us, w[0].at_us)).fold(0.0, f64::max);
        let short = answers.iter().filter(|a| !a.addresses.contains(&lost)).count();
        ctx.figure(format!("{} answers, none without an address; {short} without {lost}", answers.len()));
        ctx.bound("longest time between two answers of a node that stays", slowest, 1500.0)?;
        parts::boot(lab, victim)?;
        steadfast::start(lab, victim)?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
    })
}

/// A node that is cut off from the others, not from clients, must not tell them where the addresses are: it says
/// SERVFAIL, so that resolvers ask the next server. The others give all addresses, served by them now.
pub(crate) fn cut_off(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let loner = 3;
    let others = ctx.but(loner);
    let ask = |node: usize| {
        lab.client(&format!("dig +time=1 +tries=1 @{} {NFS_NAME}.{ZONE} A || true", lab.site.public(node)))
    };
    ctx.watched(|| {
        switch::partition(
            lab,
            &[vec![site::name(loner)], others.iter().map(|&n| site::name(n)).collect()],
            &[Net::Public],
        )?;
        let begun = Instant::now();
        sh::wait_for("the node that is cut off to answer SERVFAIL", Duration::from_secs(10), || {
            Ok(ask(loner)?.contains("status: SERVFAIL").then_some(()))
        })
        .with_context(|| ask(loner).unwrap_or_default())?;
        ctx.bound("cut off, a node says SERVFAIL after", begun.elapsed().as_secs_f64() * 1000.0, 2000.0)?;
        steadfast::wait_whole(lab, &others, Duration::from_secs(30))?;
        let answer = ask(0)?;
        if let Some(missing) = lab.site.vips().iter().find(|v| !answer.contains(v.as_str())) {
            bail!("{missing} is served by one of three nodes and not given:\n{answer}");
        }
        switch::partition(lab, &[], &[])?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
        let answer = ask(loner)?;
        if !answer.contains("status: NOERROR") {
            bail!("the node is back and still does not answer:\n{answer}");
        }
        Ok(())
    })
}

fn ms(at_us: u64, since_us: u64) -> f64 {
    (at_us as f64 - since_us as f64) / 1000.0
}
