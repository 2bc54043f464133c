//! Does the planned faults to a laboratory, and mends them.

use super::plan::{Fault, Kind};
use crate::drill::Laboratory;
use crate::lab::{Lab, Net};
use crate::{parts, sh, site, steadfast, switch};
use ::drill::{Fault as Drill, Stage};
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

const DAY_S: u64 = 86_400;

/// The fault as the drill knows it.
fn drilled(kind: Kind) -> Option<Drill> {
    Some(match kind {
        Kind::PowerOff => Drill::PowerOff,
        Kind::LeaderPowerOff => Drill::LeaderPowerOff,
        Kind::DaemonKilled => Drill::DaemonKilled,
        Kind::DaemonStopped | Kind::DaemonPaused => Drill::DaemonStopped,
        Kind::PublicLinkDown => Drill::PublicLinkDown,
        Kind::PrivateLinkDown => Drill::PrivateLinkDown,
        Kind::GaneshaKilled => Drill::ServiceKilled,
        Kind::GaneshaStopped => Drill::ServiceHung,
        Kind::MountHung => Drill::MountHung,
        _ => return None,
    })
}

/// One fault of one node.
struct Hurt<'a> {
    lab: &'a Lab,
    node: usize,
    fault: &'a Fault,
    stage: Laboratory<'a>,
}

impl<'a> Hurt<'a> {
    fn new(lab: &'a Lab, node: usize, fault: &'a Fault) -> Self {
        Self { lab, node, fault, stage: Laboratory::new(lab, node) }
    }

    fn shell(&self, line: &str) -> Result<()> {
        self.lab.shell(&site::name(self.node), line).map(drop)
    }

    /// The node and one other, as the switch cuts them.
    fn cut(&self) -> Result<()> {
        let me = vec![site::name(self.node)];
        let others: Vec<String> = self.lab.site.names().into_iter().filter(|n| *n != me[0]).collect();
        let nets = [Net::Public, Net::Private];
        // Between the nodes: with two networks, that is where they are.
        let nets = if self.lab.site.private_net { &nets[1..] } else { &nets[..1] };
        match (self.fault.kind, self.fault.detail % 2) {
            (Kind::CutOneWay, 0) => switch::cut(self.lab, &[(&others, &me)], nets),
            (Kind::CutOneWay, _) => switch::cut(self.lab, &[(&me, &others)], nets),
            (Kind::CutFromOne, _) => {
                let one = vec![others[(self.fault.detail / 2) as usize % others.len()].clone()];
                switch::partition(self.lab, &[me, one], nets)
            }
            _ => switch::partition(self.lab, &[me, others], nets),
        }
    }

    fn begin(&mut self) -> Result<()> {
        let (lab, node, kind) = (self.lab, self.node, self.fault.kind);
        if let Some(fault) = drilled(kind) {
            return self.stage.inflict(fault);
        }
        match kind {
            Kind::DaemonAndGuardKilled | Kind::GuardKilled => {
                let daemon = lab.service_pid(&site::name(node), "steadfast")?;
                let guard = format!("$(pgrep -f 'helper guard {}$')", daemon.trim());
                let also = if kind == Kind::GuardKilled { "" } else { daemon.trim() };
                self.shell(&format!("kill -9 {guard} {also}"))
            }
            Kind::NodePaused => self.shell("kill -STOP -1"),
            Kind::CutOff | Kind::CutOneWay | Kind::CutFromOne => self.cut(),
            // The one that the others descend from; all of them now and then.
            Kind::SmbdKilled if self.fault.detail.is_multiple_of(3) => self.shell("kill -9 $(pgrep -x smbd)"),
            Kind::SmbdKilled => self.shell("kill -9 $(pgrep -o -x smbd)"),
            Kind::Drain => self.shell("steadfast drain --now --yes --no-wait"),
            Kind::CleanStop => steadfast::stop(lab, node),
            Kind::ClockJump => {
                steadfast::stop(lab, node)?;
                steadfast::start_ahead(lab, node, (1 + self.fault.detail % 400) * DAY_S)
            }
            _ => Ok(()),
        }
    }

    fn mend(&mut self) -> Result<()> {
        let (lab, node, kind) = (self.lab, self.node, self.fault.kind);
        if let Some(fault) = drilled(kind) {
            return self.stage.mend(fault);
        }
        match kind {
            Kind::NodePaused => self.shell("kill -CONT -1"),
            Kind::CutOff | Kind::CutOneWay | Kind::CutFromOne => switch::partition(lab, &[], &[]),
            Kind::Drain => self.shell("steadfast resume"),
            Kind::DaemonAndGuardKilled | Kind::CleanStop if steadfast::daemon_runs(lab, node) => Ok(()),
            Kind::DaemonAndGuardKilled | Kind::CleanStop => steadfast::start(lab, node),
            Kind::ClockJump => {
                if steadfast::daemon_runs(lab, node) {
                    steadfast::stop(lab, node)?;
                }
                steadfast::start(lab, node)
            }
            _ => Ok(()),
        }
    }
}

/// Makes all these faults, each at its time, and mends them; what could not be made (what it would hit was just not
/// there) is told. Whatever happens, all that was made is mended, or that is the error.
pub(super) fn all(lab: &Lab, faults: &[(Fault, usize)]) -> Result<Vec<String>> {
    let done: Vec<Result<Option<String>>> = std::thread::scope(|scope| {
        let threads: Vec<_> = faults.iter().map(|(fault, node)| scope.spawn(|| one(lab, fault, *node))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a fault's thread has panicked"))))
            .collect()
    });
    Ok(done.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn one(lab: &Lab, fault: &Fault, node: usize) -> Result<Option<String>> {
    std::thread::sleep(fault.after);
    let what = || format!("{} on {}", fault.kind.word(), site::name(node));
    let begun = Instant::now();
    let mut hurt = Hurt::new(lab, node, fault);
    let made = hurt.begin();
    std::thread::sleep(fault.lasts.saturating_sub(begun.elapsed()));
    // Not at once, when another fault is in the way: a daemon that does not run yet, a node that boots.
    sh::wait_for("it to be mended", Duration::from_secs(60), || hurt.mend().map(Some))
        .with_context(|| format!("{} is not mended", what()))?;
    Ok(made.err().map(|e| format!("{}: {e:#}", what())))
}

/// Everything on, plugged in, running and resumed, whatever was done.
pub(super) fn mend_all(lab: &Lab) -> Result<()> {
    switch::partition(lab, &[], &[])?;
    parts::each_node(lab, |node| {
        let host = site::name(node);
        if !lab.is_on(&host) {
            parts::boot(lab, node)?;
        }
        switch::link(lab, &host, Net::Public, true)?;
        if lab.site.private_net {
            switch::link(lab, &host, Net::Private, true)?;
        }
        lab.shell(&host, "kill -CONT -1")?;
        if !steadfast::daemon_runs(lab, node) {
            steadfast::start(lab, node)?;
        }
        sh::wait_for("the node to be resumed", Duration::from_secs(60), || {
            lab.shell(&host, "steadfast resume").map(Some)
        })
        .map(drop)
    })
}
