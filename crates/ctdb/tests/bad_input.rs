//! What makes no sense is refused, said once where it could be said without end, and everything else goes on.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::Opcode;
use ctdb::server::Level;
use ctdb::wire::{Body, Call, LtdbHeader};
use ctdb::{call, node};
use world::{Client, World, number};

const KEY: &[u8] = b"key1";

fn log(world: &World, n: usize, what: &str) -> Vec<(Level, String)> {
    world.nodes[n].log.iter().filter(|(_, text)| text.contains(what)).cloned().collect()
}

#[test]
fn a_control_that_is_unknown_is_refused_each_time_and_logged_once() {
    let mut world = World::new(2);
    let clients = [world.connect(0, 1), world.connect(0, 2), world.connect(1, 3)];
    for round in 0..5 {
        for client in clients {
            for opcode in [12, 9999] {
                let status = world.ask(client, 0, Opcode(opcode), 0, b"whatever").unwrap().status;
                assert_eq!(status, -1, "control {opcode}, round {round}");
            }
        }
    }
    let said = log(&world, 0, "is not known here");
    assert_eq!(said.len(), 2, "{said:?}");
    for (entry, opcode) in said.iter().zip(["12", "9999"]) {
        assert!(entry.1.contains(opcode) && entry.1.contains("status -1"), "{entry:?}");
    }
    assert_eq!(world.ask(clients[0], node::CURRENT, Opcode::PING, 0, &[]).unwrap().status, 2);
}

#[test]
fn a_database_that_there_is_not_is_an_error_for_calls_and_controls() {
    let mut world = World::new(2);
    let client = world.connect(0, 1);
    let db = world.attach(client, Opcode::DB_ATTACH, "locking.tdb").unwrap();
    let ask = |world: &mut World, db: u32, function: u32| {
        let flags = call::flags::IMMEDIATE_MIGRATION;
        let call = Call { flags, db, function, hops: 0, key: KEY.to_vec(), argument: vec![] };
        let reqid = world.send(client, 0, Body::Call(call));
        world.answer(client, reqid).expect("no answer")
    };
    for unknown in [0, 1, db + 1, u32::MAX] {
        for function in [call::NULL, call::FETCH, call::FETCH_WITH_HEADER] {
            let Body::Error { status: -1, why } = ask(&mut world, unknown, function) else {
                panic!("database {unknown:#x} was found")
            };
            assert_eq!(why, format!("no database {unknown:#010x}: attach it first"));
        }
        for opcode in [Opcode::GETDBPATH, Opcode::GET_DBNAME, Opcode::ENABLE_SEQNUM, Opcode::DB_OPEN_FLAGS] {
            let reply = world.ask(client, node::CURRENT, opcode, 0, &unknown.to_ne_bytes()).unwrap();
            assert_eq!((reply.status, reply.error), (-1, format!("no database {unknown:#010x}")), "{opcode}");
        }
    }
    assert!(!log(&world, 0, "attach it first").is_empty());
    let Body::Error { status: -1, why } = ask(&mut world, db, 77) else { panic!("function 77 was found") };
    assert_eq!(why, "no function 0x4d");
    assert!(world.count(client, db, KEY), "the connection and the database are as usable as before");
}

/// 24 bytes belong there. Left by a process that died, or written by one that knows nothing of clusters.
#[test]
fn a_record_with_a_header_of_23_bytes_is_as_if_it_were_not_there_and_the_others_go_on() {
    let short = LtdbHeader { rsn: 9, dmaster: 1, ..LtdbHeader::default() }.to_bytes()[..23].to_vec();
    for broken in 0..3 {
        let mut world = World::new(3);
        let clients: Vec<Client> = (0..3).map(|n| world.connect(n, 100 + n as i32)).collect();
        let ids: Vec<u32> =
            clients.iter().map(|c| world.attach(*c, Opcode::DB_ATTACH, "locking.tdb").unwrap()).collect();
        let db = ids[0];
        assert!(world.count(clients[0], db, b"other"));
        world.nodes[broken].files.get_mut(&db).unwrap().records.insert(KEY.to_vec(), short.clone());
        for client in clients.iter().chain(&clients) {
            assert!(world.count(*client, db, KEY), "broken on node {broken}");
            assert!(world.count(*client, db, b"other"));
        }
        assert_eq!(world.counter(db, KEY), Some(6));
        assert_eq!(world.counter(db, b"other"), Some(7));
        // And when all nodes say what they have.
        let n = (broken + 1) % 3;
        world.nodes[broken].files.get_mut(&db).unwrap().records.insert(b"lost".to_vec(), short.clone());
        world.control(clients[n], node::CURRENT, Opcode::SET_RECMODE, 0, &1u32.to_ne_bytes());
        assert_eq!(world.ask(clients[n], node::CURRENT, Opcode::GET_RECMODE, 0, &[]).unwrap().status, 0);
        assert_eq!(world.counter(db, KEY), Some(6));
        for client in &clients {
            assert!(world.count(*client, db, b"lost"), "broken on node {broken}");
            assert!(world.count(*client, db, b"other"));
        }
        let value = world.nodes[2].files[&db].records[&b"lost"[..]].clone();
        assert_eq!(number(value.get(24..)), 3);
    }
}
