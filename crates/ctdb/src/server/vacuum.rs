//! Emptied records are deleted: those that were reported, and now and then all that a file has.
//!
//! A client that empties a record says so (SCHEDULE_FOR_DELETION), and so does what this server stores; such keys are looked
//! at every `VacuumInterval`. Whoever ends before it has said it leaves a record that nobody knows of: every
//! `VacuumFastPathCount`th time, and when somebody asks for a full run, the file is read for them, too.

use super::io::{FileOrder, Which};
use super::{Origin, Server};
use crate::database::{Kind, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Empty records are deleted this many at a time, so that clients' requests come between.
const AT_ONCE: usize = 500;
/// The next ones follow after this.
const PAUSE: Duration = Duration::from_millis(50);

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Vacuums {
    /// Runs of the clock since the last full one.
    runs: u32,
    /// The last run did not finish: the next one belongs to it.
    goes_on: bool,
    /// Files that are read: for which database, and who waits for what follows.
    sweeps: BTreeMap<u64, (u32, Origin)>,
    /// Who waits until nothing is under way any more about these keys of a database.
    waits: Vec<(u32, BTreeSet<Vec<u8>>, Origin)>,
}

impl Server {
    /// Somebody asks for a run now, and waits until this node has done its part. A record whose location master is
    /// another node is that one's then.
    pub(super) fn vacuum_asked(&mut self, origin: Origin, id: u32, full: bool) {
        let open = self.is_open(id);
        match self.dbs.get(&id) {
            None => self.answer_error(origin, format!("no database {id:#010x}")),
            Some(db) if !open || db.have.kind != Kind::Volatile => self.answer_status(origin, 0),
            Some(_) if full => self.sweep(id, origin),
            Some(_) => self.vacuum_now(id, origin),
        }
    }

    /// Reads the file for empty records that this node holds.
    fn sweep(&mut self, id: u32, origin: Origin) {
        let token = self.next_serial();
        self.vacuums.sweeps.insert(token, (id, origin));
        self.order(id, FileOrder::Traverse { token: Token(token), held_by: Some(self.me), which: Which::Empty });
    }

    /// Records of a file that is read; false: they are somebody else's.
    pub(super) fn swept(&mut self, token: Token, records: &[(Vec<u8>, Vec<u8>)], last: bool) -> bool {
        let Some(&(id, origin)) = self.vacuums.sweeps.get(&token.0) else { return false };
        if let Some(db) = self.dbs.get_mut(&id) {
            db.to_delete.extend(records.iter().map(|(key, _)| key.clone()));
        }
        if last {
            self.vacuums.sweeps.remove(&token.0);
            // Otherwise the clock has them deleted, some at a time.
            if origin != Origin::Nobody {
                self.vacuum_now(id, origin);
            }
        }
        true
    }

    fn vacuum_now(&mut self, id: u32, origin: Origin) {
        let open = self.is_open(id);
        let Some(db) = self.dbs.get_mut(&id).filter(|_| open) else { return self.answer_status(origin, 0) };
        let keys = std::mem::take(&mut db.to_delete);
        let mut out = Vec::new();
        for key in &keys {
            db.migration.vacuum(key, &mut out);
        }
        self.vacuums.waits.push((id, keys, origin));
        self.migrated(id, out);
        self.look_at_vacuums(id);
    }

    /// Something has happened about records of a database: perhaps it was the last that somebody waits for.
    pub(super) fn look_at_vacuums(&mut self, id: u32) {
        if self.vacuums.waits.is_empty() {
            return;
        }
        let Some(db) = self.dbs.get(&id) else { return };
        let mut done = Vec::new();
        self.vacuums.waits.retain_mut(|(of, keys, origin)| {
            if *of == id {
                keys.retain(|key| db.migration.is_vacuuming(key));
                if keys.is_empty() {
                    done.push(*origin);
                    return false;
                }
            }
            true
        });
        done.into_iter().for_each(|origin| self.answer_status(origin, 0));
    }

    /// There is nothing left to delete in a database that is no more.
    pub(super) fn end_vacuums_of(&mut self, id: u32) {
        let mut done = Vec::new();
        let out = &mut self.out;
        self.vacuums.sweeps.retain(|token, (of, origin)| {
            if *of == id {
                out.push(super::Output::File { db: id, order: FileOrder::StopTraverse { token: Token(*token) } });
                done.push(*origin);
            }
            *of != id
        });
        self.vacuums.waits.retain(|(of, _, origin)| {
            if *of == id {
                done.push(*origin);
            }
            *of != id
        });
        done.into_iter().for_each(|origin| self.answer_status(origin, 0));
    }

    /// By the clock: deletes some of the empty records. Returns when to go on.
    pub(super) fn vacuum(&mut self) -> Duration {
        if !self.vacuums.goes_on {
            self.count_run();
        }
        let mut left = AT_ONCE;
        let due: Vec<u32> = self
            .dbs
            .values()
            .filter(|d| d.have.kind == Kind::Volatile && !d.to_delete.is_empty())
            .map(|d| d.have.db)
            .collect();
        for id in due {
            if !self.is_open(id) {
                continue;
            }
            let mut out = Vec::new();
            if let Some(db) = self.dbs.get_mut(&id) {
                while left > 0
                    && let Some(key) = db.to_delete.pop_first()
                {
                    left -= 1;
                    db.migration.vacuum(&key, &mut out);
                }
            }
            self.migrated(id, out);
        }
        self.vacuums.goes_on = left == 0;
        let interval = Duration::from_secs(self.tunables.named("VacuumInterval").max(1).into());
        if left == 0 { PAUSE } else { interval }
    }

    fn count_run(&mut self) {
        self.vacuums.runs += 1;
        let full = self.tunables.named("VacuumFastPathCount");
        if full == 0 || self.vacuums.runs < full {
            return;
        }
        self.vacuums.runs = 0;
        let volatile = self.dbs.values().filter(|d| d.have.kind == Kind::Volatile).map(|d| d.have.db);
        for id in volatile.collect::<Vec<_>>() {
            let read_already = self.vacuums.sweeps.values().any(|(of, _)| *of == id);
            if self.is_open(id) && !read_already {
                self.sweep(id, Origin::Nobody);
            }
        }
    }
}
