//! The seam between the service managers and the shared mount.
//!
//! The manager drives anything that can be mounted, watched and unmounted. The GlusterFS and
//! local mounts of [`storage`](crate::storage) implement it; [`NoStorage`] is for nodes whose services need
//! no shared mount of ours (Ganesha with FSAL_GLUSTER talks to the bricks itself) and for tests.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::hold::Hold;
use crate::report::{Report, State};

/// A shared mount, as the manager sees it. No method may block its thread: whatever touches the mount runs in
/// a helper process, and the futures may be dropped at any await.
pub trait Storage: Send + Sync + 'static {
    type Error: Error + Send + Sync + 'static;

    /// Makes the mount ready, also when it already is. Returns when services may be started on it.
    fn ensure_mounted(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Takes the mount away, also a hung one. Ok when it was not mounted.
    fn unmount(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Does it answer now? An error says that it has not, within that time: what it was given hangs in it.
    fn answers(&self, within: Duration) -> impl Future<Output = Result<(), String>> + Send;

    /// Ends what hangs in it, so that nothing of it is carried out later. The mount is beyond repair then, which
    /// [`Storage::watch`] finds. Errors say what is not ended, and why.
    fn end(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// Watches a ready mount and reports its health (service name `storage`) until it is beyond repair in
    /// place: the return asks for services stopped, unmount and a fresh mount, and says why. What hangs in a hold of this
    /// node's storage clients has not failed.
    fn watch(&self, hold: watch::Receiver<Hold>, reports: mpsc::Sender<Report>) -> impl Future<Output = String> + Send;
}

/// No mount of ours: always ready.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoStorage;

impl Storage for NoStorage {
    type Error = Infallible;

    async fn ensure_mounted(&self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn unmount(&self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn answers(&self, _: Duration) -> Result<(), String> {
        Ok(())
    }

    async fn end(&self) -> Result<(), String> {
        Ok(())
    }

    async fn watch(&self, _: watch::Receiver<Hold>, reports: mpsc::Sender<Report>) -> String {
        let ready = Report::new("storage", State::Ok, "no shared mount is configured");
        // A closed channel means that the daemon is going away; there is nobody left to tell.
        let _ = reports.send(ready).await;
        std::future::pending().await
    }
}
