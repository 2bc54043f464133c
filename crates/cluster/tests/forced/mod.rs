//! `force-view`, where more than half of the votes are gone for good, in whole cores.

use super::*;

#[test]
fn the_last_survivor_without_a_quorum_serves_only_after_force_view() {
    let mut net = settled(3, false);
    net.power_off(0);
    net.run(Duration::from_secs(2));
    net.power_off(1);
    net.run(Duration::from_secs(3));
    assert!(net.answering().is_empty());
    net.at(0, 2, Input::Admin { ticket: 9, request: AdminRequest::ForceView { because: "the others burnt".into() } });
    net.until_served(Duration::from_secs(10));
    net.power_on(0, 3, false);
    net.run(Duration::from_secs(12));
    assert_eq!(net.hosts[0].core.view().unwrap().members.len(), 2, "{}", net.story());
}

/// It is there under its number, without its vote.
#[test]
fn a_voter_with_an_empty_disk_does_not_stand_against_force_view() {
    let mut net = settled(3, false);
    let force = || Input::Admin { ticket: 9, request: AdminRequest::ForceView { because: "the others burnt".into() } };
    net.at(0, 2, force());
    net.run(MS * 10);
    let reply = net.hosts[2].replies.pop().expect("answered");
    assert!(reply.is_err_and(|why| why.contains("3 of 3 voters are here")));
    net.power_off(0);
    net.run(Duration::from_secs(2));
    net.power_off(1);
    net.hosts[1].durable = Durable::blank(Pnn(1), NodeUid(901));
    net.power_on(1, 2, false);
    net.run(Duration::from_secs(12));
    assert!(net.answering().is_empty(), "one of two votes: {}", net.story());
    net.at(0, 2, force());
    net.until_served(Duration::from_secs(10));
    net.run(Duration::from_secs(12));
    assert!(net.hosts[2].core.view().is_some_and(|v| v.has_run(Pnn(1), RunId(2001))), "{}", net.story());
}
