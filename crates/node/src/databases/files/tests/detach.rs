//! A database is detached: nobody else has it open, and who opens it late finds nothing.

use super::*;

fn vacate(node: &mut Node, db: &Have, attempt: u32) -> Result<(), String> {
    let answers = node.order(db, FileOrder::Vacate { generation: generation(attempt) });
    match &answers[..] {
        [FileAnswer::Recovery { generation: asked, answer: RecoveryAnswer::Vacated(result) }] => {
            assert_eq!(*asked, generation(attempt));
            result.clone()
        }
        other => panic!("{other:?}"),
    }
}

/// A process of Samba that opens it now; the file's handle comes when nobody keeps it away any more.
fn opens(node: &Node, db: &Have) -> Receiver<Tdb> {
    let (sender, receiver) = mpsc::channel();
    let path = node.path(db);
    thread::spawn(move || {
        let opened = Tdb::open(path, Options::new(Flags::CTDB_VOLATILE)).unwrap();
        // Who does not wait for it any more does not want it.
        let _ = sender.send(opened);
    });
    receiver
}

/// A node that has a database with one record.
fn with_a_record() -> (Node, Have) {
    let mut node = Node::new();
    let db = locking();
    node.open(&db);
    node.write(&db, b"key", value(1, ME, b"data"));
    (node, db)
}

#[test]
fn whoever_has_it_open_keeps_it_from_being_detached() {
    let (mut node, db) = with_a_record();
    let samba = node.other(&db);
    node.freeze(&db, generation(1));
    assert!(vacate(&mut node, &db, 1).unwrap_err().contains("fuser"), "it is open");
    node.thaw(&db, generation(1));
    drop(samba);
    node.freeze(&db, generation(2));
    assert_eq!(vacate(&mut node, &db, 2), Ok(()));
    // It stays after all: who came meanwhile uses it as it was, and is not taken for the first.
    let late = opens(&node, &db);
    late.recv_timeout(SHORT).unwrap_err();
    node.freeze(&db, generation(3));
    let mut samba = late.recv_timeout(LONG).unwrap();
    assert!(vacate(&mut node, &db, 3).is_err());
    node.thaw(&db, generation(3));
    assert_eq!(samba.fetch(b"key").unwrap(), Some(value(1, ME, b"data")));
}

#[test]
fn a_detached_file_is_empty_for_whoever_comes_late_and_shared_with_the_next() {
    let (mut node, db) = with_a_record();
    node.freeze(&db, generation(1));
    assert_eq!(vacate(&mut node, &db, 1), Ok(()));
    let late = opens(&node, &db);
    late.recv_timeout(SHORT).unwrap_err();
    assert_eq!(node.order(&db, FileOrder::Close), []);
    let mut samba = late.recv_timeout(LONG).unwrap();
    assert_eq!(samba.fetch(b"key").unwrap(), None);
    node.nothing();
    assert_eq!(node.order(&db, FileOrder::Lock { key: b"key".to_vec() }), [], "it is not known any more");
    // Attached anew it is the same file.
    node.open(&db);
    node.write(&db, b"key", value(2, ME, b"new"));
    assert_eq!(samba.fetch(b"key").unwrap(), Some(value(2, ME, b"new")));
}

#[test]
fn one_that_is_not_frozen_is_closed() {
    let (mut node, db) = with_a_record();
    assert_eq!(node.order(&db, FileOrder::Close), []);
    node.open(&db);
    assert_eq!(node.other(&db).fetch(b"key").unwrap(), None, "emptied when it is opened");
}
