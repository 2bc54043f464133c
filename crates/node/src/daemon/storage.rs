//! What the storage's own settings mean for eviction and the cluster lock: read from GlusterFS at start and every
//! minute, told to the core as [`Input::LockUsable`] and as standing warnings, and to [`MovesTask`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cluster::{Input, Pnn, Snapshot};
use services::Storage as _;
use services::storage::volume::Weight;
use services::storage::{ClusterLock, HelperCommand, LockSpec, Mount, Volume};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::facts::Facts;
use super::heals::Heals;
use super::inbox::Inbox;
use super::lock::{DEADLINE, LockOrder};
use super::moves::MovesTask;
use super::services::mount_config;
use crate::config::{Config, Lock, Storage};

/// Between two looks at the volume's settings.
const AGAIN: Duration = Duration::from_secs(60);
/// The same while they cannot be read.
const RETRY: Duration = Duration::from_secs(5);
/// For one question to glusterd.
const ASK: Duration = Duration::from_secs(10);

/// What the task needs of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    storage: Storage,
    /// Is the volume's post-op delay to be lifted for planned moves?
    lift: bool,
    lock: Option<Lock>,
    pnn: Pnn,
    peers: Vec<Pnn>,
    /// Names and addresses that the nodes go by, to tell bricks on other machines.
    names: Vec<String>,
    /// Those of this node, the name first.
    own: Vec<String>,
}

impl Plan {
    pub(crate) fn new(config: &Config) -> Self {
        let mut names: Vec<String> = Vec::new();
        let mut own = Vec::new();
        for (pnn, node) in &config.nodes {
            let called: Vec<String> =
                std::iter::once(node.name.clone()).chain(node.addresses.iter().map(ToString::to_string)).collect();
            if *pnn == config.me {
                own.clone_from(&called);
            }
            names.extend(called);
        }
        Self {
            storage: config.storage.clone(),
            lift: config.lift_post_op_delay,
            lock: config.lock.clone(),
            pnn: config.me,
            peers: config.nodes.keys().copied().collect(),
            names,
            own,
        }
    }
}

/// The task; dropping its future ends it.
#[derive(Debug)]
pub(crate) struct StorageTask {
    pub(crate) inbox: Inbox,
    pub(crate) facts: Facts,
    pub(crate) orders: mpsc::UnboundedSender<LockOrder>,
    pub(crate) run_dir: PathBuf,
    pub(crate) plan: Plan,
    /// The volume as it was read last.
    pub(crate) reads: watch::Sender<Option<Arc<Volume>>>,
}

impl StorageTask {
    /// Looks after the volume as [`StorageTask`] and [`MovesTask`] do. Never returns.
    pub(crate) async fn run(self, snapshots: watch::Receiver<Option<Arc<Snapshot>>>) {
        let (inbox, facts, reads) = (self.inbox.clone(), self.facts.clone(), self.reads.subscribe());
        let volume = match &self.plan.storage {
            Storage::Gluster { volume, .. } => volume.clone(),
            Storage::Local { .. } | Storage::None => String::new(),
        };
        let moves = MovesTask::new(inbox, facts, volume, self.plan.lift);
        tokio::join!(self.watch(), moves.run(snapshots, reads));
    }

    async fn watch(self) {
        let mut said = 0;
        let mut usable: Option<Result<(), String>> = None;
        let mut heals = Heals::new(self.inbox.clone(), self.plan.own.clone());
        loop {
            let (now, advice, wait) = self.look(&mut heals).await;
            let limits: Vec<String> = advice;
            for (n, text) in limits.iter().enumerate() {
                self.warn(n, text.clone());
            }
            (limits.len()..said).for_each(|n| self.warn(n, String::new()));
            said = limits.len();
            self.facts.limits(limits);
            // Once known, a glusterd that does not answer does not make the volume another one.
            if let Some(now) = now
                && usable.as_ref() != Some(&now)
            {
                self.tell(&now).await;
                usable = Some(now);
            }
            heals.watch(wait).await;
        }
    }

    /// May the lock break ties (if it can be told), what to warn of, and when to look again.
    async fn look(&self, heals: &mut Heals) -> (Option<Result<(), String>>, Vec<String>, Duration) {
        let no_lock = || Err("no cluster lock is configured: an even split serves nobody".to_owned());
        let volume = match &self.plan.storage {
            Storage::Gluster { volume, .. } => volume,
            Storage::Local { .. } | Storage::None => {
                let usable = if self.plan.lock.is_some() { Ok(()) } else { no_lock() };
                return (Some(usable), Vec::new(), Duration::from_secs(86_400));
            }
        };
        match Volume::read(volume, ASK).await {
            Ok(volume) => {
                self.reads.send_replace(Some(Arc::new(volume.clone())));
                let usable = if self.plan.lock.is_some() { volume.lock_may_break_ties() } else { no_lock() };
                let advice = volume.advice(&self.plan.names);
                let limits = advice
                    .into_iter()
                    .filter(|a| a.weight == Weight::Warning)
                    .map(|a| if a.remedy.is_empty() { a.text } else { format!("{} ({})", a.text, a.remedy) })
                    .collect();
                heals.of(volume);
                (Some(usable), limits, AGAIN)
            }
            Err(error) => (None, vec![format!("the volume's settings cannot be read: {error}")], RETRY),
        }
    }

    fn warn(&self, n: usize, text: String) {
        self.inbox.input(Input::Warning { key: format!("volume {n}"), text });
    }

    async fn tell(&self, usable: &Result<(), String>) {
        let lock = match usable {
            Ok(()) => self.lock().await,
            Err(because) => Err(because.clone()),
        };
        let (usable, because, lock) = match lock {
            Ok(lock) => (true, "exactly half of the voters and the lock are a quorum".to_owned(), Some(lock)),
            Err(because) => (false, because, None),
        };
        let peers = self.plan.peers.clone();
        // Both ends live as long as the daemon.
        let _ = self.orders.send(LockOrder::Use { lock: lock.map(Box::new), none_because: because.clone(), peers });
        self.inbox.input(Input::LockUsable { usable, because });
    }

    /// The lock by its configuration, on a mount of its own where the ordinary one can be held.
    async fn lock(&self) -> Result<ClusterLock, String> {
        let Some(lock) = &self.plan.lock else {
            return Err("no cluster lock is configured".to_owned());
        };
        let helper = HelperCommand::this_program();
        let pnn = u32::from(self.plan.pnn.0);
        let mut dir = lock.dir.clone();
        if let (Storage::Gluster { path, .. }, Some(config)) = (&self.plan.storage, mount_config(&self.plan.storage))
            && let Ok(below) = lock.dir.strip_prefix(path)
        {
            let own = self.run_dir.join("lock-mount");
            let mount =
                Mount::new(config.for_lock(&own, net::hold::PASSES), pnn, &helper).map_err(|e| e.to_string())?;
            let mut wait = Duration::from_millis(500);
            while let Err(error) = mount.ensure_mounted().await {
                tracing::warn!("the mount for the cluster lock is not ready: {error}");
                sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(10));
            }
            dir = own.join(below);
        }
        let spec = LockSpec { dir, command: lock.command.clone() };
        Ok(ClusterLock::new(&spec, pnn, &helper, DEADLINE))
    }
}

/// Takes away the mount that the lock had, when the daemon ends.
pub(crate) async fn unmount_lock(storage: &Storage, run_dir: &Path, pnn: Pnn) {
    let (Storage::Gluster { .. }, Some(config)) = (storage, mount_config(storage)) else {
        return;
    };
    let own = run_dir.join("lock-mount");
    if !own.exists() {
        return;
    }
    let mount = Mount::new(config.for_lock(&own, net::hold::PASSES), u32::from(pnn.0), &HelperCommand::this_program());
    match mount {
        Ok(mount) => {
            if let Err(error) = mount.unmount().await {
                tracing::warn!("the mount for the cluster lock stays behind: {error}");
            }
        }
        Err(error) => tracing::warn!("the mount for the cluster lock stays behind: {error}"),
    }
}
