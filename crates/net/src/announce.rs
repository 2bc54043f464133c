//! Announcing a taken address: gratuitous ARP in both forms (RFC 5227, 3) or unsolicited neighbour advertisements (RFC
//! 4861, 7.2.6), at 0, 0.1, 0.5, 1, 3 and 10 seconds: the first ones for speed, the later ones for switches and hosts
//! that were not listening. Right behind the first one come the tickles for the connections that the address had on
//! another node, and again at 0.6 and 2 seconds.
//!
//! A thread of its own sends them, so that nothing waits for a full device queue. Packet sockets pass by the gate: each
//! frame goes out only while the address is held and the lease lasts by the clock. Thousands of tickles of one address
//! do not keep another's announcement waiting: they go out in batches.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::BootTime;
use crate::command::{ClientConnection, Mac};
use crate::error::{Error, Result};
use crate::frames;
use crate::link::Link;
use crate::packet::PacketSocket;
use crate::tickle::Tickler;
use crate::worker::Parts;

/// When announcements go out, in milliseconds after the address was taken.
pub const SCHEDULE_MS: [u64; 6] = [0, 100, 500, 1000, 3000, 10_000];

/// When tickles go out, in milliseconds after the address was taken. A client answers one in 500 ms, and may not hear
/// the first.
pub const TICKLES_MS: [u64; 3] = [0, 600, 2000];

/// Tickles that go out in one go, before the thread looks for something more urgent: about a millisecond.
const BATCH: usize = 256;

/// The end of the node lease, readable from every thread; 0 is none.
#[derive(Clone, Debug, Default)]
pub struct SharedLease(Arc<AtomicU64>);

impl SharedLease {
    /// Says when the lease ends now.
    pub fn set(&self, until: Option<BootTime>) {
        self.0.store(until.map_or(0, |t| t.0), Ordering::Release);
    }

    /// The lease lasts at this moment.
    pub fn lasts(&self) -> bool {
        BootTime::now().0 < self.0.load(Ordering::Acquire)
    }
}

/// One address being announced.
#[derive(Debug)]
struct Announcement {
    addr: IpAddr,
    mac: Mac,
    socket: Arc<PacketSocket>,
    started: Instant,
    sent: usize,
    live: Arc<AtomicBool>,
}

/// The connections that an address had on another node.
#[derive(Debug)]
struct Tickling {
    addr: IpAddr,
    clients: Arc<[ClientConnection]>,
    started: Instant,
    /// Rounds that are over.
    rounds: usize,
    /// First one that has not been tickled in this round.
    next: usize,
    tickler: Tickler,
    live: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Job {
    Announce(Announcement),
    Tickle(Tickling),
}

/// Sends announcements and tickles from its own thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Announcer {
    queue: Option<Sender<Job>>,
    live: Vec<(IpAddr, Arc<AtomicBool>)>,
    /// One for each interface's number, while it is in use: the kernel takes its time to close one, and hundreds of
    /// addresses are announced at once.
    sockets: Vec<(u32, Weak<PacketSocket>)>,
    thread: Option<JoinHandle<()>>,
    parts: Parts,
}

impl Announcer {
    /// Starts the thread. It says nothing of what `parts` leaves out.
    pub fn start(lease: SharedLease, parts: Parts) -> Result<Self> {
        let (queue, news) = channel();
        let thread = std::thread::Builder::new()
            .name("net-announce".to_owned())
            .spawn(move || run(&news, &lease))
            .map_err(|e| Error::io("starting the announcing thread", e))?;
        Ok(Self { queue: Some(queue), live: Vec::new(), sockets: Vec::new(), thread: Some(thread), parts })
    }

    /// Announces an address on its interface from now on, afresh if it is being announced. Does nothing on
    /// interfaces without neighbours.
    pub fn announce(&mut self, addr: IpAddr, link: &Link) -> Result<()> {
        if !self.parts.announce {
            return Ok(());
        }
        let live = self.live(addr);
        let (true, Some(mac)) = (link.has_neighbours(), link.mac) else {
            return Ok(());
        };
        let socket = self.socket(link)?;
        self.send(Job::Announce(Announcement { addr, mac, socket, started: Instant::now(), sent: 0, live }))
    }

    /// Tickles the clients of connections that the address had on another node, at once and again later.
    pub fn tickle(&mut self, addr: IpAddr, clients: Arc<[ClientConnection]>) -> Result<()> {
        if !self.parts.tickle {
            return Ok(());
        }
        let (live, tickler) = (self.live(addr), Tickler::open(addr)?);
        let started = Instant::now();
        self.send(Job::Tickle(Tickling { addr, clients, started, rounds: 0, next: 0, tickler, live }))
    }

    /// No more announcements and tickles of this address.
    pub fn stop(&mut self, addr: IpAddr) {
        self.live.retain(|(a, live)| {
            if *a == addr {
                live.store(false, Ordering::Release);
            }
            *a != addr
        });
    }

    fn socket(&mut self, link: &Link) -> Result<Arc<PacketSocket>> {
        self.sockets.retain(|(_, socket)| socket.strong_count() > 0);
        let open = self.sockets.iter().find(|(index, _)| *index == link.index).and_then(|(_, socket)| socket.upgrade());
        if let Some(socket) = open {
            return Ok(socket);
        }
        let socket = Arc::new(PacketSocket::sender(link)?);
        self.sockets.push((link.index, Arc::downgrade(&socket)));
        Ok(socket)
    }

    fn live(&mut self, addr: IpAddr) -> Arc<AtomicBool> {
        if let Some((_, live)) = self.live.iter().find(|(a, _)| *a == addr) {
            return Arc::clone(live);
        }
        let live = Arc::new(AtomicBool::new(true));
        self.live.push((addr, Arc::clone(&live)));
        live
    }

    fn send(&self, job: Job) -> Result<()> {
        let gone = || Error::Invalid("the announcing thread has ended".to_owned());
        self.queue.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        for (_, live) in &self.live {
            live.store(false, Ordering::Release);
        }
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(news: &Receiver<Job>, lease: &SharedLease) {
    let mut announcing: Vec<Announcement> = Vec::new();
    let mut tickling: Vec<Tickling> = Vec::new();
    loop {
        let now = Instant::now();
        announcing.retain_mut(|a| step(a, now, lease));
        tickling.retain_mut(|t| batch(t, now, lease));
        let next = announcing.iter().filter_map(due).chain(tickling.iter().filter_map(due_tickle)).min();
        let received = match next {
            Some(at) => news.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(Job::Announce(one)) => {
                announcing.retain(|a| a.addr != one.addr);
                announcing.push(one);
            }
            Ok(Job::Tickle(one)) => tickling.push(one),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn due_tickle(t: &Tickling) -> Option<Instant> {
    TICKLES_MS.get(t.rounds).map(|&ms| t.started + Duration::from_millis(ms))
}

/// Tickles a batch of the round that is due; false when there is nothing left to send.
fn batch(t: &mut Tickling, now: Instant, lease: &SharedLease) -> bool {
    if !t.live.load(Ordering::Acquire) {
        return false;
    }
    if due_tickle(t).is_some_and(|at| at <= now) {
        let end = t.clients.len().min(t.next + BATCH);
        if lease.lasts() {
            t.tickler.send(&t.clients[t.next..end]);
        }
        t.next = end;
        if end == t.clients.len() {
            if t.rounds == 0 {
                let took = t.started.elapsed();
                tracing::info!(addr = %t.addr, "{end} connections tickled within {} µs", took.as_micros());
            }
            t.rounds += 1;
            t.next = 0;
        }
    }
    due_tickle(t).is_some()
}

fn due(a: &Announcement) -> Option<Instant> {
    SCHEDULE_MS.get(a.sent).map(|&ms| a.started + Duration::from_millis(ms))
}

/// Sends what is due; false when there is nothing left to send.
fn step(a: &mut Announcement, now: Instant, lease: &SharedLease) -> bool {
    while due(a).is_some_and(|at| at <= now) {
        if !a.live.load(Ordering::Acquire) {
            return false;
        }
        a.sent += 1;
        // Held, but the renewal is late: silence now, and perhaps not at the next step.
        if !lease.lasts() {
            continue;
        }
        let frames = match a.addr {
            IpAddr::V4(v4) => vec![frames::announce_request(a.mac, v4), frames::announce_reply(a.mac, v4)],
            IpAddr::V6(v6) => vec![frames::advertisement(a.mac, v6)],
        };
        for frame in frames {
            if let Err(error) = a.socket.send(&frame) {
                // The interface went down or its queue is full: the next step of the schedule tries again.
                tracing::warn!(addr = %a.addr, %error, "announcement not sent");
            }
        }
    }
    a.live.load(Ordering::Acquire) && due(a).is_some()
}
