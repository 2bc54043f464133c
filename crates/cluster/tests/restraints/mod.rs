//! Addresses that an administrator keeps from moving, in whole cores.

use super::*;

fn restrain(net: &mut Net, restraint: Restraint) {
    for i in 0..net.hosts.len() {
        net.at(0, i, Input::Restraint(restraint));
    }
    net.run(MS * 10);
}

#[test]
fn with_no_takeover_what_leaves_its_host_goes_nowhere_until_that_is_lifted() {
    let mut net = settled(4, false);
    restrain(&mut net, Restraint { no_takeover: true, no_failback: false });
    assert_eq!(net.loads(), [1; 4], "what is well stays");
    // Out of service, and in again.
    set_state(&mut net, 2, AdminState::Drained);
    net.run(MS * 50);
    assert_eq!(net.loads(), [1, 1, 0, 1], "{}", net.story());
    set_state(&mut net, 2, AdminState::Active);
    net.run(Duration::from_secs(10));
    assert_eq!(net.loads(), [1, 1, 0, 1], "{}", net.story());
    let snapshot = net.hosts[1].snapshot.clone().unwrap();
    let nowhere = snapshot.vips.values().find(|v| v.because.contains("NoIPTakeover"));
    assert!(nowhere.is_some_and(|v| v.because.starts_with("no node can host it")), "{:?}", snapshot.vips);
    assert!(snapshot.nodes.values().all(|n| n.warnings.iter().any(|w| w.contains("setvar NoIPTakeover 0"))));
    // The leader's death: nobody takes its address, and the next leader gives none away.
    net.power_off(0);
    net.run(Duration::from_secs(5));
    assert_eq!(net.loads()[1..], [1, 0, 1], "{}", net.story());
    // An administrator moves an address all the same.
    let to = Input::Admin { ticket: 5, request: AdminRequest::MoveIp { vip: vip(0), to: Pnn(2) } };
    net.at(0, 1, to);
    net.run(MS * 50);
    assert_eq!(net.answering()[&vip(0)], [2], "{}", net.story());
    restrain(&mut net, Restraint::default());
    net.run(Duration::from_secs(2));
    assert_eq!(net.answering().len(), 4, "{}", net.story());
    assert!(net.hosts[1].snapshot.as_ref().unwrap().nodes.values().all(|n| n.warnings.is_empty()));
}

#[test]
fn with_no_failback_a_node_that_returns_gets_nothing_until_that_is_lifted() {
    let mut net = settled(4, false);
    restrain(&mut net, Restraint { no_takeover: false, no_failback: true });
    set_state(&mut net, 2, AdminState::Drained);
    net.run(Duration::from_secs(3));
    set_state(&mut net, 2, AdminState::Active);
    net.run(Duration::from_secs(30));
    assert_eq!((net.loads()[2], net.answering().len()), (0, 4), "{}", net.story());
    restrain(&mut net, Restraint::default());
    net.run(Duration::from_secs(3));
    assert_eq!(net.loads(), [1; 4], "{}", net.story());
}
