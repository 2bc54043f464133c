//! Starts, feeds and obeys the servers; delays of files and of the picture.

use super::{Databases, Event, Node, PERSISTENT, Process, VOLATILE, talk};
use crate::clock::{MS, S};
use crate::event::What;
use crate::world::World;
use cluster::{AdminState, Snapshot, View};
use ctdb::database::Kind;
use ctdb::node::flags;
use ctdb::recovery::Have;
use ctdb::server::{ClientId, Input, NodeFacts, Now, Output, Picture, Server};
use ctdb::srvid;
use ctdb::wire::{Body, LtdbHeader, Packet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// 2026, as far as anybody cares.
const WALL: Duration = Duration::from_secs(1_800_000_000);

/// The cluster as a server shall see it.
fn picture(snapshot: &Snapshot) -> Picture {
    let members = snapshot.view.as_ref().map(|view| {
        let others = view.members.keys().filter(|pnn| **pnn != snapshot.me || snapshot.member);
        others.map(|pnn| u32::from(pnn.0)).collect()
    });
    let nodes = snapshot.nodes.iter().map(|(pnn, node)| NodeFacts {
        pnn: u32::from(pnn.0),
        flags: if node.member { 0 } else { flags::STOPPED },
        address: SocketAddr::new(node.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 4390),
    });
    Picture {
        epoch: snapshot.view.as_deref().map_or(0, View::number),
        members: members.unwrap_or_default(),
        idle: snapshot
            .nodes
            .iter()
            .filter(|(_, node)| node.member && matches!(node.admin, AdminState::Stopped | AdminState::Banned))
            .map(|(pnn, _)| u32::from(pnn.0))
            .collect(),
        leader: snapshot.leader.map(|pnn| u32::from(pnn.0)),
        leased: snapshot.lease.valid,
        harmless: snapshot.harmless,
        nodes: nodes.collect(),
        ..Picture::default()
    }
}

impl World {
    fn databases_after(&mut self, delay: u64, host: usize, event: Event) {
        let generation = self.hosts[host].generation;
        self.after(delay, What::Databases { host, generation, event: Box::new(event) });
    }

    /// The site runs databases from now on.
    pub fn with_databases(&mut self) {
        self.databases = Some(Box::new(Databases::new(self.hosts.len(), self.rng.fork(0xdb))));
        self.setup.databases = true;
        for host in &mut self.hosts {
            host.config.databases = true;
        }
        for host in 0..self.hosts.len() {
            if !self.setup.is_witness(host) {
                self.databases_after(MS, host, Event::Work);
            }
        }
    }

    pub(crate) fn databases_event(&mut self, host: usize, generation: u64, event: Event) {
        if matches!(event, Event::Work) {
            // Processes come and go with any daemon.
            let delay = self.databases.as_mut().map_or(S, |d| d.some(2_000..=25_000));
            self.databases_after(delay, host, Event::Work);
            self.address_leaves(host);
            self.look_at_rest(host);
            return self.work(host);
        }
        if !self.is_current(host, generation) {
            return;
        }
        match event {
            Event::Look => self.databases_look(host),
            Event::File { db, answer } => self.databases_input(host, Input::File { db, answer }),
            Event::Wake => {
                let due =
                    self.databases.as_mut().and_then(|d| d.nodes[host].wake_at.take_if(|(at, _)| *at == self.now));
                if due.is_some() {
                    self.databases_input(host, Input::Wake);
                }
            }
            Event::Work => {}
        }
    }

    /// A daemon starts: its server finds the persistent databases on disk; volatile ones are wiped.
    pub(crate) fn databases_start(&mut self, host: usize) {
        let now = self.databases_now(host);
        let witness = self.setup.is_witness(host);
        let Some(databases) = self.databases.as_mut().filter(|_| !witness) else { return };
        let node = &mut databases.nodes[host];
        let have = |(id, file): (&u32, &ctdb::memory::File)| {
            let name = file.name.clone();
            (file.kind == Some(Kind::Persistent)).then_some(Have { db: *id, name, kind: Kind::Persistent })
        };
        let found = node.files.iter().filter_map(have).collect();
        node.files.retain(|_, file| file.kind == Some(Kind::Persistent));
        for file in node.files.values_mut() {
            file.unlock_all();
        }
        node.server = Some(Server::new(host as u32, 1_000, found, now));
        node.told = None;
        node.look_planned = false;
        node.wake_at = None;
    }

    /// A daemon ends, somehow: its processes end with their connections. What it had counted may be gone for good.
    pub(crate) fn databases_end(&mut self, host: usize) {
        let Some(databases) = self.databases.as_mut() else { return };
        databases.truth.lose(host);
        databases.spares.daemon_ends(host);
        let node = &mut databases.nodes[host];
        node.server = None;
        node.inbox.clear();
        for client in node.processes.keys().copied().collect::<Vec<_>>() {
            self.process_ends(host, client);
        }
    }

    /// What Samba's processes got done, if the site has databases.
    #[must_use]
    pub fn databases_done(&self) -> Option<super::Done> {
        self.databases.as_ref().map(|d| d.done)
    }

    fn databases_now(&self, host: usize) -> Now {
        let mono = Duration::from_micros(self.hosts[host].clock.local(self.now).0);
        Now { mono, wall: WALL + mono }
    }

    /// Something for a server: handled at once, or when the daemon goes on.
    pub(crate) fn databases_input(&mut self, host: usize, input: Input) {
        let Some(databases) = self.databases.as_mut() else { return };
        let node = &mut databases.nodes[host];
        if node.server.is_none() {
            return;
        }
        if matches!(input, Input::Link { .. }) {
            node.changes += 1;
        }
        node.inbox.push_back(input);
        self.databases_go_on(host);
    }

    /// What waits for a server.
    pub(crate) fn databases_go_on(&mut self, host: usize) {
        while self.hosts[host].is_live() {
            let now = self.databases_now(host);
            let Some(databases) = self.databases.as_mut() else { return };
            let node = &mut databases.nodes[host];
            let Some(server) = node.server.as_mut() else { return };
            let Some(input) = node.inbox.pop_front() else { break };
            let mut outputs = std::mem::take(&mut databases.outputs);
            server.handle(now, input, &mut outputs);
            for output in outputs.drain(..) {
                self.databases_carry_out(host, output);
            }
            if let Some(databases) = self.databases.as_mut() {
                databases.outputs = outputs;
            }
        }
        self.databases_alarm(host);
    }

    fn databases_alarm(&mut self, host: usize) {
        if !self.hosts[host].is_live() {
            // It wakes up when it goes on.
            return;
        }
        let now = self.now;
        let Some(node) = self.databases.as_mut().map(|d| &mut d.nodes[host]) else { return };
        let Some(due) = node.server.as_ref().and_then(Server::next_wake) else { return };
        let local = cluster::Time(u64::try_from(due.as_micros()).unwrap_or(u64::MAX / 4));
        let clock = &self.hosts[host].clock;
        let world = || clock.world(local).max(now) + 1;
        // It may be woken too early, after its machine has stood still: then it looks again.
        if let Some((planned, earliest)) = node.wake_at
            && planned >= now
            && earliest <= due
        {
            debug_assert!(planned <= world(), "n{host} is to be woken at {}, and will be at {planned}", world());
            return;
        }
        let at = world();
        if node.wake_at.is_none_or(|(planned, _)| planned < now || at < planned) {
            node.wake_at = Some((at, due));
            self.databases_after(at - now, host, Event::Wake);
        }
    }

    /// The core has published something.
    pub(crate) fn databases_published(&mut self, host: usize, snapshot: &Snapshot) {
        let Some(databases) = self.databases.as_mut() else { return };
        if let Some(view) = snapshot.view.as_deref().filter(|view| databases.truth.published(view)) {
            self.look_at_keepers(view);
        }
        let Some(databases) = self.databases.as_mut() else { return };
        let node = &mut databases.nodes[host];
        if node.server.is_some() && !node.look_planned {
            node.look_planned = true;
            let delay = databases.some(20..=3_000);
            self.databases_after(delay, host, Event::Look);
        }
    }

    /// Whom a view counts on for everything that was committed must have it: next it may be that nobody else is left.
    fn look_at_keepers(&mut self, view: &View) {
        let Some(databases) = self.databases.as_ref() else { return };
        let committed = databases.truth.committed;
        let lacks = self.hosts.iter().filter(|host| view.keepers.contains(&host.uid())).find_map(|host| {
            let there = databases.nodes[host.index].seqnum(databases.persistent);
            (there < committed).then(|| {
                format!(
                    "by view {} n{} has all that was committed: transaction {committed} is acknowledged, it has {there}",
                    view.epoch, host.index
                )
            })
        });
        if let Some(text) = lacks {
            self.object(text);
        }
    }

    fn databases_look(&mut self, host: usize) {
        let new = self.hosts[host].snapshot().map(|s| picture(s));
        let Some(node) = self.databases.as_mut().map(|d| &mut d.nodes[host]) else { return };
        node.look_planned = false;
        if new.is_some() && node.told != new {
            let others = node.told.as_ref().map(|p| &p.members) != new.as_ref().map(|p| &p.members);
            node.changes += u64::from(others);
            node.told.clone_from(&new);
            if let Some(new) = new {
                self.databases_input(host, Input::Picture(Box::new(new)));
            }
        }
    }

    fn databases_carry_out(&mut self, host: usize, output: Output) {
        match output {
            Output::Client { client, packet } => {
                let Ok(packet) = Packet::decode(&packet) else { return };
                self.spare_answered(client, &packet);
                let process = self.databases.as_mut().and_then(|d| d.nodes[host].processes.get_mut(&client));
                match (packet.body, process) {
                    (_, None) => {}
                    (Body::Message(message), Some(_)) if talk::is_number(message.srvid) => self.hears(client, &message),
                    (Body::Message(message), Some(_)) if message.srvid == srvid::RELEASE_IP => {
                        self.hears_of_address(host, client);
                    }
                    (body, Some(process)) => process.packets.push_back(Packet { header: packet.header, body }),
                }
            }
            Output::AwaitRest { client } => self.rest_awaited(host, client),
            Output::Close { client } => self.process_ends(host, client),
            Output::Peer { to, bytes } => self.send_bytes(host, to as usize, bytes),
            Output::File { db, order } => {
                self.spare_ordered(host, db, &order);
                if let Some(databases) = self.databases.as_mut() {
                    let file = databases.nodes[host].files.entry(db).or_default();
                    file.order(host as u32, order, &mut databases.answers);
                }
                self.files_answer(host, db);
            }
            Output::Recovered { epoch: view } => {
                let (generation, delay) =
                    (self.hosts[host].generation, self.databases.as_mut().map_or(MS, |d| d.some(20..=3_000)));
                let input = Box::new(cluster::Input::Recovered { view });
                self.after(delay, What::Local { host, generation, input });
            }
            Output::Admin(_) | Output::Connection { .. } => {}
            Output::Log { text, .. } => self.story.node(self.now, host, || format!("databases: {text}")),
        }
    }

    /// A file has answered ([`Databases::answers`]). Files take their time, and answer in order.
    pub(super) fn files_answer(&mut self, host: usize, db: u32) {
        let now = self.now;
        let Some(databases) = self.databases.as_mut() else { return };
        let mut answers = std::mem::take(&mut databases.answers);
        for answer in answers.drain(..) {
            let Some(databases) = self.databases.as_mut() else { return };
            let delay = databases.some(10..=400);
            let node = &mut databases.nodes[host];
            node.answers_after = node.answers_after.max(now + delay);
            let at = node.answers_after;
            self.databases_after(at - now, host, Event::File { db, answer });
        }
        if let Some(databases) = self.databases.as_mut() {
            databases.answers = answers;
        }
    }

    /// A process ends, and the kernel lets its locks go.
    pub(super) fn process_ends(&mut self, host: usize, client: ClientId) {
        let Some(databases) = self.databases.as_mut() else { return };
        let volatile = databases.volatile;
        let node = &mut databases.nodes[host];
        let Some(process) = node.processes.remove(&client) else { return };
        databases.truth.ended(client);
        databases.spare_process_ends(host, &process.doing, process.has_spare_open, self.now);
        let node = &mut databases.nodes[host];
        if let (super::Doing::Holds { key }, Some(file)) = (&process.doing, node.files.get_mut(&volatile)) {
            file.locked.remove(databases.truth.name(*key));
            file.go_on(&mut databases.answers);
        }
        self.files_answer(host, volatile);
        self.databases_input(host, Input::Disconnected { client });
    }

    /// What keeps a node that was stopped from being out of the databases: its processes, a recovery, records.
    pub(crate) fn databases_left_on(&self, host: usize) -> Option<String> {
        let databases = self.databases.as_ref()?;
        let node = &databases.nodes[host];
        if !node.processes.is_empty() {
            return Some(format!("n{host} is stopped and {} processes of Samba live there", node.processes.len()));
        }
        let waits = databases.nodes.iter().flat_map(|n| &n.server).flat_map(Server::waiting).next();
        if let Some((name, why)) = waits {
            return Some(format!("{name}: {why}"));
        }
        let holds = |value: &Vec<u8>| LtdbHeader::split(value).is_ok_and(|(h, _)| h.dmaster == host as u32);
        let mut records = node.files.get(&databases.volatile)?.records.iter();
        let (key, _) = records.find(|(_, value)| holds(value))?;
        Some(format!("n{host} is stopped and holds {}", String::from_utf8_lossy(key)))
    }

    /// Processes of Samba that want something for longer than `limit`, with what their servers wait for.
    pub(crate) fn databases_stuck(&self, limit: u64) -> Option<String> {
        let databases = self.databases.as_ref()?;
        databases.nodes.iter().enumerate().find_map(|(host, node)| {
            let old = |p: &&Process| p.doing != super::Doing::Nothing && p.since + limit < self.now;
            let process = node.processes.values().find(old)?;
            let waiting: Vec<_> = databases.nodes.iter().flat_map(|n| n.server.as_ref()).map(Server::waiting).collect();
            Some(format!("a process on n{host} waits for ever: {:?} ({waiting:?})", process.doing))
        })
    }

    /// What is being recovered of that which is looked at when all is at rest. Meanwhile a record that changes hands has no
    /// holder, and members may differ: nothing of it is promised before they go on.
    pub(crate) fn databases_recovered(&self) -> Option<String> {
        let servers = self.databases.as_ref()?.nodes.iter().flat_map(|n| &n.server);
        let mut waiting = servers.flat_map(Server::waiting);
        let (name, why) = waiting.find(|(name, _)| [VOLATILE, PERSISTENT].contains(&name.as_str()))?;
        Some(format!("{name}: {why}"))
    }

    /// Nobody begins anything new.
    pub(crate) fn databases_wind_down(&mut self) {
        if let Some(databases) = self.databases.as_mut() {
            databases.winding_down = true;
        }
    }
}

impl Node {
    /// What a generation of a database's content is called, and how often links and members came or went.
    pub(super) fn mark(&self, db: u32) -> (Option<(u64, u32)>, u64) {
        let file = self.files.get(&db).filter(|f| !f.frozen);
        (file.map(|f| (f.synced.epoch, f.synced.attempt)), self.changes)
    }
}

impl Databases {
    /// The node that holds a record, by its own file of the generation that `host` has, and the record's sequence number, which
    /// grows whenever it changes hands; none while it is on its way.
    pub(super) fn place(&self, host: usize, db: u32, key: &[u8]) -> Option<(usize, u64)> {
        let generation = self.nodes[host].files.get(&db)?.synced;
        let holds = |(at, node): (usize, &Node)| {
            let file = node.files.get(&db).filter(|f| f.synced == generation)?;
            let (header, _) = LtdbHeader::split(file.records.get(key)?).ok()?;
            (header.dmaster == at as u32).then_some((at, header.rsn))
        };
        self.nodes.iter().enumerate().find_map(holds)
    }
}
