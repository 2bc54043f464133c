//! What an NFS server that lives on may have in hand still of an address that has left it by plan.
//!
//! A server that hangs, or whose storage does, has taken writes that it has not carried out. Their clients send them to the
//! next server and go on; carried out after that, they would take newer ones back. Letting go of locks ends nothing of it. So
//! the server is ended: before anybody else is given the address, [`END_WAIT`] at most, or as soon as it is known to hang,
//! where an address left it a moment before.

use crate::planted::{Planted, planted};
use crate::{Health, ServiceHealth, Time};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How long an address that has left waits for an NFS server that hangs to be ended.
pub const END_WAIT: Duration = Duration::from_secs(2);
/// A service counts as failed after a few unanswered probes: what has left within this time may have left it hanging.
pub const LEFT_HANGING: Duration = Duration::from_secs(10);

/// The services that, failed, say that the NFS server does not finish what it has in hand.
const SERVICES: [&str; 2] = ["nfs", "storage"];

/// Does the NFS server of this node hang, or its storage?
pub(crate) fn hangs(services: &BTreeMap<String, ServiceHealth>) -> bool {
    SERVICES.iter().any(|name| services.get(*name).is_some_and(|health| health.state == Health::Failed))
}

/// The addresses that have left this node by plan and whose last server may have to be ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unfinished(BTreeMap<IpAddr, Time>);

impl Unfinished {
    /// An address has left by plan. True: the server hangs, and is to be ended before anybody else has the address.
    pub(crate) fn left(&mut self, now: Time, vip: IpAddr, hangs: bool) -> bool {
        let end = hangs && !planted(Planted::HungServerLivesOn);
        if end {
            self.0.remove(&vip);
        } else {
            self.0.insert(vip, now);
        }
        end
    }

    /// It is known now that the server hangs: the addresses for whose sake it is to be ended. `has`: it is here again.
    pub(crate) fn hung(&mut self, now: Time, has: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let all = std::mem::take(&mut self.0);
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

    #[test]
    fn a_server_that_hangs_is_ended_at_once_and_not_again() {
        let mut unfinished = Unfinished::default();
        assert!(unfinished.left(at(0), vip(1), true));
        assert!(unfinished.hung(at(100), |_| false).is_empty(), "it begins anew, and fails meanwhile");
    }

    #[test]
    fn what_left_a_moment_before_a_server_hung_is_remembered_for_ten_seconds() {
        let mut unfinished = Unfinished::default();
        for (n, ms) in [(1, 0), (2, 1), (3, 5_000)] {
            assert!(!unfinished.left(at(ms), vip(n), false));
        }
        assert_eq!(unfinished.hung(at(10_000), |v| v == vip(3)), [vip(2)], "one came back, one left long ago");
        assert!(unfinished.hung(at(10_001), |_| false).is_empty(), "said once");
    }
}
