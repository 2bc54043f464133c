//! Transactions of clients: one at a time, in the order they come, each in a thread that waits until nobody else has one.

use std::sync::Arc;

use ctdb::server::{FileAnswer, FileOrder};
use ctdb::wire::{LtdbHeader, Record};
use tdb::{Error, Store, Target, Tdb, Waiter};

use super::database::{Database, Work, cancelled};
use super::refuse;
use crate::priority;

/// Why nothing was written.
enum Refusal {
    /// A record there is not older.
    Newer(String),
    /// The file.
    File(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::File(error)
    }
}

impl Database {
    /// Begins one. None is under way.
    pub(super) fn transact(self: &Arc<Self>, main: &Tdb, work: &mut Work, order: FileOrder, now: &mut Vec<FileAnswer>) {
        if work.frozen.is_some() {
            return refuse(&format!("{} is being recovered", self.path.display()), order, now);
        }
        let FileOrder::Transact { generation, asker, id, records } = order else { return };
        let written = move |result| FileAnswer::Written { generation, asker, id, result };
        let database = self.clone();
        let started = Waiter::start(main, Target::Transaction, move |got| {
            priority::unhurried();
            let result = match got {
                // Given up.
                Err(error) if cancelled(&error) => return,
                Err(error) => Err(Refusal::File(error)),
                Ok(mut handle) => write(&mut handle, &records),
            };
            let result = result.map_err(|refusal| match refusal {
                Refusal::Newer(why) => why,
                Refusal::File(error) => {
                    let why = error.to_string();
                    if let Error::Corrupt { .. } = error {
                        database.damaged(&why);
                    }
                    why
                }
            });
            database.answer(written(result));
            database.transaction_ended();
        });
        match started {
            Ok(waiter) => work.transaction = Some(waiter),
            Err(error) => now.push(written(Err(error.to_string()))),
        }
    }
}

/// All of them, or none. The transaction is open.
fn write(handle: &mut Tdb, records: &[Record]) -> Result<(), Refusal> {
    let stored = records.iter().try_for_each(|record| write_one(handle, record));
    if stored.is_err() {
        handle.cancel()?;
        return stored;
    }
    Ok(handle.commit()?)
}

fn write_one(handle: &mut Tdb, record: &Record) -> Result<(), Refusal> {
    let key = || record.key.escape_ascii().to_string();
    let Ok((new, data)) = LtdbHeader::split(&record.data) else {
        return Err(Refusal::Newer(format!("{}: record \"{}\" came without a header", handle.path().display(), key())));
    };
    let old = handle.fetch(&record.key)?.unwrap_or_default();
    if let Ok((old, old_data)) = LtdbHeader::split(&old)
        && old.rsn >= new.rsn
        && old_data != data
    {
        let path = handle.path().display();
        return Err(Refusal::Newer(format!(
            "{path}: record \"{}\" has sequence number {} and other data there, and was to be overwritten by number {}",
            key(),
            old.rsn,
            new.rsn
        )));
    }
    handle.store(&record.key, &record.data, Store::Replace)?;
    Ok(())
}
