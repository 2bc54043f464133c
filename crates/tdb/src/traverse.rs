//! All records, one after the other; and emptying and repacking a database.

use std::ops::ControlFlow;

use crate::db::Tdb;
use crate::error::Result;
use crate::format::{FREELIST_HEAD, LIVE, RECOVERY_HEAD, Record, word};
use crate::locks::{List, TRANSACTION};
use crate::ofd::{Kind, Wait};
use crate::records::{Store, Walk};

/// A record under a traverse.
struct Visit {
    at: u32,
    key: Vec<u8>,
    data: Vec<u8>,
}

impl Tdb {
    /// Calls `each` with every key and its data, and counts them. Others read and write meanwhile: what they store may or
    /// may not be met. `each` may read from the database and not write.
    pub fn traverse_read(
        &mut self,
        each: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        self.read_traverses += 1;
        let result = self.traverse(Kind::Shared, each);
        self.read_traverses -= 1;
        result
    }

    /// As [`traverse_read`](Self::traverse_read), and `each` may write. One at a time: it holds off transactions.
    pub fn traverse_write(
        &mut self,
        each: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        self.writable()?;
        if self.transaction.is_some() {
            return self.traverse(Kind::Exclusive, each);
        }
        // Who has all records locked must not wait for a transaction that waits for them.
        let wait = if self.locks.all.is_some() { Wait::Try } else { Wait::Block };
        if !self.nest(TRANSACTION, Kind::Exclusive, wait)? {
            return Err(crate::Error::Busy { path: self.path.clone() });
        }
        let result = self.traverse(Kind::Exclusive, each);
        self.unnest(TRANSACTION)?;
        result
    }

    fn traverse(
        &mut self,
        kind: Kind,
        mut each: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<u64> {
        let mut heads = Heads::default();
        let mut count = 0;
        for chain in 0..self.shape.hash_size {
            // Without a lock: a chain that somebody begins just now may be left out.
            if heads.get(self, chain)? == 0 {
                continue;
            }
            let mut walk = Walk::default();
            let mut at = 0;
            loop {
                self.lock_list(List::Chain(chain), kind, Wait::Block)?;
                let visit = self.visit_next(chain, at, &mut walk);
                self.unlock_list(List::Chain(chain))?;
                let Some(visit) = visit? else { break };
                at = visit.at;
                count += 1;
                match each(self, &visit.key, &visit.data) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => {
                        self.unlock_record(at)?;
                        return Ok(count);
                    }
                    Err(error) => {
                        self.unlock_record(at)?;
                        return Err(error);
                    }
                }
            }
        }
        Ok(count)
    }

    /// The next living record of a chain after `at` (0: the first), locked; `at` is let go.
    fn visit_next(&mut self, chain: u32, at: u32, walk: &mut Walk) -> Result<Option<Visit>> {
        let next = self.find_next(chain, at, walk);
        if at != 0 {
            self.unlock_record(at)?;
        }
        next
    }

    fn find_next(&mut self, chain: u32, at: u32, walk: &mut Walk) -> Result<Option<Visit>> {
        let mut at = match at {
            0 => self.read_word(self.chain_head(chain))?,
            at => self.chain_record(at)?.next,
        };
        while at != 0 {
            if walk.step(at) {
                return Err(self.corrupt(at, "a hash chain that leads back to itself"));
            }
            let record = self.chain_record(at)?;
            if record.magic == LIVE {
                let mut key = self.read_vec(at + Record::SIZE, record.key_len + record.data_len)?;
                let data = key.split_off(record.key_len as usize);
                self.lock_record(at)?;
                return Ok(Some(Visit { at, key, data }));
            }
            at = record.next;
        }
        Ok(None)
    }

    /// Empties the database, under the lock of all records. Not a transaction by itself: killed in the middle it is empty,
    /// but the space may not be used again.
    pub fn wipe(&mut self) -> Result<()> {
        self.writable()?;
        self.lock_all(Kind::Exclusive, Wait::Block)?;
        let result = self.wipe_locked();
        self.unlock_all()?;
        result
    }

    fn wipe_locked(&mut self) -> Result<()> {
        if self.transaction.is_none() {
            self.look_at_size()?;
        }
        let start = self.shape.data_start();
        let recovery = self.read_word(RECOVERY_HEAD)?;
        let kept = if recovery == 0 {
            None
        } else {
            let end = self.read_header(recovery)?.whole().and_then(|whole| recovery.checked_add(whole));
            match end {
                Some(end) if recovery >= start && end <= self.size => Some((recovery, end)),
                _ => return Err(self.corrupt(recovery, "the recovery area does not fit in the file")),
            }
        };
        self.write(&vec![0; (start - FREELIST_HEAD) as usize], FREELIST_HEAD)?;
        match kept {
            None => self.free_region(start, self.size - start)?,
            // It may only be moved by a commit.
            Some((from, end)) => {
                self.free_region(start, from - start)?;
                self.free_region(end, self.size - end)?;
            }
        }
        self.count_change()
    }

    /// Writes the database anew, so that its free space is in one piece: a transaction that holds all records in memory.
    pub fn repack(&mut self) -> Result<()> {
        self.begin()?;
        let result = self.repack_in_transaction();
        match result {
            Ok(()) => self.commit_once().map(drop),
            Err(error) => {
                self.cancel()?;
                Err(error)
            }
        }
    }

    fn repack_in_transaction(&mut self) -> Result<()> {
        let mut records = Vec::new();
        self.traverse_read(|_, key, data| {
            records.push((key.to_vec(), data.to_vec()));
            Ok(ControlFlow::Continue(()))
        })?;
        self.wipe()?;
        for (key, data) in records {
            self.store(&key, &data, Store::Insert)?;
        }
        Ok(())
    }
}

/// Heads of chains, some thousand at a read.
#[derive(Default)]
struct Heads {
    first: u32,
    bytes: Vec<u8>,
}

impl Heads {
    const AT_ONCE: u32 = 4096;

    fn get(&mut self, db: &mut Tdb, chain: u32) -> Result<u32> {
        let known = u32::try_from(self.bytes.len() / 4).unwrap_or(0);
        if chain < self.first || chain - self.first >= known {
            let count = Self::AT_ONCE.min(db.shape.hash_size - chain);
            self.bytes = db.read_vec(db.chain_head(chain), 4 * count)?;
            self.first = chain;
        }
        Ok(word(&self.bytes, 4 * (chain - self.first) as usize))
    }
}
