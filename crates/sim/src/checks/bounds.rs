//! Nothing grows without bound, and no core talks without end.

use super::Check;
use crate::clock::{MS, S};
use crate::setup::Setup;
use crate::world::World;

/// The checker.
#[derive(Debug)]
pub(crate) struct Bounds {
    outputs_per_second: u64,
    queue: usize,
}

impl Bounds {
    pub(crate) fn new(setup: &Setup) -> Self {
        let peers = setup.nodes as u64;
        let beats = S / (setup.timing.heartbeat.as_micros() as u64).max(MS);
        // Heartbeats and grants both ways over all networks with their inputs, and as much again for all else.
        let steady = peers * beats * (2 + 4 * setup.nets as u64);
        // A change of the view costs its proposer and leader some messages for each member, and while a cluster forms
        // every node brings about a few changes.
        let changes = 8 * peers * peers;
        Self { outputs_per_second: 3 * steady + changes + 600 + 40 * setup.vips.len() as u64, queue: 2_000 }
    }
}

impl Check for Bounds {
    fn name(&self) -> &'static str {
        "bounds"
    }

    fn pulse(&mut self, world: &World) -> Result<(), String> {
        let longest = world.net.longest_queue();
        if longest > self.queue {
            return Err(format!("{longest} messages wait on one link"));
        }
        for host in &world.hosts {
            if let Some(daemon) = &host.daemon
                && daemon.busy.count > self.outputs_per_second + daemon.inbox.len() as u64 * 4
                && host.thawed_at.is_none_or(|at| world.now > at + 2 * S)
            {
                return Err(format!(
                    "n{} had {} inputs and outputs within one second, more than {} {:?}",
                    host.index, daemon.busy.count, self.outputs_per_second, daemon.busy.kinds
                ));
            }
        }
        Ok(())
    }
}
