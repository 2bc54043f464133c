//! What each node has learned of views, and who of a view serves: for checkers that ask it of all members.

use crate::world::World;
use cluster::{Member, Output, Pnn, View};
use std::collections::BTreeMap;

/// The view that each node has learned last.
#[derive(Debug, Default)]
pub(super) struct Learned(BTreeMap<usize, View>);

impl Learned {
    /// A daemon has started, and has yet to learn one.
    pub(super) fn started(&mut self, host: usize) {
        self.0.remove(&host);
    }

    /// Every learned view is put on disk at once.
    pub(super) fn output(&mut self, host: usize, output: &Output) {
        if let Output::Persist { state, .. } = output
            && let Some(view) = &state.view
            && self.view(host) != Some(view)
        {
            self.0.insert(host, view.clone());
        }
    }

    /// What a node knows.
    pub(super) fn view(&self, host: usize) -> Option<&View> {
        self.0.get(&host)
    }
}

/// Is a member still the run that the view knows, with a lease? Another one serves nobody.
pub(super) fn may_serve(world: &World, (pnn, member): (&Pnn, &Member)) -> bool {
    world.hosts.get(usize::from(pnn.0)).is_some_and(|host| {
        let runs = host.daemon.as_ref().is_some_and(|d| d.run == member.run);
        runs && host.runs() && host.clock.local(world.now) < host.core_lease
    })
}
