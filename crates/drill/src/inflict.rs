//! Faults that a node does to itself, and takes back by itself.
//!
//! What is to be taken back stands in a script before the fault is made, and a process that depends on nothing else runs
//! it when its time is over: also when the network is the fault, when the drill is interrupted, when whoever ordered it
//! is dead.

use crate::Fault;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Takes the fault back that is in force.
pub const UNDO: &str = "/run/steadfast/drill-undo";

/// What the node must know of itself.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Process of the daemon.
    pub daemon: Option<u32>,
    /// Interface of the clients' network.
    pub public: Option<String>,
    /// Interface of the storage's and control's network.
    pub private: Option<String>,
    /// Where the shared storage is mounted.
    pub mount: Option<String>,
}

/// Makes a fault and sees to it that it is taken back after `limit`. It is made 0.3 s after this returns, so that the
/// answer still gets out.
///
/// # Errors
/// Another drill is on, what is to be hit is not there, or this kind of fault is not made from the inside.
pub fn inflict(fault: Fault, node: &Node, limit: Duration) -> Result<()> {
    let (make, undo) = lines(fault, node)?;
    // Named in the script, so that this drill's watchman leaves a later drill's alone.
    let token = format!("{}-{}", std::process::id(), crate::now_us());
    let script = format!("#!/bin/sh\n# Takes back: {fault} ({token})\nrm -f {UNDO}\n{undo}\n");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o700).open(UNDO);
    match file {
        Ok(mut file) => std::io::Write::write_all(&mut file, script.as_bytes())?,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("a drill is on already here; to take its fault back: sh {UNDO}")
        }
        Err(e) => return Err(e).with_context(|| format!("cannot write {UNDO}")),
    }
    let line = format!("sleep 0.3; {make}; sleep {}; ! grep -qs '({token})' {UNDO} || sh {UNDO}", limit.as_secs());
    Command::new("sh")
        .args(["-c", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start sh")?;
    Ok(())
}

/// Takes the fault back; none is no error.
///
/// # Errors
/// The script failed.
pub fn mend() -> Result<()> {
    if !Path::new(UNDO).exists() {
        return Ok(());
    }
    let done = Command::new("sh").arg(UNDO).output().context("cannot start sh")?;
    if !done.status.success() {
        bail!("{UNDO} failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// Shell lines that make and undo it.
fn lines(fault: Fault, node: &Node) -> Result<(String, String)> {
    let signals = |pid: u32, signal: &str| (format!("kill -{signal} {pid}"), format!("kill -CONT {pid}"));
    let daemon = || node.daemon.context("the daemon does not run here");
    let nfs = || process(|words| words.first().is_some_and(|w| w.ends_with("ganesha.nfsd")));
    let link = |name: &Option<String>, which: &str| {
        let name = name.as_deref().with_context(|| format!("there is no interface of a {which} network"))?;
        Ok::<_, anyhow::Error>((format!("ip link set dev {name} down"), format!("ip link set dev {name} up")))
    };
    Ok(match fault {
        Fault::DaemonKilled => (
            format!("kill -KILL {}", daemon()?),
            "systemctl is-active -q steadfast || systemctl start steadfast".into(),
        ),
        Fault::DaemonStopped => signals(daemon()?, "STOP"),
        Fault::PublicLinkDown => link(&node.public, "public")?,
        Fault::PrivateLinkDown => link(&node.private, "private")?,
        Fault::ServiceKilled => (format!("kill -KILL {}", nfs().context("no NFS server runs here")?), ":".into()),
        Fault::ServiceHung => signals(nfs().context("no NFS server runs here")?, "STOP"),
        Fault::MountHung => {
            let mount = node.mount.as_deref().context("no shared storage is configured")?;
            let fuse = process(|w| w.first().is_some_and(|p| p.ends_with("glusterfs")) && w.last() == Some(&mount));
            signals(fuse.with_context(|| format!("no glusterfs process serves {mount}"))?, "STOP")
        }
        Fault::PowerOff | Fault::LeaderPowerOff | Fault::Rejoin | Fault::Drain => {
            bail!("{fault} is not made by the node itself")
        }
    })
}

/// The daemon that runs here.
#[must_use]
pub fn daemon() -> Option<u32> {
    process(|w| {
        w.first().is_some_and(|p| *p == "steadfast" || p.ends_with("/steadfast")) && w.get(1) == Some(&"daemon")
    })
}

/// The lowest process whose command line is so.
fn process(is: impl Fn(&[&str]) -> bool) -> Option<u32> {
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line);
        let words: Vec<&str> = text.split_terminator('\0').collect();
        is(&words)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_said() {
        let node = Node { public: Some("eth0".into()), ..Node::default() };
        assert_eq!(lines(Fault::PublicLinkDown, &node).unwrap().1, "ip link set dev eth0 up");
        let error = |fault| lines(fault, &node).unwrap_err().to_string();
        assert!(error(Fault::PrivateLinkDown).contains("private"));
        assert!(error(Fault::DaemonKilled).contains("does not run"));
        assert!(error(Fault::PowerOff).contains("not made by the node"));
    }
}
