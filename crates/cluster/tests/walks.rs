//! The walks of the design on a perfect network: every message arrives after one millisecond, every disk and kernel
//! does what it is asked. What a bad network does to the same core is the simulator's part.

mod added;
mod forced;
mod hanging;
mod lost;
mod net;
mod nfs_moves;
mod reconsidered;
mod recovered;
mod removed;
mod restraints;
mod unprepared;

use cluster::*;
use net::*;
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn four_nodes_grow_from_one_and_spread_the_addresses() {
    let net = settled(4, false);
    assert_eq!(net.loads(), [1, 1, 1, 1], "{}", net.story());
    assert_eq!(net.hosts[3].snapshot.as_ref().unwrap().leader, Some(Pnn(0)));
}

/// As with CTDB's `public_addresses` files, which may differ, or `nodes` of an address.
#[test]
fn a_node_that_may_host_none_of_the_addresses_is_well() {
    let mut net = settled(3, false);
    for i in 0..3 {
        let mut config = config(i, 3);
        for vip in config.vips.values_mut() {
            vip.hosts.remove(&Pnn(2));
        }
        net.feed(usize::from(i), Input::Config(config.into()));
    }
    net.run(Duration::from_secs(60));
    assert_eq!(net.loads(), [2, 2, 0], "{}", net.story());
    for host in &net.hosts {
        let nodes = &host.snapshot.as_ref().unwrap().nodes;
        let states: Vec<_> = nodes.values().map(|n| (n.state, n.because.as_str())).collect();
        assert_eq!(states, [(NodeState::Ok, ""); 3], "{}", net.story());
    }
}

#[test]
fn a_lost_server_costs_one_lease() {
    for dead in 0..4 {
        let mut net = settled(4, false);
        net.power_off(dead);
        let took = net.until_served(Duration::from_secs(3));
        assert!(
            took >= Duration::from_millis(500) && took < Duration::from_millis(760),
            "node {dead}: {took:?}\n{}",
            net.story()
        );
    }
}

#[test]
fn nothing_is_allocated_for_heartbeats_and_grants() {
    let mut net = settled(4, false);
    net.allocated = Allocated::default();
    net.run(Duration::from_secs(10));
    // Each node, ten times a second: its own heartbeats, those of three peers, and grants of which one renews.
    assert!(net.allocated.turns > 1500, "{}", net.allocated.turns);
    assert_eq!(net.allocated.times, 0, "in {} turns", net.allocated.turns);
}

fn harmless(net: &Net, i: usize) -> bool {
    net.hosts[i].snapshot.as_ref().is_some_and(|s| s.harmless)
}

#[test]
fn only_the_leader_says_that_nobody_can_do_harm() {
    let mut net = Net::new(3, false);
    assert!(!harmless(&net, 0), "no view yet");
    net.run(Duration::from_secs(30));
    assert_eq!([0, 1, 2].map(|i| harmless(&net, i)), [true, false, false], "{}", net.story());
}

/// Until the leader of the view without node 3 says that it can do no harm; counted from the loss.
fn until_harmless(net: &mut Net) -> Duration {
    let start = net.now;
    while !(harmless(net, 0) && net.hosts[0].core.view().is_some_and(|v| !v.members.contains_key(&Pnn(3)))) {
        net.run(MS);
        assert!(net.now.since(start) < Duration::from_secs(3), "never harmless\n{}", net.story());
    }
    net.now.since(start)
}

#[test]
fn a_lost_node_can_do_no_harm_when_its_lease_is_over_and_not_before() {
    let mut net = settled(4, false);
    net.power_off(3);
    let took = until_harmless(&mut net);
    // No news comes at that time: the core must have asked to be woken.
    assert!(took >= Duration::from_millis(500) && took < Duration::from_millis(760), "{took:?}\n{}", net.story());
    let mut net = settled(4, false);
    net.die(3, 0..4);
    let took = until_harmless(&mut net);
    assert!(took < Duration::from_millis(60), "its guard has spoken: {took:?}\n{}", net.story());
}

#[test]
fn a_lost_node_can_do_harm_until_every_member_has_shut_it_out() {
    let mut net = settled(4, false);
    net.slow_evict = Some((2, 1_200));
    net.die(3, 0..4);
    let took = until_harmless(&mut net);
    assert!(took >= Duration::from_millis(1_200) && took < Duration::from_millis(1_300), "{took:?}\n{}", net.story());
}

#[test]
fn a_leader_without_a_lease_says_nothing_of_harm() {
    let mut net = settled(4, false);
    for other in 1..4 {
        net.cut(0, other);
    }
    net.run(Duration::from_millis(700));
    assert!(!harmless(&net, 0), "{}", net.story());
}

#[test]
fn a_guards_word_spares_the_wait_for_the_lease() {
    for dead in 0..4 {
        let mut net = settled(4, false);
        net.die(dead, 0..4);
        let took = net.until_served(Duration::from_secs(3));
        assert!(took < Duration::from_millis(60), "node {dead}: {took:?}\n{}", net.story());
    }
}

#[test]
fn a_guards_word_that_reaches_one_node_only_is_enough_for_it() {
    for hearer in 0..3 {
        let mut net = settled(4, false);
        net.die(3, [hearer]);
        let took = net.until_served(Duration::from_secs(3));
        // The leader of the view goes on at once when it has heard it, and by what the decider tells it else.
        assert!(took < Duration::from_millis(760), "heard by {hearer}: {took:?}\n{}", net.story());
        if hearer == 0 {
            assert!(took < Duration::from_millis(60), "{took:?}\n{}", net.story());
        }
    }
}

#[test]
fn a_guards_word_says_nothing_of_a_later_run() {
    let mut net = settled(4, false);
    net.die(3, 0..4);
    net.until_served(Duration::from_secs(3));
    let old = net.hosts[3].word.clone().unwrap();
    net.power_on(3, 2, false);
    net.run(Duration::from_secs(15));
    assert_eq!(net.loads(), [1, 1, 1, 1], "{}", net.story());
    for again in [false, true] {
        for to in 0..3 {
            let word = if again { GuardWord { epoch: Epoch(99), ..old.clone() } } else { old.clone() };
            net.at(1, to, Input::Guard { from: Pnn(3), word });
        }
        net.run(Duration::from_secs(3));
        assert_eq!(net.loads(), [1, 1, 1, 1], "a word of the run before puts nobody out\n{}", net.story());
    }
    net.power_off(3);
    for to in 0..3 {
        net.at(1, to, Input::Guard { from: Pnn(3), word: old.clone() });
    }
    let took = net.until_served(Duration::from_secs(3));
    assert!(took >= Duration::from_millis(500), "the lease of the later run counts: {took:?}\n{}", net.story());
}

#[test]
fn a_returning_server_gets_its_share() {
    let mut net = settled(4, false);
    net.power_off(2);
    net.run(Duration::from_secs(5));
    net.power_on(2, 2, false);
    net.run(Duration::from_secs(15));
    assert_eq!(net.loads(), [1, 1, 1, 1], "{}", net.story());
}

/// Node 2 is cut off, and the others have shut it out.
fn shut_out() -> Net {
    let mut net = settled(4, false);
    for peer in [0, 1, 3] {
        net.cut(peer, 2);
    }
    net.run(Duration::from_secs(5));
    net
}

/// The others have destroyed their ends of what is connected to its storage without a word to it.
#[test]
fn a_node_that_was_shut_out_frees_its_storage_before_it_is_let_in() {
    let mut net = shut_out();
    assert_eq!(net.freed, [], "it does not know yet");
    net.cut.clear();
    let out = |net: &Net| net.hosts[0].core.view().is_some_and(|v| v.evicted.contains_key(&Pnn(2)));
    while out(&net) && net.freed.is_empty() {
        net.run(MS);
    }
    assert!(out(&net), "{}", net.story());
    net.run(Duration::from_secs(15));
    assert!(!out(&net), "{}", net.story());
    let all = (2, vec![Pnn(0), Pnn(1), Pnn(3)]);
    assert_eq!(net.freed.remove(0), all, "{}", net.story());
    net.freed.sort();
    assert_eq!(net.freed, [0, 1, 3].map(|p| (2, vec![Pnn(p)])), "once more when each says so: {}", net.story());
}

#[test]
fn its_storage_is_freed_of_who_has_left_without_a_word_to_it() {
    let mut net = shut_out();
    net.cut.retain(|pair| *pair == (1, 2));
    net.run(Duration::from_secs(15));
    let all = net.freed.remove(0);
    assert_eq!(all, (2, vec![Pnn(0), Pnn(1), Pnn(3)]), "{}", net.story());
    net.freed.sort();
    assert_eq!(net.freed, [0, 3].map(|p| (2, vec![Pnn(p)])), "{}", net.story());
    net.freed.clear();
    net.at(0, 1, Input::Stop);
    net.run(Duration::from_secs(15));
    assert!(net.hosts[0].core.view().is_some_and(|v| v.has_run(Pnn(2), RunId(1002))), "{}", net.story());
    assert_eq!(net.freed, [(2, vec![Pnn(1)])], "{}", net.story());
}

#[test]
fn two_servers_with_a_lock_outlive_either() {
    for dead in 0..2 {
        let mut net = settled(2, true);
        net.power_off(dead);
        let took = net.until_served(Duration::from_secs(4));
        assert!(took < Duration::from_millis(1100), "{took:?}");
    }
}

#[test]
fn two_of_four_one_after_the_other() {
    let mut net = settled(4, false);
    net.power_off(0);
    net.until_served(Duration::from_secs(2));
    net.run(Duration::from_secs(3));
    net.power_off(2);
    net.until_served(Duration::from_secs(2));
}

#[test]
fn a_split_in_halves_serves_nowhere_and_heals() {
    let mut net = settled(4, false);
    for (a, b) in [(0, 2), (0, 3), (1, 2), (1, 3)] {
        net.cut(a, b);
    }
    net.run(Duration::from_secs(2));
    assert!(net.answering().is_empty(), "{:?}", net.answering());
    net.cut.clear();
    net.until_served(Duration::from_secs(10));
}

#[test]
fn one_cut_link_costs_one_node_once() {
    let mut net = settled(4, false);
    net.cut(1, 2);
    net.run(Duration::from_secs(20));
    let view = net.hosts[0].core.view().unwrap();
    assert_eq!(view.members.len(), 3, "{}", net.story());
    assert_eq!(view.epoch, net.hosts[3].core.view().unwrap().epoch);
    let epoch = view.epoch;
    assert_eq!(net.answering().len(), 4);
    net.run(Duration::from_secs(20));
    assert_eq!(net.hosts[0].core.view().unwrap().epoch, epoch);
}

#[test]
fn a_proposer_that_dies_between_accept_and_decision_costs_nobody_an_address() {
    let mut net = settled(5, false);
    net.power_off(4);
    // The others have written the next view to their disks; nobody has heard that it is decided.
    let before = net.now;
    while !(1..4).all(|i| net.hosts[i].durable.accepted.is_some()) {
        net.run(MS);
        assert!(net.now.since(before) < 2000 * MS, "nobody has proposed\n{}", net.story());
    }
    net.power_off(0);
    let theirs: Vec<(usize, BTreeSet<std::net::IpAddr>)> = (1..4).map(|i| (i, net.hosts[i].vips.clone())).collect();
    for _ in 0..2000 {
        net.run(MS);
        for (i, vips) in &theirs {
            let answers = net.now < net.hosts[*i].lease && vips.is_subset(&net.hosts[*i].vips);
            assert!(answers, "node {i} has lost {vips:?} at {:?}\n{}", net.now, net.story());
        }
    }
    assert!((1..4).all(|i| net.hosts[i].durable.accepted.is_none()), "decided\n{}", net.story());
    assert_eq!(net.answering().len(), 4, "{}", net.story());
}

#[test]
fn all_power_lost_and_back() {
    let mut net = settled(4, false);
    for i in 0..4 {
        net.power_off(i);
    }
    net.run(Duration::from_secs(1));
    for i in 0..3 {
        net.power_on(i, 2, false);
    }
    net.until_served(Duration::from_secs(10));
}

#[test]
fn drain_moves_everything_off_and_resume_brings_it_back() {
    let mut net = settled(4, false);
    let request = AdminRequest::SetState { node: Pnn(3), state: AdminState::Drained, now: false };
    net.at(0, 1, Input::Admin { ticket: 1, request });
    net.run(Duration::from_secs(1));
    assert_eq!(net.hosts[1].replies.len(), 1);
    assert!(net.hosts[1].replies[0].is_ok());
    assert_eq!(net.loads()[3], 0, "{}", net.story());
    assert_eq!(net.answering().len(), 4);
    let request = AdminRequest::SetState { node: Pnn(3), state: AdminState::Active, now: false };
    net.at(0, 3, Input::Admin { ticket: 2, request });
    net.run(Duration::from_secs(5));
    assert_eq!(net.loads(), [1, 1, 1, 1]);
}

#[test]
fn a_daemon_that_is_stopped_leaves_without_a_gap_for_the_others() {
    let mut net = settled(4, false);
    net.at(0, 0, Input::Stop);
    net.run(Duration::from_secs(3));
    assert!(net.hosts[0].stopped, "{}", net.story());
    assert!(net.hosts[0].vips.is_empty());
    assert_eq!(net.answering().len(), 4);
    let view = net.hosts[1].core.view().unwrap();
    assert!(!view.members.contains_key(&Pnn(0)));
    assert!(view.evicted.is_empty(), "a node that left is not shut out");
}

#[test]
fn a_sick_service_moves_the_addresses_and_all_sick_leaves_them() {
    let mut net = settled(4, false);
    let sick = || ServiceHealth { state: Health::Failed, because: "no answer".into(), output: vec![] };
    net.at(0, 1, Input::Service { name: "nfs".into(), health: sick() });
    net.run(Duration::from_secs(1));
    assert_eq!(net.loads()[1], 0);
    for i in [0, 2, 3] {
        net.at(0, i, Input::Service { name: "nfs".into(), health: sick() });
    }
    net.run(Duration::from_secs(3));
    assert_eq!(net.answering().len(), 4, "{}", net.story());
}

#[test]
fn an_administrator_moves_an_address() {
    let mut net = settled(4, false);
    let from = net.answering()[&vip(0)][0];
    let to = (from + 1) % 4;
    net.at(0, 2, Input::Admin { ticket: 5, request: AdminRequest::MoveIp { vip: vip(0), to: Pnn(to as u16) } });
    net.run(Duration::from_secs(1));
    assert_eq!(net.hosts[2].replies.len(), 1);
    assert_eq!(net.answering()[&vip(0)], [to], "{:?}\n{}", net.hosts[2].replies, net.story());
}

/// A node comes back while an address has just been moved: for an even spread it could be sent on at once.
#[test]
fn what_an_administrator_moved_stays_there_under_the_next_view() {
    let without_one = || {
        let mut net = settled(4, false);
        (0..3).for_each(|other| net.cut(3, other));
        net.run(Duration::from_secs(10));
        net.cut.clear();
        net
    };
    let mut net = without_one();
    let mut joins = Duration::ZERO;
    while net.hosts[0].core.view().unwrap().members.len() < 4 {
        net.run(MS * 10);
        joins += MS * 10;
    }
    for moved in 0..4 {
        let mut net = without_one();
        net.run(joins - MS * 700);
        let to = (net.answering()[&vip(moved)][0] + 1) % 3;
        net.at(0, 0, Input::Admin { ticket: 5, request: AdminRequest::MoveIp { vip: vip(moved), to: Pnn(to as u16) } });
        net.run(MS * 500);
        for _ in 0..300 {
            assert_eq!(net.answering()[&vip(moved)], [to], "{}", net.story());
            net.run(MS * 100);
        }
        assert_eq!(net.loads(), [1; 4], "{}", net.story());
    }
}

#[test]
fn an_address_that_a_stranger_uses_is_not_fought_for() {
    let mut net = settled(4, false);
    let lost = net.hosts[2].vips.iter().next().copied().expect("it holds one");
    net.stranger = Some(lost);
    net.power_off(2);
    net.run(Duration::from_secs(4));
    assert!(!net.answering().contains_key(&lost), "{}", net.story());
    assert_eq!(net.answering().len(), 3);
    assert!(net.hosts.iter().any(|h| h.probes.contains(&lost)));
    let status = net.hosts[0].snapshot.as_ref().expect("published").vips[&lost].clone();
    assert!(status.because.contains("02:00:00:00:00:99"), "{status:?}");
    net.stranger = None;
    net.until_served(Duration::from_secs(15));
}

#[test]
fn a_stranger_that_only_a_lost_node_has_seen_is_forgotten() {
    let mut net = settled(4, false);
    let lost = net.hosts[2].vips.iter().next().copied().expect("it holds one");
    net.stranger = Some(lost);
    net.power_off(2);
    let seen = |net: &Net| (0..4).find(|i| net.hosts[*i].log.iter().any(|line| line.contains("answers for")));
    while seen(&net).is_none() {
        net.run(MS * 10);
        assert!(net.now < Time(0) + Duration::from_secs(60), "{}", net.story());
    }
    net.stranger = None;
    let by = seen(&net).expect("it was seen a moment ago");
    net.run(MS * 150);
    net.power_off(by);
    net.until_served(Duration::from_secs(15));
}

/// Who lost its link may let go of what it keeps for clients when others serve them, and not when all links are down, as
/// when a switch is restarted: its clients come back to it then.
#[test]
fn a_node_without_a_link_is_deserted_when_others_serve_all_that_it_had() {
    let down = |up| Input::Interface { name: "eth0".into(), up };
    let mut net = settled(4, false);
    net.at(0, 2, down(false));
    net.run(Duration::from_millis(5));
    assert!(net.deserted.is_empty(), "nobody serves its address yet");
    net.run(Duration::from_secs(1));
    assert_eq!(net.deserted, [2]);
    net.at(0, 2, down(true));
    net.run(Duration::from_secs(30));
    assert_eq!(net.loads(), [1, 1, 1, 1]);
    assert_eq!(net.deserted, [2], "said once");
    net.deserted.clear();
    for host in 0..4 {
        net.at(1, host, down(false));
    }
    net.run(Duration::from_secs(5));
    assert!(net.deserted.is_empty(), "{:?} of {}", net.deserted, net.story());
}

/// The reason that people read must not send them to the wrong cable: heartbeats came all the time.
#[test]
fn a_node_that_goes_for_its_closed_links_is_not_called_silent() {
    let mut net = settled(4, false);
    for host in [0, 1, 3] {
        net.at(0, host, Input::Link { peer: Pnn(2), up: false });
        net.at(0, 2, Input::Link { peer: Pnn(host as u16), up: false });
    }
    net.run(Duration::from_secs(3));
    let view = net.hosts[0].core.view().unwrap();
    assert!(!view.members.contains_key(&Pnn(2)), "{view:?}");
    assert!(view.because.contains("its control link is closed"), "{}", view.because);
}

#[test]
fn a_second_look_ends_with_its_own_answer() {
    let mut net = settled(4, false);
    let lost = net.hosts[2].vips.iter().next().copied().expect("it holds one");
    // The first look sees the last holder: it has lost its peers, not its clients, and its lease is not over.
    net.stranger = Some(lost);
    net.hosts.iter_mut().for_each(|h| h.probes.clear());
    net.power_off(2);
    let begun = net.now;
    while !net.hosts.iter().any(|h| h.probes.contains(&lost)) {
        assert!(net.now.since(begun) < Duration::from_secs(2), "nobody looks: {}", net.story());
        net.run(MS);
    }
    net.run(MS * 25);
    net.stranger = None;
    while !net.answering().contains_key(&lost) {
        assert!(net.now.since(begun) < Duration::from_secs(4), "{}", net.story());
        net.run(MS);
    }
    let took = net.now.since(begun);
    // The lease, its margin, and the 150 ms of the second look, not the 300 that a lost answer costs.
    assert!(took > MS * 650 && took < MS * 810, "{took:?} {}", net.story());
}

/// The machine does nothing for a while; what is sent to it meanwhile is lost.
fn pause(net: &mut Net, i: usize, ms: u32) {
    net.hosts[i].on = false;
    net.run(MS * ms);
    net.hosts[i].on = true;
    net.run(Duration::from_secs(2));
}

fn pace(net: &Net, i: usize) -> PaceStatus {
    net.hosts[i].snapshot.as_ref().expect("a snapshot").pace.clone()
}

#[test]
fn an_own_stall_is_noticed_told_and_a_lease_run_out() {
    for (ms, cost) in [(250, false), (900, true)] {
        let mut net = settled(4, false);
        assert_eq!(pace(&net, 3), PaceStatus { longest_gap: pace(&net, 3).longest_gap, ..PaceStatus::default() });
        assert!(pace(&net, 3).longest_gap <= MS * 101, "{:?}", pace(&net, 3));
        net.hosts[3].log.clear();
        pause(&mut net, 3, ms);
        let after = pace(&net, 3);
        assert_eq!(after.stalls, 1, "{ms}: {after:?}");
        // A heartbeat was due within 100 ms of the begin of the pause.
        let low = MS * (ms - 100);
        assert!(after.longest_stall >= low && after.longest_stall <= MS * ms, "{ms}: {after:?}");
        let story = net.hosts[3].log.join("\n");
        assert!(story.contains("stall this node stalled for"), "{story}");
        assert_eq!(story.contains("ran out meanwhile"), cost, "{story}");
        assert_eq!(story.contains("lost the right to serve"), cost, "{story}");
        assert!(!cost || story.find("stalled for") < story.find("lost the right"), "{story}");
    }
}

#[test]
fn a_node_that_only_paused_is_a_false_failover_and_others_are_not() {
    let epoch = |net: &Net| net.hosts[0].core.view().unwrap().epoch;
    let false_failovers = |net: &Net| (0..3).map(|i| pace(net, i).false_failovers).collect::<Vec<_>>();
    // Within what is forgiven.
    let mut net = settled(4, false);
    let before = epoch(&net);
    pause(&mut net, 3, 300);
    assert_eq!((epoch(&net), false_failovers(&net)), (before, vec![0; 3]));
    assert!(pace(&net, 0).longest_gap >= MS * 290, "{:?}", pace(&net, 0));
    // Longer: dropped, and back.
    pause(&mut net, 3, 900);
    assert!(epoch(&net) > before);
    assert_eq!(false_failovers(&net), [1; 3], "{}", net.story());
    assert!(net.story().contains("gluster4 was dropped by a false failover"));
    // Again after it was admitted.
    net.run(Duration::from_secs(20));
    pause(&mut net, 3, 900);
    assert_eq!(false_failovers(&net), [2; 3]);
    // One that was really gone.
    net.run(Duration::from_secs(40));
    net.power_off(3);
    net.run(Duration::from_secs(2));
    net.power_on(3, 2, false);
    net.run(Duration::from_secs(15));
    assert_eq!(false_failovers(&net), [2; 3]);
    // One whose cable was out for a while: that failover was none too many.
    for other in 0..3 {
        net.cut(3, other);
    }
    net.run(Duration::from_secs(30));
    net.cut.clear();
    net.run(Duration::from_secs(15));
    assert_eq!(false_failovers(&net), [2; 3]);
}

fn set_state(net: &mut Net, node: u16, state: AdminState) {
    let request = AdminRequest::SetState { node: Pnn(node), state, now: true };
    net.at(0, usize::from(node), Input::Admin { ticket: 9, request });
}

fn move_ip(net: &mut Net) -> usize {
    let to = (net.answering()[&vip(0)][0] + 1) % 4;
    net.at(0, 0, Input::Admin { ticket: 5, request: AdminRequest::MoveIp { vip: vip(0), to: Pnn(to as u16) } });
    to
}
