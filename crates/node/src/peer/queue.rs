//! What waits to be sent over a link: bounded in frames and bytes.
//!
//! A peer that does not read fast enough loses its link, and with it everything queued: the cluster's state is sent
//! again over the next one. So a slow peer holds up nobody and costs bounded memory.

use super::Counters;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{Notify, mpsc};

const MAX_FRAMES: usize = 4096;
const MAX_BYTES: usize = 8 << 20;

/// The sending end.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    frames: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    closed: AtomicBool,
    wake: Notify,
}

/// The link's end.
#[derive(Debug)]
pub(super) struct Queued {
    frames: mpsc::Receiver<Vec<u8>>,
    shared: Arc<Shared>,
}

/// Resolves when the link is to end.
#[derive(Debug)]
pub(super) struct Closed {
    shared: Arc<Shared>,
}

pub(super) fn queue(counters: Arc<Counters>) -> (Queue, Queued, Closed) {
    let (sender, receiver) = mpsc::channel(MAX_FRAMES);
    let shared = Arc::new(Shared::default());
    (
        Queue { frames: sender, shared: Arc::clone(&shared), counters },
        Queued { frames: receiver, shared: Arc::clone(&shared) },
        Closed { shared },
    )
}

impl Queue {
    /// False if the link is over or ends now since it is too slow.
    pub(super) fn push(&self, frame: Vec<u8>) -> bool {
        if self.shared.closed.load(Ordering::Acquire) {
            return false;
        }
        let length = frame.len();
        let before = self.shared.bytes.fetch_add(length, Ordering::AcqRel);
        if before + length <= MAX_BYTES && self.frames.try_send(frame).is_ok() {
            return true;
        }
        Counters::add(&self.counters.overflowed_links);
        self.close();
        false
    }

    /// The link is to end.
    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Queued {
    /// The next frame; `None` when nobody can queue any more.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.recv().await?;
        self.shared.bytes.fetch_sub(frame.len(), Ordering::AcqRel);
        Some(frame)
    }

    /// Another that is there already.
    pub(super) fn ready(&mut self) -> Option<Vec<u8>> {
        let frame = self.frames.try_recv().ok()?;
        self.shared.bytes.fetch_sub(frame.len(), Ordering::AcqRel);
        Some(frame)
    }
}

impl Closed {
    pub(super) async fn wait(&self) {
        while !self.shared.closed.load(Ordering::Acquire) {
            self.shared.wake.notified().await;
        }
    }
}
