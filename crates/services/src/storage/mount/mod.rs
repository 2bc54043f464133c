//! The shared mount of this node: made ready when the node becomes a member, watched, taken away after.
//!
//! [`Mount`] implements the seam [`Storage`](crate::Storage). Nothing here touches the mount from the daemon's
//! own process: mounting is `mount(8)` with a deadline, probing and unmounting are helpers.
//!
//! What it does not do: mount options of other filesystems (kind `local` takes a directory as it is), and
//! eviction (crate `net`).

mod config;
mod gluster;
mod probe;
mod table;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, timeout_at};

pub use config::{ConfigError, Kind, StorageConfig};
pub use probe::Probed;
pub(super) use probe::{probe_main, unmount_main};

use self::probe::{ProbeAsk, UnmountAsk};
use self::table::{Entry, Table};
use super::helper::{Helper, HelperCommand, HelperError};
use crate::hold::Hold;
use crate::report::Report;
use crate::seam::Storage;

/// How long the mount may take to answer before it counts as hung. Longer than an eviction (0.7 s), so that a
/// fault which eviction cures moves no address.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// How long a fresh mount may take to answer first.
const FIRST_PROBE: Duration = Duration::from_secs(10);
/// How long `mount` may take: GlusterFS asks each server for the volume first.
const MOUNT_DEADLINE: Duration = Duration::from_secs(60);
/// How long one unmount may take before the client process is killed.
const UNMOUNT_DEADLINE: Duration = Duration::from_secs(5);
/// How often the end of a probe that hangs is looked for.
const STUCK_POLL: Duration = Duration::from_millis(50);
/// How many mounts stacked on one path are taken away.
const MAX_STACKED: usize = 8;

/// Why the mount is not ready.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("cannot read the mount table: {0}")]
    Table(std::io::Error),
    #[error("{} is mounted from {found} ({fstype}), not from volume {volume}; unmount it or correct [storage]", .path.display())]
    Foreign { path: PathBuf, found: String, fstype: String, volume: String },
    #[error("cannot create the mount point {}: {source}", .path.display())]
    MountPoint { path: PathBuf, source: std::io::Error },
    #[error("cannot run mount: {0}")]
    Spawn(std::io::Error),
    #[error("mounting volume {volume} on {} failed: {why}", .path.display())]
    Mount { path: PathBuf, volume: String, why: String },
    #[error("{} does not answer: {source}", .path.display())]
    Probe { path: PathBuf, source: HelperError },
    #[error("cannot unmount {}: {why}", .path.display())]
    Unmount { path: PathBuf, why: String },
}

/// The shared mount of one node.
#[derive(Debug)]
pub struct Mount {
    config: StorageConfig,
    helper: HelperCommand,
    probe: Mutex<Helper>,
    /// Its client process was ended, for it did not answer: the mount that follows has to show that it does.
    ended: AtomicBool,
}

impl Mount {
    /// Mounts nothing yet. `pnn` names the node's own probe file on the mount.
    pub fn new(config: StorageConfig, pnn: u32, helper: &HelperCommand) -> Result<Self, ConfigError> {
        config.validate()?;
        let args = ["mount-probe".into(), config.path.as_os_str().to_owned(), "--node".into(), pnn.to_string().into()];
        let probe = Mutex::new(Helper::new(helper, "mount probe", args));
        Ok(Self { config, helper: helper.clone(), probe, ended: AtomicBool::new(false) })
    }

    /// Where the shared filesystem is.
    pub fn path(&self) -> &Path {
        &self.config.path
    }

    /// What this mount was made from.
    pub fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// What is wrong with how the volume is mounted now: options that coherence needs and that the running
    /// client was started without. Empty for kind `local`, and when nothing is mounted.
    pub fn warnings(&self) -> Vec<String> {
        match self.config.kind {
            Kind::Local => Vec::new(),
            Kind::Gluster => gluster::incoherent_options(&self.config.path),
        }
    }

    /// The mount at our path that is seen now, if there is one.
    fn mounted(&self) -> Result<Option<Entry>, MountError> {
        Ok(Table::read().map_err(MountError::Table)?.at(&self.config.path))
    }

    /// The mount at our path, when it is ours.
    fn ours(&self) -> Result<Option<Entry>, MountError> {
        let Some(entry) = self.mounted()? else {
            return Ok(None);
        };
        let volume = self.config.volume.as_deref().unwrap_or_default();
        if entry.is_gluster_volume(volume) {
            return Ok(Some(entry));
        }
        Err(MountError::Foreign {
            path: self.config.path.clone(),
            found: entry.source,
            fstype: entry.fstype,
            volume: volume.to_owned(),
        })
    }

    /// Asks the probe helper once: statfs, then write, fsync and read back of a small file.
    pub async fn probe(&self, deadline: Duration) -> Result<Probed, HelperError> {
        let device = match self.config.kind {
            Kind::Local => None,
            Kind::Gluster => match self.ours() {
                Ok(Some(entry)) => Some(entry.device),
                Ok(None) => {
                    return Err(HelperError::Refused { why: probe::NOT_MOUNTED.to_owned() });
                }
                Err(error) => {
                    return Err(HelperError::Refused { why: error.to_string() });
                }
            },
        };
        self.probe.lock().await.call(&ProbeAsk { device }, deadline).await
    }

    async fn first_probe(&self) -> Result<(), MountError> {
        match self.probe(FIRST_PROBE).await {
            Ok(_) => Ok(()),
            Err(source) => Err(MountError::Probe { path: self.config.path.clone(), source }),
        }
    }

    /// One unmount of the topmost mount, in a helper. Lazily: at once, whoever still uses it.
    async fn unmount_once(&self, lazily: bool) -> Result<(), HelperError> {
        let mut helper = Helper::new(&self.helper, "unmount", ["unmount"]);
        let ask = UnmountAsk { path: self.config.path.clone(), lazily };
        let result = helper.call::<_, ()>(&ask, UNMOUNT_DEADLINE).await;
        helper.stop().await;
        result
    }
}

impl Storage for Mount {
    type Error = MountError;

    async fn ensure_mounted(&self) -> Result<(), MountError> {
        if self.config.kind == Kind::Local {
            return self.first_probe().await;
        }
        if self.ours()?.is_some() {
            match self.first_probe().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(path = %self.config.path.display(), %error, "mounting afresh");
                    self.unmount().await?;
                }
            }
        }
        if let Err(error) = gluster::mount(&self.config).await {
            // A client that found no volume may have mounted all the same, even after mount(8) has cleaned up.
            if let Err(left) = self.unmount().await {
                tracing::warn!(path = %self.config.path.display(), error = %left, "what a failed mount left stays behind");
            }
            return Err(error);
        }
        if self.ours()?.is_none() {
            let why = "mount said that it succeeded, and the mount table does not have it".to_owned();
            return Err(gluster::mount_error(&self.config, why));
        }
        self.first_probe().await
    }

    async fn unmount(&self) -> Result<(), MountError> {
        if self.config.kind == Kind::Local {
            // Not ours to take away, but nothing of ours may stay on it.
            self.probe.lock().await.stop().await;
            return Ok(());
        }
        let clients = gluster::clients_of(&self.config.path);
        self.probe.lock().await.stop().await;
        let mut last = None;
        for _ in 0..MAX_STACKED {
            if self.ours()?.is_none() {
                break;
            }
            let polite = self.unmount_once(false).await;
            if let Err(error) = polite
                && let Err(error) = self.unmount_once(true).await.map_err(|lazy| format!("{error}; lazily: {lazy}"))
            {
                last = Some(error);
                break;
            }
        }
        // Detached, a mount lives on with whoever uses it; the end of its client process ends that too, and
        // frees what hangs in it.
        gluster::end(clients).await;
        if self.ours()?.is_some() {
            // With its client gone the kernel answers by itself.
            self.unmount_once(true).await.map_err(|error| MountError::Unmount {
                path: self.config.path.clone(),
                why: last.unwrap_or_else(|| error.to_string()),
            })?;
        }
        Ok(())
    }

    async fn answers(&self, within: Duration) -> Result<(), String> {
        let path = self.config.path.display();
        let until = Instant::now() + within;
        loop {
            // The watch's probe may be under way, and then this one's turn comes after it.
            match timeout_at(until, self.probe(within)).await {
                // An earlier probe hangs, and not for long enough yet: it ends when the mount answers.
                Ok(Err(HelperError::Stuck { since, .. }))
                    if since.elapsed() < PROBE_DEADLINE && Instant::now() < until =>
                {
                    sleep(STUCK_POLL).await;
                }
                Ok(Err(error)) if !error.is_hang() => {
                    let detached = matches!(&error, HelperError::Refused { why } if why == probe::NOT_MOUNTED);
                    if detached && !gluster::clients_of(&self.config.path).is_empty() {
                        return Err(format!("{path} is not mounted any more, and its client process is still there"));
                    }
                    // An error is an answer too: nothing waits.
                    return Ok(());
                }
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) | Err(_) => return Err(format!("{path} does not answer")),
            }
        }
    }

    async fn end(&self) -> Result<(), String> {
        let path = &self.config.path;
        match self.config.kind {
            Kind::Local => {
                Err(format!("{} is not mounted by this daemon: what hangs in it cannot be ended", path.display()))
            }
            Kind::Gluster => {
                self.ended.store(true, Ordering::Relaxed);
                gluster::kill(gluster::clients_of(path)).await
            }
        }
    }

    async fn watch(&self, hold: Receiver<Hold>, reports: mpsc::Sender<Report>) -> String {
        watch::watch(self, &hold, &reports).await
    }
}
