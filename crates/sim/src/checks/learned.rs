//! What each node has learned of views, and who of a view serves or is shut out: for checkers that ask it of all members.

use crate::world::World;
use cluster::{Member, Output, Pnn, View};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The view that each node has learned last.
#[derive(Debug, Default)]
pub(super) struct Learned {
    newest: BTreeMap<usize, View>,
    /// What it had learned when it took an address.
    taken: BTreeMap<(usize, IpAddr), View>,
}

impl Learned {
    /// A daemon has started, and has yet to learn one.
    pub(super) fn started(&mut self, host: usize) {
        self.newest.remove(&host);
        self.taken.retain(|(of, _), _| *of != host);
    }

    /// Every learned view is put on disk at once.
    pub(super) fn output(&mut self, host: usize, output: &Output) {
        match output {
            Output::Persist { state, .. } => {
                if let Some(view) = &state.view
                    && self.view(host) != Some(view)
                {
                    self.newest.insert(host, view.clone());
                }
            }
            Output::Take { vip, .. } => {
                if let Some(view) = self.newest.get(&host) {
                    self.taken.insert((host, *vip), view.clone());
                }
            }
            _ => {}
        }
    }

    /// What a node knows.
    pub(super) fn view(&self, host: usize) -> Option<&View> {
        self.newest.get(&host)
    }

    /// Had all members of the view under which `host` took this address shut that node out of the storage? Who is let in after
    /// that shuts it out as well before addresses go anywhere under the view that lets it in; until then it is as
    /// exposed as it was outside, and takes nothing back of what was rightly ordered.
    pub(super) fn shut_out(&self, world: &World, host: usize, vip: IpAddr, pnn: Pnn) -> bool {
        self.taken.get(&(host, vip)).is_some_and(|view| {
            let evicts = |(member, known): (&Pnn, &Member)| {
                let peer = &world.hosts[usize::from(member.0)];
                // One that is dark by now has no bricks that could take anything; nor has one whose disk was lost, with all
                // that it knew, before it has joined anew.
                !peer.power || peer.uid() != known.uid || peer.kernel.evicted.contains(&pnn)
            };
            view.evicted.contains_key(&pnn) && view.members.iter().all(evicts)
        })
    }
}

/// Is a member still the run that the view knows, with a lease? Another one serves nobody.
pub(super) fn may_serve(world: &World, (pnn, member): (&Pnn, &Member)) -> bool {
    world.hosts.get(usize::from(pnn.0)).is_some_and(|host| {
        let runs = host.daemon.as_ref().is_some_and(|d| d.run == member.run);
        runs && host.runs() && host.clock.local(world.now) < host.core_lease
    })
}
