//! The smbds of all nodes are one server: what one grants, all know, and it outlives any of them.

use super::{Ctx, vip_of};
use crate::smb::{Session, Sharing};
use crate::{files, parts, sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// A second user, who may log in and use nothing.
const OTHER_USER: &str = "ana";
const OTHER_PASSWORD: &str = "geheim";
/// A share and a key of the registry.
const REGISTERED: &str = "lab-registered";
const REGISTRY_KEY: &str = r"HKLM\Software\Samba\lab";
/// A probe's smbd is gone by then.
const APART: Duration = Duration::from_millis(1200);

/// A session with every node, through the address that each holds.
fn sessions(ctx: &Ctx<'_>) -> Result<Vec<Session>> {
    let status = steadfast::status(ctx.lab, 0)?;
    ctx.all().into_iter().map(|n| Session::open(ctx.lab, &vip_of(&status, n)?)).collect()
}

/// Who serves the laboratory's user, as one node's smbstatus tells: node and process.
pub(super) fn served(ctx: &Ctx<'_>, node: usize) -> Result<BTreeSet<(usize, String)>> {
    let text = ctx.lab.exec(&site::name(node), &["smbstatus", "-p"], Duration::from_secs(20))?;
    let rows = text.lines().filter(|l| l.split_whitespace().nth(1) == Some(site::USER));
    let server = |row: &str| {
        let (node, pid) = row.split_whitespace().next()?.split_once(':')?;
        Some((node.parse().ok()?, pid.to_owned()))
    };
    rows.map(|row| server(row).with_context(|| format!("smbstatus: a process without a node: {row}"))).collect()
}

/// Logs in at every address; how many refused.
fn logins(ctx: &Ctx<'_>, user: &str, password: &str) -> Result<usize> {
    let mut refused = 0;
    for vip in ctx.lab.site.vips() {
        let words = ["smbclient", "-L", &vip, "-U", &format!("{user}%{password}")];
        let done = ctx.lab.try_exec(site::CLIENT, &words, Duration::from_secs(20))?;
        if !done.ok() {
            if !done.text().contains("LOGON_FAILURE") {
                bail!("smbclient -L {vip}: {}", done.text());
            }
            refused += 1;
        }
    }
    Ok(refused)
}

/// [`one_service`] by the Samba that the site has been given, and not by the machine's.
pub(crate) fn one_newer_service(ctx: &Ctx<'_>) -> Result<()> {
    let wanted = ctx.lab.site.samba_root.as_ref().context("this site has the machine's Samba")?;
    for node in ctx.all() {
        let line = "readlink /proc/$(cat /run/samba/smbd.pid)/root; smbd --version";
        let said = ctx.lab.shell(&site::name(node), line)?;
        let (root, version) = said.split_once('\n').context("no version of smbd")?;
        if Path::new(root) != wanted.as_path() {
            bail!("smbd on {} runs in {root}", site::name(node));
        }
        ctx.figure(format!("{}: {}", site::name(node), version.trim()));
    }
    one_service(ctx)
}

/// The registry is one, and so is the server's identity, which the nodes keep in `secrets.tdb`.
fn one_registry(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let net =
        |node: usize, words: &[&str]| lab.exec(&site::name(node), &[&["net"], words].concat(), Duration::from_secs(20));
    let sids: BTreeSet<String> = ctx.all().into_iter().map(|n| net(n, &["getlocalsid"])).collect::<Result<_>>()?;
    if sids.len() != 1 || !sids.iter().all(|said| said.contains("S-1-5-21-")) {
        bail!("the nodes have different identities: {sids:?}");
    }
    net(1, &["conf", "addshare", REGISTERED, site::MOUNT, "writeable=y", "guest_ok=n", "made on one"])?;
    for node in ctx.all() {
        let said = net(node, &["conf", "showshare", REGISTERED])?;
        if !said.contains(site::MOUNT) || !said.contains("made on one") {
            bail!("a share in the registry of {} is on {}: {said}", site::name(1), site::name(node));
        }
    }
    net(2, &["conf", "setparm", REGISTERED, "comment", "changed on another"])?;
    net(3, &["registry", "createkey", REGISTRY_KEY])?;
    net(3, &["registry", "setvalue", REGISTRY_KEY, "words", "sz", "of node 3"])?;
    for node in ctx.all() {
        let (share, value) = (
            net(node, &["conf", "showshare", REGISTERED])?,
            net(node, &["registry", "getvalueraw", REGISTRY_KEY, "words"])?,
        );
        if !share.contains("changed on another") || value.trim() != "of node 3" {
            bail!("{} does not see what others have changed in the registry: {share}\n{value}", site::name(node));
        }
    }
    net(0, &["conf", "delshare", REGISTERED])?;
    net(0, &["registry", "deletekey", REGISTRY_KEY])?;
    for node in ctx.all() {
        if net(node, &["conf", "listshares"])?.contains(REGISTERED) {
            bail!("a share that was deleted on {} is in the registry of {}", site::name(0), site::name(node));
        }
    }
    Ok(())
}

/// One server, whichever address a client comes by: files, users, registry, opens, and the list of who is there.
pub(crate) fn one_service(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    for (i, vip) in lab.site.vips().iter().enumerate() {
        let line = format!("cd /tmp; hostname >f{i}; smbclient -U {} //{vip}/share -c 'put f{i}'", files::smb_login());
        lab.client(&line).with_context(|| format!("SMB through {vip}"))?;
    }
    // A password given on one node is asked on all; the Unix user is everybody's own.
    for node in ctx.all() {
        lab.shell(&site::name(node), &format!("id {OTHER_USER} >/dev/null 2>&1 || useradd -M {OTHER_USER}"))?;
    }
    let all = lab.site.vips().len();
    if logins(ctx, OTHER_USER, OTHER_PASSWORD)? != all {
        bail!("{OTHER_USER} logs in before there is a password");
    }
    lab.shell(&site::name(2), &format!("{} >/dev/null", parts::smb_user(OTHER_USER, OTHER_PASSWORD)))?;
    let refused = logins(ctx, OTHER_USER, OTHER_PASSWORD)?;
    if refused > 0 {
        bail!("a user added on one node is unknown at {refused} of {all} addresses");
    }
    lab.shell(&site::name(3), &format!("smbpasswd -x {OTHER_USER} >/dev/null"))?;
    if logins(ctx, OTHER_USER, OTHER_PASSWORD)? != all {
        bail!("a user removed on one node still logs in elsewhere");
    }

    one_registry(ctx)?;

    let mut sessions = sessions(ctx)?;
    for node in ctx.all() {
        let seen: BTreeSet<usize> = served(ctx, node)?.into_iter().map(|s| s.0).collect();
        if !seen.iter().copied().eq(ctx.all()) {
            bail!("smbstatus on {} shows sessions of nodes {seen:?}", site::name(node));
        }
    }
    let held = sessions[0].create("exclusive", Sharing::Nothing)?.handle()?;
    for (node, other) in sessions.iter_mut().enumerate().skip(1) {
        let answer = other.create("exclusive", Sharing::All)?;
        if !answer.is_sharing_violation() {
            bail!("a file that is open on {} to itself alone: {} says {answer:?}", site::name(0), site::name(node));
        }
    }
    sessions[0].close(&held)?.handle()?;
    for (node, other) in sessions.iter_mut().enumerate() {
        let begun = Instant::now();
        let handle = other.create("exclusive", Sharing::Nothing)?.handle()?;
        other.close(&handle)?.handle()?;
        ctx.bound(&format!("free again, opened on {}", site::name(node)), ms(begun), 1000.0)?;
    }
    Ok(())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

pub(super) fn smbds(ctx: &Ctx<'_>, node: usize) -> Result<BTreeSet<String>> {
    let text = ctx.lab.shell(&site::name(node), "pgrep smbd")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Samba's processes of a node that stay: its own and those of the test's sessions. Each probe has one for a moment.
pub(super) fn standing(ctx: &Ctx<'_>, nodes: &[usize]) -> Result<Vec<BTreeSet<String>>> {
    let before: Vec<_> = nodes.iter().map(|&n| smbds(ctx, n)).collect::<Result<_>>()?;
    std::thread::sleep(APART);
    let both = |(was, node): (BTreeSet<String>, &usize)| Ok(&was & &smbds(ctx, *node)?);
    before.into_iter().zip(nodes).map(both).collect()
}

/// The leader loses its power while clients work with the others: their sessions, opens and servers stay, new files can
/// be opened within two seconds, and what the dead node's clients had open is free.
pub(crate) fn outlives_a_node(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let dead = steadfast::status(lab, 0)?.snapshot.leader.context("no leader")?;
    let living = ctx.but(dead);
    let mut sessions = sessions(ctx)?;
    let mut theirs = sessions.remove(dead);
    theirs.create("of-the-dead", Sharing::Nothing)?.handle()?;
    let mut held = Vec::new();
    for (session, node) in sessions.iter_mut().zip(&living) {
        held.push(session.create(&format!("of-{node}"), Sharing::Nothing)?.handle()?);
    }
    let before = standing(ctx, &living)?;
    ctx.watched(|| {
        lab.power_off(&site::name(dead))?;
        let off = Instant::now();
        let mut longest: f64 = 0.0;
        let mut freed = None;
        let mut round = 0;
        while off.elapsed() < Duration::from_secs(4) || freed.is_none() {
            if off.elapsed() > Duration::from_secs(30) {
                bail!("what the dead node's client had open to itself alone is not free");
            }
            round += 1;
            for (session, node) in sessions.iter_mut().zip(&living) {
                let begun = Instant::now();
                let handle = session.create(&format!("new-{node}-{round}"), Sharing::All)?.handle()?;
                session.close(&handle)?.handle()?;
                longest = longest.max(ms(begun));
            }
            if freed.is_none() && sessions[0].create("of-the-dead", Sharing::All)?.handle().is_ok() {
                freed = Some(ms(off));
            }
            for (session, handle) in sessions.iter_mut().zip(&held) {
                session.write(handle, &format!("round-{round}"))?.handle()?;
            }
        }
        ctx.figure(format!("{round} rounds of opens on {} living nodes", living.len()));
        ctx.bound("longest open and close of a new file", longest, 2000.0)?;
        ctx.bound("a file of the dead node's client is free after", freed.unwrap_or_default(), 3000.0)?;
        for i in 0..living.len() {
            let name = format!("of-{}", living[i]);
            let answer = sessions[(i + 1) % living.len()].create(&name, Sharing::All)?;
            if !answer.is_sharing_violation() {
                bail!("{name} is open on {} to itself alone, and another opens it: {answer:?}", site::name(living[i]));
            }
        }
        for (node, before) in living.iter().zip(&before) {
            let gone = before - &smbds(ctx, *node)?;
            ctx.figure(format!(
                "{} of {} smbds that stood on {} are there",
                before.len() - gone.len(),
                before.len(),
                site::name(*node)
            ));
            if !gone.is_empty() {
                bail!("smbd ended on {}, which lives: pids {gone:?}", site::name(*node));
            }
        }
        let line = |vip: &str| format!("smbclient -U {} //{vip}/share -c ls >/dev/null", files::smb_login());
        for vip in lab.site.vips() {
            sh::wait_for(&format!("SMB at {vip}"), Duration::from_secs(10), || lab.client(&line(&vip)).map(Some))?;
        }
        Ok(())
    })?;
    parts::boot(lab, dead)?;
    steadfast::start(lab, dead)?;
    steadfast::wait_whole(lab, &ctx.all(), Duration::from_secs(60)).map(drop)
}
