//! A lock over NFSv3 and NLM that two clients want; the lines are [`super::contest`]'s.
//!
//! The holder hears of a server that has begun anew as a kernel does (`SM_NOTIFY`), and then reclaims. `L` is said when a
//! reclaim is refused, and only then: nobody tells an NFSv3 client that its lock is gone.

use super::contest::{self, LENGTH, Rival};
use super::nfs3_lock::{Side, Statd, give_back, reclaim, take};
use super::{now_us, say};
use crate::args::Contest;
use anyhow::Result;
use drill::clients::nlm::GRANTED;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Rival for Side {
    fn lock_once(&mut self) -> Result<bool> {
        Ok(self.nlm.lock(false)? == GRANTED)
    }
    fn unlock(&mut self) -> Result<()> {
        self.nlm.unlock().map(drop)
    }
}

fn hold(side: &mut Side, server: IpAddr, statd: &Statd, over: &AtomicBool) -> Result<()> {
    let mut n = 0u64;
    while !over.load(Ordering::Relaxed) {
        // Takes the place of a pause between two writes.
        if statd.notice()? == Some(server) {
            say(&format!("{} {}", if reclaim(&mut side.nlm)? { 'B' } else { 'L' }, now_us()));
        }
        n += 1;
        side.write(&format!("{n:020}"))?;
        say(&format!("W {}", now_us()));
    }
    give_back(&mut side.nlm)?;
    say(&format!("U {}", now_us()));
    Ok(())
}

/// Holds until standard input is closed.
pub(crate) fn main(contest: &Contest) -> Result<i32> {
    let statd = Statd::start()?;
    let stop = Arc::new(AtomicBool::new(false));
    let open = |server, owner| Side::open(server, &contest.export, &contest.path, owner, LENGTH, &stop);
    let mut holder = open(contest.server, "holder")?;
    let rival = open(contest.other, "rival")?;
    take(&mut holder.nlm)?;
    Ok(contest::run(|over| hold(&mut holder, contest.server, &statd, over), rival, &stop))
}
