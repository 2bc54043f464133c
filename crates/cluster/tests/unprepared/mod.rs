//! Planned moves while the storage makes clients wait whose addresses move: they wait until it is prepared, for so long.

use super::*;

/// All nodes say that their storage makes clients wait whose addresses move.
fn unprepared() -> Net {
    let mut net = settled(4, false);
    for i in 0..4 {
        net.at(0, i, Input::MovesWait(true));
    }
    net.run(MS * 10);
    assert_eq!(planned(&net), [false; 4]);
    net
}

fn planned(net: &Net) -> [bool; 4] {
    [0, 1, 2, 3].map(|i| net.hosts[i].snapshot.as_ref().is_some_and(|s| s.planned_moves))
}

#[test]
fn planned_moves_wait_until_the_storage_is_prepared() {
    let mut net = unprepared();
    let to = move_ip(&mut net);
    net.run(MS * 700);
    assert_ne!(net.answering()[&vip(0)], [to], "{}", net.story());
    assert_eq!(planned(&net), [true, false, false, false], "the leader alone prepares");
    let because = &net.hosts[0].snapshot.as_ref().unwrap().vips[&vip(0)].because;
    assert!(because.ends_with("when the storage is prepared for it"), "{because}");
    net.at(0, 0, Input::MovesWait(false));
    net.run(MS * 50);
    assert_eq!(net.answering()[&vip(0)], [to], "{}", net.story());
    assert_eq!(
        planned(&net),
        [true, false, false, false],
        "another one goes back for an even spread, when it is its turn"
    );
    net.run(Duration::from_secs(3));
    assert_eq!((net.loads(), planned(&net)), (vec![1; 4], [false; 4]), "{}", net.story());
    // A drain, and the way back: each address waits for the storage alone.
    net.at(0, 0, Input::MovesWait(true));
    set_state(&mut net, 2, AdminState::Drained);
    net.run(MS * 500);
    assert!(planned(&net)[0] && net.loads()[2] > 0, "{}", net.story());
    net.at(0, 0, Input::MovesWait(false));
    net.run(Duration::from_secs(1));
    assert_eq!((net.loads()[2], planned(&net)), (0, [false; 4]), "{}", net.story());
    set_state(&mut net, 2, AdminState::Active);
    net.run(Duration::from_secs(6));
    assert!(net.loads()[2] > 0, "{}", net.story());
}

#[test]
fn planned_moves_happen_though_nobody_prepares_the_storage() {
    let mut net = unprepared();
    let to = move_ip(&mut net);
    net.run(MS * 4_900);
    assert_ne!(net.answering()[&vip(0)], [to], "{}", net.story());
    net.run(MS * 150);
    assert_eq!(net.answering()[&vip(0)], [to], "no other news came: the core must have asked to be woken");
    // All addresses of a node, and all of them back, cost one wait each; nobody is in need of their coming back.
    for (state, loads, wait) in [(AdminState::Drained, 0, 10), (AdminState::Active, 1, 35)] {
        set_state(&mut net, 3, state);
        if state == AdminState::Active {
            net.run(Duration::from_secs(29));
            assert_eq!(net.loads()[3], 0, "{}", net.story());
        }
        net.run(Duration::from_secs(wait));
        assert_eq!((net.loads()[3], planned(&net)), (loads, [false; 4]), "{}", net.story());
    }
    net.at(0, 3, Input::Stop);
    net.run(MS * 1_200);
    assert!(net.hosts[3].vips.is_empty() && net.answering().len() == 4, "{}", net.story());
}

#[test]
fn what_is_not_planned_never_waits_for_the_storage() {
    let mut net = unprepared();
    let sick = ServiceHealth { state: Health::Failed, because: "no answer".into(), output: vec![] };
    net.at(0, 1, Input::Service { name: "nfs".into(), health: sick });
    net.run(MS * 50);
    assert_eq!((net.loads()[1], net.answering().len()), (0, 4), "{}", net.story());
    net.at(0, 2, Input::Interface { name: "eth0".into(), up: false });
    net.run(MS * 50);
    assert_eq!((net.loads()[2], net.answering().len()), (0, 4), "{}", net.story());
    net.power_off(3);
    let took = net.until_served(Duration::from_secs(3));
    assert!(took < MS * 760, "{took:?}\n{}", net.story());
    assert_eq!(planned(&net), [false; 4]);
    // Nor does an address that waits already, when its node fails.
    let mut net = unprepared();
    let to = move_ip(&mut net);
    net.run(MS * 100);
    let from = net.answering()[&vip(0)][0];
    net.at(0, from, Input::Interface { name: "eth0".into(), up: false });
    net.run(MS * 50);
    assert_eq!(net.answering()[&vip(0)], [to], "{}", net.story());
}
