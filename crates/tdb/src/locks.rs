//! The locks of a database: which bytes of the file stand for what, and which of them this handle holds.
//!
//! | byte | lock |
//! |---|---|
//! | 0 | OPEN: opening, and committing |
//! | 4 | ACTIVE: shared by every handle that was opened with `CLEAR_IF_FIRST`, as long as it is open |
//! | 8 | TRANSACTION: a transaction, or a traverse that writes |
//! | 164 | the free list |
//! | 168 + 4c | chain c |
//! | 168 up to the end | all records: every chain, and the records' own locks |
//! | a record's offset | a traverse stands on it |
//!
//! Order: TRANSACTION, then all records or one chain, then the free list, and OPEN last in a commit. Open-file-description
//! locks are not searched for deadlocks by the kernel, so who breaks the order waits for ever.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::db::Tdb;
use crate::error::{Error, Result};
use crate::format::FREELIST_HEAD;
use crate::ofd::{self, Kind, Wait};

pub(crate) const OPEN: u32 = 0;
pub(crate) const ACTIVE: u32 = 4;
pub(crate) const TRANSACTION: u32 = 8;
const FREELIST: u32 = FREELIST_HEAD - 4;

/// A list of records that has a lock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Free,
    Chain(u32),
}

impl List {
    fn byte(self) -> u32 {
        match self {
            Self::Free => FREELIST,
            Self::Chain(chain) => FREELIST_HEAD + 4 * chain,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Held {
    byte: u32,
    kind: Kind,
    times: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct All {
    pub(crate) kind: Kind,
    times: u32,
}

/// What one handle holds. The kernel does not count: this does.
#[derive(Debug)]
pub(crate) struct Locks {
    enabled: bool,
    held: Vec<Held>,
    pub(crate) all: Option<All>,
    /// The whole database is kept when the transaction that is open ends.
    pub(crate) kept: bool,
    /// Set from elsewhere to end a wait (see `Waiter`).
    pub(crate) cancelled: Option<Arc<AtomicBool>>,
}

impl Locks {
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, held: Vec::new(), all: None, kept: false, cancelled: None }
    }

    pub(crate) fn holds(&self, byte: u32) -> bool {
        self.held.iter().any(|held| held.byte == byte)
    }

    pub(crate) fn holds_any_but_active(&self) -> bool {
        self.held.iter().any(|held| held.byte != ACTIVE)
    }

    /// Whether it holds TRANSACTION and all records to write, and nothing else but ACTIVE.
    pub(crate) fn whole(&self) -> bool {
        let all = self.all.is_some_and(|all| all.kind == Kind::Exclusive);
        all && self.holds(TRANSACTION) && self.held.iter().all(|held| [ACTIVE, TRANSACTION].contains(&held.byte))
    }

    pub(crate) fn has_lists(&self) -> bool {
        self.held.iter().any(|held| held.byte >= FREELIST)
    }
}

impl Tdb {
    pub(crate) fn range_lock(&self, kind: Kind, range: (u32, u32), wait: Wait) -> Result<bool> {
        if !self.locks.enabled {
            return Ok(true);
        }
        let cancelled = self.locks.cancelled.as_deref();
        ofd::lock(self.storage.file(), kind, range, wait, cancelled).map_err(|error| match error.kind() {
            std::io::ErrorKind::Interrupted => Error::Cancelled { path: self.path.clone() },
            _ => self.io("cannot lock it", error),
        })
    }

    pub(crate) fn range_unlock(&self, range: (u32, u32)) -> Result<()> {
        if !self.locks.enabled {
            return Ok(());
        }
        ofd::unlock(self.storage.file(), range).map_err(|error| self.io("cannot unlock it", error))
    }

    /// Locks a byte, or counts it once more.
    pub(crate) fn nest(&mut self, byte: u32, kind: Kind, wait: Wait) -> Result<bool> {
        if let Some(index) = self.locks.held.iter().position(|held| held.byte == byte) {
            if self.locks.held[index].kind < kind {
                if !self.range_lock(kind, (byte, 1), wait)? {
                    return Ok(false);
                }
                self.locks.held[index].kind = kind;
            }
            self.locks.held[index].times += 1;
            return Ok(true);
        }
        let got = self.range_lock(kind, (byte, 1), wait)?;
        if got {
            self.locks.held.push(Held { byte, kind, times: 1 });
        }
        Ok(got)
    }

    pub(crate) fn unnest(&mut self, byte: u32) -> Result<()> {
        let Some(index) = self.locks.held.iter().position(|held| held.byte == byte) else {
            return Err(self.order("unlocked what was not locked"));
        };
        self.locks.held[index].times -= 1;
        if self.locks.held[index].times > 0 {
            return Ok(());
        }
        self.locks.held.swap_remove(index);
        self.range_unlock((byte, 1))
    }

    /// Whether no other handle has it open that was opened with `CLEAR_IF_FIRST`, as this one was. If so nobody else gets one
    /// until [`share`](Self::share), or until this one is closed: whoever opens it waits.
    pub fn try_alone(&mut self) -> Result<bool> {
        if !self.locks.holds(ACTIVE) {
            return Err(self.order("not opened with CLEAR_IF_FIRST, and asked who else has it open"));
        }
        self.nest(ACTIVE, Kind::Exclusive, Wait::Try)
    }

    /// Others may open it again. Nothing, if they may already.
    pub fn share(&mut self) -> Result<()> {
        let alone = self.locks.held.iter().any(|held| held.byte == ACTIVE && held.kind == Kind::Exclusive);
        if alone { self.share_active() } else { Ok(()) }
    }

    /// Shares ACTIVE for the life of the handle.
    pub(crate) fn share_active(&mut self) -> Result<()> {
        self.range_lock(Kind::Shared, (ACTIVE, 1), Wait::Block)?;
        self.locks.held.retain(|held| held.byte != ACTIVE);
        self.locks.held.push(Held { byte: ACTIVE, kind: Kind::Shared, times: 1 });
        Ok(())
    }

    /// Locks a list. Who comes first to a file whose last commit did not finish puts it right.
    pub(crate) fn lock_list(&mut self, list: List, kind: Kind, wait: Wait) -> Result<bool> {
        if let Some(all) = self.locks.all {
            if all.kind < kind {
                return Err(self.order("a write, but all records are locked only to read"));
            }
            return Ok(true);
        }
        if !self.locks.enabled {
            return Ok(true);
        }
        loop {
            let first = !self.locks.has_lists();
            if !self.nest(list.byte(), kind, wait)? {
                return Ok(false);
            }
            if !first {
                return Ok(true);
            }
            match self.unfinished() {
                Ok(None) => return Ok(true),
                Ok(Some(_)) => self.unnest(list.byte())?,
                Err(error) => {
                    self.unnest(list.byte())?;
                    return Err(error);
                }
            }
            if !self.lock_and_recover(wait)? {
                return Ok(false);
            }
        }
    }

    pub(crate) fn unlock_list(&mut self, list: List) -> Result<()> {
        if self.locks.all.is_some() || !self.locks.enabled { Ok(()) } else { self.unnest(list.byte()) }
    }

    /// Runs `work` under the lock of a list, waiting for it.
    pub(crate) fn under<T>(&mut self, list: List, kind: Kind, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.lock_list(list, kind, Wait::Block)?;
        let result = work(self);
        self.unlock_list(list)?;
        result
    }

    fn chain_of(&self, key: &[u8]) -> List {
        List::Chain(self.shape.chain(self.shape.hash.of(key)))
    }

    /// Locks the chain of `key`, waiting. Locks nest: unlock as often.
    ///
    /// A second chain at the same time invites a deadlock, which nobody will notice.
    pub fn lock_chain(&mut self, key: &[u8], kind: Kind) -> Result<()> {
        let list = self.chain_of(key);
        self.lock_list(list, kind, Wait::Block).map(drop)
    }

    /// Locks the chain of `key` if that can be done at once. False: somebody else has it.
    pub fn try_lock_chain(&mut self, key: &[u8], kind: Kind) -> Result<bool> {
        let list = self.chain_of(key);
        self.lock_list(list, kind, Wait::Try)
    }

    /// Undoes one lock of the chain of `key`.
    pub fn unlock_chain(&mut self, key: &[u8]) -> Result<()> {
        let list = self.chain_of(key);
        self.unlock_list(list)
    }

    /// Locks all records. False only with [`Wait::Try`]: somebody else has some.
    ///
    /// It is taken piece by piece, so that those who hold single chains for a short time cannot keep it away for ever.
    pub fn lock_all(&mut self, kind: Kind, wait: Wait) -> Result<bool> {
        match &mut self.locks.all {
            Some(all) if all.kind == kind => {
                all.times += 1;
                return Ok(true);
            }
            Some(_) => return Err(self.order("all records are locked already, in another way")),
            None => {}
        }
        if self.read_only {
            return Err(Error::ReadOnly { path: self.path.clone() });
        }
        if self.locks.has_lists() || self.locks.holds(TRANSACTION) || !self.cursors.is_empty() {
            return Err(self.order("all records asked for by somebody who holds other locks"));
        }
        self.lock_all_as(kind, kind, wait)
    }

    /// Locks TRANSACTION and all records to write, waiting. Nobody else reads, writes or begins a transaction, not even one
    /// that would then wait; this handle may do all of that, transactions included.
    pub fn lock_whole(&mut self) -> Result<()> {
        self.writable()?;
        if self.locks.all.is_some() || self.locks.holds_any_but_active() || !self.cursors.is_empty() {
            return Err(self.order("the whole database asked for by somebody who holds locks or traverses"));
        }
        self.nest(TRANSACTION, Kind::Exclusive, Wait::Block)?;
        if let Err(error) = self.lock_all_as(Kind::Exclusive, Kind::Exclusive, Wait::Block) {
            self.unnest(TRANSACTION)?;
            return Err(error);
        }
        Ok(())
    }

    /// Undoes [`lock_whole`](Self::lock_whole). Not within a transaction.
    pub fn unlock_whole(&mut self) -> Result<()> {
        if self.transaction.is_some() || !self.locks.whole() {
            return Err(self.order("unlocked what was not locked, or is in a transaction"));
        }
        let all = self.unlock_all();
        self.unnest(TRANSACTION).and(all)
    }

    /// As `lock_all`; taken as `kind`, and counted as `counts`.
    pub(crate) fn lock_all_as(&mut self, kind: Kind, counts: Kind, wait: Wait) -> Result<bool> {
        loop {
            if !self.lock_gradually(kind, (FREELIST_HEAD, 4 * self.shape.hash_size), wait)? {
                return Ok(false);
            }
            match self.range_lock(kind, (FREELIST_HEAD + 4 * self.shape.hash_size, 0), wait) {
                Ok(true) => {}
                other => {
                    self.range_unlock((FREELIST_HEAD, 4 * self.shape.hash_size))?;
                    return other;
                }
            }
            match self.unfinished() {
                Ok(None) => {
                    self.locks.all = Some(All { kind: counts, times: 1 });
                    return Ok(true);
                }
                Ok(Some(_)) => self.range_unlock((FREELIST_HEAD, 0))?,
                Err(error) => {
                    self.range_unlock((FREELIST_HEAD, 0))?;
                    return Err(error);
                }
            }
            if !self.lock_and_recover(wait)? {
                return Ok(false);
            }
        }
    }

    /// The whole range at once if it is free, else first the one half and then the other.
    fn lock_gradually(&self, kind: Kind, (from, bytes): (u32, u32), wait: Wait) -> Result<bool> {
        if wait == Wait::Try || bytes <= 4 {
            return self.range_lock(kind, (from, bytes), wait);
        }
        if self.range_lock(kind, (from, bytes), Wait::Try)? {
            return Ok(true);
        }
        let half = bytes / 2;
        self.lock_gradually(kind, (from, half), wait)?;
        if let Err(error) = self.lock_gradually(kind, (from + half, bytes - half), wait) {
            self.range_unlock((from, half))?;
            return Err(error);
        }
        Ok(true)
    }

    /// Undoes one [`lock_all`](Self::lock_all).
    pub fn unlock_all(&mut self) -> Result<()> {
        let Some(all) = &mut self.locks.all else { return Err(self.order("unlocked what was not locked")) };
        all.times -= 1;
        if all.times > 0 {
            return Ok(());
        }
        self.locks.all = None;
        self.range_unlock((FREELIST_HEAD, 0))
    }

    /// From all records to read to all records to write, within a transaction.
    pub(crate) fn upgrade_all(&self) -> Result<()> {
        self.range_lock(Kind::Exclusive, (FREELIST_HEAD, 0), Wait::Block).map(drop)
    }

    fn lock_and_recover(&mut self, wait: Wait) -> Result<bool> {
        // In the order of a commit.
        if !self.range_lock(Kind::Exclusive, (FREELIST_HEAD, 0), wait)? {
            return Ok(false);
        }
        let result = match self.range_lock(Kind::Exclusive, (OPEN, 1), wait) {
            Ok(true) => {
                let recovered = self.recover().map(|()| true);
                self.range_unlock((OPEN, 1))?;
                recovered
            }
            other => other,
        };
        self.range_unlock((FREELIST_HEAD, 0))?;
        for at in &self.cursors {
            self.range_lock(Kind::Shared, (*at, 1), Wait::Block)?;
        }
        result
    }

    /// Lets everything go but ACTIVE, and the whole database if it was held before: the end of a transaction.
    pub(crate) fn release_transaction_locks(&mut self) -> Result<()> {
        let kept = std::mem::take(&mut self.locks.kept);
        let stays = |byte: u32| byte == ACTIVE || (kept && byte == TRANSACTION);
        let mut result = Ok(());
        if !kept && self.locks.all.take().is_some() {
            result = self.range_unlock((FREELIST_HEAD, 0));
        }
        let gone: Vec<u32> = self.locks.held.iter().map(|held| held.byte).filter(|byte| !stays(*byte)).collect();
        self.locks.held.retain(|held| stays(held.byte));
        for byte in gone {
            let unlocked = self.range_unlock((byte, 1));
            result = result.and(unlocked);
        }
        result
    }

    /// Keeps others from reclaiming the record under a traverse.
    pub(crate) fn lock_record(&mut self, at: u32) -> Result<()> {
        if self.locks.all.is_none() {
            self.range_lock(Kind::Shared, (at, 1), Wait::Block)?;
        }
        self.cursors.push(at);
        Ok(())
    }

    pub(crate) fn unlock_record(&mut self, at: u32) -> Result<()> {
        if let Some(index) = self.cursors.iter().rposition(|cursor| *cursor == at) {
            self.cursors.swap_remove(index);
        }
        if self.locks.all.is_some() || self.cursors.contains(&at) {
            return Ok(());
        }
        self.range_unlock((at, 1))
    }

    /// Whether no traverse, here or elsewhere, stands on the record. Our own shared lock would not stand in the way.
    pub(crate) fn nobody_on(&self, at: u32) -> Result<bool> {
        if self.cursors.contains(&at) {
            return Ok(false);
        }
        match self.locks.all {
            Some(all) => Ok(all.kind == Kind::Exclusive),
            None => {
                let got = self.range_lock(Kind::Exclusive, (at, 1), Wait::Try)?;
                if got {
                    self.range_unlock((at, 1))?;
                }
                Ok(got)
            }
        }
    }
}
