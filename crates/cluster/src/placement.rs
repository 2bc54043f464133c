//! Which node hosts which address: a pure function.
//!
//! Addresses stay where they can; addresses without a host go to the least loaded node of their group (subnet
//! and family); then as few addresses as possible move until the loads of a group differ by at most one, or by as
//! little as the lists of able nodes allow.

use crate::Pnn;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// One address to place.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Addresses of one group (subnet) are spread among themselves.
    pub group: (IpAddr, u8),
    /// Nodes that may host it now.
    pub candidates: BTreeSet<Pnn>,
    /// Its host so far.
    pub current: Option<Pnn>,
}

/// Places every address that has a candidate. `spread`: also move addresses that have a good host, for an even
/// spread. Deterministic: depends on nothing but the arguments.
#[must_use]
pub fn place(wanted: &BTreeMap<IpAddr, Wanted>, spread: bool) -> BTreeMap<IpAddr, Pnn> {
    let mut total: BTreeMap<Pnn, usize> = BTreeMap::new();
    let mut result = BTreeMap::new();
    for (vip, w) in wanted {
        if let Some(host) = w.current.filter(|h| w.candidates.contains(h)) {
            *total.entry(host).or_default() += 1;
            result.insert(*vip, host);
        }
    }
    let groups: BTreeSet<(IpAddr, u8)> = wanted.values().map(|w| w.group).collect();
    for group in groups {
        place_group(wanted, group, spread, &mut total, &mut result);
    }
    result
}

fn place_group(
    wanted: &BTreeMap<IpAddr, Wanted>,
    group: (IpAddr, u8),
    spread: bool,
    total: &mut BTreeMap<Pnn, usize>,
    result: &mut BTreeMap<IpAddr, Pnn>,
) {
    let members: Vec<(&IpAddr, &Wanted)> = wanted.iter().filter(|(_, w)| w.group == group).collect();
    let mut load: BTreeMap<Pnn, usize> = BTreeMap::new();
    for (_, w) in &members {
        for c in &w.candidates {
            load.entry(*c).or_default();
        }
    }
    for (vip, _) in &members {
        if let Some(host) = result.get(*vip) {
            *load.entry(*host).or_default() += 1;
        }
    }
    let mut homeless = BTreeSet::new();
    for (vip, w) in &members {
        if result.contains_key(*vip) {
            continue;
        }
        let best = w.candidates.iter().min_by_key(|c| (load.get(c), total.get(c).copied().unwrap_or(0), **c));
        if let Some(best) = best {
            *load.entry(*best).or_default() += 1;
            *total.entry(*best).or_default() += 1;
            result.insert(**vip, *best);
            homeless.insert(**vip);
        }
    }
    // Every step moves one address along each hop of a path from a node to one with at least two fewer.
    let movable = |vip: &IpAddr| spread || homeless.contains(vip);
    while let Some(path) = improving_path(&members, &load, result, &movable, &homeless) {
        for (vip, to) in path {
            if let Some(from) = result.insert(vip, to) {
                if let Some(n) = load.get_mut(&from) {
                    *n -= 1;
                }
                if let Some(n) = total.get_mut(&from) {
                    *n -= 1;
                }
            }
            *load.entry(to).or_default() += 1;
            *total.entry(to).or_default() += 1;
        }
    }
}

/// A shortest chain of moves that takes one address off a node and ends at a node with at least two fewer.
fn improving_path(
    members: &[(&IpAddr, &Wanted)],
    load: &BTreeMap<Pnn, usize>,
    result: &BTreeMap<IpAddr, Pnn>,
    movable: &dyn Fn(&IpAddr) -> bool,
    homeless: &BTreeSet<IpAddr>,
) -> Option<Vec<(IpAddr, Pnn)>> {
    let lowest = load.values().min().copied()?;
    let mut starts: Vec<(&Pnn, usize)> = load.iter().map(|(p, n)| (p, *n)).filter(|(_, n)| *n >= lowest + 2).collect();
    starts.sort_by_key(|(p, n)| (std::cmp::Reverse(*n), **p));
    // Per pair of nodes the address to move: one without a home first (that is no move), then the highest.
    let mut hops: BTreeMap<(Pnn, Pnn), (bool, IpAddr)> = BTreeMap::new();
    if !starts.is_empty() {
        for (vip, w) in members.iter().filter(|(v, _)| movable(v)) {
            let Some(from) = result.get(*vip) else { continue };
            for to in w.candidates.iter().filter(|c| *c != from) {
                let choice = (homeless.contains(*vip), **vip);
                hops.entry((*from, *to)).and_modify(|h| *h = (*h).max(choice)).or_insert(choice);
            }
        }
    }
    for (start, start_load) in starts {
        let mut came: BTreeMap<Pnn, (Pnn, IpAddr)> = BTreeMap::new();
        let mut queue = VecDeque::from([*start]);
        let mut best: Option<(usize, usize, Pnn)> = None;
        let mut depth: BTreeMap<Pnn, usize> = BTreeMap::from([(*start, 0)]);
        while let Some(node) = queue.pop_front() {
            let d = depth.get(&node).copied().unwrap_or(0);
            for ((_, to), (_, vip)) in hops.range((node, Pnn(0))..=(node, Pnn(u16::MAX))) {
                if depth.contains_key(to) {
                    continue;
                }
                depth.insert(*to, d + 1);
                came.insert(*to, (node, *vip));
                queue.push_back(*to);
                let to_load = load.get(to).copied().unwrap_or(0);
                if to_load + 2 <= start_load {
                    let found = (d + 1, to_load, *to);
                    best = Some(best.map_or(found, |b| b.min(found)));
                }
            }
        }
        if let Some((_, _, mut at)) = best {
            let mut path = Vec::new();
            while at != *start {
                let (from, vip) = came.get(&at).copied()?;
                path.push((vip, at));
                at = from;
            }
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn vip(n: u16) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, (n >> 8) as u8, n as u8))
    }
    fn wanted(candidates: &[u16], current: Option<u16>) -> Wanted {
        Wanted {
            group: (vip(0), 16),
            candidates: candidates.iter().map(|p| Pnn(*p)).collect(),
            current: current.map(Pnn),
        }
    }
    fn loads(result: &BTreeMap<IpAddr, Pnn>) -> BTreeMap<Pnn, usize> {
        let mut l = BTreeMap::new();
        for p in result.values() {
            *l.entry(*p).or_default() += 1;
        }
        l
    }

    #[test]
    fn a_dead_nodes_addresses_go_to_the_others_and_nothing_else_moves() {
        let w: BTreeMap<_, _> = (0..4).map(|i| (vip(i), wanted(&[0, 1, 3], Some(i)))).collect();
        let r = place(&w, true);
        assert_eq!((r[&vip(0)], r[&vip(1)], r[&vip(3)]), (Pnn(0), Pnn(1), Pnn(3)));
        assert_eq!(r[&vip(2)], Pnn(0));
    }

    #[test]
    fn a_returning_node_gets_its_share_and_no_more() {
        let w: BTreeMap<_, _> = (0..8).map(|i| (vip(i), wanted(&[0, 1, 2, 3], Some(i % 3)))).collect();
        let r = place(&w, true);
        assert_eq!(r.iter().filter(|(v, p)| Some(**p) != w[*v].current).count(), 2);
        assert_eq!(loads(&r).values().copied().collect::<Vec<_>>(), [2, 2, 2, 2]);
        let never = place(&w, false);
        assert!(never.iter().all(|(v, p)| Some(*p) == w[v].current));
    }

    #[test]
    fn lists_of_able_nodes_are_kept_and_chains_of_moves_are_found() {
        // 0 is full of addresses that only 0 and 1 may host; 1 must pass its own on to 2.
        let w = BTreeMap::from([
            (vip(0), wanted(&[0, 1], Some(0))),
            (vip(1), wanted(&[0, 1], Some(0))),
            (vip(2), wanted(&[1, 2], Some(1))),
        ]);
        assert_eq!(place(&w, true), BTreeMap::from([(vip(0), Pnn(0)), (vip(1), Pnn(1)), (vip(2), Pnn(2))]));
    }

    #[test]
    fn nine_hundred_addresses_on_five_nodes() {
        let w: BTreeMap<_, _> = (0..900).map(|i| (vip(i), wanted(&[0, 1, 2, 3, 4], Some(i % 4)))).collect();
        let r = place(&w, true);
        assert_eq!(loads(&r).values().copied().collect::<Vec<_>>(), [180; 5]);
        assert_eq!(r.iter().filter(|(v, p)| Some(**p) != w[*v].current).count(), 180);
    }

    proptest! {
        #[test]
        fn placed_on_candidates_only_and_even_when_all_are_able(
            n in 1u16..6,
            hosts in proptest::collection::vec(proptest::option::of(0u16..8), 1..40),
        ) {
            let able: Vec<u16> = (0..n).collect();
            let w: BTreeMap<_, _> =
                hosts.iter().enumerate().map(|(i, h)| (vip(i as u16), wanted(&able, *h))).collect();
            let r = place(&w, true);
            prop_assert_eq!(r.len(), w.len());
            prop_assert!(r.iter().all(|(v, p)| w[v].candidates.contains(p)));
            let mut l = loads(&r);
            for p in &able { l.entry(Pnn(*p)).or_default(); }
            prop_assert!(l.values().max().unwrap() - l.values().min().unwrap() <= 1);
            prop_assert_eq!(&r, &place(&w, true));
            // Fewest moves: what a node had above its share, and nothing else.
            let share = w.len() / usize::from(n);
            let spare = w.len() % usize::from(n);
            let mut had: Vec<usize> = able.iter().map(|p| hosts.iter().filter(|h| **h == Some(*p)).count()).collect();
            had.sort_unstable_by(|a, b| b.cmp(a));
            let fewest: usize = had.iter().enumerate()
                .map(|(i, h)| h.saturating_sub(share + usize::from(i < spare))).sum();
            let moves = r.iter().filter(|(v, p)| w[*v].current.is_some_and(|c| w[*v].candidates.contains(&c) && c != **p)).count();
            prop_assert_eq!(moves, fewest);
        }

        #[test]
        fn any_lists_of_able_nodes(
            lists in proptest::collection::vec((proptest::collection::btree_set(0u16..5, 0..5), proptest::option::of(0u16..5)), 1..30),
        ) {
            let w: BTreeMap<_, _> = lists.iter().enumerate().map(|(i, (c, h))| {
                let c: Vec<u16> = c.iter().copied().collect();
                (vip(i as u16), wanted(&c, *h))
            }).collect();
            let r = place(&w, true);
            for (v, one) in &w {
                prop_assert_eq!(r.contains_key(v), !one.candidates.is_empty());
                if let Some(p) = r.get(v) { prop_assert!(one.candidates.contains(p)); }
            }
        }
    }
}
