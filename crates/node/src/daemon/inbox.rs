//! What waits for the core: one queue into which all sides put, none of them waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use cluster::{AdminReply, AdminRequest, Input};
use tokio::sync::oneshot;

/// Heartbeats and grants beyond this are dropped: they are out of date, and the next ones are better.
const DATAGRAMS: usize = 4096;
/// Messages beyond this are dropped; the peers send their state again every refresh.
const MESSAGES: usize = 32_768;

/// Something for the core's thread.
#[derive(Debug)]
pub(crate) enum Item {
    /// For the core as it is.
    Input(Input),
    /// A request with somebody who waits for its answer.
    Admin { request: AdminRequest, reply: oneshot::Sender<AdminReply> },
    /// From the network worker.
    Net(net::Event),
    /// Orders to the network worker from another thread, in line with the core's own.
    ToNet(net::Command),
}

/// Puts things in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    queue: Sender<Item>,
    depth: Arc<AtomicUsize>,
}

/// Takes them out.
#[derive(Debug)]
pub(crate) struct Outlet {
    queue: Receiver<Item>,
    depth: Arc<AtomicUsize>,
}

/// A new queue.
pub(crate) fn inbox() -> (Inbox, Outlet) {
    let (sender, receiver) = mpsc::channel();
    let depth = Arc::new(AtomicUsize::new(0));
    (Inbox { queue: sender, depth: Arc::clone(&depth) }, Outlet { queue: receiver, depth })
}

impl Inbox {
    /// Puts an input in; false if it was dropped, for the queue is too long. A core that has ended needs nothing.
    pub(crate) fn input(&self, input: Input) -> bool {
        let limit = match input {
            Input::Heartbeat { .. } | Input::Grant { .. } => DATAGRAMS,
            Input::Message { .. } => MESSAGES,
            _ => usize::MAX,
        };
        if self.depth.load(Ordering::Relaxed) >= limit {
            return false;
        }
        self.put(Item::Input(input));
        true
    }

    /// Puts anything in; false if the core has ended.
    pub(crate) fn put(&self, item: Item) -> bool {
        self.depth.fetch_add(1, Ordering::Relaxed);
        self.queue.send(item).is_ok()
    }

    /// Asks the core on behalf of an administrator.
    pub(crate) fn admin(&self, request: AdminRequest) -> oneshot::Receiver<AdminReply> {
        let (reply, answer) = oneshot::channel();
        self.put(Item::Admin { request, reply });
        answer
    }
}

/// Nobody can put anything in any more.
#[derive(Debug)]
pub(crate) struct Closed;

impl Outlet {
    /// The next item, if one comes within `wait`.
    pub(crate) fn next(&self, wait: Duration) -> Result<Option<Item>, Closed> {
        let item = if wait.is_zero() {
            self.queue.try_recv().map_err(|e| matches!(e, TryRecvError::Disconnected))
        } else {
            self.queue.recv_timeout(wait).map_err(|e| matches!(e, RecvTimeoutError::Disconnected))
        };
        match item {
            Ok(item) => {
                self.depth.fetch_sub(1, Ordering::Relaxed);
                Ok(Some(item))
            }
            Err(false) => Ok(None),
            Err(true) => Err(Closed),
        }
    }
}
