//! Frozen files.

use super::*;

#[test]
fn a_freeze_waits_for_held_chains_and_then_holds_up_everybody() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    let mut samba = node.other(&db);
    samba.lock_chain(b"key", tdb::Kind::Exclusive).unwrap();
    for attempt in [1, 2] {
        assert_eq!(node.order(&db, FileOrder::Freeze { generation: generation(attempt), wipe: false }), []);
    }
    node.nothing();
    samba.unlock_chain(b"key").unwrap();
    let frozen =
        |attempt| FileAnswer::Recovery { generation: generation(attempt), answer: RecoveryAnswer::Frozen(None) };
    assert_eq!(node.next(), frozen(2), "the first one's generation is replaced");
    assert!(!samba.try_lock_chain(b"key", tdb::Kind::Shared).unwrap());
    assert_eq!(node.order(&db, FileOrder::Freeze { generation: generation(3), wipe: false }), []);
    assert_eq!(node.next(), frozen(3), "held already");
    // What is asked for meanwhile comes after the thaw.
    assert_eq!(node.order(&db, FileOrder::Lock { key: b"key".to_vec() }), []);
    node.nothing();
    assert_eq!(node.order(&db, FileOrder::Thaw { generation: generation(3) }), []);
    assert_eq!(node.next(), locked(b"key", None));
    node.order(&db, FileOrder::Unlock { key: b"key".to_vec(), write: Write::Nothing });
    assert!(samba.try_lock_chain(b"key", tdb::Kind::Exclusive).unwrap());
}

#[test]
fn records_are_scanned_edited_read_and_pruned() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    node.write(&db, b"lost", value(4, 9, b"data"));
    node.write(&db, b"mine", value(5, ME, b"mine"));
    node.write(&db, b"old", value(6, ME, b"old"));
    node.write(&db, b"gone", value(1, ME, b"gone"));
    node.freeze(&db, generation(1));
    node.order(&db, FileOrder::Scan { generation: generation(1) });
    let FileAnswer::Recovery { answer: RecoveryAnswer::Scanned { mut records, last: true }, .. } = node.next() else {
        panic!("not scanned in one piece")
    };
    records.sort_by(|a, b| a.0.cmp(&b.0));
    let claim = |key: &[u8], rsn, dmaster| (key.to_vec(), Claim { header: header(rsn, dmaster), empty: false });
    assert_eq!(records, [claim(b"gone", 1, ME), claim(b"lost", 4, 9), claim(b"mine", 5, ME), claim(b"old", 6, ME)]);
    let edits = vec![
        (b"lost".to_vec(), Edit::Take),
        (b"mine".to_vec(), Edit::Holder(1)),
        (b"new".to_vec(), Edit::Holder(1)),
        (b"old".to_vec(), Edit::Value(value(8, ME, b"new"))),
        (b"gone".to_vec(), Edit::Delete),
        (b"nowhere".to_vec(), Edit::Take),
    ];
    assert_eq!(node.order(&db, FileOrder::Edit { edits }), []);
    let read = |node: &mut Node, generation| {
        let keys = [b"lost".as_slice(), b"mine", b"new", b"old", b"gone", b"nowhere"].map(<[u8]>::to_vec).to_vec();
        node.order(&locking(), FileOrder::Read { generation, keys, asker: 1 });
        let FileAnswer::Recovery { answer: RecoveryAnswer::Read { asker: 1, records }, .. } = node.next() else {
            panic!("not read")
        };
        records
    };
    let taken = LtdbHeader { flags: flag::MIGRATED_WITH_DATA, ..header(5, ME) };
    let mut expected = vec![
        (b"lost".to_vec(), [taken.to_bytes(), b"data".to_vec()].concat()),
        (b"mine".to_vec(), value(5, 1, b"mine")),
        (b"new".to_vec(), value(0, 1, b"")),
        (b"old".to_vec(), value(8, ME, b"new")),
    ];
    assert_eq!(read(&mut node, generation(1)), expected);
    // The empty record of another holder is kept only where one asks for it: at its location master.
    node.order(&db, FileOrder::Prune { masters: vec![ME] });
    assert_eq!(read(&mut node, generation(1)), expected);
    node.order(&db, FileOrder::Prune { masters: vec![1] });
    expected.remove(2);
    assert_eq!(read(&mut node, generation(1)), expected);
    node.order(&db, FileOrder::Freeze { generation: generation(2), wipe: true });
    assert!(matches!(node.next(), FileAnswer::Recovery { answer: RecoveryAnswer::Frozen(None), .. }));
    assert_eq!(read(&mut node, generation(2)), []);
    node.nothing();
}

#[test]
fn many_records_are_scanned_in_pieces() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    let keys: Vec<Vec<u8>> = (0..3000u32).map(|index| [index.to_be_bytes().to_vec(), vec![1; 200]].concat()).collect();
    for key in &keys {
        node.write(&db, key, value(1, ME, b"x"));
    }
    node.freeze(&db, generation(1));
    node.order(&db, FileOrder::Scan { generation: generation(1) });
    let (mut seen, mut pieces) = (Vec::new(), 0);
    loop {
        let FileAnswer::Recovery { answer: RecoveryAnswer::Scanned { records, last }, .. } = node.next() else {
            panic!("not scanned")
        };
        pieces += 1;
        seen.extend(records.into_iter().map(|(key, _)| key));
        if last {
            break;
        }
    }
    assert_eq!(pieces, 3, "of about 256 KiB");
    seen.sort_unstable();
    assert_eq!(seen, keys);
}

fn replace(node: &mut Node, db: &Have, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), String> {
    assert_eq!(node.order(db, FileOrder::Replace { generation: generation(1), records }), []);
    let FileAnswer::Recovery { answer: RecoveryAnswer::Replaced(result), .. } = node.next() else {
        panic!("not replaced")
    };
    result
}

fn number(number: u64) -> (Vec<u8>, Vec<u8>) {
    (b"__db_sequence_number__\0".to_vec(), value(number, 0, &number.to_ne_bytes()))
}

#[test]
fn a_copy_goes_from_node_to_node_and_its_sum_with_it() {
    for kind in [Kind::Persistent, Kind::Replicated] {
        let db = have("copied.tdb", kind);
        let (mut source, mut target) = (Node::new(), Node::new());
        let records: Vec<_> = (0..50u8).map(|index| (vec![index], value(1, 0, &[index; 100]))).collect();
        for node in [&mut source, &mut target] {
            node.open(&db);
            assert_eq!(node.freeze(&db, generation(1)), Some(Content::default()), "{kind:?}");
        }
        let first = [records.clone(), vec![number(41)]].concat();
        assert_eq!(replace(&mut source, &db, first.clone()), Ok(()));
        let content = source.freeze(&db, generation(1)).unwrap();
        assert_eq!(content.seqnum, 41);
        // Something else first, and then in another order.
        assert_eq!(replace(&mut target, &db, vec![(b"other".to_vec(), value(9, 1, b"x")), number(99)]), Ok(()));
        assert_ne!(target.freeze(&db, generation(1)).unwrap().checksum, content.checksum);
        assert_eq!(source.order(&db, FileOrder::Dump { generation: generation(1) }), []);
        let FileAnswer::Recovery { answer: RecoveryAnswer::Dumped { mut records, last: true }, .. } = source.next()
        else {
            panic!("not dumped in one piece")
        };
        records.reverse();
        assert_eq!(replace(&mut target, &db, records.clone()), Ok(()));
        assert_eq!(target.freeze(&db, generation(1)), Some(content));
        // One bit.
        let mut other = records;
        other[7].1[30] ^= 1;
        assert_eq!(replace(&mut target, &db, other), Ok(()));
        assert_ne!(target.freeze(&db, generation(1)).unwrap().checksum, content.checksum);
        // It stays locked throughout, and Samba sees it after the thaw.
        let mut samba = source.other(&db);
        assert!(!samba.try_lock_chain(b"x", tdb::Kind::Shared).unwrap());
        source.order(&db, FileOrder::Thaw { generation: generation(1) });
        for (key, stored) in first {
            assert_eq!(samba.fetch(&key).unwrap(), Some(stored));
        }
        samba.check().unwrap();
    }
}

#[test]
fn nobody_can_stand_between_a_freeze_and_its_transaction() {
    let mut node = Node::new();
    let db = secrets();
    node.open(&db);
    node.freeze(&db, generation(1));
    let mut tool = node.other(&db);
    // A tool that begins a transaction while the database is frozen, and waits.
    let began = thread::spawn(move || tool.begin().and_then(|()| tool.fetch(b"key")));
    node.nothing();
    assert_eq!(replace(&mut node, &db, vec![(b"key".to_vec(), value(1, 0, b"new"))]), Ok(()));
    assert!(!began.is_finished());
    node.order(&db, FileOrder::Thaw { generation: generation(1) });
    assert_eq!(began.join().unwrap().unwrap(), Some(value(1, 0, b"new")));
}

/// On a disk of 4 MiB in a mount namespace of its own: this test runs itself again in there.
#[test]
fn a_full_disk_keeps_the_old_content_and_says_so() {
    const INSIDE: &str = "STEADFAST_TEST_SMALL_DATABASE_DISK";
    if let Some(dir) = std::env::var_os(INSIDE) {
        let mut node = Node::start(tempfile::tempdir_in(dir).unwrap());
        let db = secrets();
        node.open(&db);
        node.freeze(&db, generation(1));
        let old = vec![(b"key".to_vec(), value(1, 0, b"old")), number(3)];
        assert_eq!(replace(&mut node, &db, old), Ok(()));
        let content = node.freeze(&db, generation(1)).unwrap();
        let large = (0..6u8).map(|index| (vec![index], value(1, 0, &vec![index; 1 << 20]))).collect();
        let why = replace(&mut node, &db, large).unwrap_err();
        assert!(why.contains("No space left") && why.contains("secrets.tdb.2"), "{why}");
        assert_eq!(node.freeze(&db, generation(1)), Some(content));
        node.order(&db, FileOrder::Thaw { generation: generation(1) });
        let mut samba = node.other(&db);
        assert_eq!(samba.fetch(b"key").unwrap(), Some(value(1, 0, b"old")));
        samba.check().unwrap();
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: a mount namespace needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=4m,mode=700 none \"$1\" && exec \"$2\" --exact \"$3\" --nocapture";
    let out = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg("databases::files::tests::recovery::a_full_disk_keeps_the_old_content_and_says_so")
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
}
