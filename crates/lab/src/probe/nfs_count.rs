//! Clients of one host that count in files of several under a lock, over NFSv3 or NFSv4, whatever happens to their servers.
//!
//! Each line begins with the client's number, from 0:
//!
//! ```text
//! H from to                       it had the lock: granted, and the last request sent that was answered under it
//! I begun ended value known       an increment; known: acknowledged (1), or not (0)
//! B us                            the lock was taken back from a server that had not given it
//! L us                            the lock is lost: it could not be taken back
//! W text                          it had the lock and read something else than it had written
//! X text                          the server refused
//! P us                            it rests: it has no lock, and takes none before it is told to
//! N longest stalls                last line, after standard input was closed: time without an answer, in microseconds
//! ```
//!
//! Standard input has the words `rest` and `go`, a line each.

use super::nfs3_count::{Hosts, Locks};
use super::{now_us, say};
use crate::args::Counting;
use anyhow::{Context, Result, bail, ensure};
use drill::clients::Locker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Digits of the number.
pub(super) const WIDTH: usize = 20;
/// Between two increments under one lock, and between two locks.
const PAUSE: Duration = Duration::from_millis(10);
const BETWEEN: Duration = Duration::from_millis(30);

/// A file and its lock. Every call waits for its server.
pub(super) trait Counted: Send {
    /// Asks once.
    fn lock(&mut self) -> Result<bool>;
    /// False: a lock that was taken back is given up soon.
    fn may_keep(&self) -> bool {
        true
    }
    /// None: the lock is gone.
    fn read(&mut self) -> Result<Option<Vec<u8>>>;
    /// On stable storage. False: the lock is gone, and it is not known what became of this.
    fn write(&mut self, data: &[u8]) -> Result<bool>;
    fn unlock(&mut self) -> Result<()>;
}

impl Counted for Locker {
    fn lock(&mut self) -> Result<bool> {
        Self::lock(self)
    }
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        Self::read(self, WIDTH as u32)
    }
    fn write(&mut self, data: &[u8]) -> Result<bool> {
        Self::write(self, data)
    }
    fn unlock(&mut self) -> Result<()> {
        Self::unlock(self)
    }
}

/// What standard input has said.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) stop: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
}

impl Told {
    fn listen(&self) {
        let told = self.clone();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                told.rest.store(line == "rest", Ordering::Relaxed);
            }
            told.stop.store(true, Ordering::Relaxed);
        });
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn rests(&self) -> bool {
        self.rest.load(Ordering::Relaxed) && !self.stopped()
    }
}

/// How to begin, and to begin again.
type Open<'a> = Box<dyn FnMut() -> Result<Box<dyn Counted>> + Send + 'a>;

struct Client<'a> {
    index: usize,
    told: Told,
    open: Open<'a>,
    file: Box<dyn Counted>,
    /// As many increments under one lock as two to the power of less than this.
    spell: u32,
    last_us: u64,
    longest_us: u64,
    stalls: u64,
    stall_us: u64,
}

impl Client<'_> {
    fn say(&self, line: &str) {
        say(&format!("{} {line}", self.index));
    }

    fn complain(&self, e: &anyhow::Error) {
        self.say(&format!("X {}", format!("{e:#}").replace('\n', " ")));
    }

    fn alive(&mut self) {
        let now = now_us();
        let gap = now - self.last_us;
        self.longest_us = self.longest_us.max(gap);
        self.stalls += u64::from(gap > self.stall_us);
        self.last_us = now;
    }

    /// What is done under the lock; `to_us` is when the last request was sent that was answered. False: it is gone.
    fn increment(&mut self, to_us: &mut u64) -> Result<bool> {
        let begun = now_us();
        let Some(text) = self.file.read()? else { return Ok(false) };
        *to_us = begun;
        let text = String::from_utf8_lossy(&text).into_owned();
        // A new file is empty.
        let value: u64 = if text.is_empty() { 0 } else { text.parse().context(text)? };
        let value = value + 1;
        let sent = now_us();
        let done = self.file.write(format!("{value:0WIDTH$}").as_bytes());
        let known = matches!(done, Ok(true));
        self.say(&format!("I {begun} {} {value} {}", now_us(), u8::from(known)));
        if !done? {
            return Ok(false);
        }
        *to_us = sent;
        let sent = now_us();
        let Some(there) = self.file.read()? else { return Ok(false) };
        *to_us = sent;
        if there != format!("{value:0WIDTH$}").as_bytes() {
            self.say(&format!("W wrote {value} under its lock and reads {}", String::from_utf8_lossy(&there)));
        }
        self.alive();
        Ok(true)
    }

    fn increments(&mut self, to_us: &mut u64) -> Result<()> {
        for n in 0..1u64 << (now_us() % u64::from(self.spell)) {
            if n > 0 {
                std::thread::sleep(PAUSE);
            }
            if self.told.stopped() || self.told.rests() || !self.increment(to_us)? || !self.file.may_keep() {
                break;
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let granted = self.file.lock()?;
        self.alive();
        if !granted {
            std::thread::sleep(Duration::from_micros(5000 + now_us() % 25_000));
            return Ok(());
        }
        let from_us = now_us();
        let mut to_us = from_us;
        let done = self.increments(&mut to_us);
        self.say(&format!("H {from_us} {to_us}"));
        done?;
        self.file.unlock()?;
        self.alive();
        std::thread::sleep(BETWEEN);
        Ok(())
    }

    fn rest(&mut self) {
        self.say(&format!("P {}", now_us()));
        while self.told.rests() {
            std::thread::sleep(PAUSE);
        }
        self.last_us = now_us();
    }

    fn run(mut self) {
        while !self.told.stopped() {
            if self.told.rests() {
                self.rest();
            }
            let Err(e) = self.turn() else { continue };
            if self.told.stopped() {
                break;
            }
            self.complain(&e);
            std::thread::sleep(Duration::from_millis(100));
            match (self.open)() {
                Ok(file) => self.file = file,
                Err(e) => self.complain(&e),
            }
        }
        self.alive();
        self.say(&format!("N {} {}", self.longest_us, self.stalls));
    }
}

/// Counts until standard input is closed.
pub(crate) fn main(counting: &Counting) -> Result<i32> {
    let told = Told::default();
    told.listen();
    ensure!(counting.server.len() == counting.path.len(), "--server and --path for each client");
    let hosts = if counting.nfs == 3 { Some(Hosts::listen(&counting.server, &told)?) } else { None };
    let opener = |index: usize| -> Result<Open<'_>> {
        let told = told.clone();
        let (hosts, export) = (&hosts, &counting.export);
        let (server, path) = (counting.server[index], &counting.path[index]);
        let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path}: write DIRECTORY/FILE"))?;
        Ok(match (counting.nfs, hosts) {
            (3, Some(hosts)) => Box::new(move || {
                let locks = Locks::open(index, server, export, path, hosts.heard(index), &told)?;
                Ok(Box::new(locks) as Box<dyn Counted>)
            }),
            (4, _) => Box::new(move || {
                let stop = Arc::clone(&told.stop);
                let locker = Locker::open(server, export, directory, name, WIDTH as u64, stop)?;
                Ok(Box::new(locker) as Box<dyn Counted>)
            }),
            (version, _) => bail!("--nfs {version}: 3 or 4"),
        })
    };
    let mut clients = Vec::new();
    for index in 0..counting.server.len() {
        let mut open = opener(index)?;
        let file = open()?;
        let stall_us = counting.stall_ms * 1000;
        // An NFSv3 client's locks are rarely to be had in faults' times: whoever has one keeps it for longer.
        let spell = if counting.nfs == 3 { 9 } else { 1 };
        let told = told.clone();
        clients.push(Client { index, told, open, file, spell, last_us: now_us(), longest_us: 0, stalls: 0, stall_us });
    }
    std::thread::scope(|scope| clients.into_iter().for_each(|client| drop(scope.spawn(|| client.run()))));
    Ok(0)
}
