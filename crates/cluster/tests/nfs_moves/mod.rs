//! Locks of NFS clients over planned moves, in whole cores.

use super::*;

/// How many hosts were asked for a grace period, and the hosts that were told to let go, since the logs were emptied.
fn nfs_words(net: &Net) -> (usize, Vec<usize>) {
    let said = |i: usize, what: &str| net.hosts[i].log.iter().any(|line| line.starts_with(what));
    let all = 0..net.hosts.len();
    (all.clone().filter(|i| said(*i, "grace for")).count(), all.filter(|i| said(*i, "lets go")).collect())
}

#[test]
fn an_address_with_nfs_locks_moves_when_all_servers_are_ready_and_the_old_one_has_let_go() {
    for hangs in [false, true] {
        let mut net = settled(4, false);
        let from = net.answering()[&vip(0)][0];
        net.at(0, from, Input::NfsLocks { addresses: [vip(0)].into(), grace: true });
        net.run(MS);
        net.hosts.iter_mut().for_each(|h| h.log.clear());
        if hangs {
            net.nfs_hangs = [from].into();
        }
        let to = move_ip(&mut net);
        net.run(MS * 150);
        let moved = net.answering().get(&vip(0)) == Some(&vec![to]);
        assert_eq!(moved, !hangs, "{}", net.story());
        if hangs {
            assert_eq!(net.answering()[&vip(0)], [from], "it serves on while others are waited for");
            net.run(MS * 100);
            assert!(!net.answering().contains_key(&vip(0)), "released, and not let go of: {}", net.story());
            net.run(MS * 550);
            assert_eq!(net.answering()[&vip(0)], [to], "{}", net.story());
            assert!(net.story().contains("may still be held here"), "{}", net.story());
        }
        assert_eq!(nfs_words(&net), (4, vec![from]));
    }
}

#[test]
fn without_nfs_locks_a_planned_move_asks_nobody() {
    let mut net = settled(4, false);
    let from = net.answering()[&vip(0)][0];
    net.at(0, from, Input::NfsLocks { addresses: [vip(1)].into(), grace: true });
    net.run(MS);
    net.hosts.iter_mut().for_each(|h| h.log.clear());
    let to = move_ip(&mut net);
    net.run(MS * 30);
    assert_eq!(net.answering()[&vip(0)], [to], "{}", net.story());
    // What was locked a moment ago, and nobody has said yet, is let go of even so.
    assert_eq!(nfs_words(&net), (0, vec![from]));
}

#[test]
fn a_loss_waits_for_no_planned_moves_rules() {
    let mut net = settled(4, false);
    let from = net.answering()[&vip(0)][0];
    net.at(0, from, Input::NfsLocks { addresses: [vip(0)].into(), grace: true });
    net.run(MS);
    net.hosts.iter_mut().for_each(|h| h.log.clear());
    net.nfs_hangs = (0..4).collect();
    net.power_off(from);
    net.until_served(Duration::from_secs(3));
    assert_eq!(nfs_words(&net), (0, vec![]), "{}", net.story());
}
