//! A lock that is held whatever happens to its server, and a rival who wants it through another one: what is the same for
//! NFSv3 and NFSv4.
//!
//! ```text
//! H us          the lock is held
//! W us          something was written under it
//! B us          it was taken back from a server that had not given it
//! L us          it is lost: it could not be taken back
//! R us          the rival has it
//! D us          the rival was refused, or put off: at most every 100 ms
//! U us          standard input was closed: the holder has given it back
//! X text        a server refused something else
//! ```
//!
//! It ends when the rival has had the lock after `U` or `L`, or ten seconds after `U`.

use super::{now_us, say, stop_flag};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of the file that are locked and written.
pub(super) const LENGTH: u64 = 20;
/// Between two writes.
pub(super) const WRITE: Duration = Duration::from_millis(50);
/// Between two tries of what is refused or put off.
pub(super) const TRY: Duration = Duration::from_millis(20);

/// A client that wants the lock.
pub(super) trait Rival: Send + 'static {
    /// Asks once. False: refused, or put off.
    fn lock_once(&mut self) -> Result<bool>;
    fn unlock(&mut self) -> Result<()>;
}

/// The lock is held. `hold` goes on until it is told that standard input was closed; `stop` ends clients that wait for a server.
pub(super) fn run(hold: impl FnOnce(&AtomicBool) -> Result<()>, rival: impl Rival, stop: &Arc<AtomicBool>) -> i32 {
    say(&format!("H {}", now_us()));
    let over = stop_flag();
    let end = Arc::clone(stop);
    let rival = std::thread::spawn(move || wants(rival, &end));
    if let Err(e) = hold(&over) {
        say(&format!("X holder: {}", format!("{e:#}").replace('\n', " ")));
    }
    let until = now_us() + 10_000_000;
    while !rival.is_finished() && now_us() < until {
        std::thread::sleep(TRY);
    }
    stop.store(true, Ordering::Relaxed);
    if let Ok(Err(e)) = rival.join() {
        say(&format!("X rival: {}", format!("{e:#}").replace('\n', " ")));
    }
    0
}

/// Tries for the lock until it has it, then gives it back.
fn wants(mut rival: impl Rival, stop: &AtomicBool) -> Result<()> {
    let mut said = 0;
    while !stop.load(Ordering::Relaxed) {
        if rival.lock_once()? {
            say(&format!("R {}", now_us()));
            return rival.unlock();
        }
        if now_us() - said > 100_000 {
            said = now_us();
            say(&format!("D {said}"));
        }
        std::thread::sleep(TRY);
    }
    Ok(())
}
