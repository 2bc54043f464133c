//! A volume that hangs on all nodes, each of which notices that in its own time; and one that hangs on one node.

use super::*;

fn storage(net: &mut Net, node: usize, state: Health) {
    let because = if state == Health::Ok { "" } else { "no answer" };
    let health = ServiceHealth { state, because: because.into(), output: vec![] };
    net.at(0, node, Input::Service { name: "nfs".into(), health });
}

#[test]
fn addresses_leave_a_node_whose_storage_hangs_for_those_whose_storage_answers() {
    let mut net = settled(3, true);
    storage(&mut net, 1, Health::Failing);
    net.run(MS * 50);
    storage(&mut net, 0, Health::Failed);
    net.run(Duration::from_secs(2));
    let loads = net.loads();
    assert_eq!((loads[0], net.answering().len()), (0, 4), "{}", net.story());
    // Node 1 hesitates: it keeps what it has, and gets nothing.
    assert!(loads[1] <= 2 && loads[2] >= 2, "{loads:?} {}", net.story());
}

#[test]
fn addresses_are_not_chased_through_nodes_that_hang_one_after_the_other() {
    let mut net = settled(3, true);
    let before = net.answering();
    for node in 0..3 {
        storage(&mut net, node, Health::Failing);
    }
    net.run(MS * 50);
    for node in 0..3 {
        storage(&mut net, node, Health::Failed);
        net.run(MS * 700);
        assert_eq!(net.answering(), before, "{}", net.story());
    }
    for node in 0..3 {
        storage(&mut net, node, Health::Ok);
        net.run(MS * 300);
    }
    net.run(Duration::from_secs(3));
    assert_eq!(net.answering(), before, "{}", net.story());
}

#[test]
fn they_leave_when_another_nodes_storage_answers_again() {
    let mut net = settled(2, true);
    for node in 0..2 {
        storage(&mut net, node, Health::Failing);
    }
    net.run(MS * 50);
    storage(&mut net, 0, Health::Failed);
    net.run(Duration::from_secs(1));
    assert_eq!(net.loads(), [2, 2], "{}", net.story());
    let snapshot = net.hosts[0].snapshot.clone().expect("published");
    assert!(
        snapshot.vips.values().any(|v| v.because.contains("no other node's storage answers better")),
        "{:?}",
        snapshot.vips
    );
    storage(&mut net, 1, Health::Ok);
    net.run(Duration::from_secs(2));
    assert_eq!(net.loads(), [0, 4], "{}", net.story());
}

/// The first address, by which clients hold locks, has left a node whose NFS server does not let go of them; then that is found
/// to hang.
fn hangs_as_it_is_to_let_go(ends: bool) -> (Net, usize, usize) {
    let mut net = settled(4, false);
    let from = net.answering()[&vip(0)][0];
    net.at(0, from, Input::NfsLocks { addresses: [vip(0)].into(), grace: false });
    net.nfs_hangs = [from].into();
    let to = move_ip(&mut net);
    while net.answering().contains_key(&vip(0)) {
        net.run(MS);
    }
    net.run(MS * 400);
    if ends {
        net.nfs_hangs.clear();
    }
    storage(&mut net, from, Health::Failed);
    net.run(MS * 50);
    let ended = format!("ends what hangs for {}", vip(0));
    assert!(net.hosts[from].log.contains(&ended), "{}", net.story());
    (net, from, to)
}

#[test]
fn a_server_that_hangs_as_it_is_to_let_go_of_locks_is_ended_and_the_address_goes_then() {
    let (net, _, to) = hangs_as_it_is_to_let_go(true);
    assert_eq!(net.answering()[&vip(0)], [to], "{}", net.story());
}

#[test]
fn where_it_cannot_be_ended_the_address_waits_for_that_and_not_for_the_locks_only() {
    let (mut net, from, to) = hangs_as_it_is_to_let_go(false);
    net.run(MS * 1_800);
    assert!(!net.answering().contains_key(&vip(0)), "{}", net.story());
    net.run(MS * 300);
    assert_eq!(net.answering()[&vip(0)], [to], "{}", net.story());
    assert!(net.hosts[from].log.iter().any(|line| line.contains("may still be written over")), "{}", net.story());
}
