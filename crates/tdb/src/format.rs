//! The bytes of a TDB file: header, record headers, hashes. All numbers are 32 bits in the machine's own byte order.

use ctdb::lookup3;

pub(crate) const VERSION: u32 = 0x2601_196d;
const FOOD: &[u8; 10] = b"TDB file\n\0";
/// Bytes of the header; the head of the free list follows.
pub(crate) const HEADER_SIZE: u32 = 168;
/// Offset of the head of the free list; chain c's head is 4 + 4c behind it.
pub(crate) const FREELIST_HEAD: u32 = HEADER_SIZE;
pub(crate) const RECOVERY_HEAD: u32 = 44;
pub(crate) const SEQUENCE: u32 = 48;
/// Hash chains of a database whose creator did not say.
pub(crate) const DEFAULT_HASH_SIZE: u32 = 131;

pub(crate) const LIVE: u32 = 0x2601_1999;
pub(crate) const FREE: u32 = 0xd9fe_e666;
pub(crate) const DEAD: u32 = 0xfee1_dead;
pub(crate) const RECOVERY_VALID: u32 = 0xf53b_c0e7;
pub(crate) const RECOVERY_INVALID: u32 = 0;
/// Four fill bytes of space that was never used.
pub(crate) const FILL: u32 = 0x4242_4242;

const RWLOCKS_OLD_HASH: u32 = 0;
const RWLOCKS_LOOKUP3: u32 = 0x0bad_1a51;
const RWLOCKS_FEATURES: u32 = 0x0bad_1a52;

/// Which function spreads keys over the chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    /// TDB's own first one: persistent databases.
    Old,
    /// Bob Jenkins' lookup3: volatile and replicated databases.
    Lookup3,
}

impl Hash {
    pub(crate) fn of(self, key: &[u8]) -> u32 {
        match self {
            Self::Lookup3 => lookup3(key),
            Self::Old => {
                let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
                let start = 0x238f_13af_u32.wrapping_mul(length);
                let sum = key
                    .iter()
                    .enumerate()
                    .fold(start, |sum, (index, byte)| sum.wrapping_add(u32::from(*byte) << (index * 5 % 24)));
                sum.wrapping_mul(1_103_515_243).wrapping_add(12345)
            }
        }
    }

    /// The two hashes in the header by which it is known.
    fn marks(self) -> (u32, u32) {
        (self.of(FOOD), self.of(&LIVE.to_ne_bytes()))
    }
}

/// What the header says and never changes while the file is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Number of hash chains.
    pub hash_size: u32,
    pub hash: Hash,
}

/// Why a header was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Corrupt(u32, &'static str),
    Unsupported(&'static str),
}

impl Shape {
    /// Where records begin.
    pub(crate) fn data_start(self) -> u32 {
        HEADER_SIZE + 4 * (self.hash_size + 1)
    }

    pub(crate) fn chain(self, hash: u32) -> u32 {
        hash % self.hash_size
    }

    /// A new, empty file.
    pub(crate) fn new_file(self) -> Vec<u8> {
        let mut file = vec![0; self.data_start() as usize];
        file[..FOOD.len()].copy_from_slice(FOOD);
        let (first, second) = self.hash.marks();
        let rwlocks = match self.hash {
            Hash::Old => RWLOCKS_OLD_HASH,
            Hash::Lookup3 => RWLOCKS_LOOKUP3,
        };
        for (at, value) in [(32, VERSION), (36, self.hash_size), (40, rwlocks), (52, first), (56, second)] {
            file[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        file
    }

    /// Reads the header of a file of `size` bytes.
    pub(crate) fn parse(header: &[u8], size: u64) -> Result<Self, Refused> {
        if header.len() < HEADER_SIZE as usize {
            return Err(Refused::Corrupt(0, "shorter than a TDB header: not written to the end, or not a TDB file"));
        }
        if !header.starts_with(FOOD) {
            return Err(Refused::Corrupt(0, "does not begin with \"TDB file\": not a TDB file"));
        }
        let version = word(header, 32);
        if version == VERSION.swap_bytes() {
            return Err(Refused::Unsupported(
                "written by a machine of the other byte order; convert it there with tdbdump and here with tdbrestore",
            ));
        }
        if version != VERSION {
            return Err(Refused::Unsupported("a version of the TDB format that nobody uses today"));
        }
        match word(header, 40) {
            RWLOCKS_OLD_HASH | RWLOCKS_LOOKUP3 => {}
            RWLOCKS_FEATURES if word(header, 60) == 1 => {
                return Err(Refused::Unsupported(
                    "made to be locked with mutexes, which are not supported here; remove the file while nobody uses it",
                ));
            }
            RWLOCKS_FEATURES if word(header, 60) == 0 => {}
            RWLOCKS_FEATURES => return Err(Refused::Unsupported("needs features that are not known here")),
            _ => return Err(Refused::Corrupt(40, "the lock kind in the header is not known")),
        }
        let hash_size = word(header, 36);
        if hash_size == 0 {
            return Err(Refused::Corrupt(36, "the header says 0 hash chains"));
        }
        if u64::from(HEADER_SIZE) + 4 * (u64::from(hash_size) + 1) > size.min(u64::from(u32::MAX)) {
            return Err(Refused::Corrupt(36, "the hash chains of the header do not fit in the file"));
        }
        let hash = match (word(header, 52), word(header, 56)) {
            (0, 0) => Hash::Old,
            marks if marks == Hash::Old.marks() => Hash::Old,
            marks if marks == Hash::Lookup3.marks() => Hash::Lookup3,
            _ => return Err(Refused::Unsupported("made with a hash function that is not known here")),
        };
        Ok(Self { hash_size, hash })
    }
}

/// The 24 bytes before each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Record {
    /// Offset of the next record of the chain or the free list; 0: none.
    pub next: u32,
    /// Bytes after this header, with the slack and the tailer.
    pub rec_len: u32,
    pub key_len: u32,
    pub data_len: u32,
    pub full_hash: u32,
    pub magic: u32,
}

impl Record {
    pub(crate) const SIZE: u32 = 24;

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let [next, rec_len, key_len, data_len, full_hash, magic] = [0, 4, 8, 12, 16, 20].map(|at| word(bytes, at));
        Self { next, rec_len, key_len, data_len, full_hash, magic }
    }

    pub(crate) fn bytes(self) -> [u8; Self::SIZE as usize] {
        let mut bytes = [0; Self::SIZE as usize];
        let words = [self.next, self.rec_len, self.key_len, self.data_len, self.full_hash, self.magic];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// Bytes that the record takes with its header, if that is a number at all.
    pub(crate) fn whole(self) -> Option<u32> {
        self.rec_len.checked_add(Self::SIZE)
    }

    /// Whether it is no record but space that was never used: libtdb's check takes it for that up to the end of the file.
    pub(crate) fn is_unused(self) -> bool {
        matches!(self.magic, RECOVERY_INVALID | FILL) && matches!(self.next.to_ne_bytes()[0], 0 | 0x42)
    }

    /// Whether key, data and tailer fit in it.
    pub(crate) fn holds_its_content(self) -> bool {
        u64::from(self.key_len) + u64::from(self.data_len) + 4 <= u64::from(self.rec_len)
    }
}

/// The number at `at`. Out of range: 0.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// How many bytes to grow a file of `size` by when `needed` are needed: room for a hundred more such records (two large
/// ones) and for a quarter more of all, in whole pages; at the end of 4 GiB whatever is left.
pub(crate) fn growth(size: u32, needed: u32) -> u32 {
    const PAGE: u64 = 4096;
    let left = u32::MAX - size;
    if needed > left {
        return needed;
    }
    let increment = u64::from(needed) * if needed > 100 * 1024 { 2 } else { 100 };
    let size = u64::from(size);
    let share = if size > 100 * 1024 * 1024 { size * 11 / 10 } else { size * 5 / 4 };
    let new = (size + increment).max(share).next_multiple_of(PAGE);
    u32::try_from(new - size).map_or(left, |growth| growth.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_those_of_the_original() {
        assert_eq!(Hash::Old.of(b"key1"), 0xc79a_fa66);
        assert_eq!(Hash::Lookup3.of(b"key1"), 0x1de0_df49);
        assert_eq!(Hash::Old.marks(), (0xf67d_9f0d, 0x3afe_f920));
        assert_eq!(Hash::Lookup3.marks(), (0xd7b6_94e5, 0x76b9_440e));
    }

    #[test]
    fn files_grow_as_the_originals_do() {
        // The first record in an empty file with 100001 chains.
        let size = Shape { hash_size: 100_001, hash: Hash::Lookup3 }.data_start();
        assert_eq!(size, 400_176);
        assert_eq!(size + growth(size, 24 + 12), 503_808);
        assert_eq!(growth(u32::MAX - 10, 5), 10);
    }

    #[test]
    fn what_is_written_is_read() {
        for hash in [Hash::Old, Hash::Lookup3] {
            let shape = Shape { hash_size: 7, hash };
            let file = shape.new_file();
            assert_eq!(Shape::parse(&file, file.len() as u64), Ok(shape));
            assert!(matches!(Shape::parse(&file, file.len() as u64 - 1), Err(Refused::Corrupt(36, _))));
        }
    }
}
