//! What Samba's processes have done, and what must therefore be in the databases.
//!
//! Every process counts by itself: a record's data says, process by process, how often each has counted. Whoever has the
//! record must find there exactly what every process has counted, but for processes of nodes that were dropped or died:
//! of theirs the newest may be lost, and nothing may be there that was not counted.

use super::{HOT, Node};
use crate::checks::Violation;
use crate::clock::Micros;
use cluster::{Epoch, Incarnation, RunId, View};
use ctdb::recovery::Generation;
use ctdb::server::ClientId;
use ctdb::wire::LtdbHeader;
use std::collections::BTreeMap;

/// How often each process has counted.
pub(super) type Counts = BTreeMap<u32, u64>;

/// A process that lives or has lived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person {
    pub(super) node: usize,
    pub(super) pid: i32,
    pub(super) lives: bool,
    /// Its node was dropped or died since: its counts may be gone.
    pub(super) lost: bool,
}

#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) people: BTreeMap<ClientId, Person>,
    /// By key.
    counted: BTreeMap<usize, Counts>,
    /// The generation and the highest sequence number seen in it, by key.
    newest: BTreeMap<usize, (Generation, u64)>,
    /// The newest view that anybody has published.
    view: Option<((Incarnation, Epoch), BTreeMap<usize, RunId>)>,
    /// The newest transaction that was acknowledged.
    pub(super) committed: u64,
    /// Who holds Samba's lock on transactions.
    pub(super) committing: Option<ClientId>,
}

/// Counts as a record's data.
pub(super) fn decode(data: &[u8]) -> Counts {
    data.chunks_exact(12)
        .filter_map(|c| {
            let (who, count) = c.split_at(4);
            Some((u32::from_ne_bytes(who.try_into().ok()?), u64::from_ne_bytes(count.try_into().ok()?)))
        })
        .collect()
}

pub(super) fn encode(counts: &Counts) -> Vec<u8> {
    let mut data = Vec::with_capacity(12 * counts.len());
    for (who, count) in counts {
        data.extend(who.to_ne_bytes());
        data.extend(count.to_ne_bytes());
    }
    data
}

impl Truth {
    /// A node is dropped or dies: what its processes counted last may be gone.
    pub(super) fn lose(&mut self, node: usize) {
        for person in self.people.values_mut().filter(|p| p.node == node) {
            person.lost = true;
        }
    }

    pub(super) fn ended(&mut self, client: ClientId) {
        if let Some(person) = self.people.get_mut(&client) {
            person.lives = false;
        }
        self.committing = self.committing.filter(|c| *c != client);
    }

    /// A core has published this view.
    pub(super) fn published(&mut self, view: &View) {
        if self.view.as_ref().is_some_and(|(rank, _)| *rank >= view.rank()) {
            return;
        }
        let members: BTreeMap<usize, RunId> = view.members.iter().map(|(p, m)| (usize::from(p.0), m.run)).collect();
        if let Some((_, before)) = self.view.replace((view.rank(), members.clone())) {
            for node in before.iter().filter(|(node, run)| members.get(node) != Some(run)).map(|(node, _)| *node) {
                self.lose(node);
            }
        }
    }

    /// The newest view that anybody has published.
    pub(super) fn rank(&self) -> Option<(Incarnation, Epoch)> {
        self.view.as_ref().map(|(rank, _)| *rank)
    }

    /// Is this run a member of the newest view?
    pub(super) fn is_member(&self, node: usize, run: RunId) -> bool {
        self.view.as_ref().is_some_and(|(_, members)| members.get(&node) == Some(&run))
    }

    /// May what this process has counted be gone?
    pub(super) fn is_lost(&self, who: u32) -> bool {
        self.people.get(&ClientId(who)).is_none_or(|p| p.lost)
    }

    /// Is this what all have counted so far? Asked by a process that has the record, before it counts.
    pub(super) fn check(&self, key: usize, reader: u32, found: &Counts) -> Result<(), String> {
        let none = Counts::new();
        let counted = self.counted.get(&key).unwrap_or(&none);
        for (who, count) in found {
            let there = counted.get(who).copied().unwrap_or(0);
            if *count > there {
                return Err(format!("process {who} has counted {there} in key {key}, process {reader} finds {count}"));
            }
        }
        // What a node that was dropped still has may be older than what the others went on with.
        if self.is_lost(reader) {
            return Ok(());
        }
        for (who, count) in counted.iter().filter(|(who, _)| !self.is_lost(**who)) {
            let there = found.get(who).copied().unwrap_or(0);
            if there != *count {
                return Err(format!("process {who} has counted {count} in key {key}, process {reader} finds {there}"));
            }
        }
        Ok(())
    }

    /// What all have counted so far.
    pub(super) fn counted(&self, key: usize) -> Counts {
        self.counted.get(&key).cloned().unwrap_or_default()
    }

    /// May a process that began to read when this much was counted find this?
    pub(super) fn read(&self, key: usize, reader: u32, floor: &Counts, found: &Counts) -> Result<(), String> {
        let none = Counts::new();
        let counted = self.counted.get(&key).unwrap_or(&none);
        for (who, count) in found {
            let there = counted.get(who).copied().unwrap_or(0);
            if *count > there {
                return Err(format!("process {who} has counted {there} in key {key}, process {reader} reads {count}"));
            }
        }
        if self.is_lost(reader) {
            return Ok(());
        }
        for (who, count) in floor.iter().filter(|(who, _)| !self.is_lost(**who)) {
            let there = found.get(who).copied().unwrap_or(0);
            if there < *count {
                return Err(format!(
                    "process {who} had counted {count} in key {key} before process {reader} began to read, which finds \
                     {there}"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn count(&mut self, key: usize, who: u32) {
        *self.counted.entry(key).or_default().entry(who).or_default() += 1;
    }

    /// Keys in which somebody has counted whose counts cannot be lost.
    pub(super) fn cold_keys(&self) -> Vec<usize> {
        let kept = |(key, counts): (&usize, &Counts)| {
            (*key >= HOT && counts.keys().any(|who| !self.is_lost(*who))).then_some(*key)
        };
        self.counted.iter().filter_map(kept).collect()
    }

    /// A record with this header is used: its number does not go back within a generation.
    pub(super) fn used(&mut self, key: usize, generation: Generation, header: LtdbHeader) -> Result<(), String> {
        let newest = self.newest.entry(key).or_insert((generation, header.rsn));
        if newest.0 == generation && header.rsn < newest.1 {
            return Err(format!(
                "key {key} was used with RSN {} and now with {} in {generation:?}",
                newest.1, header.rsn
            ));
        }
        *newest = (generation, header.rsn);
        Ok(())
    }

    /// A process of a node that was dropped, and may still serve, uses a record in this generation. Nobody may have gone
    /// on with it in a later one: two clients could have the same lock then.
    pub(super) fn used_by_dropped(&self, key: usize, generation: Generation) -> Result<(), String> {
        match self.newest.get(&key) {
            Some((later, _)) if *later > generation => Err(format!(
                "key {key} is used in {generation:?} on a node that may still serve, and in {later:?} already"
            )),
            _ => Ok(()),
        }
    }

    /// At the end, with everything at rest: what must be in the members' files.
    pub(super) fn at_rest(
        &self,
        nodes: &[Node],
        members: &[usize],
        volatile: u32,
        persistent: u32,
    ) -> Result<(), String> {
        for (key, counted) in &self.counted {
            let mut holders = Vec::new();
            for node in members {
                let value = nodes[*node].files.get(&volatile).and_then(|f| f.records.get(&super::work::name(*key)));
                let Some(Ok((header, data))) = value.map(|v| LtdbHeader::split(v)) else { continue };
                if header.dmaster == *node as u32 {
                    holders.push((*node, decode(data)));
                }
            }
            if holders.len() > 1 {
                return Err(format!("key {key} has {} holders", holders.len()));
            }
            let found = holders.pop().map(|(_, counts)| counts).unwrap_or_default();
            for (who, count) in counted {
                let there = found.get(who).copied().unwrap_or(0);
                if there > *count || (there < *count && !self.is_lost(*who)) {
                    return Err(format!("process {who} has counted {count} in key {key}, at rest {there} are there"));
                }
            }
        }
        for node in members {
            let there = nodes[*node].seqnum(persistent);
            if there < self.committed {
                return Err(format!("transaction {} is acknowledged, n{node} has {there}", self.committed));
            }
        }
        Ok(())
    }
}

/// A finding of the databases.
pub(super) fn violation(at: Micros, text: String) -> Violation {
    Violation { check: "databases", at, text }
}
