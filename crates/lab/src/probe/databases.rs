//! A client of the clustered databases on a node: locked increments of records that go to and fro between the nodes, and
//! persistent transactions, one of each in turn.
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
use ctdb_client::{Client, Database, Error, Kind, Transaction};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Counters of each set: their location masters are on all nodes.
const COUNTERS: u64 = 16;
const NUMBER: &[u8] = b"number";
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
    /// Number of nodes
    #[arg(long, default_value_t = 4)]
    nodes: u32,
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
    /// By node, its transactions as this node's copy has them.
    pub(crate) persistent: BTreeMap<u32, u64>,
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

/// Each node's transactions have a database of their own: nobody else writes there, so no lock is needed.
fn persistent(client: &mut Client, node: u32) -> Result<Database, Error> {
    Database::attach(client, &format!("lab_persistent_{node}.tdb"), Kind::Persistent)
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

fn count(options: &Options) -> Result<()> {
    let stop = stop_flag();
    let mut client = Client::connect(Path::new(ctdb_client::SOCKET))?;
    let mut counters = Database::attach(&mut client, "lab_counters.tdb", Kind::Volatile)?;
    let me = client.pnn();
    let mut own = persistent(&mut client, me)?;
    let mut number = own.local(NUMBER)?.map_or(0, |(_, data)| number(&data));
    say("ready");
    let (mut volatile, mut longest) = (0u64, [0.0f64; 2]);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        add(&mut client, &mut counters, &key(options, volatile), 1)?;
        volatile += 1;
        longest[0] = longest[0].max(ms(begun));
        let begun = Instant::now();
        let mut transaction = Transaction::default();
        transaction.put(&client, &mut own, NUMBER, &(number + 1).to_ne_bytes())?;
        transaction.commit(&mut client, &mut own)?;
        number += 1;
        longest[1] = longest[1].max(ms(begun));
        say(&format!("A {volatile} {number}"));
    }
    say(&format!("N {volatile} {number} {:.0} {:.0}", longest[0], longest[1]));
    Ok(())
}

fn look(options: &Options) -> Result<()> {
    let mut client = Client::connect(Path::new(ctdb_client::SOCKET))?;
    let mut counters = Database::attach(&mut client, "lab_counters.tdb", Kind::Volatile)?;
    let mut volatile = 0;
    for i in 0..COUNTERS {
        volatile += add(&mut client, &mut counters, &key(options, i), 0)?;
    }
    let mut found = Found { volatile, persistent: BTreeMap::new() };
    for node in 0..options.nodes {
        let mut db = persistent(&mut client, node)?;
        found.persistent.insert(node, db.local(NUMBER)?.map_or(0, |(_, data)| number(&data)));
    }
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
