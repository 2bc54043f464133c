//! A clustered database: its file here, and the daemon that brings records.

use crate::{Client, Error};
use ctdb::call::flags::{IMMEDIATE_MIGRATION, WANT_READONLY};
use ctdb::control::Opcode;
use ctdb::node::CURRENT;
use ctdb::wire::{LtdbHeader, Reader, Record, Writer, record_flags, text};
use std::time::{Duration, Instant};
use tdb::{Flags, Options, Store, Tdb};

/// How long a record may be on its way, unless its client has more time. Recoveries are over before that.
const FETCH: Duration = Duration::from_secs(120);
/// How long a traverse may be silent, unless its client has more time. The daemon gives up after 20 s.
const SILENCE: Duration = Duration::from_secs(60);

/// What is kept of a database, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Records live on one node each; lost with the cluster.
    Volatile,
    /// The same on every node, on disk.
    Persistent,
    /// The same on every node; lost with the cluster.
    Replicated,
}

impl Kind {
    fn attach(self) -> Opcode {
        match self {
            Self::Volatile => Opcode::DB_ATTACH,
            Self::Persistent => Opcode::DB_ATTACH_PERSISTENT,
            Self::Replicated => Opcode::DB_ATTACH_REPLICATED,
        }
    }
}

/// An attached database.
#[derive(Debug)]
pub struct Database {
    /// Its number.
    pub id: u32,
    /// Its file on this node.
    pub tdb: Tdb,
    /// Calls that were needed beyond the first one for a record.
    pub calls_in_vain: u64,
}

/// What [`Database::fetch_locked`] gives: the record is locked until [`Database::unlock`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub header: LtdbHeader,
    pub data: Vec<u8>,
}

impl Database {
    /// Attaches and opens the file as the daemon says.
    ///
    /// # Errors
    /// The daemon refuses, or the file cannot be opened.
    pub fn attach(client: &mut Client, name: &str, kind: Kind) -> Result<Self, Error> {
        let mut payload = Writer::default();
        payload.text(name);
        let data = client.ask(CURRENT, kind.attach(), &payload.finish())?;
        let id = Reader::new(&data).u32("database id")?;
        let path = client.ask(CURRENT, Opcode::GETDBPATH, &id.to_ne_bytes())?;
        let path = text(&path, "path of a database")?.to_owned();
        let flags = Reader::new(&client.ask(CURRENT, Opcode::DB_OPEN_FLAGS, &id.to_ne_bytes())?).u32("open flags")?;
        let tdb = Tdb::open(&path, Options::new(Flags(flags)))?;
        Ok(Self { id, tdb, calls_in_vain: 0 })
    }

    /// A record as it is in the file here, with its header.
    ///
    /// # Errors
    /// The file is damaged, or the value is shorter than a header.
    pub fn local(&mut self, key: &[u8]) -> Result<Option<(LtdbHeader, Vec<u8>)>, Error> {
        let Some(value) = self.tdb.fetch(key)? else { return Ok(None) };
        let (header, data) = LtdbHeader::split(&value)?;
        Ok(Some((header, data.to_vec())))
    }

    /// Locks a record, once it is this node's, and gives its data.
    ///
    /// # Errors
    /// The daemon does not bring it within 120 s, or the client's time limit if that is more; or the file is damaged.
    pub fn fetch_locked(&mut self, client: &mut Client, key: &[u8]) -> Result<Held, Error> {
        self.fetch(client, key, false)
    }

    /// As [`Self::fetch_locked`]; a copy to read is enough.
    ///
    /// # Errors
    /// As there.
    pub fn fetch_copy_locked(&mut self, client: &mut Client, key: &[u8]) -> Result<Held, Error> {
        self.fetch(client, key, true)
    }

    fn fetch(&mut self, client: &mut Client, key: &[u8], copy: bool) -> Result<Held, Error> {
        let begun = Instant::now();
        for attempt in 0u64.. {
            self.tdb.lock_chain(key, tdb::Kind::Exclusive)?;
            match self.local(key)? {
                Some((header, data)) if usable(header, client.pnn(), copy) => {
                    self.calls_in_vain += attempt.saturating_sub(1);
                    return Ok(Held { header, data });
                }
                _ => self.tdb.unlock_chain(key)?,
            }
            let after = client.patience(FETCH);
            if begun.elapsed() > after {
                let what = format!("{attempt} calls for a record of database {:#x}", self.id);
                return Err(Error::Timeout { what, after });
            }
            client.call(self.id, key, if copy { WANT_READONLY } else { IMMEDIATE_MIGRATION })?;
        }
        unreachable!("the loop above has no end")
    }

    /// Writes a record that [`Self::fetch_locked`] has locked.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&mut self, key: &[u8], header: LtdbHeader, data: &[u8]) -> Result<(), Error> {
        self.tdb.store(key, &header.before(data), Store::Replace)?;
        Ok(())
    }

    /// Empties a record that [`Self::fetch_locked`] has locked, and has the daemon forget it later.
    ///
    /// # Errors
    /// The file cannot be written, or the daemon does not read.
    pub fn delete(&mut self, client: &mut Client, key: &[u8], header: LtdbHeader) -> Result<(), Error> {
        self.store(key, header, &[])?;
        let mut payload = Writer::default();
        payload.u32(self.id).u32(0);
        header.put(&mut payload);
        payload.counted(key);
        client.order(CURRENT, Opcode::SCHEDULE_FOR_DELETION, &payload.finish())
    }

    /// Lets others have the record.
    ///
    /// # Errors
    /// It was not locked.
    pub fn unlock(&mut self, key: &[u8]) -> Result<(), Error> {
        Ok(self.tdb.unlock_chain(key)?)
    }

    /// Counts the records of the cluster's database, through the daemon; `srvid` is the connection's own.
    ///
    /// # Errors
    /// As for [`Self::traverse`].
    pub fn count(&self, client: &mut Client, srvid: u64) -> Result<u64, Error> {
        let mut count = 0;
        self.traverse(client, srvid, |_, _, _| count += 1)?;
        Ok(count)
    }

    /// Gives all records of the cluster's database, through the daemon: key, header, data. `srvid` is the connection's
    /// own.
    ///
    /// # Errors
    /// The daemon refuses, or is silent for 60 s, or the client's time limit if that is more.
    pub fn traverse(
        &self,
        client: &mut Client,
        srvid: u64,
        mut each: impl FnMut(&[u8], LtdbHeader, &[u8]),
    ) -> Result<(), Error> {
        client.register(srvid)?;
        let mut payload = Writer::default();
        payload.u32(self.id).u32(1).u64(srvid).u8(0).zeros(7);
        client.ask(CURRENT, Opcode::TRAVERSE_START_EXT, &payload.finish())?;
        let after = client.patience(SILENCE);
        loop {
            let message = client
                .message(Instant::now() + after)?
                .ok_or_else(|| Error::Timeout { what: format!("a traverse of database {:#x}", self.id), after })?;
            if message.srvid != srvid {
                continue;
            }
            let record = Record::get(&mut Reader::new(&message.data))?;
            if record.key.is_empty() && record.data.is_empty() {
                return client.deregister(srvid);
            }
            let (header, data) = LtdbHeader::split(&record.data)?;
            each(&record.key, header, data);
        }
    }
}

fn usable(header: LtdbHeader, pnn: u32, copy: bool) -> bool {
    let has = |flag| header.flags & flag != 0;
    if copy {
        header.dmaster == pnn || has(record_flags::HAVE_READONLY)
    } else {
        header.dmaster == pnn && !has(record_flags::HAVE_DELEGATIONS)
    }
}
