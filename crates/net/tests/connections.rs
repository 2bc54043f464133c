//! What becomes of clients' connections when their address goes, comes and comes back.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{LONG, ip, pair};
use net::{ClientConnection, Command, Event, connections};

const V4: &str = "10.77.0.200";
const V6: &str = "fd77::200";

#[test]
fn a_released_address_resets_nobody_and_its_sockets_end() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4]);
    site.renew(Duration::from_secs(60));
    site.take(V4);
    let server = a.run(|| TcpListener::bind((ip(V4), 2049)).unwrap());
    let client = b.run(|| TcpStream::connect((ip(V4), 2049)).unwrap());
    let (mut accepted, _) = server.accept().unwrap();
    let listed = a.run(|| connections::Connections::open().unwrap().established_on(&[ip(V4)].into()).unwrap());
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].remote, client.local_addr().unwrap());
    site.release(V4);
    site.expect("sockets", |e| *e == Event::SocketsDestroyed { addr: ip(V4), sockets: 1 });
    let error = Read::read(&mut accepted, &mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    // The client has heard nothing: no reset, no end of file.
    client.set_nonblocking(true).unwrap();
    let mut client = client;
    let error = Read::read(&mut client, &mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn connections_that_a_killed_daemon_left_do_not_wait_for_the_client_to_come_back() {
    let Some((a, b)) = pair() else { return };
    a.sh(&format!("ip addr add {V4}/24 dev eth0"));
    let server = a.run(|| TcpListener::bind((ip(V4), 2049)).unwrap());
    let mut client = b.run(|| TcpStream::connect((ip(V4), 2049)).unwrap());
    let (mut accepted, _) = server.accept().unwrap();
    // The address goes without a word, as the guard takes it; the server does not notice and writes to nobody.
    a.sh(&format!("ip addr del {V4}/24 dev eth0"));
    accepted.write_all(b"lost").unwrap();
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    assert!(site.seen.contains(&Event::SocketsDestroyed { addr: ip(V4), sockets: 1 }), "{:?}", site.seen);
    let error = Read::read(&mut accepted, &mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    // No reset left this node while the address was elsewhere; back here, nothing of the old connection answers.
    client.set_nonblocking(true).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
    site.renew(Duration::from_secs(60));
    site.take(V4);
    client.write_all(b"again").unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_tickled_client_notices_at_once_that_its_server_is_gone() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    site.renew(Duration::from_secs(60));
    for v in [V4, V6] {
        site.take(v);
        let server = a.run(move || TcpListener::bind((ip(v), 2049)).unwrap());
        let mut client = b.run(move || TcpStream::connect((ip(v), 2049)).unwrap());
        let accepted = server.accept().unwrap();
        let known = ClientConnection { vip: (ip(v), 2049).into(), client: client.local_addr().unwrap() };
        site.send(Command::ListConnections);
        site.expect("list", |e| *e == Event::Connections { list: vec![known] });
        // A tickle does no harm to a connection that lives.
        site.send(Command::Clients { addr: ip(v), clients: [known].into() });
        // A client answers one in 500 ms: the second, at 600 ms, must not keep it from answering the next below.
        std::thread::sleep(Duration::from_millis(1200));
        client.write_all(b"x").unwrap();
        // The server loses it silently, as if the address had come from another node. It has not read the byte yet:
        // the release waits for it, and the connection ends only after the address.
        let start = Instant::now();
        site.send(Command::Release { addr: ip(v) });
        site.expect("last list", |e| *e == Event::LastConnections { addr: ip(v), list: vec![known] });
        let mut accepted = accepted.0;
        std::thread::sleep(Duration::from_millis(20));
        accepted.read_exact(&mut [0; 1]).unwrap();
        site.expect("released", |e| *e == Event::Released { addr: ip(v) });
        let took = start.elapsed();
        println!("{v}: released {took:?} after the order, with a server that reads after 20 ms");
        assert!((Duration::from_millis(20)..net::FINISH).contains(&took), "{took:?}");
        site.expect("destroyed", |e| matches!(e, Event::SocketsDestroyed { .. }));
        drop((accepted, server));
        // What the last holder says; where that was this node, it remembers.
        if v == V4 {
            site.send(Command::Clients { addr: ip(v), clients: [known].into() });
        }
        let start = Instant::now();
        site.take(v);
        client.set_read_timeout(Some(LONG)).unwrap();
        let error = client.read(&mut [0; 8]).unwrap_err();
        let took = start.elapsed();
        println!("{v}: the client knew {took:?} after the order to take the address");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        // Duplicate address detection is off for public addresses; the first tickle, not the second, has done it.
        assert!(took < Duration::from_millis(300), "{took:?}");
        site.release(v);
    }
}

#[test]
fn a_client_is_not_refused_while_its_server_starts_and_comes_back_by_a_tickle() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    site.renew(Duration::from_secs(60));
    for (v, own) in [(V4, "10.77.0.2:900"), (V6, "[fd77::2]:900")] {
        site.take(v);
        let own: std::net::SocketAddr = own.parse().unwrap();
        let refused = b.run(move || TcpStream::connect((ip(v), 2050))).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "a port of no service");
        let start = Instant::now();
        let (tell, told) = std::sync::mpsc::channel();
        b.run(move || {
            std::thread::spawn(move || {
                let socket =
                    socket2::Socket::new(socket2::Domain::for_address(own), socket2::Type::STREAM, None).unwrap();
                socket.bind(&own.into()).unwrap();
                tell.send(socket.connect(&std::net::SocketAddr::new(ip(v), 2049).into())).unwrap();
            });
        });
        let early = told.recv_timeout(Duration::from_millis(150));
        assert!(early.is_err(), "answered while nobody listens: {early:?}");
        let server = a.run(move || TcpListener::bind((ip(v), 2049)).unwrap());
        site.send(Command::Clients {
            addr: ip(v),
            clients: [ClientConnection { vip: (ip(v), 2049).into(), client: own }].into(),
        });
        told.recv_timeout(LONG).unwrap().unwrap();
        let took = start.elapsed();
        println!("{v}: connected {took:?} after its first SYN, to a server that was there after 150 ms");
        // its own second SYN would come after a second
        assert!(took < Duration::from_millis(500), "{took:?}");
        drop(server);
        site.release(v);
    }
}

#[test]
fn a_release_does_not_wait_for_a_server_that_reads_nothing() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4]);
    site.renew(Duration::from_secs(60));
    site.take(V4);
    let server = a.run(|| TcpListener::bind((ip(V4), 2049)).unwrap());
    let mut client = b.run(|| TcpStream::connect((ip(V4), 2049)).unwrap());
    let _accepted = server.accept().unwrap();
    client.write_all(b"x").unwrap();
    let start = Instant::now();
    site.release(V4);
    let took = start.elapsed();
    println!("released {took:?} after the order, with a server that reads nothing");
    assert!((net::FINISH..net::FINISH * 3).contains(&took), "{took:?}");
    // The end of the lease waits for nobody.
    site.take(V4);
    drop(client);
    let mut client = b.run(|| TcpStream::connect((ip(V4), 2049)).unwrap());
    let _accepted = server.accept().unwrap();
    client.write_all(b"x").unwrap();
    let start = Instant::now();
    site.send(Command::LeaseLost);
    site.expect("released", |e| *e == Event::Released { addr: ip(V4) });
    assert!(start.elapsed() < net::FINISH, "{:?}", start.elapsed());
}

#[test]
fn a_client_that_waits_for_an_answer_notices_that_the_lease_was_away_for_a_moment() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[V4, V6]);
    for v in [V4, V6] {
        site.renew(Duration::from_secs(60));
        site.take(v);
        let server = a.run(move || TcpListener::bind((ip(v), 2049)).unwrap());
        let mut client = b.run(move || TcpStream::connect((ip(v), 2049)).unwrap());
        let mut accepted = server.accept().unwrap().0;
        // It has asked, its server has heard it, and the answer does not come any more.
        client.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0; 1]).unwrap();
        site.send(Command::LeaseLost);
        site.expect("released", |e| *e == Event::Released { addr: ip(v) });
        site.renew(Duration::from_secs(60));
        let start = Instant::now();
        site.take(v);
        client.set_read_timeout(Some(LONG)).unwrap();
        let error = client.read(&mut [0; 8]).unwrap_err();
        let took = start.elapsed();
        println!("{v}: the client knew {took:?} after the order to take the address again");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(took < Duration::from_millis(800), "{took:?}");
        site.release(v);
    }
}
