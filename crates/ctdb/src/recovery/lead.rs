//! The leader's part of a recovery: when the next step may begin.

use super::word::{Content, Generation, Have, Word};
use crate::database::Kind;
use crate::planted::{Planted, planted};
use std::collections::{BTreeMap, BTreeSet};

/// Words for members, the leader itself among them.
pub type Orders = Vec<(u32, Word)>;

#[derive(Debug)]
enum Phase {
    /// Members stop it.
    Stopping(BTreeMap<u32, Option<Content>>),
    /// These have not finished their part.
    Merging(BTreeSet<u32>),
    /// All are done; it goes on when the dropped nodes can do no harm.
    Merged,
    /// It goes on.
    Going,
    /// It cannot go on, for this reason.
    Failed(String),
}

#[derive(Debug)]
struct Database {
    have: Have,
    attempt: u32,
    /// The last recovery after which a member went on with it.
    valid: Generation,
    phase: Phase,
    /// Its content is replaced by hand, on every member.
    held: bool,
}

/// The leader of one view.
#[derive(Debug)]
pub struct Lead {
    epoch: u64,
    members: BTreeSet<u32>,
    /// Those that know who holds which record, in order.
    masters: Vec<u32>,
    /// Members that have not said what databases they have.
    silent: BTreeSet<u32>,
    /// Before that is known, what members say of databases is kept here.
    known: BTreeMap<u32, Database>,
    harmless: bool,
}

impl Lead {
    /// Begins. `others`: members that are not to know who holds which record, and hold none then. `harmless`: the view dropped nobody, or nobody who could
    /// still do harm.
    pub fn begin(epoch: u64, members: &[u32], others: &BTreeSet<u32>, harmless: bool, out: &mut Orders) -> Self {
        let members: BTreeSet<u32> = members.iter().copied().collect();
        let masters = masters(&members, others);
        out.extend(members.iter().map(|m| (*m, Word::Hello { epoch, masters: masters.clone() })));
        Self { epoch, silent: members.clone(), members, masters, known: BTreeMap::new(), harmless }
    }

    /// The nodes that the view dropped can do no harm any more.
    pub fn harmless(&mut self, out: &mut Orders) {
        self.harmless = true;
        let dbs: Vec<u32> = self.known.keys().copied().collect();
        for db in dbs {
            self.go(db, out);
        }
    }

    /// Databases that are not going on, with what they wait for.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, &str)> {
        self.known.values().filter_map(|db| {
            let why = match &db.phase {
                Phase::Stopping(_) => "members stop it",
                Phase::Merging(_) if db.held => "somebody replaces its content by hand",
                Phase::Merging(_) => "members compare what they have",
                Phase::Merged => "a dropped node is not harmless yet",
                Phase::Failed(why) => why,
                Phase::Going => return None,
            };
            Some((db.have.name.as_str(), why))
        })
    }

    /// Every member has been heard, and every database goes on or cannot.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.silent.is_empty() && self.known.values().all(|db| matches!(db.phase, Phase::Going | Phase::Failed(_)))
    }

    /// A member says something to its leader. Words of another view or recovery are dropped.
    pub fn word(&mut self, from: u32, word: Word, out: &mut Orders) {
        if !self.members.contains(&from) {
            return;
        }
        match word {
            Word::Databases { epoch, have } if epoch == self.epoch => {
                self.silent.remove(&from);
                for (have, standing) in have {
                    self.add(have, standing.opened);
                }
                if self.silent.is_empty() {
                    let dbs: Vec<u32> = self.known.keys().copied().collect();
                    for db in dbs {
                        self.stop(db, out);
                    }
                }
            }
            Word::Create { epoch, have } if epoch == self.epoch => {
                let db = have.db;
                self.add(have, Generation::default());
                if self.silent.is_empty() {
                    self.stop(db, out);
                }
            }
            Word::Stopped { generation, db, content } => self.stopped(from, generation, db, content, out),
            Word::Merged { generation, db } => {
                if let Some(Phase::Merging(left)) = self.phase(generation, db) {
                    left.remove(&from);
                    self.merged(db, out);
                }
            }
            Word::Failed { generation, db, why } => {
                if let Some(phase) = self.phase(generation, db) {
                    *phase = Phase::Failed(format!("node {from}: {why}"));
                }
            }
            Word::Hold { generation, db } => {
                if let Some(Phase::Going) = self.phase(generation, db) {
                    self.retry(db, true, out);
                }
            }
            // One that is being recovered already gets over its trouble by that.
            Word::Trouble { generation, db, .. } => {
                let held = self.known.get(&db).is_some_and(|d| d.held);
                match self.phase(generation, db) {
                    None => {}
                    Some(Phase::Stopping(_)) if !held => {}
                    Some(_) => self.retry(db, false, out),
                }
            }
            _ => {}
        }
    }

    /// Everything again: words between members were lost, or there are other location masters. `others` as at the beginning.
    pub fn again(&mut self, others: &BTreeSet<u32>, out: &mut Orders) {
        self.masters = masters(&self.members, others);
        let hello = Word::Hello { epoch: self.epoch, masters: self.masters.clone() };
        out.extend(self.members.iter().map(|m| (*m, hello.clone())));
        let begun: Vec<u32> = self.known.iter().filter(|(_, d)| d.attempt > 0).map(|(db, _)| *db).collect();
        for db in begun {
            self.retry(db, false, out);
        }
    }

    fn retry(&mut self, db: u32, held: bool, out: &mut Orders) {
        if let Some(database) = self.known.get_mut(&db) {
            database.attempt += 1;
            database.held = held;
            database.phase = Phase::Stopping(BTreeMap::new());
            self.stop_again(db, out);
        }
    }

    fn add(&mut self, have: Have, opened: Generation) {
        // A persistent one that a member takes for volatile (its client attached it so) stays persistent.
        let phase = Phase::Stopping(BTreeMap::new());
        let new = Database { have: have.clone(), attempt: 0, valid: Generation::default(), phase, held: false };
        let known = self.known.entry(have.db).or_insert(new);
        known.valid = known.valid.max(opened);
        if known.attempt == 0 && known.have.kind == Kind::Volatile {
            known.have.kind = have.kind;
        }
    }

    fn phase(&mut self, generation: Generation, db: u32) -> Option<&mut Phase> {
        let epoch = self.epoch;
        let database = self.known.get_mut(&db)?;
        (generation == Generation { epoch, attempt: database.attempt }).then_some(&mut database.phase)
    }

    fn stop(&mut self, db: u32, out: &mut Orders) {
        if let Some(database) = self.known.get_mut(&db).filter(|d| d.attempt == 0) {
            database.attempt = 1;
            self.stop_again(db, out);
        }
    }

    fn stop_again(&self, db: u32, out: &mut Orders) {
        if let Some(database) = self.known.get(&db) {
            let generation = Generation { epoch: self.epoch, attempt: database.attempt };
            let (valid, held) = (database.valid, database.held);
            let (have, masters) = (database.have.clone(), self.masters.clone());
            let word = Word::Stop { generation, have, valid, held, masters };
            out.extend(self.members.iter().map(|m| (*m, word.clone())));
        }
    }

    fn stopped(&mut self, from: u32, generation: Generation, db: u32, content: Option<Content>, out: &mut Orders) {
        let members = self.members.clone();
        let Some(Phase::Stopping(stopped)) = self.phase(generation, db) else { return };
        stopped.insert(from, content);
        if stopped.len() < members.len() {
            return;
        }
        let stopped = std::mem::take(stopped);
        let Some(database) = self.known.get_mut(&db) else { return };
        if database.held {
            let waits = members.len() - usize::from(planted(Planted::WipeForgetsMember));
            database.phase = Phase::Merging(members.into_iter().take(waits).collect());
            return;
        }
        if database.have.kind == Kind::Volatile {
            out.extend(members.iter().map(|m| (*m, Word::Merge { generation, db })));
            database.phase = Phase::Merging(members);
            return;
        }
        // The best copy; where several are equal the lowest node's.
        let best = stopped.iter().filter_map(|(n, c)| Some(((*c)?, std::cmp::Reverse(*n)))).max();
        let Some((content, std::cmp::Reverse(source))) = best else {
            database.phase = Phase::Failed("no member can read its file".to_owned());
            return;
        };
        let same =
            |c: &Option<Content>| c.is_some_and(|c| (c.seqnum, c.checksum) == (content.seqnum, content.checksum));
        let to: Vec<u32> =
            stopped.iter().filter(|(_, c)| !same(c) && !planted(Planted::ContentsDiffer)).map(|(n, _)| *n).collect();
        database.phase = Phase::Merging(to.iter().copied().collect());
        if !to.is_empty() {
            out.push((source, Word::Source { generation, db, to }));
        }
        self.merged(db, out);
    }

    fn merged(&mut self, db: u32, out: &mut Orders) {
        let Some(database) = self.known.get_mut(&db) else { return };
        if matches!(&database.phase, Phase::Merging(left) if left.is_empty()) {
            database.phase = Phase::Merged;
            self.go(db, out);
        }
    }

    fn go(&mut self, db: u32, out: &mut Orders) {
        if !self.harmless && !planted(Planted::HarmNotAwaited) {
            return;
        }
        let Some(database) = self.known.get_mut(&db).filter(|d| matches!(d.phase, Phase::Merged)) else { return };
        database.phase = Phase::Going;
        let generation = Generation { epoch: self.epoch, attempt: database.attempt };
        database.valid = generation;
        out.extend(self.members.iter().map(|m| (*m, Word::Go { generation, db })));
    }
}

/// Somebody has to know, if nobody is left.
fn masters(members: &BTreeSet<u32>, others: &BTreeSet<u32>) -> Vec<u32> {
    let masters: Vec<u32> = members.difference(others).copied().collect();
    if masters.is_empty() { members.iter().copied().collect() } else { masters }
}
