//! Nodes that are taken off the list while they are members, in whole cores.

use super::*;

/// Node `by` reads the list of four nodes again, and `gone` is not in it any more.
fn take_off(net: &mut Net, gone: u16, by: u16) {
    let mut config = config(by, 4);
    let node = config.nodes.remove(&Pnn(gone)).expect("it is there");
    config.removed.insert(Pnn(gone), node.addresses);
    config.vips.values_mut().for_each(|vip| drop(vip.hosts.remove(&Pnn(gone))));
    net.feed(usize::from(by), Input::Config(config.into()));
}

/// It serves until the view that drops it, and NFS clients have locks there.
#[test]
fn a_member_that_is_removed_is_shut_out_after_a_grace_period_and_its_addresses_are_taken() {
    let mut net = settled(4, false);
    net.at(0, 2, Input::NfsClients(true));
    net.run(Duration::from_secs(1));
    for i in [0, 1, 3] {
        take_off(&mut net, 2, i);
    }
    let start = net.now;
    while net.answering().values().any(|hosts| hosts.contains(&2)) {
        net.run(MS);
    }
    net.until_served(Duration::from_secs(3));
    let took = net.now.since(start);
    assert!(took < Duration::from_millis(760), "{took:?}\n{}", net.story());
    let view = net.hosts[0].core.view().expect("a view");
    assert_eq!(view.members.keys().copied().collect::<Vec<_>>(), [Pnn(0), Pnn(1), Pnn(3)]);
    assert_eq!(view.evicted.keys().copied().collect::<Vec<_>>(), [Pnn(2)]);
    for i in [0, 1, 3] {
        assert!(net.hosts[i].log.iter().any(|line| line.contains("grace for the clients of {n2}")), "{}", net.story());
    }
}

/// Its daemon was started anew and says that it has clients, too; but the run that is a member had them.
#[test]
fn what_the_run_that_is_a_member_had_is_not_forgotten_for_what_the_next_one_says() {
    let mut net = settled(4, false);
    net.at(0, 2, Input::NfsClients(true));
    net.run(Duration::from_secs(1));
    // Nobody can decide that the old run is gone.
    for (a, b) in [(0, 1), (0, 3), (1, 3)] {
        net.cut(a, b);
    }
    net.power_off(2);
    net.run(MS * 100);
    net.power_on(2, 2, false);
    net.at(0, 2, Input::NfsClients(true));
    net.run(Duration::from_secs(2));
    assert!(net.hosts[0].core.view().is_some_and(|v| v.has_run(Pnn(2), RunId(1002))), "{}", net.story());
    take_off(&mut net, 2, 0);
    net.cut.clear();
    net.run(Duration::from_secs(2));
    assert!(net.hosts[0].core.view().is_some_and(|v| !v.members.contains_key(&Pnn(2))), "{}", net.story());
    assert!(net.hosts[0].log.iter().any(|line| line.contains("grace for the clients of {n2}")), "{}", net.story());
}
