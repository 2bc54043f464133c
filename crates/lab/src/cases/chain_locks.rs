//! An smbd dies while it holds the lock of a chain of one of the databases' files: everybody else goes on.

use super::samba::{served, smbds, standing};
use super::{Ctx, vip_of};
use crate::smb::{Session, Sharing};
use crate::{sh, site, steadfast};
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The file that the one that dies opens and closes, again and again.
const BUSY: &str = "chain-busy";
/// The others' own, open to each alone, with a range locked.
const RANGE: (u64, u64) = (100, 10);
/// While it is stopped with the lock, the others come to need it.
const HELD: Duration = Duration::from_millis(300);
/// They go on within this time after its end.
const ON_MS: f64 = 2000.0;

/// The pid of the smbd that serves the session of a node that is not among `known`.
fn newest(ctx: &Ctx<'_>, node: usize, known: &BTreeSet<(usize, String)>) -> Result<String> {
    sh::wait_for("smbstatus to show the session", Duration::from_secs(10), || {
        let now = served(ctx, node)?;
        Ok(now.difference(known).find(|s| s.0 == node).map(|s| s.1.clone()))
    })
}

/// Opens, locks, unlocks and closes until its server is no more, or told to end; how often.
fn work(session: &mut Session, enough: &AtomicBool) -> u64 {
    let mut round = |times: u64| -> Result<u64> {
        let handle = session.create(BUSY, Sharing::All)?.handle()?;
        session.lock(&handle, 0, 1)?.handle()?;
        session.unlock(&handle, 0, 1)?.handle()?;
        session.close(&handle)?.handle()?;
        Ok(times + 1)
    };
    let mut times = 0;
    while !enough.load(Ordering::Relaxed) {
        match round(times) {
            Ok(now) => times = now,
            Err(_) => break,
        }
    }
    times
}

/// What each living client does next: the same file, a new one, and ranges of both.
fn go_on(session: &mut Session, node: usize, round: usize) -> Result<()> {
    for name in [BUSY, &format!("chain-new-{node}-{round}")] {
        let handle = session.create(name, Sharing::All)?.handle().with_context(|| format!("{name} on node {node}"))?;
        let own = 1000 + node as u64;
        session.lock(&handle, own, 1)?.handle()?;
        session.put(&handle, own, &[b'0' + node as u8])?.handle()?;
        session.unlock(&handle, own, 1)?.handle()?;
        session.close(&handle)?.handle()?;
    }
    Ok(())
}

/// On each node one after the other.
pub(crate) fn smbd_killed(ctx: &Ctx<'_>) -> Result<()> {
    let lab = ctx.lab;
    let status = steadfast::status(lab, 0)?;
    let vips: Vec<String> = ctx.all().into_iter().map(|n| vip_of(&status, n)).collect::<Result<_>>()?;
    let mut sessions: Vec<Session> = vips.iter().map(|vip| Session::locking(lab, vip)).collect::<Result<_>>()?;
    let mut kept = Vec::new();
    for (node, session) in sessions.iter_mut().enumerate() {
        let handle = session.create(&format!("chain-kept-{node}"), Sharing::Nothing)?.handle()?;
        session.put(&handle, 0, b"kept")?.handle()?;
        session.lock(&handle, RANGE.0, RANGE.1)?.handle()?;
        kept.push(handle);
    }
    let all = ctx.all();
    let before = standing(ctx, &all)?;
    let (mut longest, mut waited) = (0.0f64, 0);
    for &node in &all {
        let known = served(ctx, node)?;
        let mut theirs = Session::locking(lab, &vips[node])?;
        let pid = newest(ctx, node, &known)?;
        let enough = AtomicBool::new(false);
        let (took, waiting) = std::thread::scope(|scope| {
            let works = scope.spawn(|| work(&mut theirs, &enough));
            let caught = catch(ctx, node, &pid);
            enough.store(true, Ordering::Relaxed);
            let done = caught.and_then(|()| killed(ctx, node, &pid, &mut sessions));
            if done.is_err() {
                // So that its client, and this, ends.
                let _ = lab.exec(&site::name(node), &["kill", "-KILL", &pid], Duration::from_secs(5));
            }
            let times = works.join().map_err(|_| anyhow::anyhow!("the thread of the busy client has panicked"))?;
            ctx.figure(format!("{times} times opened, locked and closed before that"));
            done
        })?;
        longest = longest.max(took);
        waited += waiting;
        let left = smbds(ctx, node)?;
        if left.contains(&pid) {
            bail!("smbd {pid} of {} is still there", site::name(node));
        }
    }
    if waited == 0 {
        bail!("nobody ever needed what the stopped smbd had locked: this proves nothing");
    }
    ctx.figure(format!("{waited} times a client waited for the stopped smbd's lock"));
    ctx.bound(
        "after the end of the smbd: longest until a client has opened, locked, written and closed",
        longest,
        ON_MS,
    )?;
    for (node, before) in before.iter().enumerate() {
        let gone = before - &smbds(ctx, node)?;
        if !gone.is_empty() {
            bail!("smbd ended on {}, where only the busy one was killed: pids {gone:?}", site::name(node));
        }
    }
    still_kept(&mut sessions, &kept)
}

/// Has an smbd stand still with a chain lock.
fn catch(ctx: &Ctx<'_>, node: usize, pid: &str) -> Result<()> {
    let dir = "/var/lib/steadfast/db/volatile";
    let line = format!(
        "exec /usr/local/sbin/steadfast-lab probe chain-lock --pid {pid} {dir}/locking.tdb.{node} {dir}/brlock.tdb.{node}"
    );
    let done = ctx.lab.try_exec(&site::name(node), &["sh", "-c", &line], Duration::from_secs(40))?;
    let words: Vec<&str> = done.stdout.split_whitespace().collect();
    let ["C", file, offset, tries] = words[..] else { bail!("smbd {pid} of {}: {}", site::name(node), done.text()) };
    let file = file.rsplit('/').next().unwrap_or(file);
    ctx.figure(format!("{}: smbd caught with the lock at byte {offset} of {file}, at try {tries}", site::name(node)));
    Ok(())
}

/// All clients go on while it stands; it is killed; all are done soon. How long after that, and how many waited for it.
fn killed(ctx: &Ctx<'_>, node: usize, pid: &str, sessions: &mut [Session]) -> Result<(f64, usize)> {
    let lab = ctx.lab;
    std::thread::scope(|scope| {
        let begin = |(of, session)| scope.spawn(move || (go_on(session, of, node), Instant::now()));
        let clients: Vec<_> = sessions.iter_mut().enumerate().map(begin).collect();
        std::thread::sleep(HELD);
        let waiting = clients.iter().filter(|client| !client.is_finished()).count();
        let at = Instant::now();
        lab.exec(&site::name(node), &["kill", "-KILL", pid], Duration::from_secs(5))?;
        let mut longest = 0.0f64;
        for client in clients {
            let (done, when) = client.join().map_err(|_| anyhow::anyhow!("a client's thread has panicked"))?;
            done?;
            longest = longest.max(when.saturating_duration_since(at).as_secs_f64() * 1000.0);
        }
        Ok((longest, waiting))
    })
}

/// Opens and ranges of the others are theirs still, and what they wrote is there.
fn still_kept(sessions: &mut [Session], kept: &[String]) -> Result<()> {
    let nodes = sessions.len();
    for (node, handle) in kept.iter().enumerate() {
        let name = format!("chain-kept-{node}");
        let answer = sessions[(node + 1) % nodes].create(&name, Sharing::All)?;
        if !answer.is_sharing_violation() {
            bail!("{name} is open to its client alone, and another opens it: {answer:?}");
        }
        let found = sessions[node].get(handle, 0, 4)?.handle()?;
        if found != "6b657074" {
            bail!("{name} holds {found}");
        }
        sessions[node].unlock(handle, RANGE.0, RANGE.1)?.handle().context("a range that was locked before")?;
    }
    let wrote: Vec<u8> = (0..nodes).map(|node| b'0' + node as u8).collect();
    for session in sessions.iter_mut() {
        let handle = session.create(BUSY, Sharing::All)?.handle()?;
        let found = session.get(&handle, 1000, nodes)?.handle()?;
        let wanted: String = wrote.iter().map(|b| format!("{b:02x}")).collect();
        if found != wanted {
            bail!("{BUSY} holds {found} where the clients wrote {wanted}");
        }
        session.close(&handle)?.handle()?;
    }
    Ok(())
}
