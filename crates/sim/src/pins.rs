//! What administrators have moved by hand: it stays where they want it while the leader that they told leads.

use cluster::{Epoch, Incarnation, RunId, View};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Orders views.
type Rank = (Incarnation, Epoch);

/// Addresses that administrators have moved under the present leader.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// The newest view that anybody has published, and its leader.
    newest: Option<(Rank, Option<RunId>)>,
    moved: BTreeMap<IpAddr, usize>,
}

impl Pins {
    /// An administrator wants it there, where it is not.
    pub(crate) fn asked(&mut self, vip: IpAddr, to: usize) {
        self.moved.insert(vip, to);
    }

    /// A core has published this view. What another leader was told counts no more.
    pub(crate) fn published(&mut self, view: &View) {
        if self.newest.is_some_and(|(rank, _)| rank >= view.rank()) {
            return;
        }
        let leader = view.leader().and_then(|pnn| view.members.get(&pnn)).map(|m| m.run);
        let before = self.newest.replace((view.rank(), leader));
        if before.is_some_and(|(_, run)| run != leader) {
            self.moved.clear();
        }
    }

    /// Was it moved to this node, and may therefore stay there?
    pub(crate) fn stays(&self, vip: IpAddr, node: usize) -> bool {
        self.moved.get(&vip) == Some(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Member, NodeUid, Pnn};

    #[test]
    fn what_was_moved_stays_while_the_same_leader_leads() {
        let vip = IpAddr::from([10, 0, 1, 200]);
        let view = |epoch: u64, run: u64| {
            let life = Incarnation { number: 0, id: 1 };
            let mut view = View::founding(life, Epoch(epoch), Pnn(0), NodeUid(1), String::new());
            let member = Member { uid: NodeUid(1), run: RunId(run), since: Epoch(1) };
            view.members.insert(Pnn(0), member);
            view
        };
        let mut pins = Pins::default();
        pins.published(&view(1, 7));
        pins.asked(vip, 2);
        pins.published(&view(2, 7));
        assert!(pins.stays(vip, 2) && !pins.stays(vip, 1));
        pins.published(&view(3, 8));
        assert!(!pins.stays(vip, 2), "another leader was told nothing");
        pins.asked(vip, 1);
        pins.published(&view(2, 7));
        assert!(pins.stays(vip, 1), "somebody learned late of a view of before");
    }
}
