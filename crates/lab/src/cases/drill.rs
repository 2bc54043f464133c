//! The operator's drill finds what the other tests measure, and compares every byte.

use super::Ctx;
use ::drill::Fault;
use anyhow::{Context, Result, ensure};

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
