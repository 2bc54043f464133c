//! Transactions on databases that every member has all of.
//!
//! Samba serialises them itself (a record of its `g_lock.tdb`), reads from the local file and hands over the changes.
//! The client's node sends them to every member, itself included; each writes them in one transaction of its file, on
//! disk before it answers. All of them did: committed. Anything else is decided by a recovery: the copy with the most
//! transactions becomes everybody's, so a commit is everywhere or nowhere, and the client, told that the recovery
//! ended it, finds out which by the file's sequence number. It is told only then.

use super::migration::Token;
use crate::planted::{Planted, planted};
use crate::recovery::Generation;
use crate::wire::Record;
use std::collections::{BTreeMap, BTreeSet};

/// Status that says "ended by a recovery: see for yourself".
pub const ENDED_BY_RECOVERY: i32 = 2;

/// Said between members about one database, under one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write these.
    Update {
        /// For the answer.
        id: u64,
        /// Keys and whole values.
        records: Vec<Record>,
    },
    /// They are on disk, or why nothing was written.
    Updated {
        /// Of the update.
        id: u64,
        /// The reason.
        result: Result<(), String>,
    },
}

/// An order to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutput {
    /// Tell a member, which may be this node.
    Send {
        /// Node number.
        to: u32,
        /// What.
        change: Change,
    },
    /// Write in one transaction, then say [`Commits::written`]. Refused where a record there is newer than the one to
    /// be written and has other data: then nothing is written.
    Transact {
        /// For the answer.
        asker: u32,
        /// For the answer.
        id: u64,
        /// Keys and whole values.
        records: Vec<Record>,
    },
    /// Answer a client.
    Reply {
        /// Which.
        token: Token,
        /// 0: committed.
        status: i32,
    },
    /// A member could not: a recovery must decide.
    Trouble(String),
}

#[derive(Debug)]
struct Commit {
    token: Token,
    missing: BTreeSet<u32>,
}

/// Transactions of one database on one node; stopped until the first [`Commits::thaw`].
#[derive(Debug, Default)]
pub struct Commits {
    members: Vec<u32>,
    open: bool,
    next: u64,
    /// Of this node's clients.
    running: BTreeMap<u64, Commit>,
    /// Their fate is decided by the recovery that is under way.
    ended: Vec<Token>,
    /// From members that go on already.
    early: Vec<(u32, Change)>,
}

impl Commits {
    /// A client wants to commit.
    ///
    /// # Errors
    /// The database is stopped, or another transaction is being committed: status -1, the client tries again.
    pub fn commit(
        &mut self,
        token: Token,
        records: &[Record],
        out: &mut Vec<CommitOutput>,
    ) -> Result<(), &'static str> {
        if !self.open {
            return Err("the database is being recovered");
        }
        if !self.running.is_empty() {
            return Err("another transaction is being committed");
        }
        self.next += 1;
        let id = self.next;
        self.running.insert(id, Commit { token, missing: self.members.iter().copied().collect() });
        for to in self.members.clone() {
            out.push(CommitOutput::Send { to, change: Change::Update { id, records: records.to_vec() } });
        }
        Ok(())
    }

    /// A member says something under this database's generation. It may go on already while this node does not.
    pub fn change(&mut self, from: u32, change: Change, out: &mut Vec<CommitOutput>) {
        if !self.open {
            self.early.push((from, change));
            return;
        }
        match change {
            Change::Update { id, records } => out.push(CommitOutput::Transact { asker: from, id, records }),
            Change::Updated { id, result: Ok(()) } => {
                if let Some(commit) = self.running.get_mut(&id) {
                    commit.missing.remove(&from);
                    let enough = usize::from(planted(Planted::EarlyCommit));
                    if commit.missing.len() <= enough
                        && let Some(commit) = self.running.remove(&id)
                    {
                        out.push(CommitOutput::Reply { token: commit.token, status: 0 });
                    }
                }
            }
            Change::Updated { id, result: Err(why) } => {
                if self.running.contains_key(&id) {
                    out.push(CommitOutput::Trouble(format!("node {from} could not commit a transaction: {why}")));
                }
            }
        }
    }

    /// The driver has written, or could not. `generation` is that of the order; after a later recovery nobody waits.
    pub fn written(asker: u32, id: u64, result: Result<(), String>, out: &mut Vec<CommitOutput>) {
        out.push(CommitOutput::Send { to: asker, change: Change::Updated { id, result } });
    }

    /// A recovery begins: it decides about what is under way.
    pub fn freeze(&mut self) {
        self.open = false;
        self.early.clear();
        self.ended.extend(std::mem::take(&mut self.running).into_values().map(|c| c.token));
    }

    /// It is over, with these members.
    pub fn thaw(&mut self, members: Vec<u32>, out: &mut Vec<CommitOutput>) {
        self.members = members;
        self.open = true;
        let ended = std::mem::take(&mut self.ended);
        out.extend(ended.into_iter().map(|token| CommitOutput::Reply { token, status: ENDED_BY_RECOVERY }));
        for (from, change) in std::mem::take(&mut self.early) {
            self.change(from, change, out);
        }
    }
}

/// What carries a change, or a migration's message, of one database between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Under<T> {
    /// The sender's.
    pub generation: Generation,
    /// The database.
    pub db: u32,
    /// What is said.
    pub what: T,
}
