//! Servers of a cluster together: emptied records go, whoever emptied them, and records written as they are.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::Opcode;
use ctdb::node;
use ctdb::server::Input;
use ctdb::wire::{LtdbHeader, Record, RecordBuffer, Writer};
use std::time::Duration;
use world::{Client, World};

const NODES: usize = 3;

fn open(world: &mut World, opcode: Opcode, name: &str) -> (Vec<Client>, u32) {
    let clients: Vec<Client> = (0..NODES).map(|n| world.connect(n, 100 + n as i32)).collect();
    let ids: Vec<u32> = clients.iter().map(|c| world.attach(*c, opcode, name).unwrap()).collect();
    (clients, ids[0])
}

fn keys() -> Vec<Vec<u8>> {
    (0..12u8).map(|n| vec![b'k', n]).collect()
}

/// Every node has held every record; the last of them empties it in its file, and says nothing.
fn emptied(world: &mut World, clients: &[Client], db: u32) {
    for client in clients {
        for key in keys() {
            assert!(world.count(*client, db, &key));
        }
    }
    // New ones were empty at first: that is forgotten with this.
    for client in clients {
        assert_eq!(vacuum(world, *client, db, false), Some(0));
    }
    for key in keys() {
        let file = world.nodes[NODES - 1].files.get_mut(&db).unwrap();
        let (header, _) = LtdbHeader::split(&file.records[&key]).unwrap();
        let empty = LtdbHeader { rsn: header.rsn + 1, ..header }.to_bytes();
        file.records.insert(key, empty.to_vec());
    }
}

/// How many of the records each node has anything of.
fn left(world: &World, db: u32) -> Vec<usize> {
    (0..NODES).map(|n| world.nodes[n].files[&db].records.len()).collect()
}

fn vacuum(world: &mut World, client: Client, db: u32, full: bool) -> Option<i32> {
    let mut order = Writer::default();
    order.u32(db).u8(u8::from(full));
    world.ask(client, node::CURRENT, Opcode::DB_VACUUM, 0, &order.finish()).map(|reply| reply.status)
}

#[test]
fn records_that_nobody_reported_go_with_a_full_run() {
    let mut world = World::new(NODES as u32);
    let (clients, db) = open(&mut world, Opcode::DB_ATTACH, "locking.tdb");
    emptied(&mut world, &clients, db);
    for client in &clients {
        assert_eq!(vacuum(&mut world, *client, db, false), Some(0));
    }
    assert_eq!(left(&world, db), [12; NODES], "nobody knows of them");
    assert_eq!(vacuum(&mut world, clients[0], db, true), Some(0));
    assert_eq!(left(&world, db), [12; NODES], "another node holds them");
    // Its answer waits for a client's lock.
    let held = keys().remove(3);
    world.nodes[NODES - 1].files.get_mut(&db).unwrap().locked.insert(held.clone());
    assert_eq!(vacuum(&mut world, clients[NODES - 1], db, true), None);
    // What other location masters have got of them is theirs to delete, with their next run.
    let others = |world: &mut World| {
        for client in &clients[..NODES - 1] {
            assert_eq!(vacuum(world, *client, db, false), Some(0));
        }
    };
    others(&mut world);
    assert_eq!(left(&world, db), [1; NODES]);
    world.unlock(NODES - 1, db, &held);
    others(&mut world);
    assert_eq!(left(&world, db), [0; NODES]);
    assert_eq!(vacuum(&mut world, clients[0], 0x1234, true), Some(-1), "no such database");
    for key in keys() {
        assert!(world.count(clients[1], db, &key), "they can be filled again");
    }
}

#[test]
fn the_clock_has_a_full_run_made_now_and_then() {
    let mut world = World::new(NODES as u32);
    let (clients, db) = open(&mut world, Opcode::DB_ATTACH, "locking.tdb");
    emptied(&mut world, &clients, db);
    world.later(Duration::from_secs(500));
    assert_eq!(left(&world, db), [12; NODES]);
    world.later(Duration::from_secs(130));
    assert_eq!(left(&world, db), [0; NODES], "every 60th of runs that are 10 s apart");
}

#[test]
fn a_recovery_forgets_them() {
    let mut world = World::new(NODES as u32);
    let (clients, db) = open(&mut world, Opcode::DB_ATTACH, "locking.tdb");
    emptied(&mut world, &clients, db);
    world.control(clients[0], node::CURRENT, Opcode::SET_RECMODE, 0, &1u32.to_ne_bytes());
    world.run();
    assert_eq!(left(&world, db), [0; NODES]);
    for key in keys() {
        assert!(world.count(clients[1], db, &key));
        assert_eq!(world.counter(db, &key), Some(1), "and nothing of it comes back");
    }
}

fn update(world: &mut World, client: Client, db: u32, rsn: u64, value: &[u8]) -> i32 {
    let header = LtdbHeader { rsn, dmaster: client.node as u32, reserved: 0, flags: 0 };
    let data = [&header.to_bytes()[..], value].concat();
    let mut out = Writer::default();
    RecordBuffer { db, records: vec![Record { reqid: 0, key: b"key".to_vec(), data }] }.put(&mut out);
    world.ask(client, node::CURRENT, Opcode::UPDATE_RECORD, 0, &out.finish()).unwrap().status
}

#[test]
fn a_record_that_is_written_as_it_is_is_on_every_member_or_refused() {
    let mut world = World::new(NODES as u32);
    let (clients, db) = open(&mut world, Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb");
    let value = |world: &World, n: usize| world.nodes[n].files[&db].records[&b"key"[..]][24..].to_vec();
    for (rsn, text) in [(1, b"first"), (2, b"later")] {
        assert_eq!(update(&mut world, clients[1], db, rsn, text), 0);
        assert_eq!([0, 1, 2].map(|n| value(&world, n)), [text; 3]);
    }
    world.control(clients[0], node::CURRENT, Opcode::SET_RECMODE, 0, &1u32.to_ne_bytes());
    world.run();
    assert_eq!([0, 1, 2].map(|n| value(&world, n)), [b"later"; 3]);
    let (clients, db) = open(&mut world, Opcode::DB_ATTACH, "locking.tdb");
    assert_eq!(update(&mut world, clients[1], db, 1, b"first"), -1, "of a volatile one");
    world.input(1, Input::Disconnected { client: clients[1].id });
}
