//! Many connections at once: a server that keeps what it accepts, clients that keep what they opened, and a node's databases
//! asked whether they know of them.
//!
//! Each prints one line `A time number 0 -`: when it had them all, in microseconds of CLOCK_MONOTONIC.

use super::{now_us, say, stop_flag};
use anyhow::{Context, Result, ensure};
use ctdb::control::{Opcode, TickleList};
use ctdb::node::CURRENT;
use ctdb::wire::{SockAddr, Writer};
use ctdb_client::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(5);

fn wait(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(PAUSE);
    }
}

/// As many descriptors as the kernel allows.
fn many_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).context("descriptors")
}

/// Listens on a port of all addresses and keeps every connection.
pub(crate) fn serve(port: u16) -> Result<i32> {
    many_descriptors()?;
    let stop = stop_flag();
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).context("cannot listen")?;
    std::thread::spawn(move || {
        let kept: Vec<TcpStream> = listener.incoming().flatten().collect();
        drop(kept);
    });
    say(&format!("A {} 0 0 -", now_us()));
    wait(&stop);
    Ok(0)
}

/// Opens `count` connections to each target and keeps them.
pub(crate) fn open(targets: &[SocketAddr], count: usize) -> Result<i32> {
    many_descriptors()?;
    let stop = stop_flag();
    let mut kept = Vec::with_capacity(targets.len() * count);
    for target in targets.iter().cycle().take(targets.len() * count) {
        kept.push(TcpStream::connect_timeout(target, Duration::from_secs(2)).with_context(|| format!("{target}"))?);
    }
    say(&format!("A {} {} 0 -", now_us(), kept.len()));
    wait(&stop);
    Ok(0)
}

/// Asks this node's databases, again and again, until they know of `count` connections to each of these.
pub(crate) fn known(targets: &[SocketAddr], count: usize) -> Result<i32> {
    let stop = stop_flag();
    let mut client = Client::connect(Path::new(ctdb_client::SOCKET))?;
    let mut asked = 0;
    for target in targets {
        let mut question = Writer::default();
        SockAddr(*target).put(&mut question);
        let question = question.finish();
        while !stop.load(Ordering::Relaxed) {
            asked += 1;
            let list = TickleList::get(&client.ask(CURRENT, Opcode::GET_TCP_TICKLE_LIST, &question)?)?;
            let found = list.connections.iter().filter(|c| c.server == *target).count();
            ensure!(found <= count, "{found} connections to {target}, of {count} that were opened");
            if found == count {
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
    say(&format!("A {} {asked} 0 -", now_us()));
    wait(&stop);
    Ok(0)
}
