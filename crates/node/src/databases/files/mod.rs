//! The files of the databases: carries out the [`FileOrder`]s of the node's server on TDB files that Samba's processes
//! use at the same time.
//!
//! ```text
//! <volatile>/<name>.<node>       volatile and replicated ones: emptied when this node's daemon opens them
//! <persistent>/<name>.<node>     persistent ones: found at start
//! <state>/<name>.<node>.synced   the last recovery that a persistent one took part in to the end; see `synced`
//! ```
//!
//! [`Files::order`] runs in the thread of the event loop and never waits for a lock: it tries, and where that fails a
//! thread waits ([`tdb::Waiter`]) and works with the handle that got the lock. Threads are there only while there is
//! something to wait for or long work to do: opening, a frozen database, a transaction, a traverse.
//!
//! `database` has what there is of one file and hands the orders out; `open`, `chains`, `frozen`, `transact` and
//! `traverse` carry them out.

mod chains;
mod database;
mod frozen;
mod open;
mod pieces;
mod synced;
#[cfg(test)]
mod tests;
mod transact;
mod traverse;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ctdb::database::Kind;
use ctdb::database_id;
use ctdb::recovery::{Answer as RecoveryAnswer, Have};
use ctdb::server::{FileAnswer, FileOrder};

use database::Database;

/// How long the start waits for the locks of persistent files, which nobody should hold then. Those that are not open by
/// then are set aside.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Where the files are. Made with mode 0700 if they are not there.
#[derive(Debug, Clone)]
pub(crate) struct Dirs {
    /// Of volatile and replicated databases; best a memory filesystem.
    pub volatile: PathBuf,
    /// Of persistent databases: survives everything.
    pub persistent: PathBuf,
    /// Of notes about persistent ones; as lasting as they are.
    pub state: PathBuf,
}

/// A directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}, where clustered databases are kept: {source}", path.display())]
pub(crate) struct FilesError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Called from any thread, with a database's number and what could not be answered at once. It must not call
/// [`Files::order`], nor wait for who does.
pub(crate) type Answer = Arc<dyn Fn(u32, FileAnswer) + Send + Sync>;

/// All files.
pub(crate) struct Files {
    dirs: Dirs,
    me: u32,
    answer: Answer,
    databases: BTreeMap<u32, Arc<Database>>,
    /// Persistent files that could not be opened at start, and why.
    damaged: BTreeMap<u32, String>,
}

impl Files {
    /// Makes the directories, and opens the persistent files of node `me` that are there. Those that cannot be opened are
    /// set aside: logged, and not among what is returned; [`FileOrder::Open`] tries again and says why not.
    ///
    /// # Errors
    /// A directory cannot be made or read.
    pub(crate) fn new(dirs: Dirs, me: u32, answer: Answer) -> Result<(Self, Vec<Have>), FilesError> {
        for path in [&dirs.volatile, &dirs.persistent, &dirs.state] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|source| FilesError { doing: "make the directory", path: path.clone(), source })?;
        }
        let mut files = Self { dirs, me, answer, databases: BTreeMap::new(), damaged: BTreeMap::new() };
        let names = files.persistent_names().map_err(|source| FilesError {
            doing: "read the directory",
            path: files.dirs.persistent.clone(),
            source,
        })?;
        let have = files.open_found(names);
        Ok((files, have))
    }

    /// Names of databases whose files are `<name>.tdb.<me>`. Those of other nodes are not ours to touch.
    fn persistent_names(&self) -> io::Result<Vec<String>> {
        let ending = format!(".{}", self.me);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dirs.persistent)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let name = file_name.to_str().and_then(|name| name.strip_suffix(&ending));
            if let Some(name) = name.filter(|name| name.ends_with(".tdb"))
                && entry.file_type()?.is_file()
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open_found(&mut self, names: Vec<String>) -> Vec<Have> {
        let mut opening = Vec::new();
        for name in names {
            let database = self.database(&Have { db: database_id(&name), name, kind: Kind::Persistent });
            let (sender, receiver) = mpsc::channel();
            let opener = database.clone();
            // Nobody listens any more if it took too long.
            let started = open::in_thread(move || drop(sender.send(opener.open_file())));
            opening.push((database, started.map(|()| receiver)));
        }
        let end = Instant::now() + START_PATIENCE;
        let mut have = Vec::new();
        for (database, receiver) in opening {
            let opened = receiver.and_then(|receiver| {
                let left = end.saturating_duration_since(Instant::now());
                receiver.recv_timeout(left).unwrap_or_else(|_| Err(database.locked_for_long()))
            });
            match opened {
                Ok(file) => {
                    database.opened_at_start(file);
                    have.push(database.have.clone());
                    self.databases.insert(database.have.db, database);
                }
                Err(why) => {
                    tracing::error!("a persistent database is set aside: {why}");
                    self.damaged.insert(database.have.db, why);
                }
            }
        }
        have
    }

    /// Persistent databases that were set aside at start and not asked for since, with the reason.
    #[cfg(test)]
    pub(crate) fn damaged(&self) -> impl Iterator<Item = (u32, &str)> {
        self.damaged.iter().map(|(db, why)| (*db, why.as_str()))
    }

    fn database(&self, have: &Have) -> Arc<Database> {
        let dir = match have.kind {
            Kind::Persistent => &self.dirs.persistent,
            Kind::Volatile | Kind::Replicated => &self.dirs.volatile,
        };
        let file = format!("{}.{}", have.name, self.me);
        let note = self.dirs.state.join(format!("{file}.synced"));
        Arc::new(Database::new(have.clone(), self.me, dir.join(file), note, self.answer.clone()))
    }

    /// Carries out one order. Never waits: what cannot be answered at once (in `now`) is answered later, from another
    /// thread.
    pub(crate) fn order(&mut self, db: u32, order: FileOrder, now: &mut Vec<(u32, FileAnswer)>) {
        let mut answers = Vec::new();
        match (self.databases.get(&db), order) {
            (Some(database), FileOrder::Close) => {
                database.empty_and_close();
                self.databases.remove(&db);
            }
            (Some(database), order) => database.order(order, &mut answers),
            (None, FileOrder::Open(have)) => {
                if is_file_name(&have.name) {
                    self.damaged.remove(&db);
                    let database = self.database(&have);
                    database.order(FileOrder::Open(have), &mut answers);
                    self.databases.insert(db, database);
                } else {
                    let why = format!("{:?} cannot be the name of a file: choose another name", have.name);
                    answers.push(FileAnswer::Opened(Err(why)));
                }
            }
            (None, order) => not_there(db, order, &mut answers),
        }
        now.extend(answers.into_iter().map(|answer| (db, answer)));
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files")
            .field("dirs", &self.dirs)
            .field("databases", &self.databases.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Files {
    /// Ends all waiting. Threads that write finish what they have begun.
    fn drop(&mut self) {
        for database in self.databases.values() {
            database.close();
        }
    }
}

/// An order for a database that was never opened, or is gone.
fn not_there(db: u32, order: FileOrder, answers: &mut Vec<FileAnswer>) {
    let why = || format!("database {db:#010x} is not open on this node");
    refuse(&why(), order, answers);
}

/// Answers an order that cannot be carried out, where there is an answer that says so.
fn refuse(why: &str, order: FileOrder, answers: &mut Vec<FileAnswer>) {
    let answer = match order {
        FileOrder::Transact { generation, asker, id, .. } => {
            FileAnswer::Written { generation, asker, id, result: Err(why.to_owned()) }
        }
        FileOrder::Replace { generation, .. } => {
            FileAnswer::Recovery { generation, answer: RecoveryAnswer::Replaced(Err(why.to_owned())) }
        }
        FileOrder::Vacate { generation } => {
            FileAnswer::Recovery { generation, answer: RecoveryAnswer::Vacated(Err(why.to_owned())) }
        }
        FileOrder::Fetch { token, .. } => FileAnswer::Fetched { token, value: None },
        FileOrder::Traverse { token, .. } => FileAnswer::Traversed { token, records: Vec::new(), last: true },
        FileOrder::Open(_) => FileAnswer::Opened(Err(why.to_owned())),
        _ => return,
    };
    answers.push(answer);
}

/// Names come from clients: nothing that leads out of the directory.
fn is_file_name(name: &str) -> bool {
    let short = !name.is_empty() && name.len() <= 200;
    short && !name.contains(['/', '\0']) && !name.starts_with('.') && Path::new(name).file_name().is_some()
}
