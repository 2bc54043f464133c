//! The same file, by us and by libtdb in turns: after every step both agree with a plain map, and libtdb's own check
//! finds nothing wrong.

// The helpers below are no tests for clippy.
#![allow(clippy::unwrap_used)]

mod peer;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use peer::{Dice, Peer, dump, hex, tool_check};
use tdb::{Error, Flags, Options, Store, Tdb};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn ours(db: &mut Tdb) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let count = db
        .traverse_read(|_, key, data| {
            all.push((key.to_vec(), data.to_vec()));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(count, all.len() as u64);
    all.sort();
    all
}

/// `tools`: Debian's tools look at the file after every so many steps.
fn one_seed(seed: u64, flags: u32, hash_size: u32, max_dead: u32, (steps, tools): (usize, usize)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.tdb.0");
    let mut dice = Dice::new(seed);
    let context = |step: usize| format!("seed {seed}, flags {flags:#x}, step {step}");
    // Who creates it differs.
    let (mut peer, mut db) = if seed.is_multiple_of(2) {
        let peer = Peer::open(&path, flags, hash_size);
        (peer, Tdb::open(&path, Options::create(Flags(flags), 5)).unwrap())
    } else {
        let db = Tdb::open(&path, Options::create(Flags(flags), hash_size)).unwrap();
        (Peer::open(&path, flags, 5), db)
    };
    assert_eq!(db.hash_size(), hash_size);
    db.set_max_dead(max_dead);
    peer.send(&format!("max_dead {max_dead}"));
    peer.answer();
    let mut model = Model::new();
    // What the side in a transaction started from.
    let mut before: Option<(bool, Model)> = None;
    for step in 0..steps {
        let we = match before {
            Some((we, _)) => we,
            None => dice.roll(2) == 0,
        };
        let key = format!("key{}", dice.roll(30)).into_bytes();
        let size = match dice.roll(10) {
            0 => 0,
            1 => dice.roll(9000),
            2..5 => dice.roll(600),
            _ => dice.roll(60),
        };
        let data = dice.bytes(usize::try_from(size).unwrap());
        match dice.roll(20) {
            0..8 => {
                if we {
                    assert!(db.store(&key, &data, Store::Replace).unwrap(), "{}", context(step));
                } else {
                    peer.ok(&format!("store {} {} 0", hex(&key), hex(&data)));
                }
                model.insert(key, data);
            }
            8..10 => {
                let free = !model.contains_key(&key);
                if we {
                    match db.store(&key, &data, Store::Insert) {
                        Ok(stored) => assert!(stored && free),
                        Err(Error::Exists { .. }) => assert!(!free),
                        Err(error) => panic!("{}: {error}", context(step)),
                    }
                } else {
                    let answer = peer.ask(&format!("store {} {} 2", hex(&key), hex(&data)));
                    assert_eq!(answer == "0", free);
                }
                model.entry(key).or_insert(data);
            }
            10 => {
                let there = model.contains_key(&key);
                if we {
                    assert_eq!(db.store(&key, &data, Store::Modify).unwrap(), there);
                } else {
                    assert_eq!(peer.ask(&format!("store {} {} 3", hex(&key), hex(&data))) == "0", there);
                }
                if let Some(old) = model.get_mut(&key) {
                    *old = data;
                }
            }
            11..13 => {
                if we {
                    db.append(&key, &data).unwrap();
                } else {
                    peer.ok(&format!("append {} {}", hex(&key), hex(&data)));
                }
                model.entry(key).or_default().extend(data);
            }
            13..17 => {
                let there = model.remove(&key).is_some();
                if we {
                    assert_eq!(db.delete(&key).unwrap(), there, "{}", context(step));
                } else {
                    assert_eq!(peer.ask(&format!("delete {}", hex(&key))) == "0", there, "{}", context(step));
                }
            }
            17 if before.is_none() => {
                if we {
                    db.begin().unwrap();
                } else {
                    peer.ok("transaction_start");
                }
                before = Some((we, model.clone()));
                continue;
            }
            18 if dice.roll(12) == 0 => {
                if we {
                    db.wipe().unwrap();
                } else {
                    peer.ok("wipe_all");
                }
                model.clear();
            }
            19 if dice.roll(12) == 0 && before.is_none() => {
                if we {
                    db.repack().unwrap();
                } else {
                    peer.ok("repack");
                }
            }
            _ => {
                if let Some((_, old)) = before.take() {
                    let commit = dice.roll(3) > 0;
                    match (we, commit) {
                        (true, true) => db.commit().unwrap(),
                        (true, false) => db.cancel().unwrap(),
                        (false, true) => peer.ok("transaction_commit"),
                        (false, false) => peer.ok("transaction_cancel"),
                    }
                    if !commit {
                        model = old;
                    }
                }
            }
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        match &before {
            Some((true, _)) => assert_eq!(ours(&mut db), expected, "{}", context(step)),
            Some((false, _)) => assert_eq!(peer.all(), expected, "{}", context(step)),
            None => {
                assert_eq!(ours(&mut db), expected, "{}", context(step));
                assert_eq!(peer.all(), expected, "{}", context(step));
                peer.ok("check");
                let summary = db.check().unwrap_or_else(|error| panic!("{}: {error}", context(step)));
                assert_eq!(summary.records, model.len() as u64);
                assert_eq!(summary.lost_bytes, 0);
                if step % tools == 0 {
                    // Without CLEAR_IF_FIRST the tools open it beside us.
                    tool_check(&path, &context(step));
                    assert_eq!(dump(&path), expected);
                }
            }
        }
    }
}

#[test]
fn a_volatile_database_by_both_sides() {
    if !peer::available("a_volatile_database_by_both_sides") {
        return;
    }
    for seed in 0..6 {
        let (hash_size, max_dead) = (if seed < 3 { 7 } else { 1001 }, if seed % 3 == 0 { 0 } else { 5 });
        one_seed(seed, Flags::CTDB_VOLATILE.0, hash_size, max_dead, (400, 100));
    }
}

#[test]
fn a_persistent_database_by_both_sides() {
    if !peer::available("a_persistent_database_by_both_sides") {
        return;
    }
    for seed in 100..104 {
        one_seed(seed, Flags::CTDB_PERSISTENT.0, 13, 0, (400, 100));
    }
}

#[test]
fn the_tools_find_nothing_wrong_after_any_step() {
    if !peer::available("the_tools_find_nothing_wrong_after_any_step") {
        return;
    }
    one_seed(200, Flags::CTDB_VOLATILE.0, 7, 5, (250, 1));
    one_seed(201, Flags::CTDB_PERSISTENT.0, 13, 0, (250, 1));
}

#[test]
fn sequence_numbers_move_as_libtdb_moves_them() {
    if !peer::available("sequence_numbers_move_as_libtdb_moves_them") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let flags = Flags::SEQNUM;
    let mut db = Tdb::open(&a, Options::create(flags, 7)).unwrap();
    let mut peer = Peer::open(&b, flags.0, 7);
    let mut dice = Dice::new(9);
    for step in 0..200 {
        let key = format!("{}", dice.roll(8)).into_bytes();
        let length = usize::try_from(dice.roll(200)).unwrap();
        let data = dice.bytes(length);
        match dice.roll(4) {
            0 => {
                db.delete(&key).unwrap();
                peer.ask(&format!("delete {}", hex(&key)));
            }
            1 if step % 10 == 0 => {
                db.wipe().unwrap();
                peer.ok("wipe_all");
            }
            _ => {
                db.store(&key, &data, Store::Replace).unwrap();
                peer.ok(&format!("store {} {} 0", hex(&key), hex(&data)));
            }
        }
        assert_eq!(db.sequence_number().unwrap().to_string(), peer.ask("get_seqnum"), "step {step}");
    }
    assert_eq!(std::fs::metadata(&a).unwrap().len(), std::fs::metadata(&b).unwrap().len(), "they grow alike");
}
