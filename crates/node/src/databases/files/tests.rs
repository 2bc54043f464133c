//! Files on disk, with another handle on them in Samba's place.

use super::*;
use ctdb::database::{Token, Write};
use ctdb::recovery::{Claim, Content, Edit, Generation};
use ctdb::server::Which;
use ctdb::wire::{LtdbHeader, Record, record_flags as flag};
use std::sync::mpsc::Receiver;
use std::thread;
use tdb::{Flags, Options, Store, Tdb};

mod detach;
mod recovery;
mod transactions;

const LONG: Duration = Duration::from_secs(20);
/// Long enough for an answer that must not come.
const SHORT: Duration = Duration::from_millis(100);
const ME: u32 = 2;

struct Node {
    dir: tempfile::TempDir,
    files: Files,
    found: Vec<Have>,
    answers: Receiver<(u32, FileAnswer)>,
    answer: Answer,
}

fn dirs(dir: &Path) -> Dirs {
    Dirs { volatile: dir.join("volatile"), persistent: dir.join("persistent"), state: dir.join("state") }
}

impl Node {
    fn new() -> Self {
        Self::start(tempfile::tempdir().unwrap())
    }

    fn start(dir: tempfile::TempDir) -> Self {
        let (sender, answers) = mpsc::channel();
        let answer: Answer = Arc::new(move |db, answer| drop(sender.send((db, answer))));
        let (files, found) = Files::new(dirs(dir.path()), ME, answer.clone()).unwrap();
        Self { dir, files, found, answers, answer }
    }

    /// Ends and starts again.
    fn again(self) -> Self {
        drop(self.files);
        Self::start(self.dir)
    }

    fn path(&self, have: &Have) -> PathBuf {
        let dirs = dirs(self.dir.path());
        let dir = if have.kind == Kind::Persistent { dirs.persistent } else { dirs.volatile };
        dir.join(format!("{}.{ME}", have.name))
    }

    /// Somebody else's handle.
    fn other(&self, have: &Have) -> Tdb {
        let flags = if have.kind == Kind::Persistent { Flags::CTDB_PERSISTENT } else { Flags::CTDB_VOLATILE };
        Tdb::open(self.path(have), Options::new(flags)).unwrap()
    }

    /// What is answered at once.
    fn order(&mut self, have: &Have, order: FileOrder) -> Vec<FileAnswer> {
        let mut now = Vec::new();
        let start = Instant::now();
        self.files.order(have.db, order, &mut now);
        assert!(start.elapsed() < Duration::from_secs(2), "an order took {:?}", start.elapsed());
        now.into_iter().map(|(db, answer)| (db == have.db).then_some(answer).unwrap()).collect()
    }

    /// What is answered later.
    fn next(&self) -> FileAnswer {
        self.answers.recv_timeout(LONG).unwrap().1
    }

    fn nothing(&self) {
        if let Ok(answer) = self.answers.recv_timeout(SHORT) {
            panic!("{answer:?} where nothing was to come");
        }
    }

    fn open(&mut self, have: &Have) {
        assert_eq!(self.order(have, FileOrder::Open(have.clone())), []);
        assert_eq!(self.next(), FileAnswer::Opened(Ok(self.path(have).display().to_string())));
    }

    fn freeze(&mut self, have: &Have, generation: Generation) -> Option<Content> {
        assert_eq!(self.order(have, FileOrder::Freeze { generation, wipe: false }), []);
        let FileAnswer::Recovery { generation: answered, answer: RecoveryAnswer::Frozen(content) } = self.next() else {
            panic!("not frozen")
        };
        assert_eq!(answered, generation);
        content
    }

    /// Lets go of it. All but volatile ones say when that is noted.
    fn thaw(&mut self, have: &Have, generation: Generation) {
        assert_eq!(self.order(have, FileOrder::Thaw { generation }), []);
        if have.kind != Kind::Volatile {
            assert_eq!(self.next(), FileAnswer::Recovery { generation, answer: RecoveryAnswer::Noted });
        }
        if have.kind == Kind::Persistent {
            let note = dirs(self.dir.path()).state.join(format!("{}.{ME}.synced", have.name));
            let words = format!("{} {}\n", generation.epoch, generation.attempt);
            assert!(fs::read_to_string(&note).unwrap().ends_with(&words), "{}", note.display());
        }
    }

    /// Locks, writes and unlocks at once.
    fn write(&mut self, have: &Have, key: &[u8], value: Vec<u8>) {
        let locked = self.order(have, FileOrder::Lock { key: key.to_vec() });
        assert!(matches!(locked[..], [FileAnswer::Locked { .. }]), "{locked:?}");
        assert_eq!(self.order(have, FileOrder::Unlock { key: key.to_vec(), write: Write::Value(value) }), []);
    }
}

fn have(name: &str, kind: Kind) -> Have {
    Have { db: database_id(name), name: name.to_owned(), kind }
}

fn locking() -> Have {
    have("locking.tdb", Kind::Volatile)
}

fn secrets() -> Have {
    have("secrets.tdb", Kind::Persistent)
}

fn generation(attempt: u32) -> Generation {
    Generation { epoch: 7, attempt }
}

fn header(rsn: u64, dmaster: u32) -> LtdbHeader {
    LtdbHeader { rsn, dmaster, ..LtdbHeader::default() }
}

fn value(rsn: u64, dmaster: u32, data: &[u8]) -> Vec<u8> {
    [header(rsn, dmaster).to_bytes(), data.to_vec()].concat()
}

fn locked(key: &[u8], value: Option<Vec<u8>>) -> FileAnswer {
    FileAnswer::Locked { key: key.to_vec(), value }
}

#[test]
fn a_free_lock_is_there_at_once_and_the_write_is_seen_by_others() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    assert_eq!(node.order(&db, FileOrder::Lock { key: b"key".to_vec() }), [locked(b"key", None)]);
    // Opened as Samba does: it must not be emptied, and the lock stands.
    let mut samba = node.other(&db);
    assert_eq!(samba.hash_size(), 100_001);
    assert!(!samba.try_lock_chain(b"key", tdb::Kind::Shared).unwrap());
    assert!(samba.try_lock_chain(b"other", tdb::Kind::Exclusive).unwrap());
    let stored = value(1, ME, b"data");
    node.order(&db, FileOrder::Unlock { key: b"key".to_vec(), write: Write::Value(stored.clone()) });
    assert_eq!(samba.fetch(b"key").unwrap(), Some(stored.clone()));
    let token = Token(5);
    let fetched = node.order(&db, FileOrder::Fetch { token, key: b"key".to_vec() });
    assert_eq!(fetched, [FileAnswer::Fetched { token, value: Some(stored.clone()) }]);
    assert_eq!(node.order(&db, FileOrder::Lock { key: b"key".to_vec() }), [locked(b"key", Some(stored))]);
    node.order(&db, FileOrder::Unlock { key: b"key".to_vec(), write: Write::Delete });
    assert_eq!(samba.fetch(b"key").unwrap(), None);
    drop(samba);
    drop(node.other(&db));
    node.nothing();
}

#[test]
fn who_waits_for_a_lock_holds_up_nobody_and_works_under_it() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    let mut samba = node.other(&db);
    samba.lock_chain(b"key", tdb::Kind::Exclusive).unwrap();
    assert_eq!(node.order(&db, FileOrder::Lock { key: b"key".to_vec() }), []);
    let token = Token(9);
    assert_eq!(node.order(&db, FileOrder::Fetch { token, key: b"key".to_vec() }), []);
    node.write(&db, b"other", value(1, ME, b"x"));
    node.nothing();
    samba.store(b"key", b"samba's", Store::Replace).unwrap();
    samba.unlock_chain(b"key").unwrap();
    // The fetch comes before or after the lock, or stands behind it.
    let mut answers = vec![node.next()];
    if !answers.contains(&locked(b"key", Some(b"samba's".to_vec()))) {
        answers.push(node.next());
    }
    assert!(answers.contains(&locked(b"key", Some(b"samba's".to_vec()))), "{answers:?}");
    assert!(!samba.try_lock_chain(b"key", tdb::Kind::Shared).unwrap());
    node.order(&db, FileOrder::Unlock { key: b"key".to_vec(), write: Write::Value(value(2, 0, b"ours")) });
    assert_eq!(samba.fetch(b"key").unwrap(), Some(value(2, 0, b"ours")));
    if answers.len() == 1 {
        answers.push(node.next());
    }
    let fetched = answers.iter().find(|answer| matches!(answer, FileAnswer::Fetched { token: Token(9), .. }));
    assert!(fetched.is_some(), "{answers:?}");
    // The lock is free again, for everybody.
    assert!(samba.try_lock_chain(b"key", tdb::Kind::Exclusive).unwrap());
}

#[test]
fn any_number_of_keys_may_be_waited_for() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    let mut samba = node.other(&db);
    assert!(samba.lock_all(tdb::Kind::Exclusive, tdb::Wait::Try).unwrap());
    let keys: Vec<Vec<u8>> = (0..250u32).map(|index| index.to_be_bytes().to_vec()).collect();
    for key in &keys {
        assert_eq!(node.order(&db, FileOrder::Lock { key: key.clone() }), []);
    }
    // Given up: the one is waited for, the other in line.
    for key in [&keys[0], &keys[249]] {
        node.order(&db, FileOrder::Unlock { key: key.clone(), write: Write::Nothing });
    }
    samba.unlock_all().unwrap();
    let mut seen = Vec::new();
    for _ in &keys[1..249] {
        let FileAnswer::Locked { key, value: None } = node.next() else { panic!("not locked") };
        node.order(&db, FileOrder::Unlock { key: key.clone(), write: Write::Value(value(1, ME, b"x")) });
        seen.push(key);
    }
    seen.sort_unstable();
    assert_eq!(seen, keys[1..249]);
    node.nothing();
    assert!(samba.lock_all(tdb::Kind::Exclusive, tdb::Wait::Try).unwrap(), "a lock was forgotten");
}

#[test]
fn what_an_earlier_daemon_left_is_wiped_though_somebody_has_it_open() {
    let mut node = Node::new();
    for db in [locking(), have("g_lock.tdb", Kind::Replicated)] {
        let path = node.path(&db);
        let mut samba = Tdb::open(&path, Options::create(Flags::CTDB_VOLATILE, 100_001)).unwrap();
        samba.store(b"key", &value(9, ME, b"stale"), Store::Replace).unwrap();
        node.open(&db);
        assert_eq!(samba.fetch(b"key").unwrap(), None, "{}", db.name);
    }
}

#[test]
fn a_damaged_file_is_set_aside_and_the_others_serve() {
    let mut node = Node::new();
    let (good, bad) = (secrets(), have("registry.tdb", Kind::Persistent));
    for db in [&good, &bad] {
        node.open(db);
        node.freeze(db, generation(3));
        node.thaw(db, generation(3));
    }
    let path = node.path(&bad);
    let mut node = node.again();
    assert_eq!(node.found, [bad.clone(), good.clone()], "found without being asked for");
    let whole = fs::read(&path).unwrap();
    for (what, damaged) in [
        ("cut off", whole[..5000].to_vec()),
        ("empty of sense", vec![b'x'; whole.len()]),
        ("a chain into nowhere", [&whole[..172], [0xff; 400].as_slice(), &whole[572..]].concat()),
    ] {
        fs::write(&path, damaged).unwrap();
        node = node.again();
        assert_eq!(node.found, std::slice::from_ref(&good), "{what}");
        assert_eq!(node.files.damaged().map(|(db, _)| db).collect::<Vec<_>>(), [bad.db], "{what}");
        assert_eq!(node.order(&bad, FileOrder::Open(bad.clone())), []);
        let FileAnswer::Opened(Err(why)) = node.next() else { panic!("{what} was opened") };
        assert!(why.contains("registry.tdb.2") && why.contains("mv "), "{why}");
        // As a member of a recovery it has no copy.
        let frozen = node.order(&bad, FileOrder::Freeze { generation: generation(4), wipe: false });
        let answer = RecoveryAnswer::Frozen(None);
        assert_eq!(frozen, [FileAnswer::Recovery { generation: generation(4), answer }], "{what}");
    }
    // The administrator does as he is told. The new file has taken part in nothing.
    fs::rename(&path, path.with_extension("damaged")).unwrap();
    node.open(&bad);
    assert_eq!(node.freeze(&bad, generation(5)), Some(Content::default()));
    assert_eq!(node.freeze(&good, generation(5)).unwrap().synced, generation(3));
}

/// 24 bytes belong there. Left by a process that died, or written by one that knows nothing of clusters.
#[test]
fn a_record_with_a_header_of_23_bytes_holds_up_nothing() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    let (short, good) = (value(1, ME, b"")[..23].to_vec(), value(1, ME, b"data"));
    node.write(&db, b"good", good.clone());
    node.other(&db).store(b"bad", &short, Store::Insert).unwrap();
    // A traverse and a recovery's scan show the other one only.
    let traverse = FileOrder::Traverse { token: Token(1), held_by: Some(ME), which: Which::All };
    assert_eq!(node.order(&db, traverse), []);
    let records = vec![(b"good".to_vec(), good.clone())];
    assert_eq!(node.next(), FileAnswer::Traversed { token: Token(1), records, last: true });
    node.freeze(&db, generation(1));
    node.order(&db, FileOrder::Scan { generation: generation(1) });
    let records = vec![(b"good".to_vec(), Claim { header: header(1, ME), empty: false })];
    let answer = RecoveryAnswer::Scanned { records, last: true };
    assert_eq!(node.next(), FileAnswer::Recovery { generation: generation(1), answer });
    // Said to be held by somebody, it gets a header.
    node.order(&db, FileOrder::Edit { edits: vec![(b"bad".to_vec(), Edit::Holder(0))] });
    node.order(&db, FileOrder::Prune { masters: vec![ME] });
    node.thaw(&db, generation(1));
    let locked_now = |node: &mut Node, key: &[u8]| {
        let now = node.order(&locking(), FileOrder::Lock { key: key.to_vec() });
        now.into_iter().next().unwrap_or_else(|| node.next())
    };
    assert_eq!(locked_now(&mut node, b"good"), locked(b"good", Some(good)));
    node.nothing();
    assert_eq!(locked_now(&mut node, b"bad"), locked(b"bad", Some(value(0, 0, b""))));
    // A short one that is locked and written is whole again.
    node.order(&db, FileOrder::Unlock { key: b"bad".to_vec(), write: Write::Value(short.clone()) });
    assert_eq!(locked_now(&mut node, b"bad"), locked(b"bad", Some(short)));
    node.order(&db, FileOrder::Unlock { key: b"bad".to_vec(), write: Write::Value(value(2, ME, b"new")) });
    assert_eq!(node.other(&db).fetch(b"bad").unwrap(), Some(value(2, ME, b"new")));
    node.nothing();
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let mut node = Node::new();
    for name in ["../x.tdb", "", "a/b", ".hidden", "nul\0"] {
        let db = have(name, Kind::Volatile);
        let opened = node.order(&db, FileOrder::Open(db.clone()));
        assert!(matches!(opened[..], [FileAnswer::Opened(Err(_))]), "{name:?}: {opened:?}");
    }
}

#[test]
fn changes_count_from_when_they_are_to() {
    let mut node = Node::new();
    let db = have("gencache.tdb", Kind::Volatile);
    node.open(&db);
    node.write(&db, b"key", value(1, ME, b"1"));
    assert_eq!(node.order(&db, FileOrder::LookSequence), [FileAnswer::Sequence(0)]);
    assert_eq!(node.order(&db, FileOrder::CountChanges), [FileAnswer::Counting(0)]);
    node.write(&db, b"key", value(2, ME, b"2"));
    assert_eq!(node.order(&db, FileOrder::LookSequence), [FileAnswer::Sequence(1)]);
    assert_eq!(node.order(&db, FileOrder::Bump), [FileAnswer::Bumped]);
    assert_eq!(node.order(&db, FileOrder::LookSequence), [FileAnswer::Sequence(2)]);
}

#[test]
fn a_traverse_gives_what_is_asked_for_in_pieces() {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    let mut expected = Vec::new();
    for index in 0..600u32 {
        let (key, stored) = (index.to_be_bytes().to_vec(), value(1, index % 2, &[7; 1000]));
        node.write(&db, &key, stored.clone());
        if index % 2 == 1 {
            expected.push((key, stored));
        }
    }
    node.write(&db, b"empty", value(1, 1, b""));
    let all = |node: &mut Node, order: FileOrder| {
        assert_eq!(node.order(&locking(), order), []);
        let mut pieces = Vec::new();
        loop {
            let FileAnswer::Traversed { records, last, .. } = node.next() else { panic!("no traverse") };
            let bytes: usize = records.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert!(bytes < 300 * 1024, "a piece of {bytes} bytes");
            pieces.push(records);
            if last {
                return pieces;
            }
        }
    };
    let pieces = all(&mut node, FileOrder::Traverse { token: Token(1), held_by: Some(1), which: Which::WithData });
    assert!(pieces.len() > 1, "all in one piece");
    let mut seen = pieces.concat();
    seen.sort_unstable();
    assert_eq!(seen, expected);
    let pieces = all(&mut node, FileOrder::Traverse { token: Token(2), held_by: None, which: Which::All });
    assert_eq!(pieces.concat().len(), 601);
    // One that is stopped, while it waits, says nothing more.
    let mut samba = node.other(&db);
    assert!(samba.lock_all(tdb::Kind::Exclusive, tdb::Wait::Try).unwrap());
    assert_eq!(node.order(&db, FileOrder::Traverse { token: Token(3), held_by: None, which: Which::All }), []);
    node.nothing();
    assert_eq!(node.order(&db, FileOrder::StopTraverse { token: Token(3) }), []);
    samba.unlock_all().unwrap();
    node.nothing();
}

#[test]
fn nobody_waits_any_more_when_the_files_are_gone() {
    let mut node = Node::new();
    let (db, transactions) = (locking(), secrets());
    node.open(&db);
    node.open(&transactions);
    // Something that a traverse has to lock.
    node.write(&db, b"key", value(1, ME, b"data"));
    let mut samba = node.other(&db);
    let mut tool = node.other(&transactions);
    assert!(samba.lock_all(tdb::Kind::Exclusive, tdb::Wait::Try).unwrap());
    tool.begin().unwrap();
    node.order(&db, FileOrder::Lock { key: b"key".to_vec() });
    node.order(&db, FileOrder::Fetch { token: Token(1), key: b"key".to_vec() });
    node.order(&db, FileOrder::Traverse { token: Token(2), held_by: None, which: Which::All });
    node.order(&db, FileOrder::Freeze { generation: generation(1), wipe: true });
    let (generation, records) = (generation(1), Vec::new());
    node.order(&transactions, FileOrder::Transact { generation, asker: 0, id: 1, records });
    node.nothing();
    drop(node.files);
    // Every thread has the answer's function as long as it lives.
    let end = Instant::now() + LONG;
    while Arc::strong_count(&node.answer) > 1 {
        assert!(Instant::now() < end, "{} still there", Arc::strong_count(&node.answer) - 1);
        thread::sleep(Duration::from_millis(2));
    }
    assert!(node.answers.try_recv().is_err(), "an answer after the end");
}
