//! A volatile database is taken away from all nodes, as `ctdb detach` does it.

#![allow(clippy::unwrap_used)]

mod common;
mod world;

use common::Dice;
use ctdb::control::{DbMap, Opcode};
use ctdb::node::CURRENT;
use ctdb::server::Input;
use std::time::Duration;
use world::{Client, World};

const NAME: &str = "spare.tdb";

struct Site {
    world: World,
    tools: Vec<Client>,
    db: u32,
}

fn start(nodes: u32) -> Site {
    let mut world = World::new(nodes);
    let tools: Vec<Client> = (0..nodes).map(|n| world.connect(n as usize, 100 + n.cast_signed())).collect();
    let db = world.attach(tools[0], Opcode::DB_ATTACH, NAME).unwrap();
    world.attach(tools[0], Opcode::DB_ATTACH, "locking.tdb").unwrap();
    let mut site = Site { world, tools, db };
    for tool in site.tools.clone() {
        assert!(site.world.count(tool, db, b"counter"));
    }
    site
}

impl Site {
    fn set(&mut self, n: usize, name: &str, value: u32) {
        let mut data = value.to_ne_bytes().to_vec();
        data.extend_from_slice(&(name.len() as u32 + 1).to_ne_bytes());
        data.extend_from_slice(name.as_bytes());
        data.push(0);
        let reply = self.world.ask(self.tools[n], CURRENT, Opcode::SET_TUNABLE, 0, &data).unwrap();
        assert_eq!(reply.status, 0, "{}", reply.error);
    }

    fn forbid(&mut self) {
        (0..self.tools.len()).for_each(|n| self.set(n, "AllowClientDBAttach", 0));
    }

    fn allow(&mut self) {
        (0..self.tools.len()).for_each(|n| self.set(n, "AllowClientDBAttach", 1));
    }

    fn begin(&mut self, n: usize) -> u32 {
        self.world.control(self.tools[n], CURRENT, Opcode::DB_DETACH, 0, &self.db.to_ne_bytes())
    }

    /// Status and error.
    fn detach(&mut self, n: usize) -> (i32, String) {
        let reply = self.world.ask(self.tools[n], CURRENT, Opcode::DB_DETACH, 0, &self.db.to_ne_bytes()).unwrap();
        (reply.status, reply.error)
    }

    fn has(&mut self, n: usize) -> bool {
        let reply = self.world.ask(self.tools[n], CURRENT, Opcode::GET_DBMAP, 0, &[]).unwrap();
        let map = DbMap::get(&reply.data).unwrap().0;
        assert!(map.iter().any(|(db, _)| *db == ctdb::database_id("locking.tdb")), "the others stay");
        map.iter().any(|(db, _)| *db == self.db)
    }

    fn having(&mut self) -> Vec<usize> {
        let mut alive: Vec<usize> = (0..self.tools.len()).filter(|n| self.world.nodes[*n].alive).collect();
        alive.retain(|n| self.has(*n));
        alive
    }

    fn counter(&self) -> Option<u64> {
        self.world.counter(self.db, b"counter")
    }
}

#[test]
fn it_is_gone_from_all_nodes_and_begins_anew() {
    let mut site = start(3);
    site.forbid();
    assert_eq!(site.detach(1), (0, String::new()));
    assert!(site.having().is_empty());
    assert!(site.detach(1).1.contains("no database"));
    // Also after a recovery, and in other views.
    site.world.view(&[0, 1]);
    site.tools[2] = site.world.connect(2, 200);
    site.world.view(&[0, 1, 2]);
    assert!(site.having().is_empty());
    site.allow();
    site.world.attach(site.tools[2], Opcode::DB_ATTACH, NAME).unwrap();
    assert_eq!((site.having(), site.counter()), (vec![0, 1, 2], None));
    assert!(site.world.count(site.tools[1], site.db, b"counter"));
    assert_eq!(site.counter(), Some(1));
    site.forbid();
    assert_eq!(site.detach(0).0, 0);
    assert!(site.having().is_empty());
}

#[test]
fn somebody_who_uses_it_keeps_it_on_all_nodes() {
    let mut site = start(3);
    let refused = |site: &mut Site, n: usize, why: &str| {
        let (status, error) = site.detach(n);
        assert!(status == -1 && error.contains(why), "{status} {error}");
        assert_eq!((site.having(), site.counter()), (vec![0, 1, 2], Some(3)));
        assert!((0..3).all(|n| !site.world.nodes[n].files[&site.db].frozen), "it goes on");
    };
    refused(&mut site, 0, "AllowClientDBAttach");
    site.set(0, "AllowClientDBAttach", 0);
    site.set(1, "AllowClientDBAttach", 0);
    refused(&mut site, 0, "node 2: clients may attach");
    site.forbid();
    site.world.nodes[1].files.get_mut(&site.db).unwrap().users = 1;
    refused(&mut site, 2, "node 1: 1 processes use it");
    // A client waits for the record, which another one has locked.
    site.world.nodes[1].files.get_mut(&site.db).unwrap().users = 0;
    site.world.nodes[2].files.get_mut(&site.db).unwrap().locked.insert(b"counter".to_vec());
    let (wants, db) = (site.tools[0], site.db);
    assert!(!site.world.count(wants, db, b"counter"));
    let reqid = site.begin(1);
    site.world.unlock(2, db, b"counter");
    assert_eq!(site.world.status(site.tools[1], reqid), Some(-1));
    assert_eq!(site.having(), [0, 1, 2]);
    assert!(site.world.count(wants, db, b"counter"));
    // Ones that every node has all of stay, as with CTDB.
    site.allow();
    for (opcode, name) in [(Opcode::DB_ATTACH_PERSISTENT, "p.tdb"), (Opcode::DB_ATTACH_REPLICATED, "r.tdb")] {
        site.db = site.world.attach(wants, opcode, name).unwrap();
        site.set(0, "AllowClientDBAttach", 0);
        assert!(site.detach(0).1.contains("only volatile"));
        site.allow();
    }
}

#[test]
fn a_member_that_does_not_answer_leaves_it_in_use() {
    let mut site = start(3);
    site.forbid();
    // Somebody has a chain locked for long.
    site.world.nodes[2].files.get_mut(&site.db).unwrap().locked.insert(b"other".to_vec());
    let reqid = site.begin(1);
    site.world.later(Duration::from_secs(7));
    assert_eq!(site.world.status(site.tools[1], reqid), None);
    site.world.later(Duration::from_secs(2));
    assert_eq!(site.world.status(site.tools[1], reqid), Some(-1));
    let db = site.db;
    site.world.unlock(2, db, b"other");
    assert!(site.world.count(site.tools[0], db, b"counter"));
    assert_eq!((site.having(), site.counter()), (vec![0, 1, 2], Some(4)));
    assert_eq!(site.detach(0).0, 0);
}

#[test]
fn a_node_that_was_elsewhere_does_not_bring_it_back() {
    for idle in [false, true] {
        let mut site = start(3);
        site.world.view(&[0, 1]);
        // Its clients have been disconnected.
        site.tools[2] = site.world.connect(2, 200);
        site.forbid();
        assert_eq!(site.detach(1).0, 0);
        if idle {
            // Another leader, which has it from the others.
            site.world.view(&[1]);
            site.tools[0] = site.world.connect(0, 201);
            site.world.view(&[0, 1]);
        }
        site.world.view(&[0, 1, 2]);
        assert!(site.having().is_empty(), "{idle}");
        // Made anew while one is away, it stays: the old one's end is of the past.
        site.allow();
        site.world.view(&[1, 2]);
        site.tools[0] = site.world.connect(0, 202);
        site.world.attach(site.tools[1], Opcode::DB_ATTACH, NAME).unwrap();
        assert!(site.world.count(site.tools[2], site.db, b"counter"));
        site.world.view(&[0, 1, 2]);
        assert_eq!((site.having(), site.counter()), (vec![0, 1, 2], Some(1)), "{idle}");
    }
}

/// Node 2 was told to make it, and was dropped before it went on with it. No client there wants it.
#[test]
fn a_node_on_which_it_was_half_made_does_not_bring_it_back() {
    let mut half = 0;
    for seed in 0..200 {
        let (mut site, mut dice) = (start(3), Dice(seed));
        site.forbid();
        assert_eq!(site.detach(1).0, 0);
        site.allow();
        site.world.dice = Some(seed);
        let name = format!("{NAME}\0");
        let attach = site.world.control(site.tools[1], CURRENT, Opcode::DB_ATTACH, 0, name.as_bytes());
        for _ in 0..dice.roll(40) {
            site.world.step(&mut dice);
        }
        site.world.dice = None;
        site.world.view(&[0, 1]);
        half += u32::from(site.world.nodes[2].files.get(&site.db).is_some_and(|f| f.kind.is_some() && f.frozen));
        assert_eq!(site.world.status(site.tools[1], attach), Some(0), "{seed}");
        site.tools[2] = site.world.connect(2, 200);
        site.forbid();
        assert_eq!(site.detach(1).0, 0, "{seed}");
        site.world.view(&[0, 1, 2]);
        assert!(site.having().is_empty(), "{seed}");
        // Whoever wants it gets it all the same.
        site.allow();
        site.world.attach(site.tools[2], Opcode::DB_ATTACH, NAME).unwrap();
        assert_eq!((site.having(), site.counter()), (vec![0, 1, 2], None), "{seed}");
    }
    assert!(half > 20, "{half}");
}

/// Node 2 has said that nobody uses it, then lets clients attach databases, and one does before the decision comes.
#[test]
fn a_client_that_attaches_meanwhile_gets_it_anew() {
    let mut waited = 0;
    for seed in 0..200 {
        let (mut site, mut dice) = (start(3), Dice(seed));
        site.forbid();
        site.world.dice = Some(seed);
        let reqid = site.begin(1);
        while !site.world.nodes[2].files[&site.db].sole && site.world.step(&mut dice) {}
        site.world.cut.insert((1, 0));
        site.world.dice = None;
        site.world.run();
        site.set(2, "AllowClientDBAttach", 1);
        let name = format!("{NAME}\0");
        let attach = site.world.control(site.tools[2], CURRENT, Opcode::DB_ATTACH, 0, name.as_bytes());
        let waits = site.world.status(site.tools[2], attach).is_none();
        site.world.cut.clear();
        site.world.run();
        assert_eq!(site.world.status(site.tools[1], reqid), Some(0), "{seed}");
        if waits {
            waited += 1;
            assert_eq!(site.world.status(site.tools[2], attach), Some(0), "{seed}");
        }
        assert_eq!((site.having(), site.counter()), (vec![0, 1, 2], None), "{seed}");
    }
    assert!(waited > 20, "{waited}");
}

/// At any point of a detach something breaks: whatever comes of it, all nodes agree, and a counter is the old one or new.
#[test]
fn whatever_breaks_in_the_middle_all_nodes_agree() {
    let (mut gone, mut kept) = (0, 0);
    for seed in 0..3000u64 {
        let mut dice = Dice(seed);
        let mut site = start(3);
        site.forbid();
        let asked = dice.roll(3);
        site.world.dice = Some(seed);
        let reqid = site.begin(asked);
        let stop_at = dice.roll(40);
        let mut steps = 0;
        while steps < stop_at && site.world.step(&mut dice) {
            steps += 1;
        }
        // The leader, or another one, is lost; or a link breaks; or one is dropped and comes back.
        let (what, victim) = (dice.roll(3), dice.roll(3));
        site.world.dice = None;
        let left: Vec<u32> = (0..3).filter(|n| *n != victim as u32).collect();
        match what {
            0 => {
                site.world.kill(victim);
                site.world.view(&left);
            }
            1 => site.world.break_link(victim, (victim + 1) % 3),
            _ => {
                site.world.view(&left);
                site.tools[victim] = site.world.connect(victim, 300);
                site.world.view(&[0, 1, 2]);
            }
        }
        site.world.run();
        site.world.later(Duration::from_secs(12));
        let alive: Vec<usize> = (0..3).filter(|n| site.world.nodes[*n].alive).collect();
        let having = site.having();
        let answer = site.world.nodes[asked].alive.then(|| site.world.status(site.tools[asked], reqid)).flatten();
        assert!(having.is_empty() || having == alive, "seed {seed}: of {alive:?} {having:?} have it");
        if answer == Some(0) {
            assert!(having.is_empty(), "seed {seed}: it was said to be gone, and {having:?} have it");
        }
        if having.is_empty() {
            gone += 1;
            continue;
        }
        kept += 1;
        // It is in use, and nothing of it is lost but with the node that held it.
        let client = alive[0];
        let db = site.db;
        let before = site.counter();
        assert!(before == Some(3) || what != 1, "seed {seed}: {before:?} after a broken link");
        assert!(site.world.count(site.tools[client], db, b"counter"), "seed {seed}");
        site.world.input(client, Input::Wake);
        site.world.run();
    }
    assert!(gone > 100 && kept > 100, "{gone} went, {kept} stayed");
}
