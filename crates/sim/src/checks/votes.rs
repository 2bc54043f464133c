//! Votes are on disk before anybody hears of them, and who accepted the next view grants nothing under this one.

use super::Check;
use crate::world::World;
use cluster::{Ballot, Durable, Epoch, Incarnation, Message, NodeUid, Output};
use std::collections::BTreeMap;

/// The checker.
#[derive(Debug)]
pub(crate) struct Votes {
    /// Newest epoch that an identity told anybody it accepted.
    accepted: BTreeMap<NodeUid, (Incarnation, Epoch)>,
}

impl Votes {
    pub(crate) fn new(_nodes: usize) -> Self {
        Self { accepted: BTreeMap::new() }
    }
}

/// Does the disk remember this promise (or need not any more)?
fn promised(disk: &Durable, epoch: Epoch, ballot: Ballot) -> bool {
    let known = disk.view.as_ref().map(|v| v.epoch);
    known.is_some_and(|known| known >= epoch || (known.next() == epoch && disk.promised >= ballot))
}

/// Does the disk remember that this ballot, or a later one, was accepted (or need not any more)?
fn accepted(disk: &Durable, epoch: Epoch, ballot: Ballot) -> bool {
    let known = disk.view.as_ref().map(|v| v.epoch);
    known.is_some_and(|known| {
        known >= epoch || (known.next() == epoch && disk.accepted.as_ref().is_some_and(|a| a.ballot >= ballot))
    })
}

impl Check for Votes {
    fn name(&self) -> &'static str {
        "votes on disk first"
    }

    fn minds_leases(&self) -> bool {
        true
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        let disk = &world.hosts[host].disk.durable;
        match output {
            Output::Send { message: Message::Promise { epoch, ballot, .. }, .. }
                if !promised(disk, *epoch, *ballot) =>
            {
                Err(format!(
                    "n{host} promises ballot {} for epoch {epoch}, its disk says {:?} of {:?}",
                    ballot.round,
                    disk.promised.round,
                    disk.view.as_ref().map(|v| v.epoch)
                ))
            }
            Output::Send { message: Message::Accepted { epoch, ballot, .. }, .. } => {
                if !accepted(disk, *epoch, *ballot) {
                    return Err(format!(
                        "n{host} says it accepted ballot {} of epoch {epoch}, its disk does not know",
                        ballot.round
                    ));
                }
                let incarnation = disk.view.as_ref().map(|v| v.incarnation).unwrap_or_default();
                let newest = self.accepted.entry(disk.uid).or_insert((incarnation, *epoch));
                *newest = (*newest).max((incarnation, *epoch));
                Ok(())
            }
            Output::SendGrant { grant, .. } => {
                let newest = self.accepted.get(&disk.uid);
                if newest.is_some_and(|newest| (grant.incarnation, grant.epoch) < *newest) {
                    return Err(format!(
                        "n{host} grants under epoch {} though it accepted epoch {:?}",
                        grant.epoch, newest
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
