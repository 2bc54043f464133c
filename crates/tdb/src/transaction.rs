//! Transactions: all of their writes, or none, whatever dies when.
//!
//! Until the commit nothing is written. A commit then does, in this order (libtdb's, so that either can finish what the
//! other began; "sync" is fdatasync, left out with `NO_SYNC`):
//!
//! 1. all records and OPEN exclusive: nobody reads, nobody opens
//! 2. the file as large as it will be, so that a full disk is an error now and not later
//! 3. the recovery record, with the old content of all that will be overwritten, not yet valid; sync
//! 4. if it has a new place: the header's word that says where; sync
//! 5. the recovery record valid; sync. From here on whoever finds it undoes the rest
//! 6. the new content; sync. From here on it is committed
//! 7. the recovery record not valid; sync; unlock
//!
//! Dead before 5: the old content is there. Dead between 5 and the end of 7: whoever locks or opens the file next finds
//! the valid record and writes the old content back. In step 7 the call has not yet returned: old or new are both right.

use crate::db::Tdb;
use crate::error::Result;
use crate::flags::Flags;
use crate::format::{FREELIST_HEAD, RECOVERY_HEAD, RECOVERY_INVALID, RECOVERY_VALID, Record, word};
use crate::locks::{OPEN, TRANSACTION};
use crate::ofd::{Kind, Wait};
use crate::overlay::Overlay;
use crate::records::Walk;

/// Offset of the magic in a record header.
const MAGIC: u32 = 20;

impl Tdb {
    /// Begins a transaction, waiting for others' and for writers. Readers go on until the commit.
    ///
    /// The handle must be in no traverse, and hold no other locks or the whole database ([`lock_whole`](Self::lock_whole)),
    /// which it then keeps beyond the transaction.
    pub fn begin(&mut self) -> Result<()> {
        self.begin_as(Wait::Block).map(drop)
    }

    /// Begins a transaction if nobody else has one. Writers of single records are waited for. False: somebody has.
    pub fn try_begin(&mut self) -> Result<bool> {
        self.begin_as(Wait::Try)
    }

    fn begin_as(&mut self, wait: Wait) -> Result<bool> {
        self.writable()?;
        if self.transaction.is_some() {
            return Err(self.order("a transaction within a transaction"));
        }
        if self.locks.whole() && self.cursors.is_empty() {
            self.look_at_size()?;
            self.locks.kept = true;
            self.transaction = Some(Overlay::new(self.size));
            return Ok(true);
        }
        if self.locks.all.is_some() || self.locks.holds_any_but_active() || !self.cursors.is_empty() {
            return Err(self.order("a transaction by somebody who holds locks or traverses"));
        }
        if !self.nest(TRANSACTION, Kind::Exclusive, wait)? {
            return Ok(false);
        }
        // Nobody else can hold all records to write while we have TRANSACTION, so this is as good as exclusive.
        let begun = self.lock_all_as(Kind::Shared, Kind::Exclusive, Wait::Block).and_then(|_| self.look_at_size());
        if let Err(error) = begun {
            self.release_transaction_locks()?;
            return Err(error);
        }
        self.transaction = Some(Overlay::new(self.size));
        Ok(true)
    }

    /// Whether a transaction is open.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.transaction.is_some()
    }

    /// Forgets what the transaction has written.
    pub fn cancel(&mut self) -> Result<()> {
        let Some(overlay) = self.transaction.take() else { return Err(self.order("no transaction to cancel")) };
        self.size = overlay.old_size;
        self.release_transaction_locks()
    }

    /// Writes the transaction to the file. On an error nothing of it is there: what was written has been written back,
    /// or will be by whoever uses the file next.
    pub fn commit(&mut self) -> Result<()> {
        if self.commit_once()? {
            // The commit is done: that the rest could not be made tidier is no reason to call it failed.
            if self.repack().is_err() && self.in_transaction() {
                self.cancel()?;
            }
        }
        Ok(())
    }

    /// Commits. True: the free space is in many pieces.
    pub(crate) fn commit_once(&mut self) -> Result<bool> {
        let Some(overlay) = &self.transaction else { return Err(self.order("no transaction to commit")) };
        if overlay.is_empty() {
            return self.cancel().map(|()| false);
        }
        if self.locks.has_lists() || !self.cursors.is_empty() {
            self.cancel()?;
            return Err(self.order("a commit by somebody who holds locks or traverses"));
        }
        let repack = overlay.expanded && self.worth_repacking().unwrap_or(false);
        let result = self.commit_locked();
        self.transaction = None;
        let sized = self.look_at_size();
        if let Err(error) = result {
            // If this does not succeed, whoever locks the file next does it.
            let undone = sized.and_then(|()| self.recover());
            let released = self.release_transaction_locks();
            undone.and(released).ok();
            return Err(error);
        }
        self.release_transaction_locks()?;
        Ok(repack)
    }

    fn sync(&self) -> Result<()> {
        if self.flags.has(Flags::NO_SYNC) {
            return Ok(());
        }
        self.storage.sync().map_err(|error| self.io("cannot write it to the disk", error))
    }

    /// A write to the file itself.
    fn raw_write(&self, bytes: &[u8], at: u32) -> Result<()> {
        self.storage.write(bytes, at).map_err(|error| self.io("cannot write to it", error))
    }

    fn raw_header(&self, at: u32) -> Result<Record> {
        let mut bytes = [0; Record::SIZE as usize];
        self.storage.read(&mut bytes, at).map_err(|error| self.io("cannot read it", error))?;
        Ok(Record::parse(&bytes))
    }

    /// The recovery area of the file as it is on disk: where, and how much fits.
    fn recovery_area(&self) -> Result<Option<(u32, u32)>> {
        let mut bytes = [0; 4];
        self.storage.read(&mut bytes, RECOVERY_HEAD).map_err(|error| self.io("cannot read the header", error))?;
        let at = word(&bytes, 0);
        let size = self.file_size()?;
        if at < self.shape.data_start() || u64::from(at) + u64::from(Record::SIZE) > size {
            return Ok(None);
        }
        let record = self.raw_header(at)?;
        let known = record.magic == RECOVERY_VALID || record.magic == RECOVERY_INVALID;
        let inside = u64::from(at) + u64::from(Record::SIZE) + u64::from(record.rec_len) <= size;
        Ok((known && inside && record.rec_len >= 4).then_some((at, record.rec_len)))
    }

    /// Steps 1 to 7. On an error the caller recovers.
    fn commit_locked(&mut self) -> Result<()> {
        self.upgrade_all()?;
        self.nest(OPEN, Kind::Exclusive, Wait::Block)?;
        let area = self.place_for_recovery()?;
        let Some(overlay) = &self.transaction else { return Err(self.order("no transaction to commit")) };
        let body = self.recovery_body(overlay, &area)?;
        let data_len = u32::try_from(body.len()).map_err(|_| self.too_large())?;
        if data_len > area.capacity {
            return Err(self.corrupt(area.at, "the recovery area came out too small"));
        }
        let record = Record {
            rec_len: area.capacity,
            key_len: self.size,
            data_len,
            magic: RECOVERY_INVALID,
            ..Record::default()
        };
        let mut bytes = record.bytes().to_vec();
        bytes.extend_from_slice(&body);
        self.raw_write(&bytes, area.at)?;
        self.sync()?;
        if area.moved {
            self.raw_write(&area.at.to_ne_bytes(), RECOVERY_HEAD)?;
            self.sync()?;
        }
        self.raw_write(&RECOVERY_VALID.to_ne_bytes(), area.at + MAGIC)?;
        self.sync()?;
        for (at, bytes) in overlay.runs() {
            self.raw_write(bytes, at)?;
        }
        self.sync()?;
        self.storage.touch().map_err(|error| self.io("cannot set its time", error))?;
        self.raw_write(&RECOVERY_INVALID.to_ne_bytes(), area.at + MAGIC)?;
        self.sync()
    }

    fn overlay(&self) -> Result<&Overlay> {
        self.transaction.as_ref().ok_or_else(|| self.order("no transaction to commit"))
    }

    /// Finds or makes a recovery area that is large enough, and makes the file as large as it will be.
    fn place_for_recovery(&mut self) -> Result<Area> {
        let old_size = self.overlay()?.old_size;
        let grown_to = self.size;
        let existing = self.recovery_area()?;
        if let Some((at, capacity)) = existing
            && capacity >= self.body_room(grown_to)?
        {
            self.extend_to(old_size, grown_to)?;
            return Ok(Area { at, capacity, moved: false, grown_to });
        }
        let at = match existing {
            Some((at, capacity)) if at + Record::SIZE + capacity == grown_to => at,
            existing => {
                // A new one at the end: nothing there can be in use, or be overwritten by this transaction. The old place
                // becomes free space as a part of the transaction.
                self.write_word(RECOVERY_HEAD, grown_to)?;
                if let Some((at, capacity)) = existing {
                    self.free(at, capacity)?;
                }
                grown_to
            }
        };
        // More than is needed now, so that it seldom has to move: each time costs a sync more.
        let needed = self.body_room(grown_to)?;
        let end = u64::from(at) + u64::from(Record::SIZE) + 2 * u64::from(needed) + 32 * 1024;
        let end = u32::try_from(end.next_multiple_of(4096)).map_err(|_| self.too_large())?;
        self.extend_to(old_size, end)?;
        self.size = end;
        Ok(Area { at, capacity: end - at - Record::SIZE, moved: at == grown_to, grown_to })
    }

    fn extend_to(&self, from: u32, size: u32) -> Result<()> {
        if size <= from {
            return Ok(());
        }
        self.storage.extend(from, size).map_err(|error| self.io("cannot make it larger", error))
    }

    /// Bytes that the recovery record's body will have, and four that stay 0: nobody shall take the end of the area for
    /// the tailer of a free record.
    fn body_room(&self, grown_to: u32) -> Result<u32> {
        let overlay = self.overlay()?;
        let old = |(at, bytes): (u32, &[u8])| match overlay.old_size.saturating_sub(at) {
            0 => 0,
            there => PIECE + u64::from(there).min(bytes.len() as u64),
        };
        let runs: u64 = overlay.runs().into_iter().map(old).sum();
        let added = if grown_to > overlay.old_size { PIECE + u64::from(Record::SIZE) } else { 0 };
        u32::try_from(runs + added + 8).map_err(|_| self.too_large())
    }

    /// What to write back if the commit is not finished: {offset, length, old bytes}, and the tailer.
    ///
    /// The record says the new size to be the old one: then libtdb leaves the word alone that says where the recovery area
    /// is, and the old value comes back with the rest. What was added to the file must begin with zeros after that, to be
    /// known as space that was never used.
    fn recovery_body(&self, overlay: &Overlay, area: &Area) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        for (at, bytes) in overlay.runs() {
            let there = overlay.old_size.saturating_sub(at) as usize;
            if there == 0 {
                continue;
            }
            let mut old = vec![0; there.min(bytes.len())];
            self.storage.read(&mut old, at).map_err(|error| self.io("cannot read it", error))?;
            push_piece(&mut body, at, &old);
        }
        let added = area.grown_to.saturating_sub(overlay.old_size).min(Record::SIZE);
        if added > 0 {
            push_piece(&mut body, overlay.old_size, &[0; Record::SIZE as usize][..added as usize]);
        }
        body.extend_from_slice(&(Record::SIZE + area.capacity).to_ne_bytes());
        Ok(body)
    }

    /// Undoes a commit that was not finished, ours or libtdb's. The caller has all records and OPEN exclusive, or is the
    /// one that opens.
    pub(crate) fn recover(&mut self) -> Result<()> {
        let Some((at, record)) = self.unfinished()? else { return Ok(()) };
        self.look_at_size()?;
        let old_size = record.key_len;
        if record.data_len > record.rec_len || old_size < self.shape.data_start() || old_size > self.size {
            return Err(self.corrupt(at, "an unfinished commit whose recovery record is not sound"));
        }
        let body = self.read_vec(at + Record::SIZE, record.data_len)?;
        let pieces = parse_pieces(&body, self.size)
            .ok_or_else(|| self.corrupt(at, "an unfinished commit whose recovery record is not sound"))?;
        for (at, bytes) in pieces {
            self.raw_write(bytes, at)?;
        }
        self.sync()?;
        if old_size <= at {
            self.raw_write(&0u32.to_ne_bytes(), RECOVERY_HEAD)?;
        }
        self.raw_write(&RECOVERY_INVALID.to_ne_bytes(), at + MAGIC)?;
        self.sync()?;
        // The file stays as long as it is: others may have it mapped.
        let added = (self.size - old_size).min(Record::SIZE) as usize;
        if added > 0 { self.raw_write(&[0; Record::SIZE as usize][..added], old_size) } else { Ok(()) }
    }

    /// Whether the largest free record is less than half of what is free.
    fn worth_repacking(&mut self) -> Result<bool> {
        let (mut total, mut largest) = (0u64, 0);
        let mut at = self.read_word(FREELIST_HEAD)?;
        let mut walk = Walk::default();
        while at != 0 && !walk.step(at) {
            let record = self.read_header(at)?;
            total += u64::from(record.rec_len);
            largest = largest.max(u64::from(record.rec_len));
            at = record.next;
        }
        Ok(total > 2 * largest)
    }
}

/// Bytes before the content of a piece.
const PIECE: u64 = 8;

/// Where the recovery record goes.
struct Area {
    at: u32,
    capacity: u32,
    /// The header does not say so yet.
    moved: bool,
    /// Bytes of the file with what the transaction has added, without a new recovery area.
    grown_to: u32,
}

fn push_piece(body: &mut Vec<u8>, at: u32, bytes: &[u8]) {
    body.extend_from_slice(&at.to_ne_bytes());
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_ne_bytes());
    body.extend_from_slice(bytes);
}

/// The pieces of a recovery record, if all of them are in a file of `size` bytes.
fn parse_pieces(body: &[u8], size: u32) -> Option<Vec<(u32, &[u8])>> {
    let mut pieces = Vec::new();
    let mut rest = body;
    while rest.len() > 8 {
        let (at, length) = (word(rest, 0), word(rest, 4));
        let bytes = rest.get(8..)?.get(..length as usize)?;
        at.checked_add(length).filter(|end| *end <= size)?;
        pieces.push((at, bytes));
        rest = &rest[8 + bytes.len()..];
    }
    Some(pieces)
}
