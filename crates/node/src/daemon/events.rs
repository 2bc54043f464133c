//! CTDB's event scripts: when each event happens, and what comes of `init`, `setup`, `startup` and `monitor`.
//!
//! ```text
//!   init ─> setup ─> (the node is a member) startup ─> monitor, again and again ─> health of "events"
//!                      └ failed: again after 5 s
//!   network worker: taken, released ─> takeip, releaseip      view ─> startrecovery, recovered
//!   addresses begin to move ─> startipreallocate      all are at rest again ─> ipreallocated
//!   the daemon ends ─> shutdown
//! ```
//!
//! The scripts are told and never asked: no address, view or database waits for one. Their only say is the health of the
//! node, as with every other service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Epoch, Health, Input, Pnn, ServiceHealth, Snapshot, VipState};
use services::Serve;
use services::config::EventsConfig;
use services::events::{BuiltIn, Event, Events, Outcome, Plan, Record};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::eventd;
use super::facts::Facts;
use super::inbox::Inbox;
use crate::config::{Config, EVENTS};

/// After an `init`, `setup` or `startup` that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Between `monitor` events; doubled from one to the next that finds the same, up to the configured interval.
const FIRST: Duration = Duration::from_secs(2);
/// After a change of health.
const CHANGED: Duration = Duration::from_secs(5);
/// After a `monitor` that was pushed aside.
const CANCELLED: Duration = Duration::from_secs(1);
/// What an ending daemon gives the scripts.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// What the network worker has done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moved {
    Taken(IpAddr),
    Released(IpAddr),
}

/// The next event whose outcome counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Init,
    Setup,
    Startup,
    Monitor,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Setup => "setup",
            Self::Startup => "startup",
            Self::Monitor => "monitor",
        }
    }
}

/// The scripts, while they are wanted.
#[derive(Debug)]
struct Running {
    config: EventsConfig,
    built_in: BuiltIn,
    events: Events,
    /// Answers the `ctdb` tool.
    socket: AbortHandle,
    step: Step,
    /// When the step is taken, unless it is under way.
    next: Instant,
    /// What is under way.
    outcome: Option<(Step, oneshot::Receiver<Outcome>)>,
    interval: Duration,
    /// `monitor` events in a row that did not end in time.
    late: u32,
    said: Option<ServiceHealth>,
}

impl Running {
    /// When the next step is to be taken: none while one is under way, or while the node does not serve.
    fn due(&self, serves: bool) -> Option<Instant> {
        let now = match self.step {
            Step::Init | Step::Setup => true,
            Step::Startup | Step::Monitor => serves,
        };
        (now && self.outcome.is_none()).then_some(self.next)
    }
}

/// What the scripts were told of the cluster.
#[derive(Debug, Default)]
struct Seen {
    epoch: Option<Epoch>,
    recovering: bool,
    holders: BTreeMap<IpAddr, Option<Pnn>>,
    /// They know that addresses move, and not yet that all are at rest again.
    moving: bool,
}

/// The task.
#[derive(Debug)]
pub(crate) struct EventsTask {
    inbox: Inbox,
    facts: Facts,
    config: watch::Receiver<Arc<Config>>,
    running: Option<Running>,
    seen: Seen,
    /// Where addresses are that were told as taken.
    taken: BTreeMap<IpAddr, (String, u8)>,
}

impl EventsTask {
    pub(crate) fn new(inbox: Inbox, facts: Facts, config: watch::Receiver<Arc<Config>>) -> Self {
        Self { inbox, facts, config, running: None, seen: Seen::default(), taken: BTreeMap::new() }
    }

    /// Runs until the core has ended; the scripts hear of that last.
    pub(crate) async fn run(
        mut self,
        mut moved: mpsc::UnboundedReceiver<Moved>,
        mut serve: watch::Receiver<Serve>,
        mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    ) {
        let mut config = self.config.clone();
        self.configure();
        loop {
            // Not marked as seen: a change is still to be told below.
            let serves = *serve.borrow() == Serve::On;
            let due = self.running.as_ref().and_then(|running| running.due(serves));
            let pending = self.running.as_mut().and_then(|running| running.outcome.as_mut());
            tokio::select! {
                // What the network worker has done before what came of it: a snapshot that shows all addresses at rest is
                // younger than the moves that it shows.
                biased;
                moved = moved.recv() => match moved {
                    Some(moved) => self.moved(moved),
                    None => break,
                },
                outcome = async { match pending {
                    Some((step, outcome)) => (*step, outcome.await),
                    None => std::future::pending().await,
                } } => self.ended(outcome.0, outcome.1.ok(), serves),
                () = async { match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                } } => self.take_step(),
                Ok(()) = snapshots.changed() => {
                    let snapshot = snapshots.borrow_and_update().clone();
                    if let Some(snapshot) = snapshot {
                        self.look(&snapshot);
                    }
                }
                Ok(()) = serve.changed() => {
                    let serves = *serve.borrow_and_update() == Serve::On;
                    self.served(serves);
                }
                Ok(()) = config.changed() => {
                    config.borrow_and_update();
                    self.configure();
                }
            }
        }
        self.end().await;
    }

    /// Starts the scripts' runner, or ends it, as the configuration says.
    fn configure(&mut self) {
        let services = self.config.borrow().services.clone();
        let config = services.events;
        let built_in = BuiltIn { samba: services.samba.enabled, nfs: services.nfs.enabled };
        if let Some(running) = self.running.take_if(|r| r.config != config || r.built_in != built_in) {
            running.socket.abort();
        }
        if !config.enabled || self.running.is_some() {
            return;
        }
        let plan = Plan {
            base: config.base.clone(),
            built_in,
            timeout: Duration::from_secs(config.timeout),
            hung: (!config.debug_script.as_os_str().is_empty()).then(|| PathBuf::from(&config.debug_script)),
        };
        tracing::info!("event scripts in {} are run", plan.base.join("events/legacy").display());
        let (events, _) = Events::spawn(plan);
        let socket = tokio::spawn(eventd::serve(config.socket.clone(), events.clone())).abort_handle();
        self.running = Some(Running {
            config,
            built_in,
            events,
            socket,
            step: Step::Init,
            next: Instant::now(),
            outcome: None,
            interval: FIRST,
            late: 0,
            said: None,
        });
        self.tell(Health::Starting, "the event scripts have not run yet".into(), Vec::new());
    }

    /// An address has come or gone: said when it is so.
    fn moved(&mut self, moved: Moved) {
        let event = match moved {
            Moved::Taken(address) => {
                let config = self.config.borrow();
                let Some(vip) = config.vips.get(&address) else { return };
                let Some(interface) = vip.hosts.get(&config.me).cloned() else { return };
                let place = (interface, vip.prefix_len);
                if self.taken.get(&address) == Some(&place) {
                    return;
                }
                let event = Event::address("takeip", &place.0, address, place.1);
                self.taken.insert(address, place);
                event
            }
            Moved::Released(address) => {
                // Of addresses that were not here nothing is said.
                let Some((interface, prefix)) = self.taken.remove(&address) else { return };
                Event::address("releaseip", &interface, address, prefix)
            }
        };
        self.addresses_move();
        self.happened(event);
    }

    /// Said once, until all addresses are at rest again.
    fn addresses_move(&mut self) {
        if !std::mem::replace(&mut self.seen.moving, true) {
            self.happened(Event::new("startipreallocate"));
        }
    }

    fn happened(&self, event: Event) {
        if let Some(running) = &self.running {
            running.events.happened(event);
        }
    }

    /// What the cluster's state means for the scripts.
    fn look(&mut self, snapshot: &Snapshot) {
        let epoch = snapshot.view.as_ref().filter(|_| snapshot.member).map(|view| view.epoch);
        if epoch.is_some() && epoch != self.seen.epoch {
            self.seen.recovering = true;
            self.happened(Event::new("startrecovery"));
        }
        self.seen.epoch = epoch;
        if self.seen.recovering && epoch.is_some() && snapshot.lease.valid {
            self.seen.recovering = false;
            self.happened(Event::new("recovered"));
        }
        let holders: BTreeMap<IpAddr, Option<Pnn>> = snapshot.vips.iter().map(|(vip, v)| (*vip, v.holder)).collect();
        let moving = snapshot.vips.values().any(|vip| vip.state == VipState::Moving);
        if moving || holders != self.seen.holders {
            self.addresses_move();
        }
        self.seen.holders = holders;
        if !moving && std::mem::take(&mut self.seen.moving) {
            self.happened(Event::new("ipreallocated"));
        }
    }

    /// The node may serve, or must not.
    fn served(&mut self, serves: bool) {
        let Some(running) = &mut self.running else { return };
        if serves {
            running.next = Instant::now();
            running.interval = FIRST;
            self.tell(Health::Starting, "the event scripts have not run since the node serves".into(), Vec::new());
        } else {
            self.tell(Health::Off, "this node does not serve".into(), Vec::new());
        }
    }

    fn take_step(&mut self) {
        let Some(running) = &mut self.running else { return };
        let outcome = running.events.run(Event::new(running.step.name()));
        running.outcome = Some((running.step, outcome));
    }

    /// A step is done; no outcome: the runner has ended.
    fn ended(&mut self, step: Step, outcome: Option<Outcome>, serves: bool) {
        let Some(running) = &mut self.running else { return };
        running.outcome = None;
        let record = match outcome {
            Some(Outcome::Done(record)) => record,
            // Something else was more urgent: as soon as that is done.
            Some(Outcome::Cancelled) => {
                running.next = Instant::now() + CANCELLED;
                return;
            }
            None => {
                running.next = Instant::now() + AGAIN;
                return self.tell(Health::Failed, "the task that runs the event scripts has ended".into(), Vec::new());
            }
        };
        let failure =
            record.failure().map(|(ran, why)| (why, ran.output.lines().map(str::to_owned).collect::<Vec<_>>()));
        match (step, failure) {
            (Step::Monitor, failure) => self.monitored(&record, failure, serves),
            (step, Some((why, output))) => {
                running.next = Instant::now() + AGAIN;
                let because = format!("{} failed, it is tried again every {} s: {why}", step.name(), AGAIN.as_secs());
                self.tell(Health::Failed, because, output);
            }
            (step, None) => {
                running.step = match step {
                    Step::Init => Step::Setup,
                    Step::Setup => Step::Startup,
                    Step::Startup | Step::Monitor => Step::Monitor,
                };
                running.next = Instant::now();
                self.tell(Health::Starting, format!("{} has run", step.name()), Vec::new());
            }
        }
    }

    fn monitored(&mut self, record: &Record, failure: Option<(String, Vec<String>)>, serves: bool) {
        let Some(running) = &mut self.running else { return };
        let healthy = running.said.as_ref().map(|health| health.state == Health::Ok);
        let in_time = !record.timed_out();
        running.late = if in_time { 0 } else { running.late + 1 };
        let patient = !in_time && running.late < running.config.monitor_timeouts && healthy == Some(true);
        let now_healthy = failure.is_none() || patient;
        let longest = Duration::from_secs(running.config.monitor_interval);
        running.interval = match healthy == Some(now_healthy) {
            true => (running.interval * 2).min(longest),
            false => CHANGED.min(longest),
        };
        running.next = Instant::now() + running.interval;
        // What it found out while the node was stopped is old.
        if !serves {
            return;
        }
        match failure {
            Some((why, output)) if !patient => self.tell(Health::Failed, why, output),
            Some((why, output)) => {
                let most = running.config.monitor_timeouts;
                let because = format!("{why}: {} of {most} times in a row", running.late);
                self.tell(Health::Ok, because, output);
            }
            None => self.tell(Health::Ok, String::new(), Vec::new()),
        }
    }

    /// Tells core and operator, if it is news.
    fn tell(&mut self, state: Health, because: String, output: Vec<String>) {
        let Some(running) = &mut self.running else { return };
        let health = ServiceHealth { state, because, output };
        if running.said.as_ref() == Some(&health) {
            return;
        }
        running.said = Some(health.clone());
        self.facts.service(EVENTS, health.clone());
        self.inbox.input(Input::Service { name: EVENTS.to_owned(), health });
    }

    async fn end(mut self) {
        let Some(running) = self.running.take() else { return };
        let limit = SHUTDOWN.min(Duration::from_secs(running.config.timeout));
        let outcome = running.events.run_within(Event::new("shutdown"), Some(limit), false);
        if timeout(SHUTDOWN, outcome).await.is_err() {
            tracing::warn!(
                "the event scripts did not end within {} s; what they still do is killed",
                SHUTDOWN.as_secs()
            );
        }
        running.socket.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{Item, Outlet, inbox};
    use super::*;
    use crate::config::{Machine, load_text};
    use crate::databases::picture::tests::snapshot;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use tempfile::TempDir;

    const SCRIPT: &str =
        "#!/bin/sh\necho \"$@\" >>\"$CTDB_BASE/log\"\n[ ! -e \"$CTDB_BASE/sick-$1\" ] || { echo ill; exit 2; }\n";

    fn config(base: &Path) -> Arc<Config> {
        let text = format!(
            "[cluster]\nname = \"x\"\n[[node]]\nname = \"a\"\naddresses = [\"10.0.0.1\"]\n[storage]\nkind = \"none\"\n\
             [[vip]]\naddress = \"192.168.1.201/24\"\ninterface = \"eth0\"\n\
             [events]\nenabled = true\nbase = \"{0}\"\nsocket = \"{0}/eventd.socket\"\nmonitor_interval = 1\n",
            base.display()
        );
        let machine = Machine {
            addresses: ["10.0.0.1".parse().unwrap()].into(),
            interfaces: ["eth0".to_owned()].into(),
            hostname: "a".into(),
            node: None,
            loopback: false,
        };
        Arc::new(load_text(Path::new("steadfast.toml"), &text, &machine).unwrap_or_else(|p| panic!("{p}")))
    }

    /// Waits until the core is told this state; the reason.
    async fn until(outlet: &Outlet, state: Health) -> ServiceHealth {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            match outlet.next(Duration::ZERO) {
                Ok(Some(Item::Input(Input::Service { name, health }))) if name == EVENTS && health.state == state => {
                    return health;
                }
                Ok(Some(_)) => {}
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("never {state:?}");
    }

    /// CTDB's directory with one script.
    fn site() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("events/legacy");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("01.a.script"), SCRIPT).unwrap();
        fs::set_permissions(folder.join("01.a.script"), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    /// What the script was told, but for `monitor`.
    fn told(dir: &TempDir) -> Vec<String> {
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| *line != "monitor").map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn the_scripts_say_is_the_nodes_health() {
        let dir = site();
        let sick = |event: &str| dir.path().join(format!("sick-{event}"));
        let (inbox, outlet) = inbox();
        let config = config(dir.path());
        assert!(config.core().services.contains(EVENTS));
        let (_config, seen) = watch::channel(config);
        let (serve, serves) = watch::channel(Serve::Off);
        let (_snapshots, snapshots) = watch::channel(None);
        let (moved, moves) = mpsc::unbounded_channel();
        fs::write(sick("setup"), "").unwrap();
        let task = tokio::spawn(EventsTask::new(inbox, Facts::default(), seen).run(moves, serves, snapshots));
        let why = until(&outlet, Health::Failed).await.because;
        assert!(why.starts_with("setup failed, it is tried again") && why.contains("status 2: ill"), "{why}");
        fs::remove_file(sick("setup")).unwrap();
        serve.send_replace(Serve::On);
        until(&outlet, Health::Ok).await;
        fs::write(sick("monitor"), "").unwrap();
        let health = until(&outlet, Health::Failed).await;
        assert_eq!(health.because, "01.a.script ended with exit status 2: ill");
        assert_eq!(health.output, ["ill"]);
        fs::remove_file(sick("monitor")).unwrap();
        until(&outlet, Health::Ok).await;
        let vip = "192.168.1.201".parse().unwrap();
        for word in [Moved::Released(vip), Moved::Taken(vip), Moved::Taken(vip)] {
            moved.send(word).unwrap();
        }
        serve.send_replace(Serve::Off);
        until(&outlet, Health::Off).await;
        drop(moved);
        task.await.unwrap();
        let expected =
            ["init", "setup", "setup", "startup", "startipreallocate", "takeip eth0 192.168.1.201 24", "shutdown"];
        assert_eq!(told(&dir), expected);
    }

    #[tokio::test]
    async fn a_move_of_addresses_begins_and_ends_once() {
        let dir = site();
        let (inbox, outlet) = inbox();
        let config = config(dir.path());
        let vip = "192.168.1.201".parse().unwrap();
        let seen = |state, holder| {
            let mut snapshot = snapshot(&config);
            let status = Arc::make_mut(snapshot.vips.get_mut(&vip).unwrap());
            (status.state, status.holder) = (state, Some(Pnn(holder)));
            Some(Arc::new(snapshot))
        };
        let (_config, configured) = watch::channel(Arc::clone(&config));
        let (_serve, serves) = watch::channel(Serve::Off);
        let (snapshots, shown) = watch::channel(None);
        let (moved, moves) = mpsc::unbounded_channel();
        let mut expected = vec!["init", "setup"];
        let task = tokio::spawn(EventsTask::new(inbox, Facts::default(), configured).run(moves, serves, shown));
        let await_told = async |expected: &[&str]| {
            let start = Instant::now();
            while told(&dir) != expected {
                assert!(start.elapsed() < Duration::from_secs(30), "{:?}, not {expected:?}", told(&dir));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        await_told(&expected).await;
        snapshots.send_replace(seen(VipState::Held, 0));
        expected.extend(["startrecovery", "recovered", "startipreallocate", "ipreallocated"]);
        await_told(&expected).await;
        // It comes here: the network worker's word, and then what the core makes of it.
        snapshots.send_replace(seen(VipState::Moving, 0));
        expected.push("startipreallocate");
        await_told(&expected).await;
        moved.send(Moved::Taken(vip)).unwrap();
        snapshots.send_replace(seen(VipState::Held, 0));
        expected.extend(["takeip eth0 192.168.1.201 24", "ipreallocated"]);
        await_told(&expected).await;
        // It goes before anything was seen of that.
        moved.send(Moved::Released(vip)).unwrap();
        expected.extend(["startipreallocate", "releaseip eth0 192.168.1.201 24"]);
        await_told(&expected).await;
        snapshots.send_replace(seen(VipState::Moving, 0));
        snapshots.send_replace(seen(VipState::Held, 1));
        expected.push("ipreallocated");
        await_told(&expected).await;
        drop(moved);
        task.await.unwrap();
        drop(outlet);
        expected.push("shutdown");
        assert_eq!(told(&dir), expected);
    }
}
