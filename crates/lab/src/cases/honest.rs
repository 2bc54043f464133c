//! Tests of tests: with the part switched off that makes a failover short, the test of that failover must fail.

use super::{
    Ctx, connections, faults, hold, late_writes, links, many, nfs_locks, outage, planned, returning, services, storage,
    told,
};
use crate::steadfast;
use anyhow::{Result, bail};

/// Restarts all daemons without `parts`, runs the test, and wants it to fail because the client was not served again
/// in time; then restarts them as they should be.
fn must_fail(ctx: &Ctx<'_>, parts: &str, test: fn(&Ctx<'_>) -> Result<()>) -> Result<()> {
    steadfast::restart_all(ctx.lab, Some(parts))?;
    // Where the addresses are now, nobody may have announced.
    ctx.lab.client("ip neigh flush dev eth0")?;
    let outcome = test(ctx);
    // What the failed test left behind must not hide what it said.
    let mended = mend(ctx);
    match outcome {
        Ok(()) => bail!("without {parts} the test passes: it does not show what it is for"),
        Err(e) => {
            let why = format!("{e:#}");
            let line = why.lines().next().unwrap_or("").to_owned();
            // Out of its bound, or not at all within the time that it is waited for.
            if !(why.contains("allowed are") || why.contains("to succeed") || why.contains("to answer elsewhere")) {
                bail!("without {parts} the test fails for another reason: {why}");
            }
            ctx.figure(format!("without {parts}: {line}"));
        }
    }
    mended
}

fn mend(ctx: &Ctx<'_>) -> Result<()> {
    for node in ctx.all() {
        // A stopped daemon would not end.
        if ctx.lab.is_on(&crate::site::name(node)) && steadfast::daemon_runs(ctx.lab, node) {
            steadfast::signal(ctx.lab, node, "CONT")?;
        }
    }
    steadfast::restart_all(ctx.lab, None)
}

/// A volume as GlusterFS makes it: what is written while a brick is away is read from that brick when it is back.
pub(crate) fn eager_lock(ctx: &Ctx<'_>) -> Result<()> {
    planned::with_eager_lock(ctx, || match returning::old_copies_are_not_read(ctx) {
        Ok(()) => bail!("old copies were not read with eager locks: the test does not show what it is for"),
        Err(e) if format!("{e:#}").contains("allowed are 0 reads") => {
            ctx.figure(format!("with eager locks: {e:#}"));
            Ok(())
        }
        Err(e) => Err(e.context("with eager locks the test fails for another reason")),
    })
}

/// A moved address is not announced (nor do tickles make the neighbours look): clients go on sending to the dead node.
pub(crate) fn no_announcement(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "announce,tickle", outage::ipv6)
}

/// A client that waits for an answer is not told that its connection is gone.
pub(crate) fn no_tickle(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "tickle", outage::waiting_client)
}

/// A killed daemon's addresses wait for its lease.
pub(crate) fn no_guard(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "guard", faults::daemon_killed)
}

/// A daemon that is stopped keeps its addresses, and its node goes on answering for them.
pub(crate) fn no_lease(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "lease", faults::daemon_hung)
}

/// The end of Ganesha's process shows in probes that fail only, a second apart.
pub(crate) fn no_exit(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "exit", services::ganesha_killed)
}

/// Nobody minds that Ganesha does not answer: its clients wait for it.
pub(crate) fn no_probe(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "probe", services::ganesha_hung)
}

/// The same of the shared mount.
pub(crate) fn no_probe_of_the_mount(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "probe", storage::mount_hangs)
}

/// The owners of NFSv3 locks are not told of a Ganesha that has begun anew.
pub(crate) fn no_grace_for_a_ganesha(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "grace", nfs_locks::outlives_its_ganesha)
}

/// Nodes do not tell each other of clients' connections.
pub(crate) fn no_lists(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "lists", connections::known_to_peers)
}

/// None of 200 moved addresses is announced.
pub(crate) fn no_announcements_of_many(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "announce,tickle", many::power_off)
}

/// Nor that of a node that is cut off from the others only, and does not answer any more.
pub(crate) fn no_announcement_of_the_cut_off(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "announce,tickle", links::private)
}

/// The storage's clients wait for the lost server until their ping time-out (42 s).
pub(crate) fn no_eviction(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "evict", outage::member)
}

/// Without a lease a node's own storage clients go on writing.
pub(crate) fn no_hold(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "hold", hold::loses_nothing)
}

/// A node that nobody tells of its lost carrier keeps its addresses, for its leases come over the other network.
pub(crate) fn no_link(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "link", links::public)
}

/// Samba hears of an address when it has left.
pub(crate) fn no_telling(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "tell", told::before_it_leaves)
}

/// An NFS server that has lost all of its clients keeps GlusterFS's inner locks of their files: they wait for a second. It has
/// none to keep where eager locks are off, or the delay is lifted.
pub(crate) fn no_anew(ctx: &Ctx<'_>) -> Result<()> {
    planned::left_alone(ctx, || {
        links::under_a_writer(ctx)?;
        must_fail(ctx, "anew", links::under_a_writer)
    })
}

/// No NFS server enters its grace period: the heir gives nobody anything back.
pub(crate) fn no_grace(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "grace", nfs_locks::given_back)
}

/// The same for an NFSv3 lock whose address is moved by word.
pub(crate) fn no_grace_at_a_move(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "grace", nfs_locks::through_moves)
}

/// The server that an address has left keeps its clients' locks, against themselves too.
pub(crate) fn no_letting_go(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "let-go", nfs_locks::through_moves)
}

/// An NFS server that hangs when its address leaves carries out later what it has in hand.
pub(crate) fn no_end(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "end", late_writes::does_not_land)
}

/// The client process of a mount that hangs does so too, with what smbd has given to it.
pub(crate) fn no_end_over_smb(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "end", late_writes::does_not_land_over_smb)
}

/// The same for an NFSv3 lock: it is anybody's as soon as its server is lost, and its owner is not told.
pub(crate) fn no_grace_for_a_kernel(ctx: &Ctx<'_>) -> Result<()> {
    must_fail(ctx, "grace", nfs_locks::of_a_kernel)
}
