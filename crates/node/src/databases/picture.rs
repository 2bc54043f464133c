//! What the databases' server needs to know of the cluster, from what the core publishes.

use crate::config::Config;
use cluster::{AdminState, Health, NodeState, NodeStatus, Pnn, Role, Snapshot, View, VipState};
use ctdb::node::flags;
use ctdb::server::{AddressFacts, IfaceFacts, NodeFacts, Picture};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The cluster as the server shall see it.
///
/// Its addresses are in numeric order, IPv4 first; its nodes include removed ones, for their numbers.
#[must_use]
pub fn picture(snapshot: &Snapshot, config: &Config) -> Picture {
    let members = snapshot.view.as_ref().map(|view| {
        let others = view.members.keys().filter(|pnn| **pnn != snapshot.me || snapshot.member);
        others.map(|pnn| u32::from(pnn.0)).collect()
    });
    let known = snapshot.nodes.iter().map(|(pnn, node)| NodeFacts {
        pnn: u32::from(pnn.0),
        flags: flags_of(node),
        address: SocketAddr::new(private_address(node), config.control_port),
    });
    let removed = config.removed.keys().filter(|pnn| !snapshot.nodes.contains_key(pnn)).map(|pnn| NodeFacts {
        pnn: u32::from(pnn.0),
        flags: flags::DELETED | flags::DISCONNECTED,
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.control_port),
    });
    let mut nodes: Vec<NodeFacts> = known.chain(removed).collect();
    nodes.sort_unstable_by_key(|node| node.pnn);
    let here = |address| config.vips.get(address).and_then(|vip| vip.hosts.get(&snapshot.me)).cloned();
    let addresses = snapshot.vips.iter().map(|(address, vip)| AddressFacts {
        address: *address,
        prefix: vip.prefix_len,
        holder: vip.holder.map(|pnn| u32::from(pnn.0)),
        moving: vip.state == VipState::Moving,
        here: here(address),
    });
    let interfaces: BTreeSet<String> = config.vips.keys().filter_map(here).collect();
    let own = snapshot.nodes.get(&snapshot.me);
    let ifaces = interfaces
        .into_iter()
        .map(|name| IfaceFacts { up: own.is_none_or(|node| !node.links_down.contains(&name)), name });
    Picture {
        epoch: snapshot.view.as_deref().map_or(0, View::number),
        members: members.unwrap_or_default(),
        idle: idle(snapshot),
        leader: snapshot.leader.map(|pnn| u32::from(pnn.0)),
        leased: snapshot.lease.valid,
        harmless: snapshot.harmless,
        nodes,
        addresses: addresses.collect(),
        ifaces: ifaces.collect(),
        lock: lock(config),
        own_list: config.own_list.is_some(),
        links_by_word: config.on_one_machine(),
    }
}

/// Members that serve nothing by an administrator's word.
fn idle(snapshot: &Snapshot) -> BTreeSet<u32> {
    let members = snapshot.view.iter().flat_map(|view| view.members.keys());
    let stopped = |pnn: &&Pnn| {
        snapshot.nodes.get(*pnn).is_some_and(|n| matches!(n.admin, AdminState::Stopped | AdminState::Banned))
    };
    members.filter(stopped).map(|pnn| u32::from(pnn.0)).collect()
}

/// A node's state in CTDB's words.
///
/// Nodes that run no Samba, because they only vote, have yet to join or were shut out, are said to be stopped: that is
/// what they are to whoever asks, and it keeps a smbd that is left over there from working.
fn flags_of(node: &NodeStatus) -> u32 {
    let said = match node.admin {
        AdminState::Active => 0,
        AdminState::Drained => flags::DISABLED,
        AdminState::Stopped => flags::STOPPED,
        AdminState::Banned => flags::BANNED,
    };
    let sick = node.services.values().any(|service| service.state == Health::Failed);
    let sick = if sick { flags::UNHEALTHY } else { 0 };
    match node.state {
        NodeState::Down | NodeState::Suspected => flags::DISCONNECTED | flags::UNHEALTHY,
        NodeState::Witness => flags::STOPPED,
        NodeState::Joining => flags::STOPPED | said | sick,
        NodeState::Unhealthy | NodeState::Starting => flags::UNHEALTHY | said,
        NodeState::Ok | NodeState::Drained | NodeState::Stopped | NodeState::Banned => {
            // Votes only, whatever the word for it is.
            let witness = if node.role == Role::Witness { flags::STOPPED } else { 0 };
            said | sick | witness
        }
    }
}

/// Control and storage use the first address.
fn private_address(node: &NodeStatus) -> IpAddr {
    node.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// As CTDB writes it: a file, or `!` and a command.
fn lock(config: &Config) -> String {
    if let Some(lock) = config.databases.as_ref().and_then(|d| d.lock.as_ref()) {
        return lock.clone();
    }
    match &config.lock {
        None => String::new(),
        Some(lock) => match &lock.command {
            None => lock.dir.join("lock").display().to_string(),
            Some(command) => format!("!{command}"),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::{Machine, load_text};
    use cluster::{
        Epoch, Incarnation, LeaseStatus, LockStatus, Member, NodeUid, PaceStatus, RunId, ServiceHealth, Time, VipStatus,
    };
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    const SITE: &str = r#"
[cluster]
name = "storage"
lock = "/srv/share/.steadfast/lock"
control_port = 4391
[[node]]
name = "a"
addresses = ["10.0.0.1", "192.168.1.1"]
[[node]]
removed = true
[[node]]
name = "c"
addresses = ["10.0.0.3"]
[[node]]
name = "d"
role = "witness"
addresses = ["10.0.0.4"]
[[vip]]
address = "192.168.1.201/24"
interface = "eth0"
[[vip]]
address = "192.168.1.9/24"
interface = "eth1"
nodes = ["c"]
[[vip]]
address = "fd00::1/64"
interface = "eth0"
[storage]
kind = "none"
"#;

    fn config() -> Config {
        let machine = Machine {
            addresses: ["10.0.0.1".parse().unwrap()].into(),
            interfaces: ["eth0".to_owned(), "eth1".to_owned()].into(),
            hostname: "a".into(),
            ..Machine::default()
        };
        load_text(Path::new("steadfast.toml"), SITE, &machine).unwrap_or_else(|p| panic!("{p}"))
    }

    fn view(number: u32, id: u64, epoch: u64) -> View {
        let mut view =
            View::founding(Incarnation { number, id }, Epoch(epoch), Pnn(0), NodeUid(1), "for the test".into());
        for pnn in [0, 2] {
            view.members.insert(Pnn(pnn), Member { uid: NodeUid(pnn.into()), run: RunId(7), since: Epoch(1) });
        }
        view
    }

    fn node(config: &Config, pnn: Pnn) -> NodeStatus {
        let conf = &config.nodes[&pnn];
        NodeStatus {
            name: conf.name.clone(),
            role: conf.role,
            addresses: conf.addresses.clone(),
            state: if conf.role == Role::Witness { NodeState::Witness } else { NodeState::Ok },
            because: String::new(),
            uid: None,
            member: conf.role == Role::Server,
            voter: true,
            evicted: None,
            since: Time(0),
            admin: AdminState::Active,
            lingers: false,
            nfs_clients: false,
            links_down: BTreeSet::new(),
            services: Arc::default(),
            vips: BTreeSet::new(),
            version: String::new(),
            warnings: Vec::new(),
        }
    }

    fn node_of(snapshot: &mut Snapshot, pnn: u16) -> &mut NodeStatus {
        Arc::make_mut(snapshot.nodes.get_mut(&Pnn(pnn)).unwrap())
    }

    /// All is well, and node 2 has all addresses.
    pub(crate) fn snapshot(config: &Config) -> Snapshot {
        let vip = |conf: &cluster::VipConf| VipStatus {
            state: VipState::Held,
            holder: Some(Pnn(2)),
            target: Some(Pnn(2)),
            prefix_len: conf.prefix_len,
            interface: String::new(),
            healthy: true,
            because: String::new(),
            since: Time(0),
        };
        Snapshot {
            at: Time(0),
            serial: 1,
            cluster: "storage".into(),
            me: Pnn(0),
            view: Some(view(0, 9, 12).into()),
            leader: Some(Pnn(2)),
            member: true,
            lease: LeaseStatus { valid: true, until: None, grants: 2, voters: 3 },
            harmless: true,
            planned_moves: false,
            nodes: config.nodes.keys().map(|pnn| (*pnn, node(config, *pnn).into())).collect(),
            vips: config.vips.iter().map(|(address, conf)| (*address, vip(conf).into())).collect(),
            lock: LockStatus::default(),
            takeover_wait: Duration::ZERO,
            pace: PaceStatus::default(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_whole_cluster() {
        let config = config();
        let mut seen = snapshot(&config);
        node_of(&mut seen, 0).links_down.insert("eth0".into());
        let picture = picture(&seen, &config);
        assert_eq!((picture.epoch, picture.leader), (12, Some(2)));
        assert_eq!(picture.members, [0, 2]);
        assert!(picture.leased && picture.harmless && picture.idle.is_empty());
        let nodes: Vec<(u32, u32, String)> =
            picture.nodes.iter().map(|n| (n.pnn, n.flags, n.address.to_string())).collect();
        assert_eq!(
            nodes,
            [
                (0, 0, "10.0.0.1:4391".into()),
                (1, flags::DELETED | flags::DISCONNECTED, "0.0.0.0:4391".into()),
                (2, 0, "10.0.0.3:4391".into()),
                (3, flags::STOPPED, "10.0.0.4:4391".into()),
            ]
        );
        let addresses: Vec<(String, u8, Option<&str>)> =
            picture.addresses.iter().map(|a| (a.address.to_string(), a.prefix, a.here.as_deref())).collect();
        assert_eq!(
            addresses,
            [
                ("192.168.1.9".into(), 24, None),
                ("192.168.1.201".into(), 24, Some("eth0")),
                ("fd00::1".into(), 64, Some("eth0")),
            ]
        );
        assert!(picture.addresses.iter().all(|a| a.holder == Some(2)));
        assert_eq!(picture.ifaces, [IfaceFacts { name: "eth0".into(), up: false }]);
        assert_eq!(picture.lock, "/srv/share/.steadfast/lock");
    }

    #[test]
    fn members_that_are_stopped_or_banned_are_idle() {
        let config = config();
        let mut seen = snapshot(&config);
        // Node 3 is no member.
        for (pnn, admin) in [(0, AdminState::Drained), (2, AdminState::Banned), (3, AdminState::Stopped)] {
            node_of(&mut seen, pnn).admin = admin;
        }
        assert_eq!(picture(&seen, &config).idle, BTreeSet::from([2]));
        node_of(&mut seen, 0).admin = AdminState::Stopped;
        assert_eq!(picture(&seen, &config).idle, BTreeSet::from([0, 2]));
    }

    #[test]
    fn a_node_that_was_not_admitted_is_no_member_to_itself() {
        let config = config();
        let mut seen = snapshot(&config);
        seen.member = false;
        seen.lease.valid = false;
        node_of(&mut seen, 0).state = NodeState::Joining;
        let picture_then = picture(&seen, &config);
        assert_eq!(picture_then.members, [2]);
        assert!(!picture_then.leased);
        assert_eq!(picture_then.nodes[0].flags, flags::STOPPED);
        seen.view = None;
        seen.leader = None;
        let nothing = picture(&seen, &config);
        assert_eq!((nothing.epoch, nothing.members, nothing.leader), (0, vec![], None));
    }

    #[test]
    fn states_in_ctdbs_words() {
        let config = config();
        let flags_when = |change: &dyn Fn(&mut NodeStatus)| {
            let mut node = node(&config, Pnn(2));
            change(&mut node);
            flags_of(&node)
        };
        let failed = || ServiceHealth { state: Health::Failed, because: String::new(), output: Vec::new() };
        assert_eq!(flags_when(&|n| n.state = NodeState::Down), flags::DISCONNECTED | flags::UNHEALTHY);
        assert_eq!(flags_when(&|n| n.state = NodeState::Suspected), flags::DISCONNECTED | flags::UNHEALTHY);
        assert_eq!(flags_when(&|n| n.state = NodeState::Unhealthy), flags::UNHEALTHY);
        assert_eq!(flags_when(&|n| n.state = NodeState::Starting), flags::UNHEALTHY);
        assert_eq!(flags_when(&|n| n.state = NodeState::Joining), flags::STOPPED);
        for (state, admin, flag) in [
            (NodeState::Drained, AdminState::Drained, flags::DISABLED),
            (NodeState::Stopped, AdminState::Stopped, flags::STOPPED),
            (NodeState::Banned, AdminState::Banned, flags::BANNED),
        ] {
            assert_eq!(flags_when(&|n| (n.state, n.admin) = (state, admin)), flag);
            let sick = flags_when(&|n| {
                (n.state, n.admin) = (state, admin);
                Arc::make_mut(&mut n.services).insert("samba".into(), failed());
            });
            assert_eq!(sick, flag | flags::UNHEALTHY);
        }
    }

    #[test]
    fn views_of_two_lives_never_share_a_number() {
        // `force-view` at one node, while the others count on.
        let left_behind = view(0, 1, 13);
        let forced = view(1, 2 << 60, 13);
        let forced_elsewhere = view(1, 3 << 60, 13);
        let later = view(2, 0, 13);
        let mut views = [&later, &left_behind, &forced_elsewhere, &forced];
        views.sort_by_key(|v| v.number());
        let mut ranked = views;
        ranked.sort_by_key(|v| v.rank());
        assert_eq!(views, ranked);
        let numbers: BTreeSet<u64> = views.iter().map(|v| v.number()).collect();
        assert_eq!(numbers.len(), 4);
        assert_eq!(left_behind.number(), 13);
    }
}
