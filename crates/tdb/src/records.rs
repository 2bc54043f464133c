//! Records: find, fetch, store, delete.

use crate::db::Tdb;
use crate::error::{Error, Result};
use crate::format::{DEAD, FREELIST_HEAD, LIVE, Record};
use crate::locks::List;
use crate::ofd::{Kind, Wait};

/// What to do about a record that is there already, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Write it in any case.
    Replace,
    /// Only if there is none: else [`Error::Exists`].
    Insert,
    /// Only if there is one: else nothing is written, and the answer is false.
    Modify,
}

/// Notices that a list leads back to where it was (Brent's method): a corrupt file must not make us run for ever.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    seen: u32,
    steps: u32,
    until: u32,
}

impl Walk {
    /// One step, to `at`. True: there before.
    pub(crate) fn step(&mut self, at: u32) -> bool {
        if at != 0 && at == self.seen {
            return true;
        }
        self.steps += 1;
        if self.steps > self.until {
            self.until = self.steps.saturating_mul(2);
            self.seen = at;
        }
        false
    }
}

/// A record that was found, with what of its key and data came along when its header was read.
pub(crate) struct Found {
    pub(crate) at: u32,
    pub(crate) record: Record,
    start: Vec<u8>,
}

impl Tdb {
    pub(crate) fn chain_head(&self, chain: u32) -> u32 {
        FREELIST_HEAD + 4 + 4 * chain
    }

    /// Checks a record header of a chain.
    pub(crate) fn sane(&mut self, at: u32, record: Record) -> Result<()> {
        if record.magic != LIVE && record.magic != DEAD {
            return Err(self.corrupt(at, "a hash chain leads to something that is no record"));
        }
        let inside = match record.whole() {
            Some(whole) => self.reaches(at, whole)?,
            None => false,
        };
        if !inside || (record.magic == LIVE && !record.holds_its_content()) {
            return Err(self.corrupt(at, "a record longer than its place"));
        }
        if record.next != 0 && record.next < self.shape.data_start() {
            return Err(self.corrupt(at, "a record whose next one is among the hash chains"));
        }
        Ok(())
    }

    /// Reads a record of a chain: its header and up to `more` bytes after it.
    fn read_record(&mut self, at: u32, more: u32) -> Result<(Record, Vec<u8>)> {
        if at < self.shape.data_start() {
            return Err(self.corrupt(at, "a hash chain leads to the hash chains"));
        }
        if !self.reaches(at, Record::SIZE)? {
            return Err(self.corrupt(at, "a hash chain leads beyond the end of the file"));
        }
        let length = (Record::SIZE + more).min(self.size - at);
        let mut bytes = self.read_vec(at, length)?;
        let record = Record::parse(&bytes);
        self.sane(at, record)?;
        bytes.drain(..Record::SIZE as usize);
        Ok((record, bytes))
    }

    pub(crate) fn chain_record(&mut self, at: u32) -> Result<Record> {
        self.read_record(at, 0).map(|(record, _)| record)
    }

    /// Looks for a key; the caller has its chain's lock.
    pub(crate) fn find(&mut self, key: &[u8], hash: u32) -> Result<Option<Found>> {
        // In one read what most records need.
        const DATA: u32 = 256;
        let key_len = u32::try_from(key.len()).map_err(|_| self.too_large())?;
        let mut at = self.read_word(self.chain_head(self.shape.chain(hash)))?;
        let mut walk = Walk::default();
        while at != 0 {
            if walk.step(at) {
                return Err(self.corrupt(at, "a hash chain that leads back to itself"));
            }
            let (record, start) = self.read_record(at, key_len.min(4096) + DATA)?;
            if record.magic == LIVE && record.full_hash == hash && record.key_len == key_len {
                let found = Found { at, record, start };
                if self.part(&found, 0, key_len)? == key {
                    return Ok(Some(found));
                }
            }
            at = record.next;
        }
        Ok(None)
    }

    /// `length` bytes at `from` after the header of a found record.
    fn part(&mut self, found: &Found, from: u32, length: u32) -> Result<Vec<u8>> {
        let (start, end) = (from as usize, from as usize + length as usize);
        match found.start.get(start..end) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => self.read_vec(found.at + Record::SIZE + from, length),
        }
    }

    fn data(&mut self, found: &Found) -> Result<Vec<u8>> {
        self.part(found, found.record.key_len, found.record.data_len)
    }

    fn list_and_hash(&self, key: &[u8]) -> (List, u32) {
        let hash = self.shape.hash.of(key);
        (List::Chain(self.shape.chain(hash)), hash)
    }

    /// The data of a record, or none.
    pub fn fetch(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let (list, hash) = self.list_and_hash(key);
        self.under(list, Kind::Shared, |db| match db.find(key, hash)? {
            Some(found) => db.data(&found).map(Some),
            None => Ok(None),
        })
    }

    /// Whether there is a record.
    pub fn exists(&mut self, key: &[u8]) -> Result<bool> {
        let (list, hash) = self.list_and_hash(key);
        self.under(list, Kind::Shared, |db| Ok(db.find(key, hash)?.is_some()))
    }

    /// Stores a record. False only with [`Store::Modify`]: there was none, and there is none.
    pub fn store(&mut self, key: &[u8], data: &[u8], how: Store) -> Result<bool> {
        self.writable()?;
        let (list, hash) = self.list_and_hash(key);
        self.under(list, Kind::Exclusive, |db| db.store_locked(key, hash, data, how))
    }

    /// Adds to the end of a record, which is made if there is none.
    pub fn append(&mut self, key: &[u8], more: &[u8]) -> Result<()> {
        self.writable()?;
        let (list, hash) = self.list_and_hash(key);
        self.under(list, Kind::Exclusive, |db| {
            let mut data = match db.find(key, hash)? {
                Some(found) => db.data(&found)?,
                None => Vec::new(),
            };
            data.extend_from_slice(more);
            db.store_locked(key, hash, &data, Store::Replace).map(drop)
        })
    }

    /// Deletes a record. False: there was none.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        self.writable()?;
        let (list, hash) = self.list_and_hash(key);
        self.under(list, Kind::Exclusive, |db| match db.find(key, hash)? {
            Some(found) => db.delete_found(&found).map(|()| true),
            None => Ok(false),
        })
    }

    fn store_locked(&mut self, key: &[u8], hash: u32, data: &[u8], how: Store) -> Result<bool> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).ok();
        let (Some(key_len), Some(data_len)) = (length(key), length(data)) else { return Err(self.too_large()) };
        let needed = key_len.checked_add(data_len).ok_or_else(|| self.too_large())?;
        match self.find(key, hash)? {
            Some(_) if how == Store::Insert => return Err(Error::Exists { path: self.path.clone() }),
            None if how == Store::Modify => return Ok(false),
            Some(found) => {
                if found.record.data_len == data_len && self.data(&found)? == data {
                    self.count_change()?;
                    return Ok(true);
                }
                if found.record.rec_len >= needed.checked_add(4).ok_or_else(|| self.too_large())? {
                    self.write(data, found.at + Record::SIZE + key_len)?;
                    if found.record.data_len != data_len {
                        self.write_header(found.at, Record { data_len, ..found.record })?;
                    }
                    self.count_change()?;
                    return Ok(true);
                }
                // First, so that its place can be part of the new one.
                self.delete_found(&found)?;
            }
            None => {}
        }
        let (at, place) = self.allocate(hash, needed)?;
        let head = self.chain_head(self.shape.chain(hash));
        let next = self.read_word(head)?;
        let record = Record { next, rec_len: place, key_len, data_len, full_hash: hash, magic: LIVE };
        let mut bytes = Vec::with_capacity(Record::SIZE as usize + key.len() + data.len());
        bytes.extend_from_slice(&record.bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(data);
        self.write(&bytes, at)?;
        self.write_word(head, at)?;
        self.count_change()?;
        Ok(true)
    }

    fn delete_found(&mut self, found: &Found) -> Result<()> {
        self.write_header(found.at, Record { magic: DEAD, ..found.record })?;
        self.count_change()?;
        self.trim_dead(self.shape.chain(found.record.full_hash), self.max_dead)
    }

    /// Frees the dead records of a chain beyond `keep`. Those that somebody traverses stay.
    pub(crate) fn trim_dead(&mut self, chain: u32, keep: u32) -> Result<()> {
        let mut dead = 0;
        let mut locked = false;
        let mut from = self.chain_head(chain);
        let mut walk = Walk::default();
        let result = self.read_word(from).and_then(|first| {
            let mut at = first;
            while at != 0 {
                let record = self.chain_record(at)?;
                let mut gone = false;
                if record.magic == DEAD {
                    dead += 1;
                    if dead > keep {
                        if !locked {
                            locked = self.lock_list(List::Free, Kind::Exclusive, Wait::Block)?;
                        }
                        if self.nobody_on(at)? {
                            self.write_word(from, record.next)?;
                            self.free(at, record.rec_len)?;
                            gone = true;
                        }
                    }
                }
                if !gone {
                    if walk.step(at) {
                        return Err(self.corrupt(at, "a hash chain that leads back to itself"));
                    }
                    from = at;
                }
                at = record.next;
            }
            Ok(())
        });
        if locked {
            self.unlock_list(List::Free)?;
        }
        result
    }

    /// Takes a dead record of at least `needed` bytes of content out of a chain that the caller has locked.
    pub(crate) fn take_dead(&mut self, chain: u32, needed: u32) -> Result<Option<(u32, u32)>> {
        let mut best: Option<(u32, u32, Record)> = None;
        let mut from = self.chain_head(chain);
        let mut at = self.read_word(from)?;
        let mut walk = Walk::default();
        while at != 0 {
            if walk.step(at) {
                return Err(self.corrupt(at, "a hash chain that leads back to itself"));
            }
            let record = self.chain_record(at)?;
            let fits = record.magic == DEAD && u64::from(record.rec_len) >= u64::from(needed) + 4;
            if fits && best.is_none_or(|(_, _, other)| record.rec_len < other.rec_len) && self.nobody_on(at)? {
                best = Some((from, at, record));
            }
            from = at;
            at = record.next;
        }
        let Some((from, at, record)) = best else { return Ok(None) };
        self.write_word(from, record.next)?;
        Ok(Some((at, record.rec_len)))
    }
}
