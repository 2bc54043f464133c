//! The operator's drill finds what the other tests measure, and compares every byte.

use super::Ctx;
use crate::site::{self, PASSWORD, SHARE, USER, VOLUME};
use crate::steadfast;
use ::drill::Fault;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::Duration;

/// A stopped daemon: clients of its address stall for its lease, others do not, nothing is lost.
pub(crate) fn daemon_stopped(ctx: &Ctx<'_>) -> Result<()> {
    let report = crate::drill::run(ctx.lab, Fault::DaemonStopped, None, |_| {})?;
    for s in &report.streams {
        let (outage, _) = report.outages(s);
        let what = format!("{} to {}", s.protocol, s.vip);
        ensure!(s.ok > 20, "{what} did next to nothing: {} operations", s.ok);
        if matches!(s.protocol.as_str(), "nfs3" | "nfs4" | "smb") {
            ensure!(s.compared > 0, "{what}: nothing was read back");
        }
        ctx.bound(&what, outage, if report.is_moved(s) { 1000.0 } else { 400.0 })?;
    }
    let tcp = report.streams.iter().find(|s| s.protocol == "tcp" && report.is_moved(s));
    let seen = report.outages(tcp.context("no TCP client of the moved address")?).0;
    ensure!(seen > 250.0, "a stopped daemon costs a good part of a lease; the drill saw {seen:.0} ms");
    ensure!(report.is_clean(), "the drill found a fault:\n{}", report.table());
    let svg = report.svg();
    ensure!(svg.ends_with("</svg>\n") && svg.contains("daemon-stopped"), "no timeline");
    Ok(())
}

/// The `steadfast drill` of an administrator, from one node to another over a real ssh, with nothing said about how to
/// get there: each fault is made, seen by clients and taken back, and the report says so. `public-link-down` takes the
/// very network away that ssh uses.
pub(crate) fn over_ssh(ctx: &Ctx<'_>) -> Result<()> {
    let (lab, from, on) = (ctx.lab, 0, 1);
    ensure!(Path::new("/usr/sbin/sshd").exists(), "there is no sshd: run scripts/install-needs ssh");
    let (here, there) = (site::name(from), site::name(on));
    let (address, export) = (lab.site.public(on), format!("/{VOLUME}"));
    lab.shell(&here, "mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")?;
    let key = lab.read(&here, "/root/.ssh/id_ed25519.pub")?;
    lab.shell(&there, "mkdir -p -m 700 /root/.ssh /run/sshd && ssh-keygen -A")?;
    lab.write(&there, "/root/.ssh/authorized_keys", &key)?;
    let known = lab.read(&there, "/etc/ssh/ssh_host_ed25519_key.pub")?;
    lab.write(&here, "/root/.ssh/known_hosts", &format!("{address} {known}"))?;
    lab.service(&there, "sshd", &["/usr/sbin/sshd", "-D", "-o", &format!("ListenAddress={address}")])?;
    lab.write(&here, "/root/password", PASSWORD)?;
    let done = [("service-killed", 1500.0), ("daemon-stopped", 1000.0), ("public-link-down", 1000.0)]
        .into_iter()
        .try_for_each(|(fault, bound)| {
            let before = nfs_server(ctx, &there)?;
            let share = ["--share", SHARE, "--user", USER, "--password-file", "/root/password"];
            let words = [
                "steadfast",
                "drill",
                fault,
                "--on",
                &there,
                "--yes",
                "--json",
                "--export",
                &export,
                "--directory",
                "nfs",
            ];
            let ran = lab.try_exec(&here, &[&words[..], &share].concat(), Duration::from_secs(240))?;
            let report: ::drill::Report = serde_json::from_str(&ran.stdout)
                .with_context(|| format!("drill {fault} says no report: {}{}", ran.stdout, ran.stderr))?;
            let tcp = report.streams.iter().find(|s| s.protocol == "tcp" && report.is_moved(s));
            let outage = report.outages(tcp.context("no TCP client of the moved address")?).0;
            ctx.bound(&format!("{fault} over ssh: tcp to the moved address"), outage, bound)?;
            // The NFS server is often back before a client's connecting has failed for long enough to count.
            let noticed = if fault == "service-killed" { nfs_server(ctx, &there)? != before } else { outage > 100.0 };
            ensure!(noticed, "{fault}: clients saw {outage:.0} ms and nothing was hit: was the fault made at all?");
            ensure!(report.is_clean() && ran.ok(), "drill {fault}:\n{}\n{}", report.table(), ran.stderr);
            let left = lab.shell(&there, &format!("ls {} 2>/dev/null || true", ::drill::inflict::UNDO))?;
            ensure!(left.is_empty(), "{fault}: {left} is still there: the fault was not taken back");
            steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
        });
    let pid = lab.service_pid(&there, "sshd")?;
    let ended = lab.shell(&there, &format!("kill {pid}"));
    done?;
    ended.map(drop)
}

fn nfs_server(ctx: &Ctx<'_>, host: &str) -> Result<String> {
    ctx.lab.shell(host, "pgrep -o -x ganesha.nfsd")
}
