//! The configuration as administrators edit it and have it read again, on one node after another.

use crate::clock::{MS, Micros};
use crate::event::What;
use crate::world::World;
use cluster::Pnn;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Whoever edits the list of nodes is through with all of them after this.
pub(crate) const ONE_AFTER_ANOTHER: Micros = 3_000 * MS;

/// What is not in the configuration now, and how often it was taken out.
#[derive(Clone, Debug, Default)]
pub(crate) struct TakenOut {
    nodes: BTreeMap<usize, u32>,
    vips: BTreeMap<IpAddr, u32>,
}

fn count<K: Ord>(map: &mut BTreeMap<K, u32>, key: K, there: bool) {
    let times = map.entry(key).or_default();
    *times = if there { times.saturating_sub(1) } else { *times + 1 };
}

fn has<K: Ord>(map: &BTreeMap<K, u32>, key: &K) -> bool {
    map.get(key).is_some_and(|times| *times > 0)
}

impl World {
    /// Adds or removes an address in everybody's configuration.
    pub(crate) fn change_vip(&mut self, vip: IpAddr, there: bool) {
        count(&mut self.taken_out.vips, vip, there);
        for host in 0..self.hosts.len() {
            self.reload(host);
        }
    }

    /// Takes a node off the others' list of nodes, or puts it back, on one after another.
    pub(crate) fn change_node(&mut self, node: usize, there: bool) {
        count(&mut self.taken_out.nodes, node, there);
        let mut rng = self.rng.fork(self.now ^ node as u64 ^ 1 << 36);
        for host in 0..self.hosts.len() {
            self.after(rng.below(ONE_AFTER_ANOTHER), What::Reload { host });
        }
    }

    /// A node reads the configuration as it is now. One that is not on the list says that it cannot, and goes on as before.
    pub(crate) fn reload(&mut self, host: usize) {
        let out = &self.taken_out;
        if has(&out.nodes, &host) {
            return;
        }
        let mut config = self.setup.config(host);
        let listed = |pnn: &Pnn| !has(&out.nodes, &usize::from(pnn.0));
        let (nodes, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            config.nodes.into_iter().partition(|(pnn, _)| listed(pnn));
        config.nodes = nodes;
        config.removed = gone.into_iter().map(|(pnn, node)| (pnn, node.addresses)).collect();
        config.vips.retain(|vip, _| !has(&out.vips, vip));
        for vip in config.vips.values_mut() {
            vip.hosts.retain(|pnn, _| listed(pnn));
        }
        config.fingerprint = (config.nodes.len() * 1_000 + config.vips.len()) as u64;
        let lists = config.nodes != self.hosts[host].config.nodes;
        self.reconfigure(host, config);
        if lists {
            self.recheck_links(host);
        }
    }

    /// A datagram of a node that is not on one's list is none: its keys are gone with its connection.
    pub(crate) fn has_keys_for(&self, host: usize, from: Pnn) -> bool {
        self.taken_out.nodes.is_empty() || self.hosts[host].config.nodes.contains_key(&from)
    }

    /// Does either of these not list the other? Then they have no connection.
    pub(crate) fn are_apart(&self, a: usize, b: usize) -> bool {
        let lists = |a: usize, b: usize| self.hosts[a].config.nodes.contains_key(&self.hosts[b].pnn());
        !lists(a, b) || !lists(b, a)
    }
}
