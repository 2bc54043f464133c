//! Debian's CTDB on the laboratory's nodes, to compare with: its files, bring-up, and what it says of itself.
//!
//! The same site as with the daemon: nodes, addresses, volume, share, export. CTDB's own event scripts start Samba and
//! NFS-Ganesha (its example call-out), mind the addresses and check health; the cluster lock is a file on the volume.
//! [`Subject::Ctdb`] leaves every setting at its default, CTDB's, GlusterFS's and Ganesha's. [`Subject::CtdbTuned`]
//! goes as low as works: below these values CTDB elects leaders for ever, or bans nodes of a busy machine.

use crate::lab::Lab;
use crate::site::{self, MOUNT, PASSWORD, Site, Storage, Subject, USER};
use crate::{parts, sh};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) const LOG: &str = "/var/log/ctdb/log.ctdb";

/// `/etc/ctdb/ctdb.tunables` of [`Subject::CtdbTuned`].
const TUNABLES: &str = "KeepaliveInterval=1
KeepaliveLimit=2
MonitorInterval=2
ElectionTimeout=1
RecoverInterval=1
RecoverTimeout=5
ControlTimeout=5
TakeoverTimeout=5
RerecoveryTimeout=1
RecoveryGracePeriod=10
TickleUpdateInterval=1
RecdPingTimeout=10
";

/// `/etc/ctdb/ctdb.tunables` where a recovery may take minutes: at the defaults it is given up after 30 s, and begun anew.
pub(crate) const PATIENT: &str = "RecoverTimeout=600
TraverseTimeout=600
ControlTimeout=600
RecdPingTimeout=600
KeepaliveLimit=120
";

/// What [`Subject::CtdbTuned`] asks of the volume, so that a lost server holds its clients up for seconds, not 42.
pub(crate) const TUNED_VOLUME: [[&str; 2]; 9] = [
    ["network.ping-timeout", "3"],
    ["client.tcp-user-timeout", "4"],
    ["server.tcp-user-timeout", "4"],
    ["client.keepalive-time", "2"],
    ["client.keepalive-interval", "1"],
    ["client.keepalive-count", "2"],
    ["server.keepalive-time", "2"],
    ["server.keepalive-interval", "1"],
    ["server.keepalive-count", "2"],
];

/// Debian ships only a systemd unit for Ganesha; CTDB's scripts call `service`.
const GANESHA_INIT: &str = r#"#!/bin/sh
pid=/run/ganesha/ganesha.pid
running() { p=$(cat $pid 2>/dev/null) && [ -d "/proc/$p" ]; }
case "$1" in
start)
  mkdir -p /run/ganesha /var/log/ganesha
  /usr/bin/ganesha.nfsd -L /var/log/ganesha/ganesha.log -f /etc/ganesha/ganesha.conf -p $pid </dev/null >/dev/null 2>&1
  ;;
stop)
  if running; then
    kill "$p"
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -d "/proc/$p" ] || break; sleep 0.1; done
    [ -d "/proc/$p" ] && kill -9 "$p"
  fi
  rm -f $pid
  ;;
status) running ;;
esac
true
"#;

fn ctdb_conf(subject: Subject) -> String {
    let leader = if subject == Subject::CtdbTuned { "\tleader timeout = 3\n" } else { "" };
    format!(
        "[logging]\n\tlocation = file:{LOG}\n\tlog level = NOTICE\n\
         [cluster]\n\tcluster lock = {MOUNT}/.ctdb/reclock\n{leader}"
    )
}

fn script_options() -> String {
    format!(
        "CTDB_NFS_CALLOUT=/etc/ctdb/nfs-ganesha-callout
CTDB_NFS_CHECKS_DIR=/etc/ctdb/nfs-checks-ganesha.d
CTDB_NFS_STATE_FS_TYPE=glusterfs
CTDB_NFS_STATE_MNT={MOUNT}/.state
CTDB_NFS_SKIP_SHARE_CHECK=yes
CTDB_RPCINFO_LOCALHOST=127.0.0.1
NFS_HOSTNAME=gluster
"
    )
}

/// A node's files, at its first boot.
pub(crate) fn write_files(lab: &Lab, node: usize) -> Result<()> {
    let (site, host) = (&lab.site, site::name(node));
    lab.shell(
        &host,
        "mkdir -p /etc/ctdb /var/lib/ctdb/volatile /var/lib/ctdb/persistent /var/lib/ctdb/state /var/log/ctdb",
    )?;
    let nodes: String = (0..site.nodes).map(|n| format!("{}\n", site.private(n))).collect();
    let addresses: String = site.vips().iter().map(|v| format!("{v}/24 eth0\n")).collect();
    let tunables = if site.subject == Subject::CtdbTuned { TUNABLES } else { "" };
    for (path, text) in [
        ("/etc/ctdb/nodes", nodes.as_str()),
        ("/etc/ctdb/public_addresses", &addresses),
        ("/etc/ctdb/ctdb.conf", &ctdb_conf(site.subject)),
        ("/etc/ctdb/script.options", &script_options()),
        ("/etc/ctdb/ctdb.tunables", tunables),
        ("/etc/init.d/nfs-ganesha", GANESHA_INIT),
    ] {
        lab.write(&host, path, text)?;
    }
    lab.shell(&host, &prepare(site)).map(drop)
}

/// The call-out is Debian's example, with Debian's place for Ganesha's pid; a directory of this machine is no mount
/// of type glusterfs, and the example looks for one.
fn prepare(site: &Site) -> String {
    let mounted = match site.storage {
        Storage::Gluster => String::new(),
        Storage::Local => format!(" -e 's,mount | grep \"$state_fs\",mount | grep {MOUNT},'"),
    };
    format!(
        "cd /etc/ctdb
         sed -e s,/var/run/ganesha.pid,/run/ganesha/ganesha.pid,{mounted} /usr/share/doc/ctdb/examples/nfs-ganesha-callout >nfs-ganesha-callout
         chmod 755 nfs-ganesha-callout /etc/init.d/nfs-ganesha
         mkdir -p nfs-checks-ganesha.d
         cp /usr/share/doc/ctdb/examples/20.nfs_ganesha.check nfs-checks-ganesha.d/
         ln -sf ../nfs-checks.d/00.portmapper.check nfs-checks-ganesha.d/
         for e in 50.samba 60.nfs; do ln -sf /usr/share/ctdb/events/legacy/$e.script events/legacy/$e.script; done
         grep -q name=gluster /etc/nfs.conf 2>/dev/null || printf '[statd]\\nname=gluster\\n' >>/etc/nfs.conf"
    )
}

/// Starts ctdbd; the mount must be there, for the lock.
pub(crate) fn start(lab: &Lab, node: usize) -> Result<()> {
    let host = site::name(node);
    parts::mount(lab, &host)?;
    lab.shell(
        &host,
        "mkdir -p /run/ctdb /run/samba /run/ganesha
         ctdbd </dev/null >/dev/null 2>&1
         for i in $(seq 100); do [ -s /run/ctdb/ctdbd.pid ] && break; sleep 0.05; done
         echo -10 >/proc/$(cat /run/ctdb/ctdbd.pid)/autogroup 2>/dev/null || true",
    )
    .map(drop)
    .with_context(|| log_tail(lab, node, 20))
}

/// Sends a signal to a node's ctdbd.
pub(crate) fn signal(lab: &Lab, node: usize, signal: &str) -> Result<()> {
    lab.shell(&site::name(node), &format!("kill -{signal} $(cat /run/ctdb/ctdbd.pid)")).map(drop)
}

pub(crate) fn daemon_runs(lab: &Lab, node: usize) -> bool {
    let line = "p=$(cat /run/ctdb/ctdbd.pid) && grep -q ^ctdbd /proc/$p/comm";
    lab.try_exec(&site::name(node), &["sh", "-c", line], Duration::from_secs(5)).is_ok_and(|o| o.ok())
}

/// After ctdbd was killed: what an operator has to clear away before it can be started again. Debian's unit does not
/// restart it, and its clean-up script only removes the addresses.
pub(crate) fn start_again(lab: &Lab, node: usize) -> Result<()> {
    lab.shell(
        &site::name(node),
        "sh /etc/ctdb/ctdb-crash-cleanup.sh >/dev/null 2>&1 || true
         killall -q -9 ctdb-eventd ctdb_recoverd smbd || true
         service nfs-ganesha stop
         rm -f /run/ctdb/ctdbd.pid",
    )?;
    start(lab, node)
}

pub(crate) fn log_tail(lab: &Lab, node: usize, lines: usize) -> String {
    let Ok(text) = lab.read(&site::name(node), LOG) else {
        return "no log of ctdbd".into();
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The cluster as one node's `ctdb` tells it.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    /// Nodes with no flag set: they serve.
    pub(crate) ok: Vec<usize>,
    pub(crate) leader: Option<usize>,
    /// Who hosts each public address.
    pub(crate) vips: BTreeMap<String, Option<usize>>,
}

impl Status {
    /// Why the cluster is not whole with exactly `members` serving; None when it is.
    pub(crate) fn not_whole(&self, members: &[usize]) -> Option<String> {
        if self.ok != members {
            return Some(format!("nodes that are OK: {:?}, not {members:?}", self.ok));
        }
        let lost = self.vips.iter().find(|(_, h)| h.is_none_or(|h| !members.contains(&h)));
        if let Some((vip, holder)) = lost {
            return Some(format!("{vip} is hosted by {holder:?}"));
        }
        let count = |m: &usize| self.vips.values().filter(|h| **h == Some(*m)).count();
        let share: Vec<usize> = members.iter().map(count).collect();
        (share.iter().max() > share.iter().min().map(|m| m + 1).as_ref())
            .then(|| format!("addresses are not spread evenly: {share:?}"))
    }
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().skip(1).map(|l| l.split('|').skip(1).collect())
}

pub(crate) fn status(lab: &Lab, node: usize) -> Result<Status> {
    let host = site::name(node);
    let ask = |words: &[&str]| lab.exec(&host, words, Duration::from_secs(10));
    let mut ok = Vec::new();
    // Node, IP, then a 1 for each trouble: disconnected, unknown, banned, disabled, unhealthy, stopped.
    for row in rows(&ask(&["ctdb", "-X", "status"])?) {
        let number: usize =
            row.first().and_then(|w| w.parse().ok()).context("`ctdb -X status`: a row without a node")?;
        if row.len() > 8 && row[2..8].iter().all(|flag| *flag == "0") {
            ok.push(number);
        }
    }
    let mut vips = BTreeMap::new();
    for row in rows(&ask(&["ctdb", "-X", "ip", "all"])?) {
        if let [address, holder, ..] = row[..] {
            vips.insert(address.to_owned(), holder.parse().ok());
        }
    }
    if vips.is_empty() {
        bail!("`ctdb ip` on {host} lists no address");
    }
    let leader = ask(&["ctdb", "leader"]).ok().and_then(|t| t.trim().parse().ok());
    Ok(Status { ok, leader, vips })
}

/// Waits until exactly `members` serve and host every address, as the first of them sees it.
pub(crate) fn wait_whole(lab: &Lab, members: &[usize], limit: Duration) -> Result<Status> {
    let mut why = String::new();
    let first = *members.first().context("no node is on")?;
    let found = sh::wait_for("CTDB to be whole", limit, || {
        let status = status(lab, first)?;
        match status.not_whole(members) {
            None => Ok(Some(status)),
            Some(reason) => {
                why = reason;
                Ok(None)
            }
        }
    });
    found.with_context(|| {
        let logs = members.iter().map(|&m| format!("\n--- {}\n{}", site::name(m), log_tail(lab, m, 8)));
        logs.fold(why, |text, log| text + &log)
    })
}

/// Starts ctdbd everywhere and nothing else: no Samba, no Ganesha, none of its scripts for them. Records are locked with
/// file locks, the only ones that our own clients know. With tunables, [`PATIENT`], a leader may also be silent for longer.
pub(crate) fn start_bare(lab: &Lab, tunables: &str) -> Result<()> {
    lab.shell(&site::name(0), &format!("mkdir -p {MOUNT}/.ctdb {MOUNT}/.state"))?;
    parts::each_node(lab, |node| {
        // It ends in [cluster]. The first leader, too, is looked for only after that time.
        let patient = if tunables.is_empty() { "" } else { "\tleader timeout = 60\n" };
        let conf = ctdb_conf(lab.site.subject) + patient + "[database]\n\ttdb mutexes = false\n";
        lab.write(&site::name(node), "/etc/ctdb/ctdb.conf", &conf)?;
        lab.write(&site::name(node), "/etc/ctdb/ctdb.tunables", tunables)?;
        lab.shell(
            &site::name(node),
            "rm -f /etc/ctdb/events/legacy/50.samba.script /etc/ctdb/events/legacy/60.nfs.script",
        )?;
        start(lab, node)
    })
}

/// Starts CTDB everywhere and adds the user, once: Samba's databases are CTDB's.
pub(crate) fn form(lab: &Lab, progress: &parts::Progress) -> Result<()> {
    progress.step("ctdbd on every node; its event scripts start Samba and Ganesha");
    let first = site::name(0);
    lab.shell(&first, &format!("mkdir -p {MOUNT}/.ctdb {MOUNT}/.state"))?;
    parts::each_node(lab, |node| start(lab, node))?;
    let all: Vec<usize> = (0..lab.site.nodes).collect();
    wait_whole(lab, &all, Duration::from_secs(120))?;
    lab.shell(&first, &format!("{} >/dev/null", parts::smb_user(USER, PASSWORD))).map(drop)
}

/// Every node on, its ctdbd running, nothing disabled or cut, the volume healed.
pub(crate) fn settle(lab: &Lab) -> Result<Status> {
    crate::switch::partition(lab, &[], &[])?;
    let all: Vec<usize> = (0..lab.site.nodes).collect();
    for &node in &all {
        let host = site::name(node);
        if lab.is_on(&host) {
            crate::switch::link(lab, &host, crate::lab::Net::Public, true)?;
        } else {
            parts::boot(lab, node)?;
        }
        if !daemon_runs(lab, node) {
            start_again(lab, node)?;
        }
    }
    let status = wait_whole(lab, &all, Duration::from_secs(180))?;
    // Files that were written on both sides of a cut never heal.
    parts::wait_healed(lab, Duration::from_secs(60))?;
    Ok(status)
}
