//! The worker's comparison of what the kernel has with what it should have: addresses that somebody removed,
//! left-overs, the gate after a firewall was reloaded.

use std::net::IpAddr;

use super::hosting::Hosting;
use crate::address::Address;
use crate::command::{Event, VipSpec};

impl Hosting {
    /// Compares the kernel's addresses with what should be there.
    pub(super) fn recheck(&mut self, events: &dyn Fn(Event)) {
        let existing = match self.addresses.list() {
            Ok(existing) => existing,
            Err(error) => return tracing::warn!(%error, "addresses cannot be checked"),
        };
        self.restore(&existing, events);
        self.remove_strays(events);
        // Also finds out that somebody removed the gate.
        if let Err(error) = self.speak() {
            tracing::error!(%error, "the gate cannot be checked");
        }
        self.tell_serving();
    }

    fn restore(&mut self, existing: &[Address], events: &dyn Fn(Event)) {
        let Ok(until) = self.valid_lease() else { return };
        let mut lost = Vec::new();
        for i in 0..self.held.len() {
            let (link, spec) = (self.held[i].link.clone(), self.held[i].spec.clone());
            if existing.iter().any(|a| a.addr == spec.addr && a.index == link.index) {
                continue;
            }
            match self.put(&link, &spec, until) {
                Ok(expires) => {
                    self.held[i].expires = expires;
                    events(Event::AddressLost { addr: spec.addr, restored: true });
                }
                Err(error) => {
                    tracing::warn!(addr = %spec.addr, %error, "public address was removed and cannot be put back");
                    lost.push(spec.addr);
                }
            }
        }
        self.give_up(&lost, events);
    }

    /// Removes public addresses that are on an interface without being held: a crashed daemon's, a person's.
    pub(super) fn remove_strays(&mut self, events: &dyn Fn(Event)) {
        let existing = match self.addresses.list() {
            Ok(existing) => existing,
            Err(e) => {
                return events(Event::ConfigureFailed { why: format!("cannot look for left-overs: {e}") });
            }
        };
        for a in existing {
            let held = self.held.iter().any(|h| h.spec.addr == a.addr && h.link.index == a.index);
            if held || self.tells(a.addr) || !(a.ours || self.vips.iter().any(|v| v.addr == a.addr)) {
                continue;
            }
            let spec = self.vips.iter().find(|v| v.addr == a.addr);
            let interface = spec.map_or_else(|| format!("number {}", a.index), |v| v.interface.clone());
            match self.addresses.remove(&a) {
                Ok(true) if self.unreleased.remove(&a.addr) => events(Event::Released { addr: a.addr }),
                Ok(true) => events(Event::StrayRemoved { addr: a.addr, interface }),
                Ok(false) => {}
                Err(e) => {
                    events(Event::ReleaseFailed { addr: a.addr, why: format!("left over, still on an interface: {e}") })
                }
            }
        }
    }

    /// Lets go of addresses that are no longer on their interface and cannot be put back.
    pub(super) fn give_up(&mut self, lost: &[IpAddr], events: &dyn Fn(Event)) {
        if lost.is_empty() {
            return;
        }
        if let Err(error) = self.silence(lost) {
            tracing::warn!(%error, ?lost, "lost addresses could not be silenced");
        }
        for &addr in lost {
            events(Event::AddressLost { addr, restored: false });
        }
    }

    /// Announces those of the held addresses afresh.
    pub(super) fn announce_again(&mut self, which: impl Fn(&VipSpec) -> bool) {
        for held in self.held.iter().filter(|h| which(&h.spec)) {
            if let Err(error) = self.announcer.announce(held.spec.addr, &held.link) {
                tracing::warn!(addr = %held.spec.addr, %error, "address not announced");
            }
        }
    }
}
