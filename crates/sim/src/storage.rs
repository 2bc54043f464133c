//! What the shared storage does for the nodes: it shuts lost ones out, and keeps the cluster lock and the records beside it
//! ([`crate::lock`]), with the delays and hangs of real parts.

use crate::clock::{MS, Micros, S};
use crate::event::What;
use crate::world::World;
use cluster::{Epoch, Input, LockRecord, Pnn};

/// An exchange is given up after this.
pub(crate) const EXCHANGE_TIMEOUT: Micros = 2 * S;
/// GlusterFS frees a dead client's lock after its ping timeout.
const PING_TIMEOUT: Micros = 42 * S;

impl World {
    /// Destroying a dead node's storage connections frees what it held.
    pub(crate) fn cut_storage(&mut self, host: usize, peer: Pnn) {
        let dead = usize::from(peer.0);
        let gone = self.hosts.get(dead).is_some_and(|h| !h.power) || !self.net.round_trip(host, dead);
        if gone && self.lock.holder == Some(dead) {
            let generation = self.hosts[dead].generation;
            self.after(50 * MS, What::LockFree { host: dead, generation });
        }
    }

    pub(crate) fn evict(&mut self, host: usize, epoch: Epoch, nodes: Vec<Pnn>) {
        self.story.node(self.now, host, || format!("evict {nodes:?} under epoch {epoch}"));
        for pnn in &nodes {
            self.cut_storage(host, *pnn);
        }
        let generation = self.hosts[host].generation;
        let serial = match self.hosts[host].daemon.as_mut() {
            Some(daemon) => {
                daemon.evict_serial += 1;
                daemon.evict_serial
            }
            None => return,
        };
        let delay = self.some(1_000..=30_000);
        self.after(delay, What::Evicted { host, generation, serial, epoch, nodes });
    }

    pub(crate) fn evict_done(&mut self, host: usize, generation: u64, serial: u64, epoch: Epoch, nodes: Vec<Pnn>) {
        let now = self.now;
        if !self.is_current(host, generation) {
            return;
        }
        let Some(daemon) = self.hosts[host].daemon.as_ref() else {
            return;
        };
        if daemon.evict_serial != serial {
            return;
        }
        if now < daemon.evict_fails_until || self.rng.chance(5_000) {
            self.after(200 * MS, What::Evicted { host, generation, serial, epoch, nodes });
            let because = "nf_tables: Resource busy".to_owned();
            self.local(host, generation, Input::EvictFailed { epoch, because });
            return;
        }
        self.hosts[host].kernel.evicted = nodes.into_iter().collect();
        self.local(host, generation, Input::Evicted { epoch });
    }

    pub(crate) fn want_lock(&mut self, host: usize, wanted: bool) {
        let generation = self.hosts[host].generation;
        if wanted {
            self.story.node(self.now, host, || "wants the cluster lock".to_owned());
            self.lock.refused.remove(&host);
            if self.lock.wanted.insert(host) {
                let delay = self.some(5_000..=50_000);
                self.after(delay, What::LockTry { host, generation });
            }
        } else {
            self.story.node(self.now, host, || "gives the cluster lock back".to_owned());
            self.lock.wanted.remove(&host);
            if self.lock.believers.remove(&host) {
                self.lock.free(host);
                let because = "given back".to_owned();
                self.answer_after(5 * MS, host, Input::Lock { held: false, because });
            }
        }
    }

    pub(crate) fn lock_try(&mut self, host: usize, generation: u64) {
        if !self.is_current(host, generation) || !self.lock.wanted.contains(&host) {
            return;
        }
        let again = if self.storage_hangs(host) {
            50 * MS
        } else if self.lock.holder.is_none_or(|h| h == host) {
            self.lock.holder = Some(host);
            self.lock.believers.insert(host);
            self.local(host, generation, Input::Lock { held: true, because: String::new() });
            return;
        } else {
            if self.lock.refused.insert(host) {
                let because = format!("node {:?} holds it", self.lock.holder);
                self.local(host, generation, Input::Lock { held: false, because });
            }
            self.some(200_000..=400_000)
        };
        self.after(again, What::LockTry { host, generation });
    }

    pub(crate) fn lock_free(&mut self, host: usize, generation: u64) {
        let same_life = self.hosts[host].generation == generation && self.hosts[host].daemon.is_some();
        if !same_life || !self.hosts[host].power || self.hosts[host].clock.is_frozen() {
            self.lock.free(host);
        } else if self.lock.holder == Some(host) {
            // Cut off, not dead: the storage forgets its lock and it does not know.
            self.lock.free(host);
        }
    }

    /// What a node held is freed after the storage's own timeout at the latest.
    pub(crate) fn lock_outlives(&mut self, host: usize, power_lost: bool) {
        self.lock.wanted.remove(&host);
        self.lock.believers.remove(&host);
        self.lock.refused.remove(&host);
        let generation = self.hosts[host].generation;
        let delay = if power_lost { PING_TIMEOUT } else { self.some(1_000..=50_000) };
        self.after(delay, What::LockFree { host, generation });
    }

    /// Does lock and record access of this node hang, because the storage is sick or waits for a dead brick?
    pub(crate) fn storage_hangs(&self, host: usize) -> bool {
        if self.lock.hangs(host, self.now) {
            return true;
        }
        let kernel = &self.hosts[host].kernel;
        self.setup.bricks
            && self.hosts.iter().any(|peer| {
                let answers = peer.power && self.net.round_trip(host, peer.index);
                // The storage's own time-out: it goes on without a brick that has been gone for so long.
                let given_up = !peer.power && peer.dark_since + PING_TIMEOUT < self.now;
                peer.index != host
                    && !self.setup.is_witness(peer.index)
                    && !answers
                    && !given_up
                    && !kernel.kicked.contains(&peer.pnn())
                    && !kernel.evicted.contains(&peer.pnn())
            })
    }

    pub(crate) fn exchange_step(
        &mut self,
        host: usize,
        generation: u64,
        ticket: u64,
        record: Option<Box<LockRecord>>,
        deadline: Micros,
    ) {
        if !self.is_current(host, generation) {
            return;
        }
        // The daemon's task for the lock does one at a time.
        if self.hosts[host].daemon.as_ref().is_some_and(|d| d.exchanges.front() != Some(&ticket)) {
            let deadline = self.now + EXCHANGE_TIMEOUT;
            self.after(MS, What::Exchange { host, generation, ticket, record, deadline });
            return;
        }
        if self.storage_hangs(host) && self.now < deadline {
            self.after(20 * MS, What::Exchange { host, generation, ticket, record, deadline });
            return;
        }
        if self.storage_hangs(host) {
            // The helper was killed; its write may have reached the storage or not.
            if let Some(record) = record
                && self.rng.chance(500_000)
            {
                self.lock.records.insert(record.pnn, *record);
            }
            let result = Err("no answer from the storage within 2 s".to_owned());
            self.exchanged(host);
            self.local(host, generation, Input::Records { ticket, result });
            return;
        }
        if let Some(record) = record {
            self.lock.records.insert(record.pnn, *record);
            let delay = self.some(1_000..=12_000);
            self.after(delay, What::Exchange { host, generation, ticket, record: None, deadline });
            return;
        }
        let result = self.lock.read(self.now);
        let delay = self.some(200..=3_000);
        self.exchanged(host);
        self.answer_after(delay, host, Input::Records { ticket, result });
    }

    /// The next one may begin.
    pub(crate) fn exchanged(&mut self, host: usize) {
        if let Some(daemon) = self.hosts[host].daemon.as_mut() {
            daemon.exchanges.pop_front();
        }
    }
}
