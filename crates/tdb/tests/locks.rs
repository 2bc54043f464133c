//! Locks of ours and of libtdb's stand in each other's way, on the same bytes, and nothing else does.

// The helpers below are no tests for clippy.
#![allow(clippy::unwrap_used)]

mod peer;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use peer::{Peer, hex};
use tdb::{Error, Flags, Kind, Options, Store, Target, Tdb, Wait, Waiter};

const LONG: Duration = Duration::from_secs(20);

fn both(hash_size: u32) -> (tempfile::TempDir, Tdb, Peer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.tdb.0");
    let db = Tdb::open(&path, Options::create(Flags::CTDB_VOLATILE, hash_size)).unwrap();
    let peer = Peer::open(&path, Flags::CTDB_VOLATILE.0, hash_size);
    (dir, db, peer)
}

#[test]
fn chains_exclude_each_other_in_both_directions() {
    if !peer::available("chains_exclude_each_other_in_both_directions") {
        return;
    }
    let (_dir, mut db, mut peer) = both(100_001);
    let (a, b) = (b"key1".as_slice(), b"key2".as_slice());
    peer.ok(&format!("chainlock {}", hex(a)));
    assert!(!db.try_lock_chain(a, Kind::Exclusive).unwrap());
    assert!(!db.try_lock_chain(a, Kind::Shared).unwrap());
    assert!(db.try_lock_chain(b, Kind::Exclusive).unwrap());
    assert_ne!(peer.ask(&format!("chainlock_nonblock {}", hex(b))), "0");
    assert_ne!(peer.ask(&format!("chainlock_read_nonblock {}", hex(b))), "0");
    assert_ne!(peer.ask("lockall_nonblock"), "0");
    assert!(matches!(db.lock_all(Kind::Shared, Wait::Try), Err(Error::Order { .. })));
    db.unlock_chain(b).unwrap();
    assert!(!db.lock_all(Kind::Shared, Wait::Try).unwrap());
    peer.ok(&format!("chainunlock {}", hex(a)));
    // Readers share.
    peer.ok(&format!("chainlock_read {}", hex(a)));
    assert!(db.try_lock_chain(a, Kind::Shared).unwrap());
    assert!(!db.try_lock_chain(a, Kind::Exclusive).unwrap(), "an upgrade past another reader");
    db.unlock_chain(a).unwrap();
    assert!(db.lock_all(Kind::Shared, Wait::Try).unwrap());
    assert!(matches!(db.store(a, b"x", Store::Replace), Err(Error::Order { .. })), "a write under a read lock");
    db.unlock_all().unwrap();
    assert!(!db.lock_all(Kind::Exclusive, Wait::Try).unwrap());
    peer.ok(&format!("chainunlock_read {}", hex(a)));
    assert!(db.lock_all(Kind::Exclusive, Wait::Try).unwrap());
    assert_ne!(peer.ask(&format!("chainlock_read_nonblock {}", hex(a))), "0");
    assert_ne!(peer.ask("lockall_read_nonblock"), "0");
    db.store(a, b"under the lock", Store::Replace).unwrap();
    db.unlock_all().unwrap();
    assert_eq!(peer.fetch(a), Some(b"under the lock".to_vec()));
    peer.ok("lockall");
    assert!(!db.try_lock_chain(a, Kind::Shared).unwrap());
    peer.ok("unlockall");
    peer.ok("transaction_start");
    assert!(!db.try_begin().unwrap());
    assert_eq!(db.fetch(a).unwrap(), Some(b"under the lock".to_vec()), "readers go on beside a transaction");
    assert!(!db.try_lock_chain(a, Kind::Exclusive).unwrap());
    peer.ok("transaction_cancel");
    assert!(db.try_begin().unwrap());
    assert_ne!(peer.ask("transaction_start_nonblock"), "0");
    db.cancel().unwrap();
    peer.ok("transaction_start_nonblock");
    peer.ok("transaction_cancel");
}

#[test]
fn a_killed_holder_lets_go() {
    if !peer::available("a_killed_holder_lets_go") {
        return;
    }
    let (_dir, db, mut peer) = both(11);
    peer.ok(&format!("chainlock {}", hex(b"key")));
    let (sender, receiver) = mpsc::channel();
    let _waiter =
        Waiter::start(&db, Target::Chain(b"key".to_vec(), Kind::Exclusive), move |got| sender.send(got).unwrap())
            .unwrap();
    assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err(), "got a lock that libtdb holds");
    peer.kill();
    receiver.recv_timeout(LONG).unwrap().unwrap();
}

#[test]
fn a_waiter_gets_its_lock_works_under_it_and_lets_go() {
    if !peer::available("a_waiter_gets_its_lock_works_under_it_and_lets_go") {
        return;
    }
    let (_dir, mut db, mut peer) = both(11);
    // Behind our own handle too.
    db.lock_chain(b"key", Kind::Exclusive).unwrap();
    let (sender, receiver) = mpsc::channel();
    let _waiter =
        Waiter::start(&db, Target::Chain(b"key".to_vec(), Kind::Exclusive), move |got| sender.send(got).unwrap())
            .unwrap();
    assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
    db.unlock_chain(b"key").unwrap();
    let mut held = receiver.recv_timeout(LONG).unwrap().unwrap();
    assert!(!db.try_lock_chain(b"key", Kind::Shared).unwrap());
    assert_ne!(peer.ask(&format!("chainlock_nonblock {}", hex(b"key"))), "0");
    held.store(b"key", b"data", Store::Replace).unwrap();
    drop(held);
    assert_eq!(db.fetch(b"key").unwrap(), Some(b"data".to_vec()));
    // A whole freeze, and a transaction, from a thread.
    for target in [Target::All(Kind::Exclusive), Target::Whole, Target::Transaction] {
        peer.ok(&format!("chainlock_read {}", hex(b"other")));
        peer.ok(&format!("chainlock {}", hex(b"other")));
        let (sender, receiver) = mpsc::channel();
        let _waiter = Waiter::start(&db, target.clone(), move |got| sender.send(got).unwrap()).unwrap();
        assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
        peer.ok(&format!("chainunlock {}", hex(b"other")));
        peer.ok(&format!("chainunlock_read {}", hex(b"other")));
        let mut held = receiver.recv_timeout(LONG).unwrap().unwrap();
        assert_ne!(peer.ask("lockall_nonblock"), "0");
        held.store(b"key", format!("{target:?}").as_bytes(), Store::Replace).unwrap();
        if held.in_transaction() {
            held.commit().unwrap();
        }
        drop(held);
        assert_eq!(peer.fetch(b"key"), Some(format!("{target:?}").into_bytes()));
    }
}

#[test]
fn cancelled_waits_end_at_once() {
    if !peer::available("cancelled_waits_end_at_once") {
        return;
    }
    let (_dir, db, mut peer) = both(11);
    peer.ok("lockall");
    let (sender, receiver) = mpsc::channel();
    let waiters: Vec<Waiter> = (0..50)
        .map(|index| {
            let target =
                if index % 2 == 0 { Target::Chain(vec![index], Kind::Shared) } else { Target::All(Kind::Exclusive) };
            let sender = sender.clone();
            Waiter::start(&db, target, move |got| sender.send(got.map(drop)).unwrap()).unwrap()
        })
        .collect();
    // Some in the system call by now, and some not.
    thread::sleep(Duration::from_millis(5));
    let start = Instant::now();
    waiters.into_iter().for_each(Waiter::cancel);
    for _ in 0..50 {
        assert!(matches!(receiver.recv_timeout(LONG).unwrap(), Err(Error::Cancelled { .. })));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    peer.ok("unlockall");
    peer.ok("lockall_nonblock");
}

#[test]
fn counters_by_both_sides_at_once_are_exact() {
    if !peer::available("counters_by_both_sides_at_once_are_exact") {
        return;
    }
    const ROUNDS: u32 = 300;
    let (dir, db, mut peer) = both(3);
    let path = dir.path().join("test.tdb.0");
    let add = |data: Option<Vec<u8>>| {
        let old: u32 = data.map_or(0, |data| String::from_utf8(data).unwrap().parse().unwrap());
        (old + 1).to_string().into_bytes()
    };
    // Three handles of ours in threads, one opened by name and two more; libtdb beside them.
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut db = Tdb::open(&path, Options::new(Flags::CTDB_VOLATILE)).unwrap();
                for round in 0..ROUNDS {
                    let key = format!("counter{}", round % 3).into_bytes();
                    db.lock_chain(&key, Kind::Exclusive).unwrap();
                    let new = add(db.fetch(&key).unwrap());
                    db.store(&key, &new, Store::Replace).unwrap();
                    db.unlock_chain(&key).unwrap();
                }
            });
        }
        for round in 0..ROUNDS {
            let key = format!("counter{}", round % 3).into_bytes();
            peer.ok(&format!("chainlock {}", hex(&key)));
            let new = add(peer.fetch(&key));
            peer.ok(&format!("store {} {} 0", hex(&key), hex(&new)));
            peer.ok(&format!("chainunlock {}", hex(&key)));
        }
    });
    let mut db = db;
    for counter in 0..3 {
        let count = db.fetch(format!("counter{counter}").as_bytes()).unwrap().unwrap();
        assert_eq!(count, (4 * ROUNDS / 3).to_string().into_bytes());
    }
    db.check().unwrap();
    peer.ok("check");
}

#[test]
fn whoever_is_active_keeps_the_file_from_being_emptied() {
    if !peer::available("whoever_is_active_keeps_the_file_from_being_emptied") {
        return;
    }
    let (dir, mut db, mut peer) = both(7);
    let path = dir.path().join("test.tdb.0");
    db.store(b"key", b"data", Store::Replace).unwrap();
    // Libtdb comes and goes while we have it open.
    peer.ok("close");
    peer.ok(&format!("open {} {} 7 0", path.display(), Flags::CTDB_VOLATILE.0));
    assert_eq!(peer.fetch(b"key"), Some(b"data".to_vec()));
    // We go and come back while libtdb has it open; and another handle of ours closes, which must not drop the lock.
    drop(Tdb::open(&path, Options::new(Flags::CTDB_VOLATILE)).unwrap());
    drop(db);
    let mut db = Tdb::open(&path, Options::new(Flags::CTDB_VOLATILE)).unwrap();
    assert_eq!(db.fetch(b"key").unwrap(), Some(b"data".to_vec()));
    peer.ok("close");
    drop(Tdb::open(&path, Options::new(Flags::CTDB_VOLATILE)).unwrap());
    peer.ok(&format!("open {} {} 7 0", path.display(), Flags::CTDB_VOLATILE.0));
    assert_eq!(peer.fetch(b"key"), Some(b"data".to_vec()));
    // Nobody active any more: emptied by the next one.
    peer.ok("close");
    drop(db);
    let mut db = Tdb::open(&path, Options::new(Flags::CTDB_VOLATILE)).unwrap();
    assert_eq!(db.fetch(b"key").unwrap(), None);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 168 + 132 * 4, "a new file with the default number of chains");
}

#[test]
fn a_record_under_a_traverse_stays_in_its_chain() {
    if !peer::available("a_record_under_a_traverse_stays_in_its_chain") {
        return;
    }
    use std::ops::ControlFlow::{Break, Continue};
    let (_dir, mut db, mut peer) = both(1);
    for key in [b"a", b"b", b"c"] {
        db.store(key, b"data", Store::Replace).unwrap();
    }
    // Libtdb stands on the newest one, and we delete it under its feet.
    assert_eq!(peer.ask("stand"), hex(b"c"));
    assert!(db.delete(b"c").unwrap());
    assert_eq!(db.check().unwrap().dead, 1);
    assert_eq!(peer.ask("go"), "1");
    // And the other way round; the traverse goes on to the rest.
    let mut seen = Vec::new();
    let count = db
        .traverse_read(|_, key, _| {
            if seen.is_empty() {
                peer.ok(&format!("delete {}", hex(key)));
            }
            seen.push(key.to_vec());
            Ok(Continue(()))
        })
        .unwrap();
    assert_eq!((count, seen), (2, vec![b"b".to_vec(), b"a".to_vec()]));
    assert_eq!(db.fetch(b"b").unwrap(), None);
    // A traverse that writes may delete what it stands on, and everything else.
    db.store(b"d", b"data", Store::Replace).unwrap();
    let count = db
        .traverse_write(|db, key, _| {
            assert!(db.delete(key)?);
            Ok(if key == b"x" { Break(()) } else { Continue(()) })
        })
        .unwrap();
    assert_eq!(count, 2);
    db.store(b"e", b"data", Store::Replace).unwrap();
    assert_eq!(peer.all(), vec![(b"e".to_vec(), b"data".to_vec())]);
    let summary = db.check().unwrap();
    assert_eq!((summary.records, summary.dead), (1, 0), "dead ones are given back by the next allocation");
    peer.ok("check");
}

#[test]
fn transactions_under_the_whole_database_keep_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.tdb.0");
    let mut db = Tdb::open(&path, Options::create(Flags::CTDB_PERSISTENT, 11)).unwrap();
    let mut other = Tdb::open(&path, Options::new(Flags::CTDB_PERSISTENT)).unwrap();
    db.lock_whole().unwrap();
    assert!(matches!(db.lock_whole(), Err(Error::Order { .. })));
    let free = |other: &mut Tdb| {
        let transaction = other.try_begin().unwrap();
        if transaction {
            other.cancel().unwrap();
        }
        let chain = other.try_lock_chain(b"key", Kind::Shared).unwrap();
        if chain {
            other.unlock_chain(b"key").unwrap();
        }
        (transaction, chain)
    };
    for (round, commit) in [(1u8, true), (2, false), (3, true)] {
        db.begin().unwrap();
        assert!(matches!(db.unlock_whole(), Err(Error::Order { .. })));
        db.wipe().unwrap();
        db.store(&[round], &[round; 100], Store::Insert).unwrap();
        if commit {
            db.commit().unwrap()
        } else {
            db.cancel().unwrap()
        }
        assert_eq!(free(&mut other), (false, false), "let go at the end of round {round}");
        let now = if commit { round } else { 1 };
        assert_eq!(db.fetch(&[now]).unwrap(), Some(vec![now; 100]));
        assert_eq!(db.check().unwrap().records, 1);
    }
    // Written without a transaction too.
    db.store(b"key", b"data", Store::Insert).unwrap();
    db.unlock_whole().unwrap();
    assert_eq!(free(&mut other), (true, true));
    assert!(matches!(db.unlock_whole(), Err(Error::Order { .. })));
    assert_eq!(other.fetch(b"key").unwrap(), Some(b"data".to_vec()));
    // An ordinary transaction lets go again.
    db.begin().unwrap();
    db.store(b"key", b"more", Store::Replace).unwrap();
    db.commit().unwrap();
    assert_eq!(free(&mut other), (true, true));
    // All records alone are not enough: somebody may have begun a transaction and wait for them.
    db.lock_all(Kind::Exclusive, Wait::Try).unwrap();
    assert!(matches!(db.begin(), Err(Error::Order { .. })));
}

#[test]
fn work_in_a_thread_ends_at_its_next_lock_once_it_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let mut db = Tdb::open(dir.path().join("test.tdb.0"), Options::create(Flags::CTDB_VOLATILE, 11)).unwrap();
    db.store(b"key", b"data", Store::Insert).unwrap();
    let (sender, receiver) = mpsc::channel();
    let work = move |mut handle: Tdb| {
        sender.send(handle.fetch(b"key")).unwrap();
        sender.send(handle.fetch(b"key")).unwrap();
    };
    db.lock_chain(b"key", Kind::Exclusive).unwrap();
    let waiter = Waiter::run(&db, work).unwrap();
    assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err());
    waiter.cancel();
    for _ in 0..2 {
        assert!(matches!(receiver.recv_timeout(LONG).unwrap(), Err(Error::Cancelled { .. })));
    }
}
