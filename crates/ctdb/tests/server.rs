//! Servers of a cluster together: what Samba's processes and the tool see, also when nodes die.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::{NodeMap, Opcode, PublicIps, VnnMap};
use ctdb::node;
use ctdb::server::Input;
use ctdb::srvid;
use ctdb::wire::{Body, LtdbHeader, Message, Reader, Record, RecordBuffer, Writer};
use std::time::Duration;
use world::{Client, World, number};

const KEY: &[u8] = b"key1";

fn open(world: &mut World, nodes: usize, opcode: Opcode, name: &str) -> (Vec<Client>, u32) {
    let clients: Vec<Client> = (0..nodes).map(|n| world.connect(n, 100 + n as i32)).collect();
    let ids: Vec<u32> = clients.iter().map(|c| world.attach(*c, opcode, name).unwrap()).collect();
    (clients, ids[0])
}

fn commit(world: &mut World, client: Client, db: u32, seqnum: u64, value: &[u8]) -> u32 {
    let header = LtdbHeader { rsn: seqnum, dmaster: client.node as u32, reserved: 0, flags: 0 };
    let with = |data: &[u8]| [&header.to_bytes()[..], data].concat();
    let record = |key: &[u8], data: &[u8]| Record { reqid: 0, key: key.to_vec(), data: with(data) };
    let records = vec![record(KEY, value), record(b"__db_sequence_number__\0", &seqnum.to_ne_bytes())];
    let mut out = Writer::default();
    RecordBuffer { db, records }.put(&mut out);
    world.control(client, node::CURRENT, Opcode::TRANS3_COMMIT, db.into(), &out.finish())
}

#[test]
fn what_smbd_asks_at_its_start() {
    let mut world = World::new(3);
    let client = world.connect(1, 4711);
    assert_eq!(world.ask(client, node::CURRENT, Opcode::GET_PNN, 0, &[]).unwrap().status, 1);
    let map = world.ask(client, node::CURRENT, Opcode::GET_NODEMAP, 0, &[]).unwrap();
    let map = NodeMap::get(&map.data).unwrap();
    assert_eq!(map.0.iter().map(|n| (n.pnn, n.flags)).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0)]);
    let db = world.attach(client, Opcode::DB_ATTACH, "g_lock.tdb").unwrap();
    assert_eq!(db, 0x4d2a_432b);
    let id = db.to_ne_bytes();
    assert_eq!(world.ask(client, node::CURRENT, Opcode::ENABLE_SEQNUM, 0, &id).unwrap().status, 0);
    let path = world.ask(client, node::CURRENT, Opcode::GETDBPATH, 0, &id).unwrap();
    assert_eq!(path.data, b"/db/g_lock.tdb.1\0");
    let flags = world.ask(client, node::CURRENT, Opcode::DB_OPEN_FLAGS, 0, &id).unwrap();
    assert_eq!(flags.data, 0xCC1u32.to_ne_bytes(), "with SEQNUM from then on");
    let vnn = world.ask(client, node::CURRENT, Opcode::GETVNNMAP, 0, &[]).unwrap();
    assert_eq!(VnnMap::get(&vnn.data).unwrap().map, [0, 1, 2]);
    assert_eq!(world.ask(client, node::CURRENT, Opcode::GET_RECMODE, 0, &[]).unwrap().status, 0);
    assert_eq!(world.ask(client, node::CURRENT, Opcode(12), 0, &[]).unwrap().status, -1, "a control that is none");
    let ips = world.ask(client, node::CURRENT, Opcode::GET_PUBLIC_IPS, 0, &[]).unwrap();
    assert_eq!(PublicIps::get(&ips.data).unwrap().0.iter().map(|ip| ip.pnn).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_record_goes_round_and_every_count_counts() {
    let mut world = World::new(4);
    let (clients, db) = open(&mut world, 4, Opcode::DB_ATTACH, "ring.tdb");
    for round in 0..5u64 {
        for client in &clients {
            assert!(world.count(*client, db, KEY));
        }
        assert_eq!(world.counter(db, KEY), Some(4 * (round + 1)));
    }
    assert!(world.nodes.iter().all(|n| n.log.iter().all(|(level, _)| *level > ctdb::server::Level::Warning)));
}

#[test]
fn keys_that_go_to_and_fro_are_named() {
    let mut world = World::new(2);
    let (clients, db) = open(&mut world, 2, Opcode::DB_ATTACH, "hot.tdb");
    for round in 0..6 {
        assert!(world.count(clients[round % 2], db, b"hot"));
    }
    assert!(world.count(clients[1], db, b"cold"));
    let hot = |world: &mut World| {
        let data = world.ask(clients[1], node::CURRENT, Opcode::GET_DB_STATISTICS, 0, &db.to_ne_bytes()).unwrap().data;
        let mut r = Reader::new(&data);
        r.take(216, "counters").unwrap();
        assert_eq!((r.u32("keys").unwrap(), r.u32("").unwrap()), (10, 0));
        let counts: Vec<(u32, u64)> = (0..10)
            .map(|_| {
                let count = r.u32("count").unwrap();
                r.take(12, "padding and pointer").unwrap();
                (count, r.u64("size").unwrap())
            })
            .collect();
        (counts, r.rest().to_vec())
    };
    let (counts, keys) = hot(&mut world);
    assert_eq!((&counts[..3], &keys[..]), (&[(1, 4), (3, 3), (0, 0)][..], &b"coldhot"[..]), "the hottest last");
    world.ask(clients[1], node::CURRENT, Opcode::STATISTICS_RESET, 0, &[]).unwrap();
    assert_eq!(hot(&mut world), (vec![(0, 0); 10], Vec::new()), "counted anew");
}

#[test]
fn a_node_dies_and_the_others_go_on_when_it_can_do_no_harm() {
    let mut world = World::new(4);
    let (clients, db) = open(&mut world, 4, Opcode::DB_ATTACH, "locking.tdb");
    for key in [&b"a"[..], b"b", b"c", b"d", b"e", b"f"] {
        for client in &clients {
            assert!(world.count(*client, db, key));
        }
    }
    // All of them are with node 3; the others have what they gave away, three counts old at most.
    world.kill(3);
    world.view_but(&[0, 1, 2], false);
    assert!(!world.count(clients[0], db, b"a"), "the dead node's lease may still run");
    let reqid = world.control(clients[1], 3, Opcode::PROCESS_EXISTS, 0, &103i32.to_ne_bytes());
    assert_eq!(world.status(clients[1], reqid), None, "nobody may be called dead yet");
    let unlisted = world.control(clients[1], 9, Opcode::PROCESS_EXISTS, 0, &103i32.to_ne_bytes());
    assert_eq!(world.status(clients[1], unlisted), None, "nor on a node that is not in the list");
    world.tell(0, true, true);
    assert_eq!(world.status(clients[1], reqid), Some(-1));
    assert_eq!(world.status(clients[1], unlisted), Some(-1));
    for key in [&b"a"[..], b"b", b"c", b"d", b"e", b"f"] {
        let before = world.counter(db, key).unwrap();
        assert!(before >= 3, "{before}");
        for client in &clients[..3] {
            assert!(world.count(*client, db, key));
        }
        assert_eq!(world.counter(db, key), Some(before + 3));
    }
}

#[test]
fn a_dropped_nodes_records_are_thrown_away_and_its_clients_end() {
    for lost in [0, 2] {
        let mut world = World::new(3);
        let rest: Vec<usize> = (0..3).filter(|n| *n != lost).collect();
        let members: Vec<u32> = rest.iter().map(|n| *n as u32).collect();
        let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH, "brlock.tdb");
        for n in [rest[0], rest[1], lost] {
            assert!(world.count(clients[n], db, KEY));
        }
        // It has the record, is dropped without a word, and counts on.
        for n in &rest {
            world.input(*n, Input::Link { peer: lost as u32, up: false });
            world.input(lost, Input::Link { peer: *n as u32, up: false });
        }
        for _ in 0..7 {
            assert!(world.count(clients[lost], db, KEY));
        }
        world.view(&members);
        assert!(world.nodes[lost].closed.contains(&clients[lost].id), "its Samba ends");
        let before = world.counter_of(db, KEY, &rest);
        for n in &rest {
            world.input(*n, Input::Link { peer: lost as u32, up: true });
            world.input(lost, Input::Link { peer: *n as u32, up: true });
        }
        world.view(&[0, 1, 2]);
        assert_eq!(world.counter(db, KEY), Some(before), "what node {lost} counted alone is gone");
        let again = world.connect(lost, 300);
        assert_eq!(world.attach(again, Opcode::DB_ATTACH, "brlock.tdb"), Some(db));
        assert!(world.count(again, db, KEY));
        assert_eq!(world.counter(db, KEY), Some(before + 1));
    }
}

#[test]
fn a_node_that_missed_a_view_without_noticing_throws_its_copies_away() {
    let mut world = World::new(3);
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH, "brlock.tdb");
    for n in [1, 2, 0] {
        assert!(world.count(clients[n], db, KEY));
    }
    // It never hears of the view without it, only of the next one.
    world.nodes[0].alive = false;
    world.view(&[1, 2]);
    let before = world.counter_of(db, KEY, &[1, 2]);
    world.nodes[0].alive = true;
    for _ in 0..7 {
        assert!(world.count(clients[0], db, KEY));
    }
    world.view(&[0, 1, 2]);
    assert_eq!(world.counter(db, KEY), Some(before));
}

#[test]
fn a_transaction_is_everywhere_or_decided_by_the_recovery() {
    let mut world = World::new(3);
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb");
    let reqid = commit(&mut world, clients[0], db, 1, b"one");
    assert_eq!(world.status(clients[0], reqid), Some(0));
    for node in &world.nodes {
        assert_eq!(&node.files[&db].records[KEY][24..], b"one");
    }
    let seqnum = world.ask(clients[2], node::CURRENT, Opcode::GET_DB_SEQNUM, 0, &u64::from(db).to_ne_bytes()).unwrap();
    assert_eq!(number(Some(&seqnum.data)), 1);
    // Node 2 does not hear of the next one and dies: the client is told when the others have decided.
    world.cut.insert((0, 2));
    let reqid = commit(&mut world, clients[0], db, 2, b"two");
    assert_eq!(world.status(clients[0], reqid), None);
    world.kill(2);
    world.view(&[0, 1]);
    assert_eq!(world.status(clients[0], reqid), Some(2), "ended by a recovery");
    for node in &world.nodes[..2] {
        assert_eq!(&node.files[&db].records[KEY][24..], b"two");
    }
}

#[test]
fn a_node_has_everything_that_was_committed_once_all_databases_have_gone_on_there() {
    let mut world = World::new(3);
    let recovered = |world: &World| world.nodes.iter().map(|n| n.recovered.clone()).collect::<Vec<_>>();
    assert_eq!(recovered(&world), [[1], [1], [1]], "there is nothing to have");
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb");
    world.view(&[0, 1]);
    let reqid = commit(&mut world, clients[0], db, 1, b"one");
    assert_eq!(world.status(clients[0], reqid), Some(0));
    assert_eq!(recovered(&world), [&[1, 2][..], &[1, 2], &[1]]);
    // Node 2 is let in, and the leader has yet to hear what it has; then it cannot be told to go on.
    for cut in [(2, 0), (0, 2)] {
        world.cut = [cut].into();
        world.view(&[0, 1, 2]);
        assert!(recovered(&world).iter().all(|views| *views.last().unwrap() < 3), "{:?}", recovered(&world));
    }
    world.cut.clear();
    world.run();
    assert_eq!(recovered(&world), [&[1, 2, 4][..], &[1, 2, 4], &[1, 4]]);
    assert_eq!(&world.nodes[2].files[&db].records[KEY][24..], b"one");
}

#[test]
fn without_a_lease_nothing_is_answered_but_what_this_node_knows_of_itself() {
    let mut world = World::new(3);
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH, "locking.tdb");
    assert!(world.count(clients[0], db, KEY));
    world.tell(1, false, false);
    assert!(!world.count(clients[1], db, KEY));
    assert_eq!(world.ask(clients[1], node::CURRENT, Opcode::GET_PNN, 0, &[]).unwrap().status, 1);
    let reqid = world.control(clients[1], 0, Opcode::PROCESS_EXISTS, 0, &100i32.to_ne_bytes());
    assert_eq!(world.status(clients[1], reqid), None);
    world.tell(1, true, false);
    assert_eq!(world.status(clients[1], reqid), Some(0));
    assert!(world.count(clients[1], db, KEY));
    assert_eq!(world.counter(db, KEY), Some(2));
}

#[test]
fn a_broken_link_loses_words_and_a_recovery_makes_up_for_them() {
    let mut world = World::new(3);
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH, "locking.tdb");
    for client in &clients {
        assert!(world.count(*client, db, KEY));
    }
    for (a, b) in [(0, 2), (1, 2), (0, 1)] {
        world.cut.insert((a, b));
        world.cut.insert((b, a));
        let counted: usize = clients.iter().map(|c| usize::from(world.count(*c, db, KEY))).sum();
        let before = world.counter(db, KEY);
        world.cut.clear();
        world.break_link(a, b);
        world.run();
        assert!(counted < 4);
        if let Some(before) = before {
            assert_eq!(world.counter(db, KEY), Some(before), "between {a} and {b}");
        }
        for client in &clients {
            assert!(world.count(*client, db, KEY), "between {a} and {b}");
        }
    }
}

#[test]
fn messages_come_once_on_every_node_and_by_number() {
    let mut world = World::new(3);
    let clients: Vec<Client> = (0..3).map(|n| world.connect(n, 100 + n as i32)).collect();
    for client in &clients {
        world.listen(*client, 77);
        world.listen(*client, 77);
    }
    let message = |data: &[u8]| Body::Message(Message { srvid: 77, data: data.to_vec() });
    world.send(clients[0], node::BROADCAST_CONNECTED, message(b"all"));
    world.send(clients[0], 2, message(b"two"));
    assert_eq!(world.messages(clients[0]), [(77, b"all".to_vec())], "the sender too");
    assert_eq!(world.messages(clients[1]), [(77, b"all".to_vec())]);
    assert_eq!(world.messages(clients[2]), [(77, b"all".to_vec()), (77, b"two".to_vec())]);
}

#[test]
fn a_message_that_waits_for_a_lease_outlives_a_change_of_the_view() {
    let mut world = World::new(3);
    let (from, to) = (world.connect(0, 10), world.connect(1, 20));
    world.listen(to, 77);
    world.tell(1, false, false);
    world.send(from, 1, Body::Message(Message { srvid: 77, data: b"late".to_vec() }));
    assert_eq!(world.messages(to), []);
    world.view_but(&[0, 1], false);
    assert_eq!(world.messages(to), [(77, b"late".to_vec())]);
}

#[test]
fn is_a_process_alive() {
    let mut world = World::new(2);
    let (a, b) = (world.connect(0, 10), world.connect(1, 20));
    world.listen(b, 99);
    let pid = |n: i32| n.to_ne_bytes().to_vec();
    let check = |n: i32, srvid: u64| [&n.to_ne_bytes()[..], &srvid.to_ne_bytes()].concat();
    let mut ask = |opcode, data: &[u8]| world.ask(a, 1, opcode, 0, data).unwrap().status;
    assert_eq!(ask(Opcode::PROCESS_EXISTS, &pid(20)), 0);
    assert_eq!(ask(Opcode::PROCESS_EXISTS, &pid(21)), -1);
    assert_eq!(ask(Opcode::CHECK_PID_SRVID, &check(20, 99)), 0);
    assert_eq!(ask(Opcode::CHECK_PID_SRVID, &check(20, 98)), -1);
    world.disconnect(b);
    assert_eq!(world.ask(a, 1, Opcode::PROCESS_EXISTS, 0, &pid(20)).unwrap().status, -1);
}

/// Who asks has no deadline, and the view may take the node in again before it is harmless: nobody else answers then.
#[test]
fn a_dropped_node_answers_what_it_was_asked_while_it_had_no_lease() {
    let mut world = World::new(3);
    let (a, _b) = (world.connect(0, 10), world.connect(1, 20));
    world.tell(1, false, false);
    let reqid = world.control(a, 1, Opcode::PROCESS_EXISTS, 0, &20i32.to_ne_bytes());
    assert_eq!(world.status(a, reqid), None);
    world.view_but(&[0, 2], false);
    assert_eq!(world.status(a, reqid), Some(0), "it lives until its connection is ended");
}

#[test]
fn all_records_of_all_nodes() {
    let mut world = World::new(3);
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH, "sessions.tdb");
    for (n, client) in clients.iter().enumerate() {
        assert!(world.count(*client, db, format!("key{n}").as_bytes()));
    }
    world.listen(clients[0], 555);
    let mut data = Writer::default();
    data.u32(db).u32(9).u64(555);
    assert_eq!(world.ask(clients[0], node::CURRENT, Opcode::TRAVERSE_START, 0, &data.finish()).unwrap().status, 0);
    let records: Vec<Record> =
        world.messages(clients[0]).into_iter().map(|(_, data)| Record::get(&mut Reader::new(&data)).unwrap()).collect();
    let mut keys: Vec<_> = records.iter().map(|r| String::from_utf8(r.key.clone()).unwrap()).collect();
    assert_eq!(keys.pop().unwrap(), "", "the end");
    keys.sort();
    assert_eq!(keys, ["key0", "key1", "key2"]);
    assert!(records.iter().all(|r| r.reqid == 9));
}

#[test]
fn a_record_that_a_transaction_has_emptied_is_shown_to_those_who_ask_for_such() {
    let mut world = World::new(2);
    let (clients, db) = open(&mut world, 2, Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb");
    for (seqnum, value) in [(1, &b"value"[..]), (2, b"")] {
        let reqid = commit(&mut world, clients[0], db, seqnum, value);
        assert_eq!(world.status(clients[0], reqid), Some(0));
    }
    world.listen(clients[1], 555);
    for (empty, seen) in [(0, vec![&b"__db_sequence_number__\0"[..]]), (1, vec![b"__db_sequence_number__\0", KEY])] {
        let mut data = Writer::default();
        data.u32(db).u32(9).u64(555).u8(empty).zeros(7);
        assert_eq!(
            world.ask(clients[1], node::CURRENT, Opcode::TRAVERSE_START_EXT, 0, &data.finish()).unwrap().status,
            0
        );
        let records = world.messages(clients[1]);
        let keys = records.iter().map(|(_, data)| Record::get(&mut Reader::new(data)).unwrap().key);
        let mut keys: Vec<_> = keys.filter(|key| !key.is_empty()).collect();
        keys.sort();
        assert_eq!(keys, seen);
    }
}

/// A client empties a record that its node holds, as it does when a file is closed.
fn empty(world: &mut World, client: Client, db: u32, key: &[u8]) {
    let file = world.nodes[client.node].files.get_mut(&db).unwrap();
    file.records.get_mut(key).unwrap().truncate(24);
    let mut data = Writer::default();
    data.u32(db).u32(0).zeros(24).counted(key);
    world.control(client, node::CURRENT, Opcode::SCHEDULE_FOR_DELETION, db.into(), &data.finish());
}

#[test]
fn addresses_that_leave_are_told_and_empty_records_are_forgotten() {
    let mut world = World::new(2);
    let (clients, db) = open(&mut world, 2, Opcode::DB_ATTACH, "locking.tdb");
    world.listen(clients[0], srvid::RELEASE_IP);
    world.vip_on.insert(1, 1);
    world.tell(0, true, true);
    assert_eq!(world.messages(clients[0]), [(srvid::RELEASE_IP, b"192.168.1.1\0".to_vec())]);
    move_between_two_words(&mut world, clients[0], clients[1]);

    for client in &clients {
        assert!(world.count(*client, db, KEY));
    }
    empty(&mut world, clients[1], db, KEY);
    world.later(Duration::from_secs(30));
    for node in &world.nodes {
        assert!(node.files[&db].records.is_empty(), "{:?}", node.files[&db].records);
    }
}

/// All that Samba hears of an address that goes from node 1 to node 0, and comes back.
fn move_between_two_words(world: &mut World, heir: Client, holder: Client) {
    world.tell(1, true, true);
    for srvid in [srvid::RELEASE_IP, srvid::TAKE_IP, srvid::START_IPREALLOCATE, srvid::IPREALLOCATED] {
        world.listen(heir, srvid);
        world.listen(holder, srvid);
    }
    let words =
        |world: &mut World, client| -> Vec<u64> { world.messages(client).into_iter().map(|(s, _)| s).collect() };
    let address = "192.168.1.2".parse().unwrap();
    world.input(1, Input::Leaves(address));
    world.run();
    assert_eq!(words(world, holder), [srvid::START_IPREALLOCATE, srvid::RELEASE_IP], "before it leaves");
    world.moving = true;
    world.tell(0, true, true);
    world.tell(1, true, true);
    assert_eq!((words(world, heir), words(world, holder)), (vec![srvid::START_IPREALLOCATE], vec![]));
    (world.moving, _) = (false, world.vip_on.insert(2, 0));
    world.tell(0, true, true);
    world.tell(1, true, true);
    assert_eq!(words(world, heir), [srvid::TAKE_IP, srvid::IPREALLOCATED]);
    assert_eq!(words(world, holder), [srvid::IPREALLOCATED], "the address is not told twice");
    // It comes back, and is then lost without an order.
    world.input(1, Input::Comes(address));
    world.run();
    world.vip_on.insert(2, 1);
    world.tell(1, true, true);
    world.vip_on.insert(2, 0);
    world.tell(1, true, true);
    let (start, end) = (srvid::START_IPREALLOCATE, srvid::IPREALLOCATED);
    assert_eq!(words(world, holder), [start, srvid::TAKE_IP, end, start, srvid::RELEASE_IP, end]);
}

#[test]
fn the_tool_learns_the_leader_and_waits_for_addresses_at_rest() {
    let mut world = World::new(3);
    let tool = world.connect(2, 900);
    world.listen(tool, srvid::LEADER);
    assert_eq!(world.messages(tool), [(srvid::LEADER, 0u32.to_ne_bytes().to_vec())]);
    world.listen(tool, 0xCE01);
    let mut data = Writer::default();
    data.u32(2).u32(0).u64(0xCE01);
    let message = Message { srvid: srvid::TAKEOVER_RUN, data: data.finish() };
    world.send(tool, node::BROADCAST_CONNECTED, Body::Message(message));
    assert!(world.messages(tool).is_empty());
    world.later(Duration::from_millis(400));
    assert!(world.messages(tool).contains(&(0xCE01, 0i32.to_ne_bytes().to_vec())));
}

#[test]
fn a_recovery_by_hand_changes_the_generation_and_no_record() {
    let mut world = World::new(3);
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH, "locking.tdb");
    for client in &clients {
        assert!(world.count(*client, db, KEY));
    }
    let generation = |world: &mut World, n: usize| {
        let reply = world.ask(clients[n], node::CURRENT, Opcode::GETVNNMAP, 0, &[]).unwrap();
        VnnMap::get(&reply.data).unwrap().generation
    };
    let before = generation(&mut world, 0);
    world.control(clients[2], node::CURRENT, Opcode::SET_RECMODE, 0, &1u32.to_ne_bytes());
    let after: Vec<u32> = (0..3).map(|n| generation(&mut world, n)).collect();
    assert!(after.iter().all(|g| *g == after[0] && *g != before));
    assert_eq!(world.counter(db, KEY), Some(3));
    assert!(world.count(clients[0], db, KEY));
}

#[test]
fn a_client_of_another_kind_and_one_that_lies() {
    let mut world = World::new(2);
    let client = world.connect(0, 1);
    world.attach(client, Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb").unwrap();
    world.attach(client, Opcode::DB_ATTACH, "secrets.tdb").unwrap();
    world.attach(client, Opcode::DB_ATTACH, "g_lock.tdb").unwrap();
    let refused = world.ask(client, node::CURRENT, Opcode::DB_ATTACH_PERSISTENT, 0, b"g_lock.tdb\0").unwrap();
    assert_eq!(refused.status, -1);
    for name in [&b"../x\0"[..], b"\0", b"no end"] {
        assert_eq!(world.ask(client, node::CURRENT, Opcode::DB_ATTACH, 0, name).unwrap().status, -1);
    }
    for packet in [vec![0u8; 32], vec![0xff; 200], b"junk".to_vec()] {
        world.input(0, Input::Packet { client: client.id, packet });
    }
    world.run();
    assert_eq!(world.ask(client, node::CURRENT, Opcode::PING, 0, &[]).unwrap().status, 1, "the connection stays");
}

#[test]
fn a_file_that_cannot_be_opened_is_told_and_the_others_go_on() {
    let mut world = World::new(3);
    let id = ctdb::database_id("bad.tdb");
    world.nodes[1].files.entry(id).or_default().broken = true;
    let client = world.connect(0, 1);
    assert_eq!(world.attach(client, Opcode::DB_ATTACH, "bad.tdb"), None, "it waits until the file is mended");
    let there = world.connect(1, 2);
    let refused = world.ask(there, node::CURRENT, Opcode::DB_ATTACH, 0, b"bad.tdb\0").unwrap();
    assert_eq!((refused.status, &refused.error[..]), (-1, "damaged"));
    let waits = world.nodes[0].server.waiting();
    assert_eq!(waits, [("bad.tdb".to_owned(), "node 1: damaged".to_owned())]);
    let good = world.attach(client, Opcode::DB_ATTACH, "good.tdb").unwrap();
    assert!(world.count(client, good, KEY));
}

#[test]
fn a_stopped_node_knows_and_holds_no_records_and_loses_none() {
    let mut world = World::new(3);
    let (clients, db) = open(&mut world, 3, Opcode::DB_ATTACH, "locking.tdb");
    let keys: Vec<Vec<u8>> = (0..12u8).map(|n| vec![b'k', n]).collect();
    for key in &keys {
        for n in [0, 1, 2] {
            assert!(world.count(clients[n], db, key));
        }
    }
    let map = |world: &mut World, n: usize| {
        let reply = world.ask(clients[n], node::CURRENT, Opcode::GETVNNMAP, 0, &[]).unwrap();
        VnnMap::get(&reply.data).unwrap()
    };
    let holds = |world: &World, n: usize| {
        let records = world.nodes[n].files[&db].records.values();
        records.filter(|v| LtdbHeader::split(v).unwrap().0.dmaster == n as u32).count()
    };
    let before = map(&mut world, 0);
    assert_eq!((holds(&world, 2), before.map), (12, vec![0, 1, 2]));
    // All members hear of it, the leader's word counts.
    let stop = |world: &mut World, idle: &[u32]| {
        world.idle = idle.iter().copied().collect();
        for n in [1, 2, 0] {
            world.tell(n, true, true);
        }
    };
    stop(&mut world, &[2]);
    assert_eq!(holds(&world, 2), 0);
    let after = map(&mut world, 0);
    assert_eq!(after.map, [0, 1]);
    assert_ne!(after.generation, before.generation);
    assert_eq!(map(&mut world, 1), after);
    // It shows itself as ctdbd does: out of every generation, in recovery, with the map that it was last in.
    assert_eq!(map(&mut world, 2), VnnMap { generation: node::INVALID_GENERATION, map: vec![0, 1, 2] });
    let recovers =
        |world: &mut World, n: usize| world.ask(clients[n], node::CURRENT, Opcode::GET_RECMODE, 0, &[]).unwrap().status;
    assert_eq!((recovers(&mut world, 0), recovers(&mut world, 2)), (0, 1));
    assert!(keys.iter().all(|key| world.counter(db, key) == Some(3)));
    for key in &keys {
        for n in [1, 0] {
            assert!(world.count(clients[n], db, key));
        }
    }
    // A client that has not ended yet is served; what it had brought is given back when it ends.
    for key in &keys[..5] {
        assert!(world.count(clients[2], db, key));
    }
    assert_eq!(holds(&world, 2), 5);
    world.disconnect(clients[2]);
    assert_eq!(holds(&world, 2), 0);
    assert_eq!(world.counter(db, &keys[0]), Some(6));
    // Records that are emptied are forgotten everywhere, also the old copies of the stopped node.
    for key in &keys[..2] {
        assert!(world.count(clients[0], db, key));
        empty(&mut world, clients[0], db, key);
    }
    world.later(Duration::from_secs(60));
    let left = |world: &World| world.nodes.iter().map(|n| n.files[&db].records.len()).max();
    assert_eq!(left(&world), Some(10));
    // All of them stopped: somebody has to know.
    stop(&mut world, &[0, 1, 2]);
    assert_eq!(map(&mut world, 0).map, [0, 1, 2]);
    stop(&mut world, &[]);
    let client = world.connect(2, 300);
    assert!(world.count(client, db, &keys[7]));
    assert_eq!((world.counter(db, &keys[7]), map(&mut world, 0).map), (Some(6), vec![0, 1, 2]));
}
