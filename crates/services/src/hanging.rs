//! Whether the shared mount answers, and the end of what hangs in it, for the sake of addresses that leave this node.
//!
//! smbd writes by way of the mount. What it has given to a mount that hangs is with the mount's client process, which outlives
//! smbd and carries it out when the storage answers again: after what the clients have written by their new server. This is
//! asked beside the coordinator, which may wait for that very mount.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::seam::Storage;

/// Answered when it is so; or why not.
pub type Answer = oneshot::Sender<Result<(), String>>;

/// What the daemon asks before an address leaves by plan, and after.
#[derive(Debug)]
pub enum Ask {
    /// Does what smbd gives to the shared mount come to an end, within that time? So too where smbd is not served.
    Prove(Duration, Answer),
    /// Something hangs: nothing of what the NFS server and a mount that does not answer have in hand shall be carried out
    /// any more.
    End(Answer),
}

/// A mount is asked again when it was found to hang longer ago than this; and who does not answer within it hangs.
const SILENT: Duration = Duration::from_secs(1);

/// The mount's part of it.
pub(crate) struct Hanging<S> {
    storage: Arc<S>,
    asks: mpsc::UnboundedReceiver<Ask>,
    /// When it was last found not to answer.
    silent: Option<Instant>,
}

impl<S: Storage> Hanging<S> {
    pub(crate) fn new(storage: Arc<S>, asks: mpsc::UnboundedReceiver<Ask>) -> Self {
        Self { storage, asks, silent: None }
    }

    /// Answers one after the other until nobody can ask any more. Who asked may have ended meanwhile.
    pub(crate) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            match ask {
                Ask::Prove(within, answer) => {
                    let found = self.storage.answers(within).await;
                    self.silent = found.is_err().then(Instant::now);
                    drop(answer.send(found));
                }
                Ask::End(answer) => drop(answer.send(self.end().await)),
            }
        }
    }

    /// Never a mount that answers: others use it.
    async fn end(&mut self) -> Result<(), String> {
        let known = self.silent.take().is_some_and(|at| at.elapsed() < SILENT);
        if !known && self.storage.answers(SILENT).await.is_ok() {
            return Ok(());
        }
        self.storage.end().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Answers or not; counts how often it was asked, and ended.
    #[derive(Default)]
    struct Fake {
        hangs: bool,
        asked: AtomicU32,
        ended: AtomicU32,
    }

    impl Storage for Fake {
        type Error = Infallible;

        async fn ensure_mounted(&self) -> Result<(), Infallible> {
            Ok(())
        }

        async fn unmount(&self) -> Result<(), Infallible> {
            Ok(())
        }

        async fn answers(&self, _: Duration) -> Result<(), String> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.hangs { Err("it does not answer".to_owned()) } else { Ok(()) }
        }

        async fn end(&self) -> Result<(), String> {
            self.ended.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        async fn watch(&self, _: mpsc::Sender<Report>) -> String {
            std::future::pending().await
        }
    }

    /// Asks, and what came of it: how often the storage was asked, and ended.
    async fn asks(hangs: bool, prove: bool) -> (Option<Result<(), String>>, u32, u32) {
        let storage = Arc::new(Fake { hangs, ..Fake::default() });
        let (sender, asks) = mpsc::unbounded_channel();
        let (proved, proof) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        if prove {
            sender.send(Ask::Prove(SILENT, proved)).unwrap();
        }
        sender.send(Ask::End(ended)).unwrap();
        drop(sender);
        Hanging::new(Arc::clone(&storage), asks).run().await;
        end.await.unwrap().unwrap();
        let proof = if prove { Some(proof.await.unwrap()) } else { None };
        (proof, storage.asked.load(Ordering::Relaxed), storage.ended.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn only_a_mount_that_does_not_answer_is_ended() {
        assert_eq!(asks(false, true).await, (Some(Ok(())), 2, 0));
        assert_eq!(asks(false, false).await, (None, 1, 0));
        assert_eq!(asks(true, false).await, (None, 1, 1));
    }

    #[tokio::test]
    async fn one_that_was_found_to_hang_a_moment_ago_is_not_asked_again() {
        let (proof, asked, ended) = asks(true, true).await;
        assert!(proof.unwrap().is_err());
        assert_eq!((asked, ended), (1, 1));
    }
}
