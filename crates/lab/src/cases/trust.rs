//! Who is let in: a node with the right name and address, and a certificate of somebody else's CA.

use super::{Ctx, log_length, log_since, vip_of};
use crate::probe::run::Probe;
use crate::steadfast::{self, STATE_DIR};
use crate::{sh, site};
use anyhow::{Result, bail};
use std::time::Duration;

const FOREIGN: &str = "/tmp/foreign";

/// The nodes of the site and one address that is nobody's, so that the stranger has nothing to fight for.
fn strangers_config(ctx: &Ctx<'_>) -> String {
    let mut text = String::from("[cluster]\nname = \"lab\"\n");
    for node in 0..ctx.lab.site.nodes {
        text +=
            &format!("\n[[node]]\nname = \"{}\"\naddresses = [\"{}\"]\n", site::name(node), ctx.lab.site.private(node));
    }
    text + "\n[[vip]]\naddress = \"192.168.122.240/24\"\ninterface = \"eth0\"\n"
}

/// It dials and sends heartbeats for a while: refused by every member, one line a minute each, nothing else happens.
pub(crate) fn another_ca(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    // Of two nodes the lower number dials, so node 0 is the one that knocks at every other's door.
    let node = 0;
    let host = site::name(node);
    let address = lab.site.private(node);
    let stays = vip_of(&steadfast::status(lab, 1)?, 1)?;
    let others = ctx.but(node);
    ctx.watched(|| {
        steadfast::stop(lab, node)?;
        let before = steadfast::wait_whole(lab, &others, Duration::from_secs(30))?;
        let tcp = Probe::tcp(lab, "tcp", &stays)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        let config = format!("{FOREIGN}.toml");
        lab.write(&host, &config, &strangers_config(ctx))?;
        lab.exec(&host, &["steadfast", "init", "--config", &config, "--state-dir", FOREIGN], Duration::from_secs(20))?;
        let members: Vec<(usize, usize)> = others.iter().map(|&n| (n, log_length(lab, n))).collect();
        lab.service(
            &host,
            "stranger",
            &["steadfast", "daemon", "--config", &config, "--state-dir", FOREIGN, "--run-dir", "/run/stranger"],
        )?;
        let refusals = |n: usize, mark: usize| -> Result<Vec<String>> {
            let text = log_since(lab, n, mark)?;
            let of_it = |l: &&str| l.contains("refused a connection") && l.contains(&address);
            Ok(text.lines().filter(of_it).map(str::to_owned).collect())
        };
        let mut said = Vec::new();
        for &(n, mark) in &members {
            let what = format!("{} to refuse the stranger", site::name(n));
            said = sh::wait_for(&what, Duration::from_secs(20), || {
                Ok(Some(refusals(n, mark)?).filter(|lines| !lines.is_empty()))
            })?;
        }
        ctx.figure(format!("the log says: {}", said.first().map_or("", |l| l.trim())));
        // It tries again several times in this time, each time in vain.
        std::thread::sleep(Duration::from_secs(20));
        let strangers = lab.read(&host, "/var/log/stranger.log")?.lines().count();
        for &(n, mark) in &members {
            let lines = refusals(n, mark)?;
            ctx.figure(format!("{} logged it {} times in 20 s", site::name(n), lines.len()));
            if lines.len() > 1 {
                bail!("more than one line a minute:\n{}", lines.join("\n"));
            }
        }
        ctx.figure(format!("the stranger's own log: {strangers} lines"));
        let after = steadfast::wait_whole(lab, &others, Duration::from_secs(5))?;
        if after.epoch() != before.epoch() {
            bail!("the stranger changed the view: epoch {} to {}", before.epoch(), after.epoch());
        }
        let seen = tcp.stop()?;
        ctx.bound("tcp to a member: longest gap meanwhile", seen.longest_ms(0), 500.0)?;
        let pid = lab.service_pid(&host, "stranger")?;
        lab.shell(&host, &format!("kill {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.05; done"))?;
        lab.shell(&host, &format!("rm -rf {FOREIGN} {config}; test -e {STATE_DIR}/votes.json"))?;
        steadfast::start(lab, node)?;
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
    })
}
