//! What waits to be sent over a link: two lanes, each bounded in bytes.
//!
//! A peer that does not read fast enough loses its link, and with it everything queued: the cluster's state is sent
//! again over the next one. So a slow peer holds up nobody and costs bounded memory. Bulk waits for everything else,
//! and goes in pieces, so that nothing else waits for it.

use super::frame::{self, PIECE};
use super::{Counters, MAX_BULK};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{Notify, mpsc};

const MAX_FRAMES: usize = 4096;
const MAX_BYTES: usize = 8 << 20;
const MAX_WAITING_BULK: usize = 512 << 20;
/// What each piece of bulk costs beside its bytes: many small ones are bounded too.
const BULK_COST: usize = 64;

/// Frames that go together with the first at most.
const TOGETHER: usize = 16;

/// Bytes of another part of the daemon that can wait.
#[derive(Debug)]
pub(super) struct Bulk {
    pub(super) channel: u8,
    pub(super) bytes: Vec<u8>,
}

impl Bulk {
    fn cost(&self) -> usize {
        self.bytes.len() + BULK_COST
    }
}

/// The sending end.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    frames: mpsc::Sender<Vec<u8>>,
    bulk: mpsc::UnboundedSender<Bulk>,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    bulk: AtomicUsize,
    closed: AtomicBool,
    wake: Notify,
}

/// The link's end.
#[derive(Debug)]
pub(super) struct Queued {
    frames: mpsc::Receiver<Vec<u8>>,
    bulk: mpsc::UnboundedReceiver<Bulk>,
    /// Bulk that is being sent, and how much of it has been.
    begun: Option<(Bulk, usize)>,
    shared: Arc<Shared>,
}

/// Resolves when the link is to end.
#[derive(Debug)]
pub(super) struct Closed {
    shared: Arc<Shared>,
}

pub(super) fn queue(counters: Arc<Counters>) -> (Queue, Queued, Closed) {
    let (sender, receiver) = mpsc::channel(MAX_FRAMES);
    let (bulk, bulk_queued) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    (
        Queue { frames: sender, bulk, shared: Arc::clone(&shared), counters },
        Queued { frames: receiver, bulk: bulk_queued, begun: None, shared: Arc::clone(&shared) },
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
        self.overflow()
    }

    /// As [`Queue::push`], in the lane that waits.
    pub(super) fn push_bulk(&self, bulk: Bulk) -> bool {
        if self.shared.closed.load(Ordering::Acquire) {
            return false;
        }
        if bulk.bytes.len() > MAX_BULK {
            tracing::error!(
                channel = bulk.channel,
                "{} bytes cannot be sent as one, {MAX_BULK} are the limit: the link ends",
                bulk.bytes.len()
            );
            return self.overflow();
        }
        let cost = bulk.cost();
        let before = self.shared.bulk.fetch_add(cost, Ordering::AcqRel);
        if before + cost <= MAX_WAITING_BULK && self.bulk.send(bulk).is_ok() {
            return true;
        }
        self.overflow()
    }

    fn overflow(&self) -> bool {
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
    /// Waits until something is to be sent, and appends it: a frame that is not bulk if there is one, else a piece of
    /// bulk. False when nobody can queue any more. Can be given up at any time.
    pub(super) async fn next(&mut self, out: &mut Vec<u8>) -> bool {
        if self.begun.is_some() {
            if !self.frame(out) {
                self.piece(out);
            }
            return true;
        }
        tokio::select! {
            biased;
            Some(frame) = self.frames.recv() => {
                self.shared.bytes.fetch_sub(frame.len(), Ordering::AcqRel);
                out.extend_from_slice(&frame);
            }
            Some(bulk) = self.bulk.recv() => {
                self.begun = Some((bulk, 0));
                self.piece(out);
            }
            else => return false,
        }
        true
    }

    /// Appends what is there already and goes along: frames first, then bulk while `out` is shorter than a piece.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>) {
        for _ in 0..TOGETHER {
            if !self.frame(out) {
                break;
            }
        }
        while out.len() < PIECE {
            if self.begun.is_none() {
                let Ok(bulk) = self.bulk.try_recv() else { return };
                self.begun = Some((bulk, 0));
            }
            self.piece(out);
        }
    }

    fn frame(&mut self, out: &mut Vec<u8>) -> bool {
        let Ok(frame) = self.frames.try_recv() else { return false };
        self.shared.bytes.fetch_sub(frame.len(), Ordering::AcqRel);
        out.extend_from_slice(&frame);
        true
    }

    fn piece(&mut self, out: &mut Vec<u8>) {
        let Some((bulk, sent)) = &mut self.begun else { return };
        let end = bulk.bytes.len().min(*sent + PIECE);
        frame::put_bulk(bulk.channel, &bulk.bytes[*sent..end], end < bulk.bytes.len(), out);
        *sent = end;
        if end == bulk.bytes.len() {
            self.shared.bulk.fetch_sub(bulk.cost(), Ordering::AcqRel);
            self.begun = None;
        }
    }
}

impl Closed {
    pub(super) async fn wait(&self) {
        while !self.shared.closed.load(Ordering::Acquire) {
            self.shared.wake.notified().await;
        }
    }
}
