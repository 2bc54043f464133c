//! Peers that have not heard what was said before: each new link may lead to a daemon that has just started.
//!
//! It is let in some seconds later (the join delay) and may be the heir of an address at once. So lists that go out when they
//! change go out to newcomers at the next look, unchanged.

use std::collections::BTreeMap;

use cluster::Pnn;

use crate::peer::LinkInfo;

/// The links that were there at the last look.
#[derive(Debug, Default)]
pub(super) struct Newcomers(BTreeMap<Pnn, u64>);

impl Newcomers {
    /// Is any link another one than at the last look?
    pub(super) fn look(&mut self, links: &[LinkInfo]) -> bool {
        let up = links.iter().filter(|link| link.up).map(|link| (link.peer, link.generation));
        let now: BTreeMap<Pnn, u64> = up.collect();
        let new = now.iter().any(|(peer, generation)| self.0.get(peer) != Some(generation));
        self.0 = now;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(peer: u16, up: bool, generation: u64) -> LinkInfo {
        LinkInfo { peer: Pnn(peer), up, generation, version: String::new(), because: String::new() }
    }

    #[test]
    fn a_link_is_new_once_and_again_when_it_was_made_anew() {
        let mut newcomers = Newcomers::default();
        assert!(!newcomers.look(&[link(1, false, 0), link(2, false, 0)]));
        assert!(newcomers.look(&[link(1, true, 1), link(2, false, 0)]));
        assert!(!newcomers.look(&[link(1, true, 1), link(2, false, 0)]));
        // Down and up again between two looks.
        assert!(newcomers.look(&[link(1, true, 2), link(2, false, 0)]));
        assert!(!newcomers.look(&[link(1, false, 2), link(2, false, 0)]));
        assert!(newcomers.look(&[link(1, true, 3), link(2, true, 1)]));
    }
}
