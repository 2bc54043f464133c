//! Which node hosts which address: a pure function.
//!
//! Addresses stay where they can; addresses without a host go to the least loaded node of their group (subnet
//! and family); then addresses move until no other placement is more even (the sum of the squared loads is the
//! smallest), and none that is as even moves fewer addresses. Both are found by cancelling negative cycles in the
//! graph of nodes ([`Flow`]): a placement without one is a flow of least cost.

use crate::{Pnn, PnnSet};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One address to place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Addresses of one group (subnet) are spread among themselves.
    pub group: (IpAddr, u8),
    /// Nodes that may host it now.
    pub candidates: PnnSet,
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
        if let Some(host) = w.current.filter(|h| w.candidates.contains(*h)) {
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
        for c in w.candidates.iter() {
            load.entry(c).or_default();
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
        let best = w.candidates.iter().min_by_key(|c| (load.get(c), total.get(c).copied().unwrap_or(0), *c));
        if let Some(best) = best {
            *load.entry(best).or_default() += 1;
            *total.entry(best).or_default() += 1;
            result.insert(**vip, best);
            homeless.insert(**vip);
        }
    }
    let movable = members.iter().filter(|(v, _)| spread || homeless.contains(*v));
    let mut flow = Flow::new(load, movable.filter_map(|(v, w)| Some((**v, *w, *result.get(*v)?))));
    while let Some(moves) = flow.improve() {
        for (vip, from, to) in moves {
            result.insert(vip, to);
            for (node, more) in [(from, false), (to, true)] {
                let n = total.entry(node).or_default();
                *n = if more { *n + 1 } else { n.saturating_sub(1) };
            }
        }
    }
}

/// One address more on one of two nodes that are even weighs more than any number of moves.
const UNEVEN: i64 = 1 << 32;

/// The nodes of a group, what each address costs on each of them, and a placement that is getting better.
struct Flow<'a> {
    nodes: Vec<Pnn>,
    load: Vec<i64>,
    /// For each pair of nodes the addresses that can go from one to the other, by what that adds to the moves: -1 (it
    /// goes back home), 0 or 1.
    hops: Vec<BTreeSet<(Cost, IpAddr)>>,
    wanted: BTreeMap<IpAddr, &'a Wanted>,
}

/// Cheap first; of those the highest address.
type Cost = (i64, std::cmp::Reverse<IpAddr>);

impl<'a> Flow<'a> {
    fn new(load: BTreeMap<Pnn, usize>, movable: impl Iterator<Item = (IpAddr, &'a Wanted, Pnn)>) -> Self {
        let nodes: Vec<Pnn> = load.keys().copied().collect();
        let mut flow = Self {
            hops: vec![BTreeSet::new(); nodes.len() * nodes.len()],
            load: load.values().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect(),
            nodes,
            wanted: BTreeMap::new(),
        };
        for (vip, w, at) in movable {
            flow.wanted.insert(vip, w);
            flow.leave_or_enter(vip, at, true);
        }
        flow
    }

    fn index(&self, node: Pnn) -> Option<usize> {
        self.nodes.binary_search(&node).ok()
    }

    /// Enters the address' ways from a node into `hops`, or removes them.
    fn leave_or_enter(&mut self, vip: IpAddr, at: Pnn, enter: bool) {
        let (Some(w), Some(from)) = (self.wanted.get(&vip).copied(), self.index(at)) else { return };
        let home = w.current.filter(|c| w.candidates.contains(*c));
        let moved = |node: Pnn| i64::from(home.is_some_and(|home| home != node));
        for to in w.candidates.iter().filter(|c| *c != at) {
            let Some(i) = self.index(to) else { continue };
            let hop = (moved(to) - moved(at), std::cmp::Reverse(vip));
            let hops = &mut self.hops[from * self.nodes.len() + i];
            if enter {
                hops.insert((hop, vip));
            } else {
                hops.remove(&(hop, vip));
            }
        }
    }

    /// What one hop costs and which address makes it. The last index stands for "one more or one less": a way into it
    /// ends on a node that gets an address, a way out of it starts on one that loses one.
    fn edge(&self, from: usize, to: usize) -> Option<(i64, Option<IpAddr>)> {
        let n = self.nodes.len();
        match (from == n, to == n) {
            (true, true) => None,
            (false, true) => Some((UNEVEN * (2 * self.load[from] + 1), None)),
            (true, false) => Some((-UNEVEN * (2 * self.load[to] - 1), None)),
            (false, false) => self.hops[from * n + to].first().map(|((cost, _), vip)| (*cost, Some(*vip))),
        }
    }

    /// Finds a cycle that makes the placement better and carries it out: who moved from where to where.
    fn improve(&mut self) -> Option<Vec<(IpAddr, Pnn, Pnn)>> {
        // Bellman-Ford from everywhere at once; the graph has one node per server.
        let n = self.nodes.len() + 1;
        let edges: Vec<(usize, usize, i64, Option<IpAddr>)> = (0..n)
            .flat_map(|from| (0..n).map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .filter_map(|(from, to)| self.edge(from, to).map(|(cost, vip)| (from, to, cost, vip)))
            .collect();
        let mut distance = vec![0_i64; n];
        let mut came: Vec<Option<(usize, Option<IpAddr>)>> = vec![None; n];
        let mut last = None;
        for _ in 0..n {
            last = None;
            for &(from, to, cost, vip) in &edges {
                if distance[from] + cost < distance[to] {
                    distance[to] = distance[from] + cost;
                    came[to] = Some((from, vip));
                    last = Some(to);
                }
            }
            last?;
        }
        // Still getting cheaper after n rounds: n steps back is on a cycle.
        let mut on = last?;
        for _ in 0..n {
            on = came[on]?.0;
        }
        let mut moves = Vec::new();
        let mut to = on;
        loop {
            let (from, vip) = came[to]?;
            match vip {
                Some(vip) => moves.push((vip, self.nodes[from], self.nodes[to])),
                None if to == n - 1 => self.load[from] += 1,
                None => self.load[to] -= 1,
            }
            to = from;
            if to == on {
                break;
            }
        }
        for &(vip, from, to) in &moves {
            self.leave_or_enter(vip, from, false);
            self.leave_or_enter(vip, to, true);
        }
        Some(moves)
    }
}

/// The subnet of an address: addresses of one subnet are spread among themselves.
pub(crate) fn group(vip: IpAddr, prefix_len: u8) -> (IpAddr, u8) {
    let net = match vip {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
        }
    };
    (net, prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    #[ignore = "a measurement: cargo test --release -p cluster --lib -- --ignored --nocapture nine_hundred"]
    fn time_for_nine_hundred_addresses_on_five_nodes() {
        for (what, able, had) in [
            ("a node returns", &[0, 1, 2, 3, 4][..], 4),
            ("a node is lost", &[0, 1, 2, 3][..], 5),
            ("all are new", &[0, 1, 2, 3, 4][..], 1000),
            ("all were on one", &[0, 1, 2, 3, 4][..], 1),
        ] {
            let w: BTreeMap<_, _> =
                (0..900).map(|i| (vip(i), wanted(able, Some(if had == 1000 { 9 } else { i % had })))).collect();
            let mut took: Vec<_> = (0..21)
                .map(|_| {
                    let start = std::time::Instant::now();
                    assert_eq!(place(&w, true).len(), 900);
                    start.elapsed()
                })
                .collect();
            took.sort();
            println!("{what}: median {:?}, longest {:?}", took[10], took[20]);
            assert!(took[10] < std::time::Duration::from_millis(10), "{what}: {took:?}");
        }
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
            prop_assert!(r.iter().all(|(v, p)| w[v].candidates.contains(*p)));
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
            let moves = r.iter().filter(|(v, p)| w[*v].current.is_some_and(|c| w[*v].candidates.contains(c) && c != **p)).count();
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
                if let Some(p) = r.get(v) { prop_assert!(one.candidates.contains(*p)); }
            }
        }

        #[test]
        fn as_even_as_can_be_with_the_fewest_moves(
            lists in proptest::collection::vec((proptest::collection::btree_set(0u16..4, 0..5), proptest::option::of(0u16..4)), 1..7),
            spread in proptest::bool::ANY,
        ) {
            let w: BTreeMap<_, _> = lists.iter().enumerate().map(|(i, (c, h))| {
                let c: Vec<u16> = c.iter().copied().collect();
                (vip(i as u16), wanted(&c, *h))
            }).collect();
            let r = place(&w, spread);
            let all: Vec<&Wanted> = w.values().filter(|w| !w.candidates.is_empty()).collect();
            let hosts: Vec<Pnn> = r.values().copied().collect();
            prop_assert_eq!(score(&all, &hosts), best(&all, spread, &mut Vec::new()), "{:?}", r);
            // Nothing moves when all is as it should be.
            let settled = w.iter().map(|(v, w)| (*v, Wanted { current: r.get(v).copied(), ..w.clone() })).collect();
            prop_assert_eq!(&r, &place(&settled, spread));
        }
    }

    /// The sum of the squared loads, and the moves.
    fn score(all: &[&Wanted], hosts: &[Pnn]) -> (usize, usize) {
        let mut load: BTreeMap<Pnn, usize> = BTreeMap::new();
        for host in hosts {
            *load.entry(*host).or_default() += 1;
        }
        let moved = |(w, host): &(&&Wanted, &Pnn)| w.current.is_some_and(|c| w.candidates.contains(c) && c != **host);
        (load.values().map(|n| n * n).sum(), all.iter().zip(hosts).filter(moved).count())
    }

    /// The best score of all placements that there are.
    fn best(all: &[&Wanted], spread: bool, hosts: &mut Vec<Pnn>) -> (usize, usize) {
        let Some(w) = all.get(hosts.len()) else { return score(all, hosts) };
        let home = w.current.filter(|c| w.candidates.contains(*c));
        let mut least = (usize::MAX, usize::MAX);
        for c in w.candidates.iter().filter(|c| spread || home.is_none_or(|home| home == *c)) {
            hosts.push(c);
            least = least.min(best(all, spread, hosts));
            hosts.pop();
        }
        least
    }
}
