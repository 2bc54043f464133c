//! What goes to the other nodes' servers: gathered in a turn, sent at its end, and only over the link that the core
//! knew when it said it.

use std::collections::BTreeMap;

/// Channel of the peer links.
pub(crate) const CHANNEL: u8 = 4;

/// The links as the core knows them.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Numbers of those that are up.
    up: BTreeMap<u32, u64>,
    waiting: BTreeMap<u32, Vec<Vec<u8>>>,
}

impl Links {
    /// The core is about to learn this. What it said before must have been sent.
    pub(super) fn change(&mut self, peer: u32, up: bool, number: u64) {
        if up {
            self.up.insert(peer, number);
        } else {
            self.up.remove(&peer);
        }
    }

    /// Dropped if the link is down.
    pub(super) fn push(&mut self, to: u32, bytes: Vec<u8>) {
        if self.up.contains_key(&to) {
            self.waiting.entry(to).or_default().push(bytes);
        }
    }

    /// Gives all that waits to `send`, with the number of the link that it is for.
    pub(super) fn flush(&mut self, mut send: impl FnMut(u32, u64, Vec<Vec<u8>>)) {
        while let Some((peer, bytes)) = self.waiting.pop_first() {
            if let Some(number) = self.up.get(&peer) {
                send(peer, *number, bytes);
            }
        }
    }
}
