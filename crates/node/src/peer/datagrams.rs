//! Heartbeats and grants: sealed datagrams on every network.
//!
//! They are sent from the caller's thread and received by one thread of their own, so neither waits for TLS links,
//! disks or the async runtime. Once the sockets are open nothing is allocated for them.

use super::shared::{Counters, Shared, Site};
use super::wire::{self, Word};
use super::{PeerError, PeerEvent, seal, socket};
use crate::guard::SealedWord;
use crate::sync::locked;
use arrayvec::ArrayVec;
use cluster::{Grant, GuardWord, Heartbeat, Pnn};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

/// Datagrams taken from one socket before the others get their turn.
const BATCH: usize = 64;
/// The receiving thread does little.
const STACK: usize = 256 << 10;

/// What is sealed. Not on the heap: nothing is allocated for heartbeats.
type Plain = ArrayVec<u8, { wire::MAX_WORD }>;

/// One per own address: socket i is network i.
type Sockets = Arc<Vec<Arc<UdpSocket>>>;

/// The sockets and the thread.
#[derive(Debug)]
pub(super) struct Datagrams {
    shared: Arc<Shared>,
    inner: Arc<Inner>,
    wake: UnixStream,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    sockets: Mutex<Sockets>,
    stopped: AtomicBool,
}

impl Datagrams {
    pub(super) fn start(shared: Arc<Shared>, sockets: Vec<Arc<UdpSocket>>) -> Result<Self, PeerError> {
        let (wake, woken) = UnixStream::pair().map_err(PeerError::Receiver)?;
        wake.set_nonblocking(true).map_err(PeerError::Receiver)?;
        woken.set_nonblocking(true).map_err(PeerError::Receiver)?;
        let inner = Arc::new(Inner { sockets: Mutex::new(Arc::new(sockets)), stopped: AtomicBool::new(false) });
        let (shared2, inner2) = (Arc::clone(&shared), Arc::clone(&inner));
        let thread = Builder::new()
            .name("sf-heartbeats".into())
            .stack_size(STACK)
            .spawn(move || {
                crate::priority::realtime();
                receive(&shared2, &inner2, &woken);
            })
            .map_err(PeerError::Receiver)?;
        Ok(Self { shared, inner, wake, thread: Mutex::new(Some(thread)) })
    }

    /// The sockets in force.
    pub(super) fn sockets(&self) -> Vec<Arc<UdpSocket>> {
        locked(&self.inner.sockets).as_ref().clone()
    }

    /// Others from now on.
    pub(super) fn replace(&self, sockets: Vec<Arc<UdpSocket>>) {
        *locked(&self.inner.sockets) = Arc::new(sockets);
        self.wake();
    }

    pub(super) fn stop(&self) {
        self.inner.stopped.store(true, Ordering::Release);
        self.wake();
        let thread = locked(&self.thread).take();
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the thread that receives heartbeats had panicked");
        }
    }

    fn wake(&self) {
        // A full pipe wakes as well.
        if let Err(error) = (&self.wake).write(&[1])
            && error.kind() != ErrorKind::WouldBlock
        {
            tracing::error!(%error, "cannot wake the thread that receives heartbeats");
        }
    }

    pub(super) fn send_heartbeat(&self, to: Pnn, heartbeat: &Heartbeat) {
        let mut plain = Plain::new();
        wire::put_heartbeat(heartbeat, &mut plain);
        self.send(to, None, &plain);
    }

    pub(super) fn send_grant(&self, to: Pnn, net: u8, grant: &Grant) {
        let mut plain = Plain::new();
        wire::put_grant(grant, &mut plain);
        self.send(to, Some(net), &plain);
    }

    /// What a guard sends for this node when its daemon is dead. Sealed with the keys of now: a receiver takes it as
    /// long as these are in force and it is no more than 1000 datagrams old.
    pub(super) fn seal_guard(&self, word: &GuardWord) -> Vec<SealedWord> {
        let mut plain = Plain::new();
        wire::put_guard(word, &mut plain);
        let site = self.shared.site();
        let Some(own) = site.nodes.get(&self.shared.me) else { return Vec::new() };
        let mut sealed = Vec::new();
        for (peer, node) in site.nodes.iter().filter(|(peer, _)| **peer != self.shared.me) {
            let Some(key) = self.shared.keys.sending(*peer) else { continue };
            for (net, (from, to)) in (0u8..).zip(own.addresses.iter().zip(&node.addresses)) {
                match key.seal(net, &plain) {
                    Ok(bytes) => {
                        let to = SocketAddr::new(*to, self.shared.port);
                        sealed.push(SealedWord { from: *from, to, bytes: bytes.to_vec() });
                    }
                    Err(error) => tracing::warn!(%peer, "the guard's word cannot be sealed: {error}"),
                }
            }
        }
        sealed
    }

    fn send(&self, to: Pnn, net: Option<u8>, plain: &[u8]) {
        let (Some(key), site) = (self.shared.keys.sending(to), self.shared.site()) else {
            Counters::add(&self.shared.counters.unsent_datagrams);
            return;
        };
        let Some(peer) = site.nodes.get(&to) else { return };
        let sockets = Arc::clone(&locked(&self.inner.sockets));
        let networks = (0u8..).zip(sockets.iter()).zip(&peer.addresses);
        for ((i, socket), address) in networks.filter(|((i, _), _)| net.is_none_or(|net| net == *i)) {
            let to = SocketAddr::new(*address, self.shared.port);
            let sent = match key.seal(i, plain) {
                Ok(datagram) => socket.send_to(&datagram, to).map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = sent {
                Counters::add(&self.shared.counters.unsent_datagrams);
                if let Some(kept_back) = self.shared.losses.pass(to.ip(), Instant::now()) {
                    tracing::warn!(%to, kept_back, "cannot send a heartbeat: {error}");
                }
            }
        }
    }
}

/// The sockets that a nodes list asks for; those that are open already stay open.
pub(super) fn open(
    me: Pnn,
    port: u16,
    site: &Site,
    before: &[Arc<UdpSocket>],
) -> Result<Vec<Arc<UdpSocket>>, PeerError> {
    let node = site.nodes.get(&me).ok_or(PeerError::NotListed(me))?;
    let open = |ip: &IpAddr| {
        let address = SocketAddr::new(*ip, port);
        let same = before.iter().find(|s| s.local_addr().is_ok_and(|bound| bound == address));
        same.map_or_else(|| socket::datagrams(address).map(Arc::new), |socket| Ok(Arc::clone(socket)))
    };
    node.addresses.iter().map(open).collect()
}

fn receive(shared: &Shared, inner: &Inner, mut woken: &UnixStream) {
    let mut buffer = [0; seal::MAX_DATAGRAM + 1];
    while !inner.stopped.load(Ordering::Acquire) {
        let sockets = Arc::clone(&locked(&inner.sockets));
        let waker = [PollFd::new(woken, PollFlags::IN)];
        let mut waiting: Vec<PollFd<'_>> =
            waker.into_iter().chain(sockets.iter().map(|s| PollFd::new(&**s, PollFlags::IN))).collect();
        // Until there are other sockets, or the end has come.
        while waiting[0].revents().is_empty() {
            match poll(&mut waiting, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for heartbeats");
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
            let ready = waiting.iter().skip(1).map(|fd| !fd.revents().is_empty());
            for ((net, socket), _) in (0u8..).zip(sockets.iter()).zip(ready).filter(|(_, ready)| *ready) {
                drain(shared, inner, net, socket, &mut buffer);
            }
        }
        // Only drains it; what it stands for is looked at above.
        let _ = woken.read(&mut [0; 64]);
    }
}

fn drain(shared: &Shared, inner: &Inner, net: u8, socket: &UdpSocket, buffer: &mut [u8]) {
    for _ in 0..BATCH {
        let (length, from) = match socket.recv_from(buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            // ICMP errors of earlier sends come up here; sending reports them.
            Err(_) => continue,
        };
        if inner.stopped.load(Ordering::Acquire) {
            return;
        }
        let Some(datagram) = buffer.get_mut(..length.min(seal::MAX_DATAGRAM)) else {
            continue;
        };
        let Some(id) = seal::key_id(datagram) else {
            shared.drop_datagram(from.ip(), "it is no heartbeat");
            continue;
        };
        let Some((peer, plain)) = shared.keys.open(id, net, datagram, Instant::now()) else {
            shared.drop_datagram(from.ip(), "sealed with an unknown key, changed on the way, or a replay");
            continue;
        };
        match wire::read(plain) {
            Some(Word::Heartbeat(heartbeat)) => {
                // Links are on the first network.
                if net == 0
                    && let Some(slot) = shared.slot(peer)
                {
                    slot.heard(Instant::now());
                }
                (shared.events)(PeerEvent::Heartbeat { from: peer, net, heartbeat });
            }
            Some(Word::Grant(grant)) => (shared.events)(PeerEvent::Grant { from: peer, grant }),
            Some(Word::Guard(word)) => (shared.events)(PeerEvent::Guard { from: peer, word }),
            Some(Word::Unknown) => {}
            None => shared.drop_datagram(from.ip(), "its content makes no sense"),
        }
    }
}
