//! A client that counts in a file of many, over NFSv4 under a lock, whatever happens to its servers.
//!
//! ```text
//! H from to                       it had the lock: granted, and the last request sent that was answered under it
//! I begun ended value known       an increment; known: acknowledged (1), or not (0)
//! W text                          it had the lock and read something else than it had written
//! X text                          the server refused
//! N longest stalls                last line, after standard input was closed: time without an answer, in microseconds
//! ```

use super::{now_us, say, stop_flag};
use anyhow::{Context, Result};
use drill::clients::Locker;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Digits of the number.
const WIDTH: usize = 20;

struct Client {
    locker: Locker,
    last_us: u64,
    longest_us: u64,
    stalls: u64,
    stall_us: u64,
}

impl Client {
    fn alive(&mut self) {
        let now = now_us();
        let gap = now - self.last_us;
        self.longest_us = self.longest_us.max(gap);
        self.stalls += u64::from(gap > self.stall_us);
        self.last_us = now;
    }

    /// What is done under the lock; `to_us` is when the last request was sent that was answered.
    fn increment(&mut self, from_us: u64, to_us: &mut u64) -> Result<()> {
        let sent = now_us();
        let Some(text) = self.locker.read(WIDTH as u32)? else { return Ok(()) };
        *to_us = sent;
        let text = String::from_utf8_lossy(&text).into_owned();
        // A new file is empty.
        let value: u64 = if text.is_empty() { 0 } else { text.parse().context(text)? };
        let value = value + 1;
        let sent = now_us();
        let done = self.locker.write(format!("{value:020}").as_bytes());
        let known = matches!(done, Ok(true));
        say(&format!("I {from_us} {} {value} {}", now_us(), u8::from(known)));
        if !done? {
            return Ok(());
        }
        *to_us = sent;
        let sent = now_us();
        let Some(there) = self.locker.read(WIDTH as u32)? else { return Ok(()) };
        *to_us = sent;
        if there != format!("{value:020}").as_bytes() {
            say(&format!("W wrote {value} under its lock and reads {}", String::from_utf8_lossy(&there)));
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let granted = self.locker.lock()?;
        self.alive();
        if !granted {
            std::thread::sleep(Duration::from_micros(5000 + now_us() % 25_000));
            return Ok(());
        }
        let from_us = now_us();
        let mut to_us = from_us;
        let done = self.increment(from_us, &mut to_us);
        say(&format!("H {from_us} {to_us}"));
        done?;
        self.locker.unlock()?;
        self.alive();
        std::thread::sleep(Duration::from_millis(30));
        Ok(())
    }
}

/// Counts until standard input is closed. Times without an answer that are longer than `stall` are counted.
pub(crate) fn main(server: IpAddr, export: &str, path: &str, stall: Duration) -> Result<i32> {
    let stop = stop_flag();
    let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path}: write DIRECTORY/FILE"))?;
    let open = |stop: &Arc<AtomicBool>| Locker::open(server, export, directory, name, WIDTH as u64, Arc::clone(stop));
    let stall_us = u64::try_from(stall.as_micros())?;
    let locker = open(&stop)?;
    let mut client = Client { locker, last_us: now_us(), longest_us: 0, stalls: 0, stall_us };
    while !stop.load(Ordering::Relaxed) {
        if let Err(e) = client.turn()
            && !stop.load(Ordering::Relaxed)
        {
            say(&format!("X {}", format!("{e:#}").replace('\n', " ")));
            std::thread::sleep(Duration::from_millis(100));
            match open(&stop) {
                Ok(locker) => client.locker = locker,
                Err(e) => say(&format!("X {}", format!("{e:#}").replace('\n', " "))),
            }
        }
    }
    client.alive();
    say(&format!("N {} {}", client.longest_us, client.stalls));
    Ok(0)
}
