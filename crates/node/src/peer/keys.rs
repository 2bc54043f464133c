//! Which keys are in force with which peer.

use super::seal::{GRACE, KeyId, ReceiveKey, SendKey, SessionKeys};
use crate::sync::locked;
use cluster::Pnn;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// All keys of this node.
#[derive(Debug, Default)]
pub(super) struct Keys {
    sending: Mutex<HashMap<Pnn, Arc<SendKey>>>,
    receiving: Mutex<HashMap<KeyId, Held>>,
}

#[derive(Debug)]
struct Held {
    from: Pnn,
    key: ReceiveKey,
    /// Grows with each agreement.
    order: u64,
    /// Something came under it, so the peer uses it.
    in_use: bool,
    /// Set when a newer one is in use.
    until: Option<Instant>,
}

/// What a session gave for sending, until the peer is known to have it too.
#[derive(Debug)]
pub(super) struct Agreed {
    peer: Pnn,
    id: KeyId,
    sending: SendKey,
}

/// Sessions that broke before anything came under their keys, kept since the peer may think otherwise.
const MAX_UNUSED: usize = 8;

impl Keys {
    /// From now on datagrams under these keys are opened.
    pub(super) fn agree(&self, peer: Pnn, keys: SessionKeys) -> Agreed {
        let mut receiving = locked(&self.receiving);
        let order = receiving.values().map(|held| held.order + 1).max().unwrap_or(0);
        let mut unused: Vec<(u64, KeyId)> = receiving
            .iter()
            .filter(|(_, held)| held.from == peer && !held.in_use)
            .map(|(id, held)| (held.order, *id))
            .collect();
        unused.sort_unstable();
        for (_, id) in unused.iter().rev().skip(MAX_UNUSED - 1) {
            receiving.remove(id);
        }
        receiving.insert(keys.id, Held { from: peer, key: keys.receiving, order, in_use: false, until: None });
        Agreed { peer, id: keys.id, sending: keys.sending }
    }

    /// The peer has the keys too: what is sent is sealed with them.
    pub(super) fn use_for_sending(&self, agreed: Agreed) {
        locked(&self.sending).insert(agreed.peer, Arc::new(agreed.sending));
    }

    /// The session was refused for good: nothing of it counts.
    pub(super) fn give_up(&self, agreed: &Agreed) {
        locked(&self.receiving).remove(&agreed.id);
    }

    /// The peer left the nodes list.
    pub(super) fn forget(&self, peer: Pnn) {
        locked(&self.sending).remove(&peer);
        locked(&self.receiving).retain(|_, held| held.from != peer);
    }

    /// What to seal with.
    pub(super) fn sending(&self, peer: Pnn) -> Option<Arc<SendKey>> {
        locked(&self.sending).get(&peer).cloned()
    }

    /// Opens a datagram; says who sealed it.
    pub(super) fn open<'a>(&self, id: KeyId, net: u8, datagram: &'a mut [u8], now: Instant) -> Option<(Pnn, &'a [u8])> {
        let mut receiving = locked(&self.receiving);
        let held = receiving.get_mut(&id)?;
        if held.until.is_some_and(|until| now >= until) {
            receiving.remove(&id);
            return None;
        }
        let (from, order) = (held.from, held.order);
        let plain = held.key.open(net, datagram)?;
        if !held.in_use {
            held.in_use = true;
            receiving.retain(|_, held| held.until.is_none_or(|until| now < until));
            for older in receiving.values_mut().filter(|h| h.from == from && h.order < order && h.until.is_none()) {
                older.until = Some(now + GRACE);
            }
        }
        Some((from, plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::seal::{EXPORTED, key_id};
    use crate::peer::wire;

    fn session(n: u8) -> (SessionKeys, SessionKeys) {
        let exported = [n; EXPORTED];
        (SessionKeys::new(&exported, true).unwrap(), SessionKeys::new(&exported, false).unwrap())
    }

    fn open(keys: &Keys, sender: &SendKey, at: Instant) -> Option<Pnn> {
        let mut datagram = sender.seal(0, b"x").unwrap();
        keys.open(key_id(&datagram).unwrap(), 0, &mut datagram, at).map(|(from, _)| from)
    }

    #[test]
    fn the_key_before_is_good_until_two_seconds_after_the_new_one_was_used() {
        let keys = Keys::default();
        let now = Instant::now();
        let (old, mine) = session(1);
        keys.use_for_sending(keys.agree(Pnn(1), mine));
        let later = now + GRACE * 100;
        assert_eq!(open(&keys, &old.sending, later), Some(Pnn(1)), "no newer key: good for ever");

        let (new, mine) = session(2);
        let agreed = keys.agree(Pnn(1), mine);
        assert_eq!(open(&keys, &old.sending, later + GRACE), Some(Pnn(1)), "the peer may not have the new one yet");
        keys.use_for_sending(agreed);
        let later = later + GRACE * 2;
        assert_eq!(open(&keys, &old.sending, later), Some(Pnn(1)));
        assert_eq!(open(&keys, &new.sending, later), Some(Pnn(1)));
        assert_eq!(open(&keys, &old.sending, later + GRACE / 2), Some(Pnn(1)));
        assert_eq!(open(&keys, &old.sending, later + GRACE), None);
        assert_eq!(open(&keys, &new.sending, later + GRACE * 100), Some(Pnn(1)));

        keys.forget(Pnn(1));
        assert_eq!(open(&keys, &new.sending, later), None);
        assert!(keys.sending(Pnn(1)).is_none());
    }

    #[test]
    fn nothing_is_allocated_for_a_heartbeat_that_comes() {
        let keys = Keys::default();
        let now = Instant::now();
        let (theirs, mine) = session(1);
        keys.use_for_sending(keys.agree(Pnn(1), mine));
        let mut plain = Vec::new();
        wire::put_heartbeat(&crate::peer::tests::heartbeat(7), &mut plain);
        let come = |times| {
            let mut read = 0;
            let allocated = allocation_counter::measure(|| {
                for _ in 0..times {
                    let mut datagram = theirs.sending.seal(0, &plain).unwrap();
                    let id = key_id(&datagram).unwrap();
                    let opened = keys.open(id, 0, &mut datagram, now);
                    read += usize::from(matches!(opened.map(|(_, plain)| wire::read(plain)), Some(Some(_))));
                }
            });
            assert_eq!(read, times);
            allocated.count_total
        };
        come(1);
        assert_eq!(come(1000), 0);
    }

    #[test]
    fn broken_sessions_neither_pile_up_nor_push_out_the_key_in_use() {
        let keys = Keys::default();
        let now = Instant::now();
        let (used, mine) = session(0);
        keys.use_for_sending(keys.agree(Pnn(1), mine));
        assert_eq!(open(&keys, &used.sending, now), Some(Pnn(1)));
        let mut sessions = Vec::new();
        for n in 1..=50 {
            let (theirs, mine) = session(n);
            keys.agree(Pnn(1), mine);
            sessions.push(theirs);
        }
        assert_eq!(locked(&keys.receiving).len(), 1 + MAX_UNUSED);
        assert_eq!(open(&keys, &used.sending, now), Some(Pnn(1)));
        assert_eq!(open(&keys, &sessions[0].sending, now), None);
        assert_eq!(open(&keys, &sessions[49].sending, now), Some(Pnn(1)));

        let (refused, mine) = session(99);
        keys.give_up(&keys.agree(Pnn(1), mine));
        assert_eq!(open(&keys, &refused.sending, now), None);
    }
}
