//! Which view should come next: a pure function of what this node knows.
//!
//! Members are a full mesh. Whom nobody hears any more goes at once; of a pair that lost each other one goes after
//! a delay; who has been connected to everybody for long enough comes in.

use crate::clique::{Broken, full_mesh};
use crate::planted::{Planted, planted};
use crate::reach::Edge;
use crate::{Config, Time};
use crate::{Epoch, Incarnation, Member, NodeUid, Pnn, PnnSet, Role, Rules, RunId, Timing, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A node that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) uid: NodeUid,
    pub(crate) run: RunId,
    /// Heard by this node itself (or this node), not only by others.
    pub(crate) direct: bool,
    /// Since when it is heard without a break, by this node or, if it does not hear it, by others; the start for this node
    /// itself.
    pub(crate) since: Time,
    /// May be admitted: serves nothing, knows the newest view.
    pub(crate) clean: bool,
    /// Has gone on purpose and holds nothing.
    pub(crate) left: bool,
    /// Has everything that was committed in this view.
    pub(crate) recovered: bool,
    /// How often it was dropped lately.
    pub(crate) relapses: u32,
}

/// What the wish is made from.
pub(crate) struct Site<'a> {
    pub(crate) now: Time,
    pub(crate) config: &'a Config,
    pub(crate) view: &'a View,
    pub(crate) present: BTreeMap<Pnn, Present>,
    pub(crate) edge: &'a dyn Fn(Pnn, Pnn) -> Edge,
    pub(crate) lock_usable: bool,
    /// Why an absent member is not heard, for the reason.
    pub(crate) silent: &'a dyn Fn(Pnn) -> String,
    /// Members whose daemon is dead, by the word of its guard.
    pub(crate) dead: PnnSet,
}

/// What this node would have decided.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wish {
    /// All is as it should be.
    Content,
    /// This view, proposed first by the first of `order`, then by the next.
    Change { view: Box<View>, order: Vec<Pnn> },
    /// Nothing can be decided now; for people.
    Wait(String),
    /// Nor this, though there are voters enough: none of those that would go on has everything that was committed.
    Lack(String),
}

/// Something will change by itself at that time (a delay runs out).
pub(crate) type Recheck = Option<Time>;

/// The last wish that was for no other view, with all that it was made from: asked at every change, and few change any of it.
#[derive(Clone, Debug)]
pub(crate) struct Wished {
    config: Arc<Config>,
    /// A node learns newer views only: the same rank is the same view.
    view: (Incarnation, Epoch),
    present: BTreeMap<Pnn, Present>,
    /// How often the edges had changed.
    edges: u64,
    lock_usable: bool,
    wish: Wish,
    recheck: Recheck,
}

impl Wished {
    /// What `wish` says of this site, whose configuration is `config` and whose edges have changed so often.
    pub(crate) fn look(last: &mut Option<Self>, site: &Site<'_>, config: &Arc<Config>, edges: u64) -> (Wish, Recheck) {
        if let Some(last) = last.as_ref().filter(|last| last.holds(site, config, edges)) {
            debug_assert_eq!(
                (&last.wish, last.recheck),
                (&wish(site).0, wish(site).1),
                "what it was made from has changed"
            );
            return (last.wish.clone(), last.recheck);
        }
        let (wish, recheck) = wish(site);
        *last = match &wish {
            // Why nodes are silent changes all the time, and says itself in the next view's reason.
            Wish::Change { .. } => None,
            Wish::Content | Wish::Wait(_) | Wish::Lack(_) => Some(Self {
                config: config.clone(),
                view: site.view.rank(),
                present: site.present.clone(),
                edges,
                lock_usable: site.lock_usable,
                wish: wish.clone(),
                recheck,
            }),
        };
        (wish, recheck)
    }

    /// Is it made from the same, and has no delay run out since?
    fn holds(&self, site: &Site<'_>, config: &Arc<Config>, edges: u64) -> bool {
        // Taken apart, so that a new field cannot be forgotten here. `dead` and `silent` are for a change's reason only.
        let Site { now, config: _, view, present, edge: _, lock_usable, silent: _, dead: _ } = site;
        self.recheck.is_none_or(|due| *now < due)
            && Arc::ptr_eq(&self.config, config)
            && (self.view, self.edges, self.lock_usable) == (view.rank(), edges, *lock_usable)
            && self.present == *present
    }
}

pub(crate) fn wish(site: &Site<'_>) -> (Wish, Recheck) {
    let mut recheck = None;
    let view = site.view;
    let me = site.config.me;
    let timing = &site.config.timing;
    let leader = view.leader();
    let serving: PnnSet = view
        .members
        .iter()
        .filter(|(p, m)| site.present.get(p).is_some_and(|n| n.run == m.run && !n.left))
        .map(|(p, _)| *p)
        .collect();
    let witnesses = view.voters.keys().filter(|p| is_witness(site, **p) && site.present.contains_key(p)).copied();

    // Full mesh of those that are in; a pair counts as broken only after a delay, so that a node that is dying and
    // is noticed by one before the other does not take a healthy one with it.
    let inside: PnnSet = serving.iter().chain(witnesses).collect();
    let mut broken = Broken::default();
    let mut misses = Vec::new();
    for (a, b) in pairs(inside) {
        let edge = (site.edge)(a, b);
        if !edge.up {
            // A node that has just come back into reach gets the delay too: not all of its pairs mend in one moment.
            let heard = [a, b].iter().filter_map(|p| site.present.get(p)).map(|n| n.since).max();
            let due = edge.since.max(heard.unwrap_or(edge.since)) + timing.mesh_delay;
            // Also where it is too early to act: of two that lost each other, the one that is about to lose more goes.
            let since = edge.since + timing.heartbeat * 2;
            misses.extend(edge.deaf.map(|deaf| (deaf, if deaf == a { b } else { a }, since <= site.now)));
            if due <= site.now {
                broken.missing.insert((a, b));
            } else {
                broken.young.insert((a, b));
                earliest(&mut recheck, due);
            }
        }
    }
    // Whom several miss, or may have begun to miss, has most likely died: its last words may still be believed where somebody
    // stood still.
    let alone = |who: Pnn, whom: Pnn| !misses.iter().any(|(other, missed, _)| *missed == whom && *other != who);
    let deaf = misses.iter().filter(|(who, whom, known)| *known && alone(*who, *whom));
    broken.deaf = deaf.map(|(who, ..)| *who).collect();
    let mesh = full_mesh(inside, &broken, leader);
    let reduced = inside.len() != mesh.len();

    // Only the member with the longest service that has a vote (or, when no voter serves, anybody) lets newcomers in
    // and applies its own configuration: two nodes that were told different things would take turns otherwise. The
    // leader itself may be without a vote: after a power cut a newcomer can lead while the voters come back. Newcomers
    // are connected to everybody in the mesh, and to each other, for the join delay, and do not come in the same step
    // that puts somebody out.
    let mut next = mesh;
    let first =
        serving.iter().filter(|p| mesh.contains(*p) && view.voters.contains_key(p)).min_by_key(|p| turn(site, *p));
    let leads = first.is_none_or(|p| p == me);
    if let Some(why) = unlisted(site, leads) {
        return (Wish::Wait(why), recheck);
    }
    if leads {
        next = next.iter().filter(|p| site.config.nodes.contains_key(p)).collect();
    }
    if leads && !reduced {
        for (pnn, node) in &site.present {
            if next.contains(*pnn) || node.left || !node.direct || !site.config.nodes.contains_key(pnn) {
                continue;
            }
            if !is_witness(site, *pnn) && !node.clean {
                continue;
            }
            let delay = join_delay(timing, node.relapses);
            let mut ready = true;
            for other in next.iter() {
                let edge = (site.edge)(*pnn, other);
                let due = edge.since + delay;
                if !edge.up || due > site.now {
                    ready = false;
                    if edge.up {
                        earliest(&mut recheck, due);
                    }
                }
            }
            if ready {
                next.insert(*pnn);
            }
        }
    }
    if !next.contains(me) {
        return (
            Wish::Wait(
                "this node is not ready to serve, or does not reach every member; it joins when both are so".into(),
            ),
            recheck,
        );
    }

    let members: BTreeMap<Pnn, Member> = next
        .iter()
        .filter(|p| !is_witness(site, *p))
        .filter_map(|p| {
            let node = site.present.get(&p)?;
            let since =
                view.members.get(&p).filter(|m| m.run == node.run).map_or_else(|| view.epoch.next(), |m| m.since);
            Some((p, Member { uid: node.uid, run: node.run, since }))
        })
        .collect();
    if !leads && members == view.members {
        return (Wish::Content, recheck);
    }
    let lock_usable = if leads { site.lock_usable } else { view.rules.lock };
    let voters = next_voters(site, &next, lock_usable);
    let rules = Rules { lock: lock_usable };
    if members == view.members && voters == view.voters && rules == view.rules {
        return (Wish::Content, recheck);
    }

    // A minority wishes in vain; it need not bother the others.
    let reachable =
        view.voters.iter().filter(|(p, uid)| site.present.get(p).is_some_and(|n| n.direct && n.uid == **uid)).count();
    if !view.is_majority(reachable) && !view.is_half_with_lock(reachable) {
        return (Wish::Wait(no_quorum(site, reachable)), recheck);
    }
    if !view.is_voter(me, site.present.get(&me).map_or(NodeUid(0), |n| n.uid)) {
        return (Wish::Wait("this node has no vote; the voters decide".into()), recheck);
    }
    let keepers: BTreeSet<NodeUid> = members
        .iter()
        .filter(|(p, _)| site.present.get(p).is_some_and(|n| has_all(view, **p, n)))
        .map(|(_, m)| m.uid)
        .collect();
    if keepers.is_empty() {
        return (Wish::Lack(no_keeper(site)), recheck);
    }
    let because = because(site, &members, &voters, &mesh);
    let view = View {
        incarnation: view.incarnation,
        epoch: view.epoch.next(),
        evicted: next_evicted(site, &members),
        members,
        voters,
        rules,
        keepers,
        because,
    };
    (Wish::Change { view: Box::new(view), order: order(site, &next) }, recheck)
}

fn is_witness(site: &Site<'_>, pnn: Pnn) -> bool {
    site.config.nodes.get(&pnn).is_some_and(|n| n.role == Role::Witness)
}

fn pairs(set: PnnSet) -> impl Iterator<Item = (Pnn, Pnn)> {
    set.iter().flat_map(move |a| set.iter().filter(move |b| *b > a).map(move |b| (a, b)))
}

fn earliest(at: &mut Recheck, t: Time) {
    *at = Some(at.map_or(t, |a| a.min(t)));
}

/// Doubled at each relapse, up to a factor of 64.
pub(crate) fn join_delay(timing: &Timing, relapses: u32) -> Duration {
    timing.join_delay * 2u32.pow(relapses.min(6))
}

/// With the lock, or an odd number, or at least as many as before: those that are there. Else the dead stay voters:
/// an even number without a tie-break would be stuck at the next failure.
fn next_voters(site: &Site<'_>, next: &PnnSet, lock_usable: bool) -> BTreeMap<Pnn, NodeUid> {
    let there: BTreeMap<Pnn, NodeUid> = next.iter().filter_map(|p| Some((p, site.present.get(&p)?.uid))).collect();
    let old = &site.view.voters;
    if lock_usable || there.len() % 2 == 1 || there.len() >= old.len() {
        return there;
    }
    // A node that came back with a new disk takes the place of its dead self.
    old.iter().map(|(p, uid)| (*p, there.get(p).copied().unwrap_or(*uid))).collect()
}

fn next_evicted(site: &Site<'_>, members: &BTreeMap<Pnn, Member>) -> BTreeMap<Pnn, Vec<std::net::IpAddr>> {
    let mut evicted = site.view.evicted.clone();
    for pnn in site.view.members.keys() {
        let left = site.present.get(pnn).is_some_and(|n| n.left);
        let spared = planted(Planted::RemovedNotEvicted) && !site.config.nodes.contains_key(pnn);
        if let Some(addresses) = site.config.private_addresses(*pnn).filter(|_| !left && !spared) {
            evicted.insert(*pnn, addresses.clone());
        }
    }
    evicted.retain(|pnn, _| !members.contains_key(pnn));
    // A machine may come back under another number, or give its address to another one.
    let nodes = &site.config.nodes;
    for (pnn, list) in &mut evicted {
        list.retain(|address| !nodes.iter().any(|(other, node)| other != pnn && node.addresses.contains(address)));
    }
    evicted
}

/// Why this node decides nothing: its configuration does not list a member. It hears nothing of that one, which says nothing of
/// its health: only who applies its own configuration drops it. And nobody does who could not shut it out of the storage.
fn unlisted(site: &Site<'_>, leads: bool) -> Option<String> {
    let mut unlisted = site.view.members.keys().filter(|p| !site.config.nodes.contains_key(p));
    if leads {
        let pnn = unlisted.find(|p| site.config.private_addresses(**p).is_none())?;
        return Some(format!(
            "node {pnn} is a member, and the configuration here does not say where its storage traffic comes from: put its \
             [[node]] back, with its addresses and `removed = true`, and reload"
        ));
    }
    let pnn = unlisted.next()?;
    Some(format!(
        "the configuration here does not list node {pnn}, which is a member; whether it goes is for the leader to say: make \
         the configuration the same on all nodes and reload it"
    ))
}

/// Does this node's disk have everything that was committed? Those that had it when the view was decided do, for under the view
/// nothing is committed that one of its members lacks. So do members of it that have got all databases since, on the disk: also
/// with another daemon, as after a power cut. (Without databases that is every member.)
pub(crate) fn has_all(view: &View, pnn: Pnn, node: &Present) -> bool {
    let member = view.members.get(&pnn).is_some_and(|m| m.uid == node.uid);
    view.keepers.contains(&node.uid) || (member && node.recovered)
}

/// Who proposes first: the members by length of service, then voters that serve nothing.
fn order(site: &Site<'_>, next: &PnnSet) -> Vec<Pnn> {
    let mut voters: Vec<Pnn> = site.view.voters.keys().filter(|p| next.contains(**p)).copied().collect();
    voters.sort_by_key(|p| turn(site, *p));
    voters
}

/// Whose turn it is to propose: lower first.
fn turn(site: &Site<'_>, pnn: Pnn) -> (u64, Pnn) {
    let here = |m: &&Member| site.present.get(&pnn).is_some_and(|n| n.run == m.run);
    (site.view.members.get(&pnn).filter(here).map_or(u64::MAX, |m| m.since.0), pnn)
}

fn name(site: &Site<'_>, pnn: Pnn) -> String {
    site.config.nodes.get(&pnn).map_or_else(|| format!("node {pnn}"), |n| n.name.clone())
}

fn no_quorum(site: &Site<'_>, reachable: usize) -> String {
    let missed: Vec<String> = site
        .view
        .voters
        .iter()
        .filter(|(p, uid)| !site.present.get(p).is_some_and(|n| n.direct && n.uid == **uid))
        .map(|(p, _)| name(site, *p))
        .collect();
    let lock = if site.view.rules.lock { ", or half of them and the cluster lock" } else { "" };
    format!(
        "{reachable} of {} voters are here and {} are needed{lock}; missed: {}",
        site.view.voters.len(),
        site.view.majority(),
        missed.join(", ")
    )
}

fn no_keeper(site: &Site<'_>) -> String {
    let names: Vec<String> = site
        .view
        .members
        .iter()
        .filter(|(p, m)| !site.present.get(p).is_some_and(|n| n.direct && n.uid == m.uid))
        .map(|(p, _)| name(site, *p))
        .collect();
    format!(
        "nobody here has all committed writes of the databases; one of these must come back: {} (if none ever will: \
         `steadfast force-view`, which loses them)",
        names.join(", ")
    )
}

fn because(site: &Site<'_>, members: &BTreeMap<Pnn, Member>, voters: &BTreeMap<Pnn, NodeUid>, mesh: &PnnSet) -> String {
    let mut parts = Vec::new();
    for (pnn, old) in &site.view.members {
        if members.get(pnn).is_some_and(|m| m.run == old.run) {
            continue;
        }
        let node = name(site, *pnn);
        parts.push(match site.present.get(pnn) {
            _ if !site.config.nodes.contains_key(pnn) => format!("node {pnn} is no longer in the nodes list"),
            Some(n) if n.left => format!("{node} has left"),
            Some(n) if n.run != old.run => format!("the daemon of {node} was started anew"),
            None if site.dead.contains(*pnn) => format!("the daemon of {node} died"),
            Some(_) if !mesh.contains(*pnn) => format!("{node} does not reach every member"),
            _ => format!("{node} is silent: {}", (site.silent)(*pnn)),
        });
    }
    for pnn in members.keys().filter(|p| !site.view.members.contains_key(p)) {
        parts.push(format!("{} has joined", name(site, *pnn)));
    }
    for pnn in voters.keys().filter(|p| !site.view.voters.contains_key(p) && !members.contains_key(p)) {
        parts.push(format!("{} votes from now on", name(site, *pnn)));
    }
    if parts.is_empty() {
        parts.push(if site.view.rules.lock == site.lock_usable {
            "the voters changed".to_string()
        } else if site.lock_usable {
            "the cluster lock may break ties from now on".to_string()
        } else {
            "the cluster lock may not break ties any more".to_string()
        });
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: Edge = Edge { up: false, since: Time(1_000_000), deaf: None };

    const UP: Edge = Edge { up: true, since: Time(0), deaf: None };

    fn view(nodes: u16) -> View {
        let member = |i: u16| Member { uid: NodeUid(i.into()), run: RunId(1), since: Epoch(1) };
        View {
            members: (0..nodes).map(|i| (Pnn(i), member(i))).collect(),
            voters: (0..nodes).map(|i| (Pnn(i), NodeUid(i.into()))).collect(),
            ..View::founding(Incarnation { number: 1, id: 1 }, Epoch(1), Pnn(0), NodeUid(0), String::new())
        }
    }

    fn there(i: u16) -> Present {
        Present {
            uid: NodeUid(i.into()),
            run: RunId(1),
            direct: true,
            since: Time(0),
            clean: false,
            left: false,
            recovered: true,
            relapses: 0,
        }
    }

    /// Three members, all there; between the last two the edge is `edge`.
    fn look(last: &mut Option<Wished>, config: &Arc<Config>, now: Time, edge: Edge, edges: u64) -> (Wish, Recheck) {
        let view = view(3);
        let site = Site {
            now,
            config,
            view: &view,
            present: (0..3).map(|i| (Pnn(i), there(i))).collect(),
            edge: &|a, b| if a == Pnn(0) || b == Pnn(0) { UP } else { edge },
            lock_usable: false,
            silent: &|_| String::new(),
            dead: PnnSet::default(),
        };
        let found = Wished::look(last, &site, config, edges);
        assert_eq!(found, wish(&site), "what it remembers is what it would find");
        found
    }

    fn address(n: u8) -> std::net::IpAddr {
        std::net::IpAddr::from([10, 0, 0, n])
    }

    /// What a node wishes whose configuration does not list member 2.
    fn without_the_third(me: u16, removed: BTreeMap<Pnn, Vec<std::net::IpAddr>>) -> Wish {
        let mut config = crate::exhaust::config(Pnn(me), 3, false);
        config.nodes.remove(&Pnn(2));
        config.nodes.get_mut(&Pnn(1)).expect("it is listed").addresses = vec![address(1)];
        config.removed = removed;
        let view = view(3);
        let site = Site {
            now: Time(60_000_000),
            config: &config,
            view: &view,
            present: (0..2).map(|i| (Pnn(i), there(i))).collect(),
            edge: &|_, _| UP,
            lock_usable: false,
            silent: &|_| String::new(),
            dead: PnnSet::default(),
        };
        wish(&site).0
    }

    #[test]
    fn a_member_that_is_not_listed_is_dropped_by_the_first_alone_and_shut_out() {
        let removed = BTreeMap::from([(Pnn(2), vec![address(2)])]);
        let Wish::Change { view, .. } = without_the_third(0, removed.clone()) else { panic!("it drops it") };
        assert_eq!(view.members.keys().copied().collect::<Vec<_>>(), [Pnn(0), Pnn(1)]);
        assert_eq!(view.evicted, removed);
        let says = |wish, what: &str| matches!(wish, Wish::Wait(why) if why.contains(what));
        assert!(
            says(without_the_third(1, removed), "for the leader to say"),
            "it hears nothing of it, and that is no silence"
        );
        assert!(says(without_the_third(0, BTreeMap::new()), "where its storage traffic comes from"));
        // Its address is another node's.
        let taken = BTreeMap::from([(Pnn(2), vec![address(1)])]);
        let Wish::Change { view, .. } = without_the_third(0, taken) else { panic!("it drops it") };
        assert_eq!(view.evicted, BTreeMap::from([(Pnn(2), vec![])]));
    }

    #[test]
    fn of_a_pair_the_dead_one_goes_and_not_who_missed_it_first() {
        let config = crate::exhaust::config(Pnn(0), 5, false);
        let timing = &config.timing;
        // Node 4 is dead. This node stood still and has just heard what it said before; the others missed it one after the other.
        let since = |p: Pnn| Time(1_000_000) + Duration::from_millis(p.0.into());
        let lost = |p: Pnn| Edge { up: false, since: since(p), deaf: Some(p) };
        let edge = |a: Pnn, b: Pnn| match (a, b) {
            (Pnn(p @ 1..4), Pnn(4)) | (Pnn(4), Pnn(p @ 1..4)) => lost(Pnn(p)),
            _ => UP,
        };
        let view = view(5);
        let members = |edge: &dyn Fn(Pnn, Pnn) -> Edge| {
            let site = Site {
                now: since(Pnn(1)) + timing.mesh_delay,
                config: &config,
                view: &view,
                present: (0..5).map(|i| (Pnn(i), there(i))).collect(),
                edge,
                lock_usable: false,
                silent: &|_| String::new(),
                dead: PnnSet::default(),
            };
            match wish(&site).0 {
                Wish::Change { view, .. } => view.members.keys().copied().collect::<PnnSet>(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(members(&edge), PnnSet::from([0, 1, 2, 3].map(Pnn)));
        // Node 1 alone misses it: it is the one that does not hear.
        let alone = |a: Pnn, b: Pnn| if (a, b) == (Pnn(1), Pnn(4)) { lost(Pnn(1)) } else { UP };
        assert_eq!(members(&alone), PnnSet::from([0, 2, 3, 4].map(Pnn)));
    }

    #[test]
    fn a_wish_stands_until_an_edge_changes_or_a_delay_runs_out() {
        let (config, mut last) = (Arc::new(crate::exhaust::config(Pnn(0), 3, false)), None);
        let up = Edge { up: true, ..BROKEN };
        assert_eq!(look(&mut last, &config, BROKEN.since, up, 1), (Wish::Content, None));
        assert!(last.is_some());
        assert_eq!(look(&mut last, &config, BROKEN.since + Duration::from_secs(60), up, 1), (Wish::Content, None));
        let due = BROKEN.since + config.timing.mesh_delay;
        assert_eq!(look(&mut last, &config, BROKEN.since, BROKEN, 2), (Wish::Content, Some(due)));
        assert_eq!(look(&mut last, &config, due.minus(Duration::from_micros(1)), BROKEN, 2).1, Some(due));
        assert!(matches!(look(&mut last, &config, due, BROKEN, 2).0, Wish::Change { .. }));
        assert!(last.is_none(), "a change is looked for each time");
    }
}
