//! Each rule left out on its own: somebody must be split.

use super::explore::Order;
use super::safe::{bounds, look};
use super::state::{Bounds, Loss, Records};
use crate::planted::{Planted, plant};

fn few(nodes: u16, lock: bool, attempts: u8, crashes: u8) -> Bounds {
    Bounds { all_wishes: false, ..bounds(nodes, lock, 1, attempts, crashes) }
}

fn splits(name: &str, bug: Option<Planted>, b: &Bounds) {
    plant(bug);
    let found = look(name, b, Order::Breadth, 3_000_000);
    plant(None);
    assert!(found.violation.is_some(), "{name}: nothing found in {} states", found.states);
}

#[test]
fn one_record_read_then_written_under_a_lying_lock() {
    splits("one record", None, &Bounds { records: Records::One, ..few(2, true, 2, 0) });
}

#[test]
#[ignore = "a minute: scripts/test --long"]
fn a_disk_that_forgets_its_votes_and_keeps_its_name() {
    splits("votes forgotten", None, &Bounds { loss: Loss::Forgets, ..few(3, false, 2, 1) });
}

#[test]
fn a_voter_that_accepted_goes_on_granting() {
    splits("grants after accept", Some(Planted::GrantsAfterAccept), &few(3, false, 1, 0));
}

#[test]
fn a_promise_without_what_was_accepted() {
    splits("accepted untold", Some(Planted::AcceptedUntold), &few(3, false, 2, 0));
}

#[test]
#[ignore = "a minute: scripts/test --long"]
fn the_oldest_value_taken_over() {
    splits("oldest value", Some(Planted::OldestValue), &Bounds { proposers: 3, ..few(3, false, 3, 0) });
}

#[test]
fn an_accept_below_a_promise() {
    splits("accept below a promise", Some(Planted::AcceptBelowPromise), &few(3, false, 2, 0));
}

#[test]
fn votes_told_before_they_are_on_disk() {
    splits("vote before disk", Some(Planted::VoteBeforeDisk), &few(3, false, 2, 1));
}

#[test]
fn a_ballot_used_by_two_runs() {
    splits("ballot used twice", Some(Planted::BallotUsedTwice), &few(2, true, 2, 1));
}

#[test]
fn half_of_the_voters_without_the_lock() {
    splits("half is enough", Some(Planted::HalfIsEnough), &few(2, false, 2, 0));
}

#[test]
#[ignore = "a minute: scripts/test --long"]
fn a_new_disk_votes_for_the_old_one() {
    let b = Bounds { loss: Loss::Replaced, proposers: 3, ..few(3, false, 2, 1) };
    splits("anybody votes", Some(Planted::AnybodyVotes), &b);
}

#[test]
fn a_lease_by_half_of_the_voters() {
    splits("lease by half", Some(Planted::LeaseByHalf), &few(2, true, 1, 0));
}

#[test]
fn a_higher_ballot_beside_the_lock_is_ignored() {
    splits("higher record ignored", Some(Planted::HigherRecordIgnored), &few(2, true, 2, 0));
}

#[test]
fn a_value_beside_the_lock_is_ignored() {
    splits("record's value ignored", Some(Planted::RecordValueIgnored), &few(2, true, 2, 0));
}

#[test]
fn a_lock_without_memory() {
    splits("lock without memory", Some(Planted::LockWithoutMemory), &few(2, true, 2, 0));
}
