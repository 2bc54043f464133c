//! One machine: its clock, disk, kernel state and daemon.
//!
//! The kernel outlives the daemon, the disk outlives the machine's power. What a daemon does with its core's outputs
//! is in `driver`; what befalls machines is in `life`.

use crate::clock::{Clock, Micros};
use crate::rng::Rng;
use crate::setup::interface_of;
use cluster::{
    Cluster, Config, Durable, Epoch, GuardWord, Input, NodeUid, Output, Pnn, Restraint, RunId, Snapshot, Time,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// The disk that holds a node's votes.
#[derive(Debug)]
pub struct Disk {
    /// What a restart would read.
    pub durable: Durable,
    /// Being written now.
    pub writing: Option<(u64, Durable)>,
    /// The newest state that waits for the writer.
    pub queued: Option<(u64, Durable)>,
    /// No space left.
    pub full: bool,
    /// Every write takes this much longer.
    pub slow: Micros,
}

/// What the kernel does for the daemon, and goes on doing when the daemon is gone.
#[derive(Debug, Default)]
pub struct Kernel {
    /// Addresses that are configured and in the set.
    pub addresses: BTreeSet<IpAddr>,
    /// They answer before this, by the machine's clock.
    pub lease_until: Time,
    /// Nodes whose storage traffic is shut out.
    pub evicted: BTreeSet<Pnn>,
    /// Nodes whose storage connections were destroyed since they died.
    pub kicked: BTreeSet<Pnn>,
}

/// What is to be done with an address, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipJob {
    /// Add it.
    Take,
    /// Remove it.
    Release,
}

/// What a core was given and gave within one second of the world.
#[derive(Debug, Default)]
pub struct Busy {
    /// The second.
    pub second: Micros,
    /// Inputs and outputs.
    pub count: u64,
    /// By kind; only kept with the story.
    pub kinds: BTreeMap<&'static str, u64>,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// The core under test.
    pub core: Cluster,
    /// Random number of this start.
    pub run: RunId,
    /// Arrived, not yet handled.
    pub inbox: VecDeque<Input>,
    /// Tickets of the exchanges of records that have not ended, in order.
    pub exchanges: VecDeque<u64>,
    /// Stopped by a signal: handles nothing.
    pub paused: bool,
    /// Is to be paused between its next `handle` and the outputs of it.
    pub stall_next: bool,
    /// Outputs of the `handle` that the pause fell into.
    pub stalled: Vec<Output>,
    /// Every input waits up to this.
    pub slow: Micros,
    /// Is a `Process` event on its way?
    pub processing: bool,
    /// When the next `Tick` is due, if one is scheduled.
    pub wake_at: Option<Micros>,
    /// Newest published state.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Address jobs not yet finished; the first one is under way.
    pub vip_jobs: BTreeMap<IpAddr, VecDeque<VipJob>>,
    /// Are services wanted?
    pub serve: bool,
    /// Grows with every `Serve`; older plans are void.
    pub serve_serial: u64,
    /// What its guard says when it is dead.
    pub word: Option<GuardWord>,
    /// Services that run.
    pub services_up: bool,
    /// Grows with every `Evict`; older plans are void.
    pub evict_serial: u64,
    /// Evictions fail before this.
    pub evict_fails_until: Micros,
    /// Told to end.
    pub stopping: bool,
    /// Inputs and outputs in this second of the world.
    pub busy: Busy,
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// Its number.
    pub index: usize,
    /// Has it power?
    pub power: bool,
    /// Grows with every loss of power.
    pub power_serial: u64,
    /// When power was lost last.
    pub dark_since: Micros,
    /// CLOCK_BOOTTIME.
    pub clock: Clock,
    /// The vote disk.
    pub disk: Disk,
    /// Kernel state.
    pub kernel: Kernel,
    /// Until when the daemon's core has said that the node may serve, by the machine's clock.
    pub core_lease: Time,
    /// The daemon, if one runs.
    pub daemon: Option<Daemon>,
    /// The guard of a dead daemon that has not ended yet, with what it will say.
    pub guard: Option<Option<GuardWord>>,
    /// Grows with every start of a daemon.
    pub generation: u64,
    /// Somebody (a fault, a scenario) keeps the daemon from being started.
    pub kept_down: u32,
    /// What the daemon reads at its start.
    pub config: Config,
    /// Interfaces that are down.
    pub interfaces_down: BTreeMap<String, u32>,
    /// Services that fail.
    pub broken: BTreeMap<String, u32>,
    /// The time of the day here, in minutes after midnight.
    pub minute: u16,
    /// The test of the storage said last that the lock may break no ties.
    pub lock_doubted: bool,
    /// What an administrator has told its daemon of what addresses shall not do.
    pub restraint: Restraint,
    /// When the machine was last resumed from a pause.
    pub thawed_at: Option<Micros>,
    /// Lost nodes for which its NFS server has entered its grace period, or never will, and since when.
    pub nfs_settled: BTreeMap<Pnn, Micros>,
    /// The planned moves of nodes' runs for which its NFS server has entered its grace period, or never will.
    pub nfs_moves: BTreeSet<(Pnn, RunId, u64)>,
    /// When its NFS server last answered a question of the core's, by the world's time and by the machine's clock.
    pub proved: Option<(Micros, Time)>,
    /// Addresses that have left it by plan while its NFS server has yet to let go, or to be ended (true), and since when by
    /// its clock.
    pub letting_go: BTreeMap<IpAddr, (Time, bool)>,
    /// Chance for this machine only.
    pub rng: Rng,
}

impl Host {
    /// This node's number as the core knows it.
    #[must_use]
    pub fn pnn(&self) -> Pnn {
        Pnn(self.index as u16)
    }

    /// Shuts out of the storage whom the view on disk evicts. Its epoch, if there is one.
    pub(crate) fn fence(&mut self) -> Option<Epoch> {
        let me = self.pnn();
        let view = self.disk.durable.view.as_ref()?;
        self.kernel.evicted = view.evicted.keys().filter(|p| **p != me).copied().collect();
        Some(view.epoch)
    }

    /// Identity on the disk.
    #[must_use]
    pub fn uid(&self) -> NodeUid {
        self.disk.durable.uid
    }

    /// Does the machine do anything at all?
    #[must_use]
    pub fn runs(&self) -> bool {
        self.power && !self.clock.is_frozen()
    }

    /// Is a daemon there that handles inputs?
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.runs() && self.daemon.as_ref().is_some_and(|d| !d.paused)
    }

    /// Does the kernel let this address answer now?
    #[must_use]
    pub fn answers(&self, vip: IpAddr, now: Micros) -> bool {
        self.runs()
            && self.kernel.addresses.contains(&vip)
            && self.clock.local(now) < self.kernel.lease_until
            && !self.interface_down(interface_of(vip))
    }

    /// Is this interface down?
    #[must_use]
    pub fn interface_down(&self, name: &str) -> bool {
        self.interfaces_down.get(name).is_some_and(|n| *n > 0)
    }

    /// Does this service fail?
    #[must_use]
    pub fn is_broken(&self, service: &str) -> bool {
        self.broken.get(service).is_some_and(|n| *n > 0)
    }

    /// Newest published state of the running daemon.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.daemon.as_ref().and_then(|d| d.snapshot.as_ref())
    }
}
