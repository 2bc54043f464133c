//! Words between servers as bytes: a version, a tag, then the fields; numbers in the machines' own order, which is
//! the same everywhere TDB files are (files of the other order are refused). Unknown tags are for later versions.

use super::Said;
use crate::database::{Change, Kind, Message, Under};
use crate::recovery::{Claim, Content, Generation, Have, Standing, Word};
use crate::wire::{LtdbHeader, Reader, Record, WireError, Writer};

const VERSION: u8 = 1;
/// Most words fit in so many bytes: no memory is moved while they are written.
const USUAL: usize = 128;

type Result<T> = std::result::Result<T, WireError>;

trait Coded: Sized {
    fn put(&self, out: &mut Writer);
    fn get(r: &mut Reader<'_>) -> Result<Self>;
}

macro_rules! numbers {
    ($($type:ty: $name:ident),*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Writer) {
                out.$name(*self);
            }
            fn get(r: &mut Reader<'_>) -> Result<Self> {
                r.$name(stringify!($type))
            }
        }
    )*};
}

numbers!(u8: u8, u32: u32, i32: i32, u64: u64);

impl Coded for bool {
    fn put(&self, out: &mut Writer) {
        out.u8(u8::from(*self));
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        r.u8("truth").map(|b| b != 0)
    }
}

impl Coded for String {
    fn put(&self, out: &mut Writer) {
        out.counted_text(self);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        r.counted_text("text").map(str::to_owned)
    }
}

impl<A: Coded, B: Coded> Coded for (A, B) {
    fn put(&self, out: &mut Writer) {
        Coded::put(&self.0, out);
        Coded::put(&self.1, out);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        Ok((A::get(r)?, B::get(r)?))
    }
}

/// A key or a value.
impl Coded for Vec<u8> {
    fn put(&self, out: &mut Writer) {
        out.counted(self);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        r.counted("bytes").map(<[u8]>::to_vec)
    }
}

macro_rules! lists {
    ($($type:ty),*) => {$(
        impl Coded for Vec<$type> {
            fn put(&self, out: &mut Writer) {
                out.u32(u32::try_from(self.len()).unwrap_or(u32::MAX));
                self.iter().for_each(|one| Coded::put(one, out));
            }
            fn get(r: &mut Reader<'_>) -> Result<Self> {
                let count = r.len("length of a list")?;
                // Each has four bytes at least: a count that would fill memory is found out before it does.
                if count > r.left() / 4 {
                    return Err(WireError::Value { what: "length of a list", value: count as u64 });
                }
                (0..count).map(|_| Coded::get(r)).collect()
            }
        }
    )*};
}

lists!(u32, (u32, Generation), Vec<u8>, (Vec<u8>, Vec<u8>), (Vec<u8>, Claim), (Have, Standing), Record);

impl Coded for std::result::Result<(), String> {
    fn put(&self, out: &mut Writer) {
        let why = self.as_ref().err();
        why.is_none().put(out);
        if let Some(why) = why {
            why.put(out);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        Ok(if bool::get(r)? { Ok(()) } else { Err(String::get(r)?) })
    }
}

macro_rules! structs {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Writer) {
                $(Coded::put(&self.$field, out);)*
            }
            fn get(r: &mut Reader<'_>) -> Result<Self> {
                Ok(Self { $($field: Coded::get(r)?),* })
            }
        }
    )*};
}

structs! {
    Generation { epoch, attempt }
    Have { db, name, kind }
    Standing { merged, opened }
    Content { synced, seqnum, checksum }
    LtdbHeader { rsn, dmaster, reserved, flags }
    Claim { header, empty }
    Record { reqid, key, data }
}

impl Coded for Kind {
    fn put(&self, out: &mut Writer) {
        out.u8(match self {
            Self::Volatile => 0,
            Self::Persistent => 1,
            Self::Replicated => 2,
        });
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        match r.u8("kind of a database")? {
            0 => Ok(Self::Volatile),
            1 => Ok(Self::Persistent),
            2 => Ok(Self::Replicated),
            other => Err(WireError::Value { what: "kind of a database", value: other.into() }),
        }
    }
}

impl Coded for Option<Content> {
    fn put(&self, out: &mut Writer) {
        self.is_some().put(out);
        if let Some(content) = self {
            Coded::put(content, out);
        }
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        bool::get(r)?.then(|| Content::get(r)).transpose()
    }
}

impl<T: Coded> Coded for Under<T> {
    fn put(&self, out: &mut Writer) {
        Coded::put(&self.generation, out);
        Coded::put(&self.db, out);
        Coded::put(&self.what, out);
    }
    fn get(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { generation: Coded::get(r)?, db: Coded::get(r)?, what: Coded::get(r)? })
    }
}

/// Enums: a tag, then the fields.
macro_rules! enums {
    ($($type:ident, $what:literal: $($tag:literal $variant:ident $({ $($field:ident),* })? $(($inner:ident))?;)*)*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Writer) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(($inner))? => {
                        out.u8($tag);
                        $($(Coded::put($field, out);)*)?
                        $(Coded::put($inner, out);)?
                    })*
                }
            }
            fn get(r: &mut Reader<'_>) -> Result<Self> {
                Ok(match r.u8($what)? {
                    $($tag => Self::$variant
                        $({ $($field: Coded::get(r)?),* })?
                        $(({ let $inner = Coded::get(r)?; $inner }))?,)*
                    other => return Err(WireError::Value { what: $what, value: other.into() }),
                })
            }
        }
    )*};
}

enums! {
    Word, "a word of a recovery":
    1 Hello { epoch, masters };
    2 Databases { epoch, have };
    3 Create { epoch, have };
    4 Stop { generation, have, valid, held, masters };
    5 Stopped { generation, db, content };
    6 Merge { generation, db };
    7 Claims { generation, db, claims, last };
    8 Settle { generation, db, give, demote, forget };
    9 Settled { generation, db, records };
    10 Source { generation, db, to };
    11 Copy { generation, db, records, last };
    12 Merged { generation, db };
    13 Failed { generation, db, why };
    14 Go { generation, db };
    15 Trouble { generation, db, why };
    16 Hold { generation, db };
    17 Detach { generation, db };
    18 Vacate { generation, db };
    19 Vacated { generation, db, result };
    20 Kept { generation, db, why };
    21 Leave { generation, db };
    22 Left { generation, db };
    23 Detached { generation, db };
    24 Gone { epoch, left };
    25 Finished { epoch };

    Message, "a word about a record":
    1 Want { key };
    2 Yield { key, to };
    3 Give { key, rsn, flags, data };
    4 Emptied { key };
    5 Purge { key, rsn };
    6 Purged { key, done };
    7 WantCopy { key };
    8 Delegate { key, to };
    9 Copy { key, rsn, flags, data };
    10 Revoke { key };
    11 Revoked { key };

    Change, "a word of a transaction":
    1 Update { id, records };
    2 Updated { id, result };

    Said, "a word":
    1 Recovery(word);
    2 Migration(message);
    3 Commit(change);
    4 Message { srvid, data };
    5 Tunnel { id, flags, reqid, data };
    6 Control { id, opcode, srvid, flags, data };
    7 ControlReply { id, status, data, error };
    8 Traverse { id, db, empty };
    9 Traversed { id, records, last };
    10 StopTraverse { id };
    11 Harmless { epoch };
    12 Recover { epoch, why };
    13 Round { epoch, round };
    14 Changed { db };
    15 Role { leader, yields };
    16 Lmaster { can };
}

impl Said {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(USUAL);
        out.u8(VERSION);
        self.put(&mut out);
        out.finish()
    }

    /// From bytes.
    ///
    /// # Errors
    /// Of another version, cut, or with something behind it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        let version = r.u8("version of what servers say")?;
        if version != VERSION {
            return Err(WireError::Value { what: "version of what servers say", value: version.into() });
        }
        let said = Self::get(&mut r)?;
        if r.left() > 0 {
            return Err(WireError::Size { what: "a word", wants: bytes.len() - r.left(), got: bytes.len() });
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<Said> {
        let generation = Generation { epoch: 7, attempt: 2 };
        let have = Have { db: 9, name: "locking.tdb".into(), kind: Kind::Volatile };
        let header = LtdbHeader { rsn: 3, dmaster: 1, reserved: 0, flags: 5 };
        let claims = vec![(b"key".to_vec(), Claim { header, empty: true })];
        let records = vec![(b"key".to_vec(), b"value".to_vec()), (Vec::new(), Vec::new())];
        let standing = Standing { merged: generation, opened: Generation::default() };
        let record = Record { reqid: 0, key: b"k".to_vec(), data: b"d".to_vec() };
        let content = Some(Content { synced: generation, seqnum: 4, checksum: 8 });
        let under = |what| Said::Migration(Under { generation, db: 9, what });
        let commit = |what| Said::Commit(Under { generation, db: 9, what });
        vec![
            Said::Recovery(Word::Databases { epoch: 7, have: vec![(have.clone(), standing)] }),
            Said::Recovery(Word::Stop { generation, have, valid: generation, held: true, masters: vec![1] }),
            Said::Recovery(Word::Stopped { generation, db: 9, content }),
            Said::Recovery(Word::Claims { generation, db: 9, claims, last: true }),
            Said::Recovery(Word::Settle {
                generation,
                db: 9,
                give: vec![b"a".to_vec()],
                demote: vec![],
                forget: vec![vec![]],
            }),
            Said::Recovery(Word::Settled { generation, db: 9, records: records.clone() }),
            Said::Recovery(Word::Source { generation, db: 9, to: vec![1, 2] }),
            under(Message::Give { key: b"key".to_vec(), rsn: 1, flags: 2, data: vec![0; 300] }),
            under(Message::Purge { key: b"key".to_vec(), rsn: 1 }),
            under(Message::Delegate { key: b"key".to_vec(), to: 3 }),
            under(Message::Copy { key: b"key".to_vec(), rsn: 1, flags: 2, data: vec![0; 30] }),
            commit(Change::Update { id: 1, records: vec![record] }),
            commit(Change::Updated { id: 1, result: Err("disk full".into()) }),
            commit(Change::Updated { id: 1, result: Ok(()) }),
            Said::Control { id: 1, opcode: 2, srvid: 3, flags: 4, data: vec![5] },
            Said::ControlReply { id: 1, status: -1, data: vec![], error: "no".into() },
            Said::Traversed { id: 4, records, last: false },
            Said::Role { leader: true, yields: false },
            Said::Message { srvid: 5, data: vec![1, 2] },
            Said::Tunnel { id: 1, flags: 2, reqid: 3, data: vec![4] },
            Said::Traverse { id: 4, db: 9, empty: true },
            Said::StopTraverse { id: 4 },
            Said::Harmless { epoch: 7 },
            Said::Recover { epoch: 7, why: "a link".into() },
            Said::Round { epoch: 7, round: 2 },
            Said::Changed { db: 9 },
            Said::Lmaster { can: true },
            Said::Lmaster { can: false },
            Said::Recovery(Word::Detach { generation, db: 9 }),
            Said::Recovery(Word::Vacate { generation, db: 9 }),
            Said::Recovery(Word::Vacated { generation, db: 9, result: Err("a process".into()) }),
            Said::Recovery(Word::Kept { generation, db: 9, why: "a process".into() }),
            Said::Recovery(Word::Leave { generation, db: 9 }),
            Said::Recovery(Word::Left { generation, db: 9 }),
            Said::Recovery(Word::Detached { generation, db: 9 }),
            Said::Recovery(Word::Gone { epoch: 7, left: vec![(9, generation)] }),
            Said::Recovery(Word::Finished { epoch: 7 }),
        ]
    }

    /// Words as the first version says them, in the order of `samples`, which grows at its end only. A server is upgraded while the
    /// others are not: they must be understood and said so for ever, or `VERSION` rises.
    const FIRST: &str = include_str!("../../tests/wire/words.hex");

    #[test]
    fn words_of_the_first_version_are_said_as_they_were() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let said: Vec<String> = samples().iter().map(|said| hex(said.encode())).collect();
        let first: Vec<&str> = FIRST.lines().collect();
        assert!(said.len() >= first.len() && !first.is_empty());
        for (said, first) in said.iter().zip(first) {
            assert_eq!(said, first);
        }
        let mut tags: Vec<u8> = samples().iter().map(|said| said.encode()[1]).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags, (1..=16).collect::<Vec<u8>>(), "one of each");
    }

    #[test]
    fn words_are_read_back_and_no_part_of_them_is() {
        for said in samples() {
            let bytes = said.encode();
            assert_eq!(Said::decode(&bytes).unwrap(), said);
            assert!((0..bytes.len()).all(|cut| Said::decode(&bytes[..cut]).is_err()), "{said:?}");
            let longer = [&bytes[..], &[0]].concat();
            assert!(Said::decode(&longer).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(which in 0..samples().len(), at: prop::sample::Index, value: u8, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Said::decode(&bytes);
            let mut changed = samples()[which].encode();
            let i = at.index(changed.len());
            changed[i] = value;
            let _ = Said::decode(&changed);
        }
    }
}
