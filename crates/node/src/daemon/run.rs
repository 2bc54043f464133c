//! From the command line to the end of the daemon.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use cluster::{AdminState, Cluster, Input, Start};
use rustix::fs::{FileType, fstat};
use rustix::stdio::stdin;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::check::{self, Checks};
use super::core::{Core, Ended};
use super::effects::{NetOrders, Wiring};
use super::events::EventsTask;
use super::evict::EvictTask;
use super::facts::Facts;
use super::handler::{Admin, Reload};
use super::held::Held;
use super::inbox::{Inbox, Item, Outlet, inbox};
use super::lock::{LockOrder, LockTask};
use super::origin::Origin;
use super::services::ServicesTask;
use super::site::{Site, Word};
use super::tickles::{News, Tickles};
use super::timeline::{Timeline, unix_ms};
use super::wall_clocks::WallClocks;
use super::without::Without;
use super::{databases, disk, dns, nfs, site, smb_witness, start, storage, tickles, time_of_day};
use crate::admin::server::AdminSocket;
use crate::config::Config;
use crate::databases::{Databases, Post};
use crate::guard::{self, Guard, GuardLock, Keeper};
use crate::log::{self, Log};
use crate::peer::{PeerConfig, PeerEvent, Peers};
use crate::pki::PkiDir;
use crate::state::StateStore;
use crate::{clock, priority, random};

/// How long a daemon that is told to end waits until the others have its addresses and its services are stopped.
const STOP: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the configuration comes from.
    pub origin: Origin,
    /// Votes, certificates, timeline.
    pub state_dir: PathBuf,
    /// Admin socket.
    pub run_dir: PathBuf,
    /// Where the log goes.
    pub log: log::Place,
    /// What is logged, in the syntax of tracing's filters.
    pub filter: &'static str,
    /// Parts to leave out; for tests only.
    pub without: Vec<Without>,
    /// One of several daemons that try a cluster out on one machine: public addresses are kept in mind and put on no
    /// interface, and nothing of the kernel's is touched.
    pub trial: bool,
    /// What the node is at its beginning, whatever an administrator made it before; none: what it was.
    pub begin: Option<AdminState>,
    /// Ends when the other end of standard input is closed.
    pub until_stdin: bool,
    /// Called once the sockets are there, before anything is served.
    pub ready: Option<fn()>,
    /// What the log is to warn of at the start.
    pub notes: Vec<String>,
}

/// Runs the daemon until it is told to end (SIGTERM, SIGINT).
///
/// # Errors
/// It cannot start, or a part that it cannot be without has ended. No public address is left on the node either way.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let log = Log::start(&options.log, options.filter)?;
    let result = serve(options, &log);
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    log.flush();
    result
}

fn serve(options: &Options, log: &Log) -> anyhow::Result<()> {
    let started_unix_ms = unix_ms();
    // A wrong configuration is refused before anything is touched.
    let config = options.origin.read(&options.state_dir).map_err(anyhow::Error::msg)?;
    let store = StateStore::open(&options.state_dir)?;
    let mut votes = start::votes(&store, &config)?;
    votes.admin = options.begin.unwrap_or(votes.admin);
    tracing::info!(
        version = crate::VERSION,
        node = config.me.0,
        epoch = votes.view.as_ref().map(|v| v.epoch.0),
        "{} of cluster {} starts",
        config.this_node().name,
        config.cluster
    );
    for note in &options.notes {
        tracing::warn!("{note}");
    }
    for part in &options.without {
        tracing::warn!("this daemon runs without its {part}, as a test asked: clients will notice failures for longer");
    }
    if options.trial {
        priority::ordinary();
    }
    priority::lock_memory();
    let (timeline, recorder) = Timeline::start(store.dir()).context("the timeline's thread cannot be started")?;
    let (inbox, mut outlet) = inbox();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(16)
        .thread_name("worker")
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    // Threads inherit this. The runtime's exist already.
    priority::raise();
    // A guard of an earlier daemon takes addresses away: it must have ended before this one touches any.
    let guard_lock = GuardLock::acquire(&options.run_dir)?;
    // The network worker's threads inherit the priority of the one that starts them.
    let worker = thread::scope(|scope| {
        let (config, votes, inbox, outlet) = (&config, &votes, &inbox, &mut outlet);
        let starter = scope.spawn(move || {
            priority::realtime();
            let parts = (!options.trial).then(|| Without::parts(&options.without));
            start::network(config, votes, parts, inbox, outlet)
        });
        starter.join().unwrap_or_else(|_| anyhow::bail!("the thread that starts the network part has panicked"))
    })?;

    let (tickles, tickles_news) = mpsc::unbounded_channel();
    let back = tickles.clone();
    let (nfs_sender, nfs_news) = mpsc::unbounded_channel();
    let (ports, nfs_ports) = watch::channel(Vec::new());
    let (words, words_heard) = mpsc::unbounded_channel();
    let (checks_cell, checks_ready) = watch::channel(None::<Checks>);
    let (guard, guard_news) = guard::channel();
    let post = Post::new().context("the databases' queue cannot be made")?;
    let peers = Peers::start(
        peer_config(&config, options, &store),
        runtime.handle(),
        post.clone(),
        deliver(inbox.clone(), checks_ready, (tickles.clone(), nfs_sender.clone()), words.clone(), guard.clone()),
    )
    .map_err(|e| anyhow::anyhow!("the links to the other nodes cannot be started: {e}"))?;
    let sealer = peers.clone();
    let guarded = !options.trial && !options.without.contains(&Without::Guard);
    let keeper = guarded.then(|| {
        Keeper::start(
            (guard.clone(), guard_news),
            guard_lock,
            site::addresses(&config),
            Box::new(move |word| sealer.seal_guard(word)),
            inbox.clone(),
        )
    });
    let keeper = keeper.transpose()?;
    let checks = Checks::new(peers.clone(), runtime.handle().clone());
    checks.set_mount(config.storage.path().cloned());
    checks_cell.send_replace(Some(checks.clone()));

    let cluster = Cluster::new(
        Start {
            config: config.core(),
            durable: votes,
            run: random::run_id()?,
            seed: random::seed()?,
            version: crate::VERSION.to_owned(),
        },
        clock::now(),
    );
    let (lock, lock_orders) = mpsc::unbounded_channel();
    let (serve, serve_wanted) = watch::channel(::services::Serve::Off);
    let (holds, held) = watch::channel(::services::Hold::default());
    let (deserted, mut deserts) = watch::channel(0);
    if options.without.contains(&Without::Anew) {
        deserts = watch::channel(0).1;
    }
    let (moved, moves) = mpsc::unbounded_channel();
    let scripts_serve = serve.subscribe();
    let nfs_serve = serve.subscribe();
    let with = |part| !options.trial && !options.without.contains(&part);
    let grace = nfs::InUse { grace: with(Without::Grace), let_go: with(Without::LetGo), end: with(Without::End) };
    let (asks, asked) = mpsc::unbounded_channel();
    let (evict, evictions) = mpsc::unbounded_channel();
    let (snapshots, snapshots_seen) = watch::channel(None);
    let (evicts, evicts_now) = watch::channel(site::evicts(&config));
    let wiring = Wiring {
        inbox: inbox.clone(),
        peers: peers.clone(),
        net: NetOrders::new(worker),
        votes: disk::start(store, inbox.clone()).context("the votes' thread cannot be started")?,
        lock: lock.clone(),
        serve,
        holds,
        deserted,
        evict,
        snapshots,
        timeline: recorder,
        tickles: tickles.clone(),
        databases: post.clone(),
        moved,
        held: Held::default(),
        nfs: nfs_sender.clone(),
        nfs_ports,
        guard: guard.clone(),
        evicts: evicts_now,
    };
    let mut core = spawn_core(cluster, wiring, outlet)?;

    let (wishes, wished) = mpsc::unbounded_channel();
    let databases = databases::start(&post, &config, &options.state_dir, inbox.clone(), wishes, tickles);
    let facts = Facts::default();
    let (config_now, config_seen) = watch::channel(Arc::new(config));
    let (plans, plans_wanted) = mpsc::channel(4);
    let mut site = Site {
        origin: options.origin.clone(),
        state_dir: options.state_dir.clone(),
        run_dir: options.run_dir.clone(),
        inbox: inbox.clone(),
        guard,
        peers: peers.clone(),
        facts: facts.clone(),
        checks: checks.clone(),
        orders: lock.clone(),
        services: plans,
        evicts,
        config: config_now,
        snapshots: snapshots_seen.clone(),
        storage: None,
        lists: BTreeMap::new(),
    };
    let (reload, reloads) = mpsc::channel(4);
    let admin = Arc::new(Admin {
        inbox: inbox.clone(),
        snapshots: snapshots_seen.clone(),
        timeline,
        facts: facts.clone(),
        config: config_seen.clone(),
        peers: peers.clone(),
        checks,
        reload: reload.clone(),
        log_place: log.place().to_owned(),
        started_unix_ms,
    });

    let ended = runtime.block_on(async {
        let lock_task = tokio::spawn(LockTask::new(inbox.clone()).run(lock_orders));
        tokio::spawn(time_of_day::run(inbox.clone()));
        tokio::spawn(databases::tell(post.clone(), config_seen.clone(), snapshots_seen.clone()));
        tokio::spawn(databases::carry_out(inbox.clone(), snapshots_seen.clone(), (reload, words), wished));
        let lists = !options.without.contains(&Without::Lists);
        tokio::spawn(Tickles::new(inbox.clone(), peers.clone(), post, lists).run(tickles_news));
        tokio::spawn(
            nfs::Nfs::new(inbox.clone(), peers.clone(), config_seen.clone(), nfs_serve, ports, (grace, asks))
                .run(nfs_news),
        );
        let events_see = snapshots_seen.clone();
        tokio::spawn(smb_witness::run(config_seen.clone(), snapshots_seen.clone()));
        let dns = tokio::spawn(dns::run(config_seen.clone(), snapshots_seen, facts.clone()));
        let plan = site::services_plan(&config_seen.borrow());
        let anew = nfs_sender;
        let events = EventsTask::new(inbox.clone(), facts.clone(), config_seen.clone());
        let events = tokio::spawn(events.run(moves, scripts_serve, events_see));
        let services = ServicesTask::new(Without::services(&options.without), inbox.clone(), facts, (back, anew), plan);
        tokio::spawn(EvictTask::new(inbox.clone(), config_seen.clone()).run(evictions));
        let services = tokio::spawn(services.run(serve_wanted, (held, deserts, asked), plans_wanted));
        let config = Arc::clone(&config_seen.borrow());
        site.tell_warnings(&config);
        site.start_storage(&config);
        let socket = AdminSocket::bind(&options.run_dir.join("admin.sock"))?;
        let admin = tokio::spawn(socket.serve(admin));
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        if let Some(ready) = options.ready {
            ready();
        }
        let stdin = options.until_stdin.then(stdin_closed).transpose()?;
        let result = attend(&mut core, &mut site, &inbox, (reloads, words_heard, stdin), log).await;
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        stop(&mut core, &inbox).await;
        admin.abort();
        dns.abort();
        end(services, events, databases, lock_task, &lock, site, options).await;
        result
    });
    peers.stop();
    if let Some(keeper) = keeper.filter(|_| core.over) {
        keeper.goodbye();
    }
    core.join();
    runtime.shutdown_timeout(Duration::from_secs(1));
    tracing::info!("the daemon has ended; no public address is on this node");
    ended
}

fn peer_config(config: &Config, options: &Options, store: &StateStore) -> PeerConfig {
    PeerConfig {
        me: config.me,
        nodes: config.nodes.clone(),
        port: config.control_port,
        lease: config.timing.lease,
        version: crate::VERSION.to_owned(),
        pki: PkiDir::in_state_dir(store.dir()),
        config_text: options.origin.text(),
    }
}

/// What the peers say, into the inbox.
fn deliver(
    inbox: Inbox,
    checks: watch::Receiver<Option<Checks>>,
    (tickles, nfs): (tickles::Sender, nfs::Sender),
    words: mpsc::UnboundedSender<Word>,
    guard: Guard,
) -> impl Fn(PeerEvent) + Send + Sync + 'static {
    let behind = AtomicBool::new(false);
    let clocks = WallClocks::new(inbox.clone());
    move |event| {
        let taken = match event {
            PeerEvent::Heartbeat { from, net, heartbeat } => {
                inbox.input(Input::Heartbeat { from, net, heartbeat });
                true
            }
            PeerEvent::Grant { from, grant } => {
                inbox.input(Input::Grant { from, grant });
                true
            }
            PeerEvent::Guard { from, word } => inbox.input(Input::Guard { from, word }),
            PeerEvent::Message { from, message } => inbox.input(Input::Message { from, message }),
            PeerEvent::Clock { peer, name, clock } => {
                clocks.read(peer, &name, clock);
                true
            }
            PeerEvent::Link { peer, up } => {
                if up {
                    // New keys.
                    guard.reseal();
                    // Both tasks end with the daemon only.
                    let _ = words.send(Word::Up(peer));
                } else {
                    clocks.lost(peer);
                }
                inbox.input(Input::Link { peer, up })
            }
            PeerEvent::Bytes { from, channel: check::CHANNEL, bytes } => {
                if let Some(checks) = &*checks.borrow() {
                    checks.frame(from, &bytes);
                }
                true
            }
            PeerEvent::Bytes { from, channel: tickles::CHANNEL, bytes } => {
                tickles.send(News::Frame { from, bytes }).is_ok()
            }
            PeerEvent::Bytes { from, channel: nfs::CHANNEL, bytes } => {
                nfs.send(nfs::News::Frame { from, bytes }).is_ok()
            }
            PeerEvent::Bytes { from, channel: site::LISTS, bytes } => {
                let _ = words.send(Word::List(from, bytes));
                true
            }
            PeerEvent::Bytes { from, channel, .. } => {
                tracing::debug!(node = from.0, channel, "bytes on a channel that this version does not know");
                true
            }
        };
        if taken {
            behind.store(false, Ordering::Relaxed);
        } else if !behind.swap(true, Ordering::Relaxed) {
            tracing::warn!("the core is behind; messages of peers are dropped until they send them again");
        }
    }
}

/// The core's thread, while it runs.
struct Running {
    ended: oneshot::Receiver<Ended>,
    over: bool,
    thread: Option<thread::JoinHandle<()>>,
}

fn spawn_core(cluster: Cluster, wiring: Wiring, outlet: Outlet) -> anyhow::Result<Running> {
    let (sender, ended) = oneshot::channel();
    let thread = thread::Builder::new()
        .name("core".into())
        .spawn(move || {
            priority::realtime();
            let (why, wiring) = Core::new(cluster, wiring, outlet, clock::now).run();
            // On return no address is left; only then the daemon may say that it has ended.
            wiring.net.shut_down();
            // The daemon may have stopped waiting.
            let _ = sender.send(why);
        })
        .context("the core's thread cannot be started")?;
    Ok(Running { ended, over: false, thread: Some(thread) })
}

impl Running {
    /// Waits until the core's thread has ended by itself.
    async fn ended(&mut self) -> Option<Ended> {
        if self.over {
            return None;
        }
        let why = (&mut self.ended).await.ok();
        self.over = true;
        why
    }

    fn join(mut self) {
        if self.over
            && let Some(thread) = self.thread.take()
        {
            // A panic in it was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Waits for signals and reloads until the daemon is to end.
async fn attend(
    core: &mut Running,
    site: &mut Site,
    inbox: &Inbox,
    (mut reloads, mut words, stdin): (
        mpsc::Receiver<Reload>,
        mpsc::UnboundedReceiver<Word>,
        Option<oneshot::Receiver<()>>,
    ),
    log: &Log,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut stdin = pin!(async {
        match stdin {
            // The thread says so, or has ended with an error: nobody is there any more either way.
            Some(closed) => drop(closed.await),
            None => std::future::pending().await,
        }
    });
    loop {
        tokio::select! {
            why = core.ended() => anyhow::bail!("the cluster core has ended by itself ({why:?}): this is a bug"),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = &mut stdin => {
                tracing::info!("standard input is closed");
                break;
            }
            _ = hangup.recv() => {
                log.reopen();
                match site.reload().await {
                    Ok(text) => tracing::info!("{text}"),
                    Err(why) => tracing::error!("the configuration is not changed: {why}"),
                }
            }
            Some(word) = words.recv() => site.hear(word).await,
            Some(reply) = reloads.recv() => {
                let result = site.reload().await;
                if let Err(why) = &result {
                    tracing::error!("the configuration is not changed: {why}");
                }
                // Who asked may have gone.
                let _ = reply.send(result);
            }
        }
    }
    tracing::info!("the daemon is told to end: addresses move to the others, then the services stop");
    inbox.input(Input::Stop);
    Ok(())
}

/// Tells when the other end of standard input is closed, if there is one: a pipe or a socket.
fn stdin_closed() -> anyhow::Result<oneshot::Receiver<()>> {
    let (sender, closed) = oneshot::channel();
    let kind = FileType::from_raw_mode(fstat(stdin())?.st_mode);
    // Blocks, and ends with the process.
    thread::Builder::new().name("stdin".into()).stack_size(128 << 10).spawn(move || {
        if !matches!(kind, FileType::Fifo | FileType::Socket) {
            std::mem::forget(sender);
            return;
        }
        // What comes is for nobody.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // The daemon may be ending already.
        let _ = sender.send(());
    })?;
    Ok(closed)
}

/// Waits until the core has stopped and the network worker has released everything; after [`STOP`] only the latter.
async fn stop(core: &mut Running, inbox: &Inbox) {
    if core.over || timeout(STOP, core.ended()).await.is_ok() {
        return;
    }
    tracing::warn!("not everything was handed over within {} s; the addresses are released now", STOP.as_secs());
    inbox.put(Item::ToNet(net::Command::Shutdown));
    if timeout(Duration::from_secs(1), core.ended()).await.is_err() {
        tracing::debug!("the core still waits for something; its thread ends with the process");
    }
}

async fn end(
    services: JoinHandle<()>,
    events: JoinHandle<()>,
    databases: Option<Databases>,
    lock_task: JoinHandle<()>,
    lock: &mpsc::UnboundedSender<LockOrder>,
    site: Site,
    options: &Options,
) {
    let config = Arc::clone(&site.config.borrow());
    if let Some((_, task)) = &site.storage {
        task.abort();
    }
    // Fails when the task has ended.
    let _ = lock.send(LockOrder::End);
    let mut quiet = true;
    for (task, what) in [(services, "services"), (events, "event scripts'"), (lock_task, "cluster lock's")] {
        if timeout(Duration::from_secs(20), task).await.is_err() {
            quiet = false;
            tracing::warn!("the {what} task did not end in time");
        }
    }
    // Samba, their last client, has ended.
    if let Some(databases) = databases {
        databases.stop().await;
    }
    storage::unmount_lock(&config.storage, &options.run_dir, config.me).await;
    if !quiet {
        return tracing::warn!("what still runs on this node stays held from the storage until the daemon runs again");
    }
    if options.trial {
        return;
    }
    // Without nf_tables there was none.
    if let Err(error) = net::hold::remove()
        && site::evicts(&config)
    {
        tracing::warn!("this node's storage clients may stay held: {error}");
    }
}
