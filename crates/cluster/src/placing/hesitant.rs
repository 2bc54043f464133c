//! Nodes whose storage, or NFS server, has not answered for a moment.
//!
//! Before an address leaves, both prove within a second that they answer; what does not is ended (`unfinished.rs`), and with
//! it everybody else is cut off whom it serves. That is the price of a move that must be. One for an even spread only
//! can wait until storage has been at ease for a while, at the node that it leaves and at the one that it goes to.

use crate::fitness::{Host, Storage};
use crate::{Pnn, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// So long its storage has to have answered in time, but for the pause between two looks. What is slow now and then is
/// noticed by some probes only.
const AT_EASE: Duration = Duration::from_secs(10);

/// When storage of these nodes was last seen to hesitate.
#[derive(Clone, Debug, Default)]
pub(super) struct Hesitant(BTreeMap<Pnn, Time>);

impl Hesitant {
    pub(super) fn look(&mut self, now: Time, hosts: &BTreeMap<Pnn, Host<'_>>) {
        self.0.retain(|pnn, seen| hosts.contains_key(pnn) && now.since(*seen) < AT_EASE);
        let hesitates = hosts.iter().filter(|(_, host)| host.storage() != Storage::Answers);
        self.0.extend(hesitates.map(|(pnn, _)| (*pnn, now)));
    }

    /// The first of these nodes that an address should neither leave nor be given for an even spread alone.
    pub(super) fn first(&self, nodes: [Option<Pnn>; 2]) -> Option<Pnn> {
        nodes.into_iter().flatten().find(|pnn| self.0.contains_key(pnn))
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.0.values().min().map(|seen| *seen + AT_EASE)
    }
}
