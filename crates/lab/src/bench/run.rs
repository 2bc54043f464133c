//! One run: a fault, and what four clients saw of it.

use super::rival::Rival;
use super::{Fault, Figures, Run};
use crate::lab::Net;
use crate::probe::arp::to_and_fro;
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::streams::{Saw, Streams};
use crate::{sh, site, switch};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Does it; a failure is part of what is kept.
pub(super) fn run(rival: Rival<'_>, case: Fault, number: usize) -> Run {
    let begun = Instant::now();
    let mut run = Run {
        subject: rival.lab.site.subject,
        storage: rival.lab.site.storage,
        case,
        run: number,
        unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        load: load(),
        victim: String::new(),
        fault_at_us: 0,
        mended_at_us: 0,
        seconds: 0.0,
        failure: None,
        notes: Vec::new(),
        double: 0,
        probes: std::collections::BTreeMap::new(),
    };
    run.failure = fill(&mut run, rival).err().map(|e| format!("{e:#}"));
    run.seconds = super::round(begun.elapsed().as_secs_f64());
    run
}

pub(super) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|w| w.parse().ok()).unwrap_or(0.0)
}

fn fill(run: &mut Run, rival: Rival<'_>) -> Result<()> {
    let lab = rival.lab;
    let placement = rival.settle()?;
    let leader = placement.leader.context("there is no leader")?;
    let nodes: Vec<usize> = (0..lab.site.nodes).filter(|n| placement.of(*n).is_some()).collect();
    let victim = if run.case == Fault::LeaderPowerOff {
        leader
    } else {
        let others: Vec<usize> = nodes.into_iter().filter(|n| *n != leader).collect();
        *others.get(run.run % others.len().max(1)).context("no other node than the leader has an address")?
    };
    run.victim = site::name(victim);
    let tag = format!("{}{}-{}", run.case.word(), run.run, run.unix);
    let watcher = Probe::arp(lab)?;
    let streams = Streams::start(lab, &placement, victim, &tag, rival.warm())?;
    run.fault_at_us = now_us();
    fault(rival, run.case, victim)?;
    if run.case != Fault::ServiceKilled
        && let Err(e) = moved(rival, victim, &streams)
    {
        run.notes.push(format!("{e:#}"));
    }
    let waited = streams.wait_ok(run.fault_at_us, rival.patience());
    if let Err(e) = &waited {
        run.notes.push(format!("{e:#}"));
    }
    std::thread::sleep(rival.calm());
    run.mended_at_us = now_us();
    let mended = mend(rival, run.case, victim).and_then(|()| rival.settle().map(drop));
    if mended.is_ok() {
        let again = streams.wait_ok(now_us().saturating_sub(400_000), rival.patience());
        run.notes.extend(again.err().map(|e| format!("{e:#}")));
        std::thread::sleep(rival.calm());
    }
    let (saw, written) = streams.stop()?;
    note(run, &saw);
    run.double = to_and_fro(&watcher.stop()?.changes, crate::cases::SAME_TIME).len();
    mended.context("after the fault")?;
    written.read_back(lab)?;
    written.remove(lab, victim)
}

/// Waits until another node says that somebody else has the victim's address.
fn moved(rival: Rival<'_>, victim: usize, streams: &Streams) -> Result<()> {
    let observer = rival.lab.nodes_on().into_iter().find(|n| *n != victim).context("no node is on")?;
    let what = format!("{} to be hosted elsewhere", streams.moved_vip);
    sh::wait_for(&what, rival.move_limit().max(Duration::from_secs(20)), || {
        let holder = rival.placement(observer)?.holders.get(&streams.moved_vip).copied();
        Ok(holder.is_some_and(|h| h != victim).then_some(()))
    })
}

fn fault(rival: Rival<'_>, case: Fault, victim: usize) -> Result<()> {
    let host = site::name(victim);
    match case {
        Fault::PowerOff | Fault::LeaderPowerOff => rival.lab.power_off(&host),
        Fault::DaemonKilled => rival.signal(victim, "KILL"),
        Fault::DaemonStopped => rival.signal(victim, "STOP"),
        Fault::LinkDown | Fault::LinkDownOneNetwork => switch::link(rival.lab, &host, Net::Public, false),
        Fault::ServiceKilled => rival.lab.shell(&host, "kill -9 $(pgrep -o -x ganesha.nfsd)").map(drop),
        Fault::Drain => rival.drain(victim, true),
        Fault::Rejoin => bail!("rejoin is measured by the runs of power-off"),
    }
}

fn mend(rival: Rival<'_>, case: Fault, victim: usize) -> Result<()> {
    match case {
        Fault::PowerOff | Fault::LeaderPowerOff => rival.boot(victim),
        Fault::DaemonKilled => rival.start_again(victim),
        Fault::DaemonStopped => rival.signal(victim, "CONT"),
        Fault::LinkDown | Fault::LinkDownOneNetwork => switch::link(rival.lab, &site::name(victim), Net::Public, true),
        Fault::Drain => rival.drain(victim, false),
        Fault::ServiceKilled | Fault::Rejoin => Ok(()),
    }
}

fn note(run: &mut Run, saw: &Saw) {
    for (name, seen) in saw.all() {
        // The TCP probe's failures are the outage itself; an NFS operation that fails is an error for an application.
        let errors = if name.starts_with("tcp") { 0 } else { seen.errors };
        let longest = |from: u64, to: u64| {
            let touching = seen.gaps.iter().filter(|g| g.to_us >= from && g.from_us < to);
            super::round(touching.map(crate::probe::run::Gap::ms).fold(0.0, f64::max))
        };
        let later = seen.gaps.iter().filter(|g| g.from_us >= run.mended_at_us);
        let figures = Figures {
            fault_ms: longest(run.fault_at_us, run.mended_at_us),
            mended_ms: super::round(later.map(crate::probe::run::Gap::ms).fold(0.0, f64::max)),
            never: seen.gaps.iter().any(|g| g.after == "NEVER"),
            errors,
            gaps: seen.gaps.iter().filter(|g| g.to_us >= run.fault_at_us).cloned().collect(),
        };
        run.probes.insert(name.to_owned(), figures);
    }
}
