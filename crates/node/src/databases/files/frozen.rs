//! A frozen file: the thread that waited for the lock on all of it carries out a recovery's orders, in their order, with
//! the handle that has the lock, until the thaw.
//!
//! They are locked as a whole ([`Tdb::lock_whole`]): nobody can be between the beginning of a transaction and its wait for
//! us when [`FileOrder::Replace`] begins one.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use ctdb::database::{Stored, recovered, store};
use ctdb::lookup3;
use ctdb::recovery::{Answer, Claim, Content, Edit, Generation};
use ctdb::server::{FileAnswer, FileOrder};
use ctdb::wire::{LtdbHeader, record_flags as flag};
use ring::digest::{Context, SHA256};
use tdb::{Store, Target, Tdb, Waiter};

use super::database::{Database, Work, cancelled};
use super::pieces::Pieces;
use super::refuse;
use crate::priority;

/// The record with the number of transactions so far: 8 bytes after the header, in the machine's byte order.
const SEQUENCE_NUMBER: &[u8] = b"__db_sequence_number__\0";

/// What the event loop has of it.
pub(super) struct Frozen {
    orders: Sender<FileOrder>,
    /// Of the newest order to freeze.
    generation: Generation,
    waiter: Waiter,
    held: Arc<AtomicBool>,
}

impl Frozen {
    /// Hands an order to the thread; the first starts it.
    pub(super) fn order(
        database: &Arc<Database>,
        main: &Tdb,
        work: &mut Work,
        order: FileOrder,
        now: &mut Vec<FileAnswer>,
    ) -> tdb::Result<()> {
        let thaw = matches!(order, FileOrder::Thaw { .. });
        let freeze = if let FileOrder::Freeze { generation, .. } = order { Some(generation) } else { None };
        let order = match &mut work.frozen {
            None => order,
            Some(frozen) => {
                frozen.generation = freeze.unwrap_or(frozen.generation);
                match frozen.orders.send(order) {
                    Ok(()) => {
                        if thaw && let Some(frozen) = work.frozen.take() {
                            frozen.end();
                        }
                        return Ok(());
                    }
                    // The thread has ended: it did not get the lock, and has said why.
                    Err(mpsc::SendError(order)) => order,
                }
            }
        };
        work.frozen = None;
        let Some(generation) = freeze else {
            refuse(&format!("{} is not frozen", database.path.display()), order, now);
            return Ok(());
        };
        let (orders, receiver) = mpsc::channel();
        let held = Arc::new(AtomicBool::new(false));
        let (worker, got_it) = (database.clone(), held.clone());
        let waiter = Waiter::start(main, Target::Whole, move |got| match got {
            Ok(handle) => {
                got_it.store(true, Ordering::Release);
                priority::unhurried();
                work_off(&worker, handle, &receiver);
            }
            Err(error) if cancelled(&error) => {}
            Err(error) => {
                drop(receiver);
                worker.damaged(&error.to_string());
            }
        })?;
        // Its receiver is in the thread, which has only just begun to wait.
        orders.send(order).ok();
        work.frozen = Some(Self { orders, generation, waiter, held });
        Ok(())
    }

    /// The thread empties it and closes the database. False: there is no such thread, or not with the lock yet.
    pub(super) fn empty_and_close(&mut self) -> bool {
        self.held.load(Ordering::Acquire) && self.orders.send(FileOrder::Close).is_ok()
    }

    /// No more orders: the thread carries out those that it has, and lets the lock go; or waits no more for it.
    pub(super) fn end(self) {
        if self.held.load(Ordering::Acquire) {
            self.waiter.detach();
        }
    }
}

/// The thread's work. The lock is let go at its end, with the handle.
fn work_off(database: &Database, mut handle: Tdb, orders: &Receiver<FileOrder>) {
    for order in orders {
        if matches!(order, FileOrder::Close) {
            if let Err(error) = handle.wipe() {
                // Whoever opens it next empties it as well.
                tracing::warn!("a database that is detached cannot be emptied: {error}");
            }
            return database.close();
        }
        let thaw = matches!(order, FileOrder::Thaw { .. });
        if let Err(why) = carry_out(database, &mut handle, order) {
            database.damaged(&why);
        }
        if thaw {
            return;
        }
    }
}

fn carry_out(database: &Database, handle: &mut Tdb, order: FileOrder) -> Result<(), String> {
    let done = match order {
        FileOrder::Freeze { generation, wipe } => freeze(database, handle, generation, wipe),
        FileOrder::Scan { generation } => scan(database, handle, generation),
        FileOrder::Edit { edits } => {
            edits.into_iter().try_for_each(|(key, edit)| change(handle, database.me, &key, edit))
        }
        FileOrder::Read { generation, keys, asker } => read(handle, keys).map(|records| {
            database.answer(FileAnswer::Recovery { generation, answer: Answer::Read { asker, records } });
        }),
        FileOrder::Dump { generation } => dump(database, handle, generation),
        FileOrder::Replace { generation, records } => {
            let result = replace(handle, &records).map_err(|error| error.to_string());
            database.answer(FileAnswer::Recovery { generation, answer: Answer::Replaced(result) });
            Ok(())
        }
        FileOrder::Prune { masters } => prune(handle, database.me, &masters),
        FileOrder::Thaw { generation } => {
            database.errors_are_new();
            if database.persistent() {
                database.synced.write(generation)?;
            }
            if database.whole() {
                database.answer(FileAnswer::Recovery { generation, answer: Answer::Noted });
            }
            return Ok(());
        }
        // The others never come here.
        _ => Ok(()),
    };
    done.map_err(|error| error.to_string())
}

fn freeze(database: &Database, handle: &mut Tdb, generation: Generation, wipe: bool) -> tdb::Result<()> {
    // This recovery must hear of them though an earlier one has.
    database.errors_are_new();
    if wipe {
        handle.wipe()?;
    }
    let newer = |work: &mut Work| work.frozen.as_ref().is_some_and(|frozen| frozen.generation > generation);
    if database.while_open(|_, work| newer(work)) == Some(true) {
        return Ok(());
    }
    let content = if database.whole() {
        // A copy that cannot be read is no copy: the recovery replaces it.
        let read = content(handle);
        if let Err(error) = &read {
            tracing::error!("a clustered database cannot be read, and gets its content from another node: {error}");
        }
        read.ok().map(|content| Content { synced: database.synced.read(), ..content })
    } else {
        None
    };
    database.answer(FileAnswer::Recovery { generation, answer: Answer::Frozen(content) });
    Ok(())
}

/// Sequence number and checksum. The checksum is the sum of the first 64 bits of the SHA-256 of each record (length of
/// the key, key, value), so the order of the records does not matter.
fn content(handle: &mut Tdb) -> tdb::Result<Content> {
    let mut content = Content::default();
    handle.traverse_read(|_, key, value| {
        let mut hash = Context::new(&SHA256);
        hash.update(&(key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update(value);
        let digest = hash.finish();
        let bits = digest.as_ref().iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        content.checksum = content.checksum.wrapping_add(bits);
        if key == SEQUENCE_NUMBER
            && let Ok((_, data)) = LtdbHeader::split(value)
        {
            content.seqnum = data.try_into().map_or(0, u64::from_ne_bytes);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(content)
}

/// Copies that were given to be read are taken back, and what there is is told.
fn scan(database: &Database, handle: &mut Tdb, generation: Generation) -> tdb::Result<()> {
    let mut changed = Vec::new();
    let mut pieces = Pieces::new(|records, last| {
        database.answer(FileAnswer::Recovery { generation, answer: Answer::Scanned { records, last } });
    });
    handle.traverse_read(|_, key, value| {
        // What has no header is no record of a cluster.
        if let Ok((header, data)) = LtdbHeader::split(value) {
            let new = recovered(header, database.me);
            changed.extend(new.map(|_| key.to_vec()));
            let header = new.unwrap_or(header);
            pieces.push((key.to_vec(), Claim { header, empty: data.is_empty() }), key.len());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    // Before it is told that this was all: no member goes on before it has heard that of every other.
    for key in changed {
        let old = handle.fetch(&key)?.unwrap_or_default();
        if let Ok((header, data)) = LtdbHeader::split(&old)
            && let Some(header) = recovered(header, database.me)
        {
            handle.store(&key, &header.before(data), Store::Replace)?;
        }
    }
    pieces.finish();
    Ok(())
}

fn dump(database: &Database, handle: &mut Tdb, generation: Generation) -> tdb::Result<()> {
    let mut pieces = Pieces::new(|records, last| {
        database.answer(FileAnswer::Recovery { generation, answer: Answer::Dumped { records, last } });
    });
    handle.traverse_read(|_, key, value| {
        pieces.push((key.to_vec(), value.to_vec()), key.len() + value.len());
        Ok(ControlFlow::Continue(()))
    })?;
    pieces.finish();
    Ok(())
}

fn read(handle: &mut Tdb, keys: Vec<Vec<u8>>) -> tdb::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    for key in keys {
        if let Some(value) = handle.fetch(&key)? {
            records.push((key, value));
        }
    }
    Ok(records)
}

fn change(handle: &mut Tdb, me: u32, key: &[u8], edit: Edit) -> tdb::Result<()> {
    if let Edit::Delete = edit {
        return handle.delete(key).map(drop);
    }
    if let Edit::Value(value) = &edit {
        return handle.store(key, value, Store::Replace).map(drop);
    }
    let old = handle.fetch(key)?.unwrap_or_default();
    let (header, data) = match (LtdbHeader::split(&old), edit) {
        (Ok((header, data)), Edit::Holder(dmaster)) => (LtdbHeader { dmaster, ..header }, data),
        (Err(_), Edit::Holder(dmaster)) => (LtdbHeader { dmaster, ..LtdbHeader::default() }, [].as_slice()),
        (Ok((header, data)), _) => {
            let with_data = if data.is_empty() { 0 } else { flag::MIGRATED_WITH_DATA };
            let flags = header.flags & !flag::READONLY | with_data;
            (LtdbHeader { rsn: header.rsn + 1, dmaster: me, flags, ..header }, data)
        }
        // Nothing there to take.
        (Err(_), _) => return Ok(()),
    };
    handle.store(key, &header.before(data), Store::Replace).map(drop)
}

/// Old or new content, whatever dies when; the old one after an error.
fn replace(handle: &mut Tdb, records: &[(Vec<u8>, Vec<u8>)]) -> tdb::Result<()> {
    handle.begin()?;
    let written =
        handle.wipe().and_then(|()| records.iter().try_for_each(|(k, v)| handle.store(k, v, Store::Replace).map(drop)));
    if let Err(error) = written {
        handle.cancel()?;
        return Err(error);
    }
    handle.commit()
}

fn prune(handle: &mut Tdb, me: u32, masters: &[u32]) -> tdb::Result<()> {
    let mut gone = Vec::new();
    handle.traverse_read(|_, key, value| {
        let master = (lookup3(key) as usize).checked_rem(masters.len()).and_then(|index| masters.get(index));
        if let (Ok((header, data)), Some(master)) = (LtdbHeader::split(value), master)
            && store(header, data.is_empty(), me, *master) == Stored::Forgotten
        {
            gone.push(key.to_vec());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    gone.iter().try_for_each(|key| handle.delete(key).map(drop))
}
