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
