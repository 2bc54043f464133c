//! The leader's part of a recovery: when the next step may begin.

use super::word::{Content, Generation, Have, Standing, Word};
use crate::database::Kind;
use crate::planted::{Planted, planted};
use std::collections::{BTreeMap, BTreeSet};

/// Words for members, the leader itself among them.
pub type Orders = Vec<(u32, Word)>;

/// What a database is stopped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Members are to agree about it.
    Recovery,
    /// Its content is replaced by hand, on every member.
    ByHand,
    /// It is to be detached.
    Detach,
}

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
    /// It is to be detached: these have not said whether anybody uses it.
    Vacating(BTreeSet<u32>),
    /// Nobody does: these have it still, or have not said that they have not.
    Leaving(BTreeSet<u32>),
    /// It is detached: no member has it.
    Gone,
    /// It cannot go on, for this reason.
    Failed(String),
}

#[derive(Debug)]
struct Database {
    have: Have,
    attempt: u32,
    /// The last recovery after which a member went on with it.
    valid: Generation,
    /// The last one that has stopped it on a member. None: clients want it, and nobody has had it yet.
    stopped: Generation,
    /// All members were told to go on with it, and no word has been lost since.
    went_on: bool,
    phase: Phase,
    purpose: Purpose,
    /// Of one that is being detached: a client wants it again.
    wanted: bool,
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
    /// Databases that were detached in earlier views, by what members say.
    left: BTreeMap<u32, Generation>,
    harmless: bool,
}

impl Lead {
    /// Begins. `others`: members that are not to know who holds which record, and hold none then. `harmless`: the view dropped nobody, or nobody who could
    /// still do harm.
    pub fn begin(epoch: u64, members: &[u32], others: &BTreeSet<u32>, harmless: bool, out: &mut Orders) -> Self {
        let members: BTreeSet<u32> = members.iter().copied().collect();
        let masters = masters(&members, others);
        out.extend(members.iter().map(|m| (*m, Word::Hello { epoch, masters: masters.clone() })));
        let (known, left) = (BTreeMap::new(), BTreeMap::new());
        Self { epoch, silent: members.clone(), members, masters, known, left, harmless }
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
                Phase::Merging(_) if db.purpose == Purpose::ByHand => "somebody replaces its content by hand",
                Phase::Merging(_) => "members compare what they have",
                Phase::Merged => "a dropped node is not harmless yet",
                Phase::Vacating(_) => "members see whether anybody uses it: it is to be detached",
                Phase::Leaving(_) => "members detach it",
                Phase::Failed(why) => why,
                Phase::Going | Phase::Gone => return None,
            };
            Some((db.have.name.as_str(), why))
        })
    }

    /// Every member has been heard, and every database goes on or cannot.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let over = |phase: &Phase| matches!(phase, Phase::Going | Phase::Gone | Phase::Failed(_));
        self.silent.is_empty() && self.known.values().all(|db| over(&db.phase))
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
                    self.add(have, standing, out);
                }
                if self.silent.is_empty() {
                    let dbs: Vec<u32> = self.known.keys().copied().collect();
                    for db in dbs {
                        self.stop(db, out);
                    }
                    self.finished(out);
                }
            }
            Word::Gone { epoch, left } if epoch == self.epoch => {
                for (db, generation) in left {
                    let last = self.left.entry(db).or_default();
                    *last = generation.max(*last);
                }
            }
            Word::Create { epoch, have } if epoch == self.epoch => {
                let db = have.db;
                self.add(have, Standing::default(), out);
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
                    if self.is_for(db, Purpose::Detach) {
                        self.tell_kept(db, &format!("node {from}: {why}"), out);
                    }
                }
            }
            Word::Hold { generation, db } => {
                if let Some(Phase::Going) = self.phase(generation, db) {
                    self.retry(db, Purpose::ByHand, out);
                }
            }
            Word::Detach { generation, db } => {
                let volatile = self.known.get(&db).is_some_and(|d| d.have.kind == Kind::Volatile);
                if let Some(Phase::Going) = self.phase(generation, db).filter(|_| volatile) {
                    self.retry(db, Purpose::Detach, out);
                }
            }
            Word::Vacated { generation, db, result } => self.vacated(from, generation, db, result, out),
            Word::Left { generation, db } => {
                if let Some(Phase::Leaving(left)) = self.phase(generation, db) {
                    left.remove(&from);
                    self.detached(db, out);
                }
            }
            // One that is being recovered already gets over its trouble by that; one that nobody uses has none.
            Word::Trouble { generation, db, .. } => {
                let recovers = self.is_for(db, Purpose::Recovery);
                match self.phase(generation, db) {
                    None | Some(Phase::Leaving(_) | Phase::Gone) => {}
                    Some(Phase::Stopping(_)) if recovers => {}
                    Some(_) => self.retry(db, Purpose::Recovery, out),
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
        self.known.values_mut().for_each(|d| d.went_on = false);
        let begun: Vec<u32> = self.known.iter().filter(|(_, d)| d.attempt > 0).map(|(db, _)| *db).collect();
        for db in begun {
            match self.known.get(&db).map(|d| &d.phase) {
                // What it was told may be lost, and so may its answer.
                Some(Phase::Leaving(_)) => self.tell_to_leave(db, out),
                Some(Phase::Gone) => {}
                _ => self.retry(db, Purpose::Recovery, out),
            }
        }
    }

    fn retry(&mut self, db: u32, purpose: Purpose, out: &mut Orders) {
        if let Some(database) = self.known.get_mut(&db) {
            database.attempt += 1;
            database.purpose = purpose;
            database.wanted = false;
            database.phase = Phase::Stopping(BTreeMap::new());
            self.stop_again(db, out);
        }
    }

    fn is_for(&self, db: u32, purpose: Purpose) -> bool {
        self.known.get(&db).is_some_and(|d| d.purpose == purpose)
    }

    /// A member has it, and went on with it in this recovery, or in none: then it was half made there when the cluster
    /// changed, or if no recovery has stopped it either a client there wants it.
    fn add(&mut self, have: Have, standing: Standing, out: &mut Orders) {
        let db = have.db;
        // A persistent one that a member takes for volatile (its client attached it so) stays persistent.
        let new = || Database {
            have: have.clone(),
            attempt: 0,
            valid: Generation::default(),
            stopped: Generation::default(),
            went_on: false,
            phase: Phase::Stopping(BTreeMap::new()),
            purpose: Purpose::Recovery,
            wanted: false,
        };
        let known = self.known.entry(db).or_insert_with(new);
        match known.phase {
            // It is made anew when the old one is away everywhere.
            Phase::Leaving(_) => known.wanted |= standing == Standing::default(),
            Phase::Gone => {
                known.have = have;
                self.retry(db, Purpose::Recovery, out);
            }
            _ => {
                known.valid = known.valid.max(standing.opened);
                known.stopped = known.stopped.max(standing.merged);
                if known.attempt == 0 && known.have.kind == Kind::Volatile {
                    known.have.kind = have.kind;
                }
            }
        }
    }

    fn phase(&mut self, generation: Generation, db: u32) -> Option<&mut Phase> {
        let epoch = self.epoch;
        let database = self.known.get_mut(&db)?;
        (generation == Generation { epoch, attempt: database.attempt }).then_some(&mut database.phase)
    }

    fn stop(&mut self, db: u32, out: &mut Orders) {
        let left = self.left.get(&db).copied();
        let Some(database) = self.known.get_mut(&db).filter(|d| d.attempt == 0) else { return };
        database.attempt = 1;
        // Who has it from before has missed its end: it was elsewhere, or the leader was lost in the middle. So has who was
        // told to make it before, where nobody who is here has gone on with it.
        let none = Generation::default();
        let last = if database.valid == none { database.stopped } else { database.valid };
        let missed = last != none && left.is_some_and(|left| left >= last);
        if missed && database.have.kind == Kind::Volatile && !planted(Planted::DetachedComesBack) {
            database.purpose = Purpose::Detach;
            database.phase = Phase::Leaving(self.members.clone());
            self.tell_to_leave(db, out);
        } else {
            self.stop_again(db, out);
        }
    }

    fn stop_again(&self, db: u32, out: &mut Orders) {
        if let Some(database) = self.known.get(&db) {
            let generation = Generation { epoch: self.epoch, attempt: database.attempt };
            let (valid, held) = (database.valid, database.purpose != Purpose::Recovery);
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
        if database.purpose == Purpose::Detach {
            out.extend(members.iter().map(|m| (*m, Word::Vacate { generation, db })));
            database.phase = Phase::Vacating(members);
            return;
        }
        if database.purpose == Purpose::ByHand {
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

    /// A member says whether anybody uses a database that is to be detached.
    fn vacated(&mut self, from: u32, generation: Generation, db: u32, result: Result<(), String>, out: &mut Orders) {
        let members = self.members.clone();
        let Some(phase) = self.phase(generation, db) else { return };
        let Phase::Vacating(missing) = phase else { return };
        if let Err(why) = result {
            self.tell_kept(db, &format!("node {from}: {why}"), out);
            return self.retry(db, Purpose::Recovery, out);
        }
        missing.remove(&from);
        if missing.is_empty() || planted(Planted::DetachForgetsMember) {
            *phase = Phase::Leaving(members);
            self.tell_to_leave(db, out);
        }
    }

    fn tell_kept(&self, db: u32, why: &str, out: &mut Orders) {
        if let Some(database) = self.known.get(&db) {
            let generation = Generation { epoch: self.epoch, attempt: database.attempt };
            let word = Word::Kept { generation, db, why: why.to_owned() };
            out.extend(self.members.iter().map(|m| (*m, word.clone())));
        }
    }

    fn tell_to_leave(&self, db: u32, out: &mut Orders) {
        if let Some(database) = self.known.get(&db) {
            let generation = Generation { epoch: self.epoch, attempt: database.attempt };
            out.extend(self.members.iter().map(|m| (*m, Word::Leave { generation, db })));
        }
    }

    /// Perhaps no member has it any more.
    fn detached(&mut self, db: u32, out: &mut Orders) {
        let Some(database) = self.known.get_mut(&db) else { return };
        if !matches!(&database.phase, Phase::Leaving(left) if left.is_empty()) {
            return;
        }
        database.phase = Phase::Gone;
        let generation = Generation { epoch: self.epoch, attempt: database.attempt };
        // A copy of it that turns up anywhere is from before.
        database.valid = generation;
        out.extend(self.members.iter().map(|m| (*m, Word::Detached { generation, db })));
        if database.wanted {
            self.retry(db, Purpose::Recovery, out);
        }
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
        database.went_on = true;
        let volatile = database.have.kind == Kind::Volatile;
        out.extend(self.members.iter().map(|m| (*m, Word::Go { generation, db })));
        if !volatile {
            self.finished(out);
        }
    }

    /// Perhaps all members have everything that was committed: every database with transactions has gone on at least once. One
    /// that cannot keeps that from being said, for nobody knows who has its newest content.
    fn finished(&self, out: &mut Orders) {
        let has_gone_on = |d: &Database| d.have.kind == Kind::Volatile || d.went_on;
        if self.silent.is_empty() && self.known.values().all(has_gone_on) {
            out.extend(self.members.iter().map(|m| (*m, Word::Finished { epoch: self.epoch })));
        }
    }
}

/// Somebody has to know, if nobody is left.
fn masters(members: &BTreeSet<u32>, others: &BTreeSet<u32>) -> Vec<u32> {
    let masters: Vec<u32> = members.difference(others).copied().collect();
    if masters.is_empty() { members.iter().copied().collect() } else { masters }
}
