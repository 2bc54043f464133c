//! The worker's half that keeps evicted nodes from the storage.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::command::Event;
use crate::connections::Connections;
use crate::error::Result;
use crate::fence::{Fence, StoragePorts};

pub(super) struct Storage {
    fence: Fence,
    connections: Connections,
    ports: StoragePorts,
    /// Who is shut out, since somebody said so; none until then.
    evicted: Option<Vec<IpAddr>>,
    /// Nobody is shut out, as a test wants it.
    idle: bool,
    /// What others hold of this node's storage stays held, as a test wants it.
    keeps: bool,
}

impl Storage {
    pub(super) fn new(evict: bool, free: bool) -> Result<Self> {
        Ok(Self {
            fence: Fence::open()?,
            connections: Connections::open()?,
            ports: StoragePorts::default(),
            evicted: None,
            idle: !evict,
            keeps: !free,
        })
    }

    pub(super) fn configure(&mut self, storage: Vec<RangeInclusive<u16>>, spared: Vec<u16>, events: &dyn Fn(Event)) {
        let ports = StoragePorts { storage, spared };
        if ports == self.ports {
            return;
        }
        self.ports = ports;
        // A fence that an earlier daemon left stays until the first list of evicted nodes comes.
        if let Some(evicted) = &self.evicted
            && let Err(e) = self.fence.set_evicted(evicted, &self.ports)
        {
            events(Event::ConfigureFailed { why: format!("the fence keeps its old storage ports: {e}") });
        }
    }

    /// Cuts first, so that nothing reconnects, then destroys what hangs. Who is let in again is connected to at once.
    pub(super) fn set_evicted(&mut self, epoch: u64, addresses: Vec<IpAddr>, events: &dyn Fn(Event)) {
        if self.idle {
            return events(Event::Evicted { epoch, sockets_destroyed: 0 });
        }
        let cut = self.fence.set_evicted(&addresses, &self.ports);
        let destroyed = if addresses.is_empty() { Ok(0) } else { self.connections.kick(&addresses, &self.ports) };
        let before = self.evicted.replace(addresses).unwrap_or_default();
        if cut.is_ok() {
            self.try_anew(before);
        }
        events(match (cut, destroyed) {
            (Ok(()), Ok(sockets_destroyed)) => Event::Evicted { epoch, sockets_destroyed },
            (Err(e), Ok(n)) => Event::EvictFailed {
                epoch,
                why: format!("{n} storage connections destroyed, but new ones are not prevented: {e}"),
            },
            (Ok(()), Err(e)) => {
                Event::EvictFailed { epoch, why: format!("storage traffic is cut, but its connections hang: {e}") }
            }
            (Err(cut), Err(kick)) => Event::EvictFailed { epoch, why: format!("{cut}; {kick}") },
        });
    }

    /// It would happen anyway, later: what fails is only logged.
    fn try_anew(&mut self, before: Vec<IpAddr>) {
        let shut = self.evicted.as_deref().unwrap_or_default();
        let back: Vec<IpAddr> = before.into_iter().filter(|addr| !shut.contains(addr)).collect();
        if back.is_empty() {
            return;
        }
        match self.connections.try_anew(&back, &self.ports) {
            Ok(0) => {}
            Ok(n) => tracing::info!("{n} attempts to connect to the storage of a returned node are made anew"),
            Err(error) => tracing::warn!(%error, "the storage may connect to a returned node a minute late"),
        }
    }

    pub(super) fn kick(&mut self, addresses: &[IpAddr], events: &dyn Fn(Event)) {
        events(match self.connections.kick(addresses, &self.ports) {
            Ok(sockets_destroyed) => Event::Kicked { sockets_destroyed },
            Err(e) => Event::KickFailed { why: e.to_string() },
        });
    }

    pub(super) fn free(&mut self, addresses: &[IpAddr], events: &dyn Fn(Event)) {
        if self.keeps {
            return;
        }
        events(match self.connections.free(addresses, &self.ports) {
            Ok(sockets_destroyed) => Event::StorageFreed { sockets_destroyed },
            Err(e) => Event::FreeStorageFailed { why: e.to_string() },
        });
    }

    /// The fence outlives this worker while it shuts anybody out; around nobody it is only left over.
    pub(super) fn shutdown(&mut self) {
        if self.evicted.as_ref().is_some_and(Vec::is_empty)
            && let Err(error) = self.fence.remove()
        {
            tracing::warn!(%error, "a fence around nobody is left behind");
        }
    }

    /// Puts the fence up again if somebody removed it (`nft flush ruleset` does).
    pub(super) fn recheck(&mut self) {
        if let Some(evicted) = &self.evicted
            && let Err(error) = self.fence.set_evicted(evicted, &self.ports)
        {
            tracing::error!(%error, "the fence around evicted nodes cannot be checked");
        }
    }
}
