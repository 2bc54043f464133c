//! Files that are not sound cost an error, not a disk.

#![allow(clippy::unwrap_used)]

use tdb::{Error, Flags, Options, Store, Tdb};

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
