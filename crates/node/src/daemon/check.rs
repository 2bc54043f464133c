//! `check-storage` between the nodes: the node that was asked leads, the others execute in helpers of theirs.
//!
//! Questions and answers are JSON on a channel of the peer links of its own. A helper that was not asked for
//! [`IDLE`] ends, and gives back what it has locked and open.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::Pnn;
use serde::{Deserialize, Serialize};
use services::storage::HelperCommand;
use services::storage::check::{Call, CheckReport, ChildPeer, Op, Outcome, Peer, PeerError, Plan};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::peer::Peers;

/// Channel of the peer links.
pub(crate) const CHANNEL: u8 = 1;
/// Life of a helper without a question; longer than the longest operation.
const IDLE: Duration = Duration::from_secs(150);
/// Questions of one peer that may wait.
const QUEUE: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Frame {
    Ask { id: u64, op: Op, deadline_ms: u64 },
    Answer { id: u64, result: Result<Outcome, String> },
}

/// A peer's question: its number, what to do, and the time for it.
type Asked = (u64, Op, Duration);

/// Both sides of it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    peers: Peers,
    /// The daemon's runtime: frames come in on threads of the links.
    runtime: tokio::runtime::Handle,
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<Result<Outcome, String>>>>,
    serving: Mutex<BTreeMap<Pnn, mpsc::Sender<Asked>>>,
    mount: Mutex<Option<PathBuf>>,
    /// One check at a time: two would see each other's files.
    running: tokio::sync::Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Checks {
    pub(crate) fn new(peers: Peers, runtime: tokio::runtime::Handle) -> Self {
        Self {
            inner: Arc::new(Inner {
                peers,
                runtime,
                next: AtomicU64::new(1),
                waiting: Mutex::default(),
                serving: Mutex::default(),
                mount: Mutex::default(),
                running: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// Where the shared filesystem is, if there is one.
    pub(crate) fn set_mount(&self, mount: Option<PathBuf>) {
        *lock(&self.inner.mount) = mount;
    }

    /// Takes a frame of a peer; never blocks.
    pub(crate) fn frame(&self, from: Pnn, bytes: &[u8]) {
        match serde_json::from_slice(bytes) {
            Ok(Frame::Answer { id, result }) => {
                if let Some(waiting) = lock(&self.inner.waiting).remove(&id) {
                    // Who asked may have given up.
                    let _ = waiting.send(result);
                }
            }
            Ok(Frame::Ask { id, op, deadline_ms }) => {
                let deadline = Duration::from_millis(deadline_ms.min(600_000));
                if let Err(why) = self.serve(from, (id, op, deadline)) {
                    self.answer(from, id, Err(why));
                }
            }
            Err(error) => tracing::warn!(node = from.0, "an unreadable frame of a storage check: {error}"),
        }
    }

    fn answer(&self, to: Pnn, id: u64, result: Result<Outcome, String>) {
        if let Ok(bytes) = serde_json::to_vec(&Frame::Answer { id, result }) {
            // Without a link the peer's question fails there.
            self.inner.peers.send_bytes(to, CHANNEL, &bytes);
        }
    }

    fn serve(&self, from: Pnn, ask: Asked) -> Result<(), String> {
        let mut serving = lock(&self.inner.serving);
        let ask = match serving.get(&from) {
            None => ask,
            Some(queue) => match queue.try_send(ask) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err("too many questions at once".to_owned());
                }
                Err(mpsc::error::TrySendError::Closed(ask)) => ask,
            },
        };
        let Some(mount) = lock(&self.inner.mount).clone() else {
            return Err("no shared storage is configured here".to_owned());
        };
        let (queue, mut asks) = mpsc::channel(QUEUE);
        // The channel is new and has room.
        let _ = queue.try_send(ask);
        serving.insert(from, queue);
        let checks = self.clone();
        self.inner.runtime.spawn(async move {
            let child = ChildPeer::new("this node", &HelperCommand::this_program(), &mount);
            while let Ok(Some((id, op, deadline))) = timeout(IDLE, asks.recv()).await {
                let result = child.call(op, deadline).await.map_err(|e| e.why);
                checks.answer(from, id, result);
            }
        });
        Ok(())
    }

    /// Runs the check from here between this node and `others`.
    ///
    /// # Errors
    /// There is nothing to check, or a check runs already.
    pub(crate) async fn run(
        &self,
        me: &str,
        others: Vec<(Pnn, String)>,
        volume: Option<String>,
        increments: Option<u32>,
    ) -> Result<CheckReport, String> {
        let Ok(_one) = self.inner.running.try_lock() else {
            return Err("a storage check is running on this node already: wait for its end".to_owned());
        };
        let Some(mount) = lock(&self.inner.mount).clone() else {
            return Err("no shared storage is configured: nothing to check ([storage] in the configuration)".to_owned());
        };
        if others.is_empty() {
            return Err("the check needs two nodes at least, and no other member is reachable now".to_owned());
        }
        let mut plan = Plan::default();
        if let Some(volume) = volume {
            plan.volume = volume;
        }
        plan.increments = increments.unwrap_or(plan.increments);
        let child = ChildPeer::new(me, &HelperCommand::this_program(), &mount);
        let mut peers: Vec<Arc<dyn Peer>> = vec![Arc::new(child)];
        for (pnn, name) in others {
            peers.push(Arc::new(Remote { checks: self.clone(), pnn, name }));
        }
        Ok(services::storage::check::run(peers, &plan).await)
    }
}

/// Another node of the check.
#[derive(Debug)]
struct Remote {
    checks: Checks,
    pnn: Pnn,
    name: String,
}

impl Peer for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn call(&self, op: Op, deadline: Duration) -> Call<'_> {
        Box::pin(async move {
            let inner = &self.checks.inner;
            let id = inner.next.fetch_add(1, Ordering::Relaxed);
            let error = |why: String| PeerError { node: self.name.clone(), why };
            let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            let bytes = serde_json::to_vec(&Frame::Ask { id, op, deadline_ms }).map_err(|e| error(e.to_string()))?;
            let (sender, answer) = oneshot::channel();
            lock(&inner.waiting).insert(id, sender);
            let sent = inner.peers.send_bytes(self.pnn, CHANNEL, &bytes);
            // The other side's helper has the same deadline; a second for the way.
            let result = match sent {
                true => timeout(deadline + Duration::from_secs(1), answer).await,
                false => Ok(Ok(Err("there is no link to it now".to_owned()))),
            };
            lock(&inner.waiting).remove(&id);
            match result {
                Ok(Ok(result)) => result.map_err(error),
                Ok(Err(_)) => Err(error("this daemon is ending".to_owned())),
                Err(_) => Err(error(format!("no answer within {deadline:?}"))),
            }
        })
    }
}
