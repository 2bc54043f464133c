//! A member's part of a recovery: stops its files, says what is in them, changes them as is decided, goes on.

use super::effect::{Answer, Effect};
use super::finished::Finished;
use super::merge::{Claim, Merge, Verdict};
use super::word::{Edit, Generation, Have, Standing, Word};
use crate::database::Kind;
use crate::hash::lookup3;
use crate::planted::{Planted, planted};
use crate::wire::{LtdbHeader, record_flags as flag};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

/// Records in one [`Word::Settle`] at most.
const SETTLE_AT_ONCE: usize = 4096;

/// Where a database stands on this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Stopped by a change of the view, or new; the leader has not said anything yet.
    Idle,
    /// Waits for the lock on its file.
    Stopping,
    /// Being recovered.
    Stopped,
    /// In use.
    Open,
}

#[derive(Debug)]
struct Database {
    have: Have,
    generation: Generation,
    standing: Standing,
    /// The copy is worth nothing: this node was dropped, or the file is damaged.
    lost: bool,
    phase: Phase,
    /// Its location masters, as the leader says with each recovery.
    masters: Vec<u32>,
    /// This recovery only waits: for somebody who replaces the content by hand, or who has it detached.
    held: bool,
    /// It is to be detached.
    leaving: bool,
    merge: Merge,
    /// Members whose claims are complete.
    complete: BTreeSet<u32>,
    /// Answers that are missing before this location master is done.
    unsettled: usize,
    /// What has come of the content.
    copy: Vec<(Vec<u8>, Vec<u8>)>,
    /// Who gets this one's content.
    targets: Vec<u32>,
}

impl Database {
    fn new(have: Have) -> Self {
        Self {
            have,
            generation: Generation::default(),
            standing: Standing::default(),
            lost: false,
            phase: Phase::Idle,
            masters: Vec::new(),
            held: false,
            leaving: false,
            merge: Merge::default(),
            complete: BTreeSet::new(),
            unsettled: 0,
            copy: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// As the leader is told: the last recovery that stopped it stands for the last that merged it. So one that was half made
    /// when the cluster changed has a date, and one that only a client here wants has none.
    fn known(&self) -> Standing {
        Standing { merged: self.standing.merged.max(self.generation), ..self.standing }
    }

    fn forget_recovery(&mut self) {
        self.merge = Merge::default();
        self.complete.clear();
        self.unsettled = 0;
        self.copy.clear();
        self.targets.clear();
    }
}

/// Keys that a location master has something to ask of one member about.
#[derive(Default)]
struct Orders {
    give: Vec<Vec<u8>>,
    demote: Vec<Vec<u8>>,
    forget: Vec<Vec<u8>>,
}

impl Orders {
    /// As many as go into one word; nothing if there are none left.
    fn some(&mut self) -> Option<Self> {
        let first = |keys: &mut Vec<Vec<u8>>| {
            let rest = keys.split_off(keys.len().min(SETTLE_AT_ONCE));
            mem::replace(keys, rest)
        };
        let part =
            Self { give: first(&mut self.give), demote: first(&mut self.demote), forget: first(&mut self.forget) };
        (!part.give.is_empty() || !part.demote.is_empty() || !part.forget.is_empty()).then_some(part)
    }
}

/// One node's part in recoveries.
#[derive(Debug)]
pub struct Member {
    me: u32,
    epoch: u64,
    leader: Option<u32>,
    members: Vec<u32>,
    /// Location masters, by the leader's newest word.
    masters: Vec<u32>,
    databases: BTreeMap<u32, Database>,
    finished: Finished,
    /// Databases that were detached, each with the recovery that stopped it. Who has one that went on before has missed that.
    left: BTreeMap<u32, Generation>,
}

impl Member {
    /// A node that is in no view yet.
    #[must_use]
    pub fn new(me: u32) -> Self {
        Self {
            me,
            epoch: 0,
            leader: None,
            members: Vec::new(),
            masters: Vec::new(),
            databases: BTreeMap::new(),
            finished: Finished::default(),
            left: BTreeMap::new(),
        }
    }

    /// The phase of a database; nothing if it is not known here.
    #[must_use]
    pub fn phase(&self, db: u32) -> Option<Phase> {
        self.databases.get(&db).map(|d| d.phase)
    }

    /// Under which everything between nodes about this database is said now.
    #[must_use]
    pub fn generation(&self, db: u32) -> Option<Generation> {
        self.databases.get(&db).map(|d| d.generation)
    }

    /// The location masters of this view, in order: its members but those that are stopped or banned, by the leader's newest
    /// word; all members before that.
    #[must_use]
    pub fn masters(&self) -> &[u32] {
        &self.masters
    }

    /// Those of a database.
    #[must_use]
    pub fn masters_of(&self, db: u32) -> &[u32] {
        self.databases.get(&db).map_or(&[], |d| &d.masters)
    }

    /// All databases here.
    pub fn databases(&self) -> impl Iterator<Item = (&Have, Phase)> {
        self.databases.values().map(|d| (&d.have, d.phase))
    }

    /// A file that was found on disk at start.
    pub fn found(&mut self, have: Have) {
        self.databases.entry(have.db).or_insert_with(|| Database::new(have));
    }

    /// A new view. Everything stops until its leader has recovered it.
    pub fn view(&mut self, epoch: u64, members: &[u32], leader: u32, out: &mut Vec<Effect>) {
        self.epoch = epoch;
        self.leader = Some(leader);
        self.members = members.to_vec();
        self.members.sort_unstable();
        self.masters.clone_from(&self.members);
        self.finished.begin();
        self.stop_all(out);
    }

    /// This node is a member no more.
    pub fn dropped(&mut self, out: &mut Vec<Effect>) {
        self.leader = None;
        self.members.clear();
        self.masters.clear();
        self.finished.begin();
        for database in self.databases.values_mut().filter(|d| d.have.kind == Kind::Volatile) {
            // Clients here may have gone on with records that others have by now.
            database.lost = true;
        }
        self.stop_all(out);
    }

    /// A client wants a database. It waits until [`Member::phase`] is open.
    pub fn attach(&mut self, have: Have, out: &mut Vec<Effect>) {
        let (epoch, leader) = (self.epoch, self.leader);
        if let Some(known) = self.databases.get(&have.db)
            && known.phase != Phase::Idle
        {
            return;
        }
        self.found(have.clone());
        // Without a leader it is told of with everything else, when there is one.
        if let Some(to) = leader {
            out.push(Effect::Send { to, word: Word::Create { epoch, have } });
        }
    }

    /// The recovery in which a database waits to have its content replaced by hand, and has its file stopped.
    #[must_use]
    pub fn held(&self, db: u32) -> Option<Generation> {
        self.databases.get(&db).filter(|d| d.held && !d.leaving && d.phase == Phase::Stopped).map(|d| d.generation)
    }

    /// Somebody wants to replace the content of a database by hand: it is to be stopped on all members. False if it is
    /// neither in use nor stopped for that already.
    pub fn hold(&mut self, db: u32, out: &mut Vec<Effect>) -> bool {
        let (Some(to), Some(database)) = (self.leader, self.databases.get(&db)) else { return false };
        match database.phase {
            Phase::Open => {
                out.push(Effect::Send { to, word: Word::Hold { generation: database.generation, db } });
                true
            }
            Phase::Stopping | Phase::Stopped => database.held,
            Phase::Idle => false,
        }
    }

    /// Somebody wants a database away from all nodes. False if it is not in use, or there is no leader.
    pub fn detach(&mut self, db: u32, out: &mut Vec<Effect>) -> bool {
        let (Some(to), Some(database)) = (self.leader, self.databases.get(&db)) else { return false };
        let open = database.phase == Phase::Open;
        if open {
            out.push(Effect::Send { to, word: Word::Detach { generation: database.generation, db } });
        }
        open
    }

    /// Something is wrong with an open database: it is to be recovered.
    pub fn trouble(&mut self, db: u32, why: String, out: &mut Vec<Effect>) {
        if let (Some(to), Some(database)) = (self.leader, self.databases.get(&db))
            && database.phase != Phase::Idle
        {
            out.push(Effect::Send { to, word: Word::Trouble { generation: database.generation, db, why } });
        }
    }

    /// The file of a volatile database is damaged: what is in it is given up, and the others' copies are used.
    pub fn damaged(&mut self, db: u32, why: String, out: &mut Vec<Effect>) {
        if let Some(database) = self.databases.get_mut(&db) {
            database.lost |= database.have.kind == Kind::Volatile;
        }
        self.trouble(db, why, out);
    }

    fn stop_all(&mut self, out: &mut Vec<Effect>) {
        for (id, database) in &mut self.databases {
            if mem::replace(&mut database.phase, Phase::Idle) == Phase::Open {
                out.push(Effect::Suspend(*id));
            }
            database.held = false;
            database.leaving = false;
            database.forget_recovery();
        }
    }

    /// Another member, or the leader, says something. What is of another view or recovery is dropped.
    pub fn word(&mut self, from: u32, word: Word, out: &mut Vec<Effect>) {
        match word {
            Word::Hello { epoch, masters } if epoch == self.epoch && self.leader == Some(from) => {
                self.masters = masters;
                let left: Vec<_> = self.left.iter().map(|(db, generation)| (*db, *generation)).collect();
                if !left.is_empty() {
                    out.push(Effect::Send { to: from, word: Word::Gone { epoch, left } });
                }
                let have = self.databases.values().map(|d| (d.have.clone(), d.known())).collect();
                out.push(Effect::Send { to: from, word: Word::Databases { epoch, have } });
            }
            Word::Stop { generation, have, valid, held, masters }
                if generation.epoch == self.epoch && self.leader == Some(from) =>
            {
                if self.stop(generation, &have, valid, held, out)
                    && let Some(database) = self.databases.get_mut(&have.db)
                {
                    database.masters = masters;
                }
            }
            Word::Merge { generation, db } if self.recovering(generation, db).is_some() => {
                out.push(Effect::Scan { db, generation });
            }
            Word::Claims { generation, db, claims, last } => self.claims(from, generation, db, claims, last, out),
            Word::Settle { generation, db, give, demote, forget } if self.recovering(generation, db).is_some() => {
                let demoted = demote.into_iter().map(|key| (key, Edit::Holder(from)));
                let edits: Vec<_> = demoted.chain(forget.into_iter().map(|key| (key, Edit::Delete))).collect();
                if !edits.is_empty() {
                    out.push(Effect::Edit { db, edits });
                }
                out.push(Effect::Read { db, generation, keys: give, asker: from });
            }
            Word::Settled { generation, db, records } => self.settled(generation, db, records, out),
            Word::Source { generation, db, to } => {
                if let Some(database) = self.recovering(generation, db) {
                    database.targets = to;
                    out.push(Effect::Dump { db, generation });
                }
            }
            Word::Copy { generation, db, mut records, last } => {
                if let Some(database) = self.recovering(generation, db) {
                    database.copy.append(&mut records);
                    if last {
                        let records = mem::take(&mut database.copy);
                        out.push(Effect::Replace { db, generation, records });
                    }
                }
            }
            Word::Vacate { generation, db } if self.leader == Some(from) => {
                if let Some(database) = self.recovering(generation, db) {
                    database.leaving = true;
                    out.push(Effect::Vacate { db, generation });
                }
            }
            Word::Kept { generation, db, why } if self.leader == Some(from) && generation.epoch == self.epoch => {
                out.push(Effect::Kept { db, why });
            }
            Word::Leave { generation, db } if self.leader == Some(from) && generation.epoch == self.epoch => {
                self.leave(from, generation, db, out);
            }
            Word::Detached { generation, db } if self.leader == Some(from) && generation.epoch == self.epoch => {
                out.push(Effect::Detached(db));
            }
            Word::Finished { epoch } if epoch == self.epoch && self.leader == Some(from) => {
                self.finished.everywhere();
                self.look_whether_finished(out);
            }
            Word::Go { generation, db } if self.leader == Some(from) => {
                let members = self.members.clone();
                if let Some(database) = self.recovering(generation, db) {
                    database.phase = Phase::Open;
                    database.standing.opened = generation;
                    database.forget_recovery();
                    let masters = database.masters.clone();
                    if database.have.kind == Kind::Volatile {
                        out.push(Effect::Prune { db, masters: masters.clone() });
                    }
                    out.push(Effect::Thaw { db, generation, masters, members });
                }
            }
            _ => {}
        }
    }

    /// The driver answers what an [`Effect`] asked.
    pub fn answer(&mut self, db: u32, generation: Generation, answer: Answer, out: &mut Vec<Effect>) {
        let Some(leader) = self.leader else { return };
        if answer == Answer::Noted {
            self.finished.noted(db, generation);
            return self.look_whether_finished(out);
        }
        let Some(database) = self.databases.get_mut(&db).filter(|d| d.generation == generation) else { return };
        match answer {
            Answer::Frozen(content) if database.phase == Phase::Stopping => {
                database.phase = Phase::Stopped;
                out.push(Effect::Send { to: leader, word: Word::Stopped { generation, db, content } });
            }
            // The file cannot even be opened: it will never be stopped.
            Answer::Replaced(Err(why)) if database.phase == Phase::Stopping => {
                out.push(Effect::Send { to: leader, word: Word::Failed { generation, db, why } });
            }
            _ if database.phase != Phase::Stopped => {}
            Answer::Frozen(_) => {}
            Answer::Scanned { records, last } => self.scanned(generation, db, records, last, out),
            Answer::Read { asker, records } => {
                out.push(Effect::Send { to: asker, word: Word::Settled { generation, db, records } });
            }
            Answer::Dumped { records, last } => {
                for to in database.targets.clone() {
                    let word = Word::Copy { generation, db, records: records.clone(), last };
                    out.push(Effect::Send { to, word });
                }
            }
            Answer::Vacated(result) => {
                out.push(Effect::Send { to: leader, word: Word::Vacated { generation, db, result } });
            }
            Answer::Replaced(Ok(())) => self.merged(generation, db, out),
            Answer::Replaced(Err(why)) => {
                out.push(Effect::Send { to: leader, word: Word::Failed { generation, db, why } });
            }
            Answer::Noted => {}
        }
    }

    /// Perhaps this node has everything that was committed by now.
    fn look_whether_finished(&mut self, out: &mut Vec<Effect>) {
        let kept = self.databases.iter().filter(|(_, d)| d.have.kind != Kind::Volatile).map(|(db, _)| *db);
        if self.finished.is_news(self.epoch, kept) {
            out.push(Effect::Finished(self.epoch));
        }
    }

    /// It is no more, whatever this node has of it: nobody uses it on any member. Said again when the answer may be lost.
    fn leave(&mut self, leader: u32, generation: Generation, db: u32, out: &mut Vec<Effect>) {
        if self.left.get(&db).is_none_or(|left| *left < generation) {
            self.left.insert(db, generation);
            if self.databases.remove(&db).is_some() {
                out.push(Effect::Leave(db));
            }
        }
        out.push(Effect::Send { to: leader, word: Word::Left { generation, db } });
    }

    fn recovering(&mut self, generation: Generation, db: u32) -> Option<&mut Database> {
        self.databases.get_mut(&db).filter(|d| d.generation == generation && d.phase == Phase::Stopped)
    }

    /// False: that is of the past.
    fn stop(
        &mut self,
        generation: Generation,
        have: &Have,
        valid: Generation,
        held: bool,
        out: &mut Vec<Effect>,
    ) -> bool {
        let db = have.db;
        let known = self.databases.contains_key(&db);
        let database = self.databases.entry(db).or_insert_with(|| Database::new(have.clone()));
        if generation <= database.generation {
            return false;
        }
        database.have.kind = have.kind;
        if !known || database.generation == Generation::default() {
            out.push(Effect::Create(have.clone()));
        }
        // Also when it was stopped already: what came meanwhile under the old generation must not outlive it.
        out.push(Effect::Suspend(db));
        database.forget_recovery();
        database.generation = generation;
        database.phase = Phase::Stopping;
        database.held = held;
        database.leaving = false;
        let kept = planted(Planted::StaleCopiesKept);
        let wipe = !kept && database.have.kind == Kind::Volatile && (database.lost || database.standing.merged < valid);
        out.push(Effect::Freeze { db, generation, wipe });
        true
    }

    fn scanned(
        &mut self,
        generation: Generation,
        db: u32,
        records: Vec<(Vec<u8>, Claim)>,
        last: bool,
        out: &mut Vec<Effect>,
    ) {
        let me = self.me;
        let Some(database) = self.databases.get_mut(&db) else { return };
        let masters = database.masters.clone();
        let mut theirs: BTreeMap<u32, Vec<(Vec<u8>, Claim)>> = BTreeMap::new();
        for (key, claim) in records {
            let master = masters.get(lookup3(&key) as usize % masters.len().max(1)).copied().unwrap_or(me);
            if master == me {
                database.merge.add(me, key, claim);
            } else {
                theirs.entry(master).or_default().push((key, claim));
            }
        }
        let knows = masters.contains(&me);
        for to in masters.into_iter().filter(|m| *m != me) {
            let claims = theirs.remove(&to).unwrap_or_default();
            if last || !claims.is_empty() {
                out.push(Effect::Send { to, word: Word::Claims { generation, db, claims, last } });
            }
        }
        if last && knows {
            database.complete.insert(me);
            self.decide(generation, db, out);
        } else if last {
            // What the location masters ask of it they wait for.
            self.merged(generation, db, out);
        }
    }

    fn claims(
        &mut self,
        from: u32,
        generation: Generation,
        db: u32,
        claims: Vec<(Vec<u8>, Claim)>,
        last: bool,
        out: &mut Vec<Effect>,
    ) {
        let Some(database) = self.recovering(generation, db) else { return };
        for (key, claim) in claims {
            database.merge.add(from, key, claim);
        }
        if last {
            database.complete.insert(from);
            self.decide(generation, db, out);
        }
    }

    /// As location master, when every member has said what it has.
    fn decide(&mut self, generation: Generation, db: u32, out: &mut Vec<Effect>) {
        let me = self.me;
        let members = self.members.len();
        let needed = if planted(Planted::MemberForgotten) { members.saturating_sub(1).max(1) } else { members };
        let Some(database) = self.databases.get_mut(&db).filter(|d| d.complete.len() == needed) else { return };
        let mut edits = Vec::new();
        let mut orders: BTreeMap<u32, Orders> = BTreeMap::new();
        for decision in mem::take(&mut database.merge).decide(&database.masters) {
            let key = decision.key;
            let is_left = decision.verdict != Verdict::Forgotten;
            let told = |n: &u32| is_left && *n != me && !planted(Planted::StaleHolderKept);
            for node in decision.demoted.into_iter().filter(told) {
                orders.entry(node).or_default().demote.push(key.clone());
            }
            match decision.verdict {
                Verdict::Stays(node) if node == me => {}
                Verdict::Stays(node) => edits.push((key, Edit::Holder(node))),
                Verdict::Fetched(node) if node == me => edits.push((key, Edit::Take)),
                Verdict::Fetched(node) => orders.entry(node).or_default().give.push(key),
                Verdict::Forgotten => {
                    for node in decision.copies.into_iter() {
                        if node == me {
                            edits.push((key.clone(), Edit::Delete));
                        } else {
                            orders.entry(node).or_default().forget.push(key.clone());
                        }
                    }
                }
            }
        }
        if !edits.is_empty() {
            out.push(Effect::Edit { db, edits });
        }
        for (to, mut left) in orders {
            while let Some(Orders { give, demote, forget }) = left.some() {
                database.unsettled += 1;
                let word = Word::Settle { generation, db, give, demote, forget };
                out.push(Effect::Send { to, word });
            }
        }
        self.settle(generation, db, out);
    }

    fn settled(&mut self, generation: Generation, db: u32, records: Vec<(Vec<u8>, Vec<u8>)>, out: &mut Vec<Effect>) {
        let me = self.me;
        let Some(database) = self.recovering(generation, db) else { return };
        database.unsettled = database.unsettled.saturating_sub(1);
        let edits: Vec<_> = records
            .into_iter()
            .filter_map(|(key, value)| {
                let (header, data) = LtdbHeader::split(&value).ok()?;
                let flags = header.flags & !flag::READONLY | flag::MIGRATED_WITH_DATA;
                let header = LtdbHeader { rsn: header.rsn + 1, dmaster: me, flags, ..header };
                Some((key, Edit::Value(header.before(data))))
            })
            .collect();
        if !edits.is_empty() {
            out.push(Effect::Edit { db, edits });
        }
        self.settle(generation, db, out);
    }

    fn settle(&mut self, generation: Generation, db: u32, out: &mut Vec<Effect>) {
        if self.databases.get(&db).is_some_and(|d| d.unsettled == 0) {
            self.merged(generation, db, out);
        }
    }

    fn merged(&mut self, generation: Generation, db: u32, out: &mut Vec<Effect>) {
        let (Some(to), Some(database)) = (self.leader, self.databases.get_mut(&db)) else { return };
        database.standing.merged = generation;
        database.lost = false;
        out.push(Effect::Send { to, word: Word::Merged { generation, db } });
    }
}
