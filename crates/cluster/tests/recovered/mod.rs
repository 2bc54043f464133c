//! Who may be all that a view has, where there are databases: in whole cores.

use super::*;

/// Three nodes with databases; node 0 began, and what the others have of them nobody has said.
fn grown() -> Net {
    let mut net = Net::new(3, false);
    for i in 0..3 {
        net.feed(usize::from(i), Input::Config(Config { databases: true, ..config(i, 3) }.into()));
    }
    net.run(Duration::from_secs(30));
    assert_eq!(net.hosts[2].core.view().expect("a view").members.len(), 3, "{}", net.story());
    assert_eq!(net.loads().iter().sum::<usize>(), 4, "addresses wait for no database");
    net
}

fn recovered(net: &mut Net, host: usize) {
    let view = net.hosts[host].core.view().expect("a view").number();
    net.at(0, host, Input::Recovered { view });
    net.run(MS * 10);
}

#[test]
fn nobody_goes_on_without_a_member_that_has_everything_that_was_committed() {
    let mut net = grown();
    let epoch = net.hosts[1].core.view().unwrap().epoch;
    // What node 1 had under the view before counts no more than nothing.
    net.at(0, 1, Input::Recovered { view: net.hosts[1].core.view().unwrap().number() - 1 });
    net.power_off(0);
    net.run(Duration::from_secs(20));
    assert_eq!(net.hosts[1].core.view().unwrap().epoch, epoch, "{}", net.story());
    let snapshot = net.hosts[2].snapshot.clone().unwrap();
    let warned = |pnn: u16| snapshot.nodes[&Pnn(pnn)].warnings.iter().any(|w| w.contains("must come back: gluster1 ("));
    assert!(warned(1) && warned(2), "{:?}", snapshot.nodes);
    // Also with another daemon it has what is on its disk.
    net.power_on(0, 2, false);
    net.feed(0, Input::Config(Config { databases: true, ..config(0, 3) }.into()));
    net.run(Duration::from_secs(30));
    assert_eq!(net.hosts[1].core.view().unwrap().members.len(), 3, "{}", net.story());
    assert_eq!(net.answering().len(), 4);
    assert!(net.hosts[2].snapshot.as_ref().unwrap().nodes.values().all(|n| n.warnings.is_empty()));
}

#[test]
fn an_administrator_goes_on_without_what_is_lost_for_good() {
    let mut net = grown();
    let force = || AdminRequest::ForceView { because: "its disk is dead".into() };
    net.at(0, 1, Input::Admin { ticket: 1, request: force() });
    net.run(MS * 10);
    assert!(net.hosts[1].replies.pop().unwrap().unwrap_err().contains("can decide by itself"));
    net.power_off(0);
    net.run(Duration::from_secs(5));
    net.at(0, 1, Input::Admin { ticket: 2, request: force() });
    net.run(Duration::from_secs(30));
    assert!(net.hosts[1].replies.pop().unwrap().is_ok(), "{}", net.story());
    assert_eq!(net.answering().len(), 4, "{}", net.story());
    assert_eq!(net.loads()[1..], [2, 2], "{}", net.story());
}

/// Every daemon is another one after that, and the first member's machine is gone for good.
fn after_a_power_cut(net: &mut Net, databases: bool) {
    for i in 0..3 {
        net.power_off(i);
    }
    net.run(Duration::from_secs(5));
    for i in [1, 2] {
        net.power_on(i, 2, false);
        net.feed(i, Input::Config(Config { databases, ..config(i as u16, 3) }.into()));
    }
    net.run(Duration::from_secs(30));
}

#[test]
fn what_is_on_a_disk_is_known_of_it_after_a_power_cut() {
    for has in [1, 2] {
        let mut net = grown();
        recovered(&mut net, has);
        after_a_power_cut(&mut net, true);
        assert_eq!(net.answering().len(), 4, "{}", net.story());
        let view = net.hosts[1].core.view().expect("a view");
        assert!(view.keepers.contains(&NodeUid(100 + has as u128)), "{view:?}");
    }
    let mut net = grown();
    after_a_power_cut(&mut net, true);
    assert!(net.answering().is_empty(), "nobody has it: {}", net.story());
}

#[test]
fn without_databases_any_member_is_enough_after_a_power_cut() {
    let mut net = settled(3, false);
    after_a_power_cut(&mut net, false);
    assert_eq!(net.answering().len(), 4, "{}", net.story());
}

/// It never says that the databases are recovered: an upgrade of one server after the other stops nobody.
#[test]
fn where_an_older_version_leads_who_knows_the_view_counts() {
    for older in [true, false] {
        let mut net = Net::new(3, false);
        if older {
            net.older.insert(0);
        }
        for i in 0..3 {
            net.feed(usize::from(i), Input::Config(Config { databases: true, ..config(i, 3) }.into()));
        }
        net.run(Duration::from_secs(30));
        net.power_off(0);
        net.run(Duration::from_secs(5));
        assert_eq!(net.answering().len() == 4, older, "{}", net.story());
    }
}

#[test]
fn whoever_has_it_by_then_goes_on_without_the_first() {
    for has in [1, 2] {
        let mut net = grown();
        recovered(&mut net, has);
        net.power_off(0);
        net.until_served(Duration::from_secs(1));
        let view = net.hosts[1].core.view().unwrap();
        assert_eq!(view.keepers, BTreeSet::from([NodeUid(100 + has as u128)]), "{}", net.story());
    }
}
