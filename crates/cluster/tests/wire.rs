//! What nodes say to each other, and leave on disk, in the words of the first version. A server is upgraded while the
//! others are not: these words must be understood for ever, and what is said must not lack any of them. A change that breaks
//! this test breaks upgrades: give what is new a default, or raise `PROTOCOL` in `crates/node/src/peer/frame.rs` and say in
//! docs/operating.md from which version an upgrade is possible.

use cluster::{AdminRequest, Durable, LockRecord, Message};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const MESSAGES: &str = include_str!("wire/messages.jsonl");
const DURABLE: &str = include_str!("wire/durable.json");
const RECORD: &str = include_str!("wire/record.json");

/// Is all of `old` in `new`? Members of objects may have come, nothing may have gone or changed.
fn lacks(old: &Value, new: &Value, at: &str) -> Option<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.iter().find_map(|(name, value)| {
            let at = format!("{at}.{name}");
            match new.get(name) {
                Some(new) => lacks(value, new, &at),
                None => Some(at),
            }
        }),
        _ => (old != new).then(|| format!("{at}: {old} has become {new}")),
    }
}

fn is_kept<T: Serialize + DeserializeOwned>(text: &str) -> T {
    let read: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let old: Value = serde_json::from_str(text).expect("JSON");
    let new = serde_json::to_value(&read).expect("JSON");
    assert_eq!(lacks(&old, &new, ""), None, "{text}");
    read
}

/// One of each, so that a kind that is added here has its line, too.
fn kind(message: &Message) -> usize {
    match message {
        Message::Prepare { .. } => 0,
        Message::Promise { .. } => 1,
        Message::Accept { .. } => 2,
        Message::Accepted { .. } => 3,
        Message::Refused { .. } => 4,
        Message::Decided { .. } => 5,
        Message::Report(_) => 6,
        Message::Orders(_) => 7,
        Message::Admin { .. } => 8,
        Message::AdminDone { .. } => 9,
    }
}

#[test]
fn the_first_versions_messages_are_understood_and_said() {
    let mut seen = [false; 10];
    for line in MESSAGES.lines() {
        let kind = kind(&is_kept::<Message>(line));
        assert!(line.starts_with(&format!("{{\"{}\":", Message::KINDS[kind])), "{line}");
        seen[kind] = true;
    }
    assert_eq!(seen, [true; 10]);
}

#[test]
fn what_it_left_on_disk_is_read_and_written() {
    is_kept::<Durable>(DURABLE);
    is_kept::<LockRecord>(RECORD);
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    for line in MESSAGES.lines() {
        let mut later: Value = serde_json::from_str(line).unwrap();
        for body in later.as_object_mut().unwrap().values_mut() {
            body["of_a_later_version"] = json!([1, {"two": 3}]);
        }
        let known: Message = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::from_value::<Message>(later).unwrap(), known);
    }
    let asked = json!({"admin": {"ticket": 4, "request": {"do": "something_else", "with": [1]}}});
    let Message::Admin { ticket: 4, request: AdminRequest::Unknown } = serde_json::from_value(asked).unwrap() else {
        panic!("a request of a later version is no request");
    };
}

#[test]
fn the_comparison_finds_what_is_gone_or_changed() {
    let old = json!({"a": {"b": 1, "c": [1]}});
    assert_eq!(lacks(&old, &json!({"a": {"b": 1, "c": [1], "d": 2}}), ""), None);
    assert_eq!(lacks(&old, &json!({"a": {"c": [1]}}), "").as_deref(), Some(".a.b"));
    assert!(lacks(&old, &json!({"a": {"b": 1, "c": [1, 2]}}), "").is_some());
}
