//! A program on a node that writes to the shared mount itself, under a lock, as Samba and an NFS server do.
//!
//! The file has [`BLOCKS`] blocks. Each is made of lines of 16 bytes that begin with the writer's tag, so that `grep`
//! tells afterwards whose bytes are where.

use super::{Gaps, say, stop_flag};
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How many blocks of 4 KiB the file has; the writer begins again after the last.
pub(crate) const BLOCKS: u64 = 64;
const LINES: usize = 256;

fn write(file: &File, tag: &str, n: u64) -> io::Result<()> {
    let block = format!("{tag}{n:>w$}\n", w = 15 - tag.len()).repeat(LINES);
    file.write_all_at(block.as_bytes(), n % BLOCKS * block.len() as u64)?;
    file.sync_data()
}

/// Takes the file's lock and writes until standard input closes, or each block `once`. Errors are counted and the
/// writing goes on: a returning node's program does not know what was decided meanwhile.
pub(crate) fn main(path: &Path, tag: &str, once: bool) -> Result<i32> {
    let stop = stop_flag();
    let begin = || -> Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::LockExclusive).context("cannot lock it")?;
        Ok(file)
    };
    let file = match begin() {
        Ok(file) => file,
        Err(e) => {
            say(&format!("F {e:#}"));
            return Ok(1);
        }
    };
    let mut gaps = Gaps::new(80);
    let mut n = 0;
    while !(stop.load(Ordering::Relaxed) && !once || once && n == BLOCKS) {
        match write(&file, tag, n) {
            Ok(()) => gaps.success(tag),
            Err(e) => gaps.failure(&e.to_string()),
        }
        n += 1;
        if !once {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    gaps.end(&n.to_string());
    Ok(0)
}
