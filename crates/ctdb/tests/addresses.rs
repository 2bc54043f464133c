//! Servers of a cluster together: public addresses, as clients change and watch them, and who is connected to them.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::Opcode;
use ctdb::node;
use ctdb::server::Input;
use ctdb::srvid;
use ctdb::wire::{Connection, Writer};
use std::time::Duration;
use world::{Client, World};

#[test]
fn addresses_of_the_own_list_can_be_changed_by_word() {
    use ctdb::control::Iface;
    use ctdb::server::Wish;
    use ctdb::wire::SockAddr;
    use std::net::IpAddr;
    let mut world = World::new(2);
    let tool = world.connect(1, 900);
    let (new, old): (IpAddr, IpAddr) = ("192.168.1.9".parse().unwrap(), "192.168.1.1".parse().unwrap());
    let about = |address, iface: &str| {
        let mut out = Writer::default();
        SockAddr::ip(address).put(&mut out);
        out.u32(24);
        match iface {
            "" => out.u32(0),
            _ => out.counted_text(iface),
        };
        out.finish()
    };
    let mut link = Writer::default();
    Iface { name: "eth0".into(), up: false, references: 0 }.put(&mut link);
    let orders = [
        (Opcode::ADD_PUBLIC_IP, about(new, "eth0")),
        (Opcode::DEL_PUBLIC_IP, about(old, "")),
        (Opcode::SET_IFACE_LINK_STATE, link.finish()),
    ];
    for (opcode, data) in &orders {
        assert_eq!(world.ask(tool, node::CURRENT, *opcode, 0, data).unwrap().status, -1, "{opcode}: of steadfast.toml");
    }
    world.own_list = true;
    world.tell(1, true, true);
    let asked: Vec<u32> =
        orders.iter().map(|(opcode, data)| world.control(tool, node::CURRENT, *opcode, 0, data)).collect();
    let wishes: Vec<Wish> = std::mem::take(&mut world.nodes[1].wishes);
    assert_eq!(wishes, [Wish::Add(new, 24, "eth0".into()), Wish::Remove(old), Wish::Link("eth0".into(), false)]);
    let answers = |world: &mut World| asked.iter().map(|id| world.status(tool, *id)).collect::<Vec<_>>();
    assert_eq!(answers(&mut world), [None, None, Some(0)], "when it is so");
    world.vip_on.insert(9, 0);
    world.tell(1, true, true);
    assert_eq!(world.status(tool, asked[0]), Some(0));
    world.later(Duration::from_secs(6));
    assert_eq!(world.status(tool, asked[1]), Some(-1), "it was refused");
}

#[test]
fn only_an_address_that_is_here_is_announced_by_word() {
    use ctdb::server::Wish;
    use ctdb::wire::SockAddr;
    let mut world = World::new(2);
    let tool = world.connect(1, 900);
    let ask = |world: &mut World, address: &str, iface: &str| {
        let mut data = Writer::default();
        SockAddr::ip(address.parse().unwrap()).put(&mut data);
        data.u32(0).counted_text(iface);
        let answer = world.ask(tool, node::CURRENT, Opcode::SEND_GRATUITOUS_ARP, 0, &data.finish()).unwrap();
        (answer.status, answer.error)
    };
    assert_eq!(ask(&mut world, "192.168.1.2", "eth0"), (0, String::new()));
    assert_eq!(world.nodes[1].wishes, [Wish::Announce("192.168.1.2".parse().unwrap())]);
    for (address, iface, why) in [
        ("192.168.1.2", "eth1", "192.168.1.2 is not announced on eth1: it is on eth0 here"),
        ("192.168.1.1", "eth0", "192.168.1.1 is not announced: node 1 does not have it"),
        ("10.9.9.9", "eth0", "10.9.9.9 is not announced: node 1 does not have it"),
    ] {
        assert_eq!(ask(&mut world, address, iface), (-1, why.to_owned()));
    }
    world.input(1, Input::Leaves("192.168.1.2".parse().unwrap()));
    assert_eq!(ask(&mut world, "192.168.1.2", "eth0").0, -1, "it is about to leave");
    assert_eq!(world.nodes[1].wishes.len(), 1);
}

fn listed(world: &mut World, client: Client, address: &str) -> Vec<u16> {
    let mut asked = Writer::default();
    ctdb::wire::SockAddr::ip(address.parse().unwrap()).put(&mut asked);
    let reply = world.ask(client, node::CURRENT, Opcode::GET_TCP_TICKLE_LIST, 0, &asked.finish()).unwrap();
    let list = ctdb::control::TickleList::get(&reply.data).unwrap();
    list.connections.iter().map(|c| c.client.port()).collect()
}

fn connection(port: u16, address: &str) -> Connection {
    Connection {
        client: ([10, 1, 1, 1], port).into(),
        server: (address.parse::<std::net::IpAddr>().unwrap(), 445).into(),
    }
}

fn tells(world: &mut World, client: Client, opcode: Opcode, connection: Connection) -> i32 {
    let mut out = Writer::default();
    connection.put(&mut out);
    world.ask(client, node::CURRENT, opcode, 0, &out.finish()).unwrap().status
}

#[test]
fn connections_are_listed_until_whoever_told_them_takes_them_back_or_ends() {
    const HERE: &str = "192.168.1.1";
    let mut world = World::new(2);
    let (smbd, other, tool) = (world.connect(0, 1), world.connect(0, 2), world.connect(0, 3));
    let [a, b, c] = [1, 2, 3].map(|port| connection(port, HERE));
    for (client, one) in [(smbd, a), (smbd, b), (other, b)] {
        assert_eq!(tells(&mut world, client, Opcode::TCP_CLIENT, one), 0);
    }
    assert_eq!(tells(&mut world, tool, Opcode::TCP_ADD, c), 0);
    assert_eq!(tells(&mut world, tool, Opcode::TCP_CLIENT, connection(4, "192.168.1.2")), -1, "node 1 has it");
    assert_eq!(tells(&mut world, tool, Opcode::TCP_ADD, connection(4, "10.0.0.9")), 0, "none of this cluster's");
    assert_eq!(std::mem::take(&mut world.nodes[0].told), [(a, true), (b, true), (c, true)]);
    world.disconnect(tool);
    assert_eq!(listed(&mut world, smbd, HERE), [1, 2, 3], "what a tool told stays");
    // The kernel shows one that nobody told.
    let [address, theirs] = [HERE, "192.168.1.2"].map(|a| a.parse().unwrap());
    world.input(0, Input::Connections { address, connections: vec![a, connection(9, HERE)] });
    world.input(0, Input::Connections { address: theirs, connections: vec![connection(8, "192.168.1.2")] });
    world.run();
    assert_eq!(listed(&mut world, smbd, HERE), [1, 2, 3, 9]);
    assert_eq!(listed(&mut world, smbd, "192.168.1.2"), [8]);
    world.input(0, Input::Connections { address, connections: vec![] });
    // Two have told of b: one takes it back, the other ends.
    assert_eq!(tells(&mut world, smbd, Opcode::TCP_CLIENT_PASSED, b), 0);
    assert_eq!(world.nodes[0].told, []);
    world.disconnect(other);
    assert_eq!(std::mem::take(&mut world.nodes[0].told), [(b, false)]);
    world.input(0, Input::Connections { address, connections: vec![a] });
    assert_eq!(tells(&mut world, smbd, Opcode::TCP_REMOVE, a), 0);
    assert_eq!(tells(&mut world, smbd, Opcode::TCP_REMOVE, c), 0);
    assert_eq!(tells(&mut world, smbd, Opcode::TCP_CLIENT_DISCONNECTED, a), 0, "not known any more");
    assert_eq!(std::mem::take(&mut world.nodes[0].told), [(a, false), (c, false)]);
    assert_eq!(listed(&mut world, smbd, HERE), [0u16; 0]);
}

#[test]
fn connections_of_an_address_that_is_elsewhere_are_kept_until_it_comes() {
    const THERE: &str = "192.168.1.2";
    let mut world = World::new(2);
    let tool = world.connect(0, 1);
    let set = |world: &mut World, address: &str, ports: &[u16]| {
        let address: std::net::IpAddr = address.parse().unwrap();
        let connections = ports.iter().map(|port| connection(*port, &address.to_string())).collect();
        let mut out = Writer::default();
        ctdb::control::TickleList { address: (address, 0).into(), connections }.put(&mut out);
        world.ask(tool, node::CURRENT, Opcode::SET_TCP_TICKLE_LIST, 0, &out.finish()).unwrap().status
    };
    assert_eq!(tells(&mut world, tool, Opcode::TCP_ADD_DELAYED_UPDATE, connection(1, THERE)), 0);
    assert_eq!(set(&mut world, THERE, &[2, 3]), 0);
    assert_eq!(listed(&mut world, tool, THERE), [2, 3], "in place of what was there");
    assert_eq!(set(&mut world, "192.168.1.1", &[4]), 0);
    assert_eq!(listed(&mut world, tool, "192.168.1.1"), [0u16; 0], "its holder knows better");
    assert_eq!(set(&mut world, "10.0.0.9", &[]), 1);
    world.nodes[0].told.clear();
    world.input(0, Input::Comes(THERE.parse().unwrap()));
    assert_eq!(listed(&mut world, tool, THERE), [0u16; 0], "they have been tickled");
    assert_eq!(world.nodes[0].told, [2, 3].map(|port| (connection(port, THERE), false)));
}

#[test]
fn tunables_that_forbid_moves_are_heard_by_who_places_the_addresses() {
    use ctdb::server::Wish;
    let mut world = World::new(2);
    let tool = world.connect(1, 900);
    let mut set = |name: &str, value: u32| {
        let mut out = Writer::default();
        out.u32(value).counted_text(name);
        let status = world.ask(tool, node::CURRENT, Opcode::SET_TUNABLE, 0, &out.finish()).unwrap().status;
        (status, std::mem::take(&mut world.nodes[1].wishes))
    };
    let restrain = |no_takeover, no_failback| vec![Wish::Restrain { no_takeover, no_failback }];
    assert_eq!(set("NoIPTakeover", 1), (0, restrain(true, false)));
    assert_eq!(set("noipfailback", 1), (0, restrain(true, true)));
    assert_eq!(set("NoIPTakeover", 2), (0, vec![]), "as before");
    assert_eq!(set("NoIPTakeover", 0), (0, restrain(false, true)));
    assert_eq!(set("VacuumInterval", 3), (0, vec![]));
}

/// Samba would take it for the answer, and a living process for dead.
#[test]
fn who_waits_for_an_answer_about_life_hears_of_a_leaving_address_after_it() {
    let mut world = World::new(2);
    let (asker, other, asked) = (world.connect(0, 10), world.connect(0, 11), world.connect(1, 20));
    for client in [asker, other] {
        world.listen(client, srvid::RELEASE_IP);
    }
    world.listen(asked, 99);
    let check = [&20i32.to_ne_bytes()[..], &99u64.to_ne_bytes()].concat();
    let gone = [(srvid::RELEASE_IP, b"192.168.1.1\0".to_vec())];
    let home = |world: &mut World| {
        world.vip_on.insert(1, 0);
        world.tell(0, true, true);
    };

    // The question, or its answer, is on its way.
    home(&mut world);
    world.cut.insert((0, 1));
    let question = world.control(asker, 1, Opcode::CHECK_PID_SRVID, 0, &check);
    world.input(0, Input::Leaves("192.168.1.1".parse().unwrap()));
    world.run();
    assert_eq!(world.messages(other), gone, "nobody else waits for it");
    assert_eq!(world.messages(asker), []);
    world.cut.clear();
    world.run();
    let packets: Vec<_> = world.nodes[0].packets[&asker.id].iter().map(|p| p.header.reqid).collect();
    assert_eq!(packets, [question, 0], "first the answer");
    assert_eq!(world.status(asker, question), Some(0));
    assert_eq!(world.messages(asker), gone);
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);

    // The question waits for the lease.
    home(&mut world);
    world.tell(0, false, true);
    let question = world.control(asker, 1, Opcode::CHECK_PID_SRVID, 0, &check);
    world.vip_on.insert(1, 1);
    world.tell(0, false, true);
    assert_eq!((world.messages(other), world.messages(asker)), (gone.to_vec(), Vec::new()));
    world.tell(0, true, true);
    assert_eq!(world.status(asker, question), Some(0));
    assert_eq!(world.messages(asker), gone);
}

/// In the middle of something it may be about to ask who is alive, and would find in its socket that its address leaves.
#[test]
fn who_is_busy_hears_that_its_address_leaves_when_it_is_at_rest() {
    let gone = [(srvid::RELEASE_IP, b"192.168.1.1\0".to_vec())];
    let mut world = World::new(2);
    let (its, other, asked) = (world.connect(0, 10), world.connect(0, 11), world.connect(1, 20));
    for (client, address) in [(its, "192.168.1.1"), (other, "192.168.1.2")] {
        world.listen(client, srvid::RELEASE_IP);
        world.listen(client, srvid::TAKE_IP);
        // Not known to be here when it tells: what smbd accepts at once when an address comes.
        let _ = tells(&mut world, client, Opcode::TCP_CLIENT, connection(7, address));
    }
    let leaves = |world: &mut World| {
        world.vip_on.insert(1, 0);
        world.tell(0, true, true);
        world.input(0, Input::Comes("192.168.1.1".parse().unwrap()));
        world.input(0, Input::Leaves("192.168.1.1".parse().unwrap()));
        world.run();
        std::mem::take(&mut world.nodes[0].awaits)
    };
    let messages = |world: &mut World, client| -> Vec<_> {
        world.messages(client).into_iter().filter(|(srvid, _)| *srvid == srvid::RELEASE_IP).collect()
    };
    assert_eq!(leaves(&mut world), [its.id]);
    assert_eq!((messages(&mut world, other), messages(&mut world, its)), (gone.to_vec(), Vec::new()));
    world.later(Duration::from_millis(900));
    assert_eq!(messages(&mut world, its), []);
    world.input(0, Input::AtRest(its.id));
    world.run();
    assert_eq!(messages(&mut world, its), gone);
    world.input(0, Input::AtRest(its.id));
    world.run();
    assert_eq!(messages(&mut world, its), [], "once");
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);

    // It was at rest when it was looked at, and asks before that is heard.
    assert_eq!(leaves(&mut world), [its.id]);
    world.listen(asked, 99);
    world.cut.insert((0, 1));
    let check = [&20i32.to_ne_bytes()[..], &99u64.to_ne_bytes()].concat();
    let question = world.control(its, 1, Opcode::CHECK_PID_SRVID, 0, &check);
    world.input(0, Input::AtRest(its.id));
    world.run();
    assert_eq!(std::mem::take(&mut world.nodes[0].awaits), [its.id]);
    assert_eq!(messages(&mut world, its), []);
    world.cut.clear();
    world.run();
    assert_eq!((world.status(its, question), messages(&mut world, its)), (Some(0), vec![]));
    world.input(0, Input::AtRest(its.id));
    world.run();
    assert_eq!(messages(&mut world, its), gone);
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);

    // A hung one hears after a second; one whose connection has ended does not hear at all.
    assert_eq!(leaves(&mut world), [its.id]);
    world.later(Duration::from_millis(999));
    assert_eq!(messages(&mut world, its), []);
    world.later(Duration::from_millis(1));
    assert_eq!(messages(&mut world, its), gone);
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);

    // A daemon that has stood still first reads what was asked meanwhile, however little it is late.
    for late in [Duration::ZERO, Duration::from_micros(900), Duration::from_millis(25)] {
        assert_eq!(leaves(&mut world), [its.id]);
        world.later(Duration::from_millis(500));
        world.now.mono += Duration::from_millis(500) + late;
        world.input(0, Input::Wake);
        world.run();
        assert_eq!(messages(&mut world, its), [], "{late:?}");
        let question = world.control(its, 1, Opcode::CHECK_PID_SRVID, 0, &check);
        assert_eq!(world.status(its, question), Some(0));
        assert_eq!(messages(&mut world, its), [], "{late:?}");
        world.later(Duration::from_millis(20));
        assert_eq!(messages(&mut world, its), gone, "{late:?}");
        world.vip_on.insert(1, 1);
        world.tell(0, true, true);
    }
    assert_eq!(leaves(&mut world), [its.id]);
    world.now.mono += Duration::from_secs(5);
    world.input(0, Input::Wake);
    world.run();
    assert_eq!(messages(&mut world, its), []);
    world.later(Duration::from_millis(20));
    assert_eq!(messages(&mut world, its), gone);
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);

    // Also when the first that it reads is a question of that process about something else.
    assert_eq!(leaves(&mut world), [its.id]);
    world.now.mono += Duration::from_secs(5);
    assert!(world.ask(its, node::CURRENT, Opcode::GET_PID, 0, &[]).is_some());
    assert_eq!(messages(&mut world, its), []);
    world.later(Duration::from_millis(20));
    assert_eq!(messages(&mut world, its), gone);
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);

    assert_eq!(leaves(&mut world), [its.id]);
    world.ask(its, node::CURRENT, Opcode::DEREGISTER_SRVID, srvid::RELEASE_IP, &[]).unwrap();
    world.later(Duration::from_secs(2));
    assert_eq!(messages(&mut world, its), []);
    world.listen(its, srvid::RELEASE_IP);
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);
    let _ = tells(&mut world, its, Opcode::TCP_CLIENT_DISCONNECTED, connection(7, "192.168.1.1"));
    assert_eq!(leaves(&mut world), []);
    assert_eq!(messages(&mut world, its), gone, "it is not its address any more");
}

/// Without a lease what a process tells of its connection waits. That it serves the address is known all the same.
#[test]
fn who_has_told_of_its_connection_without_a_lease_hears_that_its_address_leaves_when_it_is_at_rest() {
    let mut world = World::new(2);
    world.vip_on.insert(1, 0);
    world.tell(0, false, true);
    let its = world.connect(0, 10);
    world.listen(its, srvid::RELEASE_IP);
    let mut data = Writer::default();
    connection(7, "192.168.1.1").put(&mut data);
    let told = world.control(its, node::CURRENT, Opcode::TCP_CLIENT, 0, &data.finish());
    assert_eq!(world.status(its, told), None);
    world.input(0, Input::Leaves("192.168.1.1".parse().unwrap()));
    world.run();
    assert_eq!(world.messages(its), []);
    assert_eq!(std::mem::take(&mut world.nodes[0].awaits), [its.id]);
    world.input(0, Input::AtRest(its.id));
    world.run();
    assert_eq!(world.messages(its), [(srvid::RELEASE_IP, b"192.168.1.1\0".to_vec())]);
    world.tell(0, true, true);
    assert_eq!(world.status(its, told), Some(0));
}
