//! Only the leader of a view gives orders under its epoch; who takes an address is a member of the newest view it
//! knows, and all members of that view have shut the dropped nodes out of the storage.

use super::Check;
use crate::world::World;
use cluster::{Epoch, Incarnation, Message, Output, Pnn, View};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct OrdersOfLeader {
    leader: BTreeMap<(Incarnation, Epoch), usize>,
    newest: BTreeMap<usize, View>,
    last: BTreeMap<IpAddr, usize>,
}

impl Check for OrdersOfLeader {
    fn name(&self) -> &'static str {
        "orders of one leader"
    }

    fn started(&mut self, world: &World, host: usize) -> Result<(), String> {
        match &world.hosts[host].disk.durable.view {
            Some(view) => self.newest.insert(host, view.clone()),
            None => self.newest.remove(&host),
        };
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        match output {
            // Every learned view is put on disk at once.
            Output::Persist { state, .. } => {
                if let Some(view) = &state.view
                    && self.newest.get(&host).is_none_or(|known| known.rank() < view.rank())
                {
                    self.newest.insert(host, view.clone());
                }
                Ok(())
            }
            Output::Send { message: Message::Orders(orders), .. } => {
                let Some(view) = self.newest.get(&host) else {
                    return Err(format!("n{host} orders under epoch {} before it knows a view", orders.epoch));
                };
                let leader = *self.leader.entry((view.incarnation, orders.epoch)).or_insert(host);
                if leader != host {
                    return Err(format!("n{leader} and n{host} both lead epoch {}", orders.epoch));
                }
                Ok(())
            }
            Output::Take { vip, .. } => {
                self.take(world, host, *vip)?;
                // It was free for this node, and is until somebody else answers for it, also if the lease ends before it is there.
                if !thawed(world, host) {
                    self.last.insert(*vip, host);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        // A machine that goes on after a pause, shut out of the storage, makes nobody's address its own.
        if !thawed(world, host) {
            self.last.insert(vip, host);
        }
        Ok(())
    }
}

/// A machine that was paused acts under a lease that ended while its clock stood still: it is cut off from the storage,
/// and excused for one lease.
fn thawed(world: &World, host: usize) -> bool {
    world.has_just_thawed(host)
}

impl OrdersOfLeader {
    fn take(&self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        let run = world.hosts[host].daemon.as_ref().map(|d| d.run);
        let view =
            self.newest.get(&host).filter(|view| run.is_some_and(|run| view.has_run(world.hosts[host].pnn(), run)));
        let Some(view) = view else {
            return Err(format!("n{host} takes {vip} and is no member of its newest view"));
        };
        // Nobody else had it since: no lost node's locks are at stake.
        if thawed(world, host) || self.last.get(&vip) == Some(&host) {
            return Ok(());
        }
        for (pnn, member) in &view.members {
            let peer = &world.hosts[usize::from(pnn.0)];
            let same_run = peer.daemon.as_ref().is_some_and(|d| d.run == member.run);
            // A newer view has let it in again, clean.
            let newer = self.newest.get(&usize::from(pnn.0)).filter(|known| known.rank() > view.rank());
            let back = |lost: &Pnn| newer.is_some_and(|known| known.members.contains_key(lost));
            let open = view.evicted.keys().find(|lost| !peer.kernel.evicted.contains(lost) && !back(lost));
            if let (true, Some(lost)) = (same_run, open) {
                return Err(format!(
                    "n{host} takes {vip} under epoch {} before n{pnn} has shut n{lost} out of the storage",
                    view.epoch
                ));
            }
        }
        Ok(())
    }
}
