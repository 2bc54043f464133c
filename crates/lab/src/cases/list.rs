//! The configuration changes while the cluster serves: a key, the nodes list. A node leaves that for good, and comes back as a
//! new one.

use super::{Ctx, vip_of};
use crate::probe::run::Probe;
use crate::steadfast::{self, CONFIG, STATE_DIR};
use crate::{sh, site};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// Puts a file on these nodes and has their daemons read it.
fn reload(ctx: &Ctx<'_>, nodes: &[usize], text: &str) -> Result<()> {
    for &n in nodes {
        ctx.lab.write(&site::name(n), CONFIG, text)?;
    }
    for &n in nodes {
        ctx.lab.exec(&site::name(n), &["steadfast", "reload"], Duration::from_secs(30))?;
    }
    Ok(())
}

fn voters(ctx: &Ctx<'_>, node: usize) -> Result<Vec<usize>> {
    let view = steadfast::status(ctx.lab, node)?.snapshot.view.context("no view")?;
    Ok(view.voters.keys().copied().collect())
}

fn pids(ctx: &Ctx<'_>, nodes: &[usize]) -> Result<Vec<String>> {
    nodes.iter().map(|&n| ctx.lab.service_pid(&site::name(n), "steadfast")).collect()
}

/// The same node with another first address.
fn moved(entry: &str) -> Result<String> {
    let (before, list) = entry.split_once("addresses = [\"").context("the node has no addresses")?;
    let (_, rest) = list.split_once('"').context("its first address does not end")?;
    Ok(format!("{before}addresses = [\"192.168.122.99\"{rest}"))
}

/// The last node is taken off the list and its disk emptied; then listed again, joined with a token.
pub(crate) fn node_removed_and_added(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let last = lab.site.nodes - 1;
    let host = site::name(last);
    let left = ctx.but(last);
    let whole = steadfast::config(&lab.site);
    let begin = whole.find(&format!("\n[[node]]\nname = \"{host}\"")).context("the node is not in the file")?;
    let end = begin + 1 + whole[begin + 1..].find("\n[[").context("nothing follows the node")?;
    let entry = &whole[begin..end];
    let without = format!("{}{}removed = true\n{}", &whole[..begin], entry, &whole[end..]);
    let stays = vip_of(&steadfast::status(lab, 0)?, 0)?;
    let before = pids(ctx, &left)?;
    ctx.watched(|| {
        let tcp = Probe::tcp(lab, "tcp", &stays)?;
        tcp.wait_ok(0, Duration::from_secs(10))?;
        // It serves: nobody may begin to miss it.
        let elsewhere = format!("{}{}{}", &whole[..begin], moved(entry)?, &whole[end..]);
        for (text, what) in [(&without, "is not in the new"), (&elsewhere, "no more in the new")] {
            match reload(ctx, &[0], text) {
                Ok(()) => bail!("{host} serves, and the new configuration, in which it {what}, was taken"),
                Err(said) if format!("{said:#}").contains(what) => {}
                Err(said) => return Err(said.context("the refusal does not say why")),
            }
        }
        steadfast::stop(lab, last)?;
        sh::wait_for("a view without the node that was stopped", Duration::from_secs(10), || {
            let view = steadfast::status(lab, 0)?.snapshot.view.context("no view")?;
            Ok((!view.members.contains_key(&last)).then_some(()))
        })?;
        let begun = Instant::now();
        reload(ctx, &left, &without)?;
        steadfast::wait_whole(lab, &left, Duration::from_secs(30))?;
        sh::wait_for("the removed node to be no voter", Duration::from_secs(30), || {
            Ok((voters(ctx, 0)? == left).then_some(()))
        })?;
        ctx.figure(format!("{host} off the list: {:.1} s until a view without it", begun.elapsed().as_secs_f64()));
        let status = steadfast::status(lab, 0)?;
        if status.snapshot.nodes.contains_key(&last) {
            bail!("{host} is still shown after it was taken off the list");
        }

        let begun = Instant::now();
        reload(ctx, &left, &whole)?;
        lab.shell(&host, &format!("rm -rf {STATE_DIR}"))?;
        lab.write(&host, CONFIG, &whole)?;
        let said = lab.exec(&site::name(0), &["steadfast", "token", "--for", &host], Duration::from_secs(10))?;
        let token = said.split_whitespace().find(|w| w.starts_with("sf1_")).context("no token")?;
        lab.exec(&host, &["steadfast", "join", "--config", CONFIG, token], Duration::from_secs(30))?;
        steadfast::start(lab, last)?;
        let status = steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60))?;
        ctx.figure(format!(
            "{host} on the list again, with an empty disk: {:.1} s until it holds {}",
            begun.elapsed().as_secs_f64(),
            status.held_by(last).join(", ")
        ));
        sh::wait_for("the new node to be a voter", Duration::from_secs(30), || {
            Ok((voters(ctx, 0)? == ctx.all()).then_some(()))
        })?;
        if pids(ctx, &left)? != before || left.iter().any(|&n| !steadfast::daemon_runs(lab, n)) {
            bail!("a daemon was restarted");
        }
        let seen = tcp.stop()?;
        ctx.bound("tcp to a node that stays: longest gap meanwhile", seen.longest_ms(0), 500.0)
    })
}

/// Another value of a key of each service, node after node: all services run on, and every address stays where it is.
pub(crate) fn a_key_changes(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let whole = steadfast::config(&lab.site);
    let mut other = whole.clone();
    for section in ["[nfs]\n", "[samba]\n"] {
        let at = other.find(section).with_context(|| format!("the file has no {section}"))? + section.len();
        other.insert_str(at, "stop_timeout = 7\n");
    }
    // Long enough for the leader to move what it thinks should move, and for the next to be its heir.
    let pause = Duration::from_millis(500);
    stay_over(ctx, &[(&other, pause), (&whole, pause)], 100.0, |_| Ok(()))
}

/// Samba is wanted no more, on node after node, and ends there; then it is wanted again, and has yet to start on the others when the
/// leader knows of it.
pub(crate) fn a_service_goes_and_comes(ctx: &Ctx<'_>) -> Result<()> {
    let whole = steadfast::config(&ctx.lab.site);
    let without = whole.replacen("[samba]\nenabled = true", "[samba]\nenabled = false", 1);
    if without == whole {
        bail!("the file does not enable Samba");
    }
    // By the end of the second the leader would no longer take the others' state for a sickness that all have.
    let texts = [(without.as_str(), Duration::from_millis(100)), (&whole, Duration::from_secs(4))];
    // Four smbds begin on one machine.
    stay_over(ctx, &texts, 350.0, |text| {
        let state = if text == whole { "ok" } else { "off" };
        sh::wait_for(&format!("Samba to be {state} on all nodes"), Duration::from_secs(10), || {
            for n in ctx.all() {
                let status = steadfast::status(ctx.lab, n)?;
                let samba = status.snapshot.nodes.get(&n).and_then(|node| node.services.get("samba"));
                if samba.is_none_or(|samba| samba.state != state) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    })
}

/// Every node reads these files, the leader first and then one after the other with a pause: every address stays where it is, and is
/// away for `bound` ms at most. `check` is done when all have. The last file is in force afterwards, also when that was not so.
fn stay_over(ctx: &Ctx<'_>, texts: &[(&str, Duration)], bound: f64, check: impl Fn(&str) -> Result<()>) -> Result<()> {
    let lab = ctx.lab;
    let holders = |ctx: &Ctx<'_>| -> Result<Vec<Option<usize>>> {
        let status = steadfast::status(ctx.lab, 0)?;
        Ok(ctx.lab.site.vips().iter().map(|vip| status.holder(vip)).collect())
    };
    let before = holders(ctx)?;
    let leader = steadfast::status(lab, 0)?.snapshot.leader;
    let mut order = ctx.all();
    order.sort_by_key(|n| Some(*n) != leader);
    let done = ctx.watched(|| {
        let vips = lab.site.vips();
        let probes: Vec<Probe> = vips.iter().map(|vip| Probe::tcp(lab, "tcp", vip)).collect::<Result<_>>()?;
        for p in &probes {
            p.wait_ok(0, Duration::from_secs(10))?;
        }
        for (text, pause) in texts {
            for &n in &order {
                reload(ctx, &[n], text)?;
                std::thread::sleep(*pause);
                if holders(ctx)? != before {
                    bail!("addresses moved when {} read its file again", site::name(n));
                }
            }
            check(text)?;
        }
        for (vip, p) in vips.iter().zip(probes) {
            ctx.bound(&format!("tcp to {vip}: longest outage"), p.stop()?.longest_ms(0), bound)?;
        }
        steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(10)).map(drop)
    });
    if let (Err(_), Some((last, _))) = (&done, texts.last()) {
        reload(ctx, &order, last)?;
    }
    done
}
