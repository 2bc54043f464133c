//! Files that are not sound cost an error, not a disk.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tdb::{Error, Flags, Options, Store, Tdb};

const FREELIST_HEAD: usize = 168;

/// Found by fuzzing: the last record says that it is free and is in no list, so what the file grows by is never found.
#[test]
fn a_file_whose_free_list_is_broken_does_not_grow_for_ever() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), include_bytes!("../../../fuzz/corpus/tdb_file/expands-without-end")).unwrap();
    let mut db = Tdb::open(file.path(), Options::new(Flags::NO_LOCK)).unwrap();
    let stored = db.store(b"key", b"value", Store::Replace);
    assert!(matches!(stored, Err(Error::Corrupt { .. })), "{stored:?}");
    let size = file.as_file().metadata().unwrap().len();
    assert!(size < 1 << 20, "the file has grown to {size} bytes");
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// A database with four pieces of free space, and where they are.
fn with_free_list(path: &Path) -> (Vec<u8>, Vec<usize>) {
    let mut db = Tdb::open(path, Options::create(Flags::NO_LOCK, 7)).unwrap();
    for index in 0..8u8 {
        db.store(&[index], &[index; 100], Store::Insert).unwrap();
    }
    for index in [1u8, 3, 5] {
        assert!(db.delete(&[index]).unwrap());
    }
    let bytes = std::fs::read(path).unwrap();
    let mut free = Vec::new();
    let mut at = word(&bytes, FREELIST_HEAD);
    while at != 0 {
        free.push(at);
        at = word(&bytes, at);
    }
    (bytes, free)
}

#[test]
fn a_free_list_that_leads_back_to_itself_is_an_error_and_no_endless_walk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.tdb");
    let (sound, free) = with_free_list(&path);
    assert_eq!(free.len(), 4);
    for (from, to) in (0..4).flat_map(|from| (0..=from).map(move |to| (from, to))) {
        let mut bytes = sound.clone();
        bytes[free[from]..free[from] + 4].copy_from_slice(&u32::try_from(free[to]).unwrap().to_ne_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let (sender, receiver) = mpsc::channel();
        let work = path.clone();
        thread::spawn(move || {
            let mut db = Tdb::open(&work, Options::new(Flags::NO_LOCK)).unwrap();
            // More than any free record has, so that all of the list is looked at.
            let stored = db.store(b"large", &[1; 1 << 20], Store::Replace).unwrap_err();
            let checked = db.check().unwrap_err();
            // What needs no free space is as usable as before.
            sender.send((stored, checked, db.fetch(&[0]).unwrap())).unwrap();
        });
        let (stored, checked, fetched) = receiver.recv_timeout(Duration::from_secs(20)).expect("it does not come back");
        let said = stored.to_string();
        assert!(said.contains("test.tdb: corrupt") && said.contains("the free list leads back to itself"), "{said}");
        assert!(matches!(checked, Error::Corrupt { .. }), "{checked}");
        assert_eq!(fetched, Some(vec![0; 100]));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes.len() as u64, "it has grown");
    }
}
