//! `steadfast drill` on a live cluster: clients run here, the fault is made by the node itself or by commands given.

use crate::args::DrillOptions;
use crate::client;
use crate::exit::{Exit, Fail};
use crate::out;
use cluster::{NodeState, Pnn, Snapshot, VipState};
use drill::clients::Spec;
use drill::{Fault, Plan, Stage};
use services::storage::heals;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// A fault is taken back by its node after this, whatever becomes of the drill.
const LIMIT: Duration = Duration::from_secs(120);
/// How much later than that it is given up.
const MARGIN: Duration = Duration::from_secs(15);

struct Live {
    socket: PathBuf,
    node: String,
    address: String,
    options: DrillOptions,
    /// When the node made the fault.
    inflicted: Option<Instant>,
}

impl Live {
    /// Runs words on the node that is hit.
    fn there(&self, words: &[&str]) -> anyhow::Result<()> {
        let via = self.options.via.replace("{address}", &self.address).replace("{node}", &self.node);
        let line = format!("{via} {}", words.join(" "));
        shell(&line)
    }

    fn power(&self, command: Option<&str>, flag: &str) -> anyhow::Result<()> {
        match command {
            Some(line) => shell(&line.replace("{address}", &self.address).replace("{node}", &self.node)),
            None => {
                anyhow::bail!("give the command with {flag}, such as \"ipmitool -H {{node}}-bmc chassis power ...\"")
            }
        }
    }

    /// Has the node take its fault back. It may be out of reach, by that very fault: then it does so by itself when its
    /// time is over, and this waits for it.
    fn mend_there(&self, fault: Fault) -> anyhow::Result<()> {
        let end = self.inflicted.map(|at| at + LIMIT + MARGIN);
        let mut said = false;
        loop {
            let Err(error) = self.there(&["steadfast", "helper", "drill-mend"]) else { return Ok(()) };
            let left = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let node = &self.node;
                return Err(error.context(format!(
                    "look at {node}: it cannot be reached, and should have taken back {fault} {} s after it was made, if it was",
                    LIMIT.as_secs()
                )));
            }
            if !said {
                said = true;
                eprintln!(
                    "  {} cannot be reached ({error:#}); it takes back {fault} by itself, in {} s at the latest",
                    self.node,
                    left.saturating_sub(MARGIN).as_secs()
                );
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn state(&self, word: &str) -> anyhow::Result<()> {
        let me = std::env::current_exe()?;
        let done = Command::new(me).arg("--socket").arg(&self.socket).args([word, &self.node]).output()?;
        anyhow::ensure!(done.status.success(), "steadfast {word}: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }
}

/// Runs a line of the operator's; its error is the line's own.
fn shell(line: &str) -> anyhow::Result<()> {
    let done = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "`{line}` failed ({}): {}", done.status, said.trim());
    Ok(())
}

impl Stage for Live {
    fn clients(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["helper", "drill-clients"]);
        Ok(command)
    }

    fn inflict(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Drain => self.state("drain"),
            f if f.cuts_power() => self.power(self.options.power_off.as_deref(), "--power-off"),
            f => {
                self.there(&["steadfast", "helper", "drill-inflict", f.word(), &LIMIT.as_secs().to_string()])?;
                self.inflicted = Some(Instant::now());
                Ok(())
            }
        }
    }

    fn mend(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Drain => self.state("resume"),
            f if f.cuts_power() => self.power(self.options.power_on.as_deref(), "--power-on"),
            f => self.mend_there(f),
        }
    }

    fn not_whole(&self) -> anyhow::Result<Option<String>> {
        let status = client::status(&self.socket).map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(not_whole(&status.snapshot))
    }
}

/// Why a fault would hit a cluster that has one already.
fn not_whole(s: &Snapshot) -> Option<String> {
    let well = |state: &NodeState| matches!(state, NodeState::Ok | NodeState::Witness);
    let ill = s.nodes.values().find(|n| !well(&n.state)).map(|n| format!("{} is {:?}", n.name, n.state).to_lowercase());
    ill.or_else(|| {
        let loose = s.vips.iter().find(|(_, v)| v.state != VipState::Held)?;
        Some(format!("{} is not hosted", loose.0))
    })
    .or_else(|| s.nodes.values().find_map(|n| heals::holds_back(&n.warnings)).map(str::to_owned))
}

/// Asks, drills, reports. Exit code 1: an operation failed, or not all is well again.
pub(super) fn main(socket: &Path, fault: Fault, options: DrillOptions) -> Result<ExitCode, Fail> {
    let snapshot = client::status(socket)?.snapshot;
    let node = target(&snapshot, fault, options.on.as_deref())?;
    let name = snapshot.nodes.get(&node).map_or_else(|| format!("node {node}"), |n| n.name.clone());
    if let Some(why) = not_whole(&snapshot).filter(|_| !options.force) {
        return Err(Fail::Other(format!(
            "nothing was done: the cluster has a fault already: {why}. A drill now could stop the service. Mend it first, \
             or give --force if that is what you want to try"
        )));
    }
    if fault.cuts_power() && (options.power_off.is_none() || options.power_on.is_none()) {
        return Err(Fail::Other(format!(
            "nothing was done: {fault} needs --power-off COMMAND and --power-on COMMAND that cut and give {name}'s power, \
             such as ipmitool's; {{node}} and {{address}} in them are filled in"
        )));
    }
    let held = |pnn: Pnn| snapshot.vips.iter().filter(move |(_, v)| v.holder == Some(pnn)).map(|(a, _)| *a);
    let moved: Vec<IpAddr> = held(node).collect();
    // Addresses that this node hosts are reached without a network: they would tell nothing.
    let elsewhere = snapshot.nodes.keys().filter(|n| **n != node && **n != snapshot.me).find_map(|n| held(*n).next());
    let vips: Vec<IpAddr> = moved.iter().take(1).copied().chain(elsewhere).collect();
    if moved.is_empty() {
        return Err(Fail::Other(format!("nothing was done: {name} holds no address, so no client would notice")));
    }
    eprintln!(
        "Drill: {fault} on {name}: {}.\nAddresses that will move: {}. Clients of them wait a moment; SMB clients connect \
         again.\nThis machine plays the clients: {} to {}.",
        fault.what(),
        list(&moved),
        options.protocols.join(", "),
        list(&vips)
    );
    if !options.yes {
        confirm(&name)?;
    }
    let password = match &options.password_file {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|e| Fail::Other(format!("nothing was done: cannot read {}: {e}", file.display())))?,
        None => String::new(),
    };
    let spec = Spec {
        vips,
        protocols: usable(&options),
        port: 0,
        export: options.export.clone().unwrap_or_default(),
        directory: options.directory.clone(),
        share: options.share.clone().unwrap_or_default(),
        user: options.user.clone(),
        password: password.trim().to_owned(),
        tag: format!("steadfast-drill-{}", drill::now_us() / 1000),
    };
    let plan = Plan {
        fault,
        node: name.clone(),
        moved: moved.iter().map(ToString::to_string).collect(),
        spec,
        patience: Duration::from_secs(options.patience),
    };
    let addresses = snapshot.nodes.get(&node).and_then(|n| n.addresses.first()).map(ToString::to_string);
    let (svg, json) = (options.svg.clone(), options.json.json);
    let mut stage = Live {
        socket: socket.to_owned(),
        address: addresses.unwrap_or_else(|| name.clone()),
        node: name,
        options,
        inflicted: None,
    };
    let report =
        drill::conduct(&mut stage, &plan, |step| eprintln!("  {step}")).map_err(|e| Fail::Other(format!("{e:#}")))?;
    if let Some(file) = svg {
        std::fs::write(&file, report.svg())
            .map_err(|e| Fail::Other(format!("cannot write {}: {e}", file.display())))?;
        eprintln!("timeline: {}", file.display());
    }
    if json {
        out::json(&report)?;
    } else {
        out::print(&report.table())?;
    }
    Ok(if report.is_clean() { Exit::Ok } else { Exit::Failure }.into())
}

/// Only what there is something to use of.
fn usable(options: &DrillOptions) -> Vec<String> {
    let has = |p: &str| match p {
        "nfs3" | "nfs4" => options.export.is_some(),
        "smb" => options.share.is_some(),
        _ => true,
    };
    let (use_, leave): (Vec<String>, Vec<String>) = options.protocols.iter().cloned().partition(|p| has(p));
    if !leave.is_empty() {
        eprintln!("Left out: {} (give --export for NFS, --share for SMB).", leave.join(", "));
    }
    use_
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn target(s: &Snapshot, fault: Fault, on: Option<&str>) -> Result<Pnn, Fail> {
    let leader = s.leader.ok_or_else(|| Fail::Other("nothing was done: the cluster has no leader".into()))?;
    let node = match (on, fault) {
        (Some(name), _) => super::act::find(s, name)?,
        (None, Fault::LeaderPowerOff) => leader,
        (None, _) => return Err(Fail::Other("nothing was done: say which node it hits: --on NODE".into())),
    };
    if node == s.me {
        return Err(Fail::Other(
            "nothing was done: that is this node, which plays the clients; run the drill on another one".into(),
        ));
    }
    if fault == Fault::LeaderPowerOff && node != leader {
        return Err(Fail::Other(format!("nothing was done: node {leader} leads; leave --on out")));
    }
    let fit = |n: &Pnn| *n != node && s.nodes.get(n).is_some_and(|n| n.state == NodeState::Ok);
    if !s.nodes.keys().any(fit) {
        return Err(Fail::Other("nothing was done: no other node could take over, so the service would stop".into()));
    }
    Ok(node)
}

pub(super) fn confirm(name: &str) -> Result<(), Fail> {
    if !std::io::stdin().is_terminal() {
        return Err(Fail::Other("nothing was done: there is no terminal to ask on; --yes does it unasked".into()));
    }
    eprint!("To do it, type the node's name ({name}): ");
    let mut answer = String::new();
    std::io::stderr()
        .flush()
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|e| Fail::Other(format!("nothing was done: cannot read the answer: {e}")))?;
    if answer.trim() == name { Ok(()) } else { Err(Fail::Other("nothing was done".into())) }
}

/// What `steadfast helper drill-...` does on a node; nothing if it is not one of those.
pub(super) fn helper(args: &[String]) -> Option<Result<ExitCode, Fail>> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["drill-clients"] => drill::clients::main(),
        ["drill-mend"] => drill::inflict::mend(),
        ["drill-inflict", fault, seconds] => inflict(fault, seconds),
        _ => return None,
    };
    Some(done.map(|()| Exit::Ok.into()).map_err(|e| Fail::Other(format!("{e:#}"))))
}

fn inflict(fault: &str, seconds: &str) -> anyhow::Result<()> {
    let fault: Fault = fault.parse().map_err(anyhow::Error::msg)?;
    let limit = Duration::from_secs(seconds.parse()?);
    let place = crate::args::Place {
        config: node::config::DEFAULT_PATH.into(),
        node: None,
        state_dir: node::state::DEFAULT_DIR.into(),
    };
    let config = super::local::load(&place).map_err(|e| anyhow::anyhow!("{e}"))?;
    let public = config.vips.values().next().and_then(|v| v.hosts.get(&config.me)).cloned();
    let own = config.nodes.get(&config.me).and_then(|n| n.addresses.first()).copied();
    let private = own.and_then(interface_of).filter(|name| Some(name) != public.as_ref());
    let mount = config.storage.path().map(|p| p.display().to_string());
    let daemon = drill::inflict::daemon();
    drill::inflict::inflict(fault, &drill::inflict::Node { daemon, public, private, mount }, limit)
}

/// The interface that has an address.
fn interface_of(address: IpAddr) -> Option<String> {
    let text = Command::new("ip").args(["-o", "addr", "show"]).output().ok()?.stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    let has = |line: &&str| line.split_whitespace().any(|w| w.split('/').next() == Some(&address.to_string()));
    text.lines().find(has)?.split_whitespace().nth(1).map(str::to_owned)
}
