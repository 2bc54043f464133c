//! The content of a database is replaced by hand, as `ctdb wipedb` and `ctdb restoredb` do it.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use ctdb::control::Opcode;
use ctdb::node::CURRENT;
use ctdb::wire::{Body, LtdbHeader, Message, Record, RecordBuffer, Writer};
use std::collections::BTreeMap;
use std::time::Duration;
use world::{Client, World};

const SRVID: u64 = 0xCE02 << 48;
const SEQNUM: &[u8] = b"__db_sequence_number__\0";

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

struct Site {
    world: World,
    clients: Vec<Client>,
    db: u32,
}

fn start(nodes: u32, opcode: Opcode) -> Site {
    let mut world = World::new(nodes);
    let clients: Vec<Client> = (0..nodes).map(|n| world.connect(n as usize, 100 + n.cast_signed())).collect();
    let ids: Vec<u32> = clients.iter().map(|c| world.attach(*c, opcode, "secrets.tdb").unwrap()).collect();
    Site { world, clients, db: ids[0] }
}

fn buffer(db: u32, records: &[(&[u8], u64, &[u8])]) -> Vec<u8> {
    let record = |(key, rsn, data): &(&[u8], u64, &[u8])| {
        let header = LtdbHeader { rsn: *rsn, dmaster: 9, reserved: 0, flags: 0 };
        Record { reqid: 0, key: key.to_vec(), data: [&header.to_bytes()[..], data].concat() }
    };
    let mut out = Writer::default();
    RecordBuffer { db, records: records.iter().map(record).collect() }.put(&mut out);
    out.finish()
}

impl Site {
    fn nodes(&self) -> u32 {
        self.clients.len() as u32
    }

    fn commit(&mut self, seqnum: u64, value: &[u8]) -> i32 {
        let data = buffer(self.db, &[(b"key", seqnum, value), (SEQNUM, seqnum, &seqnum.to_ne_bytes())]);
        self.world.ask(self.clients[0], CURRENT, Opcode::TRANS3_COMMIT, self.db.into(), &data).unwrap().status
    }

    /// One step on all nodes; the statuses.
    fn step(&mut self, opcode: Opcode, more: &[u8]) -> Vec<Option<i32>> {
        let data = [&self.db.to_ne_bytes()[..], more].concat();
        let asked: Vec<u32> =
            (0..self.nodes()).map(|n| self.world.control(self.clients[0], n, opcode, 0, &data)).collect();
        asked.into_iter().map(|reqid| self.status(reqid)).collect()
    }

    fn status(&mut self, reqid: u32) -> Option<i32> {
        self.world.answer(self.clients[0], reqid).map(|body| match body {
            Body::ControlReply(reply) => reply.status,
            other => panic!("{other:?}"),
        })
    }

    #[track_caller]
    fn all(&mut self, opcode: Opcode, more: &[u8]) {
        let expected = vec![Some(0); self.clients.len()];
        assert_eq!(self.step(opcode, more), expected, "{opcode}");
    }

    fn within(&mut self, opcode: Opcode) {
        self.all(opcode, &1u32.to_ne_bytes());
    }

    fn push(&mut self, records: &[(&[u8], u64, &[u8])]) {
        self.all(Opcode::DB_PUSH_START, &[&0u32.to_ne_bytes()[..], &SRVID.to_ne_bytes()].concat());
        for record in records {
            let data = buffer(self.db, &[*record]);
            for n in 0..self.nodes() {
                self.world.send(self.clients[0], n, Body::Message(Message { srvid: SRVID, data: data.clone() }));
            }
        }
        for n in 0..self.nodes() {
            let id = self.db.to_ne_bytes();
            let reply = self.world.ask(self.clients[0], n, Opcode::DB_PUSH_CONFIRM, 0, &id).unwrap();
            assert_eq!((reply.status, reply.data), (0, (records.len() as u32).to_ne_bytes().to_vec()));
        }
    }

    /// Key and data, of each node's file.
    fn content(&self) -> Vec<Content> {
        let records = |n: usize| &self.world.nodes[n].files[&self.db].records;
        let plain = |(k, v): (&Vec<u8>, &Vec<u8>)| (k.clone(), v[24..].to_vec());
        (0..self.clients.len()).map(|n| records(n).iter().map(plain).collect()).collect()
    }

    fn in_use(&mut self) -> bool {
        let client = self.world.connect(1, 999);
        self.world.attach(client, Opcode::DB_ATTACH_PERSISTENT, "secrets.tdb").is_some()
    }
}

#[test]
fn a_persistent_database_is_wiped_and_filled_on_all_nodes_at_once() {
    let mut site = start(3, Opcode::DB_ATTACH_PERSISTENT);
    assert_eq!(site.commit(1, b"old"), 0);
    site.all(Opcode::DB_FREEZE, &[]);
    assert!(!site.in_use());
    site.within(Opcode::DB_TRANSACTION_START);
    site.within(Opcode::WIPE_DATABASE);
    site.push(&[(b"key", 7, b"restored"), (b"other", 3, b"too"), (SEQNUM, 7, &7u64.to_ne_bytes())]);
    site.all(Opcode::DB_SET_HEALTHY, &[]);
    site.within(Opcode::DB_TRANSACTION_COMMIT);
    site.all(Opcode::DB_THAW, &[]);
    assert!(site.in_use());
    let expected: Content = [
        (b"key".to_vec(), b"restored".to_vec()),
        (b"other".to_vec(), b"too".to_vec()),
        (SEQNUM.to_vec(), 7u64.to_ne_bytes().to_vec()),
    ]
    .into();
    assert_eq!(site.content(), vec![expected; 3]);
    assert_eq!(site.commit(8, b"newer"), 0);
    assert!(site.content().iter().all(|c| c[&b"key"[..]] == b"newer"));

    site.all(Opcode::DB_FREEZE, &[]);
    site.within(Opcode::DB_TRANSACTION_START);
    site.within(Opcode::WIPE_DATABASE);
    site.within(Opcode::DB_TRANSACTION_COMMIT);
    site.all(Opcode::DB_THAW, &[]);
    assert_eq!(site.content(), vec![Content::new(); 3]);
    // A node that missed it does not bring the old content back, though that counts more transactions.
    site.world.view(&[0, 1]);
    site.world.view(&[0, 1, 2]);
    assert_eq!(site.content(), vec![Content::new(); 3]);
    assert!(site.in_use());
}

#[test]
fn a_volatile_database_is_filled_at_the_location_masters() {
    let mut site = start(3, Opcode::DB_ATTACH);
    for client in site.clients.clone() {
        assert!(site.world.count(client, site.db, b"counter"));
    }
    site.all(Opcode::DB_FREEZE, &[]);
    assert!(!site.world.count(site.clients[1], site.db, b"counter"));
    site.within(Opcode::DB_TRANSACTION_START);
    site.within(Opcode::WIPE_DATABASE);
    site.push(&[(b"counter", 100, &40u64.to_ne_bytes()), (b"a", 1, b"a"), (b"b", 1, b"b"), (b"c", 1, b"c")]);
    site.within(Opcode::DB_TRANSACTION_COMMIT);
    site.all(Opcode::DB_THAW, &[]);
    for client in site.clients.clone() {
        assert!(site.world.count(client, site.db, b"counter"));
    }
    assert_eq!(site.world.counter(site.db, b"counter"), Some(43));
}

#[test]
fn who_begins_and_goes_away_leaves_the_database_as_it_was() {
    for steps in 1..=4 {
        let mut site = start(3, Opcode::DB_ATTACH_PERSISTENT);
        assert_eq!(site.commit(1, b"old"), 0);
        site.all(Opcode::DB_FREEZE, &[]);
        if steps > 1 {
            site.within(Opcode::DB_TRANSACTION_START);
        }
        if steps > 2 {
            site.within(Opcode::WIPE_DATABASE);
        }
        if steps > 3 {
            // One node alone gets as far as this.
            let data = [site.db.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
            let reqid = site.world.control(site.clients[0], 1, Opcode::DB_TRANSACTION_COMMIT, 0, &data);
            assert_eq!(site.status(reqid), Some(0));
        }
        assert!(!site.in_use());
        site.world.later(Duration::from_secs(11));
        assert!(site.in_use(), "after {steps} steps");
        assert!(site.content().iter().all(|c| c[&b"key"[..]] == b"old"), "after {steps} steps");
        let late = site.step(Opcode::DB_TRANSACTION_COMMIT, &1u32.to_ne_bytes());
        assert_eq!(late, [Some(-1); 3], "after {steps} steps");
        assert_eq!(site.commit(2, b"newer"), 0);
    }
}

#[test]
fn a_node_that_dies_meanwhile_costs_the_attempt_only() {
    let mut site = start(3, Opcode::DB_ATTACH_PERSISTENT);
    assert_eq!(site.commit(1, b"old"), 0);
    site.all(Opcode::DB_FREEZE, &[]);
    site.within(Opcode::DB_TRANSACTION_START);
    site.within(Opcode::WIPE_DATABASE);
    site.world.kill(2);
    site.world.view_but(&[0, 1], true);
    site.world.tell(0, true, true);
    assert!(site.in_use());
    let data = [site.db.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
    let reqid = site.world.control(site.clients[0], 0, Opcode::DB_TRANSACTION_COMMIT, 0, &data);
    assert_eq!(site.status(reqid), Some(-1));
    assert!(site.content()[..2].iter().all(|c| c[&b"key"[..]] == b"old"));
}

#[test]
fn steps_out_of_turn_are_refused() {
    let mut site = start(2, Opcode::DB_ATTACH_PERSISTENT);
    assert_eq!(site.step(Opcode::WIPE_DATABASE, &1u32.to_ne_bytes()), [Some(-1); 2]);
    assert_eq!(site.step(Opcode::DB_PUSH_CONFIRM, &[]), [Some(-1); 2]);
    site.all(Opcode::DB_THAW, &[]);
    site.all(Opcode::DB_FREEZE, &[]);
    assert_eq!(site.step(Opcode::DB_TRANSACTION_COMMIT, &1u32.to_ne_bytes()), [Some(-1); 2], "nothing was wiped");
    site.all(Opcode::DB_FREEZE, &[]);
    site.all(Opcode::DB_TRANSACTION_CANCEL, &[]);
    assert!(site.in_use());
}
