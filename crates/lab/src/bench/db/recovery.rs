//! What runs on a node for `recovery-1m`: fills the database, orders a recovery, and watches who has to wait meanwhile.

use super::worker::{Options, Said, Worker, ms};
use anyhow::{Context, Result, bail};
use ctdb::node::CURRENT;
use ctdb::wire::LtdbHeader;
use ctdb_client::{Client, Database, Kind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Of the traverse's records; the protocol's range for tests.
const TRAVERSE: u64 = 0xAE00_0000_0001_0000;
/// Records whose content is looked at after a recovery.
const LOOKED_AT: u64 = 1000;
/// Records that are written under one lock.
const BATCH: u64 = 2000;
/// The pause between two locks of a client that watches.
const PAUSE: Duration = Duration::from_millis(10);
/// The one record of the small database.
const OTHER_KEY: &[u8] = b"to and fro";

/// A client that locks one record again and again; how long it took at most.
#[derive(Debug)]
pub(super) struct Watch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Watch {
    /// Comes back when it has locked it for the first time.
    fn start(options: &Options, database: &'static str, key: &[u8]) -> Result<Self> {
        let patience = options.patience()?;
        let socket = &options.socket;
        let (socket, key, ended) = (socket.to_owned(), key.to_owned(), Arc::new(AtomicBool::new(false)));
        let (locked, first) = mpsc::channel();
        let told = Arc::clone(&ended);
        let thread = std::thread::spawn(move || longest_wait(&socket, patience, database, &key, &told, &locked));
        let watch = Self { ended, thread };
        // Without a word it has ended, and says why.
        if first.recv().is_err() {
            watch.end().and_then(|_| bail!("the client of {database} ended before it began"))?;
            unreachable!("the line above is an error");
        }
        Ok(watch)
    }

    fn end(self) -> Result<f64> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| bail!("the client that waits has panicked"))
    }
}

fn longest_wait(
    socket: &Path,
    patience: Duration,
    database: &str,
    key: &[u8],
    ended: &AtomicBool,
    locked: &Sender<()>,
) -> Result<f64> {
    let mut client = Client::connect(socket)?;
    client.set_time_limit(patience);
    let mut db = Database::attach(&mut client, database, Kind::Volatile)?;
    let mut longest = 0.0f64;
    while !ended.load(Ordering::Relaxed) {
        let begun = Instant::now();
        db.fetch_locked(&mut client, key)?;
        db.unlock(key)?;
        longest = longest.max(ms(begun));
        // Only the first is waited for.
        locked.send(()).ok();
        std::thread::sleep(PAUSE);
    }
    Ok(longest)
}

impl Options {
    /// The recovery, and each answer of a daemon meanwhile, may take so long.
    fn patience(&self) -> Result<Duration> {
        Ok(Duration::try_from_secs_f64(self.patience * 60.0)?)
    }
}

impl Worker {
    /// Writes this node's records as they would be after its clients had made them: whole here, and where they are at
    /// their location master.
    pub(super) fn fill(&mut self) -> Result<Said> {
        let begun = Instant::now();
        let map = self.client.vnn_map(CURRENT)?;
        let mut count = 0;
        for first in (0..self.options.records).step_by(BATCH as usize) {
            self.records.tdb.lock_all(tdb::Kind::Exclusive, tdb::Wait::Block)?;
            for i in first..(first + BATCH).min(self.options.records) {
                let (key, holder) = (key(i), self.holder(i));
                let master = map.lmaster(&key).context("the map of location masters is empty")?;
                if u64::from(holder) == self.me {
                    let header = LtdbHeader { rsn: 2, dmaster: holder, ..LtdbHeader::default() };
                    self.records.store(&key, header, &data(i))?;
                    count += 1;
                } else if u64::from(master) == self.me {
                    let header = LtdbHeader { rsn: 1, dmaster: holder, ..LtdbHeader::default() };
                    self.records.store(&key, header, &[])?;
                }
            }
            self.records.tdb.unlock_all()?;
        }
        Ok(Said { count, seconds: begun.elapsed().as_secs_f64(), ..Said::default() })
    }

    fn holder(&self, record: u64) -> u32 {
        (record % self.options.nodes as u64) as u32
    }

    /// From now on a client here locks the one record of a small database all the time, as one on every other node does.
    pub(super) fn watch(&mut self) -> Result<Said> {
        self.watch = Some(Watch::start(&self.options, "bench_other.tdb", OTHER_KEY)?);
        Ok(Said::default())
    }

    /// Until now.
    pub(super) fn watched(&mut self) -> Result<Said> {
        let watch = self.watch.take().context("nobody watches")?;
        Ok(Said { longest_ms: watch.end()?, ..Said::default() })
    }

    /// Orders a recovery and waits for its end: another generation, no recovery under way on any node, and a record of
    /// another node comes.
    pub(super) fn recover(&mut self) -> Result<Said> {
        self.client.set_time_limit(self.options.patience()?);
        let before = self.client.vnn_map(CURRENT)?.generation;
        let mine =
            key((0..self.options.records).find(|i| u64::from(self.holder(*i)) == self.me).context("no record")?);
        let blocked = Watch::start(&self.options, "bench_recovery.tdb", &mine)?;
        let begun = Instant::now();
        let done = self.client.recover().map_err(Into::into).and_then(|()| self.recovered(before, begun));
        let took = ms(begun);
        if matches!(done, Ok(false)) {
            // Who waits for the database is left waiting: it ends with this process.
            return Ok(Said { seconds: took / 1000.0, unfinished: true, ..Said::default() });
        }
        let longest_ms = blocked.end();
        done?;
        Ok(Said { seconds: took / 1000.0, longest_ms: longest_ms?, ..Said::default() })
    }

    /// Was it over before nobody waited for it any more?
    fn recovered(&mut self, before: u32, begun: Instant) -> Result<bool> {
        let patience = self.options.patience()?;
        let over = |client: &mut Client, dest| -> Result<bool> {
            Ok(client.vnn_map(dest)?.generation != before && client.recovery_mode_is_normal(dest)?)
        };
        for dest in std::iter::once(CURRENT).chain(0..self.options.nodes as u32) {
            while !over(&mut self.client, dest)? {
                if begun.elapsed() > patience {
                    return Ok(false);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let foreign = (0..self.options.records).find(|i| u64::from(self.holder(*i)) != self.me).context("no record")?;
        self.look(foreign)?;
        Ok(true)
    }

    /// Brings a record here and compares its content.
    fn look(&mut self, record: u64) -> Result<()> {
        let key = key(record);
        let found = self.records.fetch_locked(&mut self.client, &key)?.data;
        self.records.unlock(&key)?;
        if found != data(record) {
            bail!("record {record} is {found:?} after the recovery");
        }
        Ok(())
    }

    /// Counts all records and looks at some of them.
    pub(super) fn check_records(&mut self) -> Result<Said> {
        let begun = Instant::now();
        let mut other = Client::connect(&self.options.socket)?;
        other.set_time_limit(self.options.patience()?);
        let count = self.records.count(&mut other, TRAVERSE + self.me)?;
        let step = (self.options.records / LOOKED_AT).max(1);
        for record in (0..self.options.records).step_by(step as usize) {
            self.look(record)?;
        }
        Ok(Said { count, seconds: begun.elapsed().as_secs_f64(), ..Said::default() })
    }
}

fn key(record: u64) -> Vec<u8> {
    format!("record-{record:08}").into_bytes()
}

fn data(record: u64) -> Vec<u8> {
    format!("content of the record {record:09}").into_bytes()
}
