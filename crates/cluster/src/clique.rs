//! The largest set of nodes that all reach each other.

use crate::{Pnn, PnnSet};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Which pairs do not reach each other.
#[derive(Debug, Default)]
pub(crate) struct Broken {
    /// For long enough to act on it.
    pub(crate) missing: BTreeSet<(Pnn, Pnn)>,
    /// Not yet.
    pub(crate) young: BTreeSet<(Pnn, Pnn)>,
    /// Nodes that alone miss somebody who hears them.
    pub(crate) deaf: PnnSet,
}

/// Largest full mesh among `nodes`, as far as pairs are `missing`. Of equal ones that with the fewest `deaf` (nobody goes on
/// one other's word alone), then that with the fewest `young` pairs (whoever is about to lose more goes), then that with
/// `leader`, then that with the lowest PNNs: every node that sees the same graph finds the same set.
pub(crate) fn full_mesh(nodes: PnnSet, broken: &Broken, leader: Option<Pnn>) -> PnnSet {
    // Exact search is exponential in the broken pairs only; past this it drops the worst connected node each time.
    let budget = 14;
    search(nodes, broken, leader, budget)
}

fn search(nodes: PnnSet, broken: &Broken, leader: Option<Pnn>, budget: u32) -> PnnSet {
    let mut lost: BTreeMap<Pnn, PnnSet> = BTreeMap::new();
    for (a, b) in broken.missing.iter().filter(|(a, b)| nodes.contains(*a) && nodes.contains(*b)) {
        lost.entry(*a).or_default().insert(*b);
        lost.entry(*b).or_default().insert(*a);
    }
    // The node with the most broken pairs; of equals a deaf one, then not the leader, then the highest PNN.
    let worst = lost.iter().max_by_key(|(p, o)| (o.len(), broken.deaf.contains(**p), Some(**p) != leader, **p));
    let Some((worst, others)) = worst else {
        return nodes;
    };
    let without = nodes.without(&PnnSet::from([*worst]));
    if budget == 0 {
        return search(without, broken, leader, 0);
    }
    let with = nodes.without(others);
    let (without, with) = (search(without, broken, leader, budget - 1), search(with, broken, leader, budget - 1));
    better(without, with, broken, leader)
}

fn better(a: PnnSet, b: PnnSet, broken: &Broken, leader: Option<Pnn>) -> PnnSet {
    let rank = |s: &PnnSet| {
        let young = broken.young.iter().filter(|(a, b)| s.contains(*a) && s.contains(*b)).count();
        let deaf = s.len() - s.without(&broken.deaf).len();
        (s.len(), Reverse(deaf), Reverse(young), leader.is_some_and(|l| s.contains(l)))
    };
    let order = rank(&a).cmp(&rank(&b)).then_with(|| b.iter().cmp(a.iter()));
    if order.is_ge() { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(v: &[u16]) -> PnnSet {
        v.iter().map(|p| Pnn(*p)).collect()
    }
    fn cut(missing: &[(u16, u16)]) -> Broken {
        Broken { missing: pairs(missing), ..Broken::default() }
    }
    fn pairs(v: &[(u16, u16)]) -> BTreeSet<(Pnn, Pnn)> {
        v.iter().map(|(a, b)| (Pnn(*a), Pnn(*b))).collect()
    }

    #[test]
    fn all_connected_is_everybody() {
        assert_eq!(full_mesh(set(&[0, 1, 2]), &cut(&[]), None), set(&[0, 1, 2]));
    }

    #[test]
    fn one_broken_pair_costs_one_node_and_never_the_leader() {
        assert_eq!(full_mesh(set(&[0, 1, 2, 3]), &cut(&[(0, 1)]), Some(Pnn(1))), set(&[1, 2, 3]));
        assert_eq!(full_mesh(set(&[0, 1, 2, 3]), &cut(&[(0, 1)]), Some(Pnn(3))), set(&[0, 2, 3]));
    }

    #[test]
    fn who_alone_misses_another_goes_itself() {
        let broken = Broken { deaf: set(&[1]), ..cut(&[(1, 3)]) };
        let mesh = full_mesh(set(&[0, 1, 2, 3]), &broken, Some(Pnn(0)));
        assert_eq!(mesh, set(&[0, 2, 3]));
    }

    #[test]
    fn who_is_about_to_lose_more_goes() {
        // 1 is dead; that 4 has missed it for long enough is known a little earlier than of the others.
        let young = pairs(&[(0, 1), (1, 3), (1, 5)]);
        let broken = Broken { young, ..cut(&[(1, 4)]) };
        assert_eq!(full_mesh(set(&[0, 1, 2, 3, 4, 5]), &broken, Some(Pnn(0))), set(&[0, 2, 3, 4, 5]));
        // Nobody goes for a young pair alone.
        let broken = Broken { young: pairs(&[(0, 1)]), ..Broken::default() };
        assert_eq!(full_mesh(set(&[0, 1, 2]), &broken, None), set(&[0, 1, 2]));
    }

    #[test]
    fn a_deaf_node_goes_alone_even_if_it_leads() {
        let broken = cut(&[(0, 1), (0, 2), (0, 3)]);
        assert_eq!(full_mesh(set(&[0, 1, 2, 3]), &broken, Some(Pnn(0))), set(&[1, 2, 3]));
    }

    #[test]
    fn halves_of_a_split_that_one_node_sees_both_of() {
        // 0,1 | 2,3 and everybody reaches 4.
        let broken = cut(&[(0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!(full_mesh(set(&[0, 1, 2, 3, 4]), &broken, Some(Pnn(3))), set(&[2, 3, 4]));
    }

    #[test]
    fn many_broken_pairs_end_soon() {
        let nodes: PnnSet = (0..64).map(Pnn).collect();
        let missing = (0..64).flat_map(|a| (a + 1..64).map(move |b| (Pnn(a), Pnn(b)))).collect();
        assert_eq!(full_mesh(nodes, &Broken { missing, ..Broken::default() }, None).len(), 1);
    }
}
