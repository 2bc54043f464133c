//! One database: what there is of it in memory, and who carries out which order.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ctdb::database::Kind;
use ctdb::recovery::{Answer as RecoveryAnswer, Have};
use ctdb::server::{FileAnswer, FileOrder};
use tdb::{Error, Flags, Tdb, Waiter};

use super::chains::Chains;
use super::frozen::Frozen;
use super::synced::Synced;
use super::{Answer, open, refuse};
use crate::sync::locked;

/// A database and the threads that work for it share this.
///
/// Nothing is done under the lock of `state` that could take long, so that the event loop's thread gets it at once.
pub(super) struct Database {
    pub(super) have: Have,
    /// This node.
    pub(super) me: u32,
    pub(super) path: PathBuf,
    pub(super) synced: Synced,
    answer: Answer,
    state: Mutex<State>,
}

struct State {
    file: File,
    work: Work,
}

/// The file itself.
enum File {
    /// A thread opens it. What is asked meanwhile waits, in order.
    Opening(VecDeque<FileOrder>),
    /// Open. All that this handle does is done at once: it never waits for a lock that may be held for long.
    Open(Tdb),
    /// It cannot be used.
    Failed(String),
    /// Given up. What threads still find out is of no interest.
    Closed,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Work {
    pub(super) chains: Chains,
    pub(super) frozen: Option<Frozen>,
    pub(super) transaction: Option<Waiter>,
    /// What came after the transaction that is under way and must not overtake it.
    pub(super) behind: VecDeque<FileOrder>,
    /// By token.
    pub(super) traverses: BTreeMap<u64, Waiter>,
    /// An error was answered. One is enough until a recovery begins, or ends.
    told: bool,
}

impl Database {
    pub(super) fn new(have: Have, me: u32, path: PathBuf, synced: PathBuf, answer: Answer) -> Self {
        let state = State { file: File::Closed, work: Work::default() };
        Self { have, me, path, synced: Synced::new(synced), answer, state: Mutex::new(state) }
    }

    /// Whether all of its content is on every node.
    pub(super) fn whole(&self) -> bool {
        self.have.kind != Kind::Volatile
    }

    pub(super) fn persistent(&self) -> bool {
        self.have.kind == Kind::Persistent
    }

    /// Answers from a thread that is not the event loop's.
    pub(super) fn answer(&self, answer: FileAnswer) {
        (self.answer)(self.have.db, answer);
    }

    /// An operation failed, in a thread that is not the event loop's.
    pub(super) fn damaged(&self, why: &str) {
        tracing::error!("a clustered database cannot be used: {why}");
        let known = {
            let mut state = locked(&self.state);
            matches!(state.file, File::Closed) || std::mem::replace(&mut state.work.told, true)
        };
        if !known {
            self.answer(FileAnswer::Damaged(why.to_owned()));
        }
    }

    /// A recovery begins or ends: errors from now on are new ones.
    pub(super) fn errors_are_new(&self) {
        locked(&self.state).work.told = false;
    }

    /// Runs `then` while the file is open, in a thread that is not the event loop's.
    pub(super) fn while_open<T>(&self, then: impl FnOnce(&mut Tdb, &mut Work) -> T) -> Option<T> {
        let mut state = locked(&self.state);
        let State { file, work } = &mut *state;
        match file {
            File::Open(main) => Some(then(main, work)),
            _ => None,
        }
    }

    /// Carries out one order, in the event loop's thread.
    pub(super) fn order(self: &Arc<Self>, order: FileOrder, now: &mut Vec<FileAnswer>) {
        let mut state = locked(&self.state);
        let State { file, work } = &mut *state;
        if let (File::Closed | File::Failed(_), FileOrder::Open(_)) = (&*file, &order) {
            *file = match self.start_opening() {
                Ok(()) => File::Opening(VecDeque::new()),
                Err(why) => {
                    now.push(FileAnswer::Opened(Err(why.clone())));
                    File::Failed(why)
                }
            };
            return;
        }
        match (file, order) {
            (File::Open(main), order) => self.carry_out(main, work, order, now),
            (File::Opening(waiting), order) => waiting.push_back(order),
            (File::Failed(_), FileOrder::Freeze { generation, .. }) if self.whole() => {
                now.push(FileAnswer::Recovery { generation, answer: RecoveryAnswer::Frozen(None) });
            }
            (File::Failed(why), order) => refuse(why, order, now),
            (File::Closed, _) => {}
        }
    }

    fn carry_out(self: &Arc<Self>, main: &mut Tdb, work: &mut Work, order: FileOrder, now: &mut Vec<FileAnswer>) {
        if let Err(error) = self.try_to(main, work, order, now) {
            let why = error.to_string();
            tracing::error!("a clustered database cannot be used: {why}");
            if !std::mem::replace(&mut work.told, true) {
                now.push(FileAnswer::Damaged(why));
            }
        }
    }

    fn try_to(
        self: &Arc<Self>,
        main: &mut Tdb,
        work: &mut Work,
        order: FileOrder,
        now: &mut Vec<FileAnswer>,
    ) -> tdb::Result<()> {
        match order {
            FileOrder::Open(have) => {
                let same = have.kind == self.have.kind;
                let path = self.path.display().to_string();
                let refused = || format!("{path} is open as {:?}, not {:?}", self.have.kind, have.kind);
                now.push(FileAnswer::Opened(if same { Ok(path.clone()) } else { Err(refused()) }));
                Ok(())
            }
            FileOrder::Lock { key } => Chains::lock(self, main, work, key, now),
            FileOrder::Unlock { key, write } => work.chains.unlock(main, &key, write),
            FileOrder::Fetch { token, key } => Chains::fetch(self, main, work, token, key, now),
            FileOrder::Traverse { token, held_by, which } => self.traverse(main, work, token, held_by, which),
            FileOrder::StopTraverse { token } => {
                work.traverses.remove(&token.0);
                Ok(())
            }
            FileOrder::CountChanges => {
                main.add_flags(Flags::SEQNUM);
                work.chains.count_changes();
                now.push(FileAnswer::Counting(main.sequence_number()?));
                Ok(())
            }
            FileOrder::LookSequence => {
                now.push(FileAnswer::Sequence(main.sequence_number()?));
                Ok(())
            }
            FileOrder::Bump => {
                main.bump_sequence_number()?;
                now.push(FileAnswer::Bumped);
                Ok(())
            }
            FileOrder::Vacate { generation } if work.frozen.is_some() => {
                let alone = main.try_alone()?;
                let used = || format!("a process has {} open (fuser {0})", self.path.display());
                let result = if alone { Ok(()) } else { Err(used()) };
                now.push(FileAnswer::Recovery { generation, answer: RecoveryAnswer::Vacated(result) });
                Ok(())
            }
            // These keep their order among each other.
            order if work.transaction.is_some() => {
                work.behind.push_back(order);
                Ok(())
            }
            order @ FileOrder::Transact { .. } => {
                self.transact(main, work, order, now);
                Ok(())
            }
            order => {
                if matches!(order, FileOrder::Freeze { .. } | FileOrder::Thaw { .. }) && !self.persistent() {
                    main.share()?;
                }
                Frozen::order(self, main, work, order, now)
            }
        }
    }

    /// A transaction has ended, in its thread: what stands behind it goes on.
    pub(super) fn transaction_ended(self: &Arc<Self>) {
        let mut answers = Vec::new();
        self.while_open(|main, work| {
            if let Some(waiter) = work.transaction.take() {
                waiter.detach();
            }
            while work.transaction.is_none()
                && let Some(order) = work.behind.pop_front()
            {
                self.carry_out(main, work, order, &mut answers);
            }
        });
        answers.into_iter().for_each(|answer| self.answer(answer));
    }

    fn start_opening(self: &Arc<Self>) -> Result<(), String> {
        let database = self.clone();
        open::in_thread(move || {
            let opened = database.open_file();
            database.opened(opened);
        })
    }

    /// The opening thread's result.
    fn opened(self: &Arc<Self>, opened: Result<Tdb, String>) {
        let mut answers = Vec::new();
        {
            let mut state = locked(&self.state);
            let State { file, work } = &mut *state;
            let File::Opening(waiting) = file else { return };
            let waiting = std::mem::take(waiting);
            match opened {
                Ok(mut main) => {
                    // Before the threads that the orders start can answer.
                    self.answer(FileAnswer::Opened(Ok(self.path.display().to_string())));
                    for order in waiting {
                        self.carry_out(&mut main, work, order, &mut answers);
                    }
                    *file = File::Open(main);
                }
                Err(why) => {
                    answers.push(FileAnswer::Opened(Err(why.clone())));
                    *file = File::Failed(why);
                    drop(state);
                    for order in waiting.into_iter().filter(|order| !matches!(order, FileOrder::Open(_))) {
                        self.order(order, &mut answers);
                    }
                }
            }
        }
        answers.into_iter().for_each(|answer| self.answer(answer));
    }

    /// For a file that was opened before the event loop runs.
    pub(super) fn opened_at_start(&self, main: Tdb) {
        locked(&self.state).file = File::Open(main);
    }

    /// Ends all waiting, and lets all locks go.
    pub(super) fn close(&self) {
        let gone = std::mem::replace(&mut *locked(&self.state), State { file: File::Closed, work: Work::default() });
        // Without the lock: the threads that end now want it.
        if let Some(frozen) = gone.work.frozen {
            frozen.end();
        }
    }

    /// Empties it, where it is frozen, and closes it: in the thread that has the lock, which until then keeps others from
    /// opening it.
    pub(super) fn empty_and_close(&self) {
        let emptied = self.while_open(|_, work| work.frozen.as_mut().is_some_and(|frozen| frozen.empty_and_close()));
        if emptied != Some(true) {
            self.close();
        }
    }
}

/// Whether a wait was cancelled, which is no error.
pub(super) fn cancelled(error: &Error) -> bool {
    matches!(error, Error::Cancelled { .. })
}
