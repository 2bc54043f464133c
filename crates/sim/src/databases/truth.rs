//! What Samba's processes have done, and what must therefore be in the databases.
//!
//! Every process counts by itself: a record's data says, process by process, how often each has counted. Whoever has the
//! record must find there exactly what every process has counted, but for processes of nodes that were dropped or died:
//! of theirs the newest may be lost, and nothing may be there that was not counted.

use super::counts::Counts;
use super::{HOT, Node};
use crate::checks::Violation;
use crate::clock::Micros;
use cluster::{Epoch, Incarnation, RunId, View};
use ctdb::recovery::Generation;
use ctdb::server::ClientId;
use ctdb::wire::LtdbHeader;
use std::collections::BTreeMap;

/// A process that lives or has lived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Person {
    pub(super) node: usize,
    pub(super) pid: i32,
    pub(super) lives: bool,
    /// Its node was dropped or died since: its counts may be gone.
    pub(super) lost: bool,
}

/// All of them, by the numbers of their connections: these are given from 1 on.
#[derive(Debug, Default)]
pub(super) struct People(Vec<Person>);

impl People {
    fn add(&mut self, node: usize, lost: bool) -> ClientId {
        let client = ClientId(self.0.len() as u32 + 1);
        self.0.push(Person { node, pid: client.0 as i32 + 10_000, lives: true, lost });
        client
    }

    pub(super) fn get(&self, client: ClientId) -> Option<&Person> {
        self.0.get((client.0 as usize).checked_sub(1)?)
    }

    fn get_mut(&mut self, client: ClientId) -> Option<&mut Person> {
        self.0.get_mut((client.0 as usize).checked_sub(1)?)
    }

    /// Does this process live?
    pub(super) fn lives(&self, client: ClientId) -> bool {
        self.get(client).is_some_and(|p| p.lives)
    }

    /// Those that live.
    pub(super) fn living(&self) -> impl Iterator<Item = (ClientId, &Person)> {
        self.iter().filter(|(_, person)| person.lives)
    }

    /// All, from the first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (ClientId, &Person)> + ExactSizeIterator {
        self.0.iter().enumerate().map(|(at, person)| (ClientId(at as u32 + 1), person))
    }
}

/// What is known of one key.
#[derive(Debug)]
struct Key {
    name: Vec<u8>,
    counted: Counts,
    /// The generation and the highest sequence number seen in it.
    newest: Option<(Generation, u64)>,
}

impl Key {
    fn new(key: usize) -> Self {
        Self { name: name(key), counted: Counts::default(), newest: None }
    }
}

/// A key's name: the first few are everybody's, the others belong to one process each.
fn name(key: usize) -> Vec<u8> {
    if key < HOT { format!("hot-{key}").into_bytes() } else { format!("cold-{}", key - HOT).into_bytes() }
}

#[derive(Debug)]
pub(super) struct Truth {
    people: People,
    /// Those that are everybody's, nobody's, and one for each process.
    keys: Vec<Key>,
    /// The newest view that anybody has published.
    view: Option<((Incarnation, Epoch), BTreeMap<usize, RunId>)>,
    /// The newest transaction that was acknowledged.
    pub(super) committed: u64,
    /// Who holds Samba's lock on transactions.
    pub(super) committing: Option<ClientId>,
}

impl Default for Truth {
    fn default() -> Self {
        let keys = (0..=HOT).map(Key::new).collect();
        Self { people: People::default(), keys, view: None, committed: 0, committing: None }
    }
}

impl Truth {
    /// A process begins, with a key of its own. `lost`: on a node that others have dropped.
    pub(super) fn begins(&mut self, node: usize, lost: bool) -> ClientId {
        let client = self.people.add(node, lost);
        self.keys.push(Key::new(own_key(client)));
        client
    }

    /// All processes that live or have lived.
    pub(super) fn people(&self) -> &People {
        &self.people
    }

    /// A key's name in the database.
    pub(super) fn name(&self, key: usize) -> &[u8] {
        &self.keys[key].name
    }

    /// A node is dropped or dies: what its processes counted last may be gone.
    pub(super) fn lose(&mut self, node: usize) {
        for person in self.people.0.iter_mut().filter(|p| p.node == node) {
            person.lost = true;
        }
    }

    pub(super) fn ended(&mut self, client: ClientId) {
        if let Some(person) = self.people.get_mut(client) {
            person.lives = false;
        }
        self.committing = self.committing.filter(|c| *c != client);
    }

    /// A core has published this view. False: not the first, or an older one.
    pub(super) fn published(&mut self, view: &View) -> bool {
        if self.view.as_ref().is_some_and(|(rank, _)| *rank >= view.rank()) {
            return false;
        }
        let members: BTreeMap<usize, RunId> = view.members.iter().map(|(p, m)| (usize::from(p.0), m.run)).collect();
        if let Some((_, before)) = self.view.replace((view.rank(), members.clone())) {
            for node in before.iter().filter(|(node, run)| members.get(node) != Some(run)).map(|(node, _)| *node) {
                self.lose(node);
            }
        }
        true
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
        self.people.get(ClientId(who)).is_none_or(|p| p.lost)
    }

    /// Is this what all have counted so far? Asked by a process that has the record, before it counts.
    pub(super) fn check(&self, key: usize, reader: u32, found: &Counts) -> Result<(), String> {
        let counted = &self.keys[key].counted;
        if found == counted {
            return Ok(());
        }
        for (who, count) in found.iter() {
            let there = counted.of(who);
            if count > there {
                return Err(format!("process {who} has counted {there} in key {key}, process {reader} finds {count}"));
            }
        }
        // What a node that was dropped still has may be older than what the others went on with.
        if self.is_lost(reader) {
            return Ok(());
        }
        for (who, count) in counted.iter().filter(|(who, _)| !self.is_lost(*who)) {
            let there = found.of(who);
            if there != count {
                return Err(format!("process {who} has counted {count} in key {key}, process {reader} finds {there}"));
            }
        }
        Ok(())
    }

    /// What all have counted so far.
    pub(super) fn counted(&self, key: usize) -> Counts {
        self.keys[key].counted.clone()
    }

    /// May a process that began to read when this much was counted find this?
    pub(super) fn read(&self, key: usize, reader: u32, floor: &Counts, found: &Counts) -> Result<(), String> {
        let counted = &self.keys[key].counted;
        for (who, count) in found.iter() {
            let there = counted.of(who);
            if count > there {
                return Err(format!("process {who} has counted {there} in key {key}, process {reader} reads {count}"));
            }
        }
        if self.is_lost(reader) {
            return Ok(());
        }
        for (who, count) in floor.iter().filter(|(who, _)| !self.is_lost(*who)) {
            let there = found.of(who);
            if there < count {
                return Err(format!(
                    "process {who} had counted {count} in key {key} before process {reader} began to read, which finds \
                     {there}"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn count(&mut self, key: usize, who: u32) {
        self.keys[key].counted.count(who);
    }

    /// Keys in which somebody has counted whose counts cannot be lost.
    pub(super) fn cold_keys(&self) -> impl Iterator<Item = usize> + '_ {
        (HOT..self.keys.len()).filter(|key| self.is_kept(*key))
    }

    /// Has somebody counted in it whose counts cannot be lost?
    pub(super) fn is_kept(&self, key: usize) -> bool {
        self.keys[key].counted.iter().any(|(who, _)| !self.is_lost(who))
    }

    /// A record with this header is used: its number does not go back within a generation.
    pub(super) fn used(&mut self, key: usize, generation: Generation, header: LtdbHeader) -> Result<(), String> {
        let newest = &mut self.keys[key].newest;
        if let Some((same, rsn)) = *newest
            && same == generation
            && header.rsn < rsn
        {
            return Err(format!("key {key} was used with RSN {rsn} and now with {} in {generation:?}", header.rsn));
        }
        *newest = Some((generation, header.rsn));
        Ok(())
    }

    /// A process of a node that was dropped, and may still serve, uses a record in this generation. Nobody may have gone
    /// on with it in a later one: two clients could have the same lock then.
    pub(super) fn used_by_dropped(&self, key: usize, generation: Generation) -> Result<(), String> {
        match self.keys[key].newest {
            Some((later, _)) if later > generation => Err(format!(
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
        for (key, Key { name, counted, .. }) in self.keys.iter().enumerate().filter(|(_, key)| !key.counted.is_empty())
        {
            let mut holders = Vec::new();
            for node in members {
                let value = nodes[*node].files.get(&volatile).and_then(|f| f.records.get(name));
                let Some(Ok((header, data))) = value.map(|v| LtdbHeader::split(v)) else { continue };
                if header.dmaster == *node as u32 {
                    holders.push((*node, Counts::decode(data)));
                }
            }
            if holders.len() > 1 {
                return Err(format!("key {key} has {} holders", holders.len()));
            }
            let found = holders.pop().map(|(_, counts)| counts).unwrap_or_default();
            for (who, count) in counted.iter() {
                let there = found.of(who);
                if there > count || (there < count && !self.is_lost(who)) {
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

/// The key that only this process writes.
pub(super) fn own_key(client: ClientId) -> usize {
    HOT + client.0 as usize
}

/// A finding of the databases.
pub(super) fn violation(at: Micros, text: String) -> Violation {
    Violation { check: "databases", at, text }
}
