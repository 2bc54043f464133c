//! Locks and caches of SMB clients on different nodes: what one holds, the clients of all others respect.

use super::{Ctx, vip_of};
use crate::smb::{self, Lease, Level, Session, Sharing};
use crate::{site, steadfast};
use anyhow::{Context, Result, bail};
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// Clients of each node that count in one file.
const CLIENTS: usize = 2;
const COUNTING: Duration = Duration::from_secs(2);
/// smbds that wait for a lock do not queue for it: one that is unlucky waits long. Up to 9.5 s were seen, and 18 s with CTDB.
const LONGEST_WAIT_MS: f64 = 20_000.0;
/// A break of an oplock or a lease; smbd gives up on a client after 35 s.
const BREAK: Duration = Duration::from_secs(10);

fn sessions(ctx: &Ctx<'_>, each: usize) -> Result<Vec<Session>> {
    let status = steadfast::status(ctx.lab, 0)?;
    let vips: Vec<String> = ctx.all().into_iter().map(|n| vip_of(&status, n)).collect::<Result<_>>()?;
    (0..each).flat_map(|_| &vips).map(|vip| Session::locking(ctx.lab, vip)).collect()
}

/// Byte ranges exclude each other; a client that caches gives that up before another node's client has the file; counters
/// under locks of all nodes are exact.
pub(crate) fn between_nodes(ctx: &Ctx<'_>) -> Result<()> {
    let mut sessions = sessions(ctx, 1)?;
    ranges(ctx, &mut sessions)?;
    caches(ctx, &mut sessions)?;
    drop(sessions);
    counters(ctx)
}

fn ranges(ctx: &Ctx<'_>, sessions: &mut [Session]) -> Result<()> {
    let handles: Vec<String> =
        sessions.iter_mut().map(|s| s.create("ranges", Sharing::All)?.handle()).collect::<Result<_>>()?;
    // Each node's client has ten bytes of its own.
    for ((session, handle), at) in sessions.iter_mut().zip(&handles).zip(0u64..) {
        session.lock(handle, at * 10, 10)?.handle().with_context(|| format!("a range of its own on node {at}"))?;
    }
    for ((session, handle), at) in sessions.iter_mut().zip(&handles).zip(0u64..) {
        for other in (0..handles.len() as u64).filter(|&other| other != at) {
            let answer = session.lock(handle, other * 10 + 9, 1)?;
            if !answer.is_lock_refused() {
                bail!("node {at} locks what a client of node {other} holds: {answer:?}");
            }
        }
    }
    sessions[0].unlock(&handles[0], 0, 10)?.handle()?;
    let begun = Instant::now();
    sessions[1].lock(&handles[1], 0, 10)?.handle().context("a range that another node's client has given back")?;
    let took = begun.elapsed();
    // What a client holds ends with its open.
    sessions[1].close(&handles[1])?.handle()?;
    sessions[2].lock(&handles[2], 0, 20)?.handle().context("ranges of a file that its holder has closed")?;
    for at in [0, 2, 3] {
        sessions[at].close(&handles[at])?.handle()?;
    }
    ctx.bound("a range given back on another node is free after", took.as_secs_f64() * 1000.0, 1000.0)
}

/// Batch oplocks, then leases: both are broken by an open on another node.
fn caches(ctx: &Ctx<'_>, sessions: &mut [Session]) -> Result<()> {
    let (batch, read) = (Level::Batch, Level::Read);
    broken(ctx, sessions, "oplock", (batch, read), Session::create_caching, Session::broken)?;
    let (all, left) = (Lease::ALL, Lease::READ_AND_OPEN);
    broken(ctx, sessions, "lease", (all, left), Session::create_leased, Session::lease_broken)
}

/// The first session's client, alone with a file, may cache as `of.0` says; when a client of each other node opens it, both
/// have `of.1`.
fn broken<T: Copy + Debug + PartialEq + Send>(
    ctx: &Ctx<'_>,
    sessions: &mut [Session],
    kind: &str,
    of: (T, T),
    open: fn(&mut Session, &str) -> Result<(String, T)>,
    gives: fn(&mut Session, &str, Duration) -> Result<T>,
) -> Result<()> {
    let (first, others) = sessions.split_first_mut().context("no session")?;
    for (at, other) in others.iter_mut().enumerate() {
        let name = format!("{kind}-{at}");
        let (handle, granted) = open(first, &name)?;
        if granted != of.0 {
            bail!("{kind}: a client alone with a file may cache {granted:?}");
        }
        let begun = Instant::now();
        let (left, opened) = std::thread::scope(|scope| {
            let opening = scope.spawn(|| (open(other, &name), begun.elapsed()));
            let left = gives(first, &handle, BREAK);
            (left, opening.join())
        });
        let left = left.with_context(|| format!("{name} opened through {}", site::name(at + 1)))?;
        let (opened, took) = opened.map_err(|_| anyhow::anyhow!("the thread that opened the file has panicked"))?;
        let (other_handle, level) = opened?;
        if left != of.1 || level != of.1 {
            bail!("{name}: after the break one may cache {left:?}, the other {level:?}");
        }
        ctx.bound(
            &format!("{kind} of {} broken by an open on {}, which took", site::name(0), site::name(at + 1)),
            took.as_secs_f64() * 1000.0,
            2000.0,
        )?;
        first.close(&handle)?.handle()?;
        other.close(&other_handle)?.handle()?;
    }
    Ok(())
}

fn counters(ctx: &Ctx<'_>) -> Result<()> {
    let mut sessions = sessions(ctx, CLIENTS)?;
    let counted = smb::count_together(&mut sessions, ctx.lab.site.nodes, COUNTING)?;
    ctx.figure(format!(
        "{} clients on {} nodes: {:.0} locks/s, {} to {} for each client",
        sessions.len(),
        ctx.lab.site.nodes,
        counted.sum() as f64 / counted.seconds,
        counted.fewest(),
        counted.most()
    ));
    for (node, found) in counted.shown.iter().enumerate() {
        if *found != counted.sum() {
            bail!("{} increments under locks were counted, and {} shows {found}", counted.sum(), site::name(node));
        }
    }
    if counted.fewest() == 0 {
        bail!("a client never got the lock");
    }
    ctx.bound("longest wait for the lock", counted.longest_ms(), LONGEST_WAIT_MS)
}
