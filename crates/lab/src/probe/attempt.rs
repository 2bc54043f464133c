//! One operation on the shared mount of a node that may be cut off: it is tried until it works or its time is over.
//!
//! The call may hang in the kernel: whoever starts this sets a limit of its own. Prints one line, `OK ms errors why` or
//! `NO ms errors why`, where `errors` and `why` tell of the trials that failed before.

use super::{now_us, say};
use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// An exclusive fcntl lock, kept until the time is over.
    Lock,
    /// 4 KiB, then fsync.
    Write,
    /// A new name.
    Create,
    /// 4 KiB of an existing file.
    Read,
}

impl What {
    pub(crate) const ALL: [Self; 4] = [Self::Lock, Self::Write, Self::Create, Self::Read];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Write => "write",
            Self::Create => "create",
            Self::Read => "read",
        }
    }
}

/// Bytes of one block. Each side writes a block of its own.
const BLOCK: usize = 4096;

fn once(what: What, path: &Path, block: u64) -> Result<Option<File>> {
    let existing = || OpenOptions::new().read(true).write(true).open(path);
    match what {
        What::Lock => {
            let file = existing()?;
            fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
            return Ok(Some(file));
        }
        What::Write => {
            let file = existing()?;
            file.write_all_at(&[b'w'; BLOCK], block * BLOCK as u64)?;
            file.sync_all()?;
        }
        What::Create => match OpenOptions::new().write(true).create_new(true).open(path) {
            // An earlier trial that seemed to fail has made it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => drop(done?),
        },
        What::Read => {
            let mut bytes = [0; BLOCK];
            File::open(path)?.read_exact_at(&mut bytes, 0)?;
            ensure!(bytes.iter().all(|b| *b == b'w'), "not what was written");
        }
    }
    Ok(None)
}

/// Tries until `until_us` (CLOCK_MONOTONIC).
pub(crate) fn main(what: What, path: &Path, block: u64, until_us: u64) -> Result<i32> {
    let begun = now_us();
    let (mut errors, mut why) = (0, String::from("-"));
    let code = loop {
        let done = once(what, path, block).with_context(|| format!("cannot {} {}", what.word(), path.display()));
        let ms = (now_us() - begun) / 1000;
        match done {
            Ok(held) => {
                say(&format!("OK {ms} {errors} {why}"));
                while held.is_some() && now_us() < until_us {
                    std::thread::sleep(Duration::from_millis(10));
                }
                break 0;
            }
            Err(e) => {
                errors += 1;
                why = e.root_cause().to_string();
                if now_us() > until_us {
                    say(&format!("NO {ms} {errors} {why}"));
                    break 1;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    };
    Ok(code)
}
