//! The process is killed, the power fails or the disk refuses, at any write of a commit.

#[path = "../../tests/peer/mod.rs"]
mod peer;

mod disk;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::check::Summary;
use crate::db::Options;
use crate::records::Store;
use disk::{Disk, Step, cut_off, torn, until};
use peer::{Dice, Peer};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

const FLAGS: Flags = Flags::CTDB_PERSISTENT;

fn key(index: u32) -> Vec<u8> {
    format!("key{index}").into_bytes()
}

fn open(disk: &Disk) -> Result<Tdb> {
    Tdb::open_storage(Path::new("disk").into(), Box::new(disk.clone()), Options::create(FLAGS, 7))
}

fn content(db: &mut Tdb) -> Result<Content> {
    let mut all = Content::new();
    db.traverse_read(|_, key, data| {
        all.insert(key.to_vec(), data.to_vec());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all)
}

/// What the recovery area is when the transaction begins.
#[derive(Debug, Clone, Copy)]
enum Start {
    NoArea,
    AreaAtEnd,
    /// Records have been added behind it.
    AreaInside,
}

impl Start {
    fn make(self) -> Disk {
        let disk = Disk::default();
        let mut db = open(&disk).unwrap();
        let more = |db: &mut Tdb, from: u32| {
            for index in from..from + 40 {
                db.store(&key(index), &[1; 1200], Store::Insert).unwrap();
            }
        };
        more(&mut db, 0);
        if !matches!(self, Self::NoArea) {
            db.begin().unwrap();
            db.store(b"first", b"first", Store::Insert).unwrap();
            db.commit().unwrap();
        }
        if matches!(self, Self::AreaInside) {
            more(&mut db, 1000);
            more(&mut db, 2000);
        }
        Disk::of(disk.bytes())
    }
}

/// What the transaction does.
#[derive(Debug, Clone, Copy)]
enum Change {
    Few,
    Growing,
    /// More old content than a recovery area that was made for few changes takes.
    Much,
    MuchAndGrowing,
    Wipe,
}

impl Change {
    fn write(self, db: &mut Tdb) -> Result<()> {
        if matches!(self, Self::Wipe) {
            db.wipe()?;
        }
        if matches!(self, Self::Much | Self::MuchAndGrowing) {
            for index in 0..40 {
                db.store(&key(index), &[2; 1200], Store::Replace)?;
            }
        }
        db.store(b"new", b"new", Store::Replace)?;
        db.store(&key(3), &[3; 2000], Store::Replace)?;
        db.store(&key(4), &[4; 700], Store::Replace)?;
        db.delete(&key(5))?;
        if matches!(self, Self::Growing | Self::MuchAndGrowing) {
            db.store(b"large", &[5; 150_000], Store::Replace)?;
        }
        Ok(())
    }
}

const STARTS: [Start; 3] = [Start::NoArea, Start::AreaAtEnd, Start::AreaInside];
const CHANGES: [Change; 5] = [Change::Few, Change::Growing, Change::Much, Change::MuchAndGrowing, Change::Wipe];

/// A commit from its first to its last write.
struct Commit {
    name: String,
    start: Vec<u8>,
    old: Content,
    new: Content,
    steps: Vec<Step>,
}

fn commits() -> impl Iterator<Item = Commit> {
    let cases = STARTS.into_iter().flat_map(|start| CHANGES.into_iter().map(move |change| (start, change)));
    cases.map(|(start, change)| {
        let disk = start.make();
        let bytes = disk.bytes();
        let mut db = open(&disk).unwrap();
        let old = content(&mut db).unwrap();
        db.begin().unwrap();
        change.write(&mut db).unwrap();
        let new = content(&mut db).unwrap();
        assert!(old != new && disk.steps().is_empty(), "a transaction writes nothing before its commit");
        db.commit().unwrap();
        assert_eq!(content(&mut db).unwrap(), new);
        Commit { name: format!("{start:?}, {change:?}"), start: bytes, old, new, steps: disk.steps() }
    })
}

/// Opens what is left, and reads and checks all of it.
fn after(bytes: Vec<u8>, context: &str) -> (Content, Summary, Disk) {
    let disk = Disk::of(bytes);
    let result = open(&disk).and_then(|mut db| Ok((content(&mut db)?, db.check()?)));
    let (content, summary) = result.unwrap_or_else(|error| panic!("{context}: {error}"));
    (content, summary, disk)
}

/// The same by libtdb: its content, and what it leaves.
fn after_by_libtdb(peer: &mut Peer, path: &Path, bytes: &[u8], context: &str) -> Content {
    std::fs::write(path, bytes).unwrap();
    let flags = (FLAGS | Flags::NO_SYNC).0;
    assert_eq!(peer.ask(&format!("open {} {flags} 7 0", path.display())), "0", "{context}: libtdb cannot open it");
    let content = peer.all().into_iter().collect();
    assert_eq!(peer.ask("check"), "0", "{context}: libtdb's check");
    peer.ok("close");
    content
}

/// Whoever opens it next goes on with it: writes, grows, and all of it is sound.
fn goes_on(disk: &Disk, context: &str) {
    let result = open(disk).and_then(|mut db| {
        db.begin()?;
        Change::MuchAndGrowing.write(&mut db)?;
        let expected = content(&mut db)?;
        db.commit()?;
        db.store(b"larger", &[6; 200_000], Store::Insert)?;
        db.delete(b"larger")?;
        assert!(content(&mut db)? == expected, "{context}");
        db.check()
    });
    result.unwrap_or_else(|error| panic!("{context}, and then: {error}"));
}

/// Numbers of steps after which something else happens: all in short stories, in long ones the last and every so many of
/// the rest.
fn moments(steps: usize) -> impl Iterator<Item = usize> {
    let every = 1 + steps / 16;
    (0..=steps).filter(move |n| n % every == 0 || n + 6 > steps || *n < 8)
}

/// Everything that the power can leave of `steps`, as far as `seeds` dice say.
fn power_cuts(start: &[u8], steps: &[Step], seeds: u64) -> impl Iterator<Item = Vec<u8>> {
    (0..seeds).map(move |seed| cut_off(start, steps, &mut Dice::new(1 + seed + 1000 * steps.len() as u64)))
}

#[test]
fn killed_at_any_write_or_without_power_a_commit_is_there_whole_or_not_at_all() {
    for commit in commits() {
        for n in 0..=commit.steps.len() {
            let steps = &commit.steps[..n];
            let mut left = vec![until(&commit.start, steps), torn(&commit.start, steps)];
            left.extend(power_cuts(&commit.start, steps, 3));
            let use_it = moments(commit.steps.len()).any(|m| m == n);
            for (what, bytes) in left.into_iter().enumerate() {
                let context = format!("{}, {n} of {} steps, image {what}", commit.name, commit.steps.len());
                let (content, _, disk) = after(bytes, &context);
                assert!(content == commit.old || content == commit.new, "{context}: half of it");
                if n == commit.steps.len() {
                    assert!(content == commit.new, "{context}: lost after the commit");
                }
                if use_it {
                    goes_on(&disk, &context);
                }
            }
        }
    }
}

#[test]
fn killed_or_without_power_while_it_undoes_a_commit_the_next_one_undoes_it() {
    for commit in commits() {
        for n in moments(commit.steps.len()) {
            let killed = until(&commit.start, &commit.steps[..n]);
            let context = format!("{}, {n} of {} steps", commit.name, commit.steps.len());
            let (content, _, disk) = after(killed.clone(), &context);
            let undone = disk.steps();
            for m in moments(undone.len()) {
                let context = format!("{context}, then {m} of {}", undone.len());
                let steps = &undone[..m];
                for bytes in std::iter::once(until(&killed, steps)).chain(power_cuts(&killed, steps, 1)) {
                    assert!(after(bytes, &context).0 == content, "{context}: half of it");
                }
            }
        }
    }
}

#[test]
fn libtdb_finds_the_same_after_a_crash_of_ours() {
    if !peer::available("libtdb_finds_the_same_after_a_crash_of_ours") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.tdb");
    let mut peer = Peer::start();
    for commit in commits() {
        for n in moments(commit.steps.len()) {
            let steps = &commit.steps[..n];
            let left = std::iter::once(until(&commit.start, steps)).chain(power_cuts(&commit.start, steps, 1));
            for (what, bytes) in left.enumerate() {
                let context = format!("{}, {n} of {} steps, image {what}", commit.name, commit.steps.len());
                let theirs = after_by_libtdb(&mut peer, &path, &bytes, &context);
                let (ours, _, disk) = after(bytes, &context);
                assert!(ours == theirs, "{context}: libtdb finds other content");
                // What we have mended, and used since, is sound for libtdb.
                goes_on(&disk, &context);
                after_by_libtdb(&mut peer, &path, &disk.bytes(), &format!("{context}, mended by us"));
                // And the other way round.
                after(std::fs::read(&path).unwrap(), &context);
            }
        }
    }
}

#[test]
fn a_disk_that_refuses_any_write_leaves_the_old_content() {
    for start in STARTS {
        for change in CHANGES {
            for for_ever in [false, true] {
                for n in 0.. {
                    let context = format!("{start:?}, {change:?}, refused from step {n}, for ever {for_ever}");
                    let disk = start.make();
                    let mut db = open(&disk).unwrap();
                    let old = content(&mut db).unwrap();
                    db.begin().unwrap();
                    change.write(&mut db).unwrap();
                    let new = content(&mut db).unwrap();
                    disk.refuse(n, for_ever);
                    let committed = db.commit();
                    let refused = disk.refuse_no_more();
                    if !for_ever {
                        // The same handle goes on.
                        let now = content(&mut db).unwrap();
                        assert!(now == if committed.is_ok() { new.clone() } else { old.clone() }, "{context}");
                        db.check().unwrap_or_else(|error| panic!("{context}: {error}"));
                    }
                    drop(db);
                    let (now, ..) = after(disk.bytes(), &context);
                    // When not even the last write can be taken back, it is there though its sync has failed.
                    let sound = if committed.is_ok() { now == new } else { now == old || (for_ever && now == new) };
                    assert!(sound, "{context}: {committed:?}");
                    if !refused {
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn what_libtdb_was_killed_in_the_middle_of_is_undone() {
    if !peer::available("what_libtdb_was_killed_in_the_middle_of_is_undone") {
        return;
    }
    const KEYS: u32 = 40;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.tdb");
    let mut dice = Dice::new(7);
    let mut libtdb = Peer::start();
    let mut undone = 0;
    for round in 0..40 {
        // Every other one finds the file as the one before and we have left it.
        if round % 2 == 0 {
            std::fs::remove_file(&path).ok();
        }
        let mut peer = Peer::open(&path, FLAGS.0, 7);
        peer.send(&format!("loop {KEYS}"));
        assert_eq!(peer.answer(), "looping");
        std::thread::sleep(std::time::Duration::from_micros(2000 + dice.roll(40_000)));
        peer.kill();
        let left = Tdb::open(&path, Options { read_only: true, ..Options::new(FLAGS) }).unwrap().unfinished().unwrap();
        undone += usize::from(left.is_some());
        let mut db = Tdb::open(&path, Options::new(FLAGS)).unwrap();
        let all = content(&mut db).unwrap();
        let number = |data: &[u8]| String::from_utf8(data[..10].to_vec()).unwrap();
        let numbers: std::collections::BTreeSet<String> = all.values().map(|data| number(data)).collect();
        assert!(numbers.len() <= 1, "round {round}: of more than one transaction: {numbers:?}");
        assert!(all.is_empty() || all.len() == KEYS as usize, "round {round}: {} records", all.len());
        db.check().unwrap_or_else(|error| panic!("round {round}: {error}"));
        // Once we have made it grow it is sound for libtdb's check too, which faults what libtdb leaves where it is killed.
        let size = usize::try_from(db.file_size().unwrap()).unwrap();
        db.store(b"larger than what is free", &vec![7; size], Store::Insert).unwrap();
        assert!(db.delete(b"larger than what is free").unwrap());
        drop(db);
        let bytes = std::fs::read(&path).unwrap();
        after_by_libtdb(&mut libtdb, &dir.path().join("copy.tdb"), &bytes, &format!("round {round}"));
    }
    // Most of libtdb's time goes into a commit's syncs.
    assert!(undone > 0, "never killed in the middle of a commit");
}
