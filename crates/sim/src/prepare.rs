//! Storage that can be prepared for planned moves: the daemon's part of `Input::MovesWait`, which is prompt, late, refused
//! or never done.

use crate::clock::{MS, S};
use crate::world::World;
use cluster::{Input, Snapshot};

/// After the last planned move the storage is as before.
const HOLD: u64 = 3 * S;

impl World {
    /// A core has published. What storage answers is drawn beside the world's own chance: seeds keep their stories.
    pub(crate) fn prepare_published(&mut self, host: usize, snapshot: &Snapshot) {
        let before = self.hosts[host].snapshot().is_some_and(|s| s.planned_moves);
        if !self.setup.prepares || snapshot.planned_moves == before {
            return;
        }
        if !snapshot.planned_moves {
            return self.answer_after(HOLD, host, Input::MovesWait(true));
        }
        let mut rng = self.rng.fork(self.now);
        let delay = match rng.index(8) {
            0..=3 => rng.range(100..=800) * MS,
            // Refused.
            4 => rng.range(10..=300) * MS,
            5 | 6 => rng.range(1_000..=8_000) * MS,
            _ => return,
        };
        self.answer_after(delay, host, Input::MovesWait(false));
    }
}
