//! An upgrade of the cluster, server after server, as docs/operating.md says it: nobody should notice.

use super::Ctx;
use super::planned::PLANNED;
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::{sh, site, steadfast};
use anyhow::{Result, bail};
use std::time::Duration;

/// Each server in turn: drained, its daemon ended and started, resumed; under clients of every address.
pub(crate) fn server_after_server(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let all = ctx.all();
    ctx.watched(|| {
        let mut probes = Vec::new();
        for (i, vip) in lab.site.vips().iter().enumerate() {
            probes.push((format!("tcp to {vip}"), Probe::tcp(lab, "tcp", vip)?));
            let writer = Probe::nfs_writer(lab, "writer", vip, &format!("nfs/upgrade-{i}"))?;
            probes.push((format!("NFSv3 writer on {vip}"), writer));
        }
        for (_, p) in &probes {
            p.wait_ok(0, Duration::from_secs(30))?;
        }
        // The nodes have told each other of the connections.
        std::thread::sleep(Duration::from_secs(2));
        let at = now_us();
        for node in &all {
            let name = site::name(*node);
            let say = |word: &str| lab.exec(&name, &["steadfast", word], Duration::from_secs(60));
            say("drain")?;
            steadfast::stop(lab, *node)?;
            // The others go on meanwhile; nothing of this server is needed for that.
            steadfast::wait_whole(lab, &ctx.but(*node), Duration::from_secs(30))?;
            steadfast::start(lab, *node)?;
            sh::wait_for("the new daemon to answer", Duration::from_secs(30), || {
                Ok(steadfast::status(lab, *node).ok())
            })?;
            say("resume")?;
            steadfast::wait_whole(lab, &all, Duration::from_secs(60))?;
        }
        std::thread::sleep(Duration::from_secs(1));
        ctx.figure(format!("{} servers in {:.0} s", all.len(), now_us().saturating_sub(at) as f64 / 1e6));
        let (mut longest, mut who) = (0.0, String::from("nobody"));
        for (what, p) in probes {
            let seen = p.stop()?;
            if seen.errors > 0 && what.starts_with("NFS") {
                bail!("{what}: {} operations failed", seen.errors);
            }
            let ms = seen.longest_ms(at);
            if ms > longest {
                (longest, who) = (ms, what);
            }
        }
        ctx.bound(&format!("longest stall of any client ({who})"), longest, PLANNED)
    })
}
