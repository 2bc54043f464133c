//! What hangs when an address leaves its node, has not proved before that it does not, or is found to hang a moment later, is
//! ended: what servers have in hand must not be carried out after what the clients have written elsewhere. Nobody else answers for the address before,
//! unless that has been waited for long enough, or somebody else could have the address already when that was found.

use super::Check;
use super::learned::Learned;
use crate::clock::{MS, Micros};
use crate::world::World;
use cluster::{END_WAIT, Health, LEFT_HANGING, LET_GO_WAIT, Output, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// What servers have answered longer ago says nothing: addresses leave within a second, and are gone soon after. By the
/// machine's clock: when that stands still, so do they.
const PROVED: Duration = Duration::from_secs(3);

/// By then a server that was asked when the address had left, has answered or counts as one that hangs.
const ASKED: Micros = 1_500 * MS;

/// Have servers proved that they answer, for an address that left then?
fn proved(world: &World, host: usize, left: Time) -> bool {
    world.hosts[host].proved.is_some_and(|(_, at)| at + PROVED >= left)
}

/// What the core of a node was told and has asked for.
#[derive(Debug, Default)]
struct Node {
    /// Services that count as failed and by which an NFS server hangs.
    failed: BTreeSet<String>,
    /// Which of its servers run.
    running: BTreeSet<String>,
    /// Addresses that have left without a proof: when, and since when the core could have asked for one.
    unproven: BTreeMap<IpAddr, (Time, Micros)>,
    /// When addresses have left it while nothing hung.
    left: BTreeMap<IpAddr, Time>,
    /// Addresses for whose sake the server has to be ended now.
    owed: BTreeSet<IpAddr>,
    /// Addresses that wait for it.
    ending: BTreeSet<IpAddr>,
}

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    learned: Learned,
    nodes: BTreeMap<usize, Node>,
}

impl Unfinished {
    fn node(&mut self, host: usize) -> &mut Node {
        self.nodes.entry(host).or_default()
    }
}

impl Check for Unfinished {
    fn name(&self) -> &'static str {
        "nothing hangs in a server that was left"
    }

    fn started(&mut self, _world: &World, host: usize) -> Result<(), String> {
        self.learned.started(host);
        self.nodes.remove(&host);
        Ok(())
    }

    fn service(&mut self, world: &World, host: usize, name: &str, state: Health) -> Result<(), String> {
        let node = self.node(host);
        if matches!(name, "nfs" | "samba") {
            if state == Health::Off {
                node.running.remove(name);
                // Nobody is left who could have anything in hand.
                if node.running.is_empty() {
                    node.unproven.clear();
                    node.left.clear();
                    node.owed.clear();
                }
            } else {
                node.running.insert(name.to_owned());
            }
        }
        if !matches!(name, "nfs" | "storage") {
            return Ok(());
        }
        let hung = !node.failed.is_empty();
        if state == Health::Failed {
            node.failed.insert(name.to_owned());
        } else {
            node.failed.remove(name);
        }
        if !hung && !node.failed.is_empty() {
            let now = world.hosts[host].clock.local(world.now);
            node.left.retain(|_, at| now.since(*at) < LEFT_HANGING);
            node.owed.extend(node.left.keys());
        }
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        self.learned.output(host, output);
        match output {
            // It is here again, and its clients with it.
            Output::Take { vip, .. } => {
                let node = self.node(host);
                node.left.remove(vip);
                node.owed.remove(vip);
                node.ending.remove(vip);
                node.unproven.remove(vip);
            }
            Output::LetGo { vip, end: true } => {
                let machine = &world.hosts[host];
                let now = machine.clock.local(world.now);
                // It has left, and nobody else may have it before the server has let go: nor before its end then.
                let waited =
                    machine.letting_go.get(vip).is_some_and(|(since, end)| !end && now.since(*since) < LET_GO_WAIT);
                let locks = waited && world.setup.nfs_locks.contains(&host);
                let node = self.node(host);
                node.owed.remove(vip);
                node.unproven.remove(vip);
                if node.left.remove(vip).is_none() || locks {
                    node.ending.insert(*vip);
                }
            }
            Output::LetGo { vip, end: false } => {
                let now = world.hosts[host].clock.local(world.now);
                let node = self.node(host);
                node.left.insert(*vip, now);
                if !node.failed.is_empty() {
                    node.owed.insert(*vip);
                }
                if !node.running.is_empty() && !proved(world, host, now) {
                    node.unproven.insert(*vip, (now, world.now));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        // Nothing comes of it: it is shut out of the storage.
        if world.has_just_thawed(host) {
            return Ok(());
        }
        for (index, node) in self.nodes.iter_mut().filter(|(i, node)| **i != host && node.ending.contains(&vip)) {
            let other = &world.hosts[*index];
            let now = other.clock.local(world.now);
            // What one without a lease has in hand is another matter (`held`). One that was paused and dropped believes in its
            // lease, but is shut out of the storage.
            let leased =
                other.is_live() && now < other.core_lease && !self.learned.shut_out(world, host, vip, other.pnn());
            let waits = other.letting_go.get(&vip).is_some_and(|(since, end)| *end && now.since(*since) < END_WAIT);
            if leased && waits {
                return Err(format!("n{host} answers for {vip}, and n{index}'s NFS server hangs and has not ended"));
            }
            node.ending.remove(&vip);
        }
        Ok(())
    }

    fn pulse(&mut self, world: &World) -> Result<(), String> {
        for (host, node) in &mut self.nodes {
            let machine = &world.hosts[*host];
            let busy = !machine.is_live() || machine.daemon.as_ref().is_none_or(|d| d.paused || d.slow > 0);
            node.unproven.retain(|_, (left, _)| !proved(world, *host, *left));
            if busy || node.running.is_empty() {
                node.unproven.values_mut().for_each(|(_, since)| *since = world.now);
            }
            if let Some((vip, _)) =
                node.unproven.iter().find(|(_, (_, since))| world.now.saturating_sub(*since) > ASKED)
            {
                return Err(format!(
                    "{vip} has left n{host}, whose servers have not proved that they answer: what hangs is not ended"
                ));
            }
        }
        match self.nodes.iter().find_map(|(host, node)| node.owed.first().map(|vip| (host, vip))) {
            Some((host, vip)) => Err(format!("{vip} has left n{host}, and its NFS server hangs and is not ended")),
            None => Ok(()),
        }
    }
}
