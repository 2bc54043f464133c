//! Made-up states for the tests.

use cluster::{
    AdminState, Epoch, Health, Incarnation, LeaseStatus, LockStatus, Member, NodeState, NodeStatus, NodeUid,
    PaceStatus, Pnn, Role, RunId, ServiceHealth, Snapshot, Time, View, VipState, VipStatus,
};
use node::admin::api::{Link, Local, Status};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const NOW: Time = Time(1_000_000_000);

fn before(seconds: u64) -> Time {
    NOW.minus(Duration::from_secs(seconds))
}

fn vip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn ok() -> ServiceHealth {
    ServiceHealth { state: Health::Ok, because: String::new(), output: vec![] }
}

fn node(n: u16, state: NodeState) -> NodeStatus {
    let witness = state == NodeState::Witness;
    let n8 = u8::try_from(n).unwrap();
    NodeStatus {
        name: format!("gluster{}", n + 1),
        role: if witness { Role::Witness } else { Role::Server },
        addresses: vec![vip(n8 + 1)],
        state,
        because: String::new(),
        uid: Some(NodeUid(u128::from(n))),
        member: !witness,
        voter: true,
        evicted: None,
        since: before(120),
        admin: AdminState::Active,
        lingers: false,
        links_down: [].into(),
        services: Arc::new(if witness { [].into() } else { [("nfs".into(), ok()), ("samba".into(), ok())].into() }),
        vips: if witness { [].into() } else { [vip(200 + n8)].into() },
        version: "0.1.0".into(),
        warnings: vec![],
        nfs_clients: false,
    }
}

fn held(by: u16) -> VipStatus {
    VipStatus {
        state: VipState::Held,
        holder: Some(Pnn(by)),
        target: Some(Pnn(by)),
        prefix_len: 24,
        interface: "eth0".into(),
        healthy: true,
        because: "spread evenly".into(),
        since: before(30),
    }
}

pub(crate) fn healthy() -> Status {
    let uid = |n: u16| NodeUid(u128::from(n));
    let mut view = View::founding(Incarnation { number: 0, id: 1 }, Epoch(7), Pnn(0), uid(0), "grown".into());
    for n in 0..3 {
        view.voters.insert(Pnn(n), uid(n));
    }
    for n in 0..2 {
        view.members.insert(Pnn(n), Member { uid: uid(n), run: RunId(9), since: Epoch(1 + u64::from(n)) });
    }
    Status {
        snapshot: Snapshot {
            at: NOW,
            serial: 1,
            cluster: "storage".into(),
            me: Pnn(0),
            view: Some(view.into()),
            leader: Some(Pnn(0)),
            member: true,
            lease: LeaseStatus { valid: true, until: Some(NOW + Duration::from_millis(500)), grants: 3, voters: 3 },
            harmless: false,
            planned_moves: false,
            nodes: [
                (Pnn(0), node(0, NodeState::Ok).into()),
                (Pnn(1), node(1, NodeState::Ok).into()),
                (Pnn(2), node(2, NodeState::Witness).into()),
            ]
            .into(),
            vips: [(vip(200), held(0).into()), (vip(201), held(1).into())].into(),
            lock: LockStatus::default(),
            takeover_wait: Duration::from_millis(650),
            pace: PaceStatus::default(),
            warnings: vec![],
        },
        local: Local { log: "journalctl -u steadfast".into(), ..Local::default() },
        unix_ms: 0,
    }
}

pub(crate) fn one_down() -> Status {
    let mut status = healthy();
    let s = &mut status.snapshot;
    let view = Arc::make_mut(s.view.as_mut().unwrap());
    view.epoch = Epoch(8);
    view.members.remove(&Pnn(1));
    s.lease.grants = 2;
    let dead = Arc::make_mut(s.nodes.get_mut(&Pnn(1)).unwrap());
    dead.state = NodeState::Down;
    dead.because = "not heard".into();
    dead.member = false;
    dead.evicted = Some(cluster::Eviction { since: before(11), because: "gluster2 is not heard".into() });
    dead.since = before(12);
    dead.vips.clear();
    dead.services = Arc::default();
    let moving = Arc::make_mut(s.vips.get_mut(&vip(201)).unwrap());
    moving.state = VipState::Waiting;
    moving.holder = None;
    moving.target = Some(Pnn(0));
    moving.because = "until the lease of gluster2 is over".into();
    moving.since = before(1);
    s.warnings.push("gluster3: the clock jumped".into());
    status
}

pub(crate) fn samba_fails() -> Status {
    let mut status = healthy();
    let failed = ServiceHealth {
        state: Health::Failed,
        because: "no answer to SMB2 negotiate".into(),
        output: vec!["smbd: cannot open /etc/samba/smb.conf".into()],
    };
    let me = Arc::make_mut(status.snapshot.nodes.get_mut(&Pnn(0)).unwrap());
    me.state = NodeState::Unhealthy;
    Arc::make_mut(&mut me.services).insert("samba".into(), failed.clone());
    status.local.services.insert("samba".into(), failed);
    status
}

pub(crate) fn minority() -> Status {
    let mut status = healthy();
    let s = &mut status.snapshot;
    s.lease.valid = false;
    s.lease.grants = 1;
    for pnn in [Pnn(1), Pnn(2)] {
        Arc::make_mut(s.nodes.get_mut(&pnn).unwrap()).state = NodeState::Down;
    }
    status
}

pub(crate) fn not_joined() -> Status {
    let mut status = minority();
    status.snapshot.view = None;
    status.snapshot.leader = None;
    status.snapshot.member = false;
    status.local.links = vec![Link { peer: Pnn(1), up: false, because: "192.0.2.2:4390 does not answer".into() }];
    status
}

pub(crate) fn drained() -> Status {
    let mut status = healthy();
    let s = &mut status.snapshot;
    Arc::make_mut(s.nodes.get_mut(&Pnn(1)).unwrap()).state = NodeState::Drained;
    s.vips.insert(vip(201), held(0).into());
    status
}
