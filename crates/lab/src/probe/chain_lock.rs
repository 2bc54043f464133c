//! Stops a process in the moment in which it holds a chain lock on one of some TDB files, and leaves it stopped.
//!
//! ```text
//! C file offset tries    caught: the file, the lock's place in it, and how often it was stopped for that
//! F text                 it was not caught, or has ended
//! ```

use super::say;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a TDB file's chain locks begin, one every four bytes: behind its header. Locks before that are the file's own.
const CHAINS: u64 = 168;
/// It may run so long between two looks; less than a chain lock is held.
const STEP: Duration = Duration::from_micros(30);
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    pid: i32,
    /// Paths of the files
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(crate) fn main(options: &Options) -> Result<i32> {
    match catch(options) {
        Ok(caught) => {
            say(&caught);
            Ok(0)
        }
        Err(e) => {
            say(&format!("F {e:#}"));
            Ok(1)
        }
    }
}

fn catch(options: &Options) -> Result<String> {
    let inodes: Vec<(u64, &Path)> = options
        .files
        .iter()
        .map(|path| Ok((fs::metadata(path).with_context(|| path.display().to_string())?.ino(), path.as_path())))
        .collect::<Result<_>>()?;
    let pid = Pid::from_raw(options.pid).context("no process has the number 0")?;
    let begun = Instant::now();
    for tries in 1u64.. {
        kill_process(pid, Signal::STOP).context("cannot stop it")?;
        wait_stopped(options.pid)?;
        let held = chain_lock(&fs::read_to_string("/proc/locks")?, options.pid, &inodes);
        if let Some((path, offset)) = held {
            return Ok(format!("C {} {offset} {tries}", path.display()));
        }
        kill_process(pid, Signal::CONT).context("cannot let it go on")?;
        if begun.elapsed() > LIMIT {
            bail!("it held no chain lock in any of {tries} moments");
        }
        let from = Instant::now();
        while from.elapsed() < STEP {
            std::hint::spin_loop();
        }
    }
    unreachable!("the loop above has no end")
}

/// A signal is sent at once, and obeyed when the process is next on its way to user space.
fn wait_stopped(pid: i32) -> Result<()> {
    let begun = Instant::now();
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("it has ended")?;
        // The state follows the name, which is in brackets and may have brackets.
        match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
            Some('T') => return Ok(()),
            Some('Z' | 'X') => bail!("it has ended"),
            _ if begun.elapsed() > LIMIT => bail!("it does not stop"),
            _ => std::thread::yield_now(),
        }
    }
}

/// From the lines of /proc/locks: `1: POSIX  ADVISORY  WRITE 1111 00:68:505 335224 335224`. A line of one that waits has `->`
/// after its number.
fn chain_lock<'a>(locks: &str, pid: i32, files: &[(u64, &'a Path)]) -> Option<(&'a Path, u64)> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, "WRITE", of, file, offset, _] = words[..] else { return None };
        let inode: u64 = file.rsplit(':').next()?.parse().ok()?;
        let offset: u64 = offset.parse().ok()?;
        let path = files.iter().find(|f| f.0 == inode)?.1;
        (of.parse() == Ok(pid) && offset >= CHAINS).then_some((path, offset))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_chain_lock_of_that_process_counts() {
        let files = [(505, Path::new("locking.tdb.0")), (504, Path::new("brlock.tdb.0"))];
        let caught = |locks| chain_lock(locks, 1111, &files);
        assert_eq!(
            caught(
                "1: POSIX  ADVISORY  READ  7 00:68:9 0 EOF\n2: POSIX  ADVISORY  WRITE 1111 00:68:505 335224 335224\n"
            ),
            Some((files[0].1, 335_224))
        );
        assert_eq!(caught("2: POSIX  ADVISORY  WRITE 1112 00:68:505 335224 335224\n"), None, "another process");
        assert_eq!(caught("2: POSIX  ADVISORY  WRITE 1111 00:68:506 335224 335224\n"), None, "another file");
        assert_eq!(caught("2: POSIX  ADVISORY  WRITE 1111 00:68:504 8 8\n"), None, "the lock of transactions");
        assert_eq!(caught("2: POSIX  ADVISORY  READ  1111 00:68:504 168 168\n"), None);
        assert_eq!(caught("2: -> POSIX  ADVISORY  WRITE 1111 00:68:504 168 168\n"), None, "it waits");
        assert_eq!(caught("2: OFDLCK ADVISORY  WRITE -1 00:68:504 168 168\n"), None, "a daemon's");
    }
}
