//! NFS servers that enter their grace period when they are told: the daemon's part of `Output::Grace`, which is prompt, late,
//! refused or never done.

use crate::clock::MS;
use crate::event::What;
use crate::world::World;
use cluster::{Epoch, Input, Pnn};
use std::collections::BTreeSet;

impl World {
    /// A core wants its NFS server in its grace period. What becomes of that is drawn beside the world's own chance.
    pub(crate) fn grace(&mut self, host: usize, epoch: Epoch, nodes: BTreeSet<Pnn>) {
        self.story.node(self.now, host, || format!("grace for {nodes:?} under epoch {epoch}"));
        let mut rng = self.rng.fork(self.now ^ host as u64);
        let delay = match rng.index(8) {
            0..=4 => rng.range(1..=30) * MS,
            5 | 6 => rng.range(100..=900) * MS,
            _ => return,
        };
        let generation = self.hosts[host].generation;
        let refused = rng.chance(150_000);
        self.after(delay, What::Graced { host, generation, epoch, nodes, refused });
    }

    pub(crate) fn grace_entered(
        &mut self,
        (host, generation): (usize, u64),
        epoch: Epoch,
        nodes: BTreeSet<Pnn>,
        refused: bool,
    ) {
        if !self.is_current(host, generation) {
            return;
        }
        let now = self.now;
        self.hosts[host].nfs_settled.extend(nodes.into_iter().map(|node| (node, now)));
        let because = refused.then(|| "not on the bus".to_owned());
        self.local(host, generation, Input::Graced { epoch, because });
    }
}
