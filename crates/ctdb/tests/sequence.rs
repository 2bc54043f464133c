//! Sequence numbers of databases over nodes: who caches what is in a database learns that it was changed elsewhere.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::Opcode;
use ctdb::node;
use ctdb::wire::{LtdbHeader, Writer};
use std::time::Duration;
use world::{Client, World};

fn counts(world: &mut World, client: Client, db: u32) {
    let reply = world.ask(client, node::CURRENT, Opcode::ENABLE_SEQNUM, 0, &db.to_ne_bytes()).unwrap();
    assert_eq!(reply.status, 0);
}

/// A client changes a record that is with its node.
fn write(world: &mut World, n: usize, db: u32) {
    let value = LtdbHeader { dmaster: n as u32, ..LtdbHeader::default() }.to_bytes();
    world.nodes[n].files.get_mut(&db).unwrap().write(b"key", &value);
}

fn numbers(world: &World, db: u32) -> Vec<u32> {
    world.nodes.iter().map(|node| node.files[&db].sequence()).collect()
}

#[test]
fn a_change_raises_the_number_on_the_nodes_that_were_asked_to_count() {
    let mut world = World::new(3);
    let clients: Vec<Client> = (0..3).map(|n| world.connect(n, 100 + n as i32)).collect();
    let ids: Vec<u32> =
        clients.iter().map(|c| world.attach(*c, Opcode::DB_ATTACH, "registry_cache.tdb").unwrap()).collect();
    let db = ids[0];
    // Nobody asked; and then only where the change is.
    write(&mut world, 0, db);
    world.later(Duration::from_secs(3));
    assert_eq!(numbers(&world, db), [0, 0, 0]);
    counts(&mut world, clients[0], db);
    write(&mut world, 0, db);
    world.later(Duration::from_secs(3));
    assert_eq!(numbers(&world, db), [1, 0, 0]);
    // Two of three count.
    counts(&mut world, clients[1], db);
    write(&mut world, 0, db);
    assert_eq!(numbers(&world, db), [2, 0, 0]);
    world.later(Duration::from_secs(1));
    assert_eq!(numbers(&world, db), [2, 1, 0], "within SeqnumInterval, which is 1000 ms");
    world.later(Duration::from_secs(10));
    assert_eq!(numbers(&world, db), [2, 1, 0], "what was told is told no further");
    // Several changes in one interval are told once, and changes on both sides cross.
    for _ in 0..5 {
        write(&mut world, 1, db);
    }
    world.later(Duration::from_secs(1));
    assert_eq!(numbers(&world, db), [3, 6, 0]);
    write(&mut world, 0, db);
    write(&mut world, 1, db);
    world.later(Duration::from_secs(10));
    assert_eq!(numbers(&world, db), [5, 8, 0]);
    // The third as well, and faster.
    counts(&mut world, clients[2], db);
    let mut tunable = Writer::default();
    tunable.u32(100).counted_text("SeqnumInterval");
    assert_eq!(world.ask(clients[1], node::CURRENT, Opcode::SET_TUNABLE, 0, &tunable.finish()).unwrap().status, 0);
    world.later(Duration::from_secs(1));
    write(&mut world, 1, db);
    world.later(Duration::from_millis(100));
    assert_eq!(numbers(&world, db), [6, 9, 1]);
    world.later(Duration::from_secs(10));
    assert_eq!(numbers(&world, db), [6, 9, 1]);
}

#[test]
fn a_change_just_before_another_node_tells_one_is_told_too() {
    let mut world = World::new(2);
    let clients: Vec<Client> = (0..2).map(|n| world.connect(n, 100 + n as i32)).collect();
    let ids: Vec<u32> = clients.iter().map(|c| world.attach(*c, Opcode::DB_ATTACH, "brlock.tdb").unwrap()).collect();
    let db = ids[0];
    for client in &clients {
        counts(&mut world, *client, db);
    }
    // The first node looks ten times before the second does.
    let mut tunable = Writer::default();
    tunable.u32(100).counted_text("SeqnumInterval");
    assert_eq!(world.ask(clients[0], node::CURRENT, Opcode::SET_TUNABLE, 0, &tunable.finish()).unwrap().status, 0);
    world.later(Duration::from_secs(2));
    write(&mut world, 1, db);
    write(&mut world, 0, db);
    world.later(Duration::from_millis(100));
    assert_eq!(numbers(&world, db), [1, 2], "the first node's change is told, the second's not yet");
    world.later(Duration::from_secs(10));
    assert_eq!(numbers(&world, db), [2, 2]);
}
