//! The daemon on the laboratory's nodes: its file, founding and joining, start, and what it says of itself.
//!
//! Only the command line and its `--json` are used, as a script of an administrator would; fields that are not
//! needed here are not read.

use crate::lab::Lab;
use crate::site::{self, MOUNT, NFS_NAME, PASSWORD, SHARE, SMB_NAME, Site, Storage, USER, VOLUME, ZONE};
use crate::{parts, sh};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

pub(crate) const CONFIG: &str = "/etc/steadfast/steadfast.toml";
pub(crate) const LOG: &str = "/var/log/steadfast.log";
pub(crate) const STATE_DIR: &str = "/var/lib/steadfast";
pub(crate) const CONTROL_PORT: u16 = 4390;

/// `steadfast.toml` of the site, the same on every node.
pub(crate) fn config(site: &Site) -> String {
    let mut text = format!("[cluster]\nname = \"lab\"\nlock = \"{MOUNT}/.steadfast/lock\"\n");
    if let Some(preset) = site.preset() {
        let _ = writeln!(text, "preset = \"{preset}\"");
    }
    for node in 0..site.nodes {
        let mut addresses = vec![site.private(node)];
        if site.private_net {
            addresses.push(site.public(node));
        }
        let _ = write!(text, "\n[[node]]\nname = \"{}\"\naddresses = {addresses:?}\n", site::name(node));
    }
    for vip in site.vips() {
        let _ = write!(text, "\n[[vip]]\naddress = \"{vip}/24\"\ninterface = \"eth0\"\n");
    }
    for vip in site.vips6() {
        let _ = write!(text, "\n[[vip]]\naddress = \"{vip}/64\"\ninterface = \"eth0\"\n");
    }
    let _ = match site.storage {
        Storage::Gluster => write!(
            text,
            "\n[storage]\nkind = \"gluster\"\npath = \"{MOUNT}\"\nvolume = \"{VOLUME}\"\nserver = \"localhost\"\n"
        ),
        Storage::Local => write!(text, "\n[storage]\nkind = \"local\"\npath = \"{MOUNT}\"\n"),
    };
    let clustering = if site.clustering { "clustering = true\n" } else { "" };
    let _ = write!(
        text,
        "\n[samba]\nenabled = true\nshares = [\"{SHARE}\"]\n{clustering}\
         \n[nfs]\nenabled = true\nexports = [\"/{VOLUME}\"]\nmount_port = 20048\n\
         \n[dns]\nzone = \"{ZONE}\"\nnames = [\"{NFS_NAME}\", \"{SMB_NAME}\"]\n"
    );
    text
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) snapshot: Snapshot,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) view: Option<View>,
    pub(crate) leader: Option<usize>,
    pub(crate) member: bool,
    pub(crate) nodes: BTreeMap<usize, Node>,
    pub(crate) vips: BTreeMap<String, Vip>,
    pub(crate) pace: Pace,
}

/// How well a node keeps time.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pace {
    pub(crate) stalls: u64,
    pub(crate) longest_stall: Duration,
    pub(crate) longest_gap: Duration,
    pub(crate) false_failovers: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct View {
    pub(crate) epoch: u64,
    pub(crate) members: BTreeMap<usize, serde_json::Value>,
    pub(crate) voters: BTreeMap<usize, serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Node {
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) because: String,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    #[serde(default)]
    pub(crate) nfs_clients: bool,
    #[serde(default)]
    pub(crate) services: BTreeMap<String, Service>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Service {
    pub(crate) state: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Vip {
    pub(crate) state: String,
    pub(crate) holder: Option<usize>,
}

impl Status {
    pub(crate) fn epoch(&self) -> u64 {
        self.snapshot.view.as_ref().map_or(0, |v| v.epoch)
    }

    /// Who holds a VIP and answers for it.
    pub(crate) fn holder(&self, vip: &str) -> Option<usize> {
        self.snapshot.vips.get(vip).filter(|v| v.state == "held").and_then(|v| v.holder)
    }

    /// Does this node know of clients that could have locks with another's NFS server?
    pub(crate) fn has_nfs_clients(&self, node: usize) -> bool {
        self.snapshot.nodes.get(&node).is_some_and(|n| n.nfs_clients)
    }

    /// VIPs that a node holds.
    pub(crate) fn held_by(&self, node: usize) -> Vec<String> {
        let all = self.snapshot.vips.iter();
        all.filter(|(_, v)| v.state == "held" && v.holder == Some(node)).map(|(a, _)| a.clone()).collect()
    }

    /// Why the cluster is not whole with exactly `members` serving; None when it is.
    pub(crate) fn not_whole(&self, members: &[usize]) -> Option<String> {
        let s = &self.snapshot;
        let Some(view) = &s.view else {
            return Some("no view yet".into());
        };
        let now: Vec<usize> = view.members.keys().copied().collect();
        if now != members {
            return Some(format!("members are {now:?}, not {members:?}"));
        }
        for &m in members {
            match s.nodes.get(&m) {
                Some(n) if n.state == "ok" => {}
                Some(n) => return Some(format!("{} is {} ({})", site::name(m), n.state, n.because)),
                None => return Some(format!("{} is not listed", site::name(m))),
            }
        }
        let mut count: BTreeMap<(bool, usize), usize> = BTreeMap::new();
        for family in [false, true] {
            if s.vips.keys().any(|a| a.contains(':') == family) {
                count.extend(members.iter().map(|&m| ((family, m), 0)));
            }
        }
        for (address, vip) in &s.vips {
            match vip.holder {
                Some(h) if vip.state == "held" && members.contains(&h) => {
                    *count.entry((address.contains(':'), h)).or_default() += 1;
                }
                _ => return Some(format!("{address} is {} (holder {:?})", vip.state, vip.holder)),
            }
        }
        for family in [false, true] {
            let of: Vec<usize> = count.iter().filter(|(k, _)| k.0 == family).map(|(_, n)| *n).collect();
            if let (Some(most), Some(least)) = (of.iter().max(), of.iter().min())
                && most - least > 1
            {
                return Some(format!("VIPs are not spread evenly: {of:?}"));
            }
        }
        None
    }
}

/// What `steadfast status --json` says on a node.
pub(crate) fn status(lab: &Lab, node: usize) -> Result<Status> {
    let text = lab.exec(&site::name(node), &["steadfast", "status", "--json"], Duration::from_secs(5));
    let done = match text {
        Ok(text) => text,
        // Exit codes above 0 may only mean "not all is well": the text counts.
        Err(_) => lab.try_exec(&site::name(node), &["steadfast", "status", "--json"], Duration::from_secs(5))?.stdout,
    };
    serde_json::from_str(&done)
        .with_context(|| format!("`steadfast status --json` on {}: {}", site::name(node), head(&done)))
}

fn head(text: &str) -> String {
    text.chars().take(300).collect()
}

/// The status as a person sees it.
pub(crate) fn status_text(lab: &Lab, node: usize) -> String {
    match lab.try_exec(&site::name(node), &["steadfast", "status"], Duration::from_secs(5)) {
        Ok(done) => done.text(),
        Err(e) => format!("{e:#}"),
    }
}

/// Starts the daemon on a node; it must be initialised or joined.
pub(crate) fn start(lab: &Lab, node: usize) -> Result<()> {
    start_as(lab, node, &[], lab.site.without.as_deref())
}

/// As [`start`], with the clocks that it uses (CLOCK_MONOTONIC and CLOCK_BOOTTIME) so many seconds ahead of the machine's: by
/// a time namespace, which the kernel has for these two only. The time of day is the whole machine's.
pub(crate) fn start_ahead(lab: &Lab, node: usize, seconds: u64) -> Result<()> {
    let offset = seconds.to_string();
    let words = ["unshare", "-T", "--boottime", &offset, "--monotonic", &offset];
    start_as(lab, node, &words, lab.site.without.as_deref())
}

/// Starts the daemon, by way of another program if one is named; with parts left out, to see that their absence shows.
fn start_as(lab: &Lab, node: usize, by: &[&str], without: Option<&str>) -> Result<()> {
    let mut words = [by, &["steadfast", "daemon", "--config", CONFIG]].concat();
    if let Some(parts) = without {
        words.extend(["--without", parts]);
    }
    lab.service(&site::name(node), "steadfast", &words)
}

/// Ends every daemon that runs and starts all anew, with parts left out if any are named.
pub(crate) fn restart_all(lab: &Lab, without: Option<&str>) -> Result<()> {
    parts::each_node(lab, |node| {
        if !lab.is_on(&site::name(node)) {
            parts::boot(lab, node)?;
        }
        if daemon_runs(lab, node) {
            stop(lab, node)?;
        }
        start_as(lab, node, &[], without)
    })?;
    let all: Vec<usize> = (0..lab.site.nodes).collect();
    wait_whole(lab, &all, Duration::from_secs(90)).map(drop)
}

/// Sends a signal to a node's daemon.
pub(crate) fn signal(lab: &Lab, node: usize, signal: &str) -> Result<()> {
    let host = site::name(node);
    let pid = lab.service_pid(&host, "steadfast")?;
    lab.exec(&host, &["kill", &format!("-{signal}"), &pid], Duration::from_secs(5)).map(drop)
}

pub(crate) fn daemon_runs(lab: &Lab, node: usize) -> bool {
    let host = site::name(node);
    let Ok(pid) = lab.service_pid(&host, "steadfast") else {
        return false;
    };
    lab.exec(&host, &["kill", "-0", &pid], Duration::from_secs(5)).is_ok()
}

/// Asks the daemon to end, and waits until it has.
pub(crate) fn stop(lab: &Lab, node: usize) -> Result<()> {
    signal(lab, node, "TERM")?;
    sh::wait_for(&format!("the daemon on {} to end", site::name(node)), Duration::from_secs(30), || {
        Ok((!daemon_runs(lab, node)).then_some(()))
    })
}

/// Last lines of a node's log, for messages.
pub(crate) fn log_tail(lab: &Lab, node: usize, lines: usize) -> String {
    let Ok(text) = lab.read(&site::name(node), LOG) else {
        return "no log".into();
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Founds the cluster on node 0, joins the others, starts all daemons.
pub(crate) fn form(lab: &Lab, progress: &parts::Progress) -> Result<()> {
    let text = config(&lab.site);
    for host in lab.site.names() {
        lab.write(&host, CONFIG, &text)?;
    }
    progress.step("steadfast init on gluster1, its daemon");
    let first = site::name(0);
    lab.exec(&first, &["steadfast", "init", "--config", CONFIG], Duration::from_secs(30))?;
    start(lab, 0)?;
    wait_answers(lab, 0)?;
    if lab.site.nodes > 1 {
        progress.step("steadfast join on the others, their daemons");
    }
    let mut tokens = Vec::new();
    for node in 1..lab.site.nodes {
        let said = sh::wait_for("a join token", Duration::from_secs(30), || {
            lab.exec(&first, &["steadfast", "token"], Duration::from_secs(10)).map(Some)
        })?;
        let token = said
            .split_whitespace()
            .find(|w| w.starts_with("sf1_"))
            .with_context(|| format!("`steadfast token` printed no token: {}", head(&said)))?;
        tokens.push((node, token.to_owned()));
    }
    let nodes: Vec<usize> = (1..lab.site.nodes).collect();
    parts::each(&nodes, |node| {
        let token = &tokens[node - 1].1;
        lab.exec(&site::name(node), &["steadfast", "join", "--config", CONFIG, token], Duration::from_secs(30))?;
        start(lab, node)
    })?;
    if lab.site.one_samba() {
        progress.step("Samba's user, on gluster1 for all");
        // The daemon has written its include when it starts smbd; before that smbpasswd would use a file of its own.
        let line = format!(
            "grep -qi '^clustering = yes' /etc/samba/steadfast.conf && {} >/dev/null",
            parts::smb_user(USER, PASSWORD)
        );
        sh::wait_for("Samba to take a user", Duration::from_secs(60), || lab.shell(&first, &line).map(Some))?;
    }
    Ok(())
}

/// Waits until the daemon answers on its admin socket; a daemon that ended is an error at once.
pub(crate) fn wait_answers(lab: &Lab, node: usize) -> Result<Status> {
    let begun = Instant::now();
    let what = format!("the daemon on {} to answer", site::name(node));
    let found = sh::wait_for(&what, Duration::from_secs(30), || match status(lab, node) {
        Ok(s) => Ok(Some(Ok(s))),
        Err(e) if begun.elapsed() > Duration::from_secs(2) && !daemon_runs(lab, node) => {
            Ok(Some(Err(e.context("the daemon has ended"))))
        }
        Err(e) => Err(e),
    });
    let told = || format!("{}\n{}", status_text(lab, node), log_tail(lab, node, 30));
    found.with_context(told)?.with_context(told)
}

/// Waits until exactly `members` serve, all VIPs are held and evenly spread, and every member says so.
pub(crate) fn wait_whole(lab: &Lab, members: &[usize], limit: Duration) -> Result<Status> {
    let mut why = String::new();
    let found = sh::wait_for("the cluster to be whole", limit, || {
        let mut first = None;
        for &m in members {
            let s = status(lab, m)?;
            if let Some(reason) = s.not_whole(members) {
                why = format!("{} says: {reason}", site::name(m));
                return Ok(None);
            }
            first.get_or_insert(s);
        }
        Ok(first)
    });
    found.with_context(|| {
        let mut text = why;
        for &m in members {
            let _ = write!(text, "\n--- {}\n{}\n{}", site::name(m), status_text(lab, m), log_tail(lab, m, 12));
        }
        text
    })
}

/// Every node on, its daemon running, the cluster whole, the volume healed, nothing drained or cut.
pub(crate) fn settle(lab: &Lab) -> Result<Status> {
    crate::switch::partition(lab, &[], &[])?;
    let all: Vec<usize> = (0..lab.site.nodes).collect();
    for &node in &all {
        let host = site::name(node);
        if lab.is_on(&host) {
            for net in [crate::lab::Net::Public, crate::lab::Net::Private] {
                if net == crate::lab::Net::Public || lab.site.private_net {
                    crate::switch::link(lab, &host, net, true)?;
                }
            }
        } else {
            parts::boot(lab, node)?;
        }
        if !daemon_runs(lab, node) {
            start(lab, node)?;
        }
    }
    let status = wait_whole(lab, &all, Duration::from_secs(120))?;
    parts::wait_healed(lab, Duration::from_secs(120))?;
    Ok(status)
}
