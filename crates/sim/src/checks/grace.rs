//! A lost node's locks are freed only when every NFS server that could give them to others is in its grace period, or
//! will never be; or when that has been waited for long enough.

use super::Check;
use super::learned::{Learned, may_serve};
use crate::clock::{Micros, S};
use crate::world::World;
use cluster::{Epoch, GRACE_WAIT, Output, Pnn, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// A core that has waited for this long, by its own clock, need not wait any longer.
const ENOUGH: Duration = GRACE_WAIT;

/// A grace period; what was lost before is another loss.
const PERIOD: Micros = 10 * S;

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Grace {
    learned: Learned,
    /// Since when each node waits to evict, by its own clock, and for which lost nodes, by the view that dropped each.
    waits: BTreeMap<usize, (Time, BTreeMap<Pnn, Epoch>)>,
}

impl Check for Grace {
    fn name(&self) -> &'static str {
        "grace before eviction"
    }

    fn started(&mut self, _world: &World, host: usize) -> Result<(), String> {
        self.learned.started(host);
        self.waits.remove(&host);
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        self.learned.output(host, output);
        let now = || world.hosts[host].clock.local(world.now);
        match output {
            Output::Grace { epoch, nodes, .. } => {
                let (_, lost) = self.waits.entry(host).or_insert_with(|| (now(), BTreeMap::new()));
                for node in nodes {
                    lost.entry(*node).or_insert(*epoch);
                }
            }
            Output::Evict { nodes, .. } => {
                let Some((since, lost)) = self.waits.remove(&host) else { return Ok(()) };
                // Who is shut out already has no locks any more.
                let before = &world.hosts[host].kernel.evicted;
                let evicted = lost.into_iter().filter(|(p, _)| nodes.contains_key(p) && !before.contains(p)).collect();
                let waited = now().since(since);
                if waited < ENOUGH {
                    let begun = world.now.saturating_sub(waited.as_micros() as Micros);
                    return self.all_settled(world, host, &evicted, begun);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Grace {
    /// `begun`: when this node heard of the loss.
    fn all_settled(
        &self,
        world: &World,
        host: usize,
        lost: &BTreeMap<Pnn, Epoch>,
        begun: Micros,
    ) -> Result<(), String> {
        let Some(view) = self.learned.view(host) else { return Ok(()) };
        // One who was dropped itself, and hears of all of it late, frees what nobody has any more.
        if !view.members.contains_key(&world.hosts[host].pnn()) {
            return Ok(());
        }
        for (pnn, member) in &view.members {
            let Some(other) = world.hosts.get(usize::from(pnn.0)) else { continue };
            // Who has joined with the loss or since gets no address before this node has evicted, so it serves nobody yet.
            let served = |dropped: Epoch| may_serve(world, (pnn, member)) && member.since < dropped;
            // Who hears of the loss after the others' period, cut off from them for so long, finds it over (docs/nfs.md).
            let settled =
                |p: &Pnn| other.nfs_settled.get(p).is_some_and(|at| world.now < *at + PERIOD || begun >= *at + PERIOD);
            if let Some((missed, _)) = lost.iter().find(|(p, dropped)| served(**dropped) && !settled(p)) {
                return Err(format!(
                    "n{host} frees the locks of n{missed}, and the NFS server of n{pnn} is not in its grace period"
                ));
            }
        }
        Ok(())
    }
}
