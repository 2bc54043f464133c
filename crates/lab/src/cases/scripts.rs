//! CTDB's event scripts on the real daemon: what they are told, what they can do to a node, and what they cannot.

use super::{Ctx, many, vip_of};
use crate::probe::now_us;
use crate::probe::run::Probe;
use crate::{sh, site, steadfast};
use anyhow::{Result, bail};
use std::time::Duration;

const BASE: &str = "/tmp/lab-events";
/// A moved address is away for no longer, in ms, whatever the scripts do; as for other planned moves.
const PLANNED: f64 = 350.0;
const LONG: Duration = Duration::from_secs(40);

/// Says what it was told; sick or hung where a file says so.
const RECORD: &str = "#!/bin/sh
echo \"$@\" >>\"$CTDB_BASE/log\"
[ ! -e \"$CTDB_BASE/hang\" ] || sleep 100
[ \"$1\" != monitor ] || [ ! -e \"$CTDB_BASE/sick\" ] || { echo no paper; exit 7; }
";
const NEVER: &str = "#!/bin/sh\necho NEVER >>\"$CTDB_BASE/log\"\n";

/// All of it, then the site as it was.
pub(crate) fn told_and_not_waited_for(ctx: &Ctx<'_>) -> Result<()> {
    let base = steadfast::config(&ctx.lab.site);
    let outcome = with_scripts(ctx, &base);
    let mended = many::put(ctx, &base).and_then(|()| whole(ctx));
    outcome.and(mended)
}

fn whole(ctx: &Ctx<'_>) -> Result<()> {
    steadfast::wait_whole(ctx.lab, &ctx.all(), Duration::from_secs(60)).map(drop)
}

fn log(ctx: &Ctx<'_>, node: usize) -> Result<String> {
    ctx.lab.read(&site::name(node), &format!("{BASE}/log"))
}

fn switch(ctx: &Ctx<'_>, node: usize, what: &str, on: bool) -> Result<()> {
    let word = if on { "touch" } else { "rm -f" };
    ctx.lab.shell(&site::name(node), &format!("{word} {BASE}/{what}")).map(drop)
}

/// Waits until a node is unhealthy for a reason with these words.
fn unhealthy(ctx: &Ctx<'_>, node: usize, words: &str) -> Result<()> {
    sh::wait_for(&format!("{} to be unhealthy: {words}", site::name(node)), LONG, || {
        let status = steadfast::status(ctx.lab, 0)?;
        let state = &status.snapshot.nodes[&node];
        Ok((state.state == "unhealthy" && state.because.contains(words)).then_some(()))
    })
}

fn with_scripts(ctx: &Ctx<'_>, base: &str) -> Result<()> {
    let lab = ctx.lab;
    for node in ctx.all() {
        let host = site::name(node);
        lab.shell(&host, &format!("rm -rf {BASE} && mkdir -p {BASE}/events/legacy"))?;
        for (name, text) in [("01.record", RECORD), ("10.interface", NEVER), ("20.off", NEVER)] {
            lab.write(&host, &format!("{BASE}/events/legacy/{name}.script"), text)?;
        }
        lab.shell(&host, &format!("cd {BASE}/events/legacy && chmod 755 0*.script 1*.script && chmod 644 2*.script"))?;
    }
    many::put(
        ctx,
        &format!("{base}\n[events]\nenabled = true\nbase = \"{BASE}\"\ntimeout = 3\nmonitor_interval = 1\n"),
    )?;
    let status = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
    for node in ctx.all() {
        let log = log(ctx, node)?;
        let order: Vec<&str> = log.lines().filter(|l| ["init", "setup", "startup", "monitor"].contains(l)).collect();
        if !order.starts_with(&["init", "setup", "startup", "monitor"]) || log.contains("NEVER") {
            bail!("{} was told:\n{log}", site::name(node));
        }
    }
    asked_by_the_tool(ctx)?;

    // A script that fails takes the node's addresses, and says why.
    let (node, vip) = (1, vip_of(&status, 1)?);
    switch(ctx, node, "sick", true)?;
    unhealthy(ctx, node, "01.record.script ended with exit status 7: no paper")?;
    let released = format!("releaseip eth0 {vip} 24");
    sh::wait_for(&released, LONG, || Ok(log(ctx, node)?.lines().any(|l| l == released).then_some(())))?;
    switch(ctx, node, "sick", false)?;
    whole(ctx)?;
    let taken = format!("takeip eth0 {vip} 24");
    sh::wait_for(&taken, LONG, || {
        let heirs = ctx.but(node);
        Ok(heirs.iter().any(|n| log(ctx, *n).is_ok_and(|log| log.lines().any(|l| l == taken))).then_some(()))
    })?;

    // Between the words that a move has begun and that it is over.
    let log = log(ctx, node)?;
    let before: Vec<&str> = log.lines().take_while(|l| *l != released).collect();
    let word = before.iter().rfind(|l| ["startipreallocate", "ipreallocated"].contains(*l));
    if word != Some(&"startipreallocate") {
        bail!("an address left before the scripts heard that a move begins:\n{log}");
    }
    sh::wait_for("the word that the move is over", LONG, || {
        let log = self::log(ctx, node)?;
        Ok(log.lines().skip_while(|l| *l != released).any(|l| l == "ipreallocated").then_some(()))
    })?;

    // Scripts that hang keep no address.
    let node = 2;
    let vip = vip_of(&steadfast::status(lab, 0)?, node)?;
    switch(ctx, node, "hang", true)?;
    switch(ctx, 3, "hang", true)?;
    let tcp = Probe::tcp(lab, "tcp", &vip)?;
    tcp.wait_ok(0, Duration::from_secs(10))?;
    let at = now_us();
    lab.exec(&site::name(0), &["steadfast", "move-ip", &vip, &site::name(3)], Duration::from_secs(30))?;
    sh::wait_for("the address to have moved", LONG, || {
        Ok(steadfast::status(lab, 0)?.holder(&vip).is_some_and(|holder| holder != node).then_some(()))
    })?;
    tcp.wait_ok(at + 200_000, Duration::from_secs(10))?;
    let seen = tcp.stop()?;
    unhealthy(ctx, node, "did not end in time")?;
    for node in [2, 3] {
        switch(ctx, node, "hang", false)?;
    }
    whole(ctx)?;
    ctx.bound("tcp on an address between nodes whose scripts hang: longest outage", seen.longest_ms(at), PLANNED)
}

/// Debian's tool and ours.
fn asked_by_the_tool(ctx: &Ctx<'_>) -> Result<()> {
    let ask = |words: &str| {
        ctx.lab.shell(&site::name(0), &format!("export CTDB_BASE={BASE}; {words} 2>&1 && s=0 || s=$?; echo \"= $s\""))
    };
    ask(&format!("ln -s \"$(command -v steadfast)\" {BASE}/ctdb && ctdb event run 20 legacy ipreallocated"))?;
    for (words, parts) in [
        (
            "ctdb scriptstatus",
            &["01.record            OK", "10.interface         DISABLED", "20.off               DISABLED", "= 0"][..],
        ),
        ("ctdb event status legacy ipreallocated", &["01.record            OK", "= 0"][..]),
        ("ctdb event status legacy startipreallocate", &["01.record            OK", "= 0"][..]),
        ("ctdb event status legacy updateip", &["has never run", "= 22"][..]),
        ("ctdb event run 20 legacy takeip eth9 192.0.2.1 24", &["= 0"][..]),
    ] {
        let said = ask(words)?;
        // Ours, by its other name; of an event that does not happen between the two.
        let ours = ask(&format!("{BASE}/{words}"))?;
        if ours != said && words.contains(" status ") {
            bail!("`{words}` of Debian's tool says\n{said}\nand ours\n{ours}");
        }
        if let Some(missing) = parts.iter().find(|part| !said.contains(**part)) {
            bail!("`{words}` lacks \"{missing}\":\n{said}");
        }
    }
    if !log(ctx, 0)?.contains("takeip eth9 192.0.2.1 24") {
        bail!("an event that the tool ran was not told");
    }
    Ok(())
}
