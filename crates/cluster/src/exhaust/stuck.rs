//! Can a majority of all nodes be up and yet form no view? Single failures and returns in any order, each settled
//! before the next, with the wishes that the product has ([`crate::membership::wish`]).

use super::state::names;
use crate::membership::{Present, Site, Wish, wish};
use crate::reach::Edge;
use crate::{
    Config, Durable, Epoch, FailBack, Incarnation, Member, NodeConf, NodeUid, Pnn, PnnSet, Role, Rules, RunId, Time,
    Timing, View,
};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

const NOW: Time = Time(1_000_000_000_000);
const EPOCH: Epoch = Epoch(1);

fn uid(p: Pnn) -> NodeUid {
    Durable::blank(p, NodeUid(1 + u128::from(p.0))).uid
}

/// A cluster of so many nodes without addresses, the last one a witness or a server like the others.
pub(crate) fn config(me: Pnn, nodes: u16, witness: bool) -> Config {
    let role = |i| if witness && i == nodes - 1 { Role::Witness } else { Role::Server };
    Config {
        cluster: "c".into(),
        me,
        nodes: (0..nodes)
            .map(|i| (Pnn(i), NodeConf { name: names([Pnn(i)]), role: role(i), addresses: Vec::new() }))
            .collect(),
        removed: BTreeMap::new(),
        vips: BTreeMap::new(),
        databases: false,
        services: BTreeSet::new(),
        timing: Timing::default(),
        fail_back: FailBack::Spread,
        drain_wait: Duration::ZERO,
        fingerprint: 0,
    }
}

/// The run of every node: that of the view for those that have been up since, another for those that came back.
fn run_of(view: &View, p: Pnn, fresh: &BTreeSet<Pnn>) -> RunId {
    match view.members.get(&p) {
        Some(m) if !fresh.contains(&p) => m.run,
        _ => RunId(2),
    }
}

/// Gets one view after the other decided until nobody wishes for another. What is left undone, by the word of one.
fn settle(
    mut view: View,
    up: &BTreeSet<Pnn>,
    mut fresh: BTreeSet<Pnn>,
    nodes: u16,
    witness: bool,
) -> (View, Option<String>) {
    for _ in 0..20 {
        let mut waits: Option<String> = None;
        let mut next = None;
        for me in up {
            let config = config(*me, nodes, witness);
            let present = up.iter().map(|p| {
                let run = run_of(&view, *p, &fresh);
                let node = Present {
                    uid: uid(*p),
                    run,
                    direct: true,
                    since: Time(0),
                    clean: !view.has_run(*p, run),
                    left: false,
                    // All has been recovered before the next failure.
                    recovered: view.members.contains_key(p),
                    relapses: 0,
                };
                (*p, node)
            });
            let site = Site {
                now: NOW,
                config: &config,
                view: &view,
                present: present.collect(),
                edge: &|_, _| Edge { up: true, since: Time(0), deaf: None },
                lock_usable: view.rules.lock,
                silent: &|_| String::new(),
                dead: PnnSet::default(),
            };
            match wish(&site).0 {
                Wish::Content => {}
                Wish::Wait(why) | Wish::Lack(why) => {
                    waits =
                        Some(waits.take().map_or_else(String::new, |w| w + "; ") + &format!("{} {why}", names([*me])))
                }
                Wish::Change { view, .. } => next = next.or(Some(*view)),
            }
        }
        let Some(decided) = next else { return (view, waits) };
        // Numbers do not matter, so that there are not more states than there are.
        fresh.retain(|p| !decided.members.contains_key(p));
        let members =
            decided.members.into_iter().map(|(p, m)| (p, Member { uid: m.uid, run: RunId(1), since: EPOCH })).collect();
        view = View { epoch: EPOCH, members, evicted: BTreeMap::new(), because: String::new(), ..decided };
    }
    (view, Some("no end of views".into()))
}

fn stuck(nodes: u16, lock: bool, witness: bool) -> (usize, BTreeMap<String, Vec<String>>) {
    let all: BTreeSet<Pnn> = (0..nodes).map(Pnn).collect();
    let servers = all.iter().filter(|p| !(witness && p.0 == nodes - 1));
    let view = View {
        incarnation: Incarnation::default(),
        epoch: EPOCH,
        members: servers.clone().map(|p| (*p, Member { uid: uid(*p), run: RunId(1), since: EPOCH })).collect(),
        voters: all.iter().map(|p| (*p, uid(*p))).collect(),
        rules: Rules { lock },
        keepers: servers.map(|p| uid(*p)).collect(),
        evicted: BTreeMap::new(),
        because: String::new(),
    };
    let first = (view, all.clone(), BTreeSet::<Pnn>::new());
    let mut seen = HashSet::from([first.clone()]);
    let mut open = VecDeque::from([first]);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some((view, up, fresh)) = open.pop_front() {
        for p in &all {
            let (mut up, mut fresh) = (up.clone(), fresh.clone());
            if !up.remove(p) {
                up.insert(*p);
                fresh.insert(*p);
            }
            let (view, waits) = settle(view.clone(), &up, fresh.clone(), nodes, witness);
            fresh.retain(|p| up.contains(p) && !view.members.contains_key(p) || up.contains(p) && waits.is_some());
            let state = (view, up, fresh);
            if !seen.insert(state.clone()) {
                continue;
            }
            if let Some(why) = waits.filter(|_| 2 * state.1.len() > all.len()) {
                let kind = if why.contains("committed writes") { "no keeper" } else { "no quorum" };
                let voters = names(state.0.voters.keys().copied());
                let line = format!(
                    "voters {voters}, members {}, up {}, fresh {}: {why}",
                    names(state.0.members.keys().copied()),
                    names(state.1.iter().copied()),
                    names(state.2.iter().copied())
                );
                found.entry(kind.into()).or_default().push(line);
            }
            open.push_back(state);
        }
    }
    (seen.len(), found)
}

/// (states, stuck for want of a quorum, stuck for want of a node that has everything)
fn count(nodes: u16, lock: bool, witness: bool) -> (usize, usize, usize) {
    let (states, found) = stuck(nodes, lock, witness);
    println!("{nodes} nodes, lock {lock}, witness {witness}: {states} states");
    for (kind, lines) in &found {
        println!("    {kind}: {}, for example {}", lines.len(), lines[0]);
    }
    let of = |kind: &str| found.get(kind).map_or(0, Vec::len);
    (states, of("no quorum"), of("no keeper"))
}

/// docs/testing.md names these figures and says what they mean.
#[test]
fn where_a_majority_is_up_and_stuck() {
    let known = [
        ((2, false, false), (6, 0, 0)),
        ((3, false, false), (67, 0, 0)),
        ((4, false, false), (501, 0, 0)),
        ((5, false, false), (2401, 450, 0)),
        ((2, true, false), (9, 0, 0)),
        ((3, true, false), (31, 3, 0)),
        ((4, true, false), (91, 4, 0)),
        ((5, true, false), (241, 25, 0)),
        // Two nodes and a witness.
        ((3, false, true), (47, 0, 4)),
        ((3, true, true), (35, 2, 4)),
    ];
    let counted = known.map(|((nodes, lock, witness), _)| ((nodes, lock, witness), count(nodes, lock, witness)));
    assert_eq!(counted, known, "(nodes, lock, witness), (states, no quorum, nobody has all committed writes)");
}
