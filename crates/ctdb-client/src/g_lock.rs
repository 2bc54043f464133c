//! The locks that keep two `ctdb` tools from changing the same persistent database at the same time.
//!
//! A record of the database `g_lock.tdb` lists who holds it. The format is the original tool's.

use crate::{Client, Database, Error, Kind};
use ctdb::control::Opcode;
use ctdb::node::CURRENT;
use ctdb::wire::{Reader, WireError, Writer};
use std::time::{Duration, Instant};

/// Each entry of the list.
const ENTRY_LEN: usize = 32;

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Beside others that read.
    Read,
    /// Alone.
    Write,
}

/// One holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// 0 to read, 1 to write; any other is taken for the latter.
    kind: u32,
    pid: u64,
    task: u32,
    pnn: u32,
    unique: u64,
}

impl Entry {
    fn get(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = r.u32("kind of a g_lock")?;
        r.u32("padding")?;
        let (pid, task) = (r.u64("holder of a g_lock")?, r.u32("holder of a g_lock")?);
        Ok(Self { kind, pid, task, pnn: r.u32("node of a g_lock")?, unique: r.u64("holder of a g_lock")? })
    }

    fn put(self, out: &mut Writer) {
        out.u32(self.kind).u32(0).u64(self.pid).u32(self.task).u32(self.pnn).u64(self.unique);
    }

    fn same_holder(self, other: Self) -> bool {
        (self.pid, self.task, self.pnn, self.unique) == (other.pid, other.task, other.pnn, other.unique)
    }
}

/// A lock of this process on one database; to be given back with [`GLock::unlock`]. A process that dies with it is
/// noticed by the next one that wants it.
#[derive(Debug)]
pub struct GLock {
    db: Database,
    key: Vec<u8>,
    mine: Entry,
}

impl GLock {
    /// Takes the lock for transactions on database `id`, waiting until `deadline` for others; whether the holder has given
    /// it back is looked at every `again`.
    ///
    /// # Errors
    /// [`Error::Timeout`], or the daemon cannot be asked.
    pub fn lock(client: &mut Client, id: u32, mode: Mode, again: Duration, deadline: Instant) -> Result<Self, Error> {
        let begun = Instant::now();
        let mut db = Database::attach(client, "g_lock.tdb", Kind::Volatile)?;
        let key = format!("transaction_db_{id:#010x}\0").into_bytes();
        let pid = std::process::id();
        let unique = u64::from(id) << 32 | u64::from(pid);
        let kind = u32::from(mode == Mode::Write);
        let mine = Entry { kind, pid: pid.into(), task: id, pnn: client.pnn(), unique };
        loop {
            let held = db.fetch_locked(client, &key)?;
            let mut entries = entries(&held.data)?;
            entries.retain(|entry| !entry.same_holder(mine));
            let others = entries.iter().filter(|entry| mode == Mode::Write || entry.kind != 0).copied().next();
            let Some(other) = others else {
                entries.push(mine);
                db.store(&key, held.header, &bytes(&entries))?;
                db.unlock(&key)?;
                return Ok(Self { db, key, mine });
            };
            // Not while the record is locked: the other needs it to give the lock back.
            db.unlock(&key)?;
            if gone(client, other)? {
                let held = db.fetch_locked(client, &key)?;
                let mut entries = self::entries(&held.data)?;
                entries.retain(|entry| *entry != other);
                db.store(&key, held.header, &bytes(&entries))?;
                db.unlock(&key)?;
                continue;
            }
            if Instant::now() + again > deadline {
                let what = format!("the wish for a lock that process {} on node {} holds", other.pid, other.pnn);
                return Err(Error::Timeout { what, after: begun.elapsed() });
            }
            std::thread::sleep(again);
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// The daemon cannot be asked.
    pub fn unlock(mut self, client: &mut Client) -> Result<(), Error> {
        let held = self.db.fetch_locked(client, &self.key)?;
        let mut entries = entries(&held.data)?;
        entries.retain(|entry| !entry.same_holder(self.mine));
        if entries.is_empty() {
            self.db.delete(client, &self.key, held.header)?;
        } else {
            self.db.store(&self.key, held.header, &bytes(&entries))?;
        }
        self.db.unlock(&self.key)
    }
}

/// Has the holder died? Only those on living nodes can be asked; the others' entries go with their node's records.
fn gone(client: &mut Client, entry: Entry) -> Result<bool, Error> {
    let Ok(pid) = i32::try_from(entry.pid) else { return Ok(true) };
    let mut payload = Writer::default();
    payload.i32(pid);
    let dest = if entry.pnn == client.pnn() { CURRENT } else { entry.pnn };
    Ok(client.control(dest, Opcode::PROCESS_EXISTS, 0, &payload.finish())?.status != 0)
}

fn entries(data: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut r = Reader::new(data);
    let count = data.len() / ENTRY_LEN;
    (0..count).map(|_| Entry::get(&mut r).map_err(Error::from)).collect()
}

fn bytes(entries: &[Entry]) -> Vec<u8> {
    let mut out = Writer::default();
    entries.iter().for_each(|entry| entry.put(&mut out));
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_the_original_tools() {
        // As process 0x2c57 on node 0 writes it while it changes database 0x4a5663cb.
        let seen = b"\x01\0\0\0\0\0\0\0W,\0\0\0\0\0\0\xCBcVJ\0\0\0\0W,\0\0\xCBcVJ";
        let found = entries(seen).unwrap();
        let unique = 0x4a56_63cb_0000_2c57;
        assert_eq!(found, [Entry { kind: 1, pid: 0x2c57, task: 0x4a56_63cb, pnn: 0, unique }]);
        assert_eq!(bytes(&found), seen);
        assert_eq!(entries(b"").unwrap(), []);
    }
}
