//! Waiting for a lock in a thread, so that an event loop does not.

use std::fmt;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::db::Tdb;
use crate::error::Result;
use crate::ofd::{Kind, Wait};

/// What to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The chain of a key.
    Chain(Vec<u8>, Kind),
    /// All records.
    All(Kind),
    /// The whole database ([`Tdb::lock_whole`]).
    Whole,
    /// A transaction: it has begun when the wait is over.
    Transaction,
}

/// A thread that waits for a lock, on a handle of its own: it stands behind everybody who holds the lock, the handle that
/// it was made from included.
///
/// When it has the lock it hands over the handle that holds it. Work with that one: dropping it lets the lock go (and
/// cancels its transaction), so nobody can come between the wait and the work.
pub struct Waiter {
    cancelled: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Waiter {
    /// Starts to wait. `done` is called once, in the waiting thread: with the handle, or with why there is none, which is
    /// [`Error::Cancelled`](crate::Error::Cancelled) after [`cancel`](Self::cancel).
    pub fn start(db: &Tdb, target: Target, done: impl FnOnce(Result<Tdb>) + Send + 'static) -> Result<Self> {
        Self::run(db, move |mut handle| {
            let got = match &target {
                Target::Chain(key, kind) => handle.lock_chain(key, *kind),
                Target::All(kind) => handle.lock_all(*kind, Wait::Block).map(drop),
                Target::Whole => handle.lock_whole(),
                Target::Transaction => handle.begin(),
            };
            handle.locks.cancelled = None;
            done(got.map(|()| handle));
        })
    }

    /// Runs `work` in a thread of its own with a handle of its own: after [`cancel`](Self::cancel) every wait of that
    /// handle for a lock ends with [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn run(db: &Tdb, work: impl FnOnce(Tdb) + Send + 'static) -> Result<Self> {
        let mut handle = db.second_handle()?;
        wake_up_calls().map_err(|error| db.io("cannot prepare to wait for a lock", error))?;
        let cancelled = Arc::new(AtomicBool::new(false));
        handle.locks.cancelled = Some(cancelled.clone());
        let work = move || work(handle);
        let thread = thread::Builder::new().name("tdb-wait".into()).stack_size(128 * 1024).spawn(work);
        let thread = thread.map_err(|error| db.io("cannot start a thread that waits for a lock", error))?;
        Ok(Self { cancelled, thread: Some(thread) })
    }

    /// Stops to wait. Returns at once; the thread ends within a few milliseconds.
    pub fn cancel(mut self) {
        self.stop();
    }

    /// Lets the thread go on by itself: it has what it waited for.
    pub fn detach(mut self) {
        self.thread = None;
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take().filter(|thread| !thread.is_finished()) else { return };
        self.cancelled.store(true, Ordering::Release);
        wake(thread);
    }
}

impl Drop for Waiter {
    /// As [`cancel`](Waiter::cancel).
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

/// Only a signal gets a thread out of fcntl(F_OFD_SETLKW). SIGURG does nothing unless somebody asks for it, which in this
/// program nobody does; the system call must not be restarted, though, so it has to have a handler that does nothing.
const SIGNAL: Signal = Signal::SIGURG;

extern "C" fn nothing(_: libc::c_int) {}

#[allow(unsafe_code)]
fn wake_up_calls() -> io::Result<()> {
    static INSTALLED: OnceLock<nix::Result<()>> = OnceLock::new();
    let install = || {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it is safe in a signal. No other handler of SIGURG is replaced that
        // anybody needs: no library of this workspace installs one.
        unsafe { sigaction(SIGNAL, &action) }.map(drop)
    };
    Ok((*INSTALLED.get_or_init(install))?)
}

/// Wakes a cancelled thread up, again and again until it ends: a signal that comes just before the system call is lost.
fn wake(thread: JoinHandle<()>) {
    static WAKER: OnceLock<Option<Sender<JoinHandle<()>>>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = mpsc::channel::<JoinHandle<()>>();
        let work = move || {
            let mut waiting: Vec<JoinHandle<()>> = Vec::new();
            loop {
                let patience = if waiting.is_empty() { Duration::from_secs(3600) } else { Duration::from_millis(2) };
                match receiver.recv_timeout(patience) {
                    Ok(thread) => waiting.push(thread),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                waiting.retain(|thread| !thread.is_finished());
                for thread in &waiting {
                    // Fails only for a thread that has ended meanwhile.
                    pthread_kill(thread.as_pthread_t(), SIGNAL).ok();
                }
            }
        };
        thread::Builder::new().name("tdb-wake".into()).stack_size(64 * 1024).spawn(work).ok().map(|_| sender)
    };
    if let Some(sender) = WAKER.get_or_init(start) {
        // It never ends before us.
        sender.send(thread).ok();
    } else {
        // No thread to be had: one signal, which may come too early; then the wait ends with the lock.
        pthread_kill(thread.as_pthread_t(), SIGNAL).ok();
    }
}
