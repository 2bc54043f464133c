//! Several nodes in one process, over loopback; strangers and misbehaving peers among them.

mod data;

use super::*;
use crate::peer::frame::{Frame, Hello, PROTOCOL};
use crate::pki::{Authority, ClusterId, Identity, found};
use cluster::{Epoch, Incarnation, NodeUid, Role, RunId, Time};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const LEASE: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(10);

/// A cluster's certificates and list. Each test has loopback addresses of its own.
pub(crate) struct Site0 {
    dir: tempfile::TempDir,
    authority: Authority,
    pub(crate) nodes: BTreeMap<Pnn, NodeConf>,
    pub(crate) port: u16,
}

impl Site0 {
    pub(crate) fn new(test: u8, count: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let founded = found(&dir.path().join("n0"), "test", Pnn(0), "n0").unwrap();
        let authority = PkiDir::in_state_dir(&dir.path().join("n0")).authority().unwrap();
        assert_eq!(authority.cluster(), founded.identity.cluster);
        let nodes = (0..count).map(|n| (Pnn(n), node(test, n))).collect();
        // Two test runs at a time do not meet.
        let port = 20_000 + u16::try_from(std::process::id() % 20_000).unwrap();
        let site = Self { dir, authority, nodes, port };
        for n in 1..count {
            site.certify(&format!("n{n}"), &format!("n{n}"));
        }
        site
    }

    pub(crate) fn state(&self, who: &str) -> std::path::PathBuf {
        self.dir.path().join(who)
    }

    fn certify(&self, state: &str, name: &str) {
        let (key, request) = crate::pki::new_request().unwrap();
        let identity = Identity::new(self.authority.cluster(), name).unwrap();
        let certificate = self.authority.certify(&identity, &request).unwrap();
        std::fs::create_dir(self.state(state)).unwrap();
        PkiDir::in_state_dir(&self.state(state))
            .install(self.authority.certificate_pem(), None, &certificate, &key)
            .unwrap();
    }

    pub(crate) fn config(&self, n: u16) -> PeerConfig {
        PeerConfig {
            me: Pnn(n),
            nodes: self.nodes.clone(),
            port: self.port,
            lease: LEASE,
            version: format!("v{n}"),
            pki: PkiDir::in_state_dir(&self.state(&format!("n{n}"))),
            config_text: Some("# the site\n".into()),
        }
    }

    pub(crate) fn start(&self, n: u16) -> Node {
        Node::start(self.config(n))
    }

    fn address(&self, n: u16) -> SocketAddr {
        SocketAddr::new(self.nodes[&Pnn(n)].addresses[0], self.port)
    }
}

fn node(test: u8, n: u16) -> NodeConf {
    let n8 = u8::try_from(n).unwrap();
    NodeConf {
        name: format!("n{n}"),
        role: Role::Server,
        addresses: vec![Ipv4Addr::new(127, 77, test, n8 + 1).into(), Ipv4Addr::new(127, 78, test, n8 + 1).into()],
    }
}

/// For nodes without databases.
struct NoData;

impl DataSink for NoData {
    fn wanted(&self) -> bool {
        false
    }
    fn take(&self, link: DataLink) {
        panic!("{link:?}");
    }
}

pub(crate) struct Node {
    peers: Peers,
    events: Receiver<PeerEvent>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Node {
    fn start(config: PeerConfig) -> Self {
        Self::start_with(config, NoData)
    }

    fn start_with(config: PeerConfig, data: impl DataSink + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, events) = channel();
        let handle = runtime.handle().clone();
        let peers = Peers::start(config, &handle, data, move |event| drop(sender.send(event))).unwrap();
        Self { peers, events, runtime: Some(runtime) }
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut wanted: impl FnMut(&PeerEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + SOON;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    if let Some(found) = wanted(&event) {
                        return found;
                    }
                }
                Err(_) => panic!("no {what} in {SOON:?}; links: {:?}", self.peers.links()),
            }
        }
    }

    #[track_caller]
    pub(crate) fn wait_link(&self, peer: u16, up: bool) {
        self.wait(if up { "link" } else { "end of the link" }, |event| {
            matches!(event, PeerEvent::Link { peer: p, up: u, .. } if (*p, *u) == (Pnn(peer), up)).then_some(())
        });
    }

    fn because(&self, peer: u16) -> String {
        self.peers.links().into_iter().find(|l| l.peer == Pnn(peer)).unwrap().because
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.peers.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "not in {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn heartbeat(sent: u64) -> Heartbeat {
    Heartbeat {
        uid: NodeUid(1),
        run: RunId(2),
        view: Some((Incarnation { number: 0, id: 3 }, Epoch(4))),
        sent: Time(sent),
        hears: [Pnn(0), Pnn(7)].into(),
    }
}

fn message(ticket: u64) -> Message {
    Message::AdminDone { ticket, reply: Ok("done".into()) }
}

#[test]
fn three_nodes_talk() {
    let site = Site0::new(1, 3);
    // The order of starting does not matter.
    let (n2, n0, n1) = (site.start(2), site.start(0), site.start(1));
    for (node, others) in [(&n0, [1, 2]), (&n1, [0, 2]), (&n2, [0, 1])] {
        let mut missing = others.to_vec();
        node.wait("links", |event| {
            if let PeerEvent::Link { peer, up: true, .. } = event {
                missing.retain(|p| *p != peer.0);
            }
            missing.is_empty().then_some(())
        });
    }
    for ticket in 0..100 {
        n0.peers.send(Pnn(1), &message(ticket));
    }
    let mut next = 0;
    n1.wait("100 messages in order", |event| {
        if let PeerEvent::Message { from: Pnn(0), message: Message::AdminDone { ticket, .. } } = event {
            assert_eq!(*ticket, next);
            next += 1;
        }
        (next == 100).then_some(())
    });
    assert!(n2.peers.send_bytes(Pnn(1), 9, b"hello"));
    n1.wait("bytes", |event| {
        (*event == PeerEvent::Bytes { from: Pnn(2), channel: 9, bytes: b"hello".to_vec() }).then_some(())
    });

    n2.peers.send_heartbeat(Pnn(0), &heartbeat(5));
    let mut nets = vec![];
    n0.wait("the heartbeat on both networks", |event| {
        if let PeerEvent::Heartbeat { from: Pnn(2), net, heartbeat: got } = event {
            assert_eq!(*got, heartbeat(5));
            nets.push(*net);
        }
        nets.sort_unstable();
        (nets == [0, 1]).then_some(())
    });
    let grant = Grant {
        uid: NodeUid(9),
        to_run: RunId(2),
        incarnation: Incarnation { number: 0, id: 3 },
        epoch: Epoch(4),
        sent: Time(5),
    };
    n0.peers.send_grant(Pnn(2), 1, &grant);
    n2.wait("the grant", |event| (*event == PeerEvent::Grant { from: Pnn(0), grant }).then_some(()));
    assert_eq!(n0.peers.stats().dropped_datagrams, 0);
    assert!(n0.peers.links().iter().all(|l| l.up && l.because.is_empty() && l.version.starts_with('v')));
}

#[test]
fn a_node_that_dies_and_returns() {
    let site = Site0::new(2, 2);
    let n0 = site.start(0);
    let n1 = site.start(1);
    n0.wait_link(1, true);
    drop(n1);
    n0.wait_link(1, false);
    assert!(!n0.peers.send_bytes(Pnn(1), 1, b"x"));
    until("the failed connection as a reason", || n0.because(1).contains("127.77.2.2"));
    let n1 = site.start(1);
    n0.wait_link(1, true);
    n1.wait_link(0, true);
    n0.peers.send_heartbeat(Pnn(1), &heartbeat(1));
    n1.wait("heartbeat under the new key", |e| matches!(e, PeerEvent::Heartbeat { .. }).then_some(()));
    let sent = allocation_counter::measure(|| (2..100).for_each(|n| n0.peers.send_heartbeat(Pnn(1), &heartbeat(n))));
    assert_eq!((sent.count_total, n0.peers.stats().unsent_datagrams), (0, 0), "nothing is allocated for heartbeats");
}

#[test]
fn strangers_are_refused_and_harm_nobody() {
    let site = Site0::new(3, 3);
    let (n0, n1) = (site.start(0), site.start(1));
    n1.wait_link(0, true);

    // Its own CA says that it is n0.
    let other = Site0::new(3, 1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let foreign = PkiDir::in_state_dir(&other.state("n0"));
    let dialled = runtime.block_on(raw(&foreign, site.address(1)));
    assert!(dialled.is_err(), "a stranger trusts nobody here");
    until("the stranger is counted", || n1.peers.stats().refused_links >= 1);

    // TLS without a certificate, then garbage, then silence.
    let before = n1.peers.stats().refused_links;
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0; 4096], &[0x16, 3, 1, 0xff, 0xff, 1], b""] {
        let mut stream = std::net::TcpStream::connect(site.address(1)).unwrap();
        std::io::Write::write_all(&mut stream, garbage).unwrap();
    }
    until("the garbage is counted", || n1.peers.stats().refused_links >= before + 4);

    // Datagrams that are nobody's.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for datagram in [&b""[..], b"x", &[1; 40], &[1; 1400], &[0xff; 9000]] {
        socket.send_to(datagram, site.address(1)).unwrap();
    }
    until("the datagrams are counted", || n1.peers.stats().dropped_datagrams == 5);

    n0.peers.send(Pnn(1), &message(1));
    n1.wait("a message all the same", |e| matches!(e, PeerEvent::Message { .. }).then_some(()));
}

#[test]
fn the_certificate_must_be_of_the_node_at_that_place() {
    let mut site = Site0::new(4, 3);
    let n2 = site.start(2);
    // n1's place, with a certificate of the cluster, but a node's that is not in the list.
    site.certify("thief", "elsewhere");
    let mut thief = site.config(1);
    thief.pki = PkiDir::in_state_dir(&site.state("thief"));
    let handle = n2.peers.shared.runtime.clone();
    let error = Peers::start(thief.clone(), &handle, NoData, |_| {}).unwrap_err().to_string();
    assert!(error.contains("'elsewhere'") && error.contains("'n1'"), "{error}");

    // It lies to itself about the list: the others do not believe it.
    thief.nodes.get_mut(&Pnn(1)).unwrap().name = "elsewhere".into();
    let thief = Node::start(thief);
    until("refused by n2", || n2.peers.stats().refused_links >= 1);
    until("told why", || thief.because(2).contains("not in the nodes list"));
    let n0 = site.start(0);
    until("refused by n0, which dials", || n0.because(1).contains("not in the nodes list"));
    assert!(n0.peers.links().iter().all(|l| l.peer != Pnn(1) || !l.up));
    drop(thief);

    // A list in another order is said to be one.
    site.nodes.insert(Pnn(3), node(4, 3));
    site.certify("n3", "n3");
    let mut shifted = site.config(3);
    let own = shifted.nodes.remove(&Pnn(3)).unwrap();
    shifted.nodes.insert(Pnn(9), own);
    shifted.me = Pnn(9);
    let n3 = Node::start(shifted);
    n0.peers.reconfigure(site.nodes.clone(), None).unwrap();
    until("both see that the lists differ", || n0.because(3).contains("nodes lists differ"));
    drop(n3);
}

/// A connection with a node's certificate, by hand.
async fn raw(pki: &PkiDir, to: SocketAddr) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tls = Tls::new(&pki.credentials().unwrap()).unwrap();
    let stream = TcpStream::connect(to).await?;
    let mut stream = TlsConnector::from(tls.dial).connect(rustls::pki_types::ServerName::from(to.ip()), stream).await?;
    let mut first = [0; 5];
    stream.read_exact(&mut first).await?;
    let length = u32::from_be_bytes([first[0], first[1], first[2], first[3]]);
    let mut hello = vec![0; length as usize];
    stream.read_exact(&mut hello).await?;
    Ok(stream)
}

fn hello(site: &Site0, n: u16) -> Hello {
    Hello {
        protocol_min: PROTOCOL.0,
        protocol_max: PROTOCOL.1,
        features: vec!["of-tomorrow".into()],
        version: "raw".into(),
        cluster: site.authority.cluster().to_string(),
        node: Pnn(n),
        name: format!("n{n}"),
    }
}

#[test]
fn a_peer_that_misbehaves_loses_its_link_only() {
    let site = Site0::new(5, 3);
    let (n1, n2) = (site.start(1), site.start(2));
    n2.wait_link(1, true);
    let pki = PkiDir::in_state_dir(&site.state("n0"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let greeted = || {
        let mut stream = runtime.block_on(raw(&pki, site.address(2))).unwrap();
        runtime.block_on(stream.write_all(&frame::hello(&hello(&site, 0)).unwrap())).unwrap();
        n2.wait_link(0, true);
        stream
    };

    let mut stream = greeted();
    runtime.block_on(stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 4])).unwrap();
    n2.wait_link(0, false);
    assert!(n2.because(0).contains("limit"), "{}", n2.because(0));

    let mut stream = greeted();
    runtime.block_on(stream.write_all(&[0, 0, 0, 3, 4, b'{', b'}', b'!'])).unwrap();
    n2.wait_link(0, false);
    assert!(n2.because(0).contains("cannot read"), "{}", n2.because(0));

    // A message of a later version's kind is no misbehaviour: the next one arrives.
    let mut stream = greeted();
    runtime.block_on(stream.write_all(&[&[0, 0, 0, 14, 4], &br#"{"later":[42]}"#[..]].concat())).unwrap();
    runtime.block_on(stream.write_all(&frame::message(&message(7)).unwrap())).unwrap();
    n2.wait("the message after it", |e| matches!(e, PeerEvent::Message { from: Pnn(0), .. }).then_some(()));

    // It answers no ping.
    let began = Instant::now();
    n2.wait_link(0, false);
    assert!(n2.because(0).contains("no answer") || n2.because(0).contains("not read"), "{}", n2.because(0));
    assert!(began.elapsed() < LEASE * 15, "{:?}", began.elapsed());
    drop(stream);

    // It reads nothing.
    let stream = greeted();
    let megabyte = vec![7; MAX_FRAME - 1];
    let mut queued = 0;
    while n2.peers.send_bytes(Pnn(0), 1, &megabyte) {
        queued += 1;
        assert!(queued < 200, "no bound");
    }
    n2.wait_link(0, false);
    drop(stream);

    // A newer connection of the same node takes the place of the older.
    let old = greeted();
    let new = runtime.block_on(async {
        let mut stream = raw(&pki, site.address(2)).await.unwrap();
        stream.write_all(&frame::hello(&hello(&site, 0)).unwrap()).await.unwrap();
        stream
    });
    n2.wait_link(0, false);
    n2.wait_link(0, true);
    drop((old, new));

    for wrong in [
        Hello { protocol_min: 7, protocol_max: 9, ..hello(&site, 0) },
        Hello { cluster: ClusterId::random().unwrap().to_string(), ..hello(&site, 0) },
        Hello { node: Pnn(1), ..hello(&site, 0) },
    ] {
        let refused = n2.peers.stats().refused_links;
        let bye = runtime.block_on(async {
            let mut stream = raw(&pki, site.address(2)).await.unwrap();
            stream.write_all(&frame::hello(&wrong).unwrap()).await.unwrap();
            frame::read(&mut stream, MAX_FRAME).await.unwrap()
        });
        assert!(matches!(bye, Frame::Bye(_)), "{bye:?}");
        until("counted", || n2.peers.stats().refused_links > refused);
    }

    n1.peers.send(Pnn(2), &message(1));
    n2.wait("a message of the third", |e| matches!(e, PeerEvent::Message { from: Pnn(1), .. }).then_some(()));
    assert!(n2.peers.links().iter().any(|l| l.peer == Pnn(1) && l.up));
}

/// Both ends have the same clock here, so what is read must be next to nothing, and the higher PNN reads nothing.
#[test]
fn the_lower_node_reads_the_clock_of_the_higher() {
    let site = Site0::new(10, 2);
    let (n0, n1) = (site.start(0), site.start(1));
    n0.wait_link(1, true);
    let (name, clock) = n0.wait("a reading of the other's clock", |e| match e {
        PeerEvent::Clock { peer: Pnn(1), name, clock } => Some((name.clone(), *clock)),
        _ => None,
    });
    assert_eq!(name, site.nodes[&Pnn(1)].name);
    assert!(clock.ahead_us.abs() <= clock.within_us, "{clock:?}");
    assert!(clock.within_us < 1_000_000, "{clock:?}");
    assert!(n1.events.try_iter().all(|e| !matches!(e, PeerEvent::Clock { .. })));
}

#[test]
fn a_replayed_datagram_or_one_of_another_network_is_dropped() {
    let site = Site0::new(6, 2);
    // n0 believes n1's second address to be the listener in between.
    let mut config = site.config(0);
    let tap_ip = IpAddr::from([127, 79, 6, 2]);
    config.nodes.get_mut(&Pnn(1)).unwrap().addresses[1] = tap_ip;
    let tap = UdpSocket::bind((tap_ip, site.port)).unwrap();
    tap.set_read_timeout(Some(SOON)).unwrap();
    let (n0, n1) = (Node::start(config), site.start(1));
    n0.wait_link(1, true);
    n1.wait_link(0, true);
    n0.peers.send_heartbeat(Pnn(1), &heartbeat(1));
    n1.wait("over network 0", |e| matches!(e, PeerEvent::Heartbeat { net: 0, .. }).then_some(()));

    let mut buffer = [0; 2000];
    let length = tap.recv(&mut buffer).unwrap();
    let caught = &buffer[..length];
    tap.send_to(caught, site.address(1)).unwrap();
    until("wrong network dropped", || n1.peers.stats().dropped_datagrams == 1);
    let second = SocketAddr::new(site.nodes[&Pnn(1)].addresses[1], site.port);
    tap.send_to(caught, second).unwrap();
    n1.wait("over network 1", |e| matches!(e, PeerEvent::Heartbeat { net: 1, .. }).then_some(()));
    for _ in 0..3 {
        tap.send_to(caught, second).unwrap();
    }
    let mut changed = caught.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    tap.send_to(&changed, second).unwrap();
    until("replays dropped", || n1.peers.stats().dropped_datagrams == 5);
    assert!(n1.events.try_iter().all(|e| !matches!(e, PeerEvent::Heartbeat { .. })));
}

#[test]
fn heartbeats_go_on_while_the_link_is_made_anew() {
    let site = Site0::new(7, 2);
    let (n0, n1) = (site.start(0), site.start(1));
    n0.wait_link(1, true);
    n1.wait_link(0, true);
    // Nobody can connect to n1 for a while, and the link is cut.
    for (_, listener) in std::mem::take(&mut *locked(&n1.peers.listeners)) {
        listener.abort();
    }
    n1.peers.shared.slot(Pnn(0)).unwrap().close(true);
    n0.wait_link(1, false);
    for round in 0..10 {
        n0.peers.send_heartbeat(Pnn(1), &heartbeat(round));
        n1.wait("heartbeat without a link", |e| {
            matches!(e, PeerEvent::Heartbeat { heartbeat, .. } if heartbeat.sent == Time(round)).then_some(())
        });
    }
    locked(&n1.peers.shared.slots).insert(Pnn(0), Arc::new(Slot::new(Pnn(0), Arc::clone(&n1.peers.shared.events))));
    until("the port is free again", || n1.peers.listen(&n1.peers.shared.site()).is_ok());
    n0.wait_link(1, true);
    n1.wait_link(0, true);
    for (sender, receiver, to) in [(&n0, &n1, Pnn(1)), (&n1, &n0, Pnn(0))] {
        sender.peers.send_heartbeat(to, &heartbeat(99));
        receiver.wait("heartbeat under the new key", |e| {
            matches!(e, PeerEvent::Heartbeat { heartbeat, .. } if heartbeat.sent == Time(99)).then_some(())
        });
    }
}

#[test]
fn a_peer_that_is_heard_again_is_dialled_at_once() {
    let site = Site0::new(12, 2);
    let (n0, n1) = (site.start(0), site.start(1));
    n0.wait_link(1, true);
    n1.wait_link(0, true);
    let mut took = Vec::new();
    for round in 0..4 {
        for (_, listener) in std::mem::take(&mut *locked(&n1.peers.listeners)) {
            listener.abort();
        }
        n1.peers.shared.slot(Pnn(0)).unwrap().close(true);
        n0.wait_link(1, false);
        // After tries at 0, 50, 150, 350 and 750 ms; the next one would be 550 ms later.
        std::thread::sleep(Duration::from_millis(1000));
        locked(&n1.peers.shared.slots).insert(Pnn(0), Arc::new(Slot::new(Pnn(0), Arc::clone(&n1.peers.shared.events))));
        until("the port is free again", || n1.peers.listen(&n1.peers.shared.site()).is_ok());
        let begun = Instant::now();
        n1.peers.send_heartbeat(Pnn(0), &heartbeat(round));
        n0.wait_link(1, true);
        took.push(begun.elapsed());
    }
    // Without it they take more than 2 s together.
    assert!(took.iter().sum::<Duration>() < Duration::from_millis(400), "{took:?}");
}

#[test]
fn the_list_changes_without_a_restart() {
    let mut site = Site0::new(8, 3);
    let third = site.nodes.remove(&Pnn(2)).unwrap();
    let (n0, n1) = (site.start(0), site.start(1));
    n0.wait_link(1, true);
    site.nodes.insert(Pnn(2), third);
    let n2 = site.start(2);
    assert!(!n2.peers.send_bytes(Pnn(0), 1, b"x"));
    for node in [&n0, &n1] {
        node.peers.reconfigure(site.nodes.clone(), None).unwrap();
        node.wait_link(2, true);
    }
    assert!(n0.peers.links().iter().all(|l| l.up), "the other link stayed up: {:?}", n0.peers.links());
    site.nodes.remove(&Pnn(2));
    n0.peers.reconfigure(site.nodes.clone(), None).unwrap();
    n0.wait_link(2, false);
    assert_eq!(n0.peers.links().len(), 1);

    // Bad certificates: what was in force stays.
    let file = site.state("n0").join("pki/node.pem");
    std::fs::write(&file, "garbage").unwrap();
    let error = n0.peers.reconfigure(site.nodes.clone(), None).unwrap_err().to_string();
    assert!(error.contains("node.pem"), "{error}");
    n0.peers.send(Pnn(1), &message(1));
    n1.wait("a message", |e| matches!(e, PeerEvent::Message { .. }).then_some(()));
}

#[test]
fn a_taken_port_and_missing_certificates_are_said() {
    let site = Site0::new(9, 2);
    let n0 = site.start(0);
    let handle = n0.peers.shared.runtime.clone();
    let error = Peers::start(site.config(0), &handle, NoData, |_| {}).unwrap_err().to_string();
    assert!(error.contains("127.77.9.1") && error.contains("in use"), "{error}");
    let mut config = site.config(1);
    config.pki = PkiDir::in_state_dir(&site.state("nowhere"));
    let error = Peers::start(config, &handle, NoData, |_| {}).unwrap_err().to_string();
    assert!(error.contains("steadfast join"), "{error}");
}
