//! The free list: where new records go, and how the file grows.

use crate::db::Tdb;
use crate::error::Result;
use crate::format::{DEAD, FILL, FREE, FREELIST_HEAD, LIVE, RECOVERY_HEAD, Record, growth};
use crate::locks::List;
use crate::ofd::{Kind, Wait};
use crate::records::Walk;

/// A free record of less than this beyond what is asked for is given away whole.
const SMALLEST: u32 = Record::SIZE + 4 + 8;

impl Tdb {
    /// A place for `needed` bytes of key and data: its offset and `rec_len`. The caller has the lock of the chain of
    /// `hash`, and writes the record's header; until then the place is lost to a crash, and no more than that.
    pub(crate) fn allocate(&mut self, hash: u32, needed: u32) -> Result<(u32, u32)> {
        if self.max_dead > 0 {
            // While the free list is busy, somebody's dead record does too. Other chains are only tried: two at a time
            // would be a deadlock.
            for step in 0..self.shape.hash_size {
                let chain = self.shape.chain(hash.wrapping_add(step));
                let list = List::Chain(chain);
                if self.lock_list(list, Kind::Exclusive, Wait::Try)? {
                    let taken = self.take_dead(chain, needed);
                    self.unlock_list(list)?;
                    if let Some(place) = taken? {
                        return Ok(place);
                    }
                }
                if self.lock_list(List::Free, Kind::Exclusive, Wait::Try)? {
                    let place = self.allocate_locked(hash, needed);
                    self.unlock_list(List::Free)?;
                    return place;
                }
            }
        }
        self.under(List::Free, Kind::Exclusive, |db| db.allocate_locked(hash, needed))
    }

    fn allocate_locked(&mut self, hash: u32, needed: u32) -> Result<(u32, u32)> {
        // Also with max_dead 0 there can be some: of traverses that stood on them.
        self.trim_dead(self.shape.chain(hash), 0)?;
        let roomy = u64::from(needed) + u64::from(needed / 4) + 4;
        let length = u32::try_from(roomy.next_multiple_of(4)).map_err(|_| self.too_large())?;
        let mut expanded = false;
        loop {
            match self.best_fit(length)? {
                Fit::Found { from, at } => return self.carve(length, from, at),
                Fit::Merged => {}
                // What was added joined a record that says it is free and is in no list. More would only fill the disk.
                Fit::None if expanded => {
                    return Err(
                        self.corrupt(FREELIST_HEAD, "the free list does not lead to the space at the file's end")
                    );
                }
                Fit::None => {
                    self.expand(length.checked_add(Record::SIZE).ok_or_else(|| self.too_large())?)?;
                    expanded = true;
                }
            }
        }
    }

    /// Walks the free list for the best place, joining neighbours on the way.
    fn best_fit(&mut self, length: u32) -> Result<Fit> {
        let (mut best, mut best_length) = (None, u32::MAX);
        let mut merged_enough = false;
        let mut modest = f64::from(length);
        let mut walk = Walk::default();
        let mut from = FREELIST_HEAD;
        let mut at = self.read_word(from)?;
        while at != 0 {
            if walk.step(at) {
                return Err(self.corrupt(at, "the free list leads back to itself"));
            }
            let record = self.read_free(at)?;
            if let Some((left, joined)) = self.join_left(at, record)? {
                self.write_word(from, record.next)?;
                if best.is_some_and(|(_, best)| best == left) {
                    best_length = joined.rec_len;
                }
                merged_enough |= joined.rec_len > length;
                // The list is shorter now; what was remembered may be gone.
                walk = Walk::default();
                at = record.next;
                continue;
            }
            if record.rec_len >= length && record.rec_len < best_length {
                (best, best_length) = (Some((from, at)), record.rec_len);
            }
            if best.is_some() && f64::from(best_length) < modest {
                break;
            }
            modest *= 1.05;
            from = at;
            at = record.next;
        }
        Ok(match best {
            Some((from, at)) => Fit::Found { from, at },
            None if merged_enough => Fit::Merged,
            None => Fit::None,
        })
    }

    /// Takes `length` bytes, at the end of a free record so that its left neighbours can still be joined, or all of it.
    fn carve(&mut self, length: u32, from: u32, at: u32) -> Result<(u32, u32)> {
        let mut record = self.read_free(at)?;
        if record.rec_len < length + SMALLEST {
            self.write_word(from, record.next)?;
            self.write_header(at, Record { magic: LIVE, ..record })?;
            return Ok((at, record.rec_len));
        }
        record.rec_len -= length + Record::SIZE;
        self.write_header(at, record)?;
        self.write_tailer(at, record.rec_len)?;
        let new = at + Record::SIZE + record.rec_len;
        self.write_header(new, Record { rec_len: length, magic: LIVE, ..Record::default() })?;
        self.write_tailer(new, length)?;
        Ok((new, length))
    }

    fn read_free(&mut self, at: u32) -> Result<Record> {
        if at < self.shape.data_start() {
            return Err(self.corrupt(at, "the free list leads to the hash chains"));
        }
        let mut record = self.read_header(at)?;
        if record.magic == LIVE {
            // Somebody died while deleting it.
            record.magic = FREE;
            self.write_header(at, record)?;
        }
        if record.magic != FREE {
            return Err(self.corrupt(at, "the free list leads to something that is not free"));
        }
        let inside = match record.whole() {
            Some(whole) => self.reaches(at, whole)?,
            None => false,
        };
        if !inside || record.rec_len < 4 {
            return Err(self.corrupt(at, "a free record that does not fit in the file"));
        }
        Ok(record)
    }

    fn write_tailer(&mut self, at: u32, rec_len: u32) -> Result<()> {
        self.write_word(at + Record::SIZE + rec_len - 4, Record::SIZE + rec_len)
    }

    /// If what is left of a record is free, makes it one with the record: the left one's offset and its new header.
    fn join_left(&mut self, at: u32, record: Record) -> Result<Option<(u32, Record)>> {
        let start = self.shape.data_start();
        if at - 4 <= start {
            return Ok(None);
        }
        let length = self.read_word(at - 4)?;
        if length == 0 || length == FILL || length > at - start {
            return Ok(None);
        }
        let left = at - length;
        let mut joined = self.read_header(left)?;
        if joined.magic != FREE || joined.whole() != Some(length) {
            return Ok(None);
        }
        let more = record.whole().and_then(|whole| joined.rec_len.checked_add(whole));
        joined.rec_len = more.ok_or_else(|| self.corrupt(at, "a free record that does not fit in the file"))?;
        self.write_header(left, joined)?;
        self.write_tailer(left, joined.rec_len)?;
        Ok(Some((left, joined)))
    }

    /// Gives a place back. Takes the lock of the free list.
    pub(crate) fn free(&mut self, at: u32, rec_len: u32) -> Result<()> {
        self.under(List::Free, Kind::Exclusive, |db| {
            if rec_len < 4 {
                return Err(db.corrupt(at, "a record too short for its tailer"));
            }
            db.write_tailer(at, rec_len)?;
            let record = Record { rec_len, magic: FREE, ..Record::default() };
            if db.join_left(at, record)?.is_some() {
                return Ok(());
            }
            let next = db.read_word(FREELIST_HEAD)?;
            db.write_header(at, Record { next, ..record })?;
            db.write_word(FREELIST_HEAD, at)
        })
    }

    /// Makes the file at least `needed` bytes longer. The caller has the lock of the free list.
    fn expand(&mut self, needed: u32) -> Result<()> {
        if self.transaction.is_none() {
            self.look_at_size()?;
        }
        self.take_lost_space()?;
        let from = self.size;
        let more = growth(from, needed);
        let size = from.checked_add(more).ok_or_else(|| self.too_large())?;
        match &mut self.transaction {
            Some(overlay) => overlay.expanded = true,
            None => self.storage.extend(from, size).map_err(|error| self.io("cannot make it larger", error))?,
        }
        self.size = size;
        self.free(from, more - Record::SIZE)
    }

    /// Makes the end of the file a free record if a commit was not finished after it had made the file larger: no list
    /// knows that space, and once something stood behind it, it could not be told from damage. For who makes the file
    /// larger: has the lock of the free list.
    pub(crate) fn take_lost_space(&mut self) -> Result<()> {
        let area = self.read_word(RECOVERY_HEAD)?;
        if self.nothing_lost(area)? {
            return Ok(());
        }
        let mut at = self.shape.data_start();
        while self.size - at >= Record::SIZE {
            let record = self.read_header(at)?;
            let known = matches!(record.magic, LIVE | DEAD | FREE) || at == area;
            let end = record.whole().and_then(|whole| at.checked_add(whole)).filter(|end| *end <= self.size);
            match end {
                Some(end) if known => at = end,
                _ if !known && record.is_unused() => {
                    let end = if area > at { area.min(self.size) } else { self.size };
                    self.free_region(at, end - at)?;
                    at = end;
                }
                // Anything else is damage, and not for us to mend.
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether the last record, or the recovery area `area` behind it, ends where the file does.
    fn nothing_lost(&mut self, area: u32) -> Result<bool> {
        let (start, size) = (self.shape.data_start(), self.size);
        let area_ends = if (start..size - Record::SIZE).contains(&area) {
            self.read_header(area)?.whole().and_then(|whole| area.checked_add(whole))
        } else {
            None
        };
        let end = if area_ends == Some(size) { area } else { size };
        if end < start + Record::SIZE {
            return Ok(true);
        }
        let length = self.read_word(end - 4)?;
        if length < Record::SIZE || length > end - start {
            return Ok(false);
        }
        let record = self.read_header(end - length)?;
        Ok(record.whole() == Some(length) && matches!(record.magic, LIVE | DEAD | FREE))
    }

    /// Makes a region of the file one free record, whatever is left of it. Too small for one: it is left to itself.
    pub(crate) fn free_region(&mut self, at: u32, bytes: u32) -> Result<()> {
        let Some(rec_len) = bytes.checked_sub(Record::SIZE).filter(|rec_len| *rec_len >= 4) else { return Ok(()) };
        self.write_tailer(at, rec_len)?;
        let next = self.read_word(FREELIST_HEAD)?;
        self.write_header(at, Record { next, rec_len, magic: FREE, ..Record::default() })?;
        self.write_word(FREELIST_HEAD, at)
    }
}

enum Fit {
    Found {
        from: u32,
        at: u32,
    },
    /// Nothing that fits was passed, but joining made something: walk once more.
    Merged,
    None,
}
