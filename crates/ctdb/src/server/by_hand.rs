//! The content of a database is replaced by hand: `ctdb wipedb` and `ctdb restoredb`.
//!
//! The tool asks every active node, step by step: stop the database (DB_FREEZE), begin (DB_TRANSACTION_START), forget
//! everything (WIPE_DATABASE), perhaps take these records (DB_PUSH_START, messages, DB_PUSH_CONFIRM), write
//! (DB_TRANSACTION_COMMIT), go on (DB_THAW). Here that is a recovery of its own kind: the leader stops the database on all
//! members and then waits until each has written what it was given, so it goes on everywhere or, if a step is missing for
//! [`PATIENCE`], a member is lost or anything else recovers it, with what an ordinary recovery makes of the copies.

use super::io::Level;
use super::{Origin, Server};
use crate::control::Opcode;
use crate::database::Kind;
use crate::hash::lookup3;
use crate::node::flags;
use crate::planted::{Planted, planted};
use crate::recovery::{Answer, Effect, Generation};
use crate::wire::{LtdbHeader, RecordBuffer, record_flags as flag};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two steps.
const PATIENCE: Duration = Duration::from_secs(10);
/// The tool may wait for the lock on a file so long.
const STOPPING: Duration = Duration::from_secs(60);
/// Bytes of a database that is restored: they are in memory until the commit.
const MOST: usize = 4 << 30;

/// A database whose content is being replaced.
#[derive(Debug)]
pub(super) struct ByHand {
    /// Who waits for the next thing to be done.
    waiting: Option<Origin>,
    /// It is being written.
    writing: bool,
    /// The new content, once the old one is to be forgotten.
    records: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Records that came, and their bytes.
    pushed: (u32, usize),
    /// By which number they come.
    srvid: Option<u64>,
    /// It is given up then.
    until: Duration,
}

impl Server {
    /// DB_FREEZE.
    pub(super) fn stop_by_hand(&mut self, origin: Origin, id: u32) {
        if self.by_hand.get(&id).is_some_and(|by_hand| by_hand.waiting.is_some()) {
            return self.answer_error(origin, "somebody else stops this database");
        }
        // They would keep the old content, and the tool asks only active nodes.
        if let Some(idle) = self.picture.members.iter().find(|m| self.flags_of(**m) & flags::INACTIVE != 0) {
            let why = format!("node {idle} is stopped or banned and would keep the old content: let it continue first");
            return self.answer_error(origin, why);
        }
        let mut effects = Vec::new();
        if !self.member.hold(id, &mut effects) {
            return self.answer_error(origin, "the database is being recovered");
        }
        let by_hand = ByHand {
            waiting: Some(origin),
            writing: false,
            records: None,
            pushed: (0, 0),
            srvid: None,
            until: self.now.mono + STOPPING,
        };
        if self.by_hand.insert(id, by_hand).is_none() {
            let name = self.dbs.get(&id).map_or("?", |db| &db.have.name).to_owned();
            self.log(Level::Warning, format!("{name} is stopped: a client is about to replace its content"));
        }
        self.effects(effects);
        self.stopped_by_hand(id);
    }

    /// Perhaps it is stopped now, which somebody waits for.
    pub(super) fn stopped_by_hand(&mut self, id: u32) {
        let until = self.now.mono + PATIENCE;
        if self.member.held(id).is_none() {
            return;
        }
        let Some(by_hand) = self.by_hand.get_mut(&id).filter(|b| !b.writing) else { return };
        if let Some(origin) = by_hand.waiting.take() {
            by_hand.until = until;
            self.answer_status(origin, 0);
        }
    }

    /// A step after it was stopped.
    pub(super) fn step_by_hand(&mut self, origin: Origin, opcode: Opcode, id: u32, srvid: u64) {
        if matches!(opcode, Opcode::DB_THAW | Opcode::DB_TRANSACTION_CANCEL) && self.is_open(id) {
            // It was never stopped, or has gone on already.
            self.by_hand.remove(&id);
            return self.answer_status(origin, 0);
        }
        let Some(generation) = self.held_by_hand(id) else {
            self.give_up_by_hand(id, "it was recovered meanwhile");
            return self.answer_error(origin, format!("{opcode}: the database is not stopped, or not any more"));
        };
        let until = self.now.mono + PATIENCE;
        let Some(by_hand) = self.by_hand.get_mut(&id) else { return };
        by_hand.until = until;
        match opcode {
            Opcode::DB_TRANSACTION_START => self.answer_status(origin, 0),
            Opcode::WIPE_DATABASE => {
                by_hand.records = Some(BTreeMap::new());
                self.answer_status(origin, 0);
            }
            Opcode::DB_PUSH_START if by_hand.records.is_some() => {
                by_hand.srvid = Some(srvid);
                by_hand.pushed = (0, 0);
                self.answer_status(origin, 0);
            }
            Opcode::DB_PUSH_CONFIRM if by_hand.srvid.is_some() => {
                by_hand.srvid = None;
                let count = by_hand.pushed.0;
                self.answer_data(origin, count.to_ne_bytes().to_vec());
            }
            Opcode::DB_TRANSACTION_COMMIT if by_hand.records.is_some() && !by_hand.writing => {
                by_hand.writing = true;
                by_hand.waiting = Some(origin);
                by_hand.until = self.now.mono + STOPPING;
                let records = by_hand.records.take().unwrap_or_default();
                let records = self.for_this_node(id, records);
                if records.is_empty() && planted(Planted::WipeWritesNothing) {
                    let mut effects = Vec::new();
                    let answer = Answer::Replaced(Ok(()));
                    self.member.answer(id, generation, answer, &mut effects);
                    self.written_by_hand(id, generation, &Ok(()));
                    return self.effects(effects);
                }
                self.effects(vec![Effect::Replace { db: id, generation, records }]);
            }
            // It goes on when all members have written; if one does not, that is noticed by the clock.
            Opcode::DB_THAW if by_hand.writing => self.answer_status(origin, 0),
            Opcode::DB_THAW | Opcode::DB_TRANSACTION_CANCEL => {
                self.give_up_by_hand(id, "it is let go without new content");
                self.answer_status(origin, 0);
            }
            _ => self.answer_error(origin, format!("{opcode}: a step before this one is missing")),
        }
    }

    /// A message with records for a database that is being replaced.
    pub(super) fn pushed_by_hand(&mut self, srvid: u64, data: &[u8]) {
        let Some((&id, by_hand)) = self.by_hand.iter_mut().find(|(_, b)| b.srvid == Some(srvid)) else { return };
        let taken = match RecordBuffer::get(data) {
            Ok(buffer) if buffer.db == id => Ok(buffer.records),
            Ok(buffer) => Err(format!("records of {:#010x}", buffer.db)),
            Err(error) => Err(error.to_string()),
        };
        match taken {
            Ok(records) => {
                by_hand.until = self.now.mono + PATIENCE;
                let Some(all) = &mut by_hand.records else { return };
                for record in records {
                    by_hand.pushed.0 = by_hand.pushed.0.saturating_add(1);
                    by_hand.pushed.1 += record.key.len() + record.data.len();
                    all.insert(record.key, record.data);
                }
                if by_hand.pushed.1 > MOST {
                    self.give_up_by_hand(id, "more records than this node can take");
                }
            }
            // Their number will be wrong: who pushes them learns it.
            Err(why) => self.log(Level::Warning, format!("records for {id:#010x} cannot be used: {why}")),
        }
    }

    /// The new content of a volatile database is at the location masters, which hold all of it: whoever held a record
    /// when it was saved may be gone. Of the others everybody has everything.
    fn for_this_node(&self, id: u32, records: BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
        if self.dbs.get(&id).is_some_and(|db| db.have.kind != Kind::Volatile) {
            return records.into_iter().collect();
        }
        let masters = self.member.masters_of(id);
        let master = |key: &[u8]| masters.get(lookup3(key) as usize % masters.len().max(1)).copied();
        let mine = records.into_iter().filter(|(key, _)| master(key) == Some(self.me));
        mine.filter_map(|(key, value)| {
            let (header, data) = LtdbHeader::split(&value).ok()?;
            let flags = header.flags & !(flag::READONLY | flag::AUTOMATIC) | flag::MIGRATED_WITH_DATA;
            let header = LtdbHeader { dmaster: self.me, flags, ..header };
            (!data.is_empty()).then(|| (key, header.before(data)))
        })
        .collect()
    }

    /// The file has the new content, or has not.
    pub(super) fn written_by_hand(&mut self, id: u32, generation: Generation, result: &Result<(), String>) {
        let until = self.now.mono + PATIENCE;
        if self.member.held(id) != Some(generation) {
            return;
        }
        let Some(by_hand) = self.by_hand.get_mut(&id).filter(|b| b.writing) else { return };
        by_hand.until = until;
        let Some(origin) = by_hand.waiting.take() else { return };
        match result {
            Ok(()) => self.answer_status(origin, 0),
            Err(why) => self.answer_error(origin, why.clone()),
        }
    }

    /// What was begun and not brought to an end, and when to look again.
    pub(super) fn by_hand_due(&mut self) {
        let now = self.now.mono;
        let due: Vec<u32> = self.by_hand.iter().filter(|(_, b)| b.until <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.give_up_by_hand(id, "the next step did not come");
        }
    }

    pub(super) fn next_by_hand(&self) -> Option<Duration> {
        self.by_hand.values().map(|b| b.until).min()
    }

    /// Another view: every database is recovered anew.
    pub(super) fn by_hand_over(&mut self) {
        for id in self.by_hand.keys().copied().collect::<Vec<_>>() {
            self.give_up_by_hand(id, "the cluster has changed");
        }
    }

    fn held_by_hand(&self, id: u32) -> Option<Generation> {
        self.by_hand.get(&id).filter(|b| b.waiting.is_none())?;
        self.member.held(id)
    }

    pub(super) fn give_up_by_hand(&mut self, id: u32, why: &str) {
        let Some(by_hand) = self.by_hand.remove(&id) else { return };
        if let Some(origin) = by_hand.waiting {
            self.answer_error(origin, why.to_owned());
        }
        // Otherwise it has gone on.
        if self.member.held(id).is_some() && !planted(Planted::RestoreNotUndone) {
            self.trouble(id, format!("its content was to be replaced by hand, and is not: {why}"));
        }
    }
}
