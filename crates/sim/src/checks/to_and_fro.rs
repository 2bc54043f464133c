//! An address does not flap: what has gone to another node does not come back while nothing happens in between, for
//! clients would pay for two moves.
//!
//! Two kinds are looked at. *At once*, whatever ended before the first move: a cluster that comes together again must know
//! where it puts an address. *Soon*, which is long enough for the pauses between planned moves, when the node that it left
//! was fit all the while, so that nothing but somebody's decision took it away. What begins or ends between the two moves
//! excuses the second one, as does an administrator's word in between; the word that asked for the first move does not. A word about
//! another address counts from when the first move was decided on: carried out it is a little later.

use super::Check;
use super::rest::is_fit;
use crate::clock::{MS, Micros, S};
use crate::faults::{Fault, Kind};
use crate::world::World;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Who comes back within this was sent away for nothing. Planned moves have a longer pause between them.
const AT_ONCE: Micros = 1_900 * MS;
/// A fault that begins so shortly before the first move may be noticed after it: by silence, then by a missing link.
const NOTICED: Micros = 2_000 * MS;
/// One that ends.
const OVER: Micros = 100 * MS;
/// Who comes back within this to a node that was fit all the while was sent away for nothing, too: several pauses
/// between planned moves.
const SOON: Micros = 10 * S;
/// A node whose fault is over for so long was fit before the first move, and the others have known it since.
const FIT_AGAIN: Micros = 5 * S;
/// A planned move is carried out so long after it was decided on: servers prove that they answer before an address leaves (1 s), and
/// what hangs is ended before anybody else has it (2 s).
const UNDER_WAY: Micros = 3_300 * MS;
/// An address that nobody has had for so long comes from nowhere. A takeover takes less.
const NOWHERE: Micros = 1_000 * MS;

/// A change of who answers.
#[derive(Clone, Copy, Debug)]
struct Move {
    at: Micros,
    from: usize,
    /// The node that it left could have kept it.
    fit: bool,
}

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct ToAndFro {
    host: BTreeMap<IpAddr, usize>,
    /// Since when its last host does not answer for it any more.
    silent: BTreeMap<IpAddr, Micros>,
    moves: BTreeMap<IpAddr, Move>,
}

impl Check for ToAndFro {
    fn name(&self) -> &'static str {
        "no address to and fro"
    }

    fn pulse(&mut self, world: &World) -> Result<(), String> {
        let (now, silent) = (world.now, &mut self.silent);
        self.host.retain(|vip, host| {
            if world.hosts[*host].answers(*vip, now) {
                silent.remove(vip);
                return true;
            }
            let since = *silent.entry(*vip).or_insert(now);
            now - since < NOWHERE
        });
        Ok(())
    }

    fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        self.silent.remove(&vip);
        let Some(from) = self.host.insert(vip, host).filter(|from| *from != host) else { return Ok(()) };
        let fit = world.newest_view().is_some_and(|view| is_fit(world, view, from, vip));
        let Some(before) = self.moves.insert(vip, Move { at: world.now, from, fit }) else { return Ok(()) };
        let at_once = world.now <= before.at + AT_ONCE && !disturbed(world, vip, before.at);
        let soon = world.now <= before.at + SOON && before.fit && !troubled(world, vip, before.at);
        // From a node that was put out of the view meanwhile it is taken over.
        let taken_over = !world.members().contains(&from);
        if before.from != host || taken_over || !(at_once || soon) {
            return Ok(());
        }
        Err(format!("{vip} goes back from n{from} to n{host} after {} ms", (world.now - before.at) / MS))
    }
}

/// Has an administrator said something since this address's first move was decided on? What asked for that move is earlier.
fn has_been_asked(world: &World, vip: IpAddr, since: Micros) -> bool {
    world.asked.is_some_and(|(at, about)| decided(vip, about, since) <= at)
}

/// When this address's move of then was decided on, for a word about that one.
fn decided(vip: IpAddr, about: Option<IpAddr>, since: Micros) -> Micros {
    if about == Some(vip) { since } else { since.saturating_sub(UNDER_WAY) }
}

/// Has a fault begun or ended since then, or has an administrator said something?
fn disturbed(world: &World, vip: IpAddr, since: Micros) -> bool {
    let recent = |at: Micros, before: Micros| since.saturating_sub(before) <= at && at <= world.now;
    let thawed = |at: Micros| recent(at, OVER) || recent(at + world.excused(), OVER);
    world.hosts.iter().any(|h| h.thawed_at.is_some_and(thawed))
        || world.asked.is_some_and(|(at, _)| recent(at, OVER))
        || has_been_asked(world, vip, since)
        || world
            .plan
            .faults
            .iter()
            .any(|f| recent(f.at, NOTICED) || recent(f.at + f.lasts, OVER) || troubles(world, f, since))
}

/// Was anything wrong shortly before the first move or since, or has an administrator said something since?
fn troubled(world: &World, vip: IpAddr, since: Micros) -> bool {
    let begin = since.saturating_sub(FIT_AGAIN);
    let recent = |at: Micros| begin <= at && at <= world.now;
    world.hosts.iter().any(|h| h.thawed_at.is_some_and(|at| recent(at) || recent(at + world.excused())))
        || has_been_asked(world, vip, since)
        || world.plan.faults.iter().any(|f| match f.kind {
            // An address that is moved by hand is moved once, and nothing of it ends.
            Kind::MoveIp { vip: moved, .. } => decided(vip, Some(moved), since) <= f.at && f.at <= world.now,
            _ => f.at <= world.now && begin <= f.at + f.lasts,
        })
}

/// One that hits again and again as long as it lasts, so that its beginning is not all that there is to notice.
fn troubles(world: &World, fault: &Fault, since: Micros) -> bool {
    let again = matches!(fault.kind, Kind::Storm { .. } | Kind::Slow { .. } | Kind::SlowDisk { .. });
    again && fault.at <= world.now && since <= fault.at + fault.lasts
}
