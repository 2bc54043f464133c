//! Changes of a persistent or replicated database: all of them on every node, or none.

use crate::{Client, Database, Error};
use ctdb::control::Opcode;
use ctdb::node::CURRENT;
use ctdb::wire::{LtdbHeader, Record, RecordBuffer, Writer};

/// Key of the record that counts a persistent database's transactions.
const SEQUENCE: &[u8] = b"__db_sequence_number__\0";
/// A recovery makes a commit fail that has to be tried again.
const ATTEMPTS: u32 = 20;

/// Transactions that the copy here has seen.
///
/// # Errors
/// The file is damaged.
pub fn sequence_number(db: &mut Database) -> Result<u64, Error> {
    let found = db.local(SEQUENCE)?;
    Ok(found.and_then(|(_, data)| data.first_chunk::<8>().map(|b| u64::from_ne_bytes(*b))).unwrap_or(0))
}

/// Writes that are not done yet. The caller keeps other writers away: CTDB leaves that to its clients
/// ([`GLock`](crate::GLock), for the tool).
#[derive(Debug, Default)]
pub struct Transaction {
    records: Vec<Record>,
}

impl Transaction {
    /// The value of a record as this transaction will leave it; empty if there is none.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn get(&self, db: &mut Database, key: &[u8]) -> Result<Vec<u8>, Error> {
        if let Some(record) = self.records.iter().rev().find(|record| record.key == key) {
            return Ok(LtdbHeader::split(&record.data)?.1.to_vec());
        }
        Ok(db.local(key)?.map_or_else(Vec::new, |(_, data)| data))
    }

    /// Stores, in the end, this value.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn put(&mut self, client: &Client, db: &mut Database, key: &[u8], data: &[u8]) -> Result<(), Error> {
        let before = self.records.iter().position(|record| record.key == key);
        let old = db.local(key)?;
        // Made and deleted again: nothing is written, least of all an empty record.
        if let (true, None, Some(at)) = (data.is_empty(), &old, before) {
            self.records.remove(at);
            return Ok(());
        }
        let old = old.map_or_else(LtdbHeader::default, |(header, _)| header);
        let header = LtdbHeader { rsn: old.rsn + 1, dmaster: client.pnn(), ..old };
        let record = Record { reqid: 0, key: key.to_vec(), data: header.before(data) };
        match before {
            Some(at) => self.records[at] = record,
            None => self.records.push(record),
        }
        Ok(())
    }

    /// Commits on all nodes; nothing to write is no transaction. The answer: how often it had to be tried again.
    ///
    /// # Errors
    /// The daemon refuses it 20 times, or somebody else has written.
    pub fn commit(mut self, client: &mut Client, db: &mut Database) -> Result<u32, Error> {
        if self.records.is_empty() {
            return Ok(0);
        }
        let before = sequence_number(db)?;
        self.put(client, db, SEQUENCE, &(before + 1).to_ne_bytes())?;
        let mut payload = Writer::default();
        RecordBuffer { db: db.id, records: self.records }.put(&mut payload);
        let payload = payload.finish();
        let opcode = Opcode::TRANS3_COMMIT;
        let mut last = Error::Closed;
        for again in 0..ATTEMPTS {
            let reply = client.control(CURRENT, opcode, u64::from(db.id), &payload)?;
            let now = sequence_number(db)?;
            if now == before + 1 {
                return Ok(again);
            }
            if reply.status == 0 || now != before {
                let got = format!("status {}: the sequence number was {before} and is {now}", reply.status);
                return Err(Error::Unexpected { what: opcode.to_string(), got });
            }
            last = Error::Refused { opcode, dest: CURRENT, status: reply.status, why: reply.error };
        }
        Err(last)
    }
}
