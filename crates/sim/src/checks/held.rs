//! What a node's storage clients had in hand when its lease ended is held, and carried out some time after it has a lease
//! again: nobody else answers before that for the address by which it came. Unless servers and storage have proved
//! themselves since, or what hangs there was ended (or waited for long enough), or all members of the view under which it
//! was taken have shut the node out of the storage. The same of what they have in hand when services are to stop and
//! addresses leave unproved in the same moment: it is carried out as long as they run, and until they prove themselves.

use super::Check;
use super::learned::Learned;
use crate::clock::{Micros, S};
use crate::world::World;
use cluster::{END_WAIT, Health, Output};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// What servers have answered longer ago says nothing.
const PROVED: Duration = Duration::from_secs(3);

/// So long after the lease is back TCP sends at the latest what was held for a while.
const LANDS: Micros = 7 * S;

/// A node whose lease has ended.
#[derive(Debug, Default)]
struct Node {
    started: Micros,
    /// Which of its servers run.
    running: BTreeSet<String>,
    /// Addresses that its daemon has ordered, and not to be released.
    here: BTreeSet<IpAddr>,
    /// The last addresses that were to be released, and when.
    released: (Micros, BTreeSet<IpAddr>),
    /// Addresses by which clients had given something that was held.
    held: BTreeSet<IpAddr>,
    /// Addresses that a daemon which stops its services has let go of unproved.
    let_go: BTreeSet<IpAddr>,
    /// Those of them for whose sake what hangs is being ended.
    ending: BTreeSet<IpAddr>,
    /// When it last did so.
    stopped: Micros,
    /// Since when it has a lease again.
    leased: Option<Micros>,
    /// Its machine has lost power so often: nothing of what is above outlives that.
    power: u64,
}

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Held {
    learned: Learned,
    nodes: BTreeMap<usize, Node>,
}

impl Held {
    fn node(&mut self, host: usize) -> &mut Node {
        self.nodes.entry(host).or_default()
    }
}

impl Check for Held {
    fn name(&self) -> &'static str {
        "nothing held lands late"
    }

    fn started(&mut self, world: &World, host: usize) -> Result<(), String> {
        self.learned.started(host);
        // What servers had in hand under the last daemon is held on: its addresses go when a view has shut the node out.
        let node = self.node(host);
        node.forget_what_landed(world, host);
        node.daemon_ended();
        node.started = world.now;
        node.leased = None;
        Ok(())
    }

    /// No client has come to know it here.
    fn take_failed(&mut self, _world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        self.node(host).here.remove(&vip);
        Ok(())
    }

    fn service(&mut self, world: &World, host: usize, name: &str, state: Health) -> Result<(), String> {
        let node = self.node(host);
        if !matches!(name, "nfs" | "samba") {
            return Ok(());
        }
        if state != Health::Off {
            node.running.insert(name.to_owned());
        } else if world.now != node.started {
            // What a daemon says as it starts is not yet so.
            node.running.remove(name);
            if node.running.is_empty() {
                node.held.clear();
                node.let_go.clear();
            }
        }
        Ok(())
    }

    fn minds_leases(&self) -> bool {
        true
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        self.learned.output(host, output);
        match output {
            Output::LeaseLost => {
                let node = self.node(host);
                node.forget_what_landed(world, host);
                node.hold();
            }
            Output::RenewLease { .. } => {
                self.node(host).leased.get_or_insert(world.now);
            }
            Output::LetGo { vip, end: true } => {
                self.node(host).ending.insert(*vip);
            }
            // Its clients are here again, and give it more.
            Output::Take { vip, .. } => {
                let node = self.node(host);
                node.forget_what_landed(world, host);
                node.here.insert(*vip);
                node.ending.remove(vip);
                node.let_go.remove(vip);
            }
            Output::Release { vip, .. } => {
                let node = self.node(host);
                node.here.remove(vip);
                if node.released.0 != world.now {
                    node.released = (world.now, BTreeSet::new());
                }
                node.released.1.insert(*vip);
            }
            Output::Serve(false) => {
                let node = self.node(host);
                let now = world.hosts[host].clock.local(world.now);
                let proved = world.hosts[host].proved.is_some_and(|(_, at)| at + PROVED >= now);
                if node.released.0 == world.now && !proved && !node.running.is_empty() {
                    node.let_go.extend(&node.released.1);
                    node.stopped = world.now;
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
        for (index, node) in self.nodes.iter_mut().filter(|(index, _)| **index != host) {
            let other = &world.hosts[*index];
            node.forget_what_landed(world, *index);
            if other.daemon.is_none() {
                node.daemon_ended();
            }
            let now = other.clock.local(world.now);
            let waits = other.letting_go.get(&vip).is_some_and(|(since, end)| *end && now.since(*since) < END_WAIT);
            let ended = node.ending.contains(&vip) && !waits;
            if ended || self.learned.shut_out(world, host, vip, other.pnn()) {
                node.held.remove(&vip);
                node.let_go.remove(&vip);
            }
            if node.let_go.contains(&vip) {
                return Err(format!(
                    "n{host} answers for {vip}, and n{index}, whose services are being stopped, may yet carry out what was in hand"
                ));
            }
            if node.held.contains(&vip) {
                return Err(format!(
                    "n{host} answers for {vip}, and n{index} may yet carry out what was held when it lost its lease"
                ));
            }
        }
        Ok(())
    }
}

impl Node {
    /// What servers have in hand now waits.
    fn hold(&mut self) {
        self.leased = None;
        if !self.running.is_empty() {
            self.held.extend(&self.here);
        }
    }

    /// Its daemon renews nothing any more. What it had not released goes by the end of the lease, or by its guard.
    fn daemon_ended(&mut self) {
        if !self.here.is_empty() {
            self.hold();
            self.here.clear();
        }
    }

    /// Everything has been carried out, or never will be.
    fn forget_what_landed(&mut self, world: &World, host: usize) {
        let machine = &world.hosts[host];
        if self.power != machine.power_serial {
            let started = self.started;
            *self = Self { started, power: machine.power_serial, ..Self::default() };
            return;
        }
        let landed = self
            .leased
            .is_some_and(|leased| machine.proved.is_some_and(|(at, _)| at >= leased) || world.now > leased + LANDS);
        if landed {
            self.held.clear();
            self.ending.clear();
        }
        // Where an administrator stops the services of a node just as its lease is lost, its daemon goes on and lets what was
        // lost leave by plan under the next lease.
        if machine.proved.is_some_and(|(at, _)| at > self.stopped) {
            self.let_go.clear();
        }
    }
}
