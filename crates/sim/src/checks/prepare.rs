//! Only addresses that are served wait for the storage to be prepared, and not for long.

use super::Check;
use crate::setup::interface_of;
use crate::world::World;
use cluster::{Epoch, Health, Output, Pnn, ServiceHealth, Snapshot, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How the core says that an address waits so.
const WAITS: &str = "when the storage is prepared for it";
/// How it says that nobody is in need of the move.
const SPREADS: &str = " for an even spread when the storage is prepared for it";
/// No address waits longer; a core wakes in time.
const LIMIT: Duration = Duration::from_secs(5);
/// The same of one that moves for an even spread.
const SPREAD_LIMIT: Duration = Duration::from_secs(30);

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Prepare {
    /// Since when addresses wait, by leader; by the leader's clock. Every view begins anew.
    since: BTreeMap<usize, (Epoch, BTreeMap<IpAddr, Time>)>,
}

impl Check for Prepare {
    fn name(&self) -> &'static str {
        "waits for the storage"
    }

    fn started(&mut self, _world: &World, host: usize) -> Result<(), String> {
        self.since.remove(&host);
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        match output {
            Output::Publish(snapshot) if world.setup.prepares => self.look(host, snapshot),
            _ => Ok(()),
        }
    }
}

impl Prepare {
    fn look(&mut self, host: usize, snapshot: &Snapshot) -> Result<(), String> {
        let leads = snapshot.leader == Some(Pnn(host as u16)) && snapshot.lease.valid;
        if snapshot.planned_moves && !leads {
            return Err(format!("n{host} prepares the storage, and leads nobody or has no lease"));
        }
        let epoch = snapshot.view.as_ref().map_or(Epoch(0), |v| v.epoch);
        let before = self.since.remove(&host).filter(|(e, _)| *e == epoch).map(|(_, since)| since).unwrap_or_default();
        let mut now = BTreeMap::new();
        // A leader that has yet to decide repeats what the one before said.
        let decides = leads && snapshot.planned_moves;
        for (vip, status) in snapshot.vips.iter().filter(|(_, s)| decides && s.because.ends_with(WAITS)) {
            let since = before.get(vip).copied().unwrap_or(snapshot.at);
            // A run that has just ended is believed in until the next view.
            let mut members = snapshot.view.iter().flat_map(|v| v.members.keys());
            if members.any(|p| snapshot.nodes.get(p).is_none_or(|n| !n.member)) {
                continue;
            }
            let Some(holder) = status.holder.and_then(|h| snapshot.nodes.get(&h)) else {
                return Err(format!("{vip} waits for the storage, and nobody serves it"));
            };
            let works = |h: &ServiceHealth| matches!(h.state, Health::Ok | Health::Failing);
            if holder.links_down.contains(interface_of(*vip)) || !holder.services.values().all(works) {
                return Err(format!("{vip} waits for the storage, and is not served well by {}", holder.name));
            }
            let limit = if status.because.ends_with(SPREADS) { SPREAD_LIMIT } else { LIMIT };
            if snapshot.at.since(since) > limit {
                return Err(format!("{vip} has waited for the storage for {:?}", snapshot.at.since(since)));
            }
            now.insert(*vip, since);
        }
        self.since.insert(host, (epoch, now));
        Ok(())
    }
}
