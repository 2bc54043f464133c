//! The place of one peer's link: at most one link at a time, and events in the right order.
//!
//! Everything that ends or replaces a link goes through here under one lock, so the caller sees `up` and `down`
//! strictly in turn, and nothing of a link after its `down`, whatever the tasks of old links still do.

use super::queue::Queue;
use super::{LinkInfo, PeerEvent, Sink};
use crate::sync::locked;
use cluster::Pnn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio_rustls::TlsStream;

/// A peer that was not heard for so long, and is again, can be reached again. Its heartbeats come ten times a second.
const SILENCE: Duration = Duration::from_millis(250);

/// One peer's.
pub(super) struct Slot {
    pub(super) peer: Pnn,
    events: Sink,
    state: Mutex<State>,
    /// When this slot was made, and how many microseconds later the last heartbeat came.
    made: Instant,
    heard: AtomicU64,
    again: Notify,
}

#[derive(Default)]
struct State {
    /// Number of the newest link; what carries an older one is over.
    generation: u64,
    queue: Option<Queue>,
    /// Takes the data links that the peer has dialled, for the link that is up.
    adopt: Option<mpsc::Sender<TlsStream<TcpStream>>>,
    version: String,
    because: String,
    /// The task that dials, if this end does.
    dialer: Option<AbortHandle>,
    closed: bool,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Slot {
    pub(super) fn new(peer: Pnn, events: Sink) -> Self {
        let state = State { because: "not connected yet".into(), ..State::default() };
        Self {
            peer,
            events,
            state: Mutex::new(state),
            made: Instant::now(),
            heard: AtomicU64::new(0),
            again: Notify::new(),
        }
    }

    /// A heartbeat of the peer has come over the network of the links. Takes no lock and allocates nothing.
    pub(super) fn heard(&self, now: Instant) {
        let now = u64::try_from(now.saturating_duration_since(self.made).as_micros()).unwrap_or(u64::MAX);
        let silent = now.saturating_sub(self.heard.swap(now, Ordering::Relaxed));
        if u128::from(silent) >= SILENCE.as_micros() {
            self.again.notify_one();
        }
    }

    /// Waits until the peer is heard after a silence: whoever dials it need not wait any longer.
    pub(super) async fn heard_again(&self) {
        self.again.notified().await;
    }

    /// A link is established; an older one ends. `None` when the peer has left the list meanwhile.
    pub(super) fn up(&self, queue: Queue, adopt: mpsc::Sender<TlsStream<TcpStream>>, version: String) -> Option<u64> {
        let mut state = locked(&self.state);
        if state.closed {
            return None;
        }
        if let Some(old) = state.queue.take() {
            old.close();
            (self.events)(PeerEvent::Link { peer: self.peer, up: false });
        }
        state.generation += 1;
        state.queue = Some(queue);
        state.adopt = Some(adopt);
        state.version = version;
        state.because.clear();
        (self.events)(PeerEvent::Link { peer: self.peer, up: true });
        Some(state.generation)
    }

    /// Link number `generation` is over.
    pub(super) fn down(&self, generation: u64, because: &str) {
        let mut state = locked(&self.state);
        if state.generation == generation && state.queue.take().is_some() {
            state.adopt = None;
            state.because = because.to_owned();
            (self.events)(PeerEvent::Link { peer: self.peer, up: false });
        }
    }

    /// No link came about. True if that is news.
    pub(super) fn failed(&self, because: &str) -> bool {
        let mut state = locked(&self.state);
        if state.queue.is_some() || state.because == because {
            return false;
        }
        state.because = because.to_owned();
        true
    }

    /// Something came over link number `generation`. False if that link is over.
    pub(super) fn deliver(&self, generation: u64, event: PeerEvent) -> bool {
        let state = locked(&self.state);
        let current = state.generation == generation && state.queue.is_some();
        if current {
            (self.events)(event);
        }
        current
    }

    /// Queues a frame. False if there is no link; one that is too slow is closed.
    pub(super) fn send(&self, frame: Vec<u8>) -> bool {
        locked(&self.state).queue.as_ref().is_some_and(|queue| queue.push(frame))
    }

    /// Gives a data link that the peer has dialled to the link that is up. False if there is none, or it has one that
    /// it has not looked at yet.
    pub(super) fn adopt(&self, stream: TlsStream<TcpStream>) -> bool {
        locked(&self.state).adopt.as_ref().is_some_and(|adopt| adopt.try_send(stream).is_ok())
    }

    /// Which task dials; it ends with the slot.
    pub(super) fn dialed_by(&self, task: AbortHandle) {
        let mut state = locked(&self.state);
        if state.closed {
            task.abort();
        }
        state.dialer = Some(task);
    }

    /// For good: the peer left the list, or the daemon ends.
    pub(super) fn close(&self, tell: bool) {
        let mut state = locked(&self.state);
        state.closed = true;
        state.generation += 1;
        state.adopt = None;
        if let Some(task) = state.dialer.take() {
            task.abort();
        }
        if let Some(queue) = state.queue.take() {
            queue.close();
            if tell {
                (self.events)(PeerEvent::Link { peer: self.peer, up: false });
            }
        }
    }

    pub(super) fn info(&self) -> LinkInfo {
        let state = locked(&self.state);
        LinkInfo {
            peer: self.peer,
            up: state.queue.is_some(),
            generation: state.generation,
            version: state.version.clone(),
            because: state.because.clone(),
        }
    }
}
