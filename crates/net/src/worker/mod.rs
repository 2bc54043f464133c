//! The worker: one thread that owns a node's public addresses, gate, fence and sockets, with a bounded queue in and
//! events out. This is what the daemon uses.
//!
//! A renewal goes before everything that waits; nothing that can take long (announcing, probing) happens on this
//! thread. When the lease ends by the clock and no renewal came, the worker drops the addresses by itself.

mod hosting;
mod imagined;
mod leaving;
mod limit;
mod reconcile;
mod storage;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::announce::{Announcer, SharedLease};
use crate::clock::BootTime;
use crate::command::{Command, Event, Mac};
use crate::error::{Error, Result};
use crate::probe;
use crate::watch::{News, Watch};

use hosting::Hosting;
pub use leaving::{FINISH, TELL};
use storage::Storage;

/// How many commands may wait.
const QUEUE: usize = 1024;
/// How often the state of the kernel is compared with what it should be.
const RECHECK: Duration = Duration::from_secs(5);

/// So many addresses are taken or released in one go at most: renewals wait meanwhile.
const ROW: usize = 64;

/// A step that takes longer is reported: a good part of the shortest sensible lease.
const STALL: Duration = Duration::from_millis(100);

/// What the worker does of its own accord. All of it, except in tests that show what each part is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// nf_tables silences addresses when the lease ends; without it leases end in whole seconds, as on a kernel that
    /// has no nf_tables.
    pub gate: bool,
    /// Addresses end by themselves with the lease; without it they stay until somebody removes them.
    pub lifetimes: bool,
    /// Taken addresses are announced.
    pub announce: bool,
    /// Clients of taken addresses are tickled.
    pub tickle: bool,
    /// This node's storage clients are held while it has no lease.
    pub hold: bool,
    /// An interface that goes down is told of; without it every one is up.
    pub link: bool,
    /// An address stays until its servers have been told that it leaves.
    pub tell: bool,
    /// Nodes that a view drops are shut out of the storage; without it that is only said.
    pub evict: bool,
    /// A node that was shut out frees what others hold of its storage.
    pub free: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            gate: true,
            lifetimes: true,
            announce: true,
            tickle: true,
            hold: true,
            link: true,
            tell: true,
            evict: true,
            free: true,
        }
    }
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The worker is that far behind; the order is lost.
    #[error("the network worker has {QUEUE} orders waiting and takes no more")]
    Full,
    /// It was shut down, or has died.
    #[error("the network worker has ended")]
    Ended,
}

/// What waits in the queue.
#[derive(Debug)]
enum Message {
    Command(Command),
    News(News),
    Probed { addr: IpAddr, outcome: Result<Option<Mac>> },
}

/// The handle to the worker thread. Dropping it shuts the worker down and waits for it.
#[derive(Debug)]
pub struct Worker {
    queue: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread, in the calling thread's network namespace. `events` is called on the worker's thread and must
    /// not block.
    ///
    /// # Errors
    /// No netlink sockets, or no threads.
    pub fn start(events: Box<dyn Fn(Event) + Send>) -> Result<Self> {
        Self::start_with(Parts::default(), events)
    }

    /// Like [`Self::start`], with some parts left out.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(parts: Parts, events: Box<dyn Fn(Event) + Send>) -> Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE);
        let lease = SharedLease::default();
        let news = queue.clone();
        let watch = Watch::start(move |n| news.try_send(Message::News(n)).is_ok())?;
        let announcer = Announcer::start(lease.clone(), parts)?;
        let hosting = Hosting::new(lease, announcer, parts)?;
        let storage = Storage::new(parts.evict, parts.free)?;
        let state = State {
            events,
            hosting,
            storage,
            watch,
            queue: queue.clone(),
            lost: false,
            renew: None,
            work: VecDeque::new(),
            next_check: Instant::now() + RECHECK,
        };
        let thread = std::thread::Builder::new()
            .name("net".to_owned())
            .spawn(move || state.run(&waiting))
            .map_err(|e| Error::io("starting the network worker", e))?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Gives an order; never blocks.
    pub fn send(&self, command: Command) -> Result<(), SendError> {
        self.queue.try_send(Message::Command(command)).map_err(|e| match e {
            TrySendError::Full(_) => SendError::Full,
            TrySendError::Disconnected(_) => SendError::Ended,
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Blocks when the queue is full, which the worker empties; fails when it has ended already.
        let _ = self.queue.send(Message::Command(Command::Shutdown));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct State {
    events: Box<dyn Fn(Event) + Send>,
    hosting: Hosting,
    storage: Storage,
    watch: Watch,
    /// For the answers of probes.
    queue: SyncSender<Message>,
    /// A lost lease that was not worked off yet; goes before `renew`.
    lost: bool,
    /// The newest renewal that was not worked off yet.
    renew: Option<BootTime>,
    work: VecDeque<Message>,
    next_check: Instant,
}

impl State {
    fn run(mut self, waiting: &Receiver<Message>) {
        loop {
            loop {
                match waiting.try_recv() {
                    Ok(message) => self.enqueue(message),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return self.shutdown(),
                }
            }
            if std::mem::take(&mut self.lost) {
                self.hosting.lease_lost(&self.events);
            }
            if let Some(until) = self.renew.take() {
                self.timed("a renewal", |s| s.hosting.renew(until, &s.events));
            }
            self.hosting.expire(&self.events);
            self.hosting.look(&self.events);
            if Instant::now() >= self.next_check {
                self.next_check = Instant::now() + RECHECK;
                self.timed("a check of the kernel's state", Self::recheck);
            }
            match self.work.pop_front() {
                Some(Message::Command(Command::Shutdown)) => return self.shutdown(),
                Some(message) => self.timed(what(&message), |s| s.handle(message)),
                None => {
                    let until_check = self.next_check.saturating_duration_since(Instant::now());
                    let wait = self.hosting.rest().map_or(until_check, |rest| rest.min(until_check));
                    let look = self.hosting.next_look().map(|at| at.saturating_duration_since(Instant::now()));
                    let wait = look.map_or(wait, |look| look.min(wait));
                    match waiting.recv_timeout(wait) {
                        Ok(message) => self.enqueue(message),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return self.shutdown(),
                    }
                }
            }
        }
    }

    /// Does something and tells if it took long.
    fn timed(&mut self, during: &'static str, f: impl FnOnce(&mut Self)) {
        let start = Instant::now();
        f(self);
        let took = start.elapsed();
        if took >= STALL {
            (self.events)(Event::Stalled { took, during });
        }
    }

    /// Sorts what came in: the lease goes before everything else.
    fn enqueue(&mut self, message: Message) {
        match message {
            Message::Command(Command::Renew { until }) => self.renew = Some(until),
            Message::Command(Command::LeaseLost) => {
                self.lost = true;
                self.renew = None;
                // What was to be taken under that lease must not be taken under the next one.
                let events = &self.events;
                self.work.retain(|m| {
                    let Message::Command(Command::Take { addr }) = m else {
                        return true;
                    };
                    events(Event::TakeFailed { addr: *addr, why: "the node lease was lost before".to_owned() });
                    false
                });
            }
            // One look finds all that has changed.
            Message::News(News::AddressesChanged) if self.looks() => {}
            other => self.work.push_back(other),
        }
    }

    /// A look at the node's addresses waits already.
    fn looks(&self) -> bool {
        self.work.iter().any(|m| matches!(m, Message::News(News::AddressesChanged)))
    }

    /// `first` and the addresses of the orders that follow and are of the same kind.
    fn row(&mut self, first: IpAddr, same: fn(&Command) -> Option<IpAddr>) -> Vec<IpAddr> {
        let mut row = vec![first];
        while row.len() < ROW
            && let Some(Message::Command(command)) = self.work.front()
            && let Some(addr) = same(command)
        {
            row.push(addr);
            self.work.pop_front();
        }
        row
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Command(Command::Take { addr }) => {
                let row = self.row(addr, |c| if let Command::Take { addr } = c { Some(*addr) } else { None });
                self.hosting.take(&row, &self.events);
            }
            Message::Command(Command::Release { addr }) => {
                let row = self.row(addr, |c| if let Command::Release { addr } = c { Some(*addr) } else { None });
                self.hosting.release(&row, &self.events);
            }
            other => self.handle_one(other),
        }
    }

    fn handle_one(&mut self, message: Message) {
        let events = &self.events;
        match message {
            Message::Command(command) => match command {
                Command::Configure { vips, storage_ports, spared_ports, service_ports, hold } => {
                    self.watch.interfaces(vips.iter().map(|v| v.interface.clone()));
                    self.storage.configure(storage_ports, spared_ports, events);
                    self.hosting.configure(vips, service_ports, hold.map(|h| *h), events);
                }
                Command::SetEvicted { epoch, addresses } => self.storage.set_evicted(epoch, addresses, events),
                Command::Kick { addresses } => self.storage.kick(&addresses, events),
                Command::FreeStorage { addresses } => self.storage.free(&addresses, events),
                Command::Shut { ports, longest } => self.hosting.shut(&ports, longest),
                Command::Reopen => self.hosting.reopen(),
                Command::Probe { addr } => self.probe(addr),
                Command::Announce { addr } => self.hosting.announce_again(|vip| vip.addr == addr),
                Command::ListConnections => self.hosting.list_connections(events),
                Command::Clients { addr, clients } => self.hosting.clients(addr, clients),
                // These were sorted out before they got here.
                Command::Take { addr } => self.hosting.take(&[addr], events),
                Command::Release { addr } => self.hosting.release(&[addr], events),
                Command::Renew { until } => self.hosting.renew(until, events),
                Command::LeaseLost => self.hosting.lease_lost(events),
                Command::Told { addrs } => self.hosting.told(&addrs, events),
                Command::Shutdown => {}
            },
            Message::News(News::Interface { name, up }) => {
                let up = up || !self.hosting.parts.link;
                if up {
                    // Whatever is behind it may have changed, so it hears of our addresses.
                    self.hosting.announce_again(|vip| vip.interface == name);
                }
                events(Event::Interface { name, up });
            }
            Message::News(News::AddressesChanged) => self.hosting.recheck(events),
            Message::Probed { addr, outcome } => events(match outcome {
                Ok(Some(mac)) => Event::Conflict { addr, mac },
                Ok(None) => Event::NoConflict { addr },
                Err(e) => Event::ProbeFailed { addr, why: e.to_string() },
            }),
        }
    }

    /// Listens for somebody else in a thread of its own.
    fn probe(&mut self, addr: IpAddr) {
        let link = match self.hosting.link_of(addr) {
            Ok(link) => link,
            Err(e) => {
                return (self.events)(Event::ProbeFailed { addr, why: e.to_string() });
            }
        };
        let answers = self.queue.clone();
        let spawned = std::thread::Builder::new().name("net-probe".to_owned()).spawn(move || {
            let outcome = probe::duplicate(&link, addr, probe::WINDOW);
            // Fails only when the worker has ended and nobody wants to know.
            let _ = answers.send(Message::Probed { addr, outcome });
        });
        if let Err(e) = spawned {
            (self.events)(Event::ProbeFailed { addr, why: format!("starting a thread: {e}") });
        }
    }

    fn recheck(&mut self) {
        self.hosting.recheck(&self.events);
        self.storage.recheck();
    }

    fn shutdown(mut self) {
        self.hosting.shutdown(&self.events);
        self.storage.shutdown();
    }
}

/// A name for a report about a stall.
fn what(message: &Message) -> &'static str {
    match message {
        Message::Command(command) => match command {
            Command::Configure { .. } => "a change of configuration",
            Command::Take { .. } => "a takeover",
            Command::Release { .. } => "a release",
            Command::SetEvicted { .. } => "an eviction",
            Command::Kick { .. } => "a kick",
            Command::FreeStorage { .. } => "the freeing of the storage",
            _ => "an order",
        },
        Message::News(_) => "a change of the network",
        Message::Probed { .. } => "a probe's answer",
    }
}
