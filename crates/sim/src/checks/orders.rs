//! Only the leader of a view gives orders under its epoch, and nobody takes an address without being a member.

use super::Check;
use crate::world::World;
use cluster::{Epoch, Incarnation, Message, Output};
use std::collections::BTreeMap;

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct OrdersOfLeader {
    leader: BTreeMap<(Incarnation, Epoch), usize>,
    newest: BTreeMap<usize, (Incarnation, Epoch)>,
    members: BTreeMap<(Incarnation, Epoch, usize), bool>,
}

impl Check for OrdersOfLeader {
    fn name(&self) -> &'static str {
        "orders of one leader"
    }

    fn started(&mut self, _world: &World, host: usize) -> Result<(), String> {
        self.newest.remove(&host);
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        match output {
            Output::Publish(snapshot) => {
                if let (Some(view), Some(daemon)) = (&snapshot.view, world.hosts[host].daemon.as_ref()) {
                    let (incarnation, epoch) = view.rank();
                    self.newest.insert(host, view.rank());
                    self.members.insert((incarnation, epoch, host), view.has_run(world.hosts[host].pnn(), daemon.run));
                }
                Ok(())
            }
            Output::Send { message: Message::Orders(orders), .. } => {
                let Some((incarnation, _)) = self.newest.get(&host) else {
                    return Err(format!("n{host} orders under epoch {} before it knows a view", orders.epoch));
                };
                let leader = *self.leader.entry((*incarnation, orders.epoch)).or_insert(host);
                if leader != host {
                    return Err(format!("n{leader} and n{host} both lead epoch {}", orders.epoch));
                }
                Ok(())
            }
            Output::Take { vip, .. } => {
                let member = self
                    .newest
                    .get(&host)
                    .and_then(|(incarnation, epoch)| self.members.get(&(*incarnation, *epoch, host)))
                    .copied();
                if member == Some(false) {
                    return Err(format!("n{host} takes {vip} and is no member of its newest view"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
