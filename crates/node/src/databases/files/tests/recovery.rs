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
    node.thaw(&db, generation(3));
    assert_eq!(node.next(), locked(b"key", None));
    node.order(&db, FileOrder::Unlock { key: b"key".to_vec(), write: Write::Nothing });
    assert!(samba.try_lock_chain(b"key", tdb::Kind::Exclusive).unwrap());
}

#[test]
fn a_scan_takes_back_the_copies_that_are_only_read() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    let with = |rsn, dmaster, flags, data: &[u8]| {
        let header = LtdbHeader { flags, ..header(rsn, dmaster) };
        ([&header.to_bytes()[..], data].concat(), Claim { header, empty: data.is_empty() })
    };
    let told = flag::MIGRATED_WITH_DATA;
    // A record whose copies were given away, one that is a copy, and one that is neither.
    node.write(&db, b"given", with(4, ME, told | flag::HAVE_DELEGATIONS | flag::REVOKING_READONLY, b"data").0);
    node.write(&db, b"copy", with(7, 9, told | flag::HAVE_READONLY, b"theirs").0);
    node.write(&db, b"mine", with(5, ME, told, b"mine").0);
    node.freeze(&db, generation(1));
    node.order(&db, FileOrder::Scan { generation: generation(1) });
    let FileAnswer::Recovery { answer: RecoveryAnswer::Scanned { mut records, last: true }, .. } = node.next() else {
        panic!("not scanned in one piece")
    };
    records.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        (b"copy".to_vec(), with(7, 9, told, b"theirs")),
        (b"given".to_vec(), with(5, ME, told, b"data")),
        (b"mine".to_vec(), with(5, ME, told, b"mine")),
    ];
    let claims: Vec<_> = expected.iter().map(|(key, (_, claim))| (key.clone(), *claim)).collect();
    assert_eq!(records, claims);
    // As it was told, so it is in the file.
    let keys = expected.iter().map(|(key, _)| key.clone()).collect();
    node.order(&db, FileOrder::Read { generation: generation(1), keys, asker: 1 });
    let FileAnswer::Recovery { answer: RecoveryAnswer::Read { records, .. }, .. } = node.next() else {
        panic!("not read")
    };
    let values: Vec<_> = expected.into_iter().map(|(key, (value, _))| (key, value)).collect();
    assert_eq!(records, values);
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

#[test]
fn a_volatile_database_is_replaced_too() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    for key in [&b"a"[..], b"b"] {
        node.write(&db, key, value(1, ME, b"old"));
    }
    node.freeze(&db, generation(1));
    let new = (b"c".to_vec(), value(5, ME, b"new"));
    assert_eq!(replace(&mut node, &db, vec![new.clone()]), Ok(()));
    let mut samba = node.other(&db);
    node.thaw(&db, generation(1));
    assert_eq!(
        (samba.fetch(b"a").unwrap(), samba.fetch(b"b").unwrap(), samba.fetch(b"c").unwrap()),
        (None, None, Some(new.1))
    );
    node.freeze(&db, generation(1));
    assert_eq!(replace(&mut node, &db, Vec::new()), Ok(()));
    node.thaw(&db, generation(1));
    assert_eq!(samba.fetch(b"c").unwrap(), None);
    samba.check().unwrap();
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
        source.thaw(&db, generation(1));
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
    node.thaw(&db, generation(1));
    assert_eq!(began.join().unwrap().unwrap(), Some(value(1, 0, b"new")));
}

/// Lets all chains lead to where no record is.
fn damage(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xff; 4 * 100_001], 172).unwrap();
}

#[test]
fn damage_in_use_is_told_once_and_a_recovery_mends_it() {
    let mut node = Node::new();
    let (volatile, persistent) = (locking(), secrets());
    for db in [&volatile, &persistent] {
        node.open(db);
        node.write(db, b"key", value(1, ME, b"data"));
        damage(&node.path(db));
        let told = node.order(db, FileOrder::Lock { key: b"key".to_vec() });
        let [FileAnswer::Damaged(why)] = &told[..] else { panic!("{told:?}") };
        assert!(why.contains(&db.name) && why.contains("corrupt"), "{why}");
        assert_eq!(node.order(db, FileOrder::Lock { key: b"other".to_vec() }), [], "again");
        let token = Token(1);
        let fetched = node.order(db, FileOrder::Fetch { token, key: b"key".to_vec() });
        assert_eq!(fetched, [FileAnswer::Fetched { token, value: None }]);
    }
    // A recovery that does not know of it is told.
    node.freeze(&volatile, generation(1));
    assert_eq!(node.order(&volatile, FileOrder::Scan { generation: generation(1) }), []);
    assert!(matches!(node.next(), FileAnswer::Damaged(_)));
    node.order(&volatile, FileOrder::Freeze { generation: generation(2), wipe: true });
    assert!(matches!(node.next(), FileAnswer::Recovery { answer: RecoveryAnswer::Frozen(None), .. }));
    node.order(&volatile, FileOrder::Edit { edits: vec![(b"key".to_vec(), Edit::Value(value(2, ME, b"new")))] });
    // A copy that cannot be read is none, and is replaced.
    assert_eq!(node.freeze(&persistent, generation(1)), None);
    assert_eq!(replace(&mut node, &persistent, vec![(b"key".to_vec(), value(2, ME, b"new")), number(1)]), Ok(()));
    for db in [&volatile, &persistent] {
        node.thaw(db, generation(2));
        let mut samba = node.other(db);
        samba.check().unwrap();
        assert_eq!(samba.fetch(b"key").unwrap(), Some(value(2, ME, b"new")));
    }
    node.nothing();
}

/// This test runs itself again as the daemon that is killed.
#[test]
fn a_daemon_killed_while_it_replaces_leaves_the_old_or_the_new_content() {
    const INSIDE: &str = "STEADFAST_TEST_REPLACES_FOR_EVER";
    const SIZES: [usize; 2] = [300, 40];
    let db = secrets();
    let content = |version: usize| {
        let records = 0..SIZES[version];
        records.map(|index| (vec![index as u8, (index >> 8) as u8], value(1, 0, &vec![version as u8; 500]))).collect()
    };
    if let Some(dir) = std::env::var_os(INSIDE) {
        let (sender, answers) = mpsc::channel();
        let answer: Answer = Arc::new(move |_, answer| drop(sender.send(answer)));
        let (mut files, found) = Files::new(dirs(Path::new(&dir)), ME, answer).unwrap();
        assert_eq!(found, std::slice::from_ref(&db));
        let mut now = Vec::new();
        files.order(db.db, FileOrder::Freeze { generation: generation(1), wipe: false }, &mut now);
        answers.recv_timeout(LONG).unwrap();
        println!("killable");
        for version in (0..2).cycle() {
            files.order(db.db, FileOrder::Replace { generation: generation(1), records: content(version) }, &mut now);
            let replaced = answers.recv_timeout(LONG).unwrap();
            let answer = RecoveryAnswer::Replaced(Ok(()));
            assert_eq!(replaced, FileAnswer::Recovery { generation: generation(1), answer });
        }
    }
    let mut node = Node::new();
    node.open(&db);
    node.freeze(&db, generation(1));
    assert_eq!(replace(&mut node, &db, content(0)), Ok(()));
    drop(node.files);
    let path = dirs(node.dir.path()).persistent.join(format!("secrets.tdb.{ME}"));
    let mut unfinished = 0;
    for round in 0..25u64 {
        use std::io::{BufRead, BufReader};
        let mut daemon = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("databases::files::tests::recovery::a_daemon_killed_while_it_replaces_leaves_the_old_or_the_new_content")
            .env(INSIDE, node.dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        lines.map(Result::unwrap).find(|line| line.contains("killable")).unwrap();
        // At another point of its work each time.
        thread::sleep(Duration::from_micros(3000 + 1237 * round));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let bytes = fs::read(&path).unwrap();
        unfinished += usize::from(bytes.windows(4).any(|word| word == 0xf53b_c0e7_u32.to_ne_bytes()));
        let mut samba = Tdb::open(&path, Options::new(Flags::CTDB_PERSISTENT)).unwrap();
        samba.check().unwrap();
        let mut seen = Vec::new();
        let each = |_: &mut Tdb, key: &[u8], value: &[u8]| {
            seen.push((key.to_vec(), value.to_vec()));
            Ok(std::ops::ControlFlow::Continue(()))
        };
        samba.traverse_read(each).unwrap();
        let by_number = |record: &(Vec<u8>, Vec<u8>)| (record.0[1], record.0[0]);
        seen.sort_unstable_by_key(by_number);
        assert!(seen == content(0) || seen == content(1), "{} records in round {round}", seen.len());
    }
    println!("{unfinished} of 25 were killed within a commit");
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
        node.thaw(&db, generation(1));
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
