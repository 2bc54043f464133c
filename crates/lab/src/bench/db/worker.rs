//! What runs on a node: one client of the daemon there.
//!
//! It prints `ready` when it is connected and attached, and then obeys one line of standard input after the other,
//! answering each with one line of JSON ([`Said`]).

use super::Work;
use super::recovery::Watch;
use crate::probe::say;
use crate::sh;
use anyhow::{Context, Result, bail};
use ctdb_client::{Client, Database, Kind, Transaction, sequence_number};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Messages of the rings; the protocol's range for tests.
const TURN: u64 = 0xAE00_0000_0000_0001;
const RING_KEY: &[u8] = b"ring";
const LOCK_KEY: &[u8] = b"transaction";
const TOTAL_KEY: &[u8] = b"total";

/// What a client is to do.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    #[arg(long, value_enum)]
    work: Work,
    #[arg(long)]
    pub(super) nodes: usize,
    /// How long a ring turns
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// For the recovery
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) records: u64,
    /// How long a recovery is waited for, in minutes
    #[arg(long, default_value_t = 60.0)]
    pub(super) patience: f64,
    #[arg(long, default_value = ctdb_client::SOCKET)]
    pub(super) socket: PathBuf,
}

/// An answer of a client.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Said {
    /// How often it was its turn, records that it has, or what a counter shows.
    pub(super) count: u64,
    pub(super) seconds: f64,
    /// The longest single operation.
    pub(super) longest_ms: f64,
    /// Calls or commits that had to be made again.
    pub(super) again: u64,
    /// For a persistent database: its transactions, as the copy here counts them.
    pub(super) sequence: u64,
    /// The recovery was not over when it was no longer waited for.
    #[serde(default)]
    pub(super) unfinished: bool,
    pub(super) failed: Option<String>,
}

pub(super) fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// Serves until standard input ends.
pub(crate) fn main(options: &Options) -> Result<i32> {
    let client = sh::wait_for("the databases of the whole cluster", Duration::from_secs(120), || {
        let mut client = Client::connect(&options.socket)?;
        match client.why_not_whole(options.nodes)? {
            None => Ok(Some(client)),
            Some(why) => bail!(why),
        }
    })?;
    let mut worker = Worker::new(options.clone(), client)?;
    say("ready");
    for line in std::io::stdin().lines() {
        let said =
            worker.obey(line?.trim()).unwrap_or_else(|e| Said { failed: Some(format!("{e:#}")), ..Said::default() });
        say(&serde_json::to_string(&said)?);
    }
    Ok(0)
}

pub(super) struct Worker {
    pub(super) options: Options,
    pub(super) client: Client,
    /// The volatile database that the records of the work are in.
    pub(super) records: Database,
    persistent: Option<Database>,
    pub(super) me: u64,
    /// Uses another database meanwhile.
    pub(super) watch: Option<Watch>,
}

impl Worker {
    fn new(options: Options, mut client: Client) -> Result<Self> {
        let name = format!("bench_{}.tdb", options.work.word().replace('-', "_"));
        let records = Database::attach(&mut client, &name, Kind::Volatile)?;
        let persistent = match options.work {
            Work::Transactions => Some(Database::attach(&mut client, "bench_persistent.tdb", Kind::Persistent)?),
            _ => None,
        };
        client.register(TURN)?;
        let me = u64::from(client.pnn());
        Ok(Self { options, client, records, persistent, me, watch: None })
    }

    fn obey(&mut self, order: &str) -> Result<Said> {
        match (order, self.options.work) {
            ("go", Work::Recovery) => self.fill(),
            ("go", work) => self.ring(work),
            ("check", Work::FetchRing) => {
                let count = self.add(RING_KEY, 0)?;
                Ok(Said { count, ..Said::default() })
            }
            ("check", Work::Transactions) => self.check_transactions(),
            ("watch", Work::Recovery) => self.watch(),
            ("recover", Work::Recovery) => self.recover(),
            ("watched", Work::Recovery) => self.watched(),
            ("check", Work::Recovery) => self.check_records(),
            _ => bail!("the order {order:?} is unknown"),
        }
    }

    fn next(&self, step: u64) -> u32 {
        let nodes = self.options.nodes as u64;
        ((self.me + nodes + step) % nodes) as u32
    }

    /// Takes part in a ring until its time is over; what comes later stays here.
    fn ring(&mut self, work: Work) -> Result<Said> {
        let begun = Instant::now();
        let end = begun + Duration::try_from_secs_f64(self.options.seconds)?;
        let mut said = Said::default();
        let back = self.options.nodes as u64 - 1;
        match work {
            Work::MessageRing if self.me == 0 => {
                for step in [1, back] {
                    self.client.send_message(self.next(step), TURN, &step.to_ne_bytes())?;
                }
            }
            Work::FetchRing | Work::Transactions if self.me == back => self.turn(work, &mut said)?,
            _ => {}
        }
        while let Some(message) = self.client.message(end)? {
            if message.srvid != TURN || Instant::now() > end {
                continue;
            }
            if work == Work::MessageRing {
                let step =
                    message.data.first_chunk::<8>().map(|b| u64::from_ne_bytes(*b)).context("a short message")?;
                said.count += 1;
                self.client.send_message(self.next(step), TURN, &step.to_ne_bytes())?;
            } else {
                self.turn(work, &mut said)?;
            }
        }
        said.seconds = self.options.seconds;
        said.again += self.records.calls_in_vain;
        Ok(said)
    }

    /// Does what is to be done when it is this node's turn, and tells the next one.
    fn turn(&mut self, work: Work, said: &mut Said) -> Result<()> {
        let begun = Instant::now();
        if work == Work::FetchRing {
            self.add(RING_KEY, 1)?;
        } else {
            said.again += u64::from(self.transaction()?);
        }
        said.count += 1;
        said.longest_ms = said.longest_ms.max(ms(begun));
        Ok(self.client.send_message(self.next(1), TURN, &1u64.to_ne_bytes())?)
    }

    /// Locks a record, adds to the number in it, and unlocks it; the number.
    fn add(&mut self, key: &[u8], more: u64) -> Result<u64> {
        let held = self.records.fetch_locked(&mut self.client, key)?;
        let number = number(&held.data) + more;
        let done = if more > 0 { self.records.store(key, held.header, &number.to_ne_bytes()) } else { Ok(()) };
        self.records.unlock(key)?;
        done?;
        Ok(number)
    }

    /// As smbd does it: a record in a volatile database says who writes, then everything in one commit.
    fn transaction(&mut self) -> Result<u32> {
        self.add(LOCK_KEY, 1)?;
        let db = self.persistent.as_mut().context("no persistent database")?;
        let mut transaction = Transaction::default();
        let own = format!("counter-{}", self.me);
        for key in [TOTAL_KEY, own.as_bytes()] {
            let old = db.local(key)?.map_or(0, |(_, data)| number(&data));
            transaction.put(&self.client, db, key, &(old + 1).to_ne_bytes())?;
        }
        let again = transaction.commit(&mut self.client, db)?;
        self.add(LOCK_KEY, 1)?;
        Ok(again)
    }

    /// What the copy here says.
    fn check_transactions(&mut self) -> Result<Said> {
        let db = self.persistent.as_mut().context("no persistent database")?;
        let count = db.local(TOTAL_KEY)?.map_or(0, |(_, data)| number(&data));
        Ok(Said { count, sequence: sequence_number(db)?, ..Said::default() })
    }
}

fn number(data: &[u8]) -> u64 {
    data.first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b))
}
