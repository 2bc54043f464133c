//! A service that a new configuration adds, in whole cores: the nodes are told of it one after the other.

use super::*;

/// The leader reads the file first; the others' administrators take their time.
#[test]
fn a_service_that_is_added_moves_nothing_before_all_have_heard_of_it() {
    let mut net = settled(4, false);
    let before = net.answering();
    for i in 0..4u16 {
        let mut config = config(i, 4);
        config.services.insert("samba".into());
        config.fingerprint = 8;
        net.feed(usize::from(i), Input::Config(config.into()));
        for (ms, state) in [(0, Health::Starting), (800, Health::Ok)] {
            let health = ServiceHealth { state, because: String::new(), output: vec![] };
            net.at(ms, usize::from(i), Input::Service { name: "samba".into(), health });
        }
        for _ in 0..300 {
            net.run(MS * 100);
            assert_eq!(net.answering(), before, "node {i} has read it: {}", net.story());
        }
    }
}

#[test]
fn a_service_that_is_added_on_no_other_node_is_missed_there_after_five_minutes() {
    let mut net = settled(2, false);
    let mut config = config(0, 2);
    config.services.insert("samba".into());
    net.feed(0, Input::Config(config.into()));
    let health = ServiceHealth { state: Health::Ok, because: String::new(), output: vec![] };
    net.at(800, 0, Input::Service { name: "samba".into(), health });
    net.run(ADOPT - MS);
    assert_eq!(net.loads(), [2, 2], "{}", net.story());
    net.run(MS * 50);
    assert_eq!(net.loads(), [4, 0], "{}", net.story());
}
