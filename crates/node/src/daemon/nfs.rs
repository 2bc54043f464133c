//! NFS clients' locks and open files over the loss of a node (docs/nfs.md).
//!
//! Every node reads every [`LOOK`] who is recorded with its own NFS server, and sends the list to the others when it has
//! changed (and when a link is new, and every [`REFRESH`] in any case). The core hears only whether there is anybody.
//! When it says that a node with clients is lost, this node's Ganesha is given that list and enters its grace period; until
//! it has, addresses that are taken over have their NFS ports shut. Then the NFSv3 clients are told, from those addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cluster::{Input, Pnn, RunId};
use net::{ClientConnection, Command};
use services::ganesha::{self, GraceSetup};
use services::nfs_state::records::{ROOT, STATD};
use services::nfs_state::{Clients, grace, notify};
use services::output::within;
use services::{Ask, Grace, NfsConfig, Serve};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::inbox::{Inbox, Item};
use super::newcomers::Newcomers;
use super::nfs_anew::Recent;
use super::nfs_ways::Ways;
use crate::config::Config;
use crate::peer::Peers;

/// Channel of the peer links.
pub(crate) const CHANNEL: u8 = 4;
/// With the time to read and to send, the others know of a change within a second.
const LOOK: Duration = Duration::from_millis(500);
const REFRESH: Duration = Duration::from_secs(5);
/// Between two looks at Ganesha's configuration and rpcbind's list.
const SETUP: Duration = Duration::from_secs(10);
/// Looks in a row that find no Ganesha on D-Bus before that is said: it may just be starting.
const PATIENCE: u32 = 3;
const READ: Duration = Duration::from_secs(1);
/// Ganesha enters its grace period when the operations that it would refuse have ended, or 5 s later where it has missed that.
const ENTER: Duration = Duration::from_secs(6);
/// Ports are opened after this by the kernel, whatever becomes of this daemon.
pub(crate) const SHUT: Duration = Duration::from_secs(8);
/// One who was just lost is not read again: it is the same loss, said by the view.
const SAME_LOSS: Duration = Duration::from_secs(5);
/// Clients that are told at the same time.
const AT_ONCE: usize = 64;
const WARNING: &str = "nfs grace";

/// What the task hears of.
#[derive(Debug)]
pub(crate) enum News {
    /// The core's order: these are lost.
    Grace { number: u64, nodes: BTreeSet<Pnn> },
    /// The core's order: an address by which clients of this member hold locks is to leave it.
    GraceForMove { node: Pnn, run: RunId, number: u64 },
    /// The core's order: does Ganesha answer now?
    Prove(u64),
    /// This node's storage clients are held: what was proved before says nothing of what they have in hand.
    LeaseLost,
    /// The core's order: this address has left this node by plan; `end`: and the NFS server hangs.
    LetGo { vip: IpAddr, end: bool },
    /// The clients' connections to addresses of this node.
    Connections(Vec<ClientConnection>),
    /// The network worker holds an address.
    Taken(IpAddr),
    /// It does not any more.
    Released(IpAddr),
    /// This node's NFS server has ended and begun anew, and answers.
    BegunAnew,
    /// A peer's list.
    Frame { from: Pnn, bytes: Vec<u8> },
}

/// Puts news in; for the core's thread and those of the links.
pub(crate) type Sender = UnboundedSender<News>;

/// What Ganesha was asked to enter its grace period for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Lost nodes, by the number of the core's order.
    Loss(u64),
    /// A planned move of this node's.
    Move { node: Pnn, run: RunId, number: u64 },
}

/// A node that was lost with clients, or that an address of theirs leaves.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) since: Instant,
    /// Its clients may reclaim until then.
    pub(super) until: Instant,
    pub(super) clients: Arc<Clients>,
    pub(super) entered: bool,
    /// It lives on.
    pub(super) planned: bool,
    /// Addresses from which its clients were told.
    told: BTreeSet<IpAddr>,
}

/// Parts that a test may leave out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InUse {
    /// Grace periods.
    pub(crate) grace: bool,
    /// Letting go of locks after a planned move.
    pub(crate) let_go: bool,
    /// Ending what hangs then.
    pub(crate) end: bool,
}

/// The task.
#[derive(Debug)]
pub(crate) struct Nfs {
    pub(super) inbox: Inbox,
    peers: Peers,
    pub(super) config: watch::Receiver<Arc<Config>>,
    serve: watch::Receiver<Serve>,
    /// Ports that are shut until Ganesha is in its grace period; for the core's thread.
    ports: watch::Sender<Vec<u16>>,
    pub(super) in_use: InUse,
    /// Who is recorded here, and what the others were told of it.
    pub(super) recorded: Clients,
    /// Hosts that had NFSv3 locks here a moment ago.
    pub(super) recent: Recent,
    own: Clients,
    others: BTreeMap<Pnn, Arc<Clients>>,
    pub(super) lost: BTreeMap<Pnn, Lost>,
    /// Addresses of this node and since when they are here.
    pub(super) held: BTreeMap<IpAddr, Instant>,
    pub(super) ways: Ways,
    /// What the core knows of addresses by which clients hold something.
    pub(super) said: (BTreeSet<IpAddr>, bool),
    pub(super) setup: Result<GraceSetup, String>,
    warned: String,
    newcomers: Newcomers,
    refresh: Instant,
    setup_at: Instant,
    /// How often in a row Ganesha could not be reached.
    bus_silent: u32,
    looking: JoinSet<(Option<SetupNews>, Result<Clients, String>)>,
    /// Ganesha's answers: for which loss, and whether it is in its grace period.
    entering: JoinSet<(For, BTreeSet<Pnn>, Result<(), String>)>,
    /// Addresses that have left, who had something by them, and whether Ganesha has let go.
    pub(super) letting_go: JoinSet<(IpAddr, Clients, Result<(), String>)>,
    /// When Ganesha last proved that it answers; not while the next proof is awaited.
    pub(super) proved: watch::Sender<Option<Instant>>,
    /// Where the shared mount is asked, and what hangs is ended.
    pub(super) asks: UnboundedSender<Ask>,
    /// Addresses that wait for that, and its end.
    pub(super) ending: JoinSet<Result<(), String>>,
    pub(super) ending_for: BTreeSet<IpAddr>,
    telling: JoinSet<()>,
    few: Arc<Semaphore>,
}

impl Nfs {
    pub(crate) fn new(
        inbox: Inbox,
        peers: Peers,
        config: watch::Receiver<Arc<Config>>,
        serve: watch::Receiver<Serve>,
        ports: watch::Sender<Vec<u16>>,
        (in_use, asks): (InUse, UnboundedSender<Ask>),
    ) -> Self {
        Self {
            inbox,
            peers,
            config,
            serve,
            ports,
            in_use,
            recorded: Clients::default(),
            recent: Recent::default(),
            own: Clients::default(),
            others: BTreeMap::new(),
            lost: BTreeMap::new(),
            held: BTreeMap::new(),
            ways: Ways::default(),
            said: (BTreeSet::new(), false),
            setup: Err("NFS-Ganesha's configuration has not been looked at yet".to_owned()),
            warned: String::new(),
            newcomers: Newcomers::default(),
            refresh: Instant::now(),
            setup_at: Instant::now(),
            bus_silent: 0,
            looking: JoinSet::new(),
            entering: JoinSet::new(),
            letting_go: JoinSet::new(),
            proved: watch::Sender::new(None),
            asks,
            ending: JoinSet::new(),
            ending_for: BTreeSet::new(),
            telling: JoinSet::new(),
            few: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Runs until nobody sends news any more.
    pub(crate) async fn run(mut self, mut news: UnboundedReceiver<News>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                news = news.recv() => match news {
                    Some(news) => self.take(news),
                    None => return,
                },
                Some(Ok((what, nodes, entered))) = self.entering.join_next(), if !self.entering.is_empty() => {
                    self.entered(what, nodes, entered);
                }
                Some(Ok((vip, clients, done))) = self.letting_go.join_next(), if !self.letting_go.is_empty() => {
                    self.has_let_go(vip, &clients, done);
                }
                Some(Ok(done)) = self.ending.join_next(), if !self.ending.is_empty() => self.has_ended(&done),
                Some(_) = self.telling.join_next(), if !self.telling.is_empty() => {}
                Some(Ok((news, clients))) = self.looking.join_next(), if !self.looking.is_empty() => {
                    self.looked(news, clients);
                }
                _ = look.tick() => self.look(),
            }
        }
    }

    pub(super) fn wanted(&self) -> bool {
        let nfs = &self.config.borrow().services.nfs;
        nfs.enabled && nfs.grace == Grace::WhenNeeded
    }

    fn take(&mut self, news: News) {
        match news {
            News::Taken(vip) => {
                self.held.entry(vip).or_insert_with(Instant::now);
                self.say_locks();
                self.tell();
            }
            News::Released(vip) => {
                self.held.remove(&vip);
                self.lost.values_mut().for_each(|lost| {
                    lost.told.remove(&vip);
                });
                self.say_locks();
            }
            News::Frame { from, bytes } => match serde_json::from_slice::<Clients>(&bytes) {
                Ok(clients) => drop(self.others.insert(from, Arc::new(clients.checked()))),
                Err(error) => tracing::warn!(node = from.0, "an unreadable list of NFS clients: {error}"),
            },
            News::Grace { number, nodes } => self.enter_for_lost(number, nodes),
            News::GraceForMove { node, run, number } => self.enter_for_move(node, (run, number)),
            News::Prove(number) => self.prove(number),
            News::BegunAnew => self.begun_anew(),
            News::LeaseLost => drop(self.proved.send_replace(None)),
            News::LetGo { vip, end: true } => self.end(vip),
            News::LetGo { vip, end: false } => self.let_go(vip),
            News::Connections(list) => {
                let port = self.config.borrow().services.nfs.probe_address.port();
                self.ways.connected(&list, port, &self.recorded);
                self.say_locks();
            }
        }
    }

    /// Begins another look, unless one has not ended.
    fn look(&mut self) {
        let now = Instant::now();
        self.lost.retain(|_, lost| lost.until > now);
        if !self.looking.is_empty() {
            return;
        }
        let nfs = self.config.borrow().services.nfs.clone();
        if !self.wanted() {
            self.setup = Err("the grace period is never entered, by configuration".to_owned());
            self.ports.send_if_modified(|ports| !std::mem::take(ports).is_empty());
            self.warn("");
            self.found(Clients::default());
        }
        if !nfs.enabled {
            return self.keep(Clients::default());
        }
        let again = self.wanted() && self.setup_at <= now;
        if again {
            self.setup_at = now + SETUP;
        }
        let (setup, serves) = (self.setup.clone(), *self.serve.borrow() == Serve::On);
        self.looking.spawn(async move {
            let news = if again { Some(look_at_setup(&nfs, serves).await) } else { None };
            // Where Ganesha's own records are elsewhere, rpc.statd's are read.
            let root = root_of(news.as_ref().map_or(&setup, |news| &news.setup));
            (news, read(root).await)
        });
    }

    fn looked(&mut self, news: Option<SetupNews>, clients: Result<Clients, String>) {
        if let Ok(clients) = &clients {
            self.keep(clients.clone());
        }
        if !self.wanted() {
            return;
        }
        let unreadable = clients.as_ref().err().cloned();
        if let Some(SetupNews { setup, ports, bus }) = news {
            let ports = if self.in_use.grace { ports } else { Vec::new() };
            self.ports.send_if_modified(|known| std::mem::replace(known, ports.clone()) != ports);
            self.bus_silent = if bus.is_some() { self.bus_silent + 1 } else { 0 };
            let bus = bus.filter(|_| self.bus_silent >= PATIENCE);
            let warning = match &setup {
                Err(why) => why.clone(),
                Ok(setup) => bus.or(unreadable).unwrap_or_else(|| setup.warning.clone()),
            };
            self.setup = setup;
            self.warn(&warning);
        }
        // What cannot be read is as it was.
        if let Ok(clients) = clients {
            self.found(if self.setup.is_ok() { clients } else { Clients::default() });
        }
    }

    /// Who is recorded here, to the others and to the core.
    fn found(&mut self, found: Clients) {
        let now = Instant::now();
        let (before, after) = (self.own.is_empty(), found.is_empty());
        let changed = self.own != found;
        self.own = found;
        if before != after {
            self.inbox.input(Input::NfsClients(!after));
        }
        if self.newcomers.look(&self.peers.links()) || changed || self.refresh <= now {
            self.refresh = now + REFRESH;
            match serde_json::to_vec(&self.own) {
                Ok(bytes) => {
                    for link in self.peers.links() {
                        // Without a link it learns of them later, by the refresh.
                        self.peers.send_bytes(link.peer, CHANNEL, &bytes);
                    }
                }
                Err(error) => tracing::warn!("the list of NFS clients cannot be sent: {error}"),
            }
        }
    }

    fn warn(&mut self, why: &str) {
        if self.warned == why || !self.in_use.grace {
            return;
        }
        why.clone_into(&mut self.warned);
        let text = match why {
            "" => String::new(),
            why => format!("locks of NFS clients do not outlive the loss of a node: {why} (docs/nfs.md)"),
        };
        self.inbox.input(Input::Warning { key: WARNING.to_owned(), text });
    }

    /// These nodes are lost: Ganesha is given their clients.
    fn enter_for_lost(&mut self, number: u64, nodes: BTreeSet<Pnn>) {
        let now = Instant::now();
        let done = |lost: &Lost| !lost.planned && lost.entered && now < lost.since + SAME_LOSS;
        let new = nodes.iter().filter(|node| !self.lost.get(node).is_some_and(done)).copied().collect();
        self.enter(For::Loss(number), nodes, &new);
    }

    /// The clients of a node as it has said last; this one's own.
    pub(super) fn clients_of(&self, node: Pnn) -> Arc<Clients> {
        if node == self.config.borrow().me {
            return Arc::new(self.own.clone());
        }
        self.others.get(&node).cloned().unwrap_or_default()
    }

    /// Ganesha is given the clients of those of these nodes that are new.
    pub(super) fn enter(&mut self, what: For, nodes: BTreeSet<Pnn>, new: &BTreeSet<Pnn>) {
        let setup = match &self.setup {
            Ok(setup) if self.wanted() && self.in_use.grace => setup.clone(),
            Err(why) if self.wanted() && self.in_use.grace => return self.graced(what, Some(why.clone())),
            _ => return self.graced(what, None),
        };
        let now = Instant::now();
        if new.is_empty() {
            return self.graced(what, None);
        }
        let mut todo = Vec::new();
        for node in new {
            let clients = self.clients_of(*node);
            tracing::info!(
                node = node.0,
                "{} NFSv4 clients and {} hosts with NFSv3 locks may reclaim for {} s",
                clients.v4.len(),
                clients.nlm.len(),
                setup.period.as_secs()
            );
            let lost = Lost {
                since: now,
                until: now + setup.period,
                clients: Arc::clone(&clients),
                entered: false,
                planned: matches!(what, For::Move { .. }),
                told: BTreeSet::new(),
            };
            self.lost.insert(*node, lost);
            todo.push((grace::label(node.0), clients));
        }
        self.entering.spawn(async move { (what, nodes, enter_all(setup, todo).await) });
    }

    fn entered(&mut self, what: For, nodes: BTreeSet<Pnn>, entered: Result<(), String>) {
        match entered {
            Ok(()) => {
                for node in &nodes {
                    if let Some(lost) = self.lost.get_mut(node) {
                        lost.entered = true;
                    }
                }
                self.graced(what, None);
                self.tell();
            }
            Err(why) => {
                tracing::error!("Ganesha is not in its grace period: {why}");
                nodes.iter().for_each(|node| drop(self.lost.remove(node)));
                self.graced(what, Some(why));
            }
        }
    }

    fn graced(&self, what: For, because: Option<String>) {
        self.inbox.input(match what {
            For::Loss(number) => Input::Graced { number, because },
            For::Move { node, run, number } => Input::GracedForMove { node, run, number, because },
        });
        if self.entering.is_empty() {
            self.inbox.put(Item::ToNet(Command::Reopen));
        }
    }

    /// Tells the lost nodes' NFSv3 clients, from every address that came since.
    fn tell(&mut self) {
        let mut due = Vec::new();
        // This node's own clients are told when Ganesha has let go of them.
        let me = self.config.borrow().me;
        for (_, lost) in self.lost.iter_mut().filter(|(node, lost)| **node != me && lost.entered) {
            for (vip, _) in self.held.iter().filter(|(_, since)| **since >= lost.since) {
                if lost.told.insert(*vip) {
                    due.extend(reachable(&lost.clients.nlm, *vip).map(|client| (client, *vip, lost.until)));
                }
            }
        }
        due.into_iter().for_each(|(client, vip, until)| self.tell_one(client, vip, until));
    }

    /// Tells a client that the server at this address has begun anew.
    pub(super) fn tell_one(&mut self, client: String, vip: IpAddr, until: Instant) {
        // Grows by more than one from loss to loss, and differs from what the lost node would say.
        let tenths = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_millis() / 100);
        let state = u32::try_from(tenths & u128::from(u32::MAX)).unwrap_or(1);
        let few = Arc::clone(&self.few);
        self.telling.spawn(async move {
            let Ok(_turn) = few.acquire().await else { return };
            match notify::tell(vip, &client, state, until).await {
                Ok(()) => tracing::info!(
                    "{client} was told that the NFS server at {vip} is another one: it reclaims its locks"
                ),
                Err(why) => tracing::warn!("{client} was not told that its locks are to be reclaimed: {why}"),
            }
        });
    }
}

/// Where Ganesha's records are, as far as its configuration was understood.
pub(super) fn root_of(setup: &Result<GraceSetup, String>) -> PathBuf {
    setup.as_ref().map_or_else(|_| PathBuf::from(ROOT), |setup| setup.root.clone())
}

/// Clients by names, and those with addresses of the same family.
pub(super) fn reachable(clients: &BTreeSet<String>, vip: IpAddr) -> impl Iterator<Item = String> {
    let fits = move |client: &&String| {
        client.parse::<IpAddr>().map_or(true, |address| address.to_canonical().is_ipv4() == vip.is_ipv4())
    };
    clients.iter().filter(fits).cloned()
}

/// What Ganesha's configuration, rpcbind and D-Bus say.
#[derive(Debug)]
struct SetupNews {
    setup: Result<GraceSetup, String>,
    ports: Vec<u16>,
    /// Why Ganesha cannot be reached.
    bus: Option<String>,
}

async fn look_at_setup(nfs: &NfsConfig, serves: bool) -> SetupNews {
    let mut ports = vec![nfs.probe_address.port()];
    ports.extend(notify::lock_manager_ports().await);
    ports.sort_unstable();
    ports.dedup();
    // Where nothing is served, Ganesha does not run.
    let bus = if serves { grace::reachable(READ).await.err().map(|error| error.to_string()) } else { None };
    SetupNews { setup: ganesha::grace_setup(nfs).await, ports, bus }
}

pub(super) async fn read(root: PathBuf) -> Result<Clients, String> {
    match within(READ, move || Clients::read(&root, &STATD.map(Into::into))).await {
        Some(Ok(found)) => Ok(found),
        Some(Err(error)) => Err(format!("who has locks cannot be read: {error}")),
        None => Err("who has locks cannot be read: the disk does not answer".to_owned()),
    }
}

async fn enter_all(setup: GraceSetup, lost: Vec<(String, Arc<Clients>)>) -> Result<(), String> {
    for (label, clients) in lost {
        let (root, name) = (setup.root.clone(), label.clone());
        match within(READ, move || clients.write(&root, &name)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                return Err(format!("its clients cannot be written below {}: {error}", setup.root.display()));
            }
            None => return Err(format!("its clients cannot be written: {} does not answer", setup.root.display())),
        }
        grace::enter(&label, ENTER).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_can_be_reached_from_an_address_is_told() {
        let clients: BTreeSet<String> = ["10.0.0.7", "fd00::7", "::ffff:10.0.0.8", "client9"].map(String::from).into();
        let from = |vip: &str| reachable(&clients, vip.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(from("10.0.0.1"), ["10.0.0.7", "::ffff:10.0.0.8", "client9"]);
        assert_eq!(from("fd00::1"), ["client9", "fd00::7"]);
    }
}
