//! The worker's half that hosts public addresses under the node lease.
//!
//! Three things end an address when nobody does: the gate when the lease ends, this thread at the same time, and the
//! address's own lifetime within a second after it. An error with one address does not keep the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Parts;
use super::leaving::{Leaving, Telling};
use super::limit::tell_in_time;
use crate::address::{self, Address, Addresses};
use crate::announce::{Announcer, SharedLease};
use crate::clock::BootTime;
use crate::command::{ClientConnection, Event, LeaseKind, VipSpec};
use crate::connections::Connections;
use crate::error::{Error, Result};
use crate::gate::{self, Gate};
use crate::hold::{self, HoldSpec};
use crate::link::Link;
use crate::shut::Shut;

/// How long a takeover waits for the kernel to finish adding its addresses. Renewals wait as long.
const READY: Duration = Duration::from_millis(100);
/// A lifetime that nobody sees the end of.
const FOREVER: Duration = Duration::from_secs(86_400);
/// The kernel ends IPv6 addresses up to this much before their time.
const EARLY: Duration = Duration::from_millis(50);

/// An address that is on an interface.
pub(super) struct Held {
    pub(super) spec: VipSpec,
    pub(super) link: Link,
    /// When the kernel removes it if its lifetime is not refreshed.
    pub(super) expires: BootTime,
}

pub(super) struct Hosting {
    lease: SharedLease,
    until: Option<BootTime>,
    pub(super) announcer: Announcer,
    pub(super) addresses: Addresses,
    pub(super) connections: Connections,
    /// None: not configured yet, or this kernel has no gate.
    gate: Option<Gate>,
    pub(super) vips: Vec<VipSpec>,
    service_ports: Vec<u16>,
    /// Ports are shut.
    shut: bool,
    pub(super) held: Vec<Held>,
    renewals_fail: bool,
    pub(super) parts: Parts,
    pub(super) telling: Vec<Telling>,
    pub(super) leaving: Vec<Leaving>,
    /// Connections of addresses that other nodes hold, or that a lost lease has ended here.
    pub(super) clients: BTreeMap<IpAddr, Arc<[ClientConnection]>>,
    /// Released, but still on an interface when it was last tried.
    pub(super) unreleased: BTreeSet<IpAddr>,
}

impl Hosting {
    pub(super) fn new(lease: SharedLease, announcer: Announcer, parts: Parts) -> Result<Self> {
        Ok(Self {
            lease,
            until: None,
            announcer,
            addresses: Addresses::open()?,
            connections: Connections::open()?,
            gate: None,
            vips: Vec::new(),
            service_ports: Vec::new(),
            shut: false,
            held: Vec::new(),
            renewals_fail: false,
            parts,
            telling: Vec::new(),
            leaving: Vec::new(),
            clients: BTreeMap::new(),
            unreleased: BTreeSet::new(),
        })
    }

    /// The rest of the lease; None without one.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.until.map(|until| until.since(BootTime::now()))
    }

    /// The interface on which an address is configured.
    pub(super) fn link_of(&mut self, addr: IpAddr) -> Result<Link> {
        let spec = self.spec(addr)?;
        self.addresses.link(&spec.interface)
    }

    fn spec(&self, addr: IpAddr) -> Result<VipSpec> {
        let spec = self.vips.iter().find(|v| v.addr == addr).cloned();
        spec.ok_or_else(|| Error::Invalid(format!("{addr} is not in this node's list of public addresses")))
    }

    pub(super) fn configure(
        &mut self,
        vips: Vec<VipSpec>,
        service_ports: Vec<u16>,
        hold: Option<HoldSpec>,
        events: &dyn Fn(Event),
    ) {
        let leaving: Vec<IpAddr> = self.held.iter().filter(|h| !vips.contains(&h.spec)).map(|h| h.spec.addr).collect();
        self.release(&leaving, events);
        // The gate is about to forget them.
        let forgotten: Vec<IpAddr> = self.telling().filter(|a| !vips.iter().any(|v| v.addr == *a)).collect();
        self.told(&forgotten, events);
        self.vips = vips;
        self.service_ports = service_ports;
        self.clients.retain(|addr, _| self.vips.iter().any(|v| v.addr == *addr));
        let hold = if self.parts.hold { hold } else { Some(HoldSpec::default()) };
        let wanted = hold.as_ref().is_some_and(|h| !h.ports.is_empty());
        if hold.is_some()
            && !wanted
            && let Err(error) = hold::remove()
        {
            // Without nf_tables there was none.
            tracing::debug!(%error, "a hold of an earlier configuration may be left");
        }
        let gate = if self.parts.gate {
            gate::available().and_then(|()| Gate::open())
        } else {
            Err(Error::Invalid("nf_tables is not to be used".to_owned()))
        };
        let (kind, why) = match gate {
            Ok(gate) => {
                self.gate = Some(gate);
                match self.install_with_hold(hold.unwrap_or_default(), events) {
                    Ok(()) => (LeaseKind::Exact, String::new()),
                    Err(e) => {
                        self.gate = None;
                        (LeaseKind::WholeSeconds, e.to_string())
                    }
                }
            }
            Err(e) if may_change_addresses() => (LeaseKind::WholeSeconds, e.to_string()),
            Err(e) => (LeaseKind::None, format!("no permission (CAP_NET_ADMIN) to change addresses: {e}")),
        };
        if wanted && self.gate.is_none() {
            events(Event::Holds { error: Some(why.clone()) });
        }
        self.remove_strays(events);
        self.destroy_strays(events);
        events(Event::Lease { kind, why });
    }

    /// Takes addresses in one go: one look at what is there, one change of the gate. One that cannot be taken does not
    /// keep the others.
    pub(super) fn take(&mut self, addrs: &[IpAddr], events: &dyn Fn(Event)) {
        let addrs: BTreeSet<IpAddr> = addrs.iter().copied().collect();
        self.finish_now(|a| addrs.contains(&a), events);
        let held: BTreeSet<IpAddr> = self.leased().into_iter().collect();
        let new: Vec<IpAddr> = addrs.iter().copied().filter(|a| !held.contains(a)).collect();
        let failed = if new.is_empty() { BTreeMap::new() } else { self.take_new(&new) };
        for addr in addrs.iter().filter(|a| !failed.contains_key(a)) {
            events(Event::Taken { addr: *addr });
        }
        if failed.is_empty() {
            return;
        }
        // Silent because the leased set does not name them; now off the interface as well.
        let gone: Vec<IpAddr> = failed.keys().copied().collect();
        let undone = self.silence(&gone).and_then(|()| self.addresses.purge(&gone).map(drop));
        for (addr, mut why) in failed {
            if let Err(e) = &undone {
                why = format!("{why}; and then: {e}");
            }
            events(Event::TakeFailed { addr, why });
        }
    }

    /// Those that could not be taken, with the reason.
    fn take_new(&mut self, addrs: &[IpAddr]) -> BTreeMap<IpAddr, String> {
        let mut failed = BTreeMap::new();
        let before = self.held.len();
        let outcome = self.put_all(addrs, &mut failed).and_then(|()| self.speak()).and_then(|()| self.valid_lease());
        if let Err(e) = outcome {
            for addr in addrs {
                failed.entry(*addr).or_insert_with(|| e.to_string());
            }
            return failed;
        }
        let new: Vec<(IpAddr, Link)> =
            self.held.iter().skip(before).map(|held| (held.spec.addr, held.link.clone())).collect();
        for (addr, link) in new {
            if let Err(error) = self.announcer.announce(addr, &link) {
                // It serves all the same: neighbours learn it when they ask.
                tracing::warn!(%addr, %error, "address taken but not announced");
            }
            if let Some(clients) = self.clients.remove(&addr) {
                self.tickle(addr, clients);
            }
        }
        failed
    }

    /// Puts them on their interfaces, silent as yet.
    fn put_all(&mut self, addrs: &[IpAddr], failed: &mut BTreeMap<IpAddr, String>) -> Result<()> {
        let until = self.valid_lease()?;
        let existing = self.addresses.list()?;
        let mut put = Vec::new();
        for &addr in addrs {
            match self.put_new(addr, until, &existing) {
                Ok(held) => put.push(held),
                Err(e) => {
                    failed.insert(addr, e.to_string());
                }
            }
        }
        let end = Instant::now() + READY;
        for held in put {
            let addr = held.spec.addr;
            match self.addresses.wait_until_local(addr, end.saturating_duration_since(Instant::now())) {
                Ok(local) => {
                    if !local {
                        // It will be; the later announcements are for those who came too early.
                        tracing::warn!(%addr, "the kernel is slow to accept packets for a new address");
                    }
                    self.held.push(held);
                }
                Err(e) => {
                    failed.insert(addr, e.to_string());
                }
            }
        }
        Ok(())
    }

    fn put_new(&mut self, addr: IpAddr, until: BootTime, existing: &[Address]) -> Result<Held> {
        let spec = self.spec(addr)?;
        let link = self.addresses.link(&spec.interface)?;
        if !link.is_up() {
            return Err(Error::Invalid(format!("interface {} is down or has no carrier", spec.interface)));
        }
        // Left on another interface it would answer there.
        for stray in existing.iter().filter(|a| a.addr == addr) {
            self.addresses.remove(stray)?;
        }
        let expires = self.put(&link, &spec, until)?;
        Ok(Held { spec, link, expires })
    }

    /// Nothing goes in or out of these addresses any more.
    pub(super) fn silence(&mut self, addrs: &[IpAddr]) -> Result<()> {
        for &addr in addrs {
            self.announcer.stop(addr);
        }
        self.held.retain(|h| !addrs.contains(&h.spec.addr));
        self.speak()
    }

    pub(super) fn list_connections(&mut self, events: &dyn Fn(Event)) {
        let held = self.leased().into_iter().collect();
        events(match self.connections.established_on(&held) {
            Ok(list) => {
                let list = list.iter().map(|c| ClientConnection { vip: c.local, client: c.remote }).collect();
                Event::Connections { list }
            }
            Err(e) => Event::ConnectionsFailed { why: e.to_string() },
        });
    }

    /// Remembers what connections an address has on the node that holds it.
    pub(super) fn clients(&mut self, addr: IpAddr, clients: Arc<[ClientConnection]>) {
        if self.held.iter().any(|h| h.spec.addr == addr) {
            // The last holder's word came late.
            self.tickle(addr, clients);
        } else if self.vips.iter().any(|v| v.addr == addr) {
            self.clients.insert(addr, clients);
        }
    }

    fn tickle(&mut self, addr: IpAddr, clients: Arc<[ClientConnection]>) {
        if clients.is_empty() {
            return;
        }
        if let Err(error) = self.announcer.tickle(addr, clients) {
            tracing::warn!(%addr, %error, "clients are not tickled: they notice by their own time-outs");
        }
    }

    pub(super) fn renew(&mut self, until: BootTime, events: &dyn Fn(Event)) {
        if until <= BootTime::now() {
            return self.over(events, true);
        }
        self.until = Some(until);
        self.lease.set(self.until);
        if self.held.is_empty() && !self.holds() {
            return;
        }
        match self.speak() {
            Ok(()) => self.renewals_fail = false,
            // Told once; the addresses end with the lease that is in force, unless a later renewal works.
            Err(e) if !self.renewals_fail => {
                self.renewals_fail = true;
                events(Event::RenewFailed { why: e.to_string() });
            }
            Err(_) => {}
        }
        self.refresh_lifetimes(until, events);
        self.expire(events);
    }

    /// Gives those addresses a new lifetime whose present one ends before the lease.
    fn refresh_lifetimes(&mut self, until: BootTime, events: &dyn Fn(Event)) {
        let mut lost = Vec::new();
        for i in 0..self.held.len() {
            if self.held[i].expires >= until + EARLY {
                continue;
            }
            let (link, spec) = (self.held[i].link.clone(), self.held[i].spec.clone());
            match self.put(&link, &spec, until) {
                Ok(expires) => self.held[i].expires = expires,
                Err(error) => {
                    tracing::warn!(addr = %spec.addr, %error, "public address not refreshed");
                    // Gone interface or an address nobody may have: it will end. Others are only late.
                    if matches!(error.errno(), Some(libc::ENODEV | libc::EADDRNOTAVAIL | libc::EINVAL)) {
                        lost.push(spec.addr);
                    }
                }
            }
        }
        self.give_up(&lost, events);
    }

    pub(super) fn lease_lost(&mut self, events: &dyn Fn(Event)) {
        self.over(events, false);
    }

    /// Drops everything if the lease has ended by the clock.
    pub(super) fn expire(&mut self, events: &dyn Fn(Event)) {
        if self.until.is_some_and(|until| until <= BootTime::now()) {
            self.over(events, true);
        }
    }

    fn over(&mut self, events: &dyn Fn(Event), tell: bool) {
        let had = self.until.take().is_some();
        self.lease.set(None);
        if tell && had {
            events(Event::LeaseExpired);
        }
        self.finish_now(|_| true, events);
        let all: Vec<IpAddr> = self.held.iter().map(|h| h.spec.addr).collect();
        if !all.is_empty() {
            self.release_all(&all, events);
        } else if had
            && self.holds()
            && let Err(error) = self.speak()
        {
            tracing::warn!(%error, "this node's storage clients go on until the kernel's own limit ends");
        }
        self.tell_serving();
    }

    /// This node's storage clients depend on the lease, too.
    fn holds(&self) -> bool {
        self.gate.as_ref().is_some_and(Gate::holds)
    }

    /// Answers of this node's own storage servers pass while its clients are held.
    pub(super) fn tell_serving(&mut self) {
        if !self.holds() {
            return;
        }
        let told = self.connections.listening().and_then(|ports| match &mut self.gate {
            Some(gate) => gate.set_serving(ports),
            None => Ok(()),
        });
        if let Err(error) = told {
            tracing::warn!(%error, "answers of this node's storage servers may be held while it has no lease");
        }
    }

    pub(super) fn shutdown(&mut self, events: &dyn Fn(Event)) {
        self.over(events, false);
        self.remove_strays(events);
        let Some(gate) = &mut self.gate else { return };
        let left = match self.addresses.list() {
            Ok(list) => list.iter().any(|a| self.vips.iter().any(|v| v.addr == a.addr)),
            Err(_) => true,
        };
        if left {
            // Better a silent address than two nodes that answer.
            tracing::error!("public addresses are left on interfaces; the gate stays and keeps them silent");
        } else if let Err(error) = gate.remove() {
            tracing::warn!(%error, "the gate stays; `nft delete table inet steadfast` removes it");
        }
    }

    pub(super) fn valid_lease(&self) -> Result<BootTime> {
        let valid = self.until.filter(|&until| until > BootTime::now());
        valid.ok_or_else(|| Error::Invalid("this node has no lease".to_owned()))
    }

    /// Puts an address on its interface until the second in which the lease ends; returns when the kernel ends it.
    pub(super) fn put(&mut self, link: &Link, spec: &VipSpec, until: BootTime) -> Result<BootTime> {
        let before = BootTime::now();
        let lifetime = if self.parts.lifetimes { until.since(before) } else { FOREVER };
        self.addresses.set(link, spec, lifetime)?;
        Ok(before + Duration::from_secs(address::whole_seconds(lifetime).into()))
    }

    /// nf_tables enforces the leases.
    pub(super) fn gated(&self) -> bool {
        self.gate.is_some()
    }

    /// Shuts ports on the addresses that are not here.
    pub(super) fn shut(&mut self, ports: &[u16], longest: Duration) {
        let leased = self.leased();
        let others: Vec<IpAddr> = self.vips.iter().map(|v| v.addr).filter(|a| !leased.contains(a)).collect();
        let shut = Shut::open().and_then(|mut shut| shut.shut(&others, ports, longest));
        self.shut |= shut.is_ok();
        if let Err(error) = shut {
            tracing::warn!(%error, "addresses that are taken now answer on ports that should wait");
        }
    }

    pub(super) fn reopen(&mut self) {
        if !std::mem::take(&mut self.shut) {
            return;
        }
        if let Err(error) = Shut::open().and_then(|mut shut| shut.reopen()) {
            tracing::warn!(%error, "ports of addresses that were taken stay shut until they open by themselves");
        }
    }

    fn leased(&self) -> Vec<IpAddr> {
        self.held.iter().map(|h| h.spec.addr).collect()
    }

    /// Installs gate and hold; the gate alone when this kernel cannot hold.
    fn install_with_hold(&mut self, hold: HoldSpec, events: &dyn Fn(Event)) -> Result<()> {
        let Some(gate) = &mut self.gate else { return Ok(()) };
        let serving = self.connections.listening().unwrap_or_else(|error| {
            tracing::warn!(%error, "answers of this node's storage servers may be held while it has no lease");
            Vec::new()
        });
        gate.set_hold(hold, serving);
        if !gate.holds() {
            return self.install_in_time();
        }
        let Err(error) = self.install_in_time() else {
            events(Event::Holds { error: None });
            return Ok(());
        };
        if let Some(gate) = &mut self.gate {
            gate.set_hold(HoldSpec::default(), Vec::new());
        }
        self.install_in_time()?;
        events(Event::Holds { error: Some(error.to_string()) });
        Ok(())
    }

    fn install_in_time(&mut self) -> Result<()> {
        tell_in_time(self.until, BootTime::now, |rest| self.install_gate(rest))
    }

    /// With the addresses that are held speaking for `rest`.
    fn install_gate(&mut self, rest: Option<Duration>) -> Result<()> {
        let managed: Vec<IpAddr> = self.vips.iter().map(|v| v.addr).collect();
        let leased = if rest.is_none() { Vec::new() } else { self.leased() };
        match &mut self.gate {
            Some(gate) => gate.install(&managed, &self.service_ports, &leased, rest.unwrap_or_default()),
            None => Ok(()),
        }
    }

    /// Makes the held addresses speak for the rest of the lease and all others silent.
    pub(super) fn speak(&mut self) -> Result<()> {
        let leased = self.leased();
        tell_in_time(self.until, BootTime::now, |rest| {
            let Some(gate) = &mut self.gate else { return Ok(()) };
            let outcome = match rest {
                Some(rest) => gate.renew(&leased, rest),
                None => gate.drop_now(),
            };
            let Err(e) = outcome else { return Ok(()) };
            // `nft flush ruleset` removes other programs' tables too.
            tracing::warn!(error = %e, "the gate is gone or broken, making it anew");
            self.install_gate(rest)
        })
    }
}

/// This process may change addresses.
fn may_change_addresses() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::NET_ADMIN))
}
