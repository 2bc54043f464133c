//! Placements that the leader takes back before they were carried out, in whole cores.

use super::*;

fn nfs(net: &mut Net, node: usize, state: Health) {
    let because = if state == Health::Ok { "" } else { "no answer" };
    let health = ServiceHealth { state, because: because.into(), output: vec![] };
    net.at(0, node, Input::Service { name: "nfs".into(), health });
}

/// Two servers without a lock: neither can put the other out. One cannot be told that its addresses are placed elsewhere.
fn deaf_and_sick() -> Net {
    let mut net = settled(2, false);
    assert_eq!(net.loads(), [2, 2], "{}", net.story());
    net.deaf.insert(1);
    nfs(&mut net, 1, Health::Failed);
    net.run(MS * 10);
    let snapshot = net.hosts[0].snapshot.clone().expect("published");
    let placed: Vec<_> = snapshot.vips.values().map(|v| v.target).collect();
    assert_eq!(placed, [Some(Pnn(0)); 4], "{}", net.story());
    // No lease: neither serves.
    net.run(Duration::from_secs(3));
    assert!(net.answering().is_empty(), "{}", net.story());
    net
}

fn moves(net: &Net) -> usize {
    net.hosts[0].log.iter().filter(|line| line.contains(" goes from ")).count()
}

#[test]
fn what_a_node_did_not_hear_before_it_was_fit_again_is_taken_back() {
    let mut net = deaf_and_sick();
    nfs(&mut net, 1, Health::Ok);
    net.run(MS * 10);
    let before = moves(&net);
    net.deaf.clear();
    for _ in 0..5_000 {
        net.run(MS);
        assert!(net.hosts[0].vips.len() <= 2, "{}", net.story());
    }
    assert_eq!((net.loads(), net.answering().len()), (vec![2, 2], 4), "{}", net.story());
    // Back, in words, and nothing else.
    assert_eq!(moves(&net) - before, 2, "{}", net.story());
    let snapshot = net.hosts[1].snapshot.clone().expect("published");
    let back = snapshot.vips.values().filter(|v| v.because.contains("fit again")).count();
    assert_eq!(back, 2, "{:?}", snapshot.vips);
}

#[test]
fn what_leaves_a_node_that_is_still_sick_leaves_it() {
    let mut net = deaf_and_sick();
    net.deaf.clear();
    net.run(Duration::from_secs(5));
    assert_eq!((net.loads(), net.answering().len()), (vec![4, 0], 4), "{}", net.story());
}

#[test]
fn an_administrators_word_is_not_taken_back() {
    let mut net = deaf_and_sick();
    nfs(&mut net, 1, Health::Ok);
    let lost = *net.hosts[0]
        .snapshot
        .as_ref()
        .expect("published")
        .vips
        .iter()
        .find(|(v, _)| !net.hosts[0].vips.contains(v))
        .expect("four")
        .0;
    let to = Input::Admin { ticket: 5, request: AdminRequest::MoveIp { vip: lost, to: Pnn(0) } };
    net.at(0, 0, to);
    net.run(MS * 10);
    net.deaf.clear();
    net.run(Duration::from_secs(5));
    assert_eq!(net.answering()[&lost], [0], "{}", net.story());
}
