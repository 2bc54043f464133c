//! Addresses that a member loses with its lease, in whole cores: what its storage clients hold must not be carried out after
//! what clients have written elsewhere.

use super::*;

/// A member whom all hear, and to whom no grant comes, has lost the first address with its lease; when that was.
fn lost(net: &mut Net) -> (usize, Time) {
    let from = net.answering()[&vip(0)][0];
    net.ungranted.insert(from);
    while net.answering().contains_key(&vip(0)) {
        net.run(MS);
    }
    net.hosts[from].log.clear();
    (from, net.now)
}

/// Another node is to have it.
fn wanted_elsewhere(net: &mut Net, from: usize) -> usize {
    let to = (from + 1) % net.hosts.len();
    net.at(0, 0, Input::Admin { ticket: 5, request: AdminRequest::MoveIp { vip: vip(0), to: Pnn(to as u16) } });
    to
}

/// Until it answers somewhere again.
fn until_back(net: &mut Net) -> (usize, Duration) {
    let start = net.now;
    loop {
        net.run(MS);
        if let Some(hosts) = net.answering().get(&vip(0)) {
            return (hosts[0], net.now.since(start));
        }
        assert!(net.now.since(start) < Duration::from_secs(8), "nobody has it: {}", net.story());
    }
}

fn says(net: &Net, node: usize, what: &str) -> bool {
    net.hosts[node].log.iter().any(|line| line.contains(what))
}

/// A leader that is not the one that loses its lease.
fn four() -> Net {
    let mut net = settled(4, false);
    if net.answering()[&vip(0)] == [0] {
        net.at(0, 0, Input::Admin { ticket: 4, request: AdminRequest::MoveIp { vip: vip(0), to: Pnn(1) } });
        net.run(Duration::from_secs(1));
    }
    net
}

#[test]
fn it_is_taken_again_at_once_and_nothing_is_asked() {
    let mut net = four();
    let (from, _) = lost(&mut net);
    net.run(MS * 300);
    net.ungranted.clear();
    let (back, took) = until_back(&mut net);
    assert_eq!(back, from, "{}", net.story());
    // A heartbeat, its grants, and the take.
    assert!(took <= MS * 103, "{took:?} {}", net.story());
    assert!(!says(&net, from, "proof") && !says(&net, from, "lets go"), "{}", net.story());
}

#[test]
fn nobody_else_has_it_before_there_is_a_lease_again_and_a_proof() {
    let mut net = four();
    let (from, _) = lost(&mut net);
    let to = wanted_elsewhere(&mut net, from);
    net.run(MS * 500);
    assert!(!net.answering().contains_key(&vip(0)) && !says(&net, from, "proof"), "{}", net.story());
    net.ungranted.clear();
    let (back, took) = until_back(&mut net);
    assert_eq!(back, to, "{}", net.story());
    assert!(took <= MS * 110 && says(&net, from, "proof"), "{took:?} {}", net.story());
    assert!(!says(&net, from, "is ended"), "{}", net.story());
}

#[test]
fn what_proves_nothing_under_the_new_lease_is_ended_first() {
    let mut net = four();
    let (from, _) = lost(&mut net);
    let to = wanted_elsewhere(&mut net, from);
    net.unproven.insert(from);
    net.run(MS * 50);
    net.ungranted.clear();
    let (back, took) = until_back(&mut net);
    assert_eq!(back, to, "{}", net.story());
    assert!((MS * 1000..MS * 1120).contains(&took), "{took:?} {}", net.story());
    assert!(says(&net, from, "ends what hangs"), "{}", net.story());
}

#[test]
fn without_a_lease_for_a_second_what_may_hang_is_ended() {
    let mut net = four();
    let (from, at) = lost(&mut net);
    let to = wanted_elsewhere(&mut net, from);
    let (back, _) = until_back(&mut net);
    assert_eq!(back, to, "{}", net.story());
    let took = net.now.since(at);
    assert!((MS * 1000..MS * 1030).contains(&took), "{took:?} {}", net.story());
    assert!(says(&net, from, "ends what hangs") && !says(&net, from, "proof"), "{}", net.story());
}

#[test]
fn what_cannot_be_ended_keeps_it_for_two_seconds_and_is_said() {
    let mut net = four();
    let (from, at) = lost(&mut net);
    let to = wanted_elsewhere(&mut net, from);
    net.nfs_hangs.insert(from);
    let (back, _) = until_back(&mut net);
    assert_eq!(back, to, "{}", net.story());
    let took = net.now.since(at);
    assert!((MS * 3000..MS * 3030).contains(&took), "{took:?} {}", net.story());
    assert!(says(&net, from, "may still be written over"), "{}", net.story());
}

#[test]
fn where_nothing_runs_nothing_is_in_hand() {
    let mut net = four();
    let (from, _) = lost(&mut net);
    let health = ServiceHealth { state: Health::Off, because: String::new(), output: vec![] };
    net.at(0, from, Input::Service { name: "nfs".into(), health });
    let (back, took) = until_back(&mut net);
    assert!(back != from && took <= MS * 10, "{back} {took:?} {}", net.story());
}

#[test]
fn a_proof_from_before_the_loss_is_none() {
    let mut net = four();
    let from = net.answering()[&vip(0)][0];
    net.ungranted.insert(from);
    // It leaves by plan, well proved, and is on its way when the lease ends.
    net.run(MS * 490);
    let to = wanted_elsewhere(&mut net, from);
    net.slow_release = 60;
    net.run(MS * 30);
    assert!(says(&net, from, "proof") && says(&net, from, "lost the right"), "{}", net.story());
    net.hosts[from].log.clear();
    net.run(MS * 300);
    assert!(!net.answering().contains_key(&vip(0)), "{}", net.story());
    net.ungranted.clear();
    assert_eq!(until_back(&mut net).0, to, "{}", net.story());
    assert!(says(&net, from, "proof"), "{}", net.story());
}

#[test]
fn a_member_that_is_dropped_keeps_nobody_waiting() {
    let mut net = four();
    let (from, _) = lost(&mut net);
    for other in (0..4).filter(|other| *other != from) {
        net.cut(from, other);
    }
    let took = net.until_served(Duration::from_secs(3));
    assert!(took < MS * 760, "{took:?} {}", net.story());
}
