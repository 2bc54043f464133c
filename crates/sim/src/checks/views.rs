//! At most one view per life of the cluster and epoch; what a node has learned only grows; only a member holds.

use super::Check;
use crate::world::World;
use cluster::{Epoch, Incarnation, Message, NodeUid, Output, View};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Views {
    decided: BTreeMap<(Incarnation, Epoch), View>,
    newest: BTreeMap<NodeUid, (Incarnation, Epoch)>,
    /// What each node published last: the same object says nothing new.
    published: BTreeMap<usize, Arc<View>>,
}

impl Views {
    fn learn(&mut self, host: usize, view: &View) -> Result<(), String> {
        match self.decided.get(&view.rank()) {
            Some(known) if known == view => Ok(()),
            Some(known) => Err(format!(
                "two views of epoch {}: members {:?} voters {:?} ({}), and at n{host} members {:?} voters {:?} ({})",
                view.epoch, known.members, known.voters, known.because, view.members, view.voters, view.because
            )),
            None => {
                self.decided.insert(view.rank(), view.clone());
                Ok(())
            }
        }
    }

    fn grows(&mut self, host: usize, uid: NodeUid, view: &View) -> Result<(), String> {
        let newest = self.newest.entry(uid).or_insert_with(|| view.rank());
        if view.rank() < *newest {
            return Err(format!("n{host} went back from {newest:?} to {:?}", view.rank()));
        }
        *newest = view.rank();
        Ok(())
    }
}

impl Check for Views {
    fn name(&self) -> &'static str {
        "one view per epoch"
    }

    fn started(&mut self, world: &World, host: usize) -> Result<(), String> {
        // What was learned and not yet on disk may be forgotten: a view is decided by what its voters accepted.
        let disk = &world.hosts[host].disk.durable;
        match &disk.view {
            Some(view) => self.newest.insert(disk.uid, view.rank()),
            None => self.newest.remove(&disk.uid),
        };
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        match output {
            Output::Publish(snapshot) => {
                if let Some(view) = &snapshot.view {
                    if !self.published.get(&host).is_some_and(|known| Arc::ptr_eq(known, view)) {
                        self.learn(host, view)?;
                        self.published.insert(host, view.clone());
                    }
                    self.grows(host, world.hosts[host].uid(), view)?;
                }
            }
            Output::Persist { state, .. } => {
                if let Some(view) = &state.view {
                    self.learn(host, view)?;
                    self.grows(host, state.uid, view)?;
                }
            }
            Output::Send { message: Message::Decided { view, .. }, .. } => self.learn(host, view)?,
            _ => {}
        }
        Ok(())
    }
}
