//! An address that has gone to another node does not come back at once: clients would pay for two moves.
//!
//! What begins or ends between the two moves excuses the second one, as does an administrator's word. What ended before the
//! first move does not: a cluster that comes together again must know where it puts an address.

use super::Check;
use crate::clock::{MS, Micros};
use crate::faults::{Fault, Kind};
use crate::world::World;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Who comes back within this was sent away for nothing.
const WINDOW: Micros = 1_900 * MS;
/// A fault that begins so shortly before the first move may be noticed after it: by silence, then by a missing link.
const NOTICED: Micros = 2_000 * MS;
/// One that ends.
const OVER: Micros = 100 * MS;
/// An address that nobody has had for so long comes from nowhere. A takeover takes less.
const NOWHERE: Micros = 1_000 * MS;

/// A change of who answers.
#[derive(Clone, Copy, Debug)]
struct Move {
    at: Micros,
    from: usize,
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
        let Some(before) = self.moves.insert(vip, Move { at: world.now, from }) else { return Ok(()) };
        if before.from != host || before.at + WINDOW < world.now || disturbed(world, before.at) {
            return Ok(());
        }
        Err(format!("{vip} goes back from n{from} to n{host} after {} ms", (world.now - before.at) / MS))
    }
}

/// Has a fault begun or ended since then, or has an administrator said something?
fn disturbed(world: &World, since: Micros) -> bool {
    let recent = |at: Micros, before: Micros| since.saturating_sub(before) <= at && at <= world.now;
    let thawed = |at: Micros| recent(at, OVER) || recent(at + world.excused(), OVER);
    world.hosts.iter().any(|h| h.thawed_at.is_some_and(thawed))
        || world.asked.is_some_and(|at| recent(at, OVER))
        || world
            .plan
            .faults
            .iter()
            .any(|f| recent(f.at, NOTICED) || recent(f.at + f.lasts, OVER) || troubles(world, f, since))
}

/// One that hits again and again as long as it lasts, so that its beginning is not all that there is to notice.
fn troubles(world: &World, fault: &Fault, since: Micros) -> bool {
    let again = matches!(fault.kind, Kind::Storm { .. } | Kind::Slow { .. } | Kind::SlowDisk { .. });
    again && fault.at <= world.now && since <= fault.at + fault.lasts
}
