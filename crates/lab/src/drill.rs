//! The drill on a running laboratory.

use crate::lab::{Lab, Net};
use crate::parts;
use crate::site::{self, CLIENT, MOUNT, PASSWORD, SHARE, Storage, USER, VOLUME};
use crate::{steadfast, switch};
use anyhow::{Context, Result, bail};
use drill::clients::Spec;
use drill::{Fault, Plan, Report, Stage};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The laboratory with the node that is hit.
#[derive(Debug)]
pub(crate) struct Laboratory<'a> {
    lab: &'a Lab,
    node: usize,
    /// Processes that were stopped.
    stopped: String,
}

impl<'a> Laboratory<'a> {
    pub(crate) fn new(lab: &'a Lab, node: usize) -> Self {
        Self { lab, node, stopped: String::new() }
    }

    fn host(&self) -> String {
        site::name(self.node)
    }

    fn signal(&mut self, pids: String, signal: &str) -> Result<()> {
        if pids.is_empty() {
            bail!("there is no such process on {}", self.host());
        }
        self.lab.shell(&self.host(), &format!("kill -{signal} {pids}"))?;
        if signal == "STOP" {
            self.stopped = pids;
        }
        Ok(())
    }

    fn pids(&self, pattern: &str) -> Result<String> {
        let found = self.lab.shell(&self.host(), &format!("pgrep {pattern} || true"))?;
        Ok(found.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn other(&self) -> Result<usize> {
        self.lab.nodes_on().into_iter().find(|n| *n != self.node).context("no other node is on")
    }

    fn admin(&self, word: &str) -> Result<()> {
        let words = ["steadfast", word, &self.host()];
        self.lab.exec(&site::name(self.other()?), &words, Duration::from_secs(120)).map(drop)
    }
}

impl Stage for Laboratory<'_> {
    fn clients(&self) -> Result<Command> {
        self.lab.command(CLIENT, &["/usr/local/sbin/steadfast-lab", "probe", "drill"])
    }

    fn inflict(&mut self, fault: Fault) -> Result<()> {
        let host = self.host();
        match fault {
            Fault::PowerOff | Fault::LeaderPowerOff => self.lab.power_off(&host),
            Fault::Rejoin => self.lab.power_off(&host),
            Fault::DaemonKilled => steadfast::signal(self.lab, self.node, "KILL"),
            Fault::DaemonStopped => steadfast::signal(self.lab, self.node, "STOP"),
            Fault::PublicLinkDown => switch::link(self.lab, &host, Net::Public, false),
            Fault::PrivateLinkDown if self.lab.site.private_net => switch::link(self.lab, &host, Net::Private, false),
            Fault::PrivateLinkDown => bail!("this laboratory has one network: bring it up with --private-net"),
            Fault::ServiceKilled => self.signal(self.pids("-o -x ganesha.nfsd")?, "KILL"),
            Fault::ServiceHung => self.signal(self.pids("-o -x ganesha.nfsd")?, "STOP"),
            Fault::MountHung if self.lab.site.storage == Storage::Gluster => {
                self.signal(self.pids(&format!("-f 'glusterfs.*{MOUNT}$'"))?, "STOP")
            }
            Fault::MountHung => bail!("a shared directory has no process that could hang: use --storage gluster"),
            Fault::Drain => self.admin("drain"),
        }
    }

    fn mend(&mut self, fault: Fault) -> Result<()> {
        let host = self.host();
        match fault {
            Fault::PowerOff | Fault::LeaderPowerOff | Fault::Rejoin => {
                if !self.lab.is_on(&host) {
                    parts::boot(self.lab, self.node)?;
                }
                if steadfast::daemon_runs(self.lab, self.node) { Ok(()) } else { steadfast::start(self.lab, self.node) }
            }
            Fault::DaemonKilled if steadfast::daemon_runs(self.lab, self.node) => Ok(()),
            Fault::DaemonKilled => steadfast::start(self.lab, self.node),
            Fault::DaemonStopped => steadfast::signal(self.lab, self.node, "CONT"),
            Fault::PublicLinkDown => switch::link(self.lab, &host, Net::Public, true),
            Fault::PrivateLinkDown => switch::link(self.lab, &host, Net::Private, true),
            Fault::ServiceHung | Fault::MountHung => {
                let pids = std::mem::take(&mut self.stopped);
                // A hung process may have been replaced meanwhile: then there is nothing to be continued.
                self.lab.shell(&host, &format!("for p in {pids}; do kill -CONT $p || true; done")).map(drop)
            }
            Fault::ServiceKilled => Ok(()),
            Fault::Drain => self.admin("resume"),
        }
    }

    fn not_whole(&self) -> Result<Option<String>> {
        let all: Vec<usize> = (0..self.lab.site.nodes).collect();
        Ok(steadfast::status(self.lab, self.other()?)?.not_whole(&all))
    }
}

/// Clients of the laboratory's site.
pub(crate) fn spec(vips: Vec<IpAddr>, protocols: &[&str], tag: String) -> Spec {
    Spec {
        vips,
        protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
        port: site::IDENT_PORT,
        export: format!("/{VOLUME}"),
        directory: "nfs".into(),
        share: SHARE.into(),
        user: USER.into(),
        password: PASSWORD.into(),
        tag,
    }
}

/// Runs one fault and prints what was found; the exit code: 0 if no operation failed.
pub(crate) fn main(lab: &Lab, fault: Fault, on: Option<&str>, json: bool, svg: Option<&Path>) -> Result<i32> {
    let report = run(lab, fault, on, |step| eprintln!("  {step}"))?;
    if let Some(file) = svg {
        std::fs::write(file, report.svg()).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("timeline: {}", file.display());
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(i32::from(!report.is_clean()))
}

/// Runs one fault.
pub(crate) fn run(lab: &Lab, fault: Fault, on: Option<&str>, say: impl FnMut(&str)) -> Result<Report> {
    let status = steadfast::settle(lab)?;
    let leader = status.snapshot.leader.context("there is no leader")?;
    let node = match on {
        Some(name) => lab.site.node(name)?,
        None if fault == Fault::LeaderPowerOff => leader,
        None => {
            (0..lab.site.nodes).find(|n| *n != leader && !status.held_by(*n).is_empty()).context("no other node")?
        }
    };
    if fault == Fault::LeaderPowerOff && node != leader {
        bail!("{} does not lead; {} does", site::name(node), site::name(leader));
    }
    let moved: Vec<String> = status.held_by(node).into_iter().filter(|v| !v.contains(':')).collect();
    let elsewhere =
        (0..lab.site.nodes).filter(|n| *n != node).flat_map(|n| status.held_by(n)).find(|v| !v.contains(':'));
    let vips = moved.iter().take(1).chain(&elsewhere).map(|v| v.parse()).collect::<Result<_, _>>()?;
    let tag = format!("drill{}", drill::now_us() / 1000);
    let spec = spec(vips, &["ping", "tcp", "nfs3", "nfs4", "smb"], tag);
    let plan = Plan { fault, node: site::name(node), moved, spec, patience: Duration::from_secs(90) };
    let mut stage = Laboratory::new(lab, node);
    drill::conduct(&mut stage, &plan, say)
}
