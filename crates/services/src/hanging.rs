//! Whether the shared mount answers, and the end of what hangs in it, for the sake of addresses that leave this node.
//!
//! smbd writes by way of the mount. What it has given to a mount that hangs is with the mount's client process, which outlives
//! smbd and carries it out when the storage answers again: after what the clients have written by their new server. This is
//! asked beside the coordinator, which may wait for that very mount.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::seam::Storage;

/// Answered when it is so; or why not.
pub type Answer = oneshot::Sender<Result<(), String>>;

/// What the daemon asks before an address leaves by plan, and after.
#[derive(Debug)]
pub enum Ask {
    /// Does what smbd gives to the shared mount come to an end, within that time? So too where smbd is not served.
    Prove(Duration, Answer),
    /// Something hangs: nothing of what a mount that does not answer has in hand shall be carried out any more; nor of what
    /// the NFS server has, unless it has proved just now (`nfs` is false) that it does not hang.
    End { nfs: bool, answer: Answer },
}

/// How long a mount is waited for that has not proved that it answers, before it is ended. With the proof that is as long as
/// its watch waits before it calls it failed: a machine that is busy for a moment loses no mount. What it carries out
/// meanwhile does no harm, for nobody else has the address yet.
const PATIENCE: Duration = Duration::from_secs(1);

/// The mount's part of [`Ask`].
#[derive(Debug)]
pub(crate) enum MountAsk {
    Prove(Duration, Answer),
    End(Answer),
}

/// The task that does it.
pub(crate) struct Hanging<S> {
    storage: Arc<S>,
    asks: mpsc::UnboundedReceiver<MountAsk>,
}

impl<S: Storage> Hanging<S> {
    pub(crate) fn new(storage: Arc<S>, asks: mpsc::UnboundedReceiver<MountAsk>) -> Self {
        Self { storage, asks }
    }

    /// Answers one after the other until nobody can ask any more. Who asked may have ended meanwhile.
    pub(crate) async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            match ask {
                MountAsk::Prove(within, answer) => drop(answer.send(self.storage.answers(within).await)),
                MountAsk::End(answer) => drop(answer.send(self.end().await)),
            }
        }
    }

    /// Never a mount that answers: others use it.
    async fn end(&self) -> Result<(), String> {
        match self.storage.answers(PATIENCE).await {
            Ok(()) => Ok(()),
            Err(_) => self.storage.end().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::Hold;
    use crate::report::Report;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::watch;

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

        async fn watch(&self, _: watch::Receiver<Hold>, _: mpsc::Sender<Report>) -> String {
            std::future::pending().await
        }
    }

    /// Asks for the end after a proof: what the proof said, and how often the storage was ended.
    async fn asks(hangs: bool) -> (Result<(), String>, u32) {
        let storage = Arc::new(Fake { hangs, ..Fake::default() });
        let (sender, asks) = mpsc::unbounded_channel();
        let ((proved, proof), (ended, end)) = (oneshot::channel(), oneshot::channel());
        sender.send(MountAsk::Prove(PATIENCE, proved)).unwrap();
        sender.send(MountAsk::End(ended)).unwrap();
        drop(sender);
        Hanging::new(Arc::clone(&storage), asks).run().await;
        end.await.unwrap().unwrap();
        assert_eq!(storage.asked.load(Ordering::Relaxed), 2, "once more before the end");
        (proof.await.unwrap(), storage.ended.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn only_a_mount_that_does_not_answer_is_ended() {
        assert_eq!(asks(false).await, (Ok(()), 0));
        let (proof, ended) = asks(true).await;
        assert!(proof.is_err() && ended == 1);
    }
}
