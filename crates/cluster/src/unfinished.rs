//! What servers that live on may have in hand still of an address that has left them by plan.
//!
//! An NFS server that hangs, or whose storage does, has taken writes that it has not carried out; what smbd has given to the
//! shared mount is with the mount's client process, and outlives smbd. Their clients send them to the next server and go on;
//! carried out after that, they would take newer ones back. Letting go of locks ends nothing of it. So before an address
//! leaves, server and storage prove that they answer, [`PROOF_WAIT`] at most. What does not is ended before anybody else is
//! given the address, [`END_WAIT`] at most; so is what is found to hang a moment later, at once.
//!
//! An address that is lost with the lease leaves nothing proved: the node's storage clients are held until there is a lease
//! again, and go on then with what they have in hand. Who is no member by then has been shut out of the storage. Of a member
//! the address counts as held (`holder.rs`) until it is here again, or servers and storage prove themselves under the new
//! lease, or what hangs is ended.

use crate::planted::{Planted, planted};
use crate::{Health, Output, ServiceHealth, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// How long an address that is to leave waits for the proof that servers and storage answer.
pub const PROOF_WAIT: Duration = Duration::from_secs(1);
/// One proof does for all addresses that leave within this time after it.
const PROOF_COUNTS: Duration = Duration::from_secs(1);
/// How long an address that was lost with the lease, and is wanted elsewhere, waits for another lease, under which alone
/// anything can be proved.
pub(crate) const LEASE_WAIT: Duration = Duration::from_secs(1);
/// How long an address that has left waits for what hangs to be ended.
pub const END_WAIT: Duration = Duration::from_secs(2);
/// A service counts as failed after a few unanswered probes: what has left within this time may have left it hanging.
pub const LEFT_HANGING: Duration = Duration::from_secs(10);

/// The services that, failed, say that what clients have given is not finished. Samba is none: what it waits for is the mount.
pub(crate) const HANG: [&str; 2] = ["nfs", "storage"];
/// The services that clients give something to.
const SERVERS: [&str; 2] = ["nfs", "samba"];

type Services = BTreeMap<String, ServiceHealth>;

/// Does the NFS server of this node hang, or the storage?
pub(crate) fn hangs(services: &Services) -> bool {
    HANG.iter().any(|name| services.get(*name).is_some_and(|health| health.state == Health::Failed))
}

/// Is there a server here that could have anything in hand?
pub(crate) fn runs(services: &Services) -> bool {
    SERVERS.iter().any(|name| services.get(*name).is_some_and(|health| health.state != Health::Off))
}

/// What was asked last.
#[derive(Clone, Copy, Debug)]
struct Proof {
    until: Time,
    /// When it answered, or did not in time, and how.
    answer: Option<(Time, bool)>,
}

impl Proof {
    /// What is known now; nothing while the answer is awaited, or when it came too long ago.
    fn verdict(&self, now: Time) -> Option<bool> {
        self.answer.filter(|(at, _)| now.since(*at) < PROOF_COUNTS).map(|(_, good)| good)
    }
}

/// What is known of what servers have in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unfinished {
    /// How often a proof was asked for.
    number: u64,
    proof: Option<Proof>,
    /// Addresses that leave while servers or storage did not prove that they answer.
    suspects: BTreeSet<IpAddr>,
    /// The addresses that have left this node by plan and whose last server may have to be ended.
    left: BTreeMap<IpAddr, Time>,
}

impl Unfinished {
    /// May this address, which is wanted elsewhere, leave now? Asks for a proof where that is not so yet.
    pub(crate) fn may_leave(&mut self, now: Time, vip: IpAddr, services: &Services, out: &mut Vec<Output>) -> bool {
        if !runs(services) || planted(Planted::ProofNotAwaited) {
            return true;
        }
        if hangs(services) {
            // It may be well again before the address is gone, and carries out then what it had in hand.
            self.suspects.insert(vip);
            return true;
        }
        match self.proof.and_then(|proof| proof.verdict(now)) {
            Some(true) => {
                self.suspects.remove(&vip);
                true
            }
            Some(false) => {
                self.suspects.insert(vip);
                true
            }
            None => {
                self.ask(now, out);
                false
            }
        }
    }

    fn ask(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.proof.is_none_or(|proof| proof.answer.is_some()) {
            self.number += 1;
            self.proof = Some(Proof { until: now + PROOF_WAIT, answer: None });
            out.push(Output::Prove { number: self.number });
        }
    }

    /// The lease is over, and storage clients are held: what was proved or asked before says nothing of what they have in hand.
    pub(crate) fn lease_lost(&mut self) {
        self.proof = self.proof.filter(|_| planted(Planted::ProofOutlivesLease));
    }

    /// This address leaves, and nothing can be proved of what servers have in hand: it is to be ended.
    pub(crate) fn suspect(&mut self, vip: IpAddr) {
        self.suspects.insert(vip);
    }

    /// Servers and storage have answered, or will not. False if that is old news.
    pub(crate) fn proved(&mut self, now: Time, number: u64, good: bool) -> bool {
        match &mut self.proof {
            Some(proof) if number == self.number && proof.answer.is_none() => {
                proof.answer = Some((now, good));
                true
            }
            _ => false,
        }
    }

    /// A proof that has not come in time is none. True if that is news.
    pub(crate) fn expire(&mut self, now: Time) -> bool {
        let late = self.proof.as_mut().filter(|proof| proof.answer.is_none() && now >= proof.until);
        late.map(|proof| proof.answer = Some((proof.until, false))).is_some()
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.proof.filter(|proof| proof.answer.is_none()).map(|proof| proof.until)
    }

    /// An address has left by plan. True: something hangs, and is to be ended before anybody else has the address. Where it
    /// has proved nothing, for the address began to leave without a lease, it is asked now.
    pub(crate) fn left(&mut self, now: Time, vip: IpAddr, services: &Services, out: &mut Vec<Output>) -> bool {
        let verdict = if runs(services) { self.proof.and_then(|proof| proof.verdict(now)) } else { Some(true) };
        let suspect = self.suspects.remove(&vip) || verdict == Some(false);
        if (hangs(services) || suspect) && !planted(Planted::HungServerLivesOn) {
            self.left.remove(&vip);
            return true;
        }
        self.left.insert(vip, now);
        if verdict.is_none() && !planted(Planted::ProofNotAwaited) {
            self.ask(now, out);
        }
        false
    }

    /// How the services are, news of one. Where none runs any more nobody is left who could have anything in hand.
    pub(crate) fn services(&mut self, services: &Services) {
        if !runs(services) {
            *self = Self { number: self.number, ..Self::default() };
        }
    }

    /// It is known now that something hangs: the addresses for whose sake it is to be ended. `has`: it is here again.
    pub(crate) fn hung(&mut self, now: Time, has: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let all = std::mem::take(&mut self.left);
        let due = |(vip, left): &(IpAddr, Time)| now.since(*left) < LEFT_HANGING && !has(*vip);
        let forgets = planted(Planted::HungServerForgotten);
        all.into_iter().filter(due).map(|(vip, _)| vip).filter(|_| !forgets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn at(ms: u64) -> Time {
        Time(5_000_000) + Duration::from_millis(ms)
    }

    fn services(states: &[(&str, Health)]) -> BTreeMap<String, ServiceHealth> {
        let health = |state| ServiceHealth { state, because: String::new(), output: Vec::new() };
        states.iter().map(|(name, state)| ((*name).to_owned(), health(*state))).collect()
    }

    #[test]
    fn a_failed_nfs_server_or_storage_hangs_and_nothing_else_does() {
        use Health::{Failed, Failing, Ok};
        assert!(hangs(&services(&[("nfs", Failed), ("storage", Ok)])));
        assert!(hangs(&services(&[("nfs", Ok), ("storage", Failed)])));
        assert!(!hangs(&services(&[("nfs", Failing), ("storage", Ok), ("samba", Failed), ("statd", Failed)])));
        assert!(!hangs(&BTreeMap::new()));
    }

    /// Whether an address may leave, and how often a proof was asked for on that.
    fn asks(unfinished: &mut Unfinished, ms: u64, n: u8, services: &Services) -> (bool, usize) {
        let mut out = Vec::new();
        unfinished.expire(at(ms));
        let may = unfinished.may_leave(at(ms), vip(n), services, &mut out);
        assert!(out.iter().all(|output| matches!(output, Output::Prove { .. })));
        (may, out.len())
    }

    /// Whether the server is to be ended when an address has left, and how often it is asked then.
    fn leaves(unfinished: &mut Unfinished, ms: u64, n: u8, services: &Services) -> (bool, usize) {
        let mut out = Vec::new();
        (unfinished.left(at(ms), vip(n), services, &mut out), out.len())
    }

    #[test]
    fn servers_that_have_ended_have_nothing_in_hand() {
        let mut unfinished = Unfinished::default();
        let runs = services(&[("nfs", Health::Ok), ("samba", Health::Off)]);
        assert_eq!(leaves(&mut unfinished, 0, 1, &runs), (false, 1));
        unfinished.services(&runs);
        assert_eq!(unfinished.next_timeout(), Some(at(1000)));
        unfinished.services(&services(&[("nfs", Health::Off), ("samba", Health::Off), ("storage", Health::Failed)]));
        assert!(!unfinished.expire(at(1000)) && unfinished.hung(at(1001), |_| false).is_empty());
        // An answer to what was asked before is none to the next question.
        assert_eq!(asks(&mut unfinished, 1100, 2, &runs), (false, 1));
        assert!(!unfinished.proved(at(1101), 1, true) && unfinished.proved(at(1102), 2, true));
    }

    #[test]
    fn what_left_without_a_proof_is_asked_for_after() {
        let runs = services(&[("nfs", Health::Ok)]);
        let mut unfinished = Unfinished::default();
        assert_eq!(leaves(&mut unfinished, 0, 1, &runs), (false, 1));
        assert!(!unfinished.expire(at(999)) && unfinished.expire(at(1000)) && !unfinished.expire(at(1001)));
        assert_eq!(unfinished.hung(at(1000), |_| false), [vip(1)]);
    }

    #[test]
    fn what_hung_as_an_address_began_to_leave_is_ended_also_when_it_is_well_by_the_end() {
        let (hung, well) = (services(&[("nfs", Health::Failed)]), services(&[("nfs", Health::Ok)]));
        let mut unfinished = Unfinished::default();
        assert_eq!(asks(&mut unfinished, 0, 1, &hung), (true, 0));
        assert_eq!(leaves(&mut unfinished, 60, 1, &well), (true, 0));
        // The next one leaves a server that is well, and proves it.
        assert_eq!(asks(&mut unfinished, 100, 1, &well), (false, 1));
    }

    #[test]
    fn addresses_leave_a_server_that_has_proved_that_it_answers() {
        let runs = services(&[("nfs", Health::Ok), ("samba", Health::Failed)]);
        let mut unfinished = Unfinished::default();
        assert_eq!(asks(&mut unfinished, 0, 1, &runs), (false, 1));
        assert_eq!(asks(&mut unfinished, 1, 2, &runs), (false, 0), "one proof for both");
        assert_eq!(unfinished.next_timeout(), Some(at(1000)));
        assert!(!unfinished.proved(at(5), 0, true), "an older one's");
        assert!(unfinished.proved(at(6), 1, true) && !unfinished.proved(at(7), 1, false));
        assert_eq!(asks(&mut unfinished, 8, 1, &runs), (true, 0));
        assert_eq!(asks(&mut unfinished, 1005, 2, &runs), (true, 0));
        assert_eq!(leaves(&mut unfinished, 9, 1, &runs), (false, 0));
        assert_eq!(leaves(&mut unfinished, 1005, 2, &runs), (false, 0));
        assert_eq!(asks(&mut unfinished, 1006, 3, &runs), (false, 1), "too long ago");
        assert_eq!(unfinished.next_timeout(), Some(at(2006)));
    }

    #[test]
    fn one_that_does_not_answer_or_not_in_time_is_ended() {
        let runs = services(&[("nfs", Health::Ok)]);
        let mut unfinished = Unfinished::default();
        assert_eq!(asks(&mut unfinished, 0, 1, &runs), (false, 1));
        assert!(unfinished.proved(at(5), 1, false));
        assert_eq!(asks(&mut unfinished, 6, 1, &runs), (true, 0));
        assert_eq!(leaves(&mut unfinished, 7, 1, &runs), (true, 0));
        assert_eq!(asks(&mut unfinished, 2000, 2, &runs), (false, 1));
        assert_eq!(asks(&mut unfinished, 2999, 2, &runs), (false, 0));
        assert_eq!(asks(&mut unfinished, 3000, 2, &runs), (true, 0));
        // It was to stay after all, and the next proof is a good one.
        assert_eq!(asks(&mut unfinished, 9000, 2, &runs), (false, 1));
        assert!(unfinished.proved(at(9005), 3, true));
        assert_eq!(asks(&mut unfinished, 9006, 2, &runs), (true, 0));
        assert_eq!(leaves(&mut unfinished, 9007, 2, &runs), (false, 0));
    }

    #[test]
    fn what_was_proved_before_the_lease_was_lost_says_nothing() {
        let runs = services(&[("nfs", Health::Ok)]);
        let mut unfinished = Unfinished::default();
        assert_eq!(asks(&mut unfinished, 0, 1, &runs), (false, 1));
        assert!(unfinished.proved(at(5), 1, true));
        unfinished.lease_lost();
        assert_eq!(asks(&mut unfinished, 10, 1, &runs), (false, 1), "asked anew");
        // Nor does the answer to what was asked before.
        unfinished.lease_lost();
        assert!(!unfinished.proved(at(15), 2, true) && unfinished.next_timeout().is_none());
        // Where nothing can be proved it is ended.
        unfinished.suspect(vip(1));
        assert_eq!(leaves(&mut unfinished, 20, 1, &runs), (true, 0));
    }

    #[test]
    fn samba_alone_is_asked_too() {
        let mut unfinished = Unfinished::default();
        let samba = services(&[("nfs", Health::Off), ("samba", Health::Failing)]);
        assert_eq!(asks(&mut unfinished, 0, 1, &samba), (false, 1));
        assert_eq!(asks(&mut unfinished, 1000, 1, &samba), (true, 0));
        assert_eq!(leaves(&mut unfinished, 1001, 1, &samba), (true, 0));
    }

    #[test]
    fn a_server_that_does_not_run_or_is_known_to_hang_is_not_asked() {
        for services in [services(&[]), services(&[("nfs", Health::Off)]), services(&[("nfs", Health::Failed)])] {
            assert_eq!(asks(&mut Unfinished::default(), 0, 1, &services), (true, 0));
        }
    }

    #[test]
    fn a_server_that_hangs_is_ended_at_once_and_not_again() {
        let mut unfinished = Unfinished::default();
        assert_eq!(leaves(&mut unfinished, 0, 1, &services(&[("storage", Health::Failed)])), (true, 0));
        assert!(unfinished.hung(at(100), |_| false).is_empty(), "it begins anew, and fails meanwhile");
    }

    #[test]
    fn what_left_a_moment_before_a_server_hung_is_remembered_for_ten_seconds() {
        let mut unfinished = Unfinished::default();
        for (n, ms) in [(1, 0), (2, 1), (3, 5_000)] {
            assert_eq!(leaves(&mut unfinished, ms, n, &services(&[])), (false, 0));
        }
        assert_eq!(unfinished.hung(at(10_000), |v| v == vip(3)), [vip(2)], "one came back, one left long ago");
        assert!(unfinished.hung(at(10_001), |_| false).is_empty(), "said once");
    }
}
