//! Databases: attaching, records, transactions, and what recovery does to them.

use super::hot_keys::HotKeys;
use super::io::{ClientId, FileAnswer, FileOrder, Level, Output};
use super::{Origin, Server};
use crate::control::db_flags;
use crate::database::{Change, CommitOutput, Commits, Kind, Message, Migration, Output as Moved, Token, Under, Write};
use crate::database_id;
use crate::peer::Said;
use crate::recovery::{Answer, Effect, Generation, Have, Word};
use crate::wire::RecordBuffer;
use std::collections::BTreeSet;

/// What volatile and replicated databases are opened with: CLEAR_IF_FIRST, NOSYNC, DISALLOW_NESTING, INCOMPATIBLE_HASH.
const VOLATILE_FLAGS: u32 = 0xC41;
/// What persistent ones are opened with: DISALLOW_NESTING.
const PERSISTENT_FLAGS: u32 = 0x400;
/// Added when changes are counted.
const SEQNUM_FLAG: u32 = 0x80;
/// Longest name: it becomes a file's name.
const MAX_NAME: usize = 200;

/// A client that waits for a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) client: ClientId,
    pub(super) reqid: u32,
}

/// One database.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) have: Have,
    /// Its file, once it is open.
    pub(super) path: Option<String>,
    /// Why it cannot be used.
    pub(super) unhealthy: Option<String>,
    pub(super) migration: Migration,
    pub(super) commits: Commits,
    /// Clients that wait until it is in use.
    pub(super) attaching: Vec<Origin>,
    /// Changes are counted in the file.
    pub(super) counts: bool,
    /// The file's sequence number, as far as other nodes know of the changes.
    pub(super) sequence: Option<u32>,
    pub(super) sticky: bool,
    /// Empty records.
    pub(super) to_delete: BTreeSet<Vec<u8>>,
    pub(super) calls: u64,
    pub(super) hot_keys: HotKeys,
    /// Copies given, and records whose copies were taken back, when the counters were set back.
    delegations_before: (u64, u64),
    /// The how-many-th to be opened here.
    pub(super) nth: u64,
}

impl Database {
    pub(super) fn new(me: u32, have: Have) -> Self {
        Self {
            have,
            path: None,
            unhealthy: None,
            migration: Migration::new(me),
            commits: Commits::default(),
            attaching: Vec::new(),
            counts: false,
            sequence: None,
            sticky: false,
            to_delete: BTreeSet::new(),
            calls: 0,
            hot_keys: HotKeys::default(),
            delegations_before: (0, 0),
            nth: 0,
        }
    }

    /// Copies given, and records whose copies were taken back, since the counters were set back.
    pub(super) fn delegations(&self) -> (u64, u64) {
        let ((given, revoked), before) = (self.migration.delegations(), self.delegations_before);
        (given - before.0, revoked - before.1)
    }

    /// Sets the counters back.
    pub(super) fn count_anew(&mut self) {
        self.hot_keys = HotKeys::default();
        self.delegations_before = self.migration.delegations();
    }

    /// As clients see it.
    pub(super) fn flags(&self) -> u8 {
        let kind = match self.have.kind {
            Kind::Volatile => 0,
            Kind::Persistent => db_flags::PERSISTENT,
            Kind::Replicated => db_flags::REPLICATED,
        };
        let readonly = if self.migration.gives_copies() { db_flags::READONLY } else { 0 };
        let sticky = if self.sticky { db_flags::STICKY } else { 0 };
        kind | readonly | sticky
    }

    /// With which flags clients open the file.
    pub(super) fn open_flags(&self) -> u32 {
        let kind = if self.have.kind == Kind::Persistent { PERSISTENT_FLAGS } else { VOLATILE_FLAGS };
        kind | if self.counts { SEQNUM_FLAG } else { 0 }
    }
}

impl Server {
    pub(super) fn attach(&mut self, origin: Origin, kind: Kind, name: &str) {
        if !self.attaching_is_allowed() {
            return self.answer_error(origin, "attaching is not allowed (AllowClientDBAttach)");
        }
        if name.is_empty() || name.len() > MAX_NAME || name.contains('/') || name.starts_with('.') {
            return self.answer_error(origin, format!("{name:?} cannot be a database's name"));
        }
        let id = database_id(name);
        let have = Have { db: id, name: name.to_owned(), kind };
        let me = self.me;
        let open = self.is_open(id);
        let db = self.dbs.entry(id).or_insert_with(|| Database::new(me, have.clone()));
        if db.have.name != name {
            let why = format!("{name:?} has the same hash as {:?}: one of them must be renamed", db.have.name);
            self.log(Level::Error, why.clone());
            return self.answer_error(origin, why);
        }
        if kind != Kind::Volatile && db.have.kind != kind {
            let why = format!("{name} is a {:?} database, not a {kind:?} one", db.have.kind);
            self.log(Level::Error, why.clone());
            return self.answer_error(origin, why);
        }
        if let Some(why) = db.unhealthy.clone() {
            return self.answer_error(origin, why);
        }
        if db.path.is_some() && open {
            return self.answer_data(origin, id.to_ne_bytes().to_vec());
        }
        db.attaching.push(origin);
        let mut effects = Vec::new();
        self.member.attach(have, &mut effects);
        self.effects(effects);
    }

    /// Those who wait for it have it now.
    fn attached(&mut self, id: u32) {
        let open = self.is_open(id);
        let Some(db) = self.dbs.get_mut(&id) else { return };
        if open && db.path.is_some() {
            for origin in std::mem::take(&mut db.attaching) {
                self.answer_data(origin, id.to_ne_bytes().to_vec());
            }
        }
    }

    /// What the migration of a database wants done.
    pub(super) fn migrated(&mut self, id: u32, mut out: Vec<Moved>) {
        for output in out.drain(..) {
            match output {
                Moved::Lock(key) => self.order(id, FileOrder::Lock { key }),
                Moved::Unlock { key, write } => self.order(id, FileOrder::Unlock { key, write }),
                Moved::Send { to, message } => {
                    if let Some(generation) = self.member.generation(id) {
                        self.send(to, Said::Migration(Under { generation, db: id, what: message }));
                    }
                }
                Moved::Reply { token, data } => self.call_done(token, data),
                Moved::DeleteLater(key) => {
                    if let Some(db) = self.dbs.get_mut(&id) {
                        db.to_delete.insert(key);
                    }
                }
                Moved::Inconsistent { why } => self.trouble(id, why),
            }
        }
        self.moved = out;
        self.look_at_vacuums(id);
    }

    /// Another node says something about a record.
    pub(super) fn migration(&mut self, from: u32, under: Under<Message>) {
        let Under { generation, db: id, what } = under;
        // What is of an older recovery has been decided anew.
        if self.member.generation(id) != Some(generation) {
            return;
        }
        if let Some(db) = self.dbs.get_mut(&id) {
            let mut out = std::mem::take(&mut self.moved);
            db.migration.message(from, what, &mut out);
            self.migrated(id, out);
        }
    }

    pub(super) fn commit(&mut self, origin: Origin, buffer: RecordBuffer) {
        let RecordBuffer { db: id, records } = buffer;
        let token = Token(self.next_serial());
        let open = self.is_open(id);
        let Some(db) = self.dbs.get_mut(&id) else {
            return self.answer_error(origin, format!("no database {id:#010x}"));
        };
        if db.have.kind == Kind::Volatile {
            let why = format!("{} has no transactions: it is volatile", db.have.name);
            return self.answer_error(origin, why);
        }
        if !open {
            return self.answer_error(origin, "the database is being recovered");
        }
        let mut out = Vec::new();
        match db.commits.commit(token, &records, &mut out) {
            Ok(()) => {
                self.reads.insert(token, (id, origin));
                self.committed(id, out);
            }
            Err(why) => self.answer_error(origin, why),
        }
    }

    /// A client wants a record written as it is. The original writes into this node's copy only; here every member has it
    /// before the answer, as of a transaction. In a volatile database that would be a second holder's word: refused.
    pub(super) fn update_record(&mut self, origin: Origin, buffer: RecordBuffer) {
        if self.dbs.get(&buffer.db).is_some_and(|db| db.have.kind == Kind::Volatile) {
            let why = "a record of a volatile database is changed by its holder, under its lock";
            return self.answer_error(origin, why);
        }
        self.commit(origin, buffer);
    }

    fn committed(&mut self, id: u32, out: Vec<CommitOutput>) {
        let Some(generation) = self.member.generation(id) else { return };
        for output in out {
            match output {
                CommitOutput::Send { to, change } => {
                    self.send(to, Said::Commit(Under { generation, db: id, what: change }));
                }
                CommitOutput::Transact { asker, id: number, records } => {
                    self.order(id, FileOrder::Transact { generation, asker, id: number, records });
                }
                CommitOutput::Reply { token, status } => {
                    if let Some((_, origin)) = self.reads.remove(&token) {
                        self.answer_status(origin, status);
                    }
                }
                CommitOutput::Trouble(why) => self.trouble(id, why),
            }
        }
    }

    /// A member, or this node, says something about a transaction.
    pub(super) fn change(&mut self, from: u32, under: Under<Change>) {
        let Under { generation, db: id, what } = under;
        if self.member.generation(id) != Some(generation) {
            return;
        }
        if let Some(db) = self.dbs.get_mut(&id) {
            let mut out = Vec::new();
            db.commits.change(from, what, &mut out);
            self.committed(id, out);
        }
    }

    /// It must be recovered: nodes do not agree about it.
    pub(super) fn trouble(&mut self, id: u32, why: String) {
        let name = self.dbs.get(&id).map_or("?", |db| &db.have.name).to_owned();
        self.log(Level::Error, format!("{name} is recovered again: {why}"));
        let mut effects = Vec::new();
        self.member.trouble(id, why, &mut effects);
        self.effects(effects);
    }

    /// A word of a recovery.
    pub(super) fn word(&mut self, from: u32, word: Word) {
        let epoch = word.epoch();
        if epoch > self.picture.epoch {
            // The sender has learned of a view that this node will learn of.
            self.early.push((from, word));
            return;
        }
        if word.is_for_leader() {
            let mut orders = Vec::new();
            if let Some(lead) = &mut self.lead {
                lead.word(from, word, &mut orders);
            }
            self.orders(orders);
        } else {
            let mut effects = Vec::new();
            self.member.word(from, word, &mut effects);
            self.effects(effects);
        }
    }

    pub(super) fn orders(&mut self, orders: Vec<(u32, Word)>) {
        for (to, word) in orders {
            self.send(to, Said::Recovery(word));
        }
    }

    /// What recovery wants done on this node.
    pub(super) fn effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, word } => self.send(to, Said::Recovery(word)),
                Effect::Create(have) => {
                    let me = self.me;
                    let db = self.dbs.entry(have.db).or_insert_with(|| Database::new(me, have.clone()));
                    db.have.kind = have.kind;
                    if db.path.is_none() {
                        self.order(have.db, FileOrder::Open(have));
                    }
                }
                Effect::Suspend(id) => {
                    self.recovering.insert(id);
                    if let Some(db) = self.dbs.get_mut(&id) {
                        db.migration.freeze();
                        db.commits.freeze();
                    }
                    self.look_at_vacuums(id);
                }
                Effect::Freeze { db, generation, wipe } => {
                    self.recovering.insert(db);
                    self.order(db, FileOrder::Freeze { generation, wipe });
                }
                Effect::Scan { db, generation } => self.order(db, FileOrder::Scan { generation }),
                Effect::Edit { db, edits } => self.order(db, FileOrder::Edit { edits }),
                Effect::Read { db, generation, keys, asker } => {
                    self.order(db, FileOrder::Read { generation, keys, asker });
                }
                Effect::Dump { db, generation } => self.order(db, FileOrder::Dump { generation }),
                Effect::Replace { db, generation, records } => {
                    self.order(db, FileOrder::Replace { generation, records });
                }
                Effect::Prune { db, masters } => self.order(db, FileOrder::Prune { masters }),
                Effect::Vacate { db, generation } => self.vacate(db, generation),
                Effect::Leave(db) => self.leave(db),
                Effect::Kept { db, why } => self.detach_ends(db, Err(why)),
                Effect::Detached(db) => self.detach_ends(db, Ok(())),
                Effect::Finished(epoch) => self.out.push(Output::Recovered { epoch }),
                Effect::Thaw { db, generation, masters, members } => self.thaw(db, generation, masters, members),
            }
        }
    }

    fn thaw(&mut self, id: u32, generation: Generation, masters: Vec<u32>, members: Vec<u32>) {
        self.order(id, FileOrder::Thaw { generation });
        if let Some(db) = self.dbs.get_mut(&id) {
            let (mut moved, mut committed) = (Vec::new(), Vec::new());
            // Of transactions every member keeps its copy, stopped or not.
            db.migration.thaw(masters, members.clone(), &mut moved);
            db.commits.thaw(members, &mut committed);
            self.migrated(id, moved);
            self.committed(id, committed);
        }
        self.attached(id);
        self.detach_ends(id, Err("it was recovered meanwhile: try again".to_owned()));
        self.recovering.remove(&id);
        self.look_whether_recovered();
    }

    /// A file answers.
    pub(super) fn file_answers(&mut self, id: u32, answer: FileAnswer) {
        match answer {
            FileAnswer::Opened(result) => self.opened(id, result),
            FileAnswer::Locked { key, value } => {
                let mut out = std::mem::take(&mut self.moved);
                match self.dbs.get_mut(&id) {
                    Some(db) => db.migration.locked(&key, value.as_deref(), &mut out),
                    None => out.push(Moved::Unlock { key, write: Write::Nothing }),
                }
                self.migrated(id, out);
            }
            FileAnswer::Recovery { generation, answer } => {
                if let Answer::Replaced(result) = &answer {
                    self.written_by_hand(id, generation, result);
                }
                let mut effects = Vec::new();
                self.member.answer(id, generation, answer, &mut effects);
                self.effects(effects);
                self.stopped_by_hand(id);
            }
            FileAnswer::Written { generation, asker, id: number, result } => {
                // After a later recovery nobody waits for it.
                if self.member.generation(id) == Some(generation) {
                    let mut out = Vec::new();
                    Commits::written(asker, number, result, &mut out);
                    self.committed(id, out);
                }
            }
            FileAnswer::Fetched { token, value } => self.fetched(token, value),
            FileAnswer::Traversed { token, records, last } => self.file_traversed(token, records, last),
            FileAnswer::Sequence(n) => self.sequence(id, n),
            FileAnswer::Counting(n) => self.counting(id, n),
            FileAnswer::Bumped => self.bumped(id),
            FileAnswer::Damaged(why) => {
                self.log(Level::Error, why.clone());
                let mut effects = Vec::new();
                self.member.damaged(id, why, &mut effects);
                self.effects(effects);
            }
        }
    }

    fn opened(&mut self, id: u32, result: Result<String, String>) {
        let Some(db) = self.dbs.get_mut(&id) else { return };
        match result {
            Ok(path) => {
                if db.path.replace(path).is_none() {
                    self.opened += 1;
                    db.nth = self.opened;
                }
                db.unhealthy = None;
                if db.counts {
                    self.order(id, FileOrder::CountChanges);
                }
                self.attached(id);
            }
            Err(why) => {
                db.unhealthy = Some(why.clone());
                let waiting = std::mem::take(&mut db.attaching);
                self.log(Level::Error, why.clone());
                for origin in waiting {
                    self.answer_error(origin, why.clone());
                }
                if let Some(generation) = self.member.generation(id) {
                    let mut effects = Vec::new();
                    self.member.answer(id, generation, Answer::Replaced(Err(why)), &mut effects);
                    self.effects(effects);
                }
            }
        }
    }
}
