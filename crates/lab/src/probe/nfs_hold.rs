//! A lock over NFSv4 that is held whatever happens to its server, and a rival who wants it through another one.
//!
//! ```text
//! H us          the lock is held
//! W us          something was written under it
//! B us          it was taken back from a server that had not given it
//! L us          it is lost: the server knows nothing of it, and it could not be taken back
//! R us          the rival has it
//! D us          the rival was refused, or put off: at most every 100 ms
//! U us          standard input was closed: the holder has given it back
//! X text        a server refused something else
//! ```
//!
//! It ends when the rival has had the lock after `U` or `L`, or ten seconds after `U`.

use super::{now_us, say, stop_flag};
use anyhow::{Context, Result};
use drill::clients::{Locker, Under};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LENGTH: u64 = 20;
const WRITE: Duration = Duration::from_millis(50);
const TRY: Duration = Duration::from_millis(20);

/// Tries for the lock until it has it, then gives it back.
fn rival(mut locker: Locker, stop: &AtomicBool) -> Result<()> {
    let mut said = 0;
    while !stop.load(Ordering::Relaxed) {
        if locker.lock_once()? {
            say(&format!("R {}", now_us()));
            return locker.unlock();
        }
        if now_us() - said > 100_000 {
            said = now_us();
            say(&format!("D {said}"));
        }
        std::thread::sleep(TRY);
    }
    Ok(())
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

/// Holds through `server` until standard input is closed, while a rival tries through `other`.
pub(crate) fn main(server: IpAddr, other: IpAddr, export: &str, path: &str) -> Result<i32> {
    let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path}: write DIRECTORY/FILE"))?;
    let never = Arc::new(AtomicBool::new(false));
    let open = |server| Locker::open(server, export, directory, name, LENGTH, Arc::clone(&never));
    let mut holder = open(server)?;
    let tries = open(other)?;
    anyhow::ensure!(holder.lock()?, "somebody has the lock already");
    say(&format!("H {}", now_us()));
    let over = stop_flag();
    let end = Arc::clone(&never);
    let rival = std::thread::spawn(move || rival(tries, &end));
    if let Err(e) = hold(&mut holder, &over) {
        say(&format!("X holder: {}", format!("{e:#}").replace('\n', " ")));
    }
    let until = now_us() + 10_000_000;
    while !rival.is_finished() && now_us() < until {
        std::thread::sleep(TRY);
    }
    never.store(true, Ordering::Relaxed);
    if let Ok(Err(e)) = rival.join() {
        say(&format!("X rival: {}", format!("{e:#}").replace('\n', " ")));
    }
    Ok(0)
}
