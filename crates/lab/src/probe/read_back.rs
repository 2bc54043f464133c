//! A program on a node that reads back at once what it writes to the shared mount, in many files that stay open.
//!
//! Last words: how many reads showed something older than what the same program had written before, and the first of them.

use super::{Gaps, say, stop_flag};
use anyhow::{Context, Result};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// So many that some of them are on each pair of bricks, and are read from either brick of it.
const FILES: usize = 16;
const WIDTH: usize = 20;
/// For so long each number is read before the next one is written: less than GlusterFS keeps its inner lock after a write.
const READ: Duration = Duration::from_millis(400);

/// Writes numbers to files below `directory` (which is made) until standard input closes, and reads each one back for a while.
pub(crate) fn main(directory: &Path) -> Result<i32> {
    let stop = stop_flag();
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let open = |i: usize| -> Result<File> {
        let path = directory.join(format!("f{i}"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        file.with_context(|| format!("cannot open {}", path.display()))
    };
    let files = match (0..FILES).map(open).collect::<Result<Vec<_>>>() {
        Ok(files) => files,
        Err(e) => {
            say(&format!("F {e:#}"));
            return Ok(1);
        }
    };
    let mut gaps = Gaps::new(80);
    let (mut number, mut stale, mut first) = (0u64, 0u64, "-".to_owned());
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let text = format!("{number:0WIDTH$}");
        // Who could not be written to is not read.
        let written: Vec<bool> = files.iter().map(|file| file.write_all_at(text.as_bytes(), 0).is_ok()).collect();
        let begun = Instant::now();
        while begun.elapsed() < READ {
            for (i, file) in files.iter().enumerate().filter(|(i, _)| written[*i]) {
                let mut there = [0; WIDTH];
                match file.read_exact_at(&mut there, 0) {
                    Ok(()) if there == text.as_bytes() => gaps.success("mount"),
                    Ok(()) => {
                        stale += 1;
                        if first == "-" {
                            first = format!("f{i}_has_{number}_and_shows_{}", String::from_utf8_lossy(&there));
                        }
                    }
                    Err(e) => gaps.failure(&e.to_string()),
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    gaps.end(&format!("{stale} {first}"));
    Ok(0)
}
