//! A made-up cluster for the tests: four VIPs on four nodes, one IPv6 VIP.
#![allow(dead_code, reason = "each test binary uses its own part")]

use cluster::{
    AdminState, Epoch, Health, Incarnation, LeaseStatus, LockStatus, NodeState, NodeStatus, NodeUid, PaceStatus, Pnn,
    Role, ServiceHealth, Snapshot, Time, View, VipState, VipStatus,
};
use dns::{NameConf, Zone, ZoneConf, ZoneView};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn conf() -> ZoneConf {
    let name = |name: &str, service: Option<&str>, vips: &[&str]| NameConf {
        name: name.into(),
        vips: vips.iter().map(|v| ip(v)).collect(),
        service: service.map(String::from),
    };
    ZoneConf {
        zone: "storage.example".into(),
        names: vec![
            name("glusternfs", Some("nfs"), &[]),
            name("glustercifs", None, &[]),
            name("two.sub", None, &["10.0.0.1", "10.0.0.2"]),
        ],
        ttl: 1,
        ns: vec!["ns1.storage.example".into(), "ns2.storage.example".into()],
        contact: "hostmaster.storage.example".into(),
        short_names: true,
    }
}

fn node(name: &str) -> NodeStatus {
    let health = ServiceHealth { state: Health::Ok, because: String::new(), output: Vec::new() };
    NodeStatus {
        name: name.into(),
        role: Role::Server,
        addresses: Vec::new(),
        state: NodeState::Ok,
        because: String::new(),
        uid: None,
        member: true,
        voter: true,
        evicted: None,
        since: Time(0),
        admin: AdminState::Active,
        lingers: false,
        links_down: BTreeSet::new(),
        services: BTreeMap::from([("nfs".to_owned(), health.clone()), ("samba".to_owned(), health)]).into(),
        vips: BTreeSet::new(),
        version: String::new(),
        warnings: Vec::new(),
        nfs_clients: false,
    }
}

/// VIPs 10.0.0.1 to 10.0.0.4 on nodes 0 to 3, fd00::1 on node 0; all is well, epoch 7.
pub(crate) fn snapshot() -> Snapshot {
    let vip = |pnn: u16| VipStatus {
        state: VipState::Held,
        holder: Some(Pnn(pnn)),
        target: Some(Pnn(pnn)),
        prefix_len: 24,
        interface: "eth0".into(),
        healthy: true,
        because: String::new(),
        since: Time(0),
    };
    let mut vips: BTreeMap<IpAddr, Arc<VipStatus>> =
        (0_u8..4).map(|n| (IpAddr::from([10, 0, 0, n + 1]), vip(u16::from(n)).into())).collect();
    vips.insert(ip("fd00::1"), vip(0).into());
    let incarnation = Incarnation { number: 0, id: 1 };
    Snapshot {
        at: Time(0),
        serial: 1,
        cluster: "test".into(),
        me: Pnn(0),
        view: Some(View::founding(incarnation, Epoch(7), Pnn(0), NodeUid(1), String::new()).into()),
        leader: Some(Pnn(0)),
        member: true,
        lease: LeaseStatus { valid: true, until: None, grants: 4, voters: 4 },
        harmless: false,
        planned_moves: false,
        nodes: (0..4).map(|n| (Pnn(n), node(&format!("gluster{}", n + 1)).into())).collect(),
        vips,
        lock: LockStatus::default(),
        takeover_wait: Duration::ZERO,
        pace: PaceStatus::default(),
        warnings: Vec::new(),
    }
}

pub(crate) fn view_of(snapshot: &Snapshot) -> ZoneView {
    Zone::new(conf()).update(snapshot).expect("the first view")
}

pub(crate) fn view() -> ZoneView {
    view_of(&snapshot())
}
