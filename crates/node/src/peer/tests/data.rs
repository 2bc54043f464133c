//! Data links: who gets them, and when they end.

use super::*;
use std::io::{ErrorKind, Read, Write};

/// Notes what it is given.
struct Links {
    wanted: AtomicBool,
    taken: Mutex<std::sync::mpsc::Sender<DataLink>>,
}

impl DataSink for Arc<Links> {
    fn wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
    fn take(&self, link: DataLink) {
        drop(locked(&self.taken).send(link));
    }
}

struct DataNode {
    node: Node,
    links: Arc<Links>,
    taken: Receiver<DataLink>,
}

fn start(site: &Site0, n: u16, wanted: bool) -> DataNode {
    let (sender, taken) = channel();
    let links = Arc::new(Links { wanted: wanted.into(), taken: Mutex::new(sender) });
    DataNode { node: Node::start_with(site.config(n), Arc::clone(&links)), links, taken }
}

impl DataNode {
    #[track_caller]
    fn link(&self, peer: u16) -> DataLink {
        let link = self.taken.recv_timeout(SOON).expect("a data link");
        assert_eq!(link.peer, Pnn(peer));
        link.stream.set_nonblocking(false).unwrap();
        link.stream.set_read_timeout(Some(SOON)).unwrap();
        link
    }
}

fn say(link: &mut DataLink, text: &[u8]) {
    for piece in text.chunks(10_000) {
        link.tls.writer().write_all(piece).unwrap();
        while link.tls.wants_write() {
            link.tls.write_tls(&mut link.stream).unwrap();
        }
    }
}

#[track_caller]
fn expect(link: &mut DataLink, text: &[u8]) {
    let mut got = Vec::new();
    while got.len() < text.len() {
        let mut some = vec![0; text.len() - got.len()];
        match link.tls.reader().read(&mut some) {
            Ok(n) => got.extend_from_slice(&some[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert_ne!(link.tls.read_tls(&mut link.stream).unwrap(), 0, "after {} bytes", got.len());
                link.tls.process_new_packets().unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(got == text);
}

#[track_caller]
fn expect_end(link: &mut DataLink) {
    // Without a word of TLS.
    match link.tls.read_tls(&mut link.stream) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("still open: {other:?}"),
    }
}

#[test]
fn a_pair_has_one_data_link_and_gets_another_when_it_ends() {
    let site = Site0::new(20, 2);
    let (n0, n1) = (start(&site, 0, true), start(&site, 1, true));
    for round in 0..3u8 {
        let (mut a, mut b) = (n0.link(1), n1.link(0));
        for text in [&[round][..], b"there", &vec![7; 100_000]] {
            std::thread::scope(|scope| {
                scope.spawn(|| say(&mut a, text));
                expect(&mut b, text);
            });
        }
        say(&mut b, b"and back");
        expect(&mut a, b"and back");
        // Either end may be the one that drops it.
        let (dropped, mut other) = if round == 0 { (a, b) } else { (b, a) };
        drop(dropped);
        expect_end(&mut other);
    }
    assert_eq!(n0.node.peers.stats().refused_links, 0);
}

#[test]
fn a_data_link_ends_with_the_link() {
    let site = Site0::new(21, 2);
    let (n0, n1) = (start(&site, 0, true), start(&site, 1, true));
    let (mut a, mut b) = (n0.link(1), n1.link(0));
    n0.node.wait_link(1, true);
    n1.node.peers.shared.slot(Pnn(0)).unwrap().close(true);
    n0.node.wait_link(1, false);
    expect_end(&mut a);
    expect_end(&mut b);
}

#[test]
fn no_data_link_is_made_for_who_wants_none() {
    let site = Site0::new(22, 2);
    let (n0, n1) = (start(&site, 0, true), start(&site, 1, false));
    n0.node.wait_link(1, true);
    let none = n0.taken.recv_timeout(Duration::from_millis(300));
    assert!(none.is_err(), "{none:?}");
    n1.links.wanted.store(true, Ordering::Relaxed);
    let (mut a, mut b) = (n0.link(1), n1.link(0));
    say(&mut a, b"hello");
    expect(&mut b, b"hello");
}
