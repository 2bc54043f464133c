//! Data links of the thread, with a peer at the other end that a test plays.

use super::*;
use crate::peer::DataLink;
use crate::peer::tests::Site0;
use crate::pki::{PkiDir, Tls};
use cluster::Pnn;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

type Far = StreamOwned<ServerConnection, TcpStream>;

/// A link to node 7 after its handshake, and its other end.
fn pair(tls: &Tls) -> (Box<DataLink>, Far) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(SOON)).unwrap();
    let server = std::thread::spawn({
        let mut tls = ServerConnection::new(Arc::clone(&tls.accept)).unwrap();
        move || {
            while tls.is_handshaking() {
                tls.complete_io(&mut far).unwrap();
            }
            StreamOwned::new(tls, far)
        }
    });
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut client = ClientConnection::new(Arc::clone(&tls.dial_data), name).unwrap();
    while client.is_handshaking() {
        client.complete_io(&mut near).unwrap();
    }
    near.set_nonblocking(true).unwrap();
    let (_ended, _) = oneshot::channel();
    let link = DataLink { peer: Pnn(7), stream: near, tls: client.into(), _ended };
    (Box::new(link), server.join().unwrap())
}

fn tls() -> Tls {
    let site = Site0::new(30, 1);
    Tls::new(&PkiDir::in_state_dir(&site.state("n0")).credentials().unwrap()).unwrap()
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

#[track_caller]
fn next(far: &mut Far) -> Vec<u8> {
    let mut length = [0; 4];
    far.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    far.read_exact(&mut bytes).unwrap();
    bytes
}

#[track_caller]
fn expect_over(far: &mut Far) {
    match far.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        other => panic!("still open: {other:?}"),
    }
}

#[test]
fn what_is_for_a_peer_goes_over_the_link_that_the_core_knew() {
    let (server, tls) = (start(), tls());
    let mut client = server.connect();
    assert_eq!(ask(&mut client, b"peer lost"), b"peer lost");

    let (link, mut far) = pair(&tls);
    server.post.put(Item::Link(link));
    assert_eq!(next(&mut far), b"hello");
    assert_eq!(ask(&mut client, b"peer a b"), b"peer a b");
    assert_eq!((next(&mut far), next(&mut far)), (b"a".to_vec(), b"b".to_vec()));

    // Before the thread looks for the first time something has come already, and more than TLS and a buffer hold.
    let (link, mut newer) = pair(&tls);
    let long: Vec<_> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let sent = [b"one".to_vec(), Vec::new(), long, b"four".to_vec()];
    let bytes: Vec<u8> = sent.iter().flat_map(|bytes| frame(bytes)).collect();
    newer.write_all(&bytes[..5_000]).unwrap();
    server.post.put(Item::Link(link));
    newer.write_all(&bytes[5_000..]).unwrap();
    assert_eq!(next(&mut newer), b"hello");
    expect_over(&mut far);
    until("all frames", || locked(&server.seen).heard.len() == 4);
    let heard = std::mem::take(&mut locked(&server.seen).heard);
    assert!(heard == sent.map(|bytes| (7, bytes)), "{:?}", heard.iter().map(|h| h.1.len()).collect::<Vec<_>>());

    newer.write_all(&frame(b"last words")).unwrap();
    drop(newer);
    until("its end", || locked(&server.seen).links.last() == Some(&(7, false)));
    let seen = locked(&server.seen);
    assert_eq!(seen.links, [(7, true), (7, false), (7, true), (7, false)]);
    assert_eq!(seen.heard, [(7, b"last words".to_vec())]);
    assert_eq!(seen.wishes, [Wish::Reload, Wish::Reload]);
    assert_eq!(seen.recovered, [17, 17]);
}

/// The kernel keeps the processors awake for as long as the device is open.
#[test]
fn the_processors_are_kept_awake_while_much_comes_from_a_peer() {
    let (server, tls) = (start(), tls());
    let device = latency(&server.dir).canonicalize().unwrap();
    let is_open = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        fds.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|open| open == device))
    };
    let (link, mut far) = pair(&tls);
    server.post.put(Item::Link(link));
    assert_eq!(next(&mut far), b"hello");
    far.write_all(&frame(b"a word")).unwrap();
    until("a word", || locked(&server.seen).heard.len() == 1);
    assert!(!is_open());
    let many: Vec<u8> = (0..100).flat_map(|_| frame(b"a word")).collect();
    far.write_all(&many).unwrap();
    until("the request", is_open);
    assert_eq!(std::fs::read(&device).unwrap().len(), 4);
    until("its end", || !is_open());
}

#[test]
fn a_peer_that_does_not_read_or_lies_loses_its_link_and_nobody_waits_for_it() {
    let (server, tls) = (start(), tls());
    let mut client = server.connect();
    let (link, mut far) = pair(&tls);
    server.post.put(Item::Link(link));
    assert_eq!(next(&mut far), b"hello");
    assert_eq!(ask(&mut client, b"drown"), b"drown");
    assert_eq!(ask(&mut client, b"still here"), b"still here");
    until("the end of the drowned", || locked(&server.seen).links == [(7, true), (7, false)]);

    let (link, mut far) = pair(&tls);
    server.post.put(Item::Link(link));
    assert_eq!(next(&mut far), b"hello");
    far.write_all(&u32::MAX.to_be_bytes()).unwrap();
    expect_over(&mut far);

    let (link, mut far) = pair(&tls);
    server.post.put(Item::Link(link));
    assert_eq!(next(&mut far), b"hello");
    // Not TLS.
    far.get_mut().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    expect_over(&mut far);
    until("three ends", || locked(&server.seen).links.iter().filter(|(_, up)| !up).count() == 3);
    assert!(locked(&server.seen).heard.is_empty());
}
