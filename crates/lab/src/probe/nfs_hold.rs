//! A lock over NFSv4 that two clients want; the lines are [`super::contest`]'s.

use super::contest::{self, LENGTH, Rival, WRITE};
use super::{now_us, say};
use crate::args::Contest;
use anyhow::{Context, Result, ensure};
use drill::clients::{Locker, Under};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Rival for Locker {
    fn lock_once(&mut self) -> Result<bool> {
        Self::lock_once(self)
    }
    fn unlock(&mut self) -> Result<()> {
        Self::unlock(self)
    }
}

fn hold(locker: &mut Locker, over: &AtomicBool) -> Result<()> {
    let mut n = 0u64;
    while !over.load(Ordering::Relaxed) {
        n += 1;
        match locker.write_or_reclaim(format!("{n:020}").as_bytes())? {
            Under::Done => say(&format!("W {}", now_us())),
            Under::Reclaimed => say(&format!("B {}", now_us())),
            Under::Lost => {
                say(&format!("L {}", now_us()));
                return Ok(());
            }
        }
        std::thread::sleep(WRITE);
    }
    locker.unlock()?;
    say(&format!("U {}", now_us()));
    Ok(())
}

/// Holds until standard input is closed.
pub(crate) fn main(contest: &Contest) -> Result<i32> {
    let path = &contest.path;
    let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path}: write DIRECTORY/FILE"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let open = |server| Locker::open(server, &contest.export, directory, name, LENGTH, Arc::clone(&stop));
    let mut holder = open(contest.server)?;
    let rival = open(contest.other)?;
    ensure!(holder.lock()?, "somebody has the lock already");
    Ok(contest::run(|over| hold(&mut holder, over), rival, &stop))
}
