//! An address leaves a host that is fit only for an even spread: from a node that has at least two more to one of fewer.
//!
//! Looked at only while nothing is or was wrong with the two for a while, and nobody asked for a move.

use super::Check;
use super::rest::is_fit;
use crate::clock::S;
use crate::faults::Kind;
use crate::setup::interface_of;
use crate::world::World;
use cluster::{AdminState, Epoch, Output};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What is longer ago excuses nothing.
const MEMORY: u64 = 15 * S;

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Who answered last, and which time of that machine since it was switched on: a power cut takes all that it had.
    last: BTreeMap<IpAddr, (usize, u64)>,
    /// When a node last dropped all that it had, for its lease was over.
    dropped: BTreeMap<usize, u64>,
    /// In which view an address was last released. The node for which that was may have died since.
    released: BTreeMap<IpAddr, Epoch>,
}

impl Check for Moves {
    fn name(&self) -> &'static str {
        "no move for nothing"
    }

    fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        self.last.insert(vip, (host, world.hosts[host].power_serial));
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        let vip = match output {
            Output::LeaseLost => {
                self.dropped.insert(host, world.now);
                return Ok(());
            }
            Output::Release { vip, .. } => {
                if let Some(view) = world.newest_view() {
                    self.released.insert(*vip, view.epoch);
                    // Somebody else may have answered since, for a moment: a machine that went on after a pause.
                    if world.hosts[host].answers(*vip, world.now) {
                        self.last.insert(*vip, (host, world.hosts[host].power_serial));
                    }
                }
                return Ok(());
            }
            Output::Take { vip, .. } => vip,
            _ => return Ok(()),
        };
        let still = |(from, since): &(usize, u64)| *from != host && world.hosts[*from].power_serial == *since;
        let Some((from, _)) = self.last.get(vip).copied().filter(still) else { return Ok(()) };
        let Some(view) = world.newest_view() else { return Ok(()) };
        let at_work = |node: usize| world.hosts[node].disk.durable.admin == AdminState::Active;
        let kept = self.dropped.get(&from).is_none_or(|at| at + MEMORY < world.now);
        let unasked = world.asked.is_none_or(|(at, _)| at + MEMORY < world.now);
        let same_view = self.released.get(vip).is_none_or(|epoch| *epoch == view.epoch);
        let judged = kept
            && unasked
            && same_view
            && world.setup.barred.is_empty()
            && calm(world, from, host)
            && at_work(from)
            && at_work(host);
        if !judged || !is_fit(world, view, from, *vip) {
            return Ok(());
        }
        let beside = |node: usize| {
            let same = |v: &&(IpAddr, u8)| v.0 != *vip && interface_of(v.0) == interface_of(*vip);
            world.setup.vips.iter().filter(same).filter(|v| world.hosts[node].answers(v.0, world.now)).count()
        };
        let (left, there) = (beside(from), beside(host));
        if left <= there {
            return Err(format!(
                "{vip} goes from n{from}, which is fit and has {left} others, to n{host}, which has {there}"
            ));
        }
        Ok(())
    }
}

/// Nothing else is or was wrong lately but that other nodes lost power.
fn calm(world: &World, from: usize, to: usize) -> bool {
    let recent = world.plan.faults.iter().filter(|f| f.at <= world.now && world.now < f.at + f.lasts + MEMORY);
    let mut elsewhere = recent.map(|f| match f.kind {
        Kind::PowerOff { node } | Kind::PowerOffForGood { node } => node != from && node != to,
        _ => false,
    });
    elsewhere.all(|yes| yes)
}
