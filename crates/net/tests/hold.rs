//! The hold against real TCP connections: a node's own storage clients send nothing without a lease.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{Host, Site, ip, pair};
use net::connections::Connections;
use net::fence::StoragePorts;
use net::hold::{GLUSTERFS_DATA, PASSES};
use net::{BootTime, Command, Event, HoldSpec, hold};

const OTHER: &str = "10.77.0.2";
const OWN: &str = "10.77.0.1";

/// A connection: (the client's end, the server's end).
fn connect(client: &Host, server: &Host, to: &str, port: u16) -> (TcpStream, TcpStream) {
    let to = ip(to);
    let listener = server.run(move || TcpListener::bind((to, port)).unwrap());
    let ours = client.run(move || TcpStream::connect((to, port)).unwrap());
    let (theirs, _) = listener.accept().unwrap();
    // The listener must go on listening: what answers from its port passes.
    std::mem::forget(listener);
    (ours, theirs)
}

/// Sends one byte: does it arrive within `within`?
fn arrives(from: &mut TcpStream, to: &mut TcpStream, within: Duration) -> bool {
    to.set_read_timeout(Some(within)).unwrap();
    from.write_all(b"x").unwrap();
    to.read(&mut [0; 1]).is_ok()
}

fn can_connect(from: &Host, to: IpAddr, port: u16) -> bool {
    from.run(move || TcpStream::connect_timeout(&(to, port).into(), Duration::from_millis(300)).is_ok())
}

fn configure(site: &mut Site) {
    site.send(Command::Configure {
        vips: Vec::new(),
        storage_ports: net::fence::GLUSTERFS_PORTS.to_vec(),
        spared_ports: vec![22, 4380],
        service_ports: Vec::new(),
        hold: Some(Box::new(HoldSpec {
            servers: vec![ip(OWN), ip(OTHER), ip("fd77::1"), ip("fd77::2")],
            ports: vec![GLUSTERFS_DATA],
            spared: vec![22, 4380],
        })),
    });
    site.expect("hold", |e| *e == Event::Holds { error: None });
}

const SOON: Duration = Duration::from_millis(500);

#[test]
fn without_a_lease_clients_wait_and_servers_answer() {
    let Some((a, b)) = pair() else { return };
    let (mut brick_of_b, mut at_b) = connect(&a, &b, OTHER, 49152);
    let (mut brick_of_a, mut at_a) = connect(&a, &a, OWN, 49153);
    let (mut served, mut others) = connect(&b, &a, OWN, 49154);
    let (mut six, mut at_six) = connect(&a, &b, "fd77::2", 49152);
    let (mut control, mut at_control) = connect(&a, &b, OTHER, 4380);
    let (mut glusterd, mut at_glusterd) = connect(&a, &b, OTHER, 24007);
    let mut site = a.worker();
    configure(&mut site);
    for (name, one, two) in [
        ("another's brick", &mut brick_of_b, &mut at_b),
        ("its own brick over lo", &mut brick_of_a, &mut at_a),
        ("IPv6", &mut six, &mut at_six),
    ] {
        assert!(!arrives(one, two, Duration::from_millis(150)), "{name}");
    }
    assert!(!can_connect(&a, ip(OTHER), 49152), "a new connection is held as well");
    assert!(arrives(&mut served, &mut others, SOON), "others reach its brick");
    assert!(arrives(&mut others, &mut served, SOON), "its brick answers others");
    assert!(arrives(&mut control, &mut at_control, SOON) && arrives(&mut glusterd, &mut at_glusterd, SOON));
    // The lock's mount: its client runs with the group that passes.
    let passes = a.run(|| {
        // SAFETY: changes the credentials of this thread only, which the test owns.
        #[allow(unsafe_code)]
        let set = |gid: u32| unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
        set(PASSES);
        let stream = TcpStream::connect_timeout(&(ip(OTHER), 49152).into(), SOON);
        set(0);
        stream.is_ok()
    });
    assert!(passes, "the cluster lock's client is not held");
    // With a lease, what waited goes on.
    site.renew(Duration::from_secs(5));
    for (name, one, two) in [
        ("another's brick", &mut brick_of_b, &mut at_b),
        ("its own brick over lo", &mut brick_of_a, &mut at_a),
        ("IPv6", &mut six, &mut at_six),
    ] {
        assert!(arrives(one, two, Duration::from_secs(3)), "{name} goes on");
        // The byte that waited, and the new one.
        two.read_exact(&mut [0; 1]).unwrap();
    }
    drop(site);
    assert!(!arrives(&mut brick_of_a, &mut at_a, Duration::from_millis(150)), "held when the daemon has ended");
    a.run(|| hold::remove().unwrap());
    assert!(arrives(&mut brick_of_a, &mut at_a, Duration::from_secs(3)), "and free when the hold is removed");
    a.run(|| hold::remove().unwrap());
}

#[test]
fn the_kernel_ends_it_with_the_lease_when_nobody_renews() {
    let Some((a, b)) = pair() else { return };
    let (mut client, mut brick) = connect(&a, &b, OTHER, 49152);
    let mut site = a.worker();
    configure(&mut site);
    let until = site.renew(Duration::from_millis(400));
    brick.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_nonblocking(true).unwrap();
    // Writes all the time: when did the last byte arrive that was let through?
    let start = Instant::now();
    let (mut last, mut buf) = (BootTime::now(), [0; 4096]);
    while start.elapsed() < Duration::from_millis(900) {
        client.write_all(b"x").ok();
        brick.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        if brick.read(&mut buf).is_ok() {
            last = BootTime::now();
        }
    }
    let (late, early) = (last.since(until), until.since(last));
    println!("the last byte arrived {late:?} after or {early:?} before the end of the lease");
    assert!(late < Duration::from_millis(12) && early < Duration::from_millis(50));
    // Removed by somebody (a firewall's reload): back with the next renewal.
    a.sh("nft delete table inet steadfast_hold");
    site.renew(Duration::from_secs(2));
    let back = || a.sh("nft list tables").contains("steadfast_hold");
    common::wait_for("the hold is made anew", back);
}

#[test]
fn a_configuration_without_ports_takes_it_away_and_one_that_says_nothing_leaves_it() {
    let Some((a, _b)) = pair() else { return };
    let mut site = a.worker();
    configure(&mut site);
    let there = || a.sh("nft list tables").contains("steadfast_hold");
    assert!(there());
    for (hold, stays) in [(None, true), (Some(Box::default()), false)] {
        site.send(Command::Configure {
            vips: Vec::new(),
            storage_ports: Vec::new(),
            spared_ports: Vec::new(),
            service_ports: Vec::new(),
            hold,
        });
        site.expect("lease kind", |e| matches!(e, Event::Lease { .. }));
        // That may be said of the configuration before.
        common::wait_for("the hold to be as it was told", || there() == stays);
    }
}

/// What a program gave to a connection that was held, and whether that arrives after the program has ended and there is a lease again.
fn arrives_late(destroyed: bool) -> Option<bool> {
    let (a, b) = pair()?;
    let (mut client, mut brick) = connect(&a, &b, OTHER, 49152);
    let (_control, mut at_control) = connect(&a, &b, OTHER, 4380);
    let mut site = a.worker();
    configure(&mut site);
    client.write_all(b"late").unwrap();
    // As the end of its program: the kernel goes on with it alone.
    drop(client);
    if destroyed {
        let ports = StoragePorts { storage: net::fence::GLUSTERFS_PORTS.to_vec(), spared: vec![22, 4380] };
        let end = move || Connections::open().unwrap().end_orphans(&ports).unwrap();
        assert_eq!(a.run(end.clone()), 1);
        assert_eq!(a.run(end), 0, "nothing is left");
    }
    site.renew(Duration::from_secs(5));
    brick.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let late = matches!(brick.read(&mut [0; 8]), Ok(4));
    at_control.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(
        at_control.read(&mut [0; 1]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock),
        "it was none of it"
    );
    Some(late)
}

#[test]
fn what_a_program_gave_to_its_connections_does_not_outlive_it_when_they_are_destroyed() {
    let Some(late) = arrives_late(false) else { return };
    assert!(late, "the kernel sends it on: the test shows nothing if not");
    assert_eq!(arrives_late(true), Some(false));
}
