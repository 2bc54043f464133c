//! No member connects to a returned node's storage that still keeps what its clients had there when it was shut out.
//!
//! Who evicts a node destroys its connections behind a fence: the node's storage servers are not told, and keep the locks of
//! the dead connections. Only the node itself can end those, as it does when it evicts the others in turn, and a power cut.
//! One that is let in within a second of that may not have heard in time that it is to do so: its clients then wait, as they
//! would for any lost connection.

use super::Check;
use crate::clock::{Micros, S};
use crate::world::World;
use cluster::{Output, Pnn};
use std::collections::{BTreeMap, BTreeSet};

/// What the storage servers of one machine keep, since its power came last.
#[derive(Debug, Default)]
struct Kept {
    power_serial: u64,
    /// Of whom, since when, and in which life of theirs.
    of: BTreeMap<usize, (Micros, u64)>,
}

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    /// Who is a member of the newest view that it has learned: nobody else has services, whose clients could hold anything.
    members: BTreeSet<usize>,
    /// Whom each node shuts out.
    shut: BTreeMap<usize, BTreeSet<Pnn>>,
    kept: BTreeMap<usize, Kept>,
    /// Whom each node lets in as it is no member itself: its clients connect when it is one again.
    later: BTreeMap<usize, BTreeSet<usize>>,
}

impl Check for Freed {
    fn name(&self) -> &'static str {
        "returned storage is free"
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        match output {
            Output::Evict { nodes, .. } => {
                let now: BTreeSet<Pnn> = nodes.keys().copied().collect();
                let before = self.shut.insert(host, now.clone()).unwrap_or_default();
                for pnn in now.difference(&before) {
                    let lost = usize::from(pnn.0);
                    if let Some(kept) = self.kept.get_mut(&host) {
                        kept.of.remove(&lost);
                    }
                    self.destroyed(world, host, lost);
                }
                before.difference(&now).try_for_each(|pnn| self.let_in(world, host, usize::from(pnn.0)))?;
                if !self.members.contains(&host) {
                    return Ok(());
                }
                let later = self.later.remove(&host).unwrap_or_default();
                let mut connects = later.into_iter().filter(|back| !now.contains(&world.hosts[*back].pnn()));
                connects.try_for_each(|back| self.connects(world, host, back))
            }
            // Every learned view is put on disk at once, and acted on after that.
            Output::Persist { state, .. } => {
                let me = world.hosts[host].pnn();
                if state.view.as_ref().is_some_and(|view| view.members.contains_key(&me)) {
                    self.members.insert(host);
                } else {
                    self.members.remove(&host);
                }
                Ok(())
            }
            Output::FreeStorage { nodes } => {
                if let Some(kept) = self.kept.get_mut(&host) {
                    kept.of.retain(|other, _| !nodes.contains_key(&world.hosts[*other].pnn()));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Freed {
    fn destroyed(&mut self, world: &World, host: usize, lost: usize) {
        let ended = self.shut.get(&lost).is_some_and(|shut| shut.contains(&world.hosts[host].pnn()));
        let Some(peer) = world.hosts.get(lost).filter(|peer| peer.power && !ended) else { return };
        if !self.members.contains(&host) {
            return;
        }
        let kept = self.kept.entry(lost).or_default();
        if kept.power_serial != peer.power_serial {
            *kept = Kept { power_serial: peer.power_serial, of: BTreeMap::new() };
        }
        kept.of.insert(host, (world.now, world.hosts[host].power_serial));
    }

    fn let_in(&mut self, world: &World, host: usize, back: usize) -> Result<(), String> {
        let carried_out = world.hosts[host].kernel.evicted.contains(&world.hosts[back].pnn());
        if !carried_out {
            return Ok(());
        }
        if !self.members.contains(&host) {
            self.later.entry(host).or_default().insert(back);
            return Ok(());
        }
        self.connects(world, host, back)
    }

    /// The clients of a member connect to this node's storage again.
    fn connects(&self, world: &World, host: usize, back: usize) -> Result<(), String> {
        let same_life = |kept: &&Kept| world.hosts.get(back).is_some_and(|b| b.power_serial == kept.power_serial);
        match self.kept.get(&back).filter(same_life).and_then(|kept| kept.of.get(&host)) {
            // Did the node have the time to hear of it, and do the others' connections of then still matter?
            Some((since, life)) if world.hosts[host].power_serial == *life && world.now.saturating_sub(*since) >= S => {
                Err(format!("n{host} lets n{back} in again, whose storage still keeps what n{host} had there before"))
            }
            _ => Ok(()),
        }
    }
}
