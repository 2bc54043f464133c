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

fn nfs_is(net: &mut Net, node: usize, state: Health) {
    let health = ServiceHealth { state, because: "no answer for 0.7 s".into(), output: vec![] };
    net.at(0, node, Input::Service { name: "nfs".into(), health });
    net.run(MS * 10);
}

/// It might prove nothing in time, and what hangs would be ended, for the sake of an even spread.
#[test]
fn an_even_spread_waits_while_storage_hesitates_and_what_must_move_does_not() {
    let mut net = settled(4, false);
    set_state(&mut net, 2, AdminState::Drained);
    net.run(Duration::from_secs(5));
    let full = net.loads().iter().position(|load| *load == 2).unwrap();
    for slow in [full, 2] {
        nfs_is(&mut net, slow, Health::Failing);
        set_state(&mut net, 2, AdminState::Active);
        net.run(Duration::from_secs(15));
        assert_eq!((net.loads()[2], net.answering().len()), (0, 4), "{}", net.story());
        let vips = net.hosts[0].snapshot.as_ref().unwrap().vips.clone();
        let says = format!("for an even spread when the storage of gluster{} has answered well for 10 s", slow + 1);
        assert!(vips.values().any(|v| v.because.contains(&says)), "{vips:?}");
        nfs_is(&mut net, slow, Health::Ok);
        // It was seen to hesitate a refresh ago at most.
        net.run(Duration::from_millis(8_900));
        assert_eq!(net.loads()[2], 0, "{}", net.story());
        net.run(Duration::from_millis(1_300));
        assert_eq!(net.loads(), [1; 4], "{}", net.story());
        set_state(&mut net, 2, AdminState::Drained);
        net.run(Duration::from_secs(35));
        assert_eq!(net.loads()[2], 0, "{}", net.story());
    }
    // A node that is to be empty gets empty.
    nfs_is(&mut net, full, Health::Failing);
    set_state(&mut net, 2, AdminState::Active);
    set_state(&mut net, full as u16, AdminState::Drained);
    net.run(Duration::from_secs(5));
    assert_eq!((net.loads()[full], net.answering().len()), (0, 4), "{}", net.story());
}
