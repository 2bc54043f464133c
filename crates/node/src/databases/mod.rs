//! Samba's databases: the thread that runs the core of [`ctdb`] and all that it talks to.
//!
//! ```text
//!   smbd, ctdb ─ socket ─> clients ──┐              ┌──> clients (written at once, the rest when they read)
//!   peers ─ data links ──> links ────┼─> the core ──┼──> files (what they cannot answer at once comes by the inbox)
//!   snapshots, files ─> inbox ───────┘              └──> links, administrator's wishes, log
//! ```
//!
//! One thread with its own poller, since a call of Samba is answered within the turn that reads it, and what a peer
//! says within the turn that decrypts it: no other thread needs to be woken. Nothing here waits for a client, a file or a peer, and nothing is decided here.

mod alarm;
mod awake;
mod clients;
pub(crate) mod files;
mod inbox;
mod link;
mod links;
pub mod picture;
mod rest;
mod socket;
#[cfg(test)]
mod tests;
mod thread;

use crate::{clock, priority};
pub(crate) use awake::LATENCY;
use ctdb::server::{FileAnswer, FileOrder, Input, Now, Output, Server, Wish};
use ctdb::wire::Connection;
pub(crate) use inbox::{Item, Post};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime};
use thread::Loop;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long the thread may take to end.
const END: Duration = Duration::from_secs(5);

/// The core, as the thread sees it.
pub(crate) trait Core {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>);
    /// When [`Input::Wake`] is due, on the clock of [`Now::mono`].
    fn next_wake(&self) -> Option<Duration>;
}

impl Core for Server {
    fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        Self::handle(self, now, input, out);
    }
    fn next_wake(&self) -> Option<Duration> {
        Self::next_wake(self)
    }
}

/// The files, as the thread sees them.
pub(crate) trait Files {
    /// Carries out one order without waiting; what can be answered at once is pushed to `now`.
    fn order(&mut self, db: u32, order: FileOrder, now: &mut Vec<(u32, FileAnswer)>);
}

impl Files for files::Files {
    fn order(&mut self, db: u32, order: FileOrder, now: &mut Vec<(u32, FileAnswer)>) {
        Self::order(self, db, order, now);
    }
}

/// The rest of the daemon, as the thread sees it. No method may block.
pub(crate) trait Outside: Send {
    /// A wish of an administrator.
    fn wish(&self, wish: Wish);
    /// The clients have been told that these addresses leave: it is written to the sockets of all that take it at once.
    fn told(&self, addresses: Vec<IpAddr>);
    /// This node has everything that was committed before the view of this number, on disk.
    fn recovered(&self, view: u64);
    /// A client's connection to a public address was told by a process of Samba or by a tool; or taken back.
    fn connection(&self, connection: Connection, told: bool);
    /// The standing warning; empty: all is well.
    fn warn(&self, text: String);
}

/// What it is to do for its clients.
#[derive(Debug)]
pub(crate) struct Served {
    /// Where Samba and the `ctdb` tool connect.
    pub(crate) socket: PathBuf,
    /// Where the kernel is asked to keep the processors from sleeping deeply while much comes from the peers
    /// ([`LATENCY`]); none: it is not.
    pub(crate) keep_awake: Option<PathBuf>,
}

/// The thread, while it runs.
#[derive(Debug)]
pub(crate) struct Databases {
    post: Post,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Databases {
    /// Starts it. It makes the core and the files itself, for that may take a while; if they cannot be made it ends with
    /// a warning. Clients are served as soon as the socket can be had, which is tried again until then.
    ///
    /// # Errors
    /// Out of descriptors or threads.
    pub(crate) fn start<C: Core, F: Files>(
        post: Post,
        served: Served,
        make: impl FnOnce() -> Result<(C, F), String> + Send + 'static,
        outside: impl Outside + 'static,
    ) -> io::Result<Self> {
        more_descriptors();
        let (sender, ended) = oneshot::channel();
        let its = post.clone();
        let thread = Builder::new().name("databases".into()).spawn(move || {
            priority::prompt();
            run(its, served, make, outside);
            // Who started it may have gone.
            let _ = sender.send(());
        })?;
        Ok(Self { post, ended, thread })
    }

    /// Closes all clients and removes the socket.
    pub(crate) async fn stop(self) {
        self.post.put(Item::Stop);
        if timeout(END, self.ended).await.is_err() {
            return tracing::warn!("the databases' thread did not end within {} s", END.as_secs());
        }
        // A panic in it was reported when it happened.
        let _ = self.thread.join();
    }
}

fn run<C: Core, F: Files>(
    post: Post,
    served: Served,
    make: impl FnOnce() -> Result<(C, F), String>,
    outside: impl Outside,
) {
    let made = make().and_then(|(core, files)| {
        Loop::new(post.clone(), served, core, files, &outside).map_err(|e| format!("their thread cannot start: {e}"))
    });
    let ended = match made {
        Ok(poller) => poller.run().map_err(|e| format!("their thread cannot wait for anything: {e}")),
        Err(why) => Err(why),
    };
    post.close();
    if let Err(why) = ended {
        let text = format!("Samba's databases are off: {why}");
        tracing::error!("{text}");
        outside.warn(text);
    }
}

/// Each client needs one.
fn more_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!("the number of Samba's connections is limited ({error}): LimitNOFILE");
    }
}

/// The clocks.
pub(crate) fn now() -> Now {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { mono: mono(), wall }
}

fn mono() -> Duration {
    Duration::from_micros(clock::now().0)
}
