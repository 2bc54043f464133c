//! Sealing of datagrams: AES-256-GCM (RFC 5116) under keys exported from a link's TLS session (RFC 8446, 7.5).
//!
//! ```text
//! version 1 | key id 8 | counter 8 | ciphertext | tag 16      the first 17 bytes and the network are authenticated
//! ```
//!
//! Each session gives one key id and one key per direction; the counter is the nonce and never repeats under a key.
//! A receiver keeps the key before for [`GRACE`] after a new one is in use, and the last one for as long as there
//! is no newer: heartbeats go on while a link is made anew.

use super::wire::MAX_WORD;
use arrayvec::ArrayVec;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long the key before is good for receiving.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// Bytes before the ciphertext.
pub(super) const HEADER: usize = 17;
/// No datagram is longer: it must pass any network unfragmented.
pub(super) const MAX_DATAGRAM: usize = 1400;
/// Exported from a session: key id, dialer's key, acceptor's key.
pub(super) const EXPORTED: usize = 8 + 32 + 32;
/// RFC 8446's label for the export.
pub(super) const LABEL: &[u8] = b"EXPORTER-steadfast-heartbeat";

const VERSION: u8 = 1;
const WINDOW: u64 = 1024;
const TAG: usize = 16;

/// A datagram on its way out. Not on the heap: nothing is allocated for heartbeats.
pub(super) type Sealed = ArrayVec<u8, { HEADER + MAX_WORD + TAG }>;
const _: () = assert!(HEADER + MAX_WORD + TAG <= MAX_DATAGRAM, "a heartbeat is one datagram");

/// Names the keys of one session. Not secret.
pub(super) type KeyId = [u8; 8];

/// The keys of one session, at one of its ends.
#[derive(Debug)]
pub(super) struct SessionKeys {
    pub(super) id: KeyId,
    pub(super) sending: SendKey,
    pub(super) receiving: ReceiveKey,
}

impl SessionKeys {
    /// From what the session exported.
    pub(super) fn new(exported: &[u8; EXPORTED], dialer: bool) -> Result<Self, Unspecified> {
        let (id, keys) = exported.split_first_chunk::<8>().ok_or(Unspecified)?;
        let (dialers, acceptors) = keys.split_at(32);
        let (mine, theirs) = if dialer { (dialers, acceptors) } else { (acceptors, dialers) };
        Ok(Self {
            id: *id,
            sending: SendKey { id: *id, key: key(mine)?, counter: AtomicU64::new(0) },
            receiving: ReceiveKey { key: key(theirs)?, seen: Window::default() },
        })
    }
}

fn key(bytes: &[u8]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new)
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn associated(header: &[u8; HEADER], net: u8) -> Aad<[u8; HEADER + 1]> {
    let mut bytes = [0; HEADER + 1];
    bytes[..HEADER].copy_from_slice(header);
    bytes[HEADER] = net;
    Aad::from(bytes)
}

/// Seals.
#[derive(Debug)]
pub(super) struct SendKey {
    id: KeyId,
    key: LessSafeKey,
    counter: AtomicU64,
}

impl SendKey {
    /// Makes the datagram for a network.
    pub(super) fn seal(&self, net: u8, plain: &[u8]) -> Result<Sealed, Unspecified> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut header = [0; HEADER];
        header[0] = VERSION;
        header[1..9].copy_from_slice(&self.id);
        header[9..].copy_from_slice(&counter.to_be_bytes());
        let mut out = Sealed::new();
        out.try_extend_from_slice(&header).map_err(|_| Unspecified)?;
        out.try_extend_from_slice(plain).map_err(|_| Unspecified)?;
        let tag = self.key.seal_in_place_separate_tag(nonce(counter), associated(&header, net), &mut out[HEADER..])?;
        out.try_extend_from_slice(tag.as_ref()).map_err(|_| Unspecified)?;
        Ok(out)
    }
}

/// The key id of a datagram; `None` if it cannot be one.
pub(super) fn key_id(datagram: &[u8]) -> Option<KeyId> {
    if datagram.len() < HEADER + TAG || datagram[0] != VERSION {
        return None;
    }
    datagram[1..9].try_into().ok()
}

/// Opens.
#[derive(Debug)]
pub(super) struct ReceiveKey {
    key: LessSafeKey,
    seen: Window,
}

impl ReceiveKey {
    /// Opens a datagram in place; `None` if it is garbled, of another network, or a replay.
    pub(super) fn open<'a>(&mut self, net: u8, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        let (header, sealed) = datagram.split_first_chunk_mut::<HEADER>()?;
        let counter = u64::from_be_bytes(header[9..].try_into().ok()?);
        if !self.seen.is_new(counter) {
            return None;
        }
        let plain = self.key.open_in_place(nonce(counter), associated(header, net), sealed).ok()?;
        // Only what is genuine may move the window.
        self.seen.mark(counter);
        Some(plain)
    }
}

/// Which counters have been seen: the newest and a bitmap of the [`WINDOW`] up to it (RFC 4303, 3.4.3).
#[derive(Debug)]
struct Window {
    /// One more than the newest counter; 0 = none yet.
    next: u64,
    bits: [u64; (WINDOW / 64) as usize],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, bits: [0; (WINDOW / 64) as usize] }
    }
}

impl Window {
    fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        self.next - counter <= WINDOW && self.bits[slot(counter)] & bit(counter) == 0
    }

    fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            if counter - self.next >= WINDOW {
                self.bits = Default::default();
            } else {
                for skipped in self.next..counter {
                    self.bits[slot(skipped)] &= !bit(skipped);
                }
            }
            self.next = counter + 1;
        }
        self.bits[slot(counter)] |= bit(counter);
    }
}

fn slot(counter: u64) -> usize {
    // Less than 16.
    (counter % WINDOW / 64) as usize
}
fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn pair() -> (SessionKeys, SessionKeys) {
        let exported: [u8; EXPORTED] = std::array::from_fn(|i| i as u8);
        (SessionKeys::new(&exported, true).unwrap(), SessionKeys::new(&exported, false).unwrap())
    }

    #[test]
    fn opened_once_and_only_as_it_was_sent() {
        let (dialer, mut acceptor) = pair();
        let datagram = dialer.sending.seal(1, b"beat").unwrap();
        assert_eq!(key_id(&datagram), Some(dialer.id));
        assert_eq!(acceptor.receiving.open(0, &mut datagram.clone()), None, "another network");
        for at in 0..datagram.len() {
            let mut bad = datagram.clone();
            bad[at] ^= 1;
            assert_eq!(acceptor.receiving.open(1, &mut bad), None, "changed at {at}");
            assert_eq!(acceptor.receiving.open(1, &mut datagram[..at].to_vec()), None, "cut at {at}");
        }
        assert_eq!(acceptor.receiving.open(1, &mut datagram.clone()), Some(&b"beat"[..]));
        assert_eq!(acceptor.receiving.open(1, &mut datagram.clone()), None, "replayed");
    }

    #[test]
    fn a_datagram_thrown_back_is_not_opened() {
        let (mut dialer, acceptor) = pair();
        let mut own = dialer.sending.seal(0, b"beat").unwrap();
        assert_eq!(dialer.receiving.open(0, &mut own), None);
        let mut other = acceptor.sending.seal(0, b"beat").unwrap();
        assert_eq!(dialer.receiving.open(0, &mut other), Some(&b"beat"[..]));
    }

    proptest! {
        #[test]
        fn the_window_takes_each_counter_once(counters in proptest::collection::vec(0u64..5000, 0..2000)) {
            let mut window = Window::default();
            let mut taken = HashSet::new();
            let mut newest = 0;
            for counter in counters {
                if window.is_new(counter) {
                    prop_assert!(taken.insert(counter), "{} twice", counter);
                    window.mark(counter);
                } else {
                    prop_assert!(taken.contains(&counter) || newest - counter >= WINDOW);
                }
                newest = newest.max(counter);
            }
        }
    }
}
