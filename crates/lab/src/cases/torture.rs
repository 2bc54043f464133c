//! A few of Samba's own tests, of clients on two nodes of one share: what `scripts/smbtorture` runs in full, beside CTDB.

use super::{Ctx, vip_of};
use crate::steadfast;
use crate::torture::{self, Kind, Outcome, Stand, Test};
use anyhow::{Result, bail};
use std::time::Duration;

/// Locks, leases, oplocks and share modes: each asks one node for what another's client holds.
const BETWEEN_NODES: [&str; 8] = [
    "smb2.lock.async",
    "smb2.lock.contend",
    "smb2.lease.break_twice",
    "smb2.lease.oplock",
    "smb2.oplock.batch1",
    "base.lock.LOCK2",
    "base.deny2",
    "base.deny3",
];
/// With the daemon itself, as a client of its socket.
const WITH_THE_DAEMON: [&str; 1] = ["smb2.lock.ctdb-delrec-deadlock"];
/// The slowest, of leases, takes 20 s.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs them; how each ended.
fn run(ctx: &Ctx<'_>, tests: &[Test]) -> Result<Vec<Outcome>> {
    let status = steadfast::status(ctx.lab, 0)?;
    let addresses = [0, 1].map(|node| vip_of(&status, node)).into_iter().collect::<Result<_>>()?;
    let stand = Stand::new(ctx.lab, addresses, tests.len(), false)?;
    let all: Result<Vec<_>> = std::thread::scope(|scope| {
        let under_way: Vec<_> = tests
            .iter()
            .enumerate()
            .map(|(lane, test)| {
                let stand = &stand;
                scope.spawn(move || stand.run(test, lane, LIMIT))
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<_>>| match thread.join() {
            Ok(ran) => ran,
            Err(_) => bail!("a thread that ran a test has panicked"),
        };
        under_way.into_iter().map(join).collect()
    });
    stand.end()?;
    let all = all?;
    for (test, ran) in tests.iter().zip(&all) {
        ctx.figure(format!("{}: {} ({:.1} s)", test.name, ran.outcome, ran.seconds));
    }
    Ok(all.into_iter().map(|ran| ran.outcome).collect())
}

fn named(names: &[&str], kind: Kind) -> Result<Vec<Test>> {
    let all = torture::all()?;
    names.iter().map(|name| torture::find(&all, name, kind)).collect()
}

/// With one Samba of all nodes they pass.
pub(crate) fn pass_on_two_nodes(ctx: &Ctx<'_>) -> Result<()> {
    let tests = [named(&BETWEEN_NODES, Kind::Two)?, named(&WITH_THE_DAEMON, Kind::Local)?].concat();
    let outcomes = run(ctx, &tests)?;
    let not = tests.iter().zip(&outcomes).filter(|(_, o)| **o != Outcome::Pass).map(|(t, _)| t.name.as_str());
    let not: Vec<&str> = not.collect();
    if !not.is_empty() {
        bail!("of Samba's own tests these did not pass on two nodes: {}", not.join(", "));
    }
    Ok(())
}

/// With a Samba on each node for itself they fail: they do ask both.
pub(crate) fn fail_without_clustering(ctx: &Ctx<'_>) -> Result<()> {
    let tests = named(&BETWEEN_NODES, Kind::Two)?;
    let outcomes = run(ctx, &tests)?;
    let not = tests.iter().zip(&outcomes).filter(|(_, o)| **o != Outcome::Fail).map(|(t, _)| t.name.as_str());
    let not: Vec<&str> = not.collect();
    if !not.is_empty() {
        bail!("they did not fail though nothing joins the nodes' smbds: {}", not.join(", "));
    }
    Ok(())
}
