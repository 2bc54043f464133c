//! What is inside a sealed datagram: heartbeat, grant or a guard's word, in a fixed binary form, big-endian.
//!
//! ```text
//! version 1 | kind 1 | heartbeat: uid 16, run 8, has view 1, [life number 4, life id 8, epoch 8], sent 8,
//!           |        |            count 2, count x PNN 2
//!           |        | grant:     uid 16, to_run 8, life number 4, life id 8, epoch 8, sent 8
//!           |        | guard:     run 8, life number 4, life id 8, epoch 8
//! ```
//!
//! Unknown kinds are for later versions: they are passed over, not an error. Anything else that does not fit
//! exactly is.

use cluster::{Epoch, Grant, GuardWord, Heartbeat, Incarnation, NodeUid, Pnn, PnnSet, RunId, Time};

const VERSION: u8 = 1;
const HEARTBEAT: u8 = 1;
const GRANT: u8 = 2;
const GUARD: u8 = 3;
/// A peer of a later version may know more nodes than this one can have; not more than this.
const MAX_HEARD: usize = 512;
/// The longest word that this node says: a heartbeat when it hears as many nodes as a cluster can have.
pub(super) const MAX_WORD: usize = 2 + 16 + 8 + 1 + 20 + 8 + 2 + 2 * PnnSet::CAPACITY;

/// What a datagram says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Heartbeat(Heartbeat),
    Grant(Grant),
    Guard(GuardWord),
    /// Of a later version.
    Unknown,
}

/// Appends a heartbeat.
pub(super) fn put_heartbeat(heartbeat: &Heartbeat, out: &mut impl Extend<u8>) {
    out.extend([VERSION, HEARTBEAT]);
    out.extend(heartbeat.uid.0.to_be_bytes());
    out.extend(heartbeat.run.0.to_be_bytes());
    match heartbeat.view {
        None => out.extend([0]),
        Some((life, epoch)) => {
            out.extend([1]);
            put_rank(life, epoch, out);
        }
    }
    out.extend(heartbeat.sent.0.to_be_bytes());
    let count = heartbeat.hears.len();
    // At most 64, so it always fits.
    out.extend(u16::try_from(count).unwrap_or(0).to_be_bytes());
    for pnn in heartbeat.hears.iter() {
        out.extend(pnn.0.to_be_bytes());
    }
}

/// Appends a grant.
pub(super) fn put_grant(grant: &Grant, out: &mut impl Extend<u8>) {
    out.extend([VERSION, GRANT]);
    out.extend(grant.uid.0.to_be_bytes());
    out.extend(grant.to_run.0.to_be_bytes());
    put_rank(grant.incarnation, grant.epoch, out);
    out.extend(grant.sent.0.to_be_bytes());
}

/// Appends what a guard is to say.
pub(super) fn put_guard(word: &GuardWord, out: &mut impl Extend<u8>) {
    out.extend([VERSION, GUARD]);
    out.extend(word.run.0.to_be_bytes());
    put_rank(word.incarnation, word.epoch, out);
}

/// Reads what was opened; `None` for anything that is not exactly one word.
pub(super) fn read(bytes: &[u8]) -> Option<Word> {
    let mut from = Reader(bytes);
    if from.u8()? != VERSION {
        return None;
    }
    let word = match from.u8()? {
        HEARTBEAT => Word::Heartbeat(heartbeat(&mut from)?),
        GRANT => Word::Grant(Grant {
            uid: NodeUid(from.u128()?),
            to_run: RunId(from.u64()?),
            incarnation: Incarnation { number: from.u32()?, id: from.u64()? },
            epoch: Epoch(from.u64()?),
            sent: Time(from.u64()?),
        }),
        GUARD => Word::Guard(GuardWord {
            run: RunId(from.u64()?),
            incarnation: Incarnation { number: from.u32()?, id: from.u64()? },
            epoch: Epoch(from.u64()?),
        }),
        _ => return Some(Word::Unknown),
    };
    from.0.is_empty().then_some(word)
}

fn heartbeat(from: &mut Reader<'_>) -> Option<Heartbeat> {
    let uid = NodeUid(from.u128()?);
    let run = RunId(from.u64()?);
    let view = match from.u8()? {
        0 => None,
        1 => Some((Incarnation { number: from.u32()?, id: from.u64()? }, Epoch(from.u64()?))),
        _ => return None,
    };
    let sent = Time(from.u64()?);
    let count = usize::from(from.u16()?);
    if count > MAX_HEARD {
        return None;
    }
    let hears = (0..count).map(|_| from.u16().map(Pnn)).collect::<Option<PnnSet>>()?;
    Some(Heartbeat { uid, run, view, sent, hears })
}

fn put_rank(life: Incarnation, epoch: Epoch, out: &mut impl Extend<u8>) {
    out.extend(life.number.to_be_bytes());
    out.extend(life.id.to_be_bytes());
    out.extend(epoch.0.to_be_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
    fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heartbeats() -> impl Strategy<Value = Heartbeat> {
        (
            any::<u128>(),
            any::<u64>(),
            any::<Option<(u32, u64, u64)>>(),
            any::<u64>(),
            proptest::collection::btree_set(0u16..64, 0..64),
        )
            .prop_map(|(uid, run, view, sent, hears)| Heartbeat {
                uid: NodeUid(uid),
                run: RunId(run),
                view: view.map(|(number, id, epoch)| (Incarnation { number, id }, Epoch(epoch))),
                sent: Time(sent),
                hears: hears.into_iter().map(Pnn).collect(),
            })
    }

    proptest! {
        #[test]
        fn a_heartbeat_is_read_back_and_no_part_of_it(heartbeat in heartbeats()) {
            let mut bytes = Vec::new();
            put_heartbeat(&heartbeat, &mut bytes);
            prop_assert_eq!(read(&bytes), Some(Word::Heartbeat(heartbeat)));
            prop_assert!((2..bytes.len()).all(|cut| read(&bytes[..cut]).is_none()));
            bytes.push(0);
            prop_assert_eq!(read(&bytes), None);
        }

        #[test]
        fn a_grant_is_read_back(uid: u128, to_run: u64, number: u32, id: u64, epoch: u64, sent: u64) {
            let grant = Grant {
                uid: NodeUid(uid),
                to_run: RunId(to_run),
                incarnation: Incarnation { number, id },
                epoch: Epoch(epoch),
                sent: Time(sent),
            };
            let mut bytes = Vec::new();
            put_grant(&grant, &mut bytes);
            prop_assert_eq!(read(&bytes), Some(Word::Grant(grant)));
        }

        #[test]
        fn a_guards_word_is_read_back_and_no_part_of_it(run: u64, number: u32, id: u64, epoch: u64) {
            let word = GuardWord {
                run: RunId(run),
                incarnation: Incarnation { number, id },
                epoch: Epoch(epoch),
            };
            let mut bytes = Vec::new();
            put_guard(&word, &mut bytes);
            prop_assert!((2..bytes.len()).all(|cut| read(&bytes[..cut]).is_none()));
            prop_assert_eq!(read(&bytes), Some(Word::Guard(word)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&[&[VERSION, HEARTBEAT][..], &bytes].concat());
            let _ = read(&[&[VERSION, GRANT][..], &bytes].concat());
            let _ = read(&[&[VERSION, GUARD][..], &bytes].concat());
        }
    }

    #[test]
    fn the_longest_word_fits_into_a_datagram() {
        let heartbeat = Heartbeat {
            uid: NodeUid(1),
            run: RunId(2),
            view: Some((Incarnation { number: 1, id: 2 }, Epoch(3))),
            sent: Time(3),
            hears: (0..2000).map(Pnn).collect(),
        };
        let mut bytes = Vec::new();
        put_heartbeat(&heartbeat, &mut bytes);
        assert_eq!(bytes.len(), MAX_WORD);
        assert_eq!(read(&bytes), Some(Word::Heartbeat(heartbeat)));
    }
}
