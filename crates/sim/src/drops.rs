//! How often views have dropped each node: who was dropped lately is let in later, each time twice as late.

use crate::clock::{Micros, S};
use cluster::{Timing, View};
use std::sync::Arc;

/// A node that was not dropped for so long counts as one that never was.
const MEMORY: Micros = 600 * S;

/// Of one run of the simulator.
#[derive(Debug)]
pub(crate) struct Drops {
    /// How often, and when last.
    nodes: Vec<(u32, Micros)>,
    /// The newest view that any daemon has published.
    newest: Option<Arc<View>>,
}

impl Drops {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes: vec![(0, 0); nodes], newest: None }
    }

    /// A daemon publishes this view: whom does it drop, if it is a new one?
    pub(crate) fn published(&mut self, view: &Arc<View>, now: Micros) {
        if self.newest.as_ref().is_some_and(|newest| newest.rank() >= view.rank()) {
            return;
        }
        let before = self.newest.replace(view.clone());
        for (pnn, member) in before.iter().flat_map(|before| &before.members) {
            if let Some((count, last)) =
                self.nodes.get_mut(usize::from(pnn.0)).filter(|_| !view.has_run(*pnn, member.run))
            {
                *count = if *last + MEMORY > now { *count + 1 } else { 1 };
                *last = now;
            }
        }
    }

    /// How long the node that was dropped most often lately may have to wait until it is let in.
    pub(crate) fn longest_wait(&self, timing: &Timing, now: Micros) -> Micros {
        let recent = self.nodes.iter().filter(|(_, last)| *last + MEMORY > now);
        let most = recent.map(|(count, _)| *count).max().unwrap_or(0);
        u64::try_from((timing.join_delay * 2u32.pow(most.min(6))).as_micros()).unwrap_or(u64::MAX)
    }
}
