//! Opening a file, in a thread: others may hold its locks for long, and a large one takes its time to be checked.

use std::ops::ControlFlow;
use std::thread;

use ctdb::database::Kind;
use tdb::{Flags, Options, Tdb, Wait};

use super::database::Database;
use crate::priority;

/// Hash chains of new files, as CTDB makes them.
const HASH_SIZE: u32 = 100_001;
/// Deleted records that each chain keeps for the next store, as CTDB does.
const MAX_DEAD: u32 = 5;
/// Enough for everything that is done with a file.
const STACK: usize = 128 * 1024;

/// Runs `work` in a thread.
pub(super) fn in_thread(work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let work = || {
        priority::unhurried();
        work();
    };
    let thread = thread::Builder::new().name("database-open".into()).stack_size(STACK).spawn(work);
    thread.map(drop).map_err(|error| format!("cannot start a thread that opens a database: {error}"))
}

impl Database {
    /// Opens the file, waiting. Volatile and replicated: empty, whatever was in it. Persistent: checked from the first to
    /// the last byte.
    pub(super) fn open_file(&self) -> Result<Tdb, String> {
        let flags = if self.persistent() { Flags::CTDB_PERSISTENT } else { Flags::CTDB_VOLATILE };
        let new = !self.path.exists();
        let opened = Tdb::open(&self.path, Options::create(flags, HASH_SIZE)).and_then(|mut db| {
            if self.persistent() {
                db.check()?;
            } else {
                empty(&mut db)?;
            }
            Ok(db)
        });
        let mut db = opened.map_err(|error| self.unusable(&error))?;
        if new && self.persistent() {
            // What an earlier file of this name took part in says nothing about this one.
            self.synced.forget()?;
        }
        if self.have.kind == Kind::Volatile {
            db.set_max_dead(MAX_DEAD);
        }
        Ok(db)
    }

    fn unusable(&self, error: &tdb::Error) -> String {
        let path = self.path.display();
        let advice = match error {
            tdb::Error::Corrupt { .. } | tdb::Error::Unsupported { .. } if self.persistent() => format!(
                "; or move it away (mv {path} {path}.damaged) and start this node again: it then gets the content from \
                 the other nodes"
            ),
            tdb::Error::Corrupt { .. } | tdb::Error::Unsupported { .. } => {
                format!("; end the processes that have it open (fuser {path}) and remove it: it holds nothing lasting")
            }
            _ => String::new(),
        };
        format!("{error}{advice}")
    }

    /// Why a file that nobody should use is not open yet.
    pub(super) fn locked_for_long(&self) -> String {
        let path = self.path.display();
        format!(
            "{path}: another process holds its locks for long (fuser {path}); end that process and start Samba again"
        )
    }
}

/// The file was emptied when it was opened, unless somebody else has it open still: a process of Samba's that outlives
/// the daemon which it was connected to.
fn empty(db: &mut Tdb) -> tdb::Result<()> {
    db.lock_all(tdb::Kind::Exclusive, Wait::Block)?;
    let first = db.traverse_read(|_, _, _| Ok(ControlFlow::Break(())));
    let wiped = match first {
        Ok(0) => Ok(()),
        // Whatever is wrong with what is in it goes with it.
        Ok(_) | Err(_) => db.wipe(),
    };
    let unlocked = db.unlock_all();
    wiped.and(unlocked)
}
