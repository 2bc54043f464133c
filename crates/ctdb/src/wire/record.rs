//! Records as they travel, and the header that a clustered database keeps before each value.

use super::bytes::{Reader, WireError, Writer};

/// Bytes before each value in a clustered database.
pub const LTDB_HEADER_LEN: usize = 24;

/// Flags of a record. Others are somebody else's and are kept as they are.
pub mod record_flags {
    /// Was migrated while it had data: its deletion must be told to the others.
    pub const MIGRATED_WITH_DATA: u32 = 0x0001_0000;
    /// Comes from vacuuming; never stored.
    pub const VACUUM_MIGRATED: u32 = 0x0002_0000;
    /// Was made up for a record that is not there; never stored.
    pub const AUTOMATIC: u32 = 0x0004_0000;
    /// Read-only copies were given out.
    pub const HAVE_DELEGATIONS: u32 = 0x0100_0000;
    /// Is a read-only copy.
    pub const HAVE_READONLY: u32 = 0x0200_0000;
    /// The copies are being taken back.
    pub const REVOKING_READONLY: u32 = 0x0400_0000;
    /// They are back.
    pub const REVOKE_COMPLETE: u32 = 0x0800_0000;
    /// All that concern read-only copies.
    pub const READONLY: u32 = HAVE_DELEGATIONS | HAVE_READONLY | REVOKING_READONLY | REVOKE_COMPLETE;
}

/// Who has a record, and how often it changed hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct LtdbHeader {
    /// Record sequence number; grows on every hand-over.
    pub rsn: u64,
    /// The node that may change the record.
    pub dmaster: u32,
    /// Always written as it was read.
    pub reserved: u32,
    /// [`record_flags`].
    pub flags: u32,
}

impl LtdbHeader {
    /// Writes its 24 bytes.
    pub fn put(self, out: &mut Writer) {
        out.u64(self.rsn).u32(self.dmaster).u32(self.reserved).u32(self.flags).u32(0);
    }

    /// Its 24 bytes.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = Writer::with_capacity(LTDB_HEADER_LEN);
        self.put(&mut out);
        out.finish()
    }

    /// A value to be stored: its 24 bytes, then the data.
    #[must_use]
    pub fn before(self, data: &[u8]) -> Vec<u8> {
        let mut out = Writer::with_capacity(LTDB_HEADER_LEN + data.len());
        self.put(&mut out);
        out.raw(data);
        out.finish()
    }

    /// Splits a stored value into header and data.
    ///
    /// # Errors
    /// It is shorter than a header.
    pub fn split(value: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut r = Reader::new(value);
        let rsn = r.u64("record header")?;
        let dmaster = r.u32("record header")?;
        let reserved = r.u32("record header")?;
        let flags = r.u32("record header")?;
        r.u32("record header")?;
        Ok((Self { rsn, dmaster, reserved, flags }, r.rest()))
    }
}

/// One record of a buffer or a traverse. `data` begins with an [`LtdbHeader`] wherever the packet says so.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Record {
    /// Of a traverse; 0 otherwise.
    pub reqid: u32,
    /// The key.
    pub key: Vec<u8>,
    /// Header and data, or data alone.
    pub data: Vec<u8>,
}

const RECORD_LEN: usize = 16;

impl Record {
    /// Bytes on the wire.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        RECORD_LEN + self.key.len() + self.data.len()
    }

    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        let len = u32::try_from(self.wire_len()).unwrap_or(u32::MAX);
        out.u32(len).u32(self.reqid).len_of(&self.key).len_of(&self.data).raw(&self.key).raw(&self.data);
    }

    /// Reads one.
    ///
    /// # Errors
    /// Its lengths do not agree with each other or with the bytes that are left.
    pub fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let len = reader.len("record length")?;
        let body = len.checked_sub(4).ok_or(WireError::Value { what: "record length", value: len as u64 })?;
        let mut r = Reader::new(reader.take(body, "record")?);
        let reqid = r.u32("record request id")?;
        let key_len = r.len("key length")?;
        let data_len = r.len("data length")?;
        let key = r.take(key_len, "key")?.to_vec();
        let data = r.take(data_len, "data")?.to_vec();
        if r.left() > 0 {
            return Err(WireError::Value { what: "record length", value: len as u64 });
        }
        Ok(Self { reqid, key, data })
    }
}

/// Records of one database in one packet ("marshall buffer").
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RecordBuffer {
    /// The database.
    pub db: u32,
    /// The records.
    pub records: Vec<Record>,
}

impl RecordBuffer {
    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        out.u32(self.db).u32(u32::try_from(self.records.len()).unwrap_or(u32::MAX));
        for record in &self.records {
            record.put(out);
        }
    }

    /// Reads one. Bytes after the last record are padding.
    ///
    /// # Errors
    /// A record's lengths lie, or there are fewer records than announced.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let db = r.u32("database id")?;
        let count = r.len("number of records")?;
        // Each takes 16 bytes at least: a count beyond that is a lie, and must not reserve memory.
        if count > r.left() / RECORD_LEN {
            return Err(WireError::Short {
                what: "records",
                offset: 8,
                needs: count.saturating_mul(RECORD_LEN),
                left: r.left(),
            });
        }
        let records = (0..count).map(|_| Record::get(&mut r)).collect::<Result<_, _>>()?;
        Ok(Self { db, records })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_of_23_bytes_is_no_record() {
        assert!(LtdbHeader::split(&[0; 23]).is_err());
        assert_eq!(LtdbHeader::split(&[0; 24]).unwrap(), (LtdbHeader::default(), &[][..]));
    }

    #[test]
    fn lying_lengths_are_refused() {
        let record = Record { reqid: 1, key: b"key".to_vec(), data: b"data".to_vec() };
        let mut out = Writer::default();
        record.put(&mut out);
        let good = out.finish();
        for (at, value) in [(0, 3u32), (0, 100), (0, 22), (8, 4), (8, u32::MAX), (12, 3), (12, u32::MAX)] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            assert!(Record::get(&mut Reader::new(&bad)).is_err(), "{value} at {at}");
        }
        let mut buffer = Writer::default();
        buffer.u32(1).u32(u32::MAX).raw(&good);
        assert!(RecordBuffer::get(&buffer.finish()).is_err(), "a count that would fill memory");
    }

    proptest! {
        #[test]
        fn buffers_survive(db: u32, records in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..80)), 0..8)) {
            let records = records.into_iter().map(|(reqid, key, data)| Record { reqid, key, data }).collect();
            let buffer = RecordBuffer { db, records };
            let mut out = Writer::default();
            buffer.put(&mut out);
            prop_assert_eq!(RecordBuffer::get(&out.finish()).unwrap(), buffer);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = RecordBuffer::get(&bytes);
            let _ = Record::get(&mut Reader::new(&bytes));
            let _ = LtdbHeader::split(&bytes);
        }
    }
}
