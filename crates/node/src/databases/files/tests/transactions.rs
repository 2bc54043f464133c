//! Transactions of clients.

use super::*;

fn transact(node: &mut Node, db: &Have, id: u64, records: &[(&[u8], Vec<u8>)]) {
    let record = |(key, data): &(&[u8], Vec<u8>)| Record { reqid: 0, key: key.to_vec(), data: data.clone() };
    let records = records.iter().map(record).collect();
    assert_eq!(node.order(db, FileOrder::Transact { generation: generation(1), asker: 3, id, records }), []);
}

fn written(id: u64) -> FileAnswer {
    FileAnswer::Written { generation: generation(1), asker: 3, id, result: Ok(()) }
}

#[test]
fn a_transaction_is_written_as_a_whole_or_refused_as_a_whole() {
    for kind in [Kind::Persistent, Kind::Replicated] {
        let mut node = Node::new();
        let db = have("registry.tdb", kind);
        node.open(&db);
        transact(&mut node, &db, 1, &[(b"a", value(5, 0, b"one")), (b"b", value(5, 0, b"one"))]);
        assert_eq!(node.next(), written(1));
        let mut samba = node.other(&db);
        assert_eq!(samba.fetch(b"a").unwrap(), Some(value(5, 0, b"one")));
        // Not newer, other data: nothing of it, the first record neither.
        transact(&mut node, &db, 2, &[(b"a", value(6, 0, b"two")), (b"b", value(5, 0, b"two"))]);
        let FileAnswer::Written { id: 2, result: Err(why), .. } = node.next() else { panic!("not refused") };
        assert!(why.contains("registry.tdb.2") && why.contains("\"b\""), "{why}");
        assert_eq!(samba.fetch(b"a").unwrap(), Some(value(5, 0, b"one")));
        // Not newer, the same data; and a newer one.
        transact(&mut node, &db, 3, &[(b"a", value(6, 0, b"two")), (b"b", value(4, 1, b"one"))]);
        assert_eq!(node.next(), written(3));
        assert_eq!(samba.fetch(b"a").unwrap(), Some(value(6, 0, b"two")));
        assert_eq!(samba.fetch(b"b").unwrap(), Some(value(4, 1, b"one")));
        samba.check().unwrap();
        node.nothing();
    }
}

#[test]
fn transactions_and_a_freeze_are_carried_out_in_their_order() {
    let mut node = Node::new();
    let db = secrets();
    node.open(&db);
    let mut tool = node.other(&db);
    tool.begin().unwrap();
    for id in 1..=3 {
        transact(&mut node, &db, id, &[(b"key", value(id, 0, &[id as u8]))]);
    }
    let token = Token(1);
    let fetched = node.order(&db, FileOrder::Fetch { token, key: b"key".to_vec() });
    assert_eq!(fetched, [FileAnswer::Fetched { token, value: None }], "readers go on");
    assert_eq!(node.order(&db, FileOrder::Freeze { generation: generation(2), wipe: false }), []);
    node.nothing();
    tool.cancel().unwrap();
    for id in 1..=3 {
        assert_eq!(node.next(), written(id));
    }
    assert!(matches!(node.next(), FileAnswer::Recovery { answer: RecoveryAnswer::Frozen(Some(_)), .. }));
    // One that comes while it is frozen belongs to no generation that is open.
    let order = FileOrder::Transact { generation: generation(1), asker: 3, id: 4, records: Vec::new() };
    assert!(matches!(node.order(&db, order)[..], [FileAnswer::Written { id: 4, result: Err(_), .. }]));
    node.thaw(&db, generation(2));
    transact(&mut node, &db, 5, &[(b"key", value(5, 0, b"after"))]);
    assert_eq!(node.next(), written(5));
    assert_eq!(tool.fetch(b"key").unwrap(), Some(value(5, 0, b"after")));
}
