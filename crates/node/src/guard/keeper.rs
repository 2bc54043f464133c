//! The daemon's side: starts the guard, keeps what it would say fresh, and starts it again when it is lost.

use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cluster::{GuardWord, Input};
use tokio::sync::oneshot;

use super::lock::GuardLock;
use super::order::{Order, SealedWord};
use crate::daemon::Inbox;

/// The words are sealed anew this often: receivers take none that is older than some hundred datagrams, and a
/// replaced key is good for two seconds.
const FRESH: Duration = Duration::from_secs(1);
/// A guard that could not be started is started again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// A guard that has left orders unanswered for so long hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an end in order waits for the guard.
const GOODBYE: Duration = Duration::from_secs(1);

const WARNING: &str = "guard";

/// Seals what the guard of this run would say, with the keys of now.
pub(crate) type Sealer = Box<dyn Fn(&GuardWord) -> Vec<SealedWord> + Send>;

#[derive(Debug)]
enum News {
    Word(GuardWord),
    Addresses(Vec<IpAddr>, oneshot::Sender<()>),
    Reseal,
    Goodbye,
}

/// Tells the guard's keeper what has changed. Cheap to clone; without a keeper nothing comes of it.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    news: Sender<News>,
}

/// What the keeper hears.
#[derive(Debug)]
pub(crate) struct Heard(Receiver<News>);

/// The way to a keeper that is started later, or never.
pub(crate) fn channel() -> (Guard, Heard) {
    let (news, heard) = mpsc::channel();
    (Guard { news }, Heard(heard))
}

impl Guard {
    /// What the guard is to say from now on. Never blocks.
    pub(crate) fn word(&self, word: GuardWord) {
        self.send(News::Word(word));
    }

    /// A peer has new keys. Never blocks.
    pub(crate) fn reseal(&self) {
        self.send(News::Reseal);
    }

    /// Addresses that this node may hold from now on. Wait for it before they can be taken: the guard must know of
    /// each.
    pub(crate) async fn addresses(&self, addresses: Vec<IpAddr>) {
        let (done, told) = oneshot::channel();
        self.send(News::Addresses(addresses, done));
        // Fails when there is no guard.
        let _ = tokio::time::timeout(GOODBYE, told).await;
    }

    fn send(&self, news: News) {
        // Fails when there is no keeper, or the daemon ends.
        let _ = self.news.send(news);
    }
}

/// Keeps a guard. Dropped without [`Keeper::goodbye`], the guard cleans up as after a kill.
#[derive(Debug)]
pub(crate) struct Keeper {
    guard: Guard,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Starts the thread and the first guard.
    ///
    /// # Errors
    /// The thread cannot be started. A guard that cannot be started is a warning.
    pub(crate) fn start(
        (guard, heard): (Guard, Heard),
        lock: GuardLock,
        addresses: Vec<IpAddr>,
        sealer: Sealer,
        inbox: Inbox,
    ) -> anyhow::Result<Self> {
        let mut work = Work {
            lock,
            inbox,
            sealer,
            addresses,
            word: None,
            running: None,
            started: None,
            warned: false,
            goodbye: false,
        };
        let thread = thread::Builder::new()
            .name("guard".into())
            .stack_size(256 << 10)
            .spawn(move || work.run(&heard.0))
            .context("the guard's thread cannot be started")?;
        Ok(Self { guard, thread })
    }

    /// Every address is released: the guard ends without doing anything.
    pub(crate) fn goodbye(self) {
        self.guard.send(News::Goodbye);
        if self.thread.join().is_err() {
            tracing::error!("the guard's thread had panicked");
        }
    }
}

struct Work {
    lock: GuardLock,
    inbox: Inbox,
    sealer: Sealer,
    addresses: Vec<IpAddr>,
    word: Option<GuardWord>,
    running: Option<Running>,
    started: Option<Instant>,
    warned: bool,
    goodbye: bool,
}

struct Running {
    child: Child,
    orders: UnixStream,
    unanswered: usize,
    /// When it answered last, or had nothing to answer.
    progress: Instant,
}

impl Work {
    fn run(&mut self, heard: &Receiver<News>) {
        let mut waiting = Vec::new();
        loop {
            self.tend();
            for done in waiting.drain(..) {
                // Who asked may have stopped waiting.
                let _: Result<(), ()> = oneshot::Sender::send(done, ());
            }
            match heard.recv_timeout(FRESH) {
                Ok(news) => self.take(news, &mut waiting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(news) = heard.try_recv() {
                self.take(news, &mut waiting);
            }
            if self.goodbye {
                return self.end();
            }
        }
    }

    fn take(&mut self, news: News, waiting: &mut Vec<oneshot::Sender<()>>) {
        match news {
            News::Word(word) => self.word = Some(word),
            News::Addresses(addresses, done) => {
                for addr in addresses {
                    if !self.addresses.contains(&addr) {
                        self.addresses.push(addr);
                    }
                }
                waiting.push(done);
            }
            News::Reseal => {}
            News::Goodbye => self.goodbye = true,
        }
    }

    /// A guard runs and knows what is true now.
    fn tend(&mut self) {
        if let Some(why) = self.running.as_mut().and_then(Running::lost) {
            self.lose(&why);
        }
        if self.running.is_none() && self.started.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.started = Some(Instant::now());
            match Running::start(&self.lock) {
                Ok(running) => {
                    self.lock.note(running.child.id());
                    self.running = Some(running);
                }
                Err(error) => self.lose(&format!("it cannot be started: {error}")),
            }
        }
        let Some(running) = &mut self.running else { return };
        let words = self.word.as_ref().map(&self.sealer).unwrap_or_default();
        let order = Order::Watch { addresses: self.addresses.clone(), words };
        match running.tell(&order) {
            Ok(()) => self.warn(String::new()),
            Err(error) => self.lose(&format!("it takes no orders: {error}")),
        }
    }

    fn lose(&mut self, why: &str) {
        if let Some(mut running) = self.running.take() {
            // It may be one that hangs; then it goes when the kernel lets it.
            let _ = running.child.kill();
            let _ = running.child.try_wait();
        }
        tracing::warn!("the guard of this daemon is lost: {why}; it is started again");
        self.warn(format!("no guard watches over this daemon ({why}): if it dies, its addresses wait for its lease"));
    }

    fn warn(&mut self, text: String) {
        if self.warned != text.is_empty() {
            return;
        }
        self.warned = !text.is_empty();
        self.inbox.input(Input::Warning { key: WARNING.to_owned(), text });
    }

    fn end(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        if let Err(error) = running.tell(&Order::Goodbye) {
            tracing::debug!("the guard cannot be told that the daemon ends: {error}");
        }
        let end = Instant::now() + GOODBYE;
        while Instant::now() < end {
            if !matches!(running.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        tracing::warn!("the guard did not end in time; it is killed");
        let _ = running.child.kill();
        let _ = running.child.wait();
    }
}

impl Running {
    fn start(lock: &GuardLock) -> std::io::Result<Self> {
        let (orders, theirs) = UnixStream::pair()?;
        orders.set_nonblocking(true)?;
        let child = Command::new("/proc/self/exe")
            .args(["helper", "guard", &std::process::id().to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(lock.share()?))
            .current_dir("/")
            .spawn()?;
        Ok(Self { child, orders, unanswered: 0, progress: Instant::now() })
    }

    /// Why it is of no use any more, if so.
    fn lost(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Some(format!("it ended ({status})")),
            Err(error) => return Some(error.to_string()),
        }
        let mut answers = [0; 64];
        while let Ok(n @ 1..) = self.orders.read(&mut answers) {
            self.unanswered = self.unanswered.saturating_sub(n);
            self.progress = Instant::now();
        }
        let hangs = self.unanswered > 0 && self.progress.elapsed() > PATIENCE;
        hangs.then(|| format!("it has answered nothing for {} s", self.progress.elapsed().as_secs()))
    }

    fn tell(&mut self, order: &Order) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        match self.orders.write(&line) {
            Ok(n) if n == line.len() => {
                if self.unanswered == 0 {
                    self.progress = Instant::now();
                }
                self.unanswered += 1;
                Ok(())
            }
            // Half an order would spoil the next one.
            Ok(_) => Err(ErrorKind::WouldBlock.into()),
            Err(error) => Err(error),
        }
    }
}
