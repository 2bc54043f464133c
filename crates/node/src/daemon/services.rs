//! The service manager, for the core: the core's word on serving goes in, health and "all stopped" come out.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster::{Health, Input, ServiceHealth};
use net::connections::{Connection, Connections};
use services::storage::{HelperCommand, Mount, StorageConfig};
use services::{Ask, Hold, Leaving, Manager, NoStorage, Parts, Report, Serve, ServicesConfig, State};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::facts::Facts;
use super::inbox::Inbox;
use super::nfs;
use super::tickles::{self, News};
use crate::config::{STORAGE, Storage};

/// The NFS server's name among the services.
const NFS: &str = "nfs";
/// How long services may take to end when the daemon does. A supervised process is killed after 5 s.
const END: Duration = Duration::from_secs(15);

/// What the manager runs with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) services: ServicesConfig,
    pub(crate) storage: Storage,
    pub(crate) pnn: u32,
}

/// The task between core and manager.
#[derive(Debug)]
pub(crate) struct ServicesTask {
    parts: Parts,
    inbox: Inbox,
    facts: Facts,
    tickles: tickles::Sender,
    /// Services whose process ended and whose successor has not answered yet.
    absent: BTreeSet<String>,
    nfs: nfs::Sender,
    /// How often the NFS server had been started when it last answered; none since it was off.
    nfs_starts: Option<u64>,
    plan: Plan,
    /// Is a storage service watched, or does the manager only say that there is none?
    watched: bool,
    serve: watch::Sender<Serve>,
    /// When this node's own storage clients are held, or were.
    hold: Hold,
    /// The shared mount does not answer. Services that do not either wait for it, and to restart them would cost their
    /// clients' locks for nothing.
    storage_failed: bool,
    /// Where managers report to: one after the other, and beside the last one for a while the one before.
    sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    manager: Option<Manager>,
    /// The one before, while it stops what is not enabled any more.
    leaving: Option<Leaving>,
    /// All is stopped but for that.
    all_but: bool,
}

impl ServicesTask {
    /// Starts the manager, which stops what an earlier daemon left until the core says otherwise.
    pub(crate) fn new(
        parts: Parts,
        inbox: Inbox,
        facts: Facts,
        (tickles, nfs): (tickles::Sender, nfs::Sender),
        plan: Plan,
    ) -> Self {
        let (serve, _) = watch::channel(Serve::Off);
        let (sender, reports) = mpsc::channel(64);
        let mut task = Self {
            parts,
            inbox,
            facts,
            tickles,
            absent: BTreeSet::new(),
            nfs,
            nfs_starts: None,
            plan,
            watched: false,
            serve,
            hold: Hold::default(),
            storage_failed: false,
            sender,
            reports,
            manager: None,
            leaving: None,
            all_but: false,
        };
        task.spawn();
        task
    }

    fn spawn(&mut self) {
        let sender = self.sender.clone();
        let serve = self.serve.subscribe();
        let services = self.plan.services.clone();
        let storage = mount_config(&self.plan.storage);
        self.watched = storage.is_some();
        let mount = storage.map(|s| Mount::new(s, self.plan.pnn, &HelperCommand::this_program()));
        self.manager = Some(match mount {
            None => Manager::spawn_with(self.parts, services, NoStorage, serve, sender),
            Some(Ok(mount)) => Manager::spawn_with(self.parts, services, mount, serve, sender),
            Some(Err(error)) => {
                // The configuration was checked; what is refused here is a gap in that check.
                let health = ServiceHealth { state: Health::Failed, because: error.to_string(), output: Vec::new() };
                self.inbox.input(Input::Service { name: STORAGE.to_owned(), health });
                Manager::spawn(ServicesConfig::default(), NoStorage, serve, sender)
            }
        });
        self.tell_causes();
    }

    /// Why services may not answer now.
    fn tell_causes(&self) {
        if let Some(manager) = &self.manager {
            manager.hold(self.hold);
            manager.silent(self.storage_failed);
        }
    }

    /// Runs until the core has ended; everything is stopped then, in order.
    pub(crate) async fn run(
        mut self,
        mut wanted: watch::Receiver<Serve>,
        (mut held, mut deserted, mut asks): (watch::Receiver<Hold>, watch::Receiver<u64>, UnboundedReceiver<Ask>),
        mut plans: mpsc::Receiver<Plan>,
    ) {
        loop {
            tokio::select! {
                biased;
                // Before a new word on serving: a report of the past must not be taken for an answer to it.
                Some(report) = self.reports.recv() => self.report(report),
                changed = wanted.changed() => match changed {
                    Ok(()) => {
                        let serve = *wanted.borrow_and_update();
                        self.serve.send_replace(serve);
                        self.all_but = false;
                    }
                    Err(_) => break,
                },
                Ok(()) = held.changed() => {
                    self.hold = *held.borrow_and_update();
                    self.tell_causes();
                }
                Ok(()) = deserted.changed() => {
                    deserted.mark_unchanged();
                    self.deserted().await;
                }
                // Without a manager nothing runs; who asked hears that nobody answers.
                Some(ask) = asks.recv() => if let Some(manager) = &self.manager {
                    manager.ask(ask);
                },
                Some(plan) = plans.recv() => self.change(plan).await,
                () = ended(&mut self.leaving) => {
                    self.leaving = None;
                    if std::mem::take(&mut self.all_but) {
                        self.stopped();
                    }
                }
            }
        }
        self.end().await;
    }

    /// All clients have gone to others. On GlusterFS the writers among them wait there for what this node's NFS server
    /// keeps of their files, so that is to let go; unless somebody uses it by another address than the public ones.
    async fn deserted(&self) {
        let Some(manager) = self.manager.as_ref().filter(|_| matches!(self.plan.storage, Storage::Gluster { .. }))
        else {
            return;
        };
        let Some((_, port)) = self.plan.services.ports().into_iter().find(|(name, _)| *name == "nfs") else { return };
        match tokio::task::spawn_blocking(|| Connections::open()?.list()).await {
            Ok(Ok(all)) => match all.iter().find(|c| c.is_established() && c.local.port() == port && !is_here(c)) {
                Some(client) => tracing::info!("the NFS server is left as it is: {} uses it still", client.remote.ip()),
                None => manager.deserted(),
            },
            Ok(Err(error)) => tracing::warn!("the NFS server is left as it is: {error}"),
            Err(error) => tracing::warn!("the NFS server is left as it is: {error}"),
        }
    }

    fn report(&mut self, report: Report) {
        self.tell_clients(&report);
        self.tell_owners(&report);
        let off = report.service == STORAGE && report.state == State::Off;
        let failed = report.service == STORAGE && report.state == State::Failed;
        if report.service == STORAGE && failed != self.storage_failed {
            self.storage_failed = failed;
            self.tell_causes();
        }
        let health = ServiceHealth {
            state: match report.state {
                State::Off => Health::Off,
                State::Starting => Health::Starting,
                State::Ok => Health::Ok,
                State::Failing => Health::Failing,
                State::Failed => Health::Failed,
            },
            because: report.because,
            output: report.output,
        };
        if self.watched || report.service != STORAGE {
            self.facts.service(&report.service, health.clone());
            self.inbox.input(Input::Service { name: report.service, health });
        }
        // The storage goes last.
        if off {
            self.stopped();
        }
    }

    /// The manager has stopped everything. This node serves nothing any more when the one before it has, too.
    fn stopped(&mut self) {
        if *self.serve.borrow() != Serve::Off {
            return;
        }
        if self.leaving.is_some() {
            self.all_but = true;
        } else {
            self.inbox.input(Input::ServicesStopped);
        }
    }

    /// The clients of a service that was away are told that it is back: they lost their connections meanwhile.
    fn tell_clients(&mut self, report: &Report) {
        match report.state {
            State::Failing | State::Failed => {
                self.absent.insert(report.service.clone());
            }
            State::Ok if self.absent.remove(&report.service) => {
                let ports = self.plan.services.ports().into_iter();
                for (_, port) in ports.filter(|(name, _)| *name == report.service) {
                    // Nobody hears it only when the daemon ends.
                    let _ = self.tickles.send(News::Back(port));
                }
            }
            State::Off | State::Starting | State::Ok => {}
        }
    }

    /// The owners of NFSv3 locks are told of a server that has ended and begun anew.
    fn tell_owners(&mut self, report: &Report) {
        match report.state {
            State::Ok if report.service == NFS => {
                let before = self.nfs_starts.replace(report.starts);
                if before.is_some_and(|before| before != report.starts) {
                    // Nobody hears it only when the daemon ends.
                    let _ = self.nfs.send(nfs::News::BegunAnew);
                }
            }
            State::Off if report.service == NFS => self.nfs_starts = None,
            State::Off | State::Starting | State::Ok | State::Failing | State::Failed => {}
        }
    }

    /// Another configuration: services that it enables run on, only their management begins anew.
    async fn change(&mut self, plan: Plan) {
        if plan == self.plan {
            return;
        }
        if let Some(leaving) = self.leaving.take() {
            self.drained(leaving.give_up(), Self::report).await;
        }
        if let Some(manager) = self.manager.take() {
            self.leaving = self.drained(manager.leave(&plan.services), Self::report).await;
        }
        self.plan = plan;
        self.all_but = false;
        // The next manager counts from 0.
        self.nfs_starts = None;
        self.spawn();
    }

    async fn end(mut self) {
        let Some(manager) = self.manager.take() else {
            return;
        };
        let leaving = self.leaving.take();
        let (closed, _) = watch::channel(Serve::Off);
        // Dropping the sender is the order to stop everything.
        drop(std::mem::replace(&mut self.serve, closed));
        let all = async {
            manager.ended().await;
            if let Some(mut leaving) = leaving {
                leaving.ended().await;
            }
        };
        // The core, which would hear it, has ended.
        self.drained(all, |_, _| ()).await;
    }

    /// Waits for the end of something of a manager's while reports are taken: a full channel would hold it up. None: it has
    /// taken too long.
    async fn drained<T>(&mut self, end: impl Future<Output = T>, take: fn(&mut Self, Report)) -> Option<T> {
        let ended = async {
            tokio::pin!(end);
            loop {
                tokio::select! {
                    // Before the end: it is told before it is so.
                    biased;
                    Some(report) = self.reports.recv() => take(self, report),
                    ended = &mut end => break ended,
                }
            }
        };
        let ended = timeout(END, ended).await.ok();
        if ended.is_none() {
            tracing::warn!("the services did not end within {} s; they are left as they are", END.as_secs());
        }
        ended
    }
}

/// The end of what a manager that was replaced still stops; never, if there is none.
async fn ended(leaving: &mut Option<Leaving>) {
    match leaving {
        Some(leaving) => leaving.ended().await,
        None => std::future::pending().await,
    }
}

/// Is its other end a program of this machine, such as a probe?
fn is_here(connection: &Connection) -> bool {
    connection.remote.ip().to_canonical().is_loopback()
}

/// What the mount manager is to do, if there is shared storage.
pub(crate) fn mount_config(storage: &Storage) -> Option<StorageConfig> {
    match storage {
        Storage::Gluster { path, volume, server, mount_options } => {
            let mut config = StorageConfig::gluster(volume, path);
            config.servers = vec![server.clone()];
            config.options.clone_from(mount_options);
            Some(config)
        }
        Storage::Local { path, .. } => Some(StorageConfig::local(path)),
        Storage::None => None,
    }
}
