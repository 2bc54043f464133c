//! This node's public addresses and interfaces, changed or announced by word: `ctdb addip`, `delip`, `setifacelink`,
//! `gratarp`.
//!
//! Addresses can be changed where they are this node's own, in CTDB's files; such a change lasts until the files are read
//! again, as with CTDB. Interfaces are as the kernel says, but where there are none: in a trial on one machine.

use super::io::{Output, Wish};
use super::{Origin, Server};
use std::net::IpAddr;
use std::time::Duration;

/// A change is in force within this, or was refused, which the log tells.
const PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    pub(super) fn add_ip(&mut self, origin: Origin, address: IpAddr, prefix: u32, iface: String) {
        if self.has_ip(address) {
            return self.answer_error(origin, format!("{address} is in this node's list already"));
        }
        self.change_list(origin, address, true, Wish::Add(address, prefix, iface));
    }

    pub(super) fn delete_ip(&mut self, origin: Origin, address: IpAddr) {
        if !self.has_ip(address) {
            return self.answer_error(origin, format!("{address} is not in this node's list"));
        }
        self.change_list(origin, address, false, Wish::Remove(address));
    }

    pub(super) fn set_link(&mut self, origin: Origin, iface: String, up: bool) {
        if !self.picture.links_by_word {
            return self.answer_error(origin, "whether an interface is up is read from the kernel, and not set");
        }
        if !self.picture.ifaces.iter().any(|known| known.name == iface) {
            return self.answer_error(origin, format!("there is no public address on an interface {iface} here"));
        }
        self.wish(origin, Wish::Link(iface, up));
    }

    /// Announcing an address that another node has would take its clients away from there.
    pub(super) fn announce(&mut self, origin: Origin, address: IpAddr, iface: &str) {
        let held = self.picture.addresses.iter().find(|a| a.address == address && a.holder == Some(self.me));
        let Some(held) = held.filter(|_| !self.leaving.contains(&address)) else {
            return self.answer_error(origin, format!("{address} is not announced: node {} does not have it", self.me));
        };
        match held.here.clone() {
            Some(here) if here == iface => self.wish(origin, Wish::Announce(address)),
            Some(here) => {
                self.answer_error(origin, format!("{address} is not announced on {iface}: it is on {here} here"));
            }
            None => self.answer_error(origin, format!("{address} is not announced: it leaves this node")),
        }
    }

    fn has_ip(&self, address: IpAddr) -> bool {
        self.picture.addresses.iter().any(|a| a.address == address && a.here.is_some())
    }

    fn change_list(&mut self, origin: Origin, address: IpAddr, there: bool, wish: Wish) {
        if !self.picture.own_list {
            let why = "this node has no list of its own (public_addresses): change steadfast.toml on all nodes, then \
                       `steadfast reload`";
            return self.answer_error(origin, why);
        }
        self.timers.lists.push((address, there, origin, self.now.mono + PATIENCE));
        self.out.push(Output::Admin(wish));
    }

    /// Clients that wait for a change.
    pub(super) fn look_at_lists(&mut self) {
        let waiting = std::mem::take(&mut self.timers.lists);
        for (address, there, origin, deadline) in waiting {
            if self.has_ip(address) == there {
                self.answer_status(origin, 0);
            } else if deadline <= self.now.mono {
                let what = if there { "added" } else { "taken away" };
                self.answer_error(origin, format!("{address} was not {what}: the daemon's log says why"));
            } else {
                self.timers.lists.push((address, there, origin, deadline));
            }
        }
    }
}
