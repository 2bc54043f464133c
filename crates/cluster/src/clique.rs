//! The largest set of nodes that all reach each other.

use crate::Pnn;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Largest full mesh among `nodes`, where `missing` says which pairs do not reach each other. Of equal ones that
/// with the fewest `deaf` (nodes that miss somebody who hears them: nobody goes on one other's word alone), then that
/// with `leader`, then that with the lowest PNNs: every node that sees the same graph finds the same set.
pub(crate) fn full_mesh(
    nodes: &BTreeSet<Pnn>,
    missing: &BTreeSet<(Pnn, Pnn)>,
    deaf: &BTreeSet<Pnn>,
    leader: Option<Pnn>,
) -> BTreeSet<Pnn> {
    // Exact search is exponential in the broken pairs only; past this it drops the worst connected node each time.
    let budget = 14;
    search(nodes.clone(), missing, deaf, leader, budget)
}

fn search(
    nodes: BTreeSet<Pnn>,
    missing: &BTreeSet<(Pnn, Pnn)>,
    deaf: &BTreeSet<Pnn>,
    leader: Option<Pnn>,
    budget: u32,
) -> BTreeSet<Pnn> {
    let mut broken: BTreeMap<Pnn, BTreeSet<Pnn>> = BTreeMap::new();
    for (a, b) in missing.iter().filter(|(a, b)| nodes.contains(a) && nodes.contains(b)) {
        broken.entry(*a).or_default().insert(*b);
        broken.entry(*b).or_default().insert(*a);
    }
    // The node with the most broken pairs; of equals a deaf one, then not the leader, then the highest PNN.
    let worst = broken.iter().max_by_key(|(p, o)| (o.len(), deaf.contains(p), Some(**p) != leader, **p));
    let Some((worst, others)) = worst else {
        return nodes;
    };
    let mut without = nodes.clone();
    without.remove(worst);
    if budget == 0 {
        return search(without, missing, deaf, leader, 0);
    }
    let mut with = nodes;
    with.retain(|p| !others.contains(p));
    let (without, with) =
        (search(without, missing, deaf, leader, budget - 1), search(with, missing, deaf, leader, budget - 1));
    better(without, with, deaf, leader)
}

fn better(a: BTreeSet<Pnn>, b: BTreeSet<Pnn>, deaf: &BTreeSet<Pnn>, leader: Option<Pnn>) -> BTreeSet<Pnn> {
    let rank =
        |s: &BTreeSet<Pnn>| (s.len(), Reverse(s.intersection(deaf).count()), leader.is_some_and(|l| s.contains(&l)));
    let order = rank(&a).cmp(&rank(&b)).then_with(|| b.iter().cmp(a.iter()));
    if order.is_ge() { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(v: &[u16]) -> BTreeSet<Pnn> {
        v.iter().map(|p| Pnn(*p)).collect()
    }
    fn pairs(v: &[(u16, u16)]) -> BTreeSet<(Pnn, Pnn)> {
        v.iter().map(|(a, b)| (Pnn(*a), Pnn(*b))).collect()
    }

    #[test]
    fn all_connected_is_everybody() {
        assert_eq!(full_mesh(&set(&[0, 1, 2]), &pairs(&[]), &set(&[]), None), set(&[0, 1, 2]));
    }

    #[test]
    fn one_broken_pair_costs_one_node_and_never_the_leader() {
        assert_eq!(full_mesh(&set(&[0, 1, 2, 3]), &pairs(&[(0, 1)]), &set(&[]), Some(Pnn(1))), set(&[1, 2, 3]));
        assert_eq!(full_mesh(&set(&[0, 1, 2, 3]), &pairs(&[(0, 1)]), &set(&[]), Some(Pnn(3))), set(&[0, 2, 3]));
    }

    #[test]
    fn who_alone_misses_another_goes_itself() {
        let mesh = full_mesh(&set(&[0, 1, 2, 3]), &pairs(&[(1, 3)]), &set(&[1]), Some(Pnn(0)));
        assert_eq!(mesh, set(&[0, 2, 3]));
    }

    #[test]
    fn a_deaf_node_goes_alone_even_if_it_leads() {
        let cut = pairs(&[(0, 1), (0, 2), (0, 3)]);
        assert_eq!(full_mesh(&set(&[0, 1, 2, 3]), &cut, &set(&[]), Some(Pnn(0))), set(&[1, 2, 3]));
    }

    #[test]
    fn halves_of_a_split_that_one_node_sees_both_of() {
        // 0,1 | 2,3 and everybody reaches 4.
        let cut = pairs(&[(0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!(full_mesh(&set(&[0, 1, 2, 3, 4]), &cut, &set(&[]), Some(Pnn(3))), set(&[2, 3, 4]));
    }

    #[test]
    fn many_broken_pairs_end_soon() {
        let nodes: BTreeSet<Pnn> = (0..64).map(Pnn).collect();
        let all: BTreeSet<(Pnn, Pnn)> = (0..64).flat_map(|a| (a + 1..64).map(move |b| (Pnn(a), Pnn(b)))).collect();
        assert_eq!(full_mesh(&nodes, &all, &set(&[]), None).len(), 1);
    }
}
