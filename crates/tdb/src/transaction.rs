//! Transactions: all of their writes, or none, whatever dies when.
//!
//! Until the commit nothing is written. A commit then does, in this order (libtdb's, so that either can finish what the
//! other began; "sync" is fdatasync, left out with `NO_SYNC`):
//!
//! 1. all records and OPEN exclusive: nobody reads, nobody opens
//! 2. the file as large as it will be, so that a full disk is an error now and not later
//! 3. the recovery record, with the old content of all that will be overwritten, not yet valid; sync
//! 4. the recovery record valid; sync. From here on whoever finds it undoes the rest
//! 5. the new content; sync. From here on it is committed
//! 6. the recovery record not valid; sync; unlock
//!
//! If the record has a new place, it is written valid in step 3, and step 4 is the header's word that says where: until
//! then the old place counts, and what is behind the old end of the file begins with zeros, which is space that was never
//! used. Undoing ends with the old value of that word, when all else is on the disk.
//!
//! Dead before 4: the old content is there. Dead between 4 and the end of 6: whoever locks or opens the file next finds
//! the valid record and writes the old content back. In step 6 the call has not yet returned: old or new are both right.
//! What the file has grown by meanwhile is lost until it grows again ([`Tdb::take_lost_space`]).

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
        if area.longer {
            // First the file's size and only then the area's, and both before anything stands in the new part.
            self.sync()?;
            self.raw_write(&record.bytes(), area.at)?;
            self.sync()?;
        }
        let magic = if area.moved { RECOVERY_VALID } else { RECOVERY_INVALID };
        let mut bytes = Record { magic, ..record }.bytes().to_vec();
        bytes.extend_from_slice(&body);
        self.raw_write(&bytes, area.at)?;
        self.sync()?;
        if area.moved {
            self.raw_write(&area.at.to_ne_bytes(), RECOVERY_HEAD)?;
        } else {
            self.raw_write(&RECOVERY_VALID.to_ne_bytes(), area.at + MAGIC)?;
        }
        self.sync()?;
        for (at, bytes) in overlay.runs() {
            self.raw_write(bytes, at)?;
        }
        self.sync()?;
        self.storage.touch().map_err(|error| self.io("cannot set its time", error))?;
        let done = self.raw_write(&RECOVERY_INVALID.to_ne_bytes(), area.at + MAGIC).and_then(|()| self.sync());
        if done.is_err() {
            // Whether it would be undone after a power cut is not known, so that it is not to be called done: undo it now.
            self.raw_write(&RECOVERY_VALID.to_ne_bytes(), area.at + MAGIC)?;
        }
        done
    }

    fn overlay(&self) -> Result<&Overlay> {
        self.transaction.as_ref().ok_or_else(|| self.order("no transaction to commit"))
    }

    /// Finds or makes a recovery area that is large enough, and makes the file as large as it will be.
    fn place_for_recovery(&mut self) -> Result<Area> {
        let old_size = self.overlay()?.old_size;
        let existing = self.recovery_area()?;
        if let Some((at, capacity)) = existing
            && capacity >= self.body_room(self.size)?
        {
            self.extend_to(old_size, self.size)?;
            return Ok(Area { at, capacity, moved: false, longer: false, grown_to: self.size });
        }
        let at_end = existing.filter(|(at, capacity)| at + Record::SIZE + capacity == self.size).map(|(at, _)| at);
        if at_end.is_none() {
            // A new one at the end: nothing there can be in use, or be overwritten by this transaction. The old place
            // becomes free space as a part of the transaction.
            self.take_lost_space()?;
            if self.size == old_size {
                // Something between them that is zeros as long as the new one does not count.
                self.size = self.size.checked_add(Record::SIZE + APART).ok_or_else(|| self.too_large())?;
                self.free(old_size, APART)?;
            }
            self.write_word(RECOVERY_HEAD, self.size)?;
            if let Some((at, capacity)) = existing {
                self.free(at, capacity)?;
            }
        }
        let grown_to = self.size;
        let at = at_end.unwrap_or(grown_to);
        // More than is needed now, so that it seldom has to move: each time costs syncs.
        let needed = self.body_room(grown_to)?;
        let end = u64::from(at) + u64::from(Record::SIZE) + 2 * u64::from(needed) + 32 * 1024;
        let end = u32::try_from(end.next_multiple_of(4096)).map_err(|_| self.too_large())?;
        self.extend_to(old_size, end)?;
        self.size = end;
        let moved = at_end.is_none();
        Ok(Area { at, capacity: end - at - Record::SIZE, moved, longer: !moved, grown_to })
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
        // The run with the word that says where the area is is cut in three.
        let cut = 2 * PIECE;
        let added = if grown_to > overlay.old_size { 2 * PIECE + u64::from(Record::SIZE) + 4 } else { 0 };
        u32::try_from(runs + cut + added + 8).map_err(|_| self.too_large())
    }

    /// What to write back if the commit is not finished: {offset, length, old bytes}, and the tailer.
    ///
    /// The record says the new size to be the old one: then libtdb leaves the word alone that says where the recovery area
    /// is, and the old value comes back with the rest, as the last of it: before that the record must be found. What was
    /// added to the file must begin and end with zeros after that, to be known as space that was never used.
    fn recovery_body(&self, overlay: &Overlay, area: &Area) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut head = None;
        for (at, bytes) in overlay.runs() {
            let there = overlay.old_size.saturating_sub(at) as usize;
            if there == 0 {
                continue;
            }
            let mut old = vec![0; there.min(bytes.len())];
            self.storage.read(&mut old, at).map_err(|error| self.io("cannot read it", error))?;
            let (parts, word) = around_head(at, &old);
            head = head.or(word);
            parts.into_iter().filter(|(_, old)| !old.is_empty()).for_each(|(at, old)| push_piece(&mut body, at, old));
        }
        let added = area.grown_to.saturating_sub(overlay.old_size);
        if added > 0 {
            let zeros = [0; Record::SIZE as usize];
            push_piece(&mut body, overlay.old_size, &zeros[..added.min(Record::SIZE) as usize]);
            push_piece(&mut body, area.grown_to - added.min(4), &zeros[..added.min(4) as usize]);
        }
        if let Some(head) = head {
            push_piece(&mut body, RECOVERY_HEAD, &head.to_ne_bytes());
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
        let mut head = None;
        for (at, bytes) in pieces {
            let (parts, word) = around_head(at, bytes);
            head = word.or(head);
            for (at, bytes) in parts.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
                self.raw_write(bytes, at)?;
            }
        }
        // The file stays as long as it is: others may have it mapped. What was added shall begin and end with zeros, where
        // the record itself is not.
        let end = at.saturating_add(record.whole().unwrap_or(u32::MAX));
        for (from, length) in [(old_size, (self.size - old_size).min(Record::SIZE)), (self.size - 4, 4)] {
            if length > 0 && from >= old_size && (from + length <= at || from >= end) {
                self.raw_write(&[0; Record::SIZE as usize][..length as usize], from)?;
            }
        }
        self.sync()?;
        if let Some(head) = head.filter(|head| *head != at) {
            // Nobody finds the record any more.
            self.raw_write(&head.to_ne_bytes(), RECOVERY_HEAD)?;
            self.sync()?;
        }
        self.raw_write(&RECOVERY_INVALID.to_ne_bytes(), at + MAGIC)?;
        self.sync()?;
        if old_size <= at {
            self.raw_write(&0u32.to_ne_bytes(), RECOVERY_HEAD)?;
            self.sync()?;
        }
        Ok(())
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
/// Bytes of the free record before a new recovery area where nothing else is between it and the old end of the file.
const APART: u32 = 8;

/// Where the recovery record goes.
struct Area {
    at: u32,
    capacity: u32,
    /// The header does not say so yet.
    moved: bool,
    /// It is where it was, and longer than it says.
    longer: bool,
    /// Bytes of the file with what the transaction has added, without a new recovery area.
    grown_to: u32,
}

fn push_piece(body: &mut Vec<u8>, at: u32, bytes: &[u8]) {
    body.extend_from_slice(&at.to_ne_bytes());
    body.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_ne_bytes());
    body.extend_from_slice(bytes);
}

/// What of a piece stands before and behind the word that says where the recovery area is, and that word.
fn around_head(at: u32, bytes: &[u8]) -> ([(u32, &[u8]); 2], Option<u32>) {
    const END: u32 = RECOVERY_HEAD + 4;
    let length = bytes.len() as u64;
    if at > RECOVERY_HEAD || u64::from(at) + length < u64::from(END) {
        return ([(at, bytes), (at, &[])], None);
    }
    let before = (RECOVERY_HEAD - at) as usize;
    ([(at, &bytes[..before]), (END, &bytes[before + 4..])], Some(word(bytes, before)))
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

#[cfg(test)]
mod tests;
