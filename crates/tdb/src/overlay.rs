//! What a transaction has written, over the file as it is.

use std::collections::BTreeMap;
use std::io;

use crate::storage::Storage;

const BLOCK: u32 = 4096;
/// Unchanged bytes between two changes that are cheaper to write than to leave out. Less than a record header, so that
/// a recovery record, which no transaction changes, is never part of it.
const GAP: u32 = 16;

#[derive(Debug)]
struct Block {
    bytes: Box<[u8; BLOCK as usize]>,
    /// One bit for each byte that was written.
    written: [u64; BLOCK as usize / 64],
}

/// The writes of a transaction.
#[derive(Debug)]
pub(crate) struct Overlay {
    /// Bytes of the file when the transaction began; what comes after reads as zeros.
    pub(crate) old_size: u32,
    /// Whether it made the file larger.
    pub(crate) expanded: bool,
    blocks: BTreeMap<u32, Block>,
}

impl Overlay {
    pub(crate) fn new(old_size: u32) -> Self {
        Self { old_size, expanded: false, blocks: BTreeMap::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    fn below(&self, storage: &dyn Storage, bytes: &mut [u8], at: u32) -> io::Result<()> {
        let there = usize::try_from(self.old_size.saturating_sub(at)).map_or(bytes.len(), |n| n.min(bytes.len()));
        let (old, new) = bytes.split_at_mut(there);
        new.fill(0);
        if old.is_empty() { Ok(()) } else { storage.read(old, at) }
    }

    pub(crate) fn read(&self, storage: &dyn Storage, bytes: &mut [u8], at: u32) -> io::Result<()> {
        let end = at + len32(bytes);
        let whole = at / BLOCK * BLOCK;
        // Most reads touch nothing that was written.
        if self.blocks.range(whole..end).next().is_none() {
            return self.below(storage, bytes, at);
        }
        for (offset, part) in pieces(at, bytes.len()) {
            let into = &mut bytes[part];
            match self.blocks.get(&(offset / BLOCK * BLOCK)) {
                Some(block) => {
                    let start = (offset % BLOCK) as usize;
                    into.copy_from_slice(&block.bytes[start..start + into.len()]);
                }
                None => self.below(storage, into, offset)?,
            }
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, storage: &dyn Storage, bytes: &[u8], at: u32) -> io::Result<()> {
        for (offset, part) in pieces(at, bytes.len()) {
            let from = &bytes[part];
            let start = offset / BLOCK * BLOCK;
            if !self.blocks.contains_key(&start) {
                let mut content = Box::new([0; BLOCK as usize]);
                self.below(storage, &mut content[..], start)?;
                self.blocks.insert(start, Block { bytes: content, written: [0; BLOCK as usize / 64] });
            }
            let Some(block) = self.blocks.get_mut(&start) else { continue };
            let within = (offset % BLOCK) as usize;
            block.bytes[within..within + from.len()].copy_from_slice(from);
            for byte in within..within + from.len() {
                block.written[byte / 64] |= 1 << (byte % 64);
            }
        }
        Ok(())
    }

    /// Runs of bytes to write, in order, each within a block: offset and new content.
    pub(crate) fn runs(&self) -> Vec<(u32, &[u8])> {
        let mut runs = Vec::new();
        for (start, block) in &self.blocks {
            let is_written = |byte: u32| block.written[(byte / 64) as usize] >> (byte % 64) & 1 == 1;
            let mut at = 0;
            while at < BLOCK {
                if !is_written(at) {
                    at += 1;
                    continue;
                }
                let (from, mut end) = (at, at + 1);
                at += 1;
                while at < BLOCK && at <= end + GAP {
                    if is_written(at) {
                        end = at + 1;
                    }
                    at += 1;
                }
                at = end.max(at.min(end + GAP + 1));
                runs.push((start + from, &block.bytes[from as usize..end as usize]));
            }
        }
        runs
    }
}

fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// A range of the file cut at the borders of blocks: offset, and which part of the bytes goes there.
fn pieces(at: u32, length: usize) -> impl Iterator<Item = (u32, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let offset = at + u32::try_from(done).ok()?;
        let room = (BLOCK - offset % BLOCK) as usize;
        let part = done..length.min(done + room);
        done = part.end;
        Some((offset, part))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn reads_and_runs_give_what_was_written(
            writes in prop::collection::vec((0u32..20_000, prop::collection::vec(any::<u8>(), 0..6000)), 0..12)
        ) {
            let file = tempfile::tempfile().unwrap();
            let old: Vec<u8> = (0..15_000u32).map(|at| (at % 251) as u8).collect();
            Storage::write(&file, &old, 0).unwrap();
            let mut expected = old.clone();
            expected.resize(30_000, 0);
            let mut overlay = Overlay::new(15_000);
            for (at, bytes) in &writes {
                overlay.write(&file, bytes, *at).unwrap();
                expected[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
            }
            let mut seen = vec![1; 30_000];
            overlay.read(&file, &mut seen, 0).unwrap();
            prop_assert!(seen == expected);
            let mut applied = old;
            applied.resize(30_000, 0);
            let mut last_end = 0;
            for (at, bytes) in overlay.runs() {
                prop_assert!(at >= last_end, "in order, and apart");
                last_end = at + len32(bytes);
                applied[at as usize..last_end as usize].copy_from_slice(bytes);
            }
            prop_assert!(applied == expected);
        }
    }
}
