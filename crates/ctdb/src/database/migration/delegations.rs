//! Copies that are only read ("read-only delegations"), in databases that give them.
//!
//! Who wants one asks the location master ([`Message::WantCopy`]), which passes it to the holder
//! ([`Message::Delegate`]); that sends the data straight on ([`Message::Copy`]). The record stays where it is. From then on
//! Samba's processes on both nodes read their own files; the flags in the header tell them that none may write. Before
//! the holder's clients write, or the record goes on, every copy is taken back ([`Message::Revoke`]), and every node has
//! answered ([`Message::Revoked`]): it clears the flag under the chain lock, so that no read that begins later finds it.
//! A copy and its revocation come over one link, in order.
//!
//! Who has a copy is only in the holder's memory. It need not outlive it: when the holder dies, or a link between
//! members breaks, the database is recovered, and a recovery takes all copies back on every member before any goes on
//! ([`crate::database::recovered`]). A dropped node's clients answer nobody once its lease is over, which the
//! recovery waits for as for the records that it held.
//!
//! Writers are not starved: after copies were taken back for a client of the holder, the next readers elsewhere get the
//! value alone, for this once. Readers that then look into their file get the record instead.

use super::{Caller, Function, Job, Message, Output, Pass, flag};
use crate::planted::{Planted, planted};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

/// So many readers get the value alone after a client of the holder had the copies taken back: its turn to write.
const TURN: u8 = 16;

/// Of one record that this node holds.
#[derive(Debug, Default)]
struct Record {
    /// Nodes that have a copy.
    copies: BTreeSet<u32>,
    /// Readers that get the value alone before copies are given again.
    turn: u8,
}

/// Copies of the records that this node holds, and what was done with them.
#[derive(Debug, Default)]
pub(super) struct Delegations {
    /// The database gives copies.
    pub(super) on: bool,
    records: BTreeMap<Vec<u8>, Record>,
    /// Copies given.
    given: u64,
    /// Records whose copies were taken back.
    revoked: u64,
}

impl Delegations {
    /// A recovery takes all copies back.
    pub(super) fn forget(&mut self) {
        self.records.clear();
    }

    /// The record is another node's.
    pub(super) fn gone(&mut self, name: &[u8]) {
        self.records.remove(name);
    }
}

impl super::Migration {
    /// From now on copies of its records are given to nodes that only read.
    pub fn give_copies(&mut self) {
        self.delegations.on = true;
    }

    /// Are they?
    #[must_use]
    pub fn gives_copies(&self) -> bool {
        self.delegations.on
    }

    /// Copies given, and records whose copies were taken back, since the start.
    #[must_use]
    pub fn delegations(&self) -> (u64, u64) {
        (self.delegations.given, self.delegations.revoked)
    }
}

impl Pass<'_> {
    pub(super) fn is_delegated(&self) -> bool {
        self.header.flags & flag::HAVE_DELEGATIONS != 0
    }

    /// A client here wants to read, and the record is elsewhere.
    pub(super) fn read(&mut self, caller: Caller) {
        if self.header.flags & flag::HAVE_READONLY != 0 {
            return self.answer(caller);
        }
        self.key.readers.push(caller);
        if mem::replace(&mut self.key.copy_wanted, true) {
            return;
        }
        let (key, to) = (self.name.to_vec(), self.me);
        if self.master == self.me {
            let holder = self.header.dmaster;
            self.send(holder, Message::Delegate { key, to });
        } else {
            let master = self.master;
            self.send(master, Message::WantCopy { key });
        }
    }

    /// As the location master: `from` wants a copy.
    pub(super) fn want_copy(&mut self, from: u32) {
        if self.master != self.me {
            return self.inconsistent("another node takes this one for the location master");
        }
        if self.is_here() {
            return self.delegate(from);
        }
        if self.key.wanted {
            self.key.parked.push_back(Job::WantCopy { from });
            return;
        }
        let holder = self.header.dmaster;
        if holder == from {
            return self.inconsistent("the holder of a record asks for a copy of it");
        }
        self.send(holder, Message::Delegate { key: self.name.to_vec(), to: from });
    }

    /// As the holder: `to` wants a copy.
    pub(super) fn delegate(&mut self, to: u32) {
        if !self.is_here() && self.key.wanted {
            self.key.parked.push_back(Job::Delegate { to });
            return;
        }
        if !self.is_here() || to == self.me {
            return self.inconsistent("a copy of a record is to be given by a node that does not have it");
        }
        let mut flags = self.header.flags & !(flag::READONLY | flag::AUTOMATIC);
        if self.may_give() {
            flags |= flag::HAVE_READONLY | flag::MIGRATED_WITH_DATA;
            if !self.is_delegated() {
                // Old data stays behind when the copy is taken back: its deletion must be told.
                self.header.flags |= flag::HAVE_DELEGATIONS | flag::MIGRATED_WITH_DATA;
                self.store();
            }
            self.delegations.given += 1;
            self.delegations.records.entry(self.name.to_vec()).or_default().copies.insert(to);
        }
        let (rsn, data) = (self.header.rsn, self.data.clone());
        self.send(to, Message::Copy { key: self.name.to_vec(), rsn, flags, data });
    }

    fn may_give(&mut self) -> bool {
        // An empty record is about to be forgotten.
        if !self.delegations.on || self.data.is_empty() || self.key.revoking.is_some() {
            return false;
        }
        let delegated = self.is_delegated();
        let known = self.delegations.records.get_mut(self.name);
        if delegated {
            // Given by whom, and to whom? It is asked of everybody when it is taken back.
            return known.is_some();
        }
        match known {
            Some(record) if record.turn > 0 => {
                record.turn -= 1;
                false
            }
            _ => true,
        }
    }

    /// What was asked for has come.
    pub(super) fn copy(&mut self, from: u32, rsn: u64, flags: u32, data: Vec<u8>) {
        self.key.copy_wanted = false;
        let readers = mem::take(&mut self.key.readers);
        if self.is_here() {
            self.next.extend(readers.into_iter().map(Job::Call));
            return;
        }
        if flags & flag::HAVE_READONLY == 0 {
            // Nobody keeps the holder from changing it: whoever began to read after the question may have to see that.
            for (n, caller) in readers.into_iter().enumerate() {
                if n > 0 {
                    self.next.push_back(Job::Call(caller));
                } else if caller.function == Function::Fetch {
                    self.then.push(Output::Reply { token: caller.token, data: data.clone() });
                } else {
                    // It looks into the file.
                    self.key.callers.push(caller);
                    self.fetch();
                }
            }
            return;
        }
        if rsn < self.header.rsn {
            self.key.readers = readers;
            return self.inconsistent("a copy is older than one that was here before");
        }
        self.header.rsn = rsn;
        self.header.flags = flags;
        if self.master != self.me {
            // It names the holder to people; at the location master it is the record of who is next.
            self.header.dmaster = from;
        }
        self.data = data;
        self.store();
        readers.into_iter().for_each(|caller| self.answer(caller));
    }

    /// The holder takes the copy back.
    pub(super) fn revoke(&mut self, from: u32) {
        if !self.is_here() && self.header.flags & flag::HAVE_READONLY != 0 {
            self.header.flags &= !flag::READONLY;
            self.store();
        }
        self.send(from, Message::Revoked { key: self.name.to_vec() });
    }

    /// As the holder: this is done when no node reads a copy any more.
    pub(super) fn revoke_for(&mut self, job: Job) {
        self.key.held.push_back(job);
        if self.key.revoking.is_some() {
            return;
        }
        let known = self.delegations.records.remove(self.name);
        let everybody = || self.members.iter().copied().filter(|n| *n != self.me).collect();
        let copies = known.map_or_else(everybody, |record| record.copies);
        self.delegations.revoked += 1;
        self.header.flags |= flag::REVOKING_READONLY;
        self.store();
        if !planted(Planted::RevocationSkipped) {
            for to in &copies {
                self.then.push(Output::Send { to: *to, message: Message::Revoke { key: self.name.to_vec() } });
            }
        }
        self.key.revoking = Some(copies);
        self.revocation_done();
    }

    /// As the holder: nobody there reads it any more.
    pub(super) fn revoked(&mut self, from: u32) {
        if let Some(missing) = &mut self.key.revoking {
            missing.remove(&from);
            self.revocation_done();
        }
    }

    fn revocation_done(&mut self) {
        let skipped = planted(Planted::RevocationSkipped);
        if self.key.revoking.take_if(|missing| missing.is_empty() || skipped).is_none() {
            return;
        }
        self.header.flags &= !flag::READONLY;
        // Counts up: what is written now is newer than every copy.
        self.store();
        self.next = mem::take(&mut self.key.held);
        if self.next.iter().any(|job| matches!(job, Job::Call(_))) {
            self.delegations.records.entry(self.name.to_vec()).or_default().turn = TURN;
        }
    }
}
