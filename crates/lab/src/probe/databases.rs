//! A client of the clustered databases on a node: locked increments of records that go to and fro between the nodes, and
//! beside them persistent transactions in a database of all, under a lock that is a record as smbd's.
//!
//! ```text
//! ready                   attached
//! A volatile persistent   increments and transactions that are done; after each
//! N volatile persistent volatile_ms persistent_ms    last line, after its standard input was closed; the longest of each
//! F text                  ended by this error
//! ```

use super::{say, stop_flag};
use anyhow::{Context, Result, bail};
use ctdb::control::Opcode;
use ctdb::node::CURRENT;
use ctdb::wire::{Body, Control, Header, Packet};
use ctdb_client::{Client, Database, Error, GLock, Kind, Mode, Transaction, sequence_number};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counters of each set: their location masters are on all nodes.
const COUNTERS: u64 = 16;
const TOTAL: &[u8] = b"total";
/// How often a client that wants to write looks whether another has given the lock back, and for how long.
const AGAIN: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two increments of a client: the daemons are to have work, and not all of the machine's time.
const PAUSE: Duration = Duration::from_millis(10);
/// Records that are changed where they are.
const AT_HAND: u64 = 10_000;
/// What Samba 4.17 has open, with a file server's load.
const DATABASES: usize = 16;
/// What an smbd registers for.
const REGISTERED: u64 = 5;
/// Requests of the client that reads no answer.
const UNREAD: usize = 200_000;

/// What a client is to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    work: Work,
    /// Which set of counters
    #[arg(long, default_value = "all")]
    set: String,
    /// The record of its transactions
    #[arg(long, default_value = "somebody")]
    name: String,
    /// Whose transactions are looked at
    #[arg(long, value_delimiter = ',')]
    names: Vec<String>,
    /// Size of a crowd
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// Increments until standard input ends
    Count,
    /// Says what is there ([`Found`], as JSON) and ends
    Look,
    /// Asks and asks, and reads no answer
    Deaf,
    /// Changes a record that is here already, and says what the daemon had to do with it ([`AtHand`], as JSON)
    Local,
    /// Attaches as many databases as Samba has, and ends
    Attach,
    /// Very many clients: half of them register as smbd does, the others never say a word
    Crowd,
}

/// What the databases hold.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// The sum of the set's counters.
    pub(crate) volatile: u64,
    /// Transactions as this node's copy has them: everybody's together, as the database counts them itself, and by client.
    pub(crate) total: u64,
    pub(crate) sequence: u64,
    pub(crate) persistent: BTreeMap<String, u64>,
}

/// What [`AT_HAND`] changes of a record of this node cost its daemon, by its own counters, the question for them included.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AtHand {
    pub(crate) changes: u64,
    pub(crate) micros: u64,
    pub(crate) packets_from_clients: u32,
    pub(crate) packets_to_clients: u32,
    pub(crate) calls: u32,
}

pub(crate) fn main(options: &Options) -> Result<i32> {
    let done = match options.work {
        Work::Count => count(options),
        Work::Look => look(options),
        Work::Deaf => deaf(),
        Work::Local => local(),
        Work::Attach => attach(),
        Work::Crowd => crowd(options),
    };
    if let Err(e) = done {
        say(&format!("F {e:#}"));
        return Ok(1);
    }
    Ok(0)
}

fn number(data: &[u8]) -> u64 {
    data.first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b))
}

/// One database of everybody; who writes holds its lock.
fn persistent(client: &mut Client) -> Result<Database, Error> {
    Database::attach(client, "lab_persistent.tdb", Kind::Persistent)
}

fn add(client: &mut Client, db: &mut Database, key: &[u8], more: u64) -> Result<u64, Error> {
    let held = db.fetch_locked(client, key)?;
    let number = number(&held.data) + more;
    let done = if more > 0 { db.store(key, held.header, &number.to_ne_bytes()) } else { Ok(()) };
    db.unlock(key)?;
    done.map(|()| number)
}

fn key(options: &Options, i: u64) -> Vec<u8> {
    format!("{}-{}", options.set, i % COUNTERS).into_bytes()
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// What a client has done so far.
#[derive(Default)]
struct Done {
    volatile: u64,
    persistent: u64,
}

fn count(options: &Options) -> Result<()> {
    let stop = stop_flag();
    let done = Mutex::new(Done::default());
    let connect = || Client::connect(Path::new(ctdb_client::SOCKET));
    let (mut counting, mut committing) = (connect()?, connect()?);
    let mut counters = Database::attach(&mut counting, "lab_counters.tdb", Kind::Volatile)?;
    let mut all = persistent(&mut committing)?;
    say("ready");
    let longest = std::thread::scope(|scope| -> Result<[f64; 2]> {
        let volatile = scope.spawn(|| {
            again_and_again(
                &stop,
                PAUSE,
                &done,
                |done| add(&mut counting, &mut counters, &key(options, *done), 1).map(|_| *done += 1),
                |done| &mut done.volatile,
            )
        });
        // Who has had the lock lets all others look for it once: they would hardly ever find it free otherwise.
        let persistent = again_and_again(
            &stop,
            AGAIN,
            &done,
            |done| commit(&mut committing, &mut all, &options.name).map(|now| *done = now),
            |done| &mut done.persistent,
        );
        // One that cannot go on ends the other.
        stop.store(true, Ordering::Relaxed);
        let volatile = volatile.join().map_err(|_| anyhow::anyhow!("the thread that counts has panicked"))?;
        Ok([volatile?, persistent?])
    })?;
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    say(&format!("N {} {} {:.0} {:.0}", done.volatile, done.persistent, longest[0], longest[1]));
    Ok(())
}

/// Works on one number of what is done and tells of it each time, until it is to stop; the longest time that it took.
fn again_and_again(
    stop: &AtomicBool,
    pause: Duration,
    done: &Mutex<Done>,
    mut work: impl FnMut(&mut u64) -> Result<(), Error>,
    of: fn(&mut Done) -> &mut u64,
) -> Result<f64> {
    let (mut mine, mut longest) = (0, 0.0f64);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let worked = work(&mut mine);
        stop.fetch_or(worked.is_err(), Ordering::Relaxed);
        worked?;
        longest = longest.max(ms(begun));
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        *of(&mut done) = mine;
        say(&format!("A {} {}", done.volatile, done.persistent));
        drop(done);
        std::thread::sleep(pause);
    }
    Ok(longest)
}

/// Adds 1 to this client's number and to everybody's, both or none; its own then.
fn commit(client: &mut Client, db: &mut Database, name: &str) -> Result<u64, Error> {
    let lock = GLock::lock(client, db.id, Mode::Write, AGAIN, Instant::now() + PATIENCE)?;
    let mut transaction = Transaction::default();
    let mut own = 0;
    for key in [TOTAL, name.as_bytes()] {
        own = number(&transaction.get(db, key)?) + 1;
        transaction.put(client, db, key, &own.to_ne_bytes())?;
    }
    transaction.commit(client, db)?;
    lock.unlock(client)?;
    Ok(own)
}

fn look(options: &Options) -> Result<()> {
    let mut client = Client::connect(Path::new(ctdb_client::SOCKET))?;
    let mut counters = Database::attach(&mut client, "lab_counters.tdb", Kind::Volatile)?;
    let mut volatile = 0;
    for i in 0..COUNTERS {
        volatile += add(&mut client, &mut counters, &key(options, i), 0)?;
    }
    let mut db = persistent(&mut client)?;
    let mut found = Found { volatile, total: 0, sequence: sequence_number(&mut db)?, persistent: BTreeMap::new() };
    for name in &options.names {
        found.persistent.insert(name.clone(), db.local(name.as_bytes())?.map_or(0, |(_, data)| number(&data)));
    }
    found.total = db.local(TOTAL)?.map_or(0, |(_, data)| number(&data));
    say(&serde_json::to_string(&found)?);
    Ok(())
}

/// CTDB's `struct ctdb_statistics`: packets to clients, from clients, calls of clients.
fn statistics(client: &mut Client) -> Result<[u32; 3]> {
    let data = client.ask(CURRENT, Opcode::STATISTICS, &[])?;
    let word = |at: usize| data[at..].first_chunk::<4>().map(|b| u32::from_ne_bytes(*b)).context("short statistics");
    Ok([word(12)?, word(16)?, word(72)?])
}

fn local() -> Result<()> {
    let mut client = Client::connect(Path::new(ctdb_client::SOCKET))?;
    let mut db = Database::attach(&mut client, "lab_at_hand.tdb", Kind::Volatile)?;
    let first = add(&mut client, &mut db, b"here", 1)?;
    let before = statistics(&mut client)?;
    let begun = Instant::now();
    for _ in 0..AT_HAND {
        add(&mut client, &mut db, b"here", 1)?;
    }
    let micros = u64::try_from(begun.elapsed().as_micros())?;
    let after = statistics(&mut client)?;
    let changes = add(&mut client, &mut db, b"here", 0)? - first;
    let more = |i: usize| after[i].wrapping_sub(before[i]);
    let found = AtHand { changes, micros, packets_to_clients: more(0), packets_from_clients: more(1), calls: more(2) };
    say(&serde_json::to_string(&found)?);
    Ok(())
}

fn deaf() -> Result<()> {
    let stop = stop_flag();
    let mut stream = UnixStream::connect(ctdb_client::SOCKET).context("cannot connect")?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let header = Header { generation: 0, dest: CURRENT, source: 0, reqid: 1 };
    let body = Body::Control(Control { opcode: Opcode::GETVNNMAP.0, srvid: 0, flags: 0, data: Vec::new() });
    let request = Packet { header, body }.encode();
    say("ready");
    let sent = (0..UNREAD).take_while(|_| stream.write_all(&request).is_ok()).count();
    if sent == 0 {
        bail!("the daemon takes no request");
    }
    say(&format!("A {sent} 0"));
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    say(&format!("N {sent} 0 0 0"));
    Ok(())
}

fn attach() -> Result<()> {
    let mut client = Client::connect(Path::new(ctdb_client::SOCKET))?;
    for i in 0..DATABASES {
        let mut db = Database::attach(&mut client, &format!("lab_attached_{i}.tdb"), Kind::Volatile)?;
        for record in 0..100u64 {
            add(&mut client, &mut db, &record.to_ne_bytes(), 1)?;
        }
    }
    say("ready");
    Ok(())
}

fn crowd(options: &Options) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("cannot have many descriptors")?;
    let stop = stop_flag();
    let (mut speaking, mut silent) = (Vec::new(), Vec::new());
    for i in 0..options.clients {
        if i % 2 == 0 {
            let mut client = Client::connect(Path::new(ctdb_client::SOCKET)).with_context(|| format!("client {i}"))?;
            for n in 0..REGISTERED {
                client.register((1 << 40) + n)?;
            }
            speaking.push(client);
        } else {
            silent.push(UnixStream::connect(ctdb_client::SOCKET).with_context(|| format!("client {i}"))?);
        }
    }
    say("ready");
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // They are still served.
    for client in speaking.iter_mut().step_by(1_000) {
        client.vnn_map(CURRENT)?;
    }
    say(&format!("N {} 0 0 0", speaking.len() + silent.len()));
    Ok(())
}
