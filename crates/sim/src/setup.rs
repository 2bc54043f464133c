//! The site that a simulation runs: how many nodes, which addresses, how good the parts are.

use crate::clock::{MS, Micros, S};
use crate::rng::Rng;
use cluster::{Config, DayWindow, FailBack, NodeConf, Pnn, Role, Timing, VipConf};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How bad the networks are when nothing is broken.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// Datagrams lost, per million.
    pub loss: u32,
    /// Datagrams that arrive twice, per million.
    pub twice: u32,
    /// Shortest way, microseconds.
    pub delay: Micros,
    /// Added at random up to this, microseconds.
    pub jitter: Micros,
    /// Packets that take ten times as long, per million.
    pub tail: u32,
}

/// Everything about a site that does not change while it is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Nodes of the list, 2 to 64.
    pub nodes: usize,
    /// The last node only votes.
    pub witness: bool,
    /// Private networks, 1 or 2.
    pub nets: usize,
    /// The public addresses with their prefix lengths.
    pub vips: Vec<(IpAddr, u8)>,
    /// Nodes that cannot host an address, by address.
    pub barred: BTreeMap<IpAddr, BTreeSet<Pnn>>,
    /// Do the servers keep Samba's databases?
    pub databases: bool,
    /// Services of every server.
    pub services: BTreeSet<String>,
    /// May the cluster lock break ties?
    pub lock: bool,
    /// Does a dead node's brick block lock and records until its connections are destroyed?
    pub bricks: bool,
    /// Kernel leases have whole seconds only.
    pub whole_seconds: bool,
    /// Time limits of the core.
    pub timing: Timing,
    /// How returning nodes get addresses back.
    pub fail_back: FailBack,
    /// How long a drain waits for clients to forget what DNS told them.
    pub drain_wait: Duration,
    /// Can, and must, the storage be prepared for planned moves?
    pub prepares: bool,
    /// Nodes whose NFS servers have clients.
    pub nfs_clients: BTreeSet<usize>,
    /// Those whose clients hold locks that are to outlive a planned move, by whatever address.
    pub nfs_locks: BTreeSet<usize>,
    /// Start with a view of all nodes on the disks (a power cut has just ended) instead of `init` and joins.
    pub mature: bool,
    /// Networks at rest.
    pub noise: Noise,
    /// Silence after which a link is given up.
    pub link_timeout: Micros,
    /// A connection that is possible again comes within this, at least 5 ms.
    pub connect: Micros,
    /// Clocks drift up to this, parts per million.
    pub drift: i64,
    /// Persists that take 200 ms, per million.
    pub slow_fsync: u32,
}

impl Setup {
    /// A good site: `nodes` nodes, one network, as many addresses as nodes, disks that already hold a view.
    #[must_use]
    pub fn plain(nodes: usize) -> Self {
        Self {
            nodes,
            witness: false,
            nets: 1,
            vips: (0..nodes).map(|i| v4(1, i)).collect(),
            barred: BTreeMap::new(),
            databases: false,
            services: BTreeSet::from(["nfs".to_owned(), "samba".to_owned()]),
            lock: false,
            bricks: true,
            whole_seconds: false,
            timing: Timing::default(),
            fail_back: FailBack::Spread,
            drain_wait: Duration::from_secs(2),
            prepares: false,
            nfs_clients: BTreeSet::new(),
            nfs_locks: BTreeSet::new(),
            mature: true,
            noise: Noise { loss: 0, twice: 0, delay: 100, jitter: 200, tail: 0 },
            link_timeout: 2 * S,
            connect: 150 * MS,
            drift: 50,
            slow_fsync: 0,
        }
    }

    /// A site drawn from a seed. `nodes` fixes their number.
    #[must_use]
    pub fn random(rng: &mut Rng, nodes: Option<usize>) -> Self {
        let nodes = nodes.unwrap_or_else(|| [2, 3, 3, 4, 4, 4, 4, 5, 5, 6, 7, 9][rng.index(12)]);
        let mut setup = Self::plain(nodes);
        setup.witness = nodes > 2 && rng.chance(200_000);
        setup.nets = 1 + rng.index(2);
        setup.vips = (0..rng.range(1..=2 * nodes as u64) as usize).map(|i| v4(1, i)).collect();
        if rng.chance(300_000) {
            setup.vips.extend((0..rng.range(1..=4) as usize).map(|i| v4(2, i)));
        }
        if rng.chance(200_000) {
            setup.vips.extend((0..rng.range(1..=3) as usize).map(v6));
        }
        if rng.chance(150_000) {
            let vip = setup.vips[rng.index(setup.vips.len())].0;
            let node = Pnn(rng.index(nodes) as u16);
            setup.barred.insert(vip, BTreeSet::from([node]));
        }
        setup.lock = rng.chance(600_000);
        setup.bricks = rng.chance(700_000);
        setup.whole_seconds = rng.chance(150_000);
        setup.fail_back = match rng.index(10) {
            0 => FailBack::Never,
            1 | 2 => FailBack::Window(DayWindow { from: 22 * 60, to: 4 * 60 }),
            _ => FailBack::Spread,
        };
        setup.mature = rng.chance(600_000);
        setup.noise = Noise {
            loss: [0, 100, 1_000, 5_000][rng.index(4)],
            twice: [0, 1_000, 20_000][rng.index(3)],
            delay: rng.range(50..=400),
            jitter: rng.range(50..=2_000),
            tail: [0, 1_000, 10_000][rng.index(3)],
        };
        setup.link_timeout = rng.range(700..=4_000) * MS;
        setup.drift = rng.range(0..=200) as i64;
        setup.slow_fsync = [0, 2_000, 20_000][rng.index(3)];
        // From a stream of its own: the other sites stay as they are.
        setup.prepares = rng.fork(7).chance(400_000);
        let mut nfs = rng.fork(8);
        if nfs.chance(500_000) {
            setup.nfs_clients = (0..nodes).filter(|i| !setup.is_witness(*i) && nfs.chance(700_000)).collect();
        }
        if nfs.chance(500_000) {
            setup.nfs_locks = setup.nfs_clients.clone();
        }
        setup
    }

    /// Is this node a witness?
    #[must_use]
    pub fn is_witness(&self, node: usize) -> bool {
        self.witness && node + 1 == self.nodes
    }

    /// The core's configuration at one node.
    #[must_use]
    pub fn config(&self, me: usize) -> Config {
        let nodes = (0..self.nodes).map(|i| {
            let conf = NodeConf {
                name: format!("node{i}"),
                role: if self.is_witness(i) { Role::Witness } else { Role::Server },
                addresses: (0..self.nets)
                    .map(|net| IpAddr::V4(Ipv4Addr::new(192, 168, net as u8, 100 + i as u8)))
                    .collect(),
            };
            (Pnn(i as u16), conf)
        });
        let vips = self.vips.iter().map(|(vip, prefix_len)| {
            let barred = self.barred.get(vip);
            let hosts = (0..self.nodes)
                .filter(|i| !self.is_witness(*i))
                .map(|i| Pnn(i as u16))
                .filter(|pnn| !barred.is_some_and(|b| b.contains(pnn)))
                .map(|pnn| (pnn, interface_of(*vip).to_owned()))
                .collect();
            let conf = VipConf { prefix_len: *prefix_len, hosts };
            (*vip, conf)
        });
        Config {
            cluster: "sim".to_owned(),
            me: Pnn(me as u16),
            nodes: nodes.collect(),
            removed: BTreeMap::new(),
            vips: vips.collect(),
            databases: self.databases,
            services: self.services.clone(),
            timing: self.timing.clone(),
            fail_back: self.fail_back,
            drain_wait: self.drain_wait,
            fingerprint: 1,
        }
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "{} nodes{}, {} networks, {} addresses, lock {}, {} kernel leases, {}{}, loss {} ppm, drift {} ppm",
            self.nodes,
            if self.witness { " (one a witness)" } else { "" },
            self.nets,
            self.vips.len(),
            if self.lock { "breaks ties" } else { "not usable" },
            if self.whole_seconds { "whole-second" } else { "exact" },
            if self.mature { "view on all disks" } else { "fresh from init" },
            if self.prepares { ", storage to prepare" } else { "" },
            self.noise.loss,
            self.drift,
        )
    }
}

/// The interface that an address lives on: one per subnet.
#[must_use]
pub fn interface_of(vip: IpAddr) -> &'static str {
    match vip {
        IpAddr::V4(v) if v.octets()[2] == 1 => "eth0",
        IpAddr::V4(_) => "eth1",
        IpAddr::V6(_) => "eth2",
    }
}

fn v4(subnet: u8, i: usize) -> (IpAddr, u8) {
    let last = if i < 55 { 200 + i } else { i - 54 };
    (IpAddr::V4(Ipv4Addr::new(10, 0, subnet, last as u8)), 24)
}

fn v6(i: usize) -> (IpAddr, u8) {
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0x200 + i as u16)), 64)
}
