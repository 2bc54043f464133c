//! A volatile database is taken away from all nodes: `ctdb detach`.
//!
//! The leader stops it on all members, as for a recovery, and asks each whether anybody uses it there; each then keeps its
//! file, so that nobody can begin to. Only when all have said that nobody does are they told to empty and close it, and only
//! when all have done that does the client hear that it is done. Until the leader has decided so, anything else (a member
//! that is lost, a link that breaks, somebody who uses it, no answer for [`PATIENCE`]) makes it an ordinary recovery, and the
//! database goes on with what it had. After that it only can go away: a member that has closed it tells every later leader
//! so, and whoever still has it, having been elsewhere, is told to close it, too, whether it had gone on with it or was just
//! making it.
//!
//! CTDB's daemons ask nobody: they forget it under whoever uses it.

use super::databases::Database;
use super::io::{FileOrder, Level};
use super::{Origin, Server};
use crate::database::Kind;
use crate::recovery::{Answer, Generation};
use crate::wire::ControlReply;
use std::time::Duration;

/// For all members to stop it and to close it. The tool waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// A client waits until a database is detached.
#[derive(Debug)]
pub(super) struct Detaching {
    origins: Vec<Origin>,
    until: Duration,
}

impl Server {
    /// DB_DETACH.
    pub(super) fn detach(&mut self, origin: Origin, id: u32) {
        let allowed = self.attaching_is_allowed();
        let Some(db) = self.dbs.get(&id) else { return };
        let name = db.have.name.clone();
        if allowed {
            let why = format!("{name}: clients may attach databases: set AllowClientDBAttach to 0 on all nodes first");
            return self.answer_error(origin, why);
        }
        if db.have.kind != Kind::Volatile {
            let why = format!("{name} is a {:?} database: only volatile ones are detached", db.have.kind);
            return self.answer_error(origin, why);
        }
        if let Some(detaching) = self.detaching.get_mut(&id) {
            return detaching.origins.push(origin);
        }
        let mut effects = Vec::new();
        if self.is_recovering() || !self.member.detach(id, &mut effects) {
            return self.answer_error(origin, format!("{name} is being recovered"));
        }
        let until = self.now.mono + PATIENCE;
        self.detaching.insert(id, Detaching { origins: vec![origin], until });
        self.log(Level::Info, format!("{name} is to be detached, as a client wants"));
        self.effects(effects);
    }

    pub(super) fn attaching_is_allowed(&self) -> bool {
        self.tunables.named("AllowClientDBAttach") != 0
    }

    /// The leader asks whether anybody here uses it. The file is asked last.
    pub(super) fn vacate(&mut self, id: u32, generation: Generation) {
        let user = match self.dbs.get(&id) {
            _ if self.attaching_is_allowed() => Some("clients may attach databases (AllowClientDBAttach)"),
            Some(db) if !db.attaching.is_empty() => Some("a client attaches it"),
            Some(db) if db.migration.callers().next().is_some() => Some("a client waits for a record of it"),
            _ if self.by_hand.contains_key(&id) => Some("somebody replaces its content"),
            _ => None,
        };
        let Some(why) = user else { return self.order(id, FileOrder::Vacate { generation }) };
        let mut effects = Vec::new();
        self.member.answer(id, generation, Answer::Vacated(Err(why.to_owned())), &mut effects);
        self.effects(effects);
    }

    /// No member uses it: it is no more.
    pub(super) fn leave(&mut self, id: u32) {
        self.end_traverses_over(id);
        self.end_vacuums_of(id);
        self.give_up_by_hand(id, "the database is detached");
        self.order(id, FileOrder::Close);
        self.recovering.remove(&id);
        let Some(db) = self.dbs.remove(&id) else { return };
        let Database { have, attaching, migration, .. } = db;
        self.log(Level::Info, format!("{} is detached", have.name));
        let (given, revoked) = migration.delegations();
        self.delegations_gone.0 += given;
        self.delegations_gone.1 += revoked;
        let why = || format!("{} is detached", have.name);
        for token in migration.callers().collect::<Vec<_>>() {
            if let Some(call) = self.calls.remove(&token) {
                self.call_fails(call.client, call.reqid, why());
            }
        }
        let reads: Vec<_> = self.reads.iter().filter(|(_, (db, _))| *db == id).map(|(token, _)| *token).collect();
        for token in reads {
            if let Some((_, origin)) = self.reads.remove(&token) {
                self.answer_error(origin, why());
            }
        }
        // They came after this node had said that nobody does: they want it anew.
        for origin in attaching {
            self.attach(origin, have.kind, &have.name);
        }
        self.look_whether_recovered();
    }

    /// It has gone on, or goes away, or somebody else decides: who waits is told.
    pub(super) fn detach_ends(&mut self, id: u32, result: Result<(), String>) {
        let Some(Detaching { origins, .. }) = self.detaching.remove(&id) else { return };
        let (status, error) = match result {
            Ok(()) => (0, String::new()),
            Err(why) => {
                let name = self.dbs.get(&id).map_or("?", |db| &db.have.name).to_owned();
                self.log(Level::Warning, format!("{name} is not detached: {why}"));
                (-1, why)
            }
        };
        for origin in origins {
            self.answer(origin, ControlReply { status, data: Vec::new(), error: error.clone() });
        }
    }

    /// Another view.
    pub(super) fn detaching_over(&mut self) {
        for id in self.detaching.keys().copied().collect::<Vec<_>>() {
            self.detach_ends(
                id,
                Err("the cluster has changed meanwhile: see `ctdb getdbmap`, and try again".to_owned()),
            );
        }
    }

    pub(super) fn detaching_due(&mut self) {
        let now = self.now.mono;
        let due: Vec<u32> = self.detaching.iter().filter(|(_, d)| d.until <= now).map(|(id, _)| *id).collect();
        for id in due {
            self.detach_ends(id, Err("not all members have answered in time: see `ctdb getdbmap`".to_owned()));
            if self.dbs.contains_key(&id) {
                self.trouble(id, "it was to be detached, and not all members have answered".to_owned());
            }
        }
    }

    pub(super) fn next_detaching(&self) -> Option<Duration> {
        self.detaching.values().map(|d| d.until).min()
    }
}
