//! Copies that are only read, through the servers: who reads and who writes, what the counters say, and what becomes of the
//! copies when a node is lost.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::{DbMap, Opcode, db_flags};
use ctdb::wire::{Body, Call, LtdbHeader, record_flags as flag};
use ctdb::{call, node};
use world::{Client, World, number};

const KEY: &[u8] = b"key1";

/// A database whose copies are given, with a client on each node; every node has an old copy of the record, and the last
/// one holds it, counted up to `nodes`.
fn start(nodes: usize) -> (World, Vec<Client>, u32) {
    let mut world = World::new(nodes as u32);
    let clients: Vec<Client> = (0..nodes).map(|n| world.connect(n, 100 + n as i32)).collect();
    let ids: Vec<u32> = clients.iter().map(|c| world.attach(*c, Opcode::DB_ATTACH, "creds.tdb").unwrap()).collect();
    for client in &clients {
        let done = world.ask(*client, node::CURRENT, Opcode::SET_DB_READONLY, 0, &ids[0].to_ne_bytes()).unwrap();
        assert_eq!(done.status, 0);
        assert!(world.count(*client, ids[0], KEY));
    }
    (world, clients, ids[0])
}

/// Asks as Samba does when its own copy may not be read.
fn fetch(world: &mut World, client: Client, db: u32, flags: u32) -> Option<Vec<u8>> {
    let call = Call { flags, db, function: call::FETCH, hops: 0, key: KEY.to_vec(), argument: vec![] };
    let reqid = world.send(client, 0, Body::Call(call));
    world.answer(client, reqid).map(|body| match body {
        Body::CallReply(reply) => reply.data,
        other => panic!("{other:?}"),
    })
}

fn header(world: &World, n: usize, db: u32) -> LtdbHeader {
    LtdbHeader::split(&world.nodes[n].files[&db].records[KEY]).unwrap().0
}

/// Copies given and records whose copies were taken back, of all databases and of this one.
fn counted(world: &mut World, client: Client, db: u32) -> [u32; 4] {
    let all = world.ask(client, node::CURRENT, Opcode::STATISTICS, 0, &[]).unwrap().data;
    let one = world.ask(client, node::CURRENT, Opcode::GET_DB_STATISTICS, 0, &db.to_ne_bytes()).unwrap().data;
    let word = |data: &[u8], at: usize| u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
    [word(&all, 480), word(&all, 484), word(&one, 144), word(&one, 148)]
}

#[test]
fn readers_have_copies_until_somebody_writes() {
    let (mut world, clients, db) = start(3);
    let map = world.ask(clients[1], node::CURRENT, Opcode::GET_DBMAP, 0, &[]).unwrap();
    assert_eq!(DbMap::get(&map.data).unwrap().0, [(db, db_flags::READONLY)]);
    for n in [0, 1] {
        let data = fetch(&mut world, clients[n], db, call::flags::WANT_READONLY).unwrap();
        assert_eq!(number(Some(&data)), 3);
        let copy = header(&world, n, db);
        assert_eq!((copy.dmaster, copy.flags & flag::READONLY), (2, flag::HAVE_READONLY));
    }
    assert_eq!(header(&world, 2, db).flags & flag::READONLY, flag::HAVE_DELEGATIONS);
    assert_eq!(counted(&mut world, clients[2], db), [2, 0, 2, 0]);
    // The holder's client writes, then another node's.
    for (writer, value) in [(2, 4), (0, 5)] {
        assert!(world.count(clients[writer], db, KEY));
        assert!((0..3).all(|n| header(&world, n, db).flags & flag::READONLY == 0));
        assert_eq!(world.counter(db, KEY), Some(value));
        let data = fetch(&mut world, clients[1], db, call::flags::WANT_READONLY).unwrap();
        assert_eq!(number(Some(&data)), value);
    }
    assert_eq!(counted(&mut world, clients[2], db)[1], 1);
    assert_eq!(world.ask(clients[2], node::CURRENT, Opcode::STATISTICS_RESET, 0, &[]).unwrap().status, 0);
    assert_eq!(counted(&mut world, clients[2], db)[..2], [0, 0]);
}

#[test]
fn where_copies_are_not_given_readers_get_the_record() {
    let mut world = World::new(2);
    let clients: Vec<Client> = (0..2).map(|n| world.connect(n, 100 + n as i32)).collect();
    let db = clients.iter().map(|c| world.attach(*c, Opcode::DB_ATTACH, "locking.tdb").unwrap()).next().unwrap();
    for client in &clients {
        assert!(world.count(*client, db, KEY));
    }
    // Also where only the reader's node would take one.
    for _ in 0..2 {
        let data = fetch(&mut world, clients[0], db, call::flags::WANT_READONLY).unwrap();
        assert_eq!((number(Some(&data)), header(&world, 0, db).dmaster), (2, 0));
        assert!(fetch(&mut world, clients[1], db, 0).is_some());
        world.ask(clients[0], node::CURRENT, Opcode::SET_DB_READONLY, 0, &db.to_ne_bytes());
        let data = fetch(&mut world, clients[0], db, call::flags::WANT_READONLY).unwrap();
        assert_eq!((number(Some(&data)), header(&world, 0, db).flags & flag::READONLY), (2, 0));
        assert!(fetch(&mut world, clients[0], db, 0).is_some());
    }
    let persistent = world.attach(clients[0], Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb").unwrap();
    let refused = world.ask(clients[0], node::CURRENT, Opcode::SET_DB_READONLY, 0, &persistent.to_ne_bytes());
    assert_eq!(refused.unwrap().status, -1);
}

#[test]
fn a_recovery_takes_copies_back() {
    // The holder, or a reader in the middle of being told, is lost.
    for lost in [2, 1] {
        let (mut world, clients, db) = start(3);
        for n in [0, 1] {
            fetch(&mut world, clients[n], db, call::flags::WANT_READONLY).unwrap();
        }
        world.kill(lost);
        if lost == 1 {
            assert!(!world.count(clients[2], db, KEY), "the lost reader's client may still read its copy");
            assert_eq!(world.counter(db, KEY), Some(3));
        }
        let rest: Vec<u32> = (0..3).filter(|n| *n != lost as u32).collect();
        world.view_but(&rest, false);
        assert!(!world.count(clients[0], db, KEY), "it may still read, until its lease is over");
        world.tell(0, true, true);
        assert!(rest.iter().all(|n| header(&world, *n as usize, db).flags & flag::READONLY == 0));
        assert!(world.count(clients[0], db, KEY));
        assert_eq!(world.counter(db, KEY), Some(4), "of a lost holder nothing is lost that was read");
        let other = rest[1] as usize;
        let data = fetch(&mut world, clients[other], db, call::flags::WANT_READONLY).unwrap();
        assert_eq!(number(Some(&data)), 4);
    }
}
