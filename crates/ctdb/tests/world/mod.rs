//! A few servers with files in memory and links that keep their order: what is said and done is done at once, in the
//! order in which it was said, until nothing is left to do.

#![allow(dead_code, reason = "each test uses its part of it")]

use ctdb::control::Opcode;
use ctdb::database::Kind;
use ctdb::memory::File;
use ctdb::node::flags;
use ctdb::recovery::Have;
use ctdb::server::{AddressFacts, ClientId, IfaceFacts, Input, Level, NodeFacts, Now, Output, Picture, Server, Wish};
use ctdb::wire::{Body, Call, Connection, Control, ControlReply, Header, LtdbHeader, Message, Packet, record_flags};
use ctdb::{call, node};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::common::Dice;

pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) files: BTreeMap<u32, File>,
    pub(crate) packets: BTreeMap<ClientId, VecDeque<Packet>>,
    pub(crate) closed: BTreeSet<ClientId>,
    pub(crate) wishes: Vec<Wish>,
    /// Views whose recovery is finished here.
    pub(crate) recovered: Vec<u64>,
    pub(crate) told: Vec<(Connection, bool)>,
    /// Clients whose rest is awaited.
    pub(crate) awaits: Vec<ClientId>,
    pub(crate) log: Vec<(Level, String)>,
    pub(crate) alive: bool,
    inputs: VecDeque<Input>,
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Now,
    links: BTreeMap<(usize, usize), VecDeque<Vec<u8>>>,
    pub(crate) cut: BTreeSet<(usize, usize)>,
    epoch: u64,
    pub(crate) members: BTreeSet<u32>,
    leader: Option<u32>,
    /// Things happen one by one, at [`World::step`], in this order.
    pub(crate) dice: Option<u64>,
    next_client: u32,
    reqid: u32,
    pub(crate) vip_on: BTreeMap<u8, u32>,
    /// Members that are stopped.
    pub(crate) idle: BTreeSet<u32>,
    /// Addresses are of CTDB's files, and all nodes are on one machine.
    pub(crate) own_list: bool,
    /// They are on their way.
    pub(crate) moving: bool,
}

impl World {
    pub(crate) fn new(nodes: u32) -> Self {
        let now = Now { mono: Duration::from_secs(1), wall: Duration::from_secs(1_800_000_000) };
        let node = |me| Node {
            server: Server::new(me, 1000 + me.cast_signed(), Vec::new(), now),
            files: BTreeMap::new(),
            packets: BTreeMap::new(),
            closed: BTreeSet::new(),
            wishes: Vec::new(),
            recovered: Vec::new(),
            told: Vec::new(),
            awaits: Vec::new(),
            log: Vec::new(),
            alive: true,
            inputs: VecDeque::new(),
        };
        let mut world = Self {
            nodes: (0..nodes).map(node).collect(),
            now,
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            epoch: 0,
            members: BTreeSet::new(),
            leader: None,
            dice: None,
            next_client: 0,
            reqid: 0,
            moving: false,
            idle: BTreeSet::new(),
            own_list: false,
            vip_on: (0..nodes).map(|n| (n as u8 + 1, n)).collect(),
        };
        for a in 0..nodes {
            for b in (0..nodes).filter(|b| *b != a) {
                world.input(a as usize, Input::Link { peer: b, up: true });
            }
        }
        world.view(&(0..nodes).collect::<Vec<_>>());
        world
    }

    pub(crate) fn input(&mut self, n: usize, input: Input) {
        self.nodes[n].inputs.push_back(input);
    }

    /// A picture of the present view for one node.
    pub(crate) fn picture(&self, n: usize, leased: bool, harmless: bool) -> Picture {
        let alive = |m: usize| self.nodes[m].alive;
        let leader = self.leader;
        Picture {
            epoch: self.epoch,
            members: self.members.iter().copied().collect(),
            idle: self.idle.clone(),
            leader,
            leased,
            harmless: harmless && leader == Some(n as u32),
            nodes: (0..self.nodes.len())
                .map(|m| NodeFacts {
                    pnn: m as u32,
                    flags: if !alive(m) {
                        flags::DISCONNECTED
                    } else if self.idle.contains(&(m as u32)) {
                        flags::STOPPED
                    } else {
                        0
                    },
                    address: format!("10.0.0.{}:4390", m + 1).parse().unwrap(),
                })
                .collect(),
            addresses: self
                .vip_on
                .iter()
                .map(|(last, holder)| AddressFacts {
                    address: format!("192.168.1.{last}").parse().unwrap(),
                    prefix: 24,
                    holder: Some(*holder),
                    moving: self.moving,
                    here: Some("eth0".into()),
                })
                .collect(),
            ifaces: vec![IfaceFacts { name: "eth0".into(), up: true }],
            lock: String::new(),
            own_list: self.own_list,
            links_by_word: self.own_list,
        }
    }

    /// A new view, which drops nobody who could do harm.
    pub(crate) fn view(&mut self, members: &[u32]) {
        self.view_but(members, true);
    }

    pub(crate) fn view_but(&mut self, members: &[u32], harmless: bool) {
        self.epoch += 1;
        self.members = members.iter().copied().collect();
        // The one that has been there longest.
        if self.leader.is_none_or(|leader| !self.members.contains(&leader)) {
            self.leader = self.members.first().copied();
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].alive {
                let picture = self.picture(n, true, harmless);
                self.input(n, Input::Picture(Box::new(picture)));
            }
        }
        self.run();
    }

    /// The same view, told again: the lease, and whether the others are harmless.
    pub(crate) fn tell(&mut self, n: usize, leased: bool, harmless: bool) {
        let picture = self.picture(n, leased, harmless);
        self.input(n, Input::Picture(Box::new(picture)));
        self.run();
    }

    /// Its daemon starts anew: its clients are gone, its volatile files are empty.
    pub(crate) fn restart(&mut self, n: usize) {
        let me = n as u32;
        let have = |(id, file): (&u32, &File)| {
            let name = file.name.clone();
            (file.kind == Some(Kind::Persistent)).then_some(Have { db: *id, name, kind: Kind::Persistent })
        };
        let found = self.nodes[n].files.iter().filter_map(have).collect();
        let node = &mut self.nodes[n];
        node.files.retain(|_, file| file.kind == Some(Kind::Persistent));
        for file in node.files.values_mut() {
            file.unlock_all();
        }
        node.packets.clear();
        node.server = Server::new(me, 1000, found, self.now);
        node.alive = true;
        node.inputs.clear();
        for m in (0..self.nodes.len()).filter(|m| *m != n) {
            if self.nodes[m].alive {
                self.input(m, Input::Link { peer: me, up: true });
                self.input(n, Input::Link { peer: m as u32, up: true });
            }
        }
    }

    /// Power off.
    pub(crate) fn kill(&mut self, n: usize) {
        self.nodes[n].alive = false;
        self.nodes[n].inputs.clear();
        self.links.retain(|(a, b), _| *a != n && *b != n);
        for m in (0..self.nodes.len()).filter(|m| *m != n) {
            self.input(m, Input::Link { peer: n as u32, up: false });
        }
        self.run();
    }

    pub(crate) fn connect(&mut self, n: usize, pid: i32) -> Client {
        self.next_client += 1;
        let id = ClientId(self.next_client);
        self.nodes[n].packets.insert(id, VecDeque::new());
        self.input(n, Input::Connected { client: id, pid });
        self.run();
        Client { node: n, id }
    }

    pub(crate) fn disconnect(&mut self, client: Client) {
        self.input(client.node, Input::Disconnected { client: client.id });
        self.run();
    }

    pub(crate) fn send(&mut self, client: Client, dest: u32, body: Body) -> u32 {
        self.reqid += 1;
        let header = Header { generation: 0, dest, source: 0, reqid: self.reqid };
        let packet = Packet { header, body }.encode();
        self.input(client.node, Input::Packet { client: client.id, packet });
        self.run();
        self.reqid
    }

    /// The status of a control's answer, if that has come.
    pub(crate) fn status(&mut self, client: Client, reqid: u32) -> Option<i32> {
        self.answer(client, reqid).map(|body| match body {
            Body::ControlReply(reply) => reply.status,
            other => panic!("{other:?}"),
        })
    }

    /// The answer to a request, if it has come.
    pub(crate) fn answer(&mut self, client: Client, reqid: u32) -> Option<Body> {
        let packets = self.nodes[client.node].packets.get_mut(&client.id)?;
        let at = packets.iter().position(|p| p.header.reqid == reqid)?;
        packets.remove(at).map(|p| p.body)
    }

    pub(crate) fn control(&mut self, client: Client, dest: u32, opcode: Opcode, srvid: u64, data: &[u8]) -> u32 {
        self.send(client, dest, Body::Control(Control { opcode: opcode.0, srvid, flags: 0, data: data.to_vec() }))
    }

    pub(crate) fn ask(
        &mut self,
        client: Client,
        dest: u32,
        opcode: Opcode,
        srvid: u64,
        data: &[u8],
    ) -> Option<ControlReply> {
        let reqid = self.control(client, dest, opcode, srvid, data);
        match self.answer(client, reqid)? {
            Body::ControlReply(reply) => Some(reply),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn listen(&mut self, client: Client, srvid: u64) {
        assert_eq!(self.ask(client, node::CURRENT, Opcode::REGISTER_SRVID, srvid, &[]).unwrap().status, 0);
    }

    pub(crate) fn attach(&mut self, client: Client, opcode: Opcode, name: &str) -> Option<u32> {
        let name = format!("{name}\0");
        let reply = self.ask(client, node::CURRENT, opcode, 0, name.as_bytes())?;
        assert_eq!(reply.status, 0, "{}", reply.error);
        Some(u32::from_ne_bytes(reply.data.try_into().unwrap()))
    }

    pub(crate) fn messages(&mut self, client: Client) -> Vec<(u64, Vec<u8>)> {
        let packets = self.nodes[client.node].packets.get_mut(&client.id).unwrap();
        let (messages, rest): (Vec<_>, Vec<_>) =
            std::mem::take(packets).into_iter().partition(|p| matches!(p.body, Body::Message(_)));
        *packets = rest.into();
        let one = |p: Packet| match p.body {
            Body::Message(Message { srvid, data }) => (srvid, data),
            other => panic!("{other:?}"),
        };
        messages.into_iter().map(one).collect()
    }

    /// Counts up in a record as Samba does: under the chain lock, when its node holds it. False: the record has not come.
    pub(crate) fn count(&mut self, client: Client, db: u32, key: &[u8]) -> bool {
        for _ in 0..20 {
            let me = client.node as u32;
            let file = self.nodes[client.node].files.get_mut(&db).unwrap();
            if file.frozen {
                return false;
            }
            let value = file.records.get(key).cloned();
            if let Some((header, data)) = value.as_deref().and_then(|v| LtdbHeader::split(v).ok())
                && header.dmaster == me
                && header.flags & record_flags::HAVE_DELEGATIONS == 0
            {
                let n = number(Some(data)) + 1;
                let mut value = header.to_bytes();
                value.extend_from_slice(&n.to_ne_bytes());
                file.records.insert(key.to_vec(), value);
                return true;
            }
            let call = Call {
                flags: call::flags::IMMEDIATE_MIGRATION,
                db,
                function: call::NULL,
                hops: 0,
                key: key.to_vec(),
                argument: vec![],
            };
            let reqid = self.send(client, 0, Body::Call(call));
            if self.answer(client, reqid).is_none() {
                return false;
            }
        }
        panic!("the record does not stay here");
    }

    /// The counter, wherever its holder is.
    pub(crate) fn counter(&self, db: u32, key: &[u8]) -> Option<u64> {
        let mut holders = (0..self.nodes.len()).filter(|n| self.nodes[*n].alive).filter_map(|n| {
            let value = self.nodes[n].files.get(&db)?.records.get(key)?;
            let (header, data) = LtdbHeader::split(value).ok()?;
            (header.dmaster == n as u32).then(|| number(Some(data)))
        });
        let found = holders.next();
        assert!(holders.next().is_none(), "two holders of {key:?}");
        found
    }

    pub(crate) fn later(&mut self, by: Duration) {
        let until = self.now.mono + by;
        loop {
            let next = self.nodes.iter().filter(|n| n.alive).filter_map(|n| n.server.next_wake()).min();
            let Some(next) = next.filter(|at| *at <= until) else { break };
            self.pass(next.max(self.now.mono));
            for n in 0..self.nodes.len() {
                if self.nodes[n].alive && self.nodes[n].server.next_wake().is_some_and(|at| at <= self.now.mono) {
                    self.input(n, Input::Wake);
                }
            }
            self.drain();
        }
        self.pass(until);
    }

    fn pass(&mut self, to: Duration) {
        self.now = Now { mono: to, wall: self.now.wall + (to - self.now.mono) };
    }

    /// A client lets a key go.
    pub(crate) fn unlock(&mut self, n: usize, db: u32, key: &[u8]) {
        let file = self.nodes[n].files.get_mut(&db).unwrap();
        file.locked.remove(key);
        let mut answers = Vec::new();
        file.go_on(&mut answers);
        self.nodes[n].inputs.extend(answers.into_iter().map(|answer| Input::File { db, answer }));
        self.run();
    }

    /// Until nothing is left to do.
    pub(crate) fn run(&mut self) {
        if self.dice.is_some() {
            return;
        }
        self.drain();
    }

    /// One thing that waits, whichever the dice say. False: nothing waits.
    pub(crate) fn step(&mut self, dice: &mut Dice) -> bool {
        let nodes = (0..self.nodes.len()).filter(|n| !self.nodes[*n].inputs.is_empty()).map(|n| (n, n));
        let links =
            self.links.iter().filter(|(link, queue)| !queue.is_empty() && !self.cut.contains(link)).map(|(l, _)| *l);
        let all: Vec<(usize, usize)> = nodes.chain(links).collect();
        if all.is_empty() {
            return false;
        }
        let (from, to) = all[dice.roll(all.len())];
        if from == to {
            if let Some(input) = self.nodes[from].inputs.pop_front() {
                self.take(from, input);
            }
        } else if let Some(bytes) = self.links.get_mut(&(from, to)).and_then(VecDeque::pop_front) {
            self.input(to, Input::Peer { from: from as u32, bytes });
        }
        true
    }

    fn take(&mut self, n: usize, input: Input) {
        if self.nodes[n].alive {
            let mut out = Vec::new();
            self.nodes[n].server.handle(self.now, input, &mut out);
            out.into_iter().for_each(|output| self.carry_out(n, output));
        }
    }

    pub(crate) fn drain(&mut self) {
        for _ in 0..2_000_000 {
            if let Some(n) = (0..self.nodes.len()).find(|n| !self.nodes[*n].inputs.is_empty()) {
                let input = self.nodes[n].inputs.pop_front().unwrap();
                self.take(n, input);
                continue;
            }
            let next = self.links.iter().find(|(link, queue)| !queue.is_empty() && !self.cut.contains(link));
            let Some(link) = next.map(|(link, _)| *link) else { return };
            let bytes = self.links.get_mut(&link).unwrap().pop_front().unwrap();
            self.input(link.1, Input::Peer { from: link.0 as u32, bytes });
        }
        panic!("it does not come to rest");
    }

    fn carry_out(&mut self, n: usize, output: Output) {
        match output {
            Output::Client { client, packet } => {
                if let Some(packets) = self.nodes[n].packets.get_mut(&client) {
                    packets.push_back(Packet::decode(&packet).unwrap());
                }
            }
            Output::AwaitRest { client } => self.nodes[n].awaits.push(client),
            Output::Close { client } => {
                self.nodes[n].closed.insert(client);
                self.input(n, Input::Disconnected { client });
            }
            Output::Peer { to, bytes } => {
                assert_ne!(to as usize, n, "a node says something to itself by the network");
                if self.nodes.get(to as usize).is_some_and(|node| node.alive) {
                    self.links.entry((n, to as usize)).or_default().push_back(bytes);
                }
            }
            Output::File { db, order } => {
                let mut answers = Vec::new();
                self.nodes[n].files.entry(db).or_default().order(n as u32, order, &mut answers);
                self.nodes[n].inputs.extend(answers.into_iter().map(|answer| Input::File { db, answer }));
            }
            Output::Connection { connection, told } => self.nodes[n].told.push((connection, told)),
            Output::Recovered { epoch } => self.nodes[n].recovered.push(epoch),
            Output::Admin(wish) => self.nodes[n].wishes.push(wish),
            Output::Log { level, text } => self.nodes[n].log.push((level, text)),
        }
    }

    /// Breaks the link between two nodes: what is on its way is lost.
    pub(crate) fn break_link(&mut self, a: usize, b: usize) {
        self.links.remove(&(a, b));
        self.links.remove(&(b, a));
        for up in [false, true] {
            self.input(a, Input::Link { peer: b as u32, up });
            self.input(b, Input::Link { peer: a as u32, up });
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) node: usize,
    pub(crate) id: ClientId,
}

pub(crate) fn number(bytes: Option<&[u8]>) -> u64 {
    bytes.and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

impl World {
    /// The newest counter that some nodes have, of whatever holder.
    pub(crate) fn counter_of(&self, db: u32, key: &[u8], nodes: &[usize]) -> u64 {
        let copies = nodes.iter().filter_map(|n| self.nodes[*n].files.get(&db)?.records.get(key));
        let newest = copies.filter_map(|v| LtdbHeader::split(v).ok()).max_by_key(|(header, _)| header.rsn);
        newest.map_or(0, |(_, data)| number(Some(data)))
    }
}

impl World {
    pub(crate) fn leader_of(&self) -> Option<usize> {
        self.leader.map(|leader| leader as usize)
    }
}
