//! One node's record: a small file that is old or new, never half.
//!
//! The file holds two slots of the same size, written one after the other, each synced before the next. A
//! reader takes the valid slot with the higher sequence number:
//!
//! - a crash in the first slot leaves the second with the record before, which is what was last confirmed;
//! - a crash in the second leaves the first with the new one;
//! - a slot that rots after a finished write leaves its copy; with both gone the record is unreadable.
//!
//! A helper that is killed in a write to a mount that does not answer leaves that write behind: the mount's own
//! process may carry it out later, after the next helper's. It hits one slot, since no helper goes on to the second
//! before the first is confirmed, and its sequence number is lower, so the other slot counts: numbers are never given
//! twice, not even by a helper that does not see yet what the one before wrote.
//!
//! Overwriting in place rather than renaming a new file into place: between servers of GlusterFS a rename is
//! several operations on several bricks, and a reader that found no file would take it for "never wrote one".
//! A file once made is never removed.
//!
//! ```text
//! slot: magic[8] sequence[8] length[4] reserved[4] content[length] zeros... checksum[8]    (little endian)
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use serde_json::Value;

/// Bytes of a slot.
const SLOT: usize = 64 * 1024;
/// What O_DIRECT wants buffers aligned to.
const ALIGN: usize = 4096;
const MAGIC: &[u8; 8] = b"SFRECRD1";
const HEADER: usize = 24;
const TRAILER: usize = 8;
/// Longest record as JSON text, in bytes.
pub(super) const MAX_RECORD: usize = SLOT - HEADER - TRAILER;

/// The record file of a node.
pub(super) fn path_of(dir: &Path, pnn: u32) -> PathBuf {
    dir.join(format!("record.{pnn}"))
}

/// The node number in the name of a record file.
pub(super) fn pnn_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("record.")?;
    let pnn: u32 = digits.parse().ok()?;
    (pnn.to_string() == digits).then_some(pnn)
}

/// Writes both slots and syncs each. The sequence goes on from what the file holds.
pub(super) fn write(dir: &Path, pnn: u32, content: &Value) -> Result<(), String> {
    let path = path_of(dir, pnn);
    let text = serde_json::to_vec(content).map_err(|e| format!("cannot write a record as JSON: {e}"))?;
    if text.len() > MAX_RECORD {
        return Err(format!("a record of {} bytes is longer than {MAX_RECORD}", text.len()));
    }
    let failed = |doing: &str, e: &io::Error| format!("cannot {doing} {}: {e}", path.display());
    let (file, is_new) = open_for_writing(&path).map_err(|e| failed("open", &e))?;
    let [a, b] = read_slots(&file).map_err(|e| failed("read", &e))?;
    let newest = [&a, &b].into_iter().flatten().map(|slot| slot.sequence).max().unwrap_or(0);
    let slot = encode(sequence_after(newest, clock()), &text);
    // The newer copy is overwritten last: until the first write is confirmed it is the one that counts.
    let second_is_newer = match (&a, &b) {
        (Ok(a), Ok(b)) => b.sequence >= a.sequence,
        (a, b) => b.is_ok() || a.is_err(),
    };
    let order = if second_is_newer { [0, SLOT] } else { [SLOT, 0] };
    for offset in order {
        file.write_all_at(slot.bytes(), offset as u64).map_err(|e| failed("write", &e))?;
        file.sync_all().map_err(|e| failed("sync", &e))?;
    }
    if is_new {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|e| format!("cannot sync {}: {e}", dir.display()))?;
    }
    Ok(())
}

/// The number of the next write: higher than what is in the file, and than what is on its way there, which an earlier
/// process gave the time of its own write. `now` only makes it differ: a clock that is set back costs that, not the order.
fn sequence_after(newest: u64, now: u64) -> u64 {
    newest.saturating_add(1).max(now)
}

/// Nanoseconds since 1970.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Reads a record by a fresh open. None: the node never wrote one.
pub(super) fn read(dir: &Path, pnn: u32) -> Option<Result<Value, String>> {
    let path = path_of(dir, pnn);
    let file = match open_direct(OpenOptions::new().read(true), &path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("cannot open {}: {error}", path.display()))),
    };
    Some(newest(&file).map_err(|why| format!("{}: {why}", path.display())))
}

fn newest(file: &File) -> Result<Value, String> {
    let [a, b] = read_slots(file).map_err(|e| format!("cannot read: {e}"))?;
    let slot = match (a, b) {
        (Ok(a), Ok(b)) => {
            if a.sequence >= b.sequence {
                a
            } else {
                b
            }
        }
        (Ok(slot), Err(_)) | (Err(_), Ok(slot)) => slot,
        (Err(a), Err(b)) => return Err(format!("both copies are damaged ({a}; {b})")),
    };
    serde_json::from_slice(&slot.content).map_err(|e| format!("holds no JSON: {e}"))
}

fn open_for_writing(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match open_direct(options.clone().create_new(true), path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((open_direct(&options, path)?, false)),
        Err(error) => Err(error),
    }
}

/// Opens past the page cache where the filesystem can do that.
fn open_direct(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let direct = options.clone().custom_flags((OFlags::DIRECT | OFlags::NOFOLLOW).bits() as i32).open(path);
    match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            options.clone().custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)
        }
        other => other,
    }
}

#[derive(Debug)]
struct Slot {
    sequence: u64,
    content: Vec<u8>,
}

fn read_slots(file: &File) -> io::Result<[Result<Slot, String>; 2]> {
    let mut buffer = Aligned::new(2 * SLOT);
    let mut have = 0;
    while have < 2 * SLOT {
        // O_DIRECT reads in whole blocks: a short one is the end of the file.
        match file.read_at(&mut buffer.bytes_mut()[have..], have as u64) {
            Ok(0) => break,
            Ok(n) => {
                have += n;
                if n % ALIGN != 0 {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bytes = &buffer.bytes()[..have];
    let (first, second) = bytes.split_at(have.min(SLOT));
    Ok([decode(first), decode(second)])
}

fn encode(sequence: u64, content: &[u8]) -> Aligned {
    let mut slot = Aligned::new(SLOT);
    let bytes = slot.bytes_mut();
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    bytes[16..20].copy_from_slice(&(content.len() as u32).to_le_bytes());
    bytes[HEADER..HEADER + content.len()].copy_from_slice(content);
    let sum = crc64(&bytes[..SLOT - TRAILER]);
    bytes[SLOT - TRAILER..].copy_from_slice(&sum.to_le_bytes());
    slot
}

fn decode(bytes: &[u8]) -> Result<Slot, String> {
    if bytes.len() != SLOT {
        return Err(format!("{} of {SLOT} bytes", bytes.len()));
    }
    if &bytes[..8] != MAGIC {
        return Err("not a record".to_owned());
    }
    if crc64(&bytes[..SLOT - TRAILER]) != le64(&bytes[SLOT - TRAILER..]) {
        return Err("checksum does not match".to_owned());
    }
    let length = le64(&bytes[16..24]) as u32 as usize;
    let content = bytes.get(HEADER..HEADER + length).filter(|_| length <= MAX_RECORD);
    let content = content.ok_or_else(|| format!("length {length} is impossible"))?;
    Ok(Slot { sequence: le64(&bytes[8..16]), content: content.to_vec() })
}

fn le64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// CRC-64/XZ (ECMA-182, reflected).
fn crc64(bytes: &[u8]) -> u64 {
    const TABLE: [u64; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u64;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xC96C_5795_D787_0F42 } else { crc >> 1 };
                bit += 1;
            }
            table[i] = crc;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| TABLE[((crc ^ u64::from(*byte)) & 0xff) as usize] ^ crc >> 8)
}

/// A buffer that starts at a multiple of [`ALIGN`].
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_checksum_is_the_standard_one() {
        assert_eq!(crc64(b"123456789"), 0x995D_C9BB_DF19_39FA);
    }

    #[test]
    fn names_are_exact() {
        assert_eq!(pnn_of("record.12"), Some(12));
        for name in ["record.", "record.x", "record.012", "record.1.tmp", "record.+1", "lock"] {
            assert_eq!(pnn_of(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_absent_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), 3), None);
        for n in 0..5 {
            write(dir.path(), 3, &json!({ "ballot": n })).unwrap();
            assert_eq!(read(dir.path(), 3), Some(Ok(json!({ "ballot": n }))));
        }
        let long = write(dir.path(), 3, &json!("x".repeat(MAX_RECORD))).unwrap_err();
        assert!(long.contains("longer than"), "{long}");
        assert_eq!(read(dir.path(), 3), Some(Ok(json!({ "ballot": 4 }))));
    }

    /// A crash after any number of bytes of either write leaves the old or the new record.
    #[test]
    fn a_torn_write_leaves_the_old_or_the_new_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_of(dir.path(), 0);
        write(dir.path(), 0, &json!({ "n": 1 })).unwrap();
        let before = std::fs::read(&path).unwrap();
        write(dir.path(), 0, &json!({ "n": 2 })).unwrap();
        let after = std::fs::read(&path).unwrap();
        // The order of the writes is the one that `write` chose for two equal copies: first slot, then second.
        for done in (0..=2 * SLOT).step_by(4099).chain([9, 17, SLOT - 1, SLOT, SLOT + 12, 2 * SLOT]) {
            let mut torn = before.clone();
            torn[..done].copy_from_slice(&after[..done]);
            std::fs::write(&path, &torn).unwrap();
            let expected = if done >= SLOT { 2 } else { 1 };
            assert_eq!(read(dir.path(), 0), Some(Ok(json!({ "n": expected }))), "after {done} bytes");
            // And the next write goes on from there.
            write(dir.path(), 0, &json!({ "n": 3 })).unwrap();
            assert_eq!(read(dir.path(), 0), Some(Ok(json!({ "n": 3 }))), "written after {done} bytes");
        }
    }

    /// The write of a helper that was killed lands after the next one's, in either slot, whole or in part.
    #[test]
    fn a_write_that_lands_late_does_not_bring_an_older_record_back() {
        for earlier in [1, 2] {
            let dir = tempfile::tempdir().unwrap();
            let path = path_of(dir.path(), 0);
            for n in 0..earlier {
                write(dir.path(), 0, &json!({ "n": n })).unwrap();
            }
            let before = std::fs::read(&path).unwrap();
            write(dir.path(), 0, &json!({ "n": "late" })).unwrap();
            let late = std::fs::read(&path).unwrap();
            for (slot, bytes) in [(0, SLOT), (SLOT, SLOT), (0, 12), (SLOT, 4096)] {
                // Nothing of it is there when the next helper reads and writes.
                std::fs::write(&path, &before).unwrap();
                write(dir.path(), 0, &json!({ "n": "next" })).unwrap();
                let mut file = std::fs::read(&path).unwrap();
                file[slot..slot + bytes].copy_from_slice(&late[slot..slot + bytes]);
                std::fs::write(&path, &file).unwrap();
                assert_eq!(read(dir.path(), 0), Some(Ok(json!({ "n": "next" }))), "{bytes} bytes at {slot}");
            }
        }
    }

    #[test]
    fn numbers_grow_whatever_the_clock_says() {
        assert_eq!(sequence_after(0, 0), 1);
        assert_eq!(sequence_after(7, 1_000), 1_000);
        assert_eq!(sequence_after(1_000, 7), 1_001);
        assert_eq!(sequence_after(u64::MAX, 7), u64::MAX);
    }

    #[test]
    fn garbage_is_unreadable_and_never_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_of(dir.path(), 1);
        let mut good = encode(7, b"not json").bytes().to_vec();
        good.extend_from_within(..);
        for content in [vec![], vec![0; 10], vec![0xff; 2 * SLOT], vec![b'S'; 3 * SLOT], good] {
            std::fs::write(&path, &content).unwrap();
            let read = read(dir.path(), 1).expect("present");
            assert!(read.as_ref().is_err_and(|why| why.contains("record.1")), "{read:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(read(dir.path(), 1).expect("present").is_err());
    }
}
