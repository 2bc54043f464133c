//! A node whose clients have all gone to others: no client reaches it any more, and each address that it had is served.
//!
//! What its services still keep for those clients only stands in their way then. On GlusterFS that is replication's inner
//! lock of a file, which the old NFS server keeps for a second after its last write (docs/storage.md).

use crate::planted::{Planted, planted};
use std::collections::BTreeSet;
use std::net::IpAddr;

#[derive(Clone, Debug, Default)]
pub(crate) struct Deserted {
    /// Addresses that this node has had since the first of its public interfaces went down.
    had: BTreeSet<IpAddr>,
    cut_off: bool,
    said: bool,
}

impl Deserted {
    /// What the public interfaces are like now: `some` are down, or `all`, and these addresses are here still.
    pub(crate) fn interfaces(&mut self, some: bool, all: bool, held: &BTreeSet<IpAddr>) {
        if some {
            self.had.extend(held);
        } else {
            self.had.clear();
        }
        let cut_off = all || (some && planted(Planted::DesertedByHalf));
        self.cut_off = cut_off;
        self.said &= cut_off;
    }

    /// True once for each time that the node is cut off: it holds nothing, and all that it had is served by others.
    pub(crate) fn now(&mut self, holds_nothing: bool, served: impl Fn(&IpAddr) -> bool) -> bool {
        let all_served = match () {
            () if planted(Planted::DesertedTooEarly) => true,
            () if planted(Planted::DesertedByOne) => self.had.iter().any(served),
            () => self.had.iter().all(served),
        };
        let deserted = self.cut_off && holds_nothing && !self.had.is_empty() && all_served;
        deserted && !std::mem::replace(&mut self.said, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_when_others_serve_all_that_was_here_since_the_first_interface_failed() {
        let vip = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut node = Deserted::default();
        node.interfaces(false, false, &BTreeSet::from([vip(1), vip(2)]));
        assert!(!node.now(true, |_| true), "all interfaces are up");
        node.interfaces(true, false, &BTreeSet::from([vip(1), vip(2)]));
        assert!(!node.now(true, |_| true), "clients come by the other one");
        node.interfaces(true, true, &BTreeSet::from([vip(2)]));
        assert!(!node.now(false, |_| true), "an address is not released yet");
        assert!(!node.now(true, |v| *v == vip(2)), "the clients of the first wait for this node");
        assert!(node.now(true, |_| true));
        assert!(!node.now(true, |_| true), "said already");
        node.interfaces(false, false, &BTreeSet::new());
        node.interfaces(true, true, &BTreeSet::new());
        assert!(!node.now(true, |_| true), "it had no addresses, so it had no clients");
    }
}
