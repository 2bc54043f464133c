//! The daemon's handle on all services of this node.
//!
//! One coordinating task keeps the order: storage before services when the node begins to serve, services
//! gone before the storage when it ends. See the crate's page for the picture.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::config::ServicesConfig;
use crate::hanging::{Answer, Ask, Hanging, MountAsk};
use crate::hold::Hold;
use crate::kind::Kind;
use crate::parts::Parts;
use crate::probe::rpcbind::Registrations;
use crate::report::{Report, Serve, State};
use crate::seam::Storage;
use crate::service::{Cues, Order, Service, Why};

/// First and longest wait before the mount is tried again.
const MOUNT_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Runs the services until it is told to leave or to stop.
#[derive(Debug)]
pub struct Manager {
    leave: watch::Sender<Option<Next>>,
    /// What the next manager takes over is left alone by this one.
    left: watch::Receiver<bool>,
    give_up: watch::Sender<bool>,
    silent: watch::Sender<bool>,
    hold: watch::Sender<Hold>,
    deserted: watch::Sender<u64>,
    /// The NFS server is to be ended.
    ends: mpsc::UnboundedSender<Answer>,
    mount: mpsc::UnboundedSender<MountAsk>,
    /// Do clients use the mount, by smbd?
    mount_serves: bool,
    task: JoinHandle<()>,
}

impl Manager {
    /// Begins to follow `serve`. Processes that an earlier daemon left are taken over when that says `On` and
    /// stopped when it says `Off`. When the sender of `serve` is dropped, everything is stopped in order.
    ///
    /// Reports may come late while the channel is full, but the newest state of each service always comes.
    pub fn spawn<S: Storage>(
        config: ServicesConfig,
        storage: S,
        serve: watch::Receiver<Serve>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self::spawn_with(Parts::default(), config, storage, serve, reports)
    }

    /// Like [`Self::spawn`], with some parts left out.
    pub fn spawn_with<S: Storage>(
        parts: Parts,
        config: ServicesConfig,
        storage: S,
        serve: watch::Receiver<Serve>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let (leave, next) = watch::channel(None);
        let (gone, left) = watch::channel(false);
        let (give_up, given_up) = watch::channel(false);
        let (silent, silence) = watch::channel(false);
        let (hold, holds) = watch::channel(Hold::default());
        let (deserted, deserts) = watch::channel(0);
        let (ends, wanted) = mpsc::unbounded_channel();
        let (mount, asks) = mpsc::unbounded_channel();
        let mount_serves = config.samba.enabled;
        let storage = Arc::new(storage);
        // Ends with the sender.
        tokio::spawn(Hanging::new(Arc::clone(&storage), asks).run());
        let cues = Cues { silent: silence, hold: holds, deserted: deserts };
        let task = tokio::spawn(
            Coordinator::new(parts, config, storage, serve, next, (cues, wanted), reports).run((gone, given_up)),
        );
        Self { leave, left, give_up, silent, hold, deserted, ends, mount, mount_serves, task }
    }

    /// While this node's own clients of the shared filesystem are held, services that do not answer are not restarted, and
    /// neither they nor the filesystem count as failed for it, until a moment after: they wait, and what they have under
    /// way goes on.
    pub fn hold(&self, hold: Hold) {
        self.hold.send_replace(hold);
    }

    /// While the shared filesystem does not answer, services that do not answer either are not restarted.
    pub fn silent(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    /// No client reaches this node any more, and all that it had are with other nodes: the NFS server begins anew, so that
    /// nobody waits for what it keeps of their files (GlusterFS's inner locks, docs/storage.md). It must have no other
    /// clients either.
    pub fn deserted(&self) {
        self.deserted.send_modify(|times| *times += 1);
    }

    /// An address is to leave this node, or has left it and something hangs: the NFS server is killed then, and so is the
    /// client process of a mount that does not answer. Both are started again.
    pub fn ask(&self, ask: Ask) {
        match ask {
            Ask::Prove(within, answer) if self.mount_serves => self.ask_mount(MountAsk::Prove(within, answer)),
            // Who asked may have ended meanwhile; so below.
            Ask::Prove(_, answer) => drop(answer.send(Ok(()))),
            Ask::End { nfs, answer } => {
                let ((server, nfs_ended), (mount, mount_ended)) = (oneshot::channel(), oneshot::channel());
                let spared = if nfs { self.ends.send(server).err().map(|error| error.0) } else { Some(server) };
                if let Some(server) = spared {
                    // It does not hang, or none is managed.
                    drop(server.send(Ok(())));
                }
                self.ask_mount(MountAsk::End(mount));
                tokio::spawn(async move {
                    let (nfs, mount) = tokio::join!(nfs_ended, mount_ended);
                    let gone = || Err("the services are being stopped".to_owned());
                    let all = [nfs.unwrap_or_else(|_| gone()), mount.unwrap_or_else(|_| gone())];
                    let because: Vec<String> = all.into_iter().filter_map(Result::err).collect();
                    drop(answer.send(if because.is_empty() { Ok(()) } else { Err(because.join("; ")) }));
                });
            }
        }
    }

    /// Its task ends with this value only; were it gone, who asked would hear that nobody answers.
    fn ask_mount(&self, ask: MountAsk) {
        drop(self.mount.send(ask));
    }

    /// Ends the management for one with this configuration, which takes over what runs: that and the mount stay as they are.
    /// Services that it does not enable are stopped, which may take longer than this call.
    pub async fn leave(mut self, next: &ServicesConfig) -> Leaving {
        let mut names: Next = kinds(next).iter().map(Kind::name).collect();
        if next.nfs.enabled && !next.nfs.manage {
            // The NFS server runs on, and so does what it needs.
            names.extend(["rpcbind", "statd"]);
        }
        self.leave.send_replace(Some(names));
        // An error is the end of the task, and of everything that it could touch.
        let _ = self.left.wait_for(|left| *left).await;
        Leaving { task: self.task, give_up: self.give_up }
    }

    /// Waits for the end after the sender of `serve` was dropped: everything is stopped then. A process that
    /// hangs in the kernel keeps this waiting; who must end anyway puts a deadline around it.
    pub async fn ended(self) {
        if let Err(error) = self.task.await {
            warn!(%error, "the service manager ended abnormally");
        }
    }
}

/// A manager that stops what its successor does not enable.
#[derive(Debug)]
pub struct Leaving {
    task: JoinHandle<()>,
    give_up: watch::Sender<bool>,
}

impl Leaving {
    /// Waits until all is stopped. Not to be called again after that.
    pub async fn ended(&mut self) {
        if let Err(error) = (&mut self.task).await {
            warn!(%error, "the service manager ended abnormally");
        }
    }

    /// What does not stop is left as it is: the next manager may be to run it again.
    pub async fn give_up(mut self) {
        self.give_up.send_replace(true);
        self.ended().await;
    }
}

/// The services that the next configuration enables.
type Next = BTreeSet<&'static str>;

/// A running task of a service.
struct Handle {
    name: &'static str,
    orders: watch::Sender<Order>,
    state: watch::Receiver<State>,
    stopped: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

struct Coordinator<S> {
    parts: Parts,
    services: Vec<Handle>,
    storage: Arc<S>,
    serve: watch::Receiver<Serve>,
    left: watch::Receiver<Option<Next>>,
    hold: watch::Receiver<Hold>,
    reports: mpsc::Sender<Report>,
    /// Number of the last order to stop.
    stops: u64,
}

/// Why a stretch of serving or waiting ended.
enum Turn {
    Serve(Serve),
    Remount(String),
    Leave,
    Stop,
}

impl<S: Storage> Coordinator<S> {
    fn new(
        parts: Parts,
        config: ServicesConfig,
        storage: Arc<S>,
        serve: watch::Receiver<Serve>,
        left: watch::Receiver<Option<Next>>,
        (cues, ends): (Cues, mpsc::UnboundedReceiver<Answer>),
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let mut services: Vec<Handle> = Vec::new();
        let mut ends = Some(ends);
        let hold = cues.hold.clone();
        for kind in kinds(&config) {
            let needs_rpcbind = matches!(&kind, Kind::Ganesha(nfs) if nfs.manage) || matches!(kind, Kind::Statd(_));
            let after = services.iter().find(|s| needs_rpcbind && s.name == "rpcbind").map(|s| s.state.clone());
            let (orders, order) = watch::channel(Order::Wait);
            let name = kind.name();
            let ends = if matches!(kind, Kind::Ganesha(_)) { ends.take() } else { None };
            let service = Service::new(kind, parts, &config, order, (cues.clone(), ends), after, reports.clone());
            let (state, stopped) = (service.state(), service.stopped());
            services.push(Handle { name, orders, state, stopped, task: tokio::spawn(service.run()) });
        }
        Self { parts, services, storage, serve, left, hold, reports, stops: 0 }
    }

    async fn run(mut self, (gone, mut given_up): (watch::Sender<bool>, watch::Receiver<bool>)) {
        let mut serve = *self.serve.borrow_and_update();
        loop {
            let turn = match serve {
                Serve::On => self.serve_on().await,
                Serve::Off => {
                    self.serve_off().await;
                    self.wait().await
                }
            };
            match turn {
                Turn::Serve(now) => {
                    info!(serve = ?now, "this node {} serve", if now == Serve::On { "may" } else { "must not" });
                    serve = now;
                }
                Turn::Remount(because) => {
                    warn!(because, "the shared mount is made anew");
                    self.stop(Why::NotServing).await;
                    self.unmount().await;
                }
                Turn::Leave => {
                    let next = self.left.borrow().clone().unwrap_or_default();
                    // Two would manage it from now on.
                    self.leave(|name| next.contains(name)).await;
                    gone.send_replace(true);
                    tokio::select! {
                        () = self.stop(Why::NotEnabled) => {}
                        // An error is as good: nobody waits any more.
                        _ = given_up.wait_for(|given_up| *given_up) => {}
                    }
                    self.order(Order::Leave);
                    break;
                }
                Turn::Stop => {
                    if serve == Serve::On {
                        self.serve_off().await;
                    }
                    self.order(Order::Leave);
                    break;
                }
            }
        }
        ended(self.services).await;
    }

    async fn serve_on(&mut self) -> Turn {
        let mut delay = MOUNT_RETRY.0;
        loop {
            let mounted = tokio::select! {
                turn = turn(&mut self.serve, &mut self.left) => return turn,
                mounted = self.storage.ensure_mounted() => mounted,
            };
            let Err(error) = mounted else { break };
            self.tell(Report::new("storage", State::Failed, error.to_string())).await;
            tokio::select! {
                turn = turn(&mut self.serve, &mut self.left) => return turn,
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(MOUNT_RETRY.1),
            }
        }
        self.order(Order::Run);
        let reports = self.watched();
        tokio::select! {
            turn = turn(&mut self.serve, &mut self.left) => turn,
            because = self.storage.watch(self.hold.clone(), reports) => Turn::Remount(because),
        }
    }

    /// Where the mount's health goes to.
    fn watched(&self) -> mpsc::Sender<Report> {
        if self.parts.probes {
            return self.reports.clone();
        }
        let (sender, mut told) = mpsc::channel::<Report>(1);
        let reports = self.reports.clone();
        tokio::spawn(async move {
            while let Some(report) = told.recv().await {
                if report.state == State::Ok && reports.send(report).await.is_err() {
                    return;
                }
            }
        });
        sender
    }

    async fn serve_off(&mut self) {
        self.stop(Why::NotServing).await;
        self.unmount().await;
    }

    async fn wait(&mut self) -> Turn {
        turn(&mut self.serve, &mut self.left).await
    }

    /// In reverse order of their start, but all at once where nothing depends on them: first smbd and the NFS
    /// server, then what the NFS server needs.
    async fn stop(&mut self, why: Why) {
        self.stops += 1;
        let number = self.stops;
        let first = |handle: &&mut Handle| !matches!(handle.name, "rpcbind" | "statd");
        for wanted in [true, false] {
            let mut stopping: Vec<_> = self.services.iter_mut().filter(|handle| first(handle) == wanted).collect();
            for handle in &stopping {
                handle.orders.send_replace(Order::Stop(number, why));
            }
            for handle in &mut stopping {
                // an error means that the task ended: by a panic, and then there is nobody left to stop it
                if handle.stopped.wait_for(|done| *done >= number).await.is_err() {
                    warn!(service = handle.name, "the task of the service is gone, its process may still run");
                }
            }
        }
    }

    async fn unmount(&mut self) {
        loop {
            match self.storage.unmount().await {
                Ok(()) => break,
                Err(error) => {
                    let because = format!("cannot be unmounted: {error}");
                    self.tell(Report::new("storage", State::Failed, because)).await;
                    tokio::time::sleep(MOUNT_RETRY.0).await;
                    // a node that may serve again needs the mount, however it is; and an ending daemon must end
                    let ending = self.serve.has_changed().is_err();
                    if *self.serve.borrow() == Serve::On || self.left.borrow().is_some() || ending {
                        return;
                    }
                }
            }
        }
        self.tell(Report::new("storage", State::Off, "unmounted: this node does not serve")).await;
    }

    /// Ends the tasks of these services, whose processes run on.
    async fn leave(&mut self, which: impl Fn(&str) -> bool) {
        let (left, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.services).into_iter().partition(|service| which(service.name));
        self.services = rest;
        for service in &left {
            service.orders.send_replace(Order::Leave);
        }
        ended(left).await;
    }

    fn order(&self, order: Order) {
        for service in &self.services {
            service.orders.send_replace(order);
        }
    }

    async fn tell(&self, report: Report) {
        // a closed channel means that the daemon is ending and asks no more
        let _ = self.reports.send(report).await;
    }
}

async fn ended(services: Vec<Handle>) {
    for service in services {
        if let Err(error) = service.task.await {
            warn!(service = service.name, %error, "the task of a service ended abnormally");
        }
    }
}

async fn turn(serve: &mut watch::Receiver<Serve>, left: &mut watch::Receiver<Option<Next>>) -> Turn {
    tokio::select! {
        biased;
        // the sender lives in the manager's handle; dropping that alone ends nothing
        Ok(_) = left.wait_for(Option::is_some) => Turn::Leave,
        changed = serve.changed() => match changed {
            Ok(()) => Turn::Serve(*serve.borrow_and_update()),
            Err(_) => Turn::Stop,
        },
    }
}

/// The services of a configuration, in the order of their start.
fn kinds(config: &ServicesConfig) -> Vec<Kind> {
    let mut kinds = Vec::new();
    if config.nfs.enabled {
        if config.nfs.manage && config.nfs.needs_rpcbind() {
            kinds.push(Kind::Rpcbind(config.nfs.clone(), Registrations::default()));
            if config.nfs.statd {
                kinds.push(Kind::Statd(config.nfs.clone()));
            }
        }
        kinds.push(Kind::Ganesha(config.nfs.clone()));
    }
    if config.samba.enabled {
        kinds.push(Kind::Samba(config.samba.clone(), config.nfs.enabled));
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rpcbind_comes_first_and_only_where_version_3_is_served() {
        let mut config = ServicesConfig::default();
        assert!(kinds(&config).is_empty());
        config.nfs.enabled = true;
        config.samba.enabled = true;
        let names = |config: &ServicesConfig| kinds(config).iter().map(Kind::name).collect::<Vec<_>>();
        assert_eq!(names(&config), ["rpcbind", "statd", "nfs", "samba"]);
        config.nfs.versions = vec![4];
        assert_eq!(names(&config), ["nfs", "samba"]);
        config.nfs.manage = false;
        config.nfs.versions = vec![3];
        assert_eq!(names(&config), ["nfs", "samba"]);
    }
}
