//! Nodes of two versions of the program in one cluster, as in an upgrade that goes from server to server.
//!
//! What they say to each other is encoded as on a real link. Whatever nodes may leave out is missing from what an older one
//! says, and an older one does not hear it; a newer one says more than anybody here knows. A daemon that starts is of
//! either version, so that nodes are upgraded, and turned back, while the cluster runs.

use crate::rng::Rng;
use cluster::{Message, Report};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a message may lack, by its kind: what came after the first version, or may come so.
const LATER: [(&str, &[&str]); 1] =
    [("report", &["conflicts", "nfs_clients", "graced", "parting", "partings", "recovered", "lingers", "leaving"])];

/// Seeds in which nodes of two versions meet: one in eight, none with databases.
#[must_use]
pub fn are_mixed(seed: u64) -> bool {
    matches!(seed % 16, 8 | 13)
}

/// Which nodes run which version.
#[derive(Debug)]
pub struct Versions {
    older: BTreeSet<usize>,
    /// What each node said of itself last, and what arrived of it; whether the newer one said it.
    reports: BTreeMap<usize, (bool, Arc<Report>, Arc<Report>)>,
    rng: Rng,
}

impl Versions {
    /// No node has started.
    #[must_use]
    pub fn new(rng: Rng) -> Self {
        Self { older: BTreeSet::new(), reports: BTreeMap::new(), rng }
    }

    /// A daemon starts: of which version? True: the older one.
    pub fn start(&mut self, node: usize) -> bool {
        let older = self.rng.chance(500_000);
        if older {
            self.older.insert(node);
        } else {
            self.older.remove(&node);
        }
        older
    }

    /// What arrives of what a node says to another.
    ///
    /// # Errors
    /// The other one does not understand it.
    pub fn carry(&mut self, from: usize, to: usize, message: Message) -> Result<Message, String> {
        let later = !self.older.contains(&from);
        if later != self.older.contains(&to) {
            return Ok(message);
        }
        // Every peer hears the same report, and again with each refresh.
        if let (Message::Report(said), Some((by, known, arrives))) = (&message, self.reports.get(&from))
            && (*by, Arc::as_ptr(known)) == (later, Arc::as_ptr(said))
        {
            return Ok(Message::Report(arrives.clone()));
        }
        let arrives = translate(&message, later)
            .map_err(|error| format!("n{to} does not understand n{from}: {error}: {message:?}"))?;
        if let (Message::Report(said), Message::Report(arrives)) = (message, &arrives) {
            self.reports.insert(from, (later, said, arrives.clone()));
        }
        Ok(arrives)
    }
}

/// A message between nodes of two versions; `later`: the newer one says it.
fn translate(message: &Message, later: bool) -> serde_json::Result<Message> {
    let mut said = serde_json::to_value(message)?;
    for (kind, fields) in said.as_object_mut().into_iter().flatten() {
        let Some(fields) = fields.as_object_mut() else { continue };
        let known = LATER.iter().find(|(of, _)| of == kind).map_or(&[][..], |(_, names)| names);
        fields.retain(|name, _| !known.contains(&name.as_str()));
        if later {
            fields.insert("of_a_later_version".to_owned(), serde_json::json!({"what": [1, "two"]}));
        }
    }
    serde_json::from_slice(&serde_json::to_vec(&said)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an older node says of itself: each field that it has.
    const OLDER: &str = r#"{"report": {"run": 1, "uid": "278fa0b23f3b8ae836416992b0d53798", "epoch": 3, "orders": 0,
        "holding": [], "serving": [], "failed": {}, "evicted": null, "admin": "active", "services": {}, "links_down": [],
        "whole_seconds": false, "leased": false, "left": false, "clean": true, "fingerprint": 1, "version": "0.1.0",
        "warnings": []}}"#;

    #[test]
    fn an_older_report_is_understood_and_a_newer_one_says_all_that_it_lacks() {
        let message: Message = serde_json::from_str(OLDER).expect("understood");
        let said = serde_json::to_value(&message).expect("a message");
        for (kind, names) in LATER {
            assert!(names.iter().all(|name| said[kind].get(name).is_some()), "{kind}: {said}");
        }
        assert_eq!(translate(&message, true).expect("understood"), message);
    }
}
