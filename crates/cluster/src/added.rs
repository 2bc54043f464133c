//! Services that a new configuration has added, while the nodes are told of it one after the other.
//!
//! The leader may know of one long before others do. A member that does not know of it yet, or starts it, is as good a host as
//! it was a moment before: nobody had that service there. Addresses would otherwise all go to who has read the file first.

use crate::{Config, Health, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the nodes have to read the file and to start the service.
pub const ADOPT: Duration = Duration::from_secs(300);

/// What this node's configuration has added lately, and when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Added(BTreeMap<String, Time>);

impl Added {
    /// This configuration comes in the other's place.
    pub(crate) fn configure(&mut self, now: Time, old: &Config, new: &Config) {
        self.0.retain(|name, _| new.services.contains(name));
        self.0.extend(new.services.difference(&old.services).map(|name| (name.clone(), now)));
    }

    /// Does a service in this state count against a member?
    pub(crate) fn excuses(&self, now: Time, name: &str, state: Option<Health>) -> bool {
        let to_come = matches!(state, None | Some(Health::Off | Health::Starting));
        to_come && self.0.get(name).is_some_and(|since| now.since(*since) < ADOPT)
    }

    pub(crate) fn expire(&mut self, now: Time) {
        self.0.retain(|_, since| now.since(*since) < ADOPT);
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.0.values().map(|since| *since + ADOPT).min()
    }
}
