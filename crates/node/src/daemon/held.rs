//! Which addresses the core wants held, as far as its orders have been carried out.
//!
//! The network worker answers orders late, and drops addresses by itself when a lease ends. An answer to an older
//! order must not be taken for one to the newest: the core would believe an address free, the leader would give it
//! away, and this node would then carry out the newest order and take it. So a loss of an address whose last order
//! was to take it is confirmed by a release before the core hears of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cluster::Input;

/// The core's orders, and losses that wait for their confirmation.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Addresses whose last order was to take them.
    wanted: BTreeSet<IpAddr>,
    /// Addresses that could not be taken, with the reason.
    failed: BTreeMap<IpAddr, String>,
}

impl Held {
    /// The core orders it taken.
    pub(super) fn take(&mut self, addr: IpAddr) {
        self.wanted.insert(addr);
    }

    /// The core orders it released.
    pub(super) fn release(&mut self, addr: IpAddr) {
        self.wanted.remove(&addr);
    }

    /// The core orders everything dropped.
    pub(super) fn lease_lost(&mut self) {
        self.wanted.clear();
    }

    /// The worker says that it is gone, or (with the reason) could not be taken. What to tell the core; nothing when
    /// it is to be released for certain first.
    pub(super) fn gone(&mut self, addr: IpAddr, why: Option<String>) -> Option<Input> {
        if let Some(why) = why {
            self.failed.insert(addr, why);
        }
        if self.wanted.remove(&addr) {
            return None;
        }
        Some(match self.failed.remove(&addr) {
            Some(because) => Input::TakeFailed { vip: addr, because },
            None => Input::Released { vip: addr },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn an_answer_to_an_ordered_release_goes_to_the_core() {
        let mut held = Held::default();
        held.take(VIP);
        held.release(VIP);
        assert!(matches!(held.gone(VIP, None), Some(Input::Released { vip: VIP })));
        held.take(VIP);
        held.lease_lost();
        assert!(matches!(held.gone(VIP, None), Some(Input::Released { vip: VIP })));
    }

    #[test]
    fn a_late_answer_to_an_older_order_is_confirmed_before_the_core_believes_it() {
        let mut held = Held::default();
        held.take(VIP);
        held.lease_lost();
        held.take(VIP);
        assert!(held.gone(VIP, None).is_none(), "the newest order is to take it");
        assert!(held.gone(VIP, None).is_some(), "the answer to the release that followed");
        held.take(VIP);
        held.lease_lost();
        held.take(VIP);
        assert!(held.gone(VIP, Some("the lease was lost".into())).is_none());
        let told = held.gone(VIP, None);
        assert!(matches!(told, Some(Input::TakeFailed { because, .. }) if because == "the lease was lost"));
        assert!(matches!(held.gone(VIP, None), Some(Input::Released { .. })), "the reason is told once");
    }
}
