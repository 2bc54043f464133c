//! Bulk beside what is urgent.

use super::*;
use crate::peer::frame::PIECE;

const CHANNEL: u8 = 77;

impl Node {
    fn link(&self, peer: u16) -> u64 {
        self.wait("link", |event| match event {
            PeerEvent::Link { peer: p, up: true, number } if *p == Pnn(peer) => Some(*number),
            _ => None,
        })
    }

    fn bulk(&self, what: &str) -> Vec<u8> {
        self.wait(what, |event| match event {
            PeerEvent::Bytes { channel: CHANNEL, bytes, .. } => Some(bytes.clone()),
            _ => None,
        })
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i / 65_536) as u8 ^ seed).collect()
}

#[test]
fn bulk_of_any_length_arrives_whole_and_in_order() {
    let site = Site0::new(20, 2);
    let (n0, n1) = (site.start(0), site.start(1));
    let (to1, to0) = (n0.link(1), n1.link(0));
    let lengths = [3 << 20, 0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 7, (3 << 20) + 1];
    let sent: Vec<_> = (0u8..).zip(lengths).map(|(seed, len)| pattern(len, seed)).collect();
    assert!(n0.peers.send_bulk(Pnn(1), to1, CHANNEL, sent.clone()));
    assert!(n1.peers.send_bulk(Pnn(0), to0, CHANNEL, sent.clone()));
    for node in [&n0, &n1] {
        for bytes in &sent {
            assert!(node.bulk("bulk") == *bytes, "of {} bytes", bytes.len());
        }
    }

    assert!(!n0.peers.send_bulk(Pnn(1), to1 + 1, CHANNEL, vec![vec![1]]), "for a link that is not the one");
    n1.peers.shared.slot(Pnn(0)).unwrap().close(true);
    n0.wait_link(1, false);
    assert!(!n0.peers.send_bulk(Pnn(1), to1, CHANNEL, vec![vec![1]]), "the link is over");
}

#[test]
fn what_is_urgent_does_not_wait_for_bulk() {
    let site = Site0::new(21, 2);
    let (n0, n1) = (site.start(0), site.start(1));
    let to1 = n0.link(1);
    n1.link(0);
    // A busy machine may let the bulk go before this thread has queued the message: the best of some rounds counts.
    let mut seen = Vec::new();
    for round in 0..5 {
        let sent: Vec<_> = (0..50).map(|seed| pattern(1 << 20, seed)).collect();
        let began = Instant::now();
        assert!(n0.peers.send_bulk(Pnn(1), to1, CHANNEL, sent));
        n0.peers.send(Pnn(1), &message(round));
        assert!(n0.peers.send_bulk(Pnn(1), to1, CHANNEL, vec![vec![1]]));
        let (mut before, mut urgent, mut arrived) = (0, None, 0);
        n1.wait("all of it", |event| {
            match event {
                PeerEvent::Message { .. } => (urgent, before) = (Some(began.elapsed()), arrived),
                PeerEvent::Bytes { channel: CHANNEL, .. } => arrived += 1,
                _ => {}
            }
            (arrived == 51).then_some(())
        });
        let (urgent, all) = (urgent.unwrap(), began.elapsed());
        seen.push(format!("urgent after {urgent:?} and {before} MiB, all after {all:?}"));
        if urgent < all / 3 && before < 10 {
            return println!("{seen:?}");
        }
    }
    panic!("{seen:?}");
}

#[test]
fn a_peer_that_reads_no_bulk_costs_bounded_memory_and_its_link() {
    let site = Site0::new(22, 2);
    let (n0, n1) = (site.start(0), site.start(1));
    let to1 = n0.link(1);
    n1.link(0);
    assert!(!n0.peers.send_bulk(Pnn(1), to1, CHANNEL, vec![vec![0; MAX_BULK + 1]]));
    n0.wait_link(1, false);
    assert_eq!(n0.peers.stats().overflowed_links, 1);

    let to1 = n0.link(1);
    let mut queued = 0;
    // Zeroed memory that nobody has touched costs nothing.
    while n0.peers.send_bulk(Pnn(1), to1, CHANNEL, vec![vec![0; 64 << 20]]) {
        queued += 1;
        assert!(queued < 30, "no bound");
    }
    n0.wait_link(1, false);
    n0.link(1);
    n0.peers.send(Pnn(1), &message(1));
    n1.wait("a message over the next link", |e| matches!(e, PeerEvent::Message { .. }).then_some(()));
}
