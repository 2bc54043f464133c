//! Fence and kick against real TCP connections.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{Host, ip, pair};
use net::connections;
use net::fence::{Fence, GLUSTERFS_PORTS, StoragePorts};
use net::shut::Shut;
use net::{Command, Event};

fn ports() -> StoragePorts {
    StoragePorts { storage: GLUSTERFS_PORTS.to_vec(), spared: vec![22, 4380] }
}

/// A connection from `client` to `server`: (the client's end, the server's end).
fn connect(client: &Host, server: &Host, bind: &str, to: &str, port: u16) -> (TcpStream, TcpStream) {
    let (bind, to) = (ip(bind), ip(to));
    let listener = server.run(move || TcpListener::bind((bind, port)).unwrap());
    let ours = client.run(move || TcpStream::connect((to, port)).unwrap());
    let (theirs, _) = listener.accept().unwrap();
    (ours, theirs)
}

fn is_dead(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    match stream.read(&mut [0; 8]) {
        Err(e) => e.kind() == ErrorKind::ConnectionAborted,
        Ok(n) => n > 8,
    }
}

fn can_connect(from: &Host, to: IpAddr, port: u16) -> bool {
    from.run(move || TcpStream::connect_timeout(&(to, port).into(), Duration::from_millis(300)).is_ok())
}

#[test]
fn a_kick_ends_storage_connections_in_every_form_and_no_others() {
    let Some((a, b)) = pair() else { return };
    let (mut c4, _s1) = connect(&a, &b, "10.77.0.2", "10.77.0.2", 49152);
    let (mut c6, _s2) = connect(&a, &b, "fd77::2", "fd77::2", 49153);
    let (_c3, mut s4) = connect(&b, &a, "10.77.0.1", "10.77.0.1", 24007);
    // A dual-stack server sees the IPv4 client under a mapped address.
    let (_c5, mut mapped) = connect(&b, &a, "::", "10.77.0.1", 49154);
    let (mut control, _s3) = connect(&a, &b, "10.77.0.2", "10.77.0.2", 4380);
    let (mut nfs, _s4) = connect(&a, &b, "10.77.0.2", "10.77.0.2", 2049);
    let (destroyed, took) = a.run(|| {
        let start = Instant::now();
        let n = connections::kick(&[ip("10.77.0.2"), ip("fd77::2")], &ports()).unwrap();
        (n, start.elapsed())
    });
    println!("kick: {destroyed} connections in {took:?}");
    for (name, stream) in [("v4", &mut c4), ("v6", &mut c6), ("accepted", &mut s4), ("mapped", &mut mapped)] {
        assert!(is_dead(stream), "{name}");
    }
    assert!(!is_dead(&mut control) && !is_dead(&mut nfs));
    assert_eq!(destroyed, 4);
    assert_eq!(a.run(|| connections::kick(&[ip("10.77.0.2")], &ports()).unwrap()), 0, "nothing is left to kick");
}

#[test]
fn a_kick_of_many_connections_is_quick() {
    let Some((a, b)) = pair() else { return };
    // Both ends are in this process, whose descriptors are limited.
    const N: usize = 200;
    let listener = b.run(|| TcpListener::bind((ip("10.77.0.2"), 49152)).unwrap());
    let theirs = b.start(move || (0..N).map(|_| listener.accept().unwrap()).collect::<Vec<_>>());
    let ours = a.run(|| (0..N).map(|_| TcpStream::connect((ip("10.77.0.2"), 49152)).unwrap()).collect::<Vec<_>>());
    let _theirs = theirs.recv_timeout(common::LONG).unwrap();
    let (destroyed, took) = a.run(|| {
        let start = Instant::now();
        (connections::kick(&[ip("10.77.0.2")], &ports()).unwrap(), start.elapsed())
    });
    println!("kick: {destroyed} connections in {took:?}");
    assert_eq!(destroyed, N);
    assert!(ours.into_iter().all(|mut c| is_dead(&mut c)));
}

#[test]
fn a_fence_cuts_storage_both_ways_and_spares_the_control_link() {
    let Some((a, b)) = pair() else { return };
    let listen = |host: &Host, addr: &str, port| {
        let addr = ip(addr);
        host.run(move || TcpListener::bind((addr, port)).unwrap())
    };
    let _keep = [
        listen(&b, "10.77.0.2", 49152),
        listen(&b, "fd77::2", 24007),
        listen(&a, "10.77.0.1", 49152),
        listen(&b, "10.77.0.2", 4380),
    ];
    let set = |evicted: &[&str]| {
        let evicted: Vec<IpAddr> = evicted.iter().map(|e| ip(e)).collect();
        a.run(move || Fence::open().unwrap().set_evicted(&evicted, &ports()).unwrap());
    };
    let (b4, b6, a4) = (ip("10.77.0.2"), ip("fd77::2"), ip("10.77.0.1"));
    assert!(can_connect(&a, b4, 49152) && can_connect(&a, b6, 24007) && can_connect(&b, a4, 49152));
    set(&["10.77.0.2", "fd77::2"]);
    set(&["10.77.0.2", "fd77::2"]);
    assert!(!can_connect(&a, b4, 49152), "towards its bricks");
    assert!(!can_connect(&a, b6, 24007), "IPv6");
    assert!(!can_connect(&b, a4, 49152), "from it to ours");
    // A spared port passes whatever the other one is, even one of the brick range.
    a.sh("sysctl -qw net.ipv4.ip_local_port_range='49152 60999'");
    assert!((0..20).all(|_| can_connect(&a, b4, 4380)), "the control link");
    set(&["10.77.0.9"]);
    assert!(can_connect(&a, b4, 49152) && can_connect(&a, b6, 24007) && can_connect(&b, a4, 49152));
    a.run(|| {
        let mut fence = Fence::open().unwrap();
        fence.set_evicted(&[ip("10.77.0.2")], &ports()).unwrap();
        fence.remove().unwrap();
        fence.remove().unwrap();
    });
    assert!(can_connect(&a, b4, 49152));
}

#[test]
fn an_eviction_is_fast_survives_the_worker_and_heals() {
    let Some((a, b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[]);
    let evicted = vec![ip("10.77.0.2"), ip("fd77::2")];
    let (mut client, mut server) = connect(&a, &b, "10.77.0.2", "10.77.0.2", 49152);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    let start = Instant::now();
    site.send(Command::SetEvicted { epoch: 7, addresses: evicted.clone() });
    let event = site.expect("evicted", |e| matches!(e, Event::Evicted { .. } | Event::EvictFailed { .. }));
    println!("{event:?} after {:?}", start.elapsed());
    assert_eq!(event, Event::Evicted { epoch: 7, sockets_destroyed: 1 });
    assert!(is_dead(&mut client));
    // The reset did not pass the fence.
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    a.sh("nft flush ruleset");
    site.send(Command::SetEvicted { epoch: 8, addresses: evicted });
    site.expect("evicted", |e| *e == Event::Evicted { epoch: 8, sockets_destroyed: 0 });
    drop(site);
    assert!(a.sh("nft list table inet steadfast_fence").contains("10.77.0.2"), "the fence outlives the daemon");
    let mut site = a.worker();
    site.configure(&[]);
    assert!(a.sh("nft list table inet steadfast_fence").contains("10.77.0.2"), "and its next start");
    site.send(Command::SetEvicted { epoch: 9, addresses: Vec::new() });
    site.expect("evicted", |e| *e == Event::Evicted { epoch: 9, sockets_destroyed: 0 });
    assert!(!a.sh("nft list table inet steadfast_fence").contains("10.77.0.2"));
}

/// Its peers have destroyed the other ends behind a fence that told it nothing.
#[test]
fn a_node_that_was_shut_out_ends_what_others_clients_have_to_its_storage_and_nothing_else() {
    let Some((a, b)) = pair() else { return };
    let listen = |host: &Host, addr: &str, port| {
        let addr = ip(addr);
        host.run(move || TcpListener::bind((addr, port)).unwrap())
    };
    let reach = |from: &Host, listener: &TcpListener| {
        let to = listener.local_addr().unwrap();
        let ours = from.run(move || TcpStream::connect(to).unwrap());
        (ours, listener.accept().unwrap().0)
    };
    let (brick, brick6) = (listen(&a, "10.77.0.1", 49152), listen(&a, "fd77::1", 49153));
    let (spared, other) = (listen(&a, "10.77.0.1", 4380), listen(&a, "10.77.0.1", 2049));
    let theirs = listen(&b, "10.77.0.2", 49152);
    // Clients' ports, of whatever service, are in the same range as bricks.
    a.sh("sysctl -qw net.ipv4.ip_local_port_range='50000 60999'");
    let nfs = listen(&b, "10.77.0.2", 2049);
    let mut gone = [reach(&b, &brick), reach(&b, &brick6)];
    let mut stays = [reach(&b, &spared), reach(&b, &other), reach(&a, &brick)];
    let mut ours = [reach(&a, &theirs), reach(&a, &nfs)];
    let mut site = a.worker();
    site.configure(&[]);
    let addresses = vec![ip("10.77.0.2"), ip("fd77::2")];
    site.send(Command::FreeStorage { addresses });
    let event = site.expect("freed", |e| matches!(e, Event::StorageFreed { .. } | Event::FreeStorageFailed { .. }));
    assert_eq!(event, Event::StorageFreed { sockets_destroyed: 2 });
    assert!(gone.iter_mut().all(|(_, server)| is_dead(server)));
    assert!(stays.iter_mut().all(|(_, server)| !is_dead(server)));
    assert!(ours.iter_mut().all(|(client, _)| !is_dead(client)));
}

/// The kernel would send the next SYN a second later, and after a longer absence a minute later.
#[test]
fn attempts_to_connect_to_a_node_that_returns_are_made_anew() {
    let Some((a, _b)) = pair() else { return };
    let mut site = a.worker();
    site.configure(&[]);
    site.send(Command::SetEvicted { epoch: 7, addresses: vec![ip("10.77.0.2")] });
    site.expect("evicted", |e| matches!(e, Event::Evicted { epoch: 7, .. }));
    // A thread of its own, in the host's network.
    let waiting = a.run(|| {
        let (tell, told) = std::sync::mpsc::channel();
        let attempt = || TcpStream::connect((ip("10.77.0.2"), 49152)).map_err(|e| e.kind());
        std::thread::spawn(move || tell.send(attempt()));
        told
    });
    let began = Instant::now();
    let is_waiting = || {
        let all = a.run(|| connections::Connections::open().unwrap().list().unwrap());
        all.iter().any(|c| c.remote.port() == 49152 && !c.is_established())
    };
    while !is_waiting() {
        assert!(began.elapsed() < common::LONG, "it does not try to connect");
        std::thread::sleep(Duration::from_millis(5));
    }
    site.send(Command::SetEvicted { epoch: 8, addresses: Vec::new() });
    site.expect("let in", |e| *e == Event::Evicted { epoch: 8, sockets_destroyed: 0 });
    let outcome = waiting.recv_timeout(common::LONG).unwrap();
    // Refused would be the kernel's own next attempt: nobody listens there.
    assert_eq!(outcome.unwrap_err(), ErrorKind::ConnectionAborted);
}

#[test]
fn shut_ports_wait_while_others_answer_and_open_by_word_or_by_themselves() {
    let Some((a, b)) = pair() else { return };
    let _listeners = b.run(|| [2049, 445].map(|port| TcpListener::bind((ip("10.77.0.2"), port)).unwrap()));
    let reaches = |port| can_connect(&a, ip("10.77.0.2"), port);
    let shut = |longest| {
        b.run(move || Shut::open().unwrap().shut(&[ip("10.77.0.2"), ip("fd77::2")], &[2049, 32803], longest).unwrap());
    };
    assert!(reaches(2049) && reaches(445));
    shut(common::LONG);
    assert!(!reaches(2049) && reaches(445));
    let open = || b.run(|| Shut::open().unwrap().reopen().unwrap());
    open();
    assert!(reaches(2049));
    open();
    // Said twice, the later time counts.
    shut(common::LONG);
    shut(Duration::from_millis(200));
    let begun = Instant::now();
    while !reaches(2049) {
        assert!(begun.elapsed() < common::LONG, "still shut");
    }
}
