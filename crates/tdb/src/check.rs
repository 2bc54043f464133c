//! Is the whole file sound?

use crate::db::Tdb;
use crate::error::Result;
use crate::format::{
    DEAD, FILL, FREE, FREELIST_HEAD, HEADER_SIZE, LIVE, RECOVERY_HEAD, RECOVERY_INVALID, RECOVERY_VALID, Record,
    Refused, Shape, word,
};
use crate::ofd::{Kind, Wait};

/// What a sound file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Records.
    pub records: u64,
    /// Bytes of their keys and data.
    pub content: u64,
    /// Deleted records that were not given back yet.
    pub dead: u64,
    /// Entries of the free list, and their bytes.
    pub free: u64,
    pub free_bytes: u64,
    /// Bytes of the recovery area.
    pub recovery_bytes: u64,
    /// Bytes at the end of the file, or before the recovery area there, that no list knows: what an unfinished commit
    /// left.
    pub lost_bytes: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// The free list as a number beside the chains.
const FREE_LIST: u32 = u32::MAX;

impl Tdb {
    /// Reads the whole file under the lock of all records and checks it by the rules of `tdbtool check`: every record
    /// sound, and in exactly the list where it belongs.
    pub fn check(&mut self) -> Result<Summary> {
        let lock = self.locks.all.is_none() && !self.read_only;
        if lock {
            self.lock_all(Kind::Shared, Wait::Block)?;
        }
        let result = self.check_locked();
        if lock {
            self.unlock_all()?;
        }
        result
    }

    fn check_locked(&mut self) -> Result<Summary> {
        if self.transaction.is_none() {
            self.look_at_size()?;
        }
        let mut header = [0; HEADER_SIZE as usize];
        self.read(&mut header, 0)?;
        let shape = Shape::parse(&header, u64::from(self.size)).map_err(|refused| match refused {
            Refused::Corrupt(at, what) => self.corrupt(at, what),
            Refused::Unsupported(what) => self.corrupt(0, what),
        })?;
        if shape != self.shape {
            return Err(self.corrupt(36, "the header has changed since the file was opened"));
        }
        let recovery = word(&header, RECOVERY_HEAD as usize);
        let mut summary = Summary { size: u64::from(self.size), ..Summary::default() };
        let mut known = self.check_records(recovery, &mut summary)?;
        self.check_lists(&mut known)?;
        match known.iter().find(|entry| !entry.met) {
            Some(entry) => Err(self.corrupt(entry.at, "a record that is in no list")),
            None => Ok(summary),
        }
    }

    /// Every record from the first to the last byte, in order.
    fn check_records(&mut self, recovery: u32, summary: &mut Summary) -> Result<Vec<Entry>> {
        let mut known = Vec::new();
        let mut recovery_met = recovery == 0;
        let mut at = self.shape.data_start();
        while at < self.size {
            let record = self.read_header(at)?;
            let list = match record.magic {
                LIVE | DEAD => {
                    self.check_layout(at, record)?;
                    if !record.holds_its_content() {
                        return Err(self.corrupt(at, "a record too short for its content"));
                    }
                    let key = self.read_vec(at + Record::SIZE, record.key_len)?;
                    if self.shape.hash.of(&key) != record.full_hash {
                        return Err(self.corrupt(at, "a record whose hash is not that of its key"));
                    }
                    if record.magic == LIVE {
                        summary.records += 1;
                        summary.content += u64::from(record.key_len) + u64::from(record.data_len);
                    } else {
                        summary.dead += 1;
                    }
                    self.shape.chain(record.full_hash)
                }
                FREE => {
                    self.check_layout(at, record)?;
                    summary.free += 1;
                    summary.free_bytes += u64::from(record.rec_len);
                    FREE_LIST
                }
                RECOVERY_VALID | RECOVERY_INVALID | FILL if at == recovery => {
                    recovery_met = true;
                    let end = record.whole().and_then(|whole| at.checked_add(whole)).filter(|end| *end <= self.size);
                    let end = end.ok_or_else(|| self.corrupt(at, "the recovery area does not fit in the file"))?;
                    summary.recovery_bytes = u64::from(record.rec_len);
                    at = end;
                    continue;
                }
                _ if record.is_unused() => {
                    // Up to the end, like libtdb's check, or up to the recovery area, where libtdb's finds fault with what
                    // libtdb leaves behind when it is killed. Whatever a list knows there is found missing below.
                    let end = if recovery > at { recovery.min(self.size) } else { self.size };
                    summary.lost_bytes += u64::from(end - at);
                    at = end;
                    continue;
                }
                _ => return Err(self.corrupt(at, "neither a record nor free space")),
            };
            known.push(Entry { at, list, met: false });
            // In the file, says check_layout, so this does not overflow.
            at += Record::SIZE + record.rec_len;
        }
        if !recovery_met {
            return Err(self.corrupt(RECOVERY_HEAD, "the header names a recovery area that is not there"));
        }
        Ok(known)
    }

    /// What is common to all records.
    fn check_layout(&mut self, at: u32, record: Record) -> Result<()> {
        let whole = record.whole().filter(|whole| *whole <= self.size - at);
        let whole = whole.ok_or_else(|| self.corrupt(at, "a record longer than its place"))?;
        if record.rec_len < 4 || !record.rec_len.is_multiple_of(4) {
            return Err(self.corrupt(at, "a record of odd length"));
        }
        if self.read_word(at + whole - 4)? != whole {
            return Err(self.corrupt(at, "a record whose end says another length than its beginning"));
        }
        Ok(())
    }

    /// Every list, from its head to its end.
    fn check_lists(&mut self, known: &mut [Entry]) -> Result<()> {
        let heads = self.read_vec(FREELIST_HEAD, self.shape.data_start() - FREELIST_HEAD)?;
        for (index, head) in heads.chunks_exact(4).enumerate() {
            let list = u32::try_from(index).ok().and_then(|index| index.checked_sub(1)).unwrap_or(FREE_LIST);
            let mut at = word(head, 0);
            while at != 0 {
                let entry = known.binary_search_by_key(&at, |entry| entry.at).ok().and_then(|i| known.get_mut(i));
                let Some(entry) = entry else {
                    return Err(self.corrupt(at, "a list leads to something that is no record"));
                };
                if entry.list != list {
                    return Err(self.corrupt(at, "a record in a list where it does not belong"));
                }
                if std::mem::replace(&mut entry.met, true) {
                    return Err(self.corrupt(at, "a record that two others lead to"));
                }
                at = self.read_word(at)?;
            }
        }
        Ok(())
    }
}

/// A record of the file.
struct Entry {
    at: u32,
    list: u32,
    met: bool,
}
