//! A leader lets the databases go on only when nobody outside of its view has the right to serve under an older one.
//!
//! A machine that goes on after a pause is excused for one lease, as with addresses: it is cut off from the storage.

use super::Check;
use crate::world::World;
use cluster::{Epoch, Incarnation, Output, RunId, Time, View};
use std::collections::BTreeMap;

/// A lease as its holder's core has put it out.
#[derive(Debug)]
struct Held {
    run: RunId,
    until: Time,
}

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Harmless {
    leases: BTreeMap<usize, Held>,
    /// The newest view that each node has learned.
    newest: BTreeMap<usize, (Incarnation, Epoch)>,
}

impl Check for Harmless {
    fn name(&self) -> &'static str {
        "databases wait for old leases"
    }

    fn started(&mut self, world: &World, host: usize) -> Result<(), String> {
        self.leases.remove(&host);
        match &world.hosts[host].disk.durable.view {
            Some(view) => self.newest.insert(host, view.rank()),
            None => self.newest.remove(&host),
        };
        Ok(())
    }

    fn minds_leases(&self) -> bool {
        true
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        match output {
            // Every learned view is put on disk at once.
            Output::Persist { state, .. } => {
                if let Some(view) = &state.view {
                    self.newest.insert(host, view.rank());
                }
            }
            Output::RenewLease { until } => {
                if let Some(daemon) = &world.hosts[host].daemon {
                    self.leases.insert(host, Held { run: daemon.run, until: *until });
                }
            }
            Output::LeaseLost => {
                self.leases.remove(&host);
            }
            Output::Publish(snapshot) => {
                if let (true, Some(view)) = (snapshot.harmless, &snapshot.view) {
                    if snapshot.leader != Some(world.hosts[host].pnn()) || !snapshot.lease.valid {
                        return Err(format!("n{host} lets databases go on, and leads nobody or has no lease"));
                    }
                    return self.outside(world, host, view);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Harmless {
    fn outside(&self, world: &World, host: usize, view: &View) -> Result<(), String> {
        let fresh = |h: usize| world.has_just_thawed(h);
        for (other, held) in &self.leases {
            let peer = &world.hosts[*other];
            let runs = peer.runs() && peer.daemon.as_ref().is_some_and(|d| d.run == held.run);
            // Whoever has been let in by a newer view is in nobody's way: this one's databases have ended.
            let older = self.newest.get(other).is_some_and(|known| *known < view.rank());
            let valid = peer.clock.local(world.now) < held.until;
            if runs && older && valid && !view.has_run(peer.pnn(), held.run) && !fresh(*other) && !fresh(host) {
                return Err(format!(
                    "n{host} lets databases go on under epoch {}, and n{other}, which is no member, may still serve",
                    view.epoch
                ));
            }
        }
        Ok(())
    }
}
