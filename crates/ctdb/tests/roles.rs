//! Servers of a cluster together: who leads as clients see it, and which nodes are location masters.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::{Opcode, VnnMap};
use ctdb::node;
use ctdb::server::Input;
use ctdb::srvid;
use world::{Client, World};

/// As the tool sees it: asks, and takes the next word for the answer.
fn leader(world: &mut World, n: usize) -> Vec<u32> {
    let tool = world.connect(n, 900);
    world.listen(tool, srvid::LEADER);
    let seen = world.messages(tool).into_iter().map(|(_, data)| word(&data)).collect();
    world.input(n, Input::Disconnected { client: tool.id });
    world.run();
    seen
}

fn word(data: &[u8]) -> u32 {
    u32::from_ne_bytes(data.try_into().unwrap())
}

#[test]
fn a_node_that_is_stopped_or_shall_not_lead_is_not_the_clients_leader() {
    let mut world = World::new(3);
    let asked = |world: &mut World| (0..3).map(|n| leader(world, n)).collect::<Vec<_>>();
    assert_eq!(asked(&mut world), [[0], [0], [0]]);
    // The one that has taken over goes on when the first continues, until it is stopped itself.
    for (idle, leads) in [(vec![0], 1), (vec![], 1), (vec![1, 2], 0), (vec![], 0), (vec![1], 0)] {
        world.idle = idle.iter().copied().collect();
        for n in 0..3 {
            world.tell(n, true, true);
        }
        assert_eq!(asked(&mut world), [[leads], [leads], [leads]], "stopped: {idle:?}");
    }
    let mut world = World::new(3);

    let tool = world.connect(2, 901);
    let set = |world: &mut World, node: u32, on: u32| {
        let answer = world.ask(tool, node, Opcode::SET_RECMASTERROLE, 0, &on.to_ne_bytes()).unwrap();
        assert_eq!(answer.status, 0);
    };
    let can = |world: &mut World, node: u32| {
        word(&world.ask(tool, node, Opcode::GET_CAPABILITIES, 0, &[]).unwrap().data) & node::capability::LEADER
    };
    set(&mut world, 0, 0);
    assert_eq!((can(&mut world, 0), can(&mut world, 1)), (0, node::capability::LEADER));
    assert_eq!(asked(&mut world), [[1], [1], [1]], "node 0 shall not lead");
    // The others learn of it anew, whatever they have lost.
    for up in [false, true] {
        for n in [1, 2] {
            world.input(n, Input::Link { peer: 0, up });
            world.input(0, Input::Link { peer: n as u32, up });
        }
    }
    world.view(&[0, 1, 2]);
    assert_eq!(asked(&mut world), [[1], [1], [1]], "it has not forgotten");
    set(&mut world, 1, 0);
    set(&mut world, 2, 0);
    assert!(asked(&mut world).concat().is_empty(), "nobody leads");
    set(&mut world, 0, 1);
    assert_eq!(asked(&mut world), [[0], [0], [0]]);
    let map = world.ask(tool, node::CURRENT, Opcode::GETVNNMAP, 0, &[]).unwrap();
    assert_eq!(VnnMap::get(&map.data).unwrap().map, [0, 1, 2], "records know nothing of it");
}

#[test]
fn a_node_that_shall_not_be_lmaster_is_none_after_a_recovery_at_once() {
    let mut world = World::new(3);
    let clients: Vec<Client> = (0..3).map(|n| world.connect(n, 100 + n as i32)).collect();
    let dbs: Vec<u32> = clients.iter().map(|c| world.attach(*c, Opcode::DB_ATTACH, "locking.tdb").unwrap()).collect();
    let db = dbs[0];
    let keys: Vec<Vec<u8>> = (0..12u8).map(|n| vec![b'k', n]).collect();
    let tool = world.connect(2, 901);
    let set = |world: &mut World, node: u32, on: u32| {
        let answer = world.ask(tool, node, Opcode::SET_LMASTERROLE, 0, &on.to_ne_bytes()).unwrap();
        assert_eq!(answer.status, 0);
    };
    let map = |world: &mut World| {
        let reply = world.ask(clients[0], node::CURRENT, Opcode::GETVNNMAP, 0, &[]).unwrap();
        VnnMap::get(&reply.data).unwrap().map
    };
    let can = |world: &mut World, node: u32| {
        word(&world.ask(tool, node, Opcode::GET_CAPABILITIES, 0, &[]).unwrap().data) & node::capability::LMASTER
    };
    let count = |world: &mut World| {
        for key in &keys {
            for n in [0, 1, 2] {
                assert!(world.count(clients[n], db, key));
            }
        }
    };
    count(&mut world);
    set(&mut world, 2, 0);
    assert_eq!((can(&mut world, 2), can(&mut world, 1)), (0, node::capability::LMASTER));
    assert_eq!(map(&mut world), [0, 1]);
    count(&mut world);
    // It serves its clients as before, and keeps what they use when one of them ends.
    let generation = |world: &World| world.nodes[2].files[&db].synced;
    let before = generation(&world);
    world.input(2, Input::Disconnected { client: clients[2].id });
    world.input(2, Input::Disconnected { client: tool.id });
    world.run();
    assert_eq!(generation(&world), before);
    assert!(keys.iter().all(|key| world.counter(db, key) == Some(6)));
    // Also in another view, and if the links were down meanwhile.
    for up in [false, true] {
        for n in [0, 1] {
            world.input(n, Input::Link { peer: 2, up });
            world.input(2, Input::Link { peer: n as u32, up });
        }
    }
    world.view(&[0, 1, 2]);
    assert_eq!(map(&mut world), [0, 1]);
    let tool = world.connect(0, 902);
    let set = |world: &mut World, node: u32, on: u32| {
        assert_eq!(world.ask(tool, node, Opcode::SET_LMASTERROLE, 0, &on.to_ne_bytes()).unwrap().status, 0);
    };
    for node in [0, 1] {
        set(&mut world, node, 0);
    }
    assert_eq!(map(&mut world), [0], "somebody has to be: the leader");
    for (idle, master) in [(vec![0], 1), (vec![], 1)] {
        world.idle = idle.into_iter().collect();
        for n in 0..3 {
            world.tell(n, true, true);
        }
        let asked = world.ask(clients[1], node::CURRENT, Opcode::GETVNNMAP, 0, &[]).unwrap();
        assert_eq!(VnnMap::get(&asked.data).unwrap().map, [master], "one that is not stopped, and leads from then on");
    }
    assert!(keys.iter().all(|key| world.counter(db, key) == Some(6)));
    set(&mut world, 2, 1);
    assert_eq!(map(&mut world), [2]);
    for node in [0, 1] {
        set(&mut world, node, 1);
    }
    assert_eq!(map(&mut world), [0, 1, 2]);
    assert!(keys.iter().all(|key| world.counter(db, key) == Some(6)));
    // A daemon that starts anew is one.
    set(&mut world, 1, 0);
    assert_eq!(map(&mut world), [0, 2]);
    world.kill(1);
    world.view(&[0, 2]);
    world.restart(1);
    world.run();
    world.view(&[0, 1, 2]);
    assert_eq!(map(&mut world), [0, 1, 2]);
}
