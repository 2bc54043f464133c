//! Thousands of connections; a file of its own, for it keeps both processors busy.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{LONG, ip, pair};
use net::{Command, Event};

const V4: &str = "10.77.0.200";

#[test]
fn five_thousand_connections_are_listed_destroyed_and_tickled_in_time() {
    const MANY: usize = 5000;
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4]);
    site.renew(Duration::from_secs(60));
    site.take(V4);
    let limit = rustix::process::Rlimit { current: Some(20_000), maximum: Some(20_000) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let server = a.run(|| TcpListener::bind((ip(V4), 2049)).unwrap());
    let (mut accepted, mut clients) = (Vec::new(), Vec::new());
    while clients.len() < MANY {
        clients.extend(b.run(|| (0..100).map(|_| TcpStream::connect((ip(V4), 2049)).unwrap()).collect::<Vec<_>>()));
        accepted.extend((0..100).map(|_| server.accept().unwrap().0));
    }
    let start = Instant::now();
    site.send(Command::ListConnections);
    let Event::Connections { list } = site.expect("list", |e| matches!(e, Event::Connections { .. })) else {
        unreachable!()
    };
    let listed = start.elapsed();
    assert_eq!(list.len(), MANY);
    let start = Instant::now();
    site.send(Command::Release { addr: ip(V4) });
    site.expect("released", |e| *e == Event::Released { addr: ip(V4) });
    let released = start.elapsed();
    site.expect("destroyed", |e| *e == Event::SocketsDestroyed { addr: ip(V4), sockets: MANY });
    let destroyed = start.elapsed();
    drop((accepted, server));
    site.send(Command::Clients { addr: ip(V4), clients: list.into() });
    let start = Instant::now();
    site.take(V4);
    let taken = start.elapsed();
    let mut knew = 0;
    for client in &clients {
        client.set_read_timeout(Some(LONG)).unwrap();
        let error = Read::read(&mut &*client, &mut [0; 8]).unwrap_err();
        knew += usize::from(error.kind() == std::io::ErrorKind::ConnectionReset);
    }
    let all = start.elapsed();
    println!(
        "{MANY} connections: listed in {listed:?}; address released after {released:?}, connections destroyed after          {destroyed:?}; taken in {taken:?}, all clients knew after {all:?}"
    );
    assert_eq!(knew, MANY);
    // The second round is at 600 ms: nobody needed it.
    assert!(all < Duration::from_millis(590), "{all:?}");
}
