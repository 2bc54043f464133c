//! Chain locks of single records. Tried by the handle of the event loop; where somebody else has the lock, a thread waits
//! with a handle of its own, and the record is read and written with that one as long as it holds the lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ctdb::database::{Token, Write};
use ctdb::server::FileAnswer;
use tdb::{Flags, Kind, Store, Target, Tdb, Waiter};

use super::database::{Database, Work, cancelled};

/// Locks by key, and fetches that wait, by token.
#[derive(Default)]
pub(super) struct Chains {
    locks: BTreeMap<Vec<u8>, Lock>,
    fetches: BTreeMap<u64, Waiter>,
    /// Threads that wait for a lock, and who stands in line for one.
    waiting: usize,
    line: VecDeque<Vec<u8>>,
}

/// Threads of one database that wait for chain locks at a time; each has a file descriptor. There are seldom more than a
/// few: as many as records that several processes want in the same moment.
const MOST_WAITING: usize = 100;

enum Lock {
    /// The event loop's handle has it.
    Main,
    /// A thread waits for it.
    Waiting(Waiter),
    /// One will, when another is done.
    InLine,
    /// This handle has it.
    Own(Tdb),
}

impl Chains {
    pub(super) fn lock(
        database: &Arc<Database>,
        main: &mut Tdb,
        work: &mut Work,
        key: Vec<u8>,
        now: &mut Vec<FileAnswer>,
    ) -> tdb::Result<()> {
        if work.chains.locks.contains_key(&key) {
            return Ok(());
        }
        if main.try_lock_chain(&key, Kind::Exclusive)? {
            let read = main.fetch(&key);
            if read.is_err() {
                main.unlock_chain(&key)?;
            }
            let value = read?;
            work.chains.locks.insert(key.clone(), Lock::Main);
            now.push(FileAnswer::Locked { key, value });
        } else if work.chains.waiting < MOST_WAITING {
            Self::wait(database, main, work, key)?;
        } else {
            work.chains.locks.insert(key.clone(), Lock::InLine);
            work.chains.line.push_back(key);
        }
        Ok(())
    }

    fn wait(database: &Arc<Database>, main: &Tdb, work: &mut Work, key: Vec<u8>) -> tdb::Result<()> {
        let (waits, wanted) = (database.clone(), key.clone());
        let target = Target::Chain(key.clone(), Kind::Exclusive);
        match Waiter::start(main, target, move |got| Self::locked(&waits, wanted, got)) {
            Ok(waiter) => {
                work.chains.waiting += 1;
                work.chains.locks.insert(key, Lock::Waiting(waiter));
                Ok(())
            }
            Err(error) => {
                work.chains.locks.remove(&key);
                Err(error)
            }
        }
    }

    /// A thread waits no more: one more may.
    fn next_in_line(database: &Arc<Database>, main: &Tdb, work: &mut Work) -> tdb::Result<()> {
        work.chains.waiting = work.chains.waiting.saturating_sub(1);
        while let Some(key) = work.chains.line.pop_front() {
            // Else it was given up.
            if let Some(Lock::InLine) = work.chains.locks.get(&key) {
                return Self::wait(database, main, work, key);
            }
        }
        Ok(())
    }

    /// In the thread that waited.
    fn locked(database: &Arc<Database>, key: Vec<u8>, got: tdb::Result<Tdb>) {
        let read = got.and_then(|mut handle| handle.fetch(&key).map(|value| (handle, value)));
        let mut answer = None;
        let noted = database.while_open(|main, work| {
            let result = match read {
                Ok((handle, value)) => {
                    // Else it was given up meanwhile, and so is the lock.
                    if let Some(place @ Lock::Waiting(_)) = work.chains.locks.get_mut(&key) {
                        if let Lock::Waiting(waiter) = std::mem::replace(place, Lock::Own(handle)) {
                            waiter.detach();
                        }
                        answer = Some(FileAnswer::Locked { key, value });
                    }
                    Ok(())
                }
                Err(error) if cancelled(&error) => Ok(()),
                Err(error) => {
                    if let Some(Lock::Waiting(waiter)) = work.chains.locks.remove(&key) {
                        waiter.detach();
                    }
                    Err(error)
                }
            };
            let next = Self::next_in_line(database, main, work);
            result.and(next)
        });
        if let Some(answer) = answer {
            database.answer(answer);
        }
        if let Some(Err(error)) = noted {
            database.damaged(&error.to_string());
        }
    }

    /// Writes, and lets the lock go whether or not that succeeded.
    pub(super) fn unlock(&mut self, main: &mut Tdb, key: &[u8], write: Write) -> tdb::Result<()> {
        match self.locks.remove(key) {
            Some(Lock::Main) => {
                let written = carry_out(main, key, write);
                let unlocked = main.unlock_chain(key);
                written.and(unlocked)
            }
            // Dropped with its lock.
            Some(Lock::Own(mut handle)) => carry_out(&mut handle, key, write),
            Some(Lock::Waiting(waiter)) => {
                waiter.cancel();
                Ok(())
            }
            Some(Lock::InLine) | None => Ok(()),
        }
    }

    pub(super) fn fetch(
        database: &Arc<Database>,
        main: &mut Tdb,
        work: &mut Work,
        token: Token,
        key: Vec<u8>,
        now: &mut Vec<FileAnswer>,
    ) -> tdb::Result<()> {
        let read = main.try_lock_chain(&key, Kind::Shared).and_then(|got| {
            if !got {
                return Ok(None);
            }
            let value = main.fetch(&key);
            main.unlock_chain(&key).and(value).map(Some)
        });
        match read {
            Ok(Some(value)) => now.push(FileAnswer::Fetched { token, value }),
            Ok(None) => {
                let waits = database.clone();
                let target = Target::Chain(key.clone(), Kind::Shared);
                let waiter = Waiter::start(main, target, move |got| Self::fetched(&waits, token, &key, got))?;
                work.chains.fetches.insert(token.0, waiter);
            }
            Err(error) => {
                now.push(FileAnswer::Fetched { token, value: None });
                return Err(error);
            }
        }
        Ok(())
    }

    /// In the thread that waited.
    fn fetched(database: &Arc<Database>, token: Token, key: &[u8], got: tdb::Result<Tdb>) {
        let read = got.and_then(|mut handle| handle.fetch(key));
        let wanted = database.while_open(|_, work| work.chains.fetches.remove(&token.0).map(Waiter::detach));
        if wanted.flatten().is_none() {
            return;
        }
        let value = read.unwrap_or_else(|error| {
            database.damaged(&error.to_string());
            None
        });
        database.answer(FileAnswer::Fetched { token, value });
    }

    /// From now on changes count, those under locks that are held already too.
    pub(super) fn count_changes(&mut self) {
        for lock in self.locks.values_mut() {
            if let Lock::Own(handle) = lock {
                handle.add_flags(Flags::SEQNUM);
            }
        }
    }
}

fn carry_out(handle: &mut Tdb, key: &[u8], write: Write) -> tdb::Result<()> {
    match write {
        Write::Nothing => Ok(()),
        Write::Value(value) => handle.store(key, &value, Store::Replace).map(drop),
        Write::Delete => handle.delete(key).map(drop),
    }
}
