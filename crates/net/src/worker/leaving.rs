//! The worker's order of releasing addresses: silence, tell, remove, let the servers finish, confirm, destroy the
//! connections.
//!
//! Samba is told while the address is still on its interface, so that it ends its clients in its own order; nothing of
//! that gets out, for the address is silent already. It costs a planned move the time of writing a message, [`TELL`] at
//! most; the end of a lease waits for nobody.
//!
//! Nothing of an address goes in or out any more while a server reads what had arrived: a request that it has read is
//! done before the next node may take the address, and not behind the back of the client, which sends it again there.
//! The connections end last: a reset or an end of file before would tell the client to come back while nobody
//! is there, and its next attempt would be a second later.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::hosting::Hosting;
use crate::command::{ClientConnection, Event};
use crate::connections::Connection;

/// How long a planned release waits until Samba has been told of it ([`crate::Command::Told`]).
pub const TELL: Duration = Duration::from_millis(20);
/// How long a release waits for servers to read what has arrived.
pub const FINISH: Duration = Duration::from_millis(100);
/// Between two looks at the receive queues.
const LOOK: Duration = Duration::from_millis(5);

/// Addresses that are silent, but on their interfaces until Samba has been told.
#[derive(Clone, Debug)]
pub(super) struct Telling {
    addrs: BTreeSet<IpAddr>,
    until: Instant,
}

/// An address that is silent and off its interface, and whose servers have not read everything yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) addr: IpAddr,
    until: Instant,
    look: Instant,
}

impl Hosting {
    /// An administrator or the leader wants them elsewhere.
    pub(super) fn release(&mut self, addrs: &[IpAddr], events: &dyn Fn(Event)) {
        // Of a repeated order `Released` comes when it is true.
        let (held, others): (Vec<IpAddr>, Vec<IpAddr>) =
            addrs.iter().copied().filter(|addr| !self.leaves(*addr)).partition(|addr| self.has(*addr));
        if held.is_empty() {
            return self.remove_and_wait(&others, events);
        }
        let silenced = self.silence(&held);
        if let Err(error) = &silenced {
            tracing::warn!(%error, addrs = ?held, "addresses are removed without being silenced before");
        }
        self.tell_last(&held, events);
        if self.parts.tell {
            events(Event::Releasing { addrs: held.clone() });
        }
        if silenced.is_ok() && self.gated() && self.parts.tell {
            self.telling.push(Telling { addrs: held.into_iter().collect(), until: Instant::now() + TELL });
            self.remove_and_wait(&others, events);
        } else {
            // A server that closes its connections would be heard.
            self.remove_and_wait(&[held, others].concat(), events);
        }
    }

    /// Samba has been told that these leave.
    pub(super) fn told(&mut self, addrs: &[IpAddr], events: &dyn Fn(Event)) {
        let mut now = Vec::new();
        self.telling.retain_mut(|telling| {
            telling.addrs.retain(|addr| {
                let done = addrs.contains(addr);
                if done {
                    now.push(*addr);
                }
                !done
            });
            !telling.addrs.is_empty()
        });
        self.remove_and_wait(&now, events);
    }

    /// On its interface and to be spoken for.
    fn has(&self, addr: IpAddr) -> bool {
        self.held.iter().any(|h| h.spec.addr == addr)
    }

    /// Its release has begun and is not confirmed.
    pub(super) fn leaves(&self, addr: IpAddr) -> bool {
        self.tells(addr) || self.leaving.iter().any(|l| l.addr == addr)
    }

    /// Stays on its interface until Samba has been told.
    pub(super) fn tells(&self, addr: IpAddr) -> bool {
        self.telling().any(|a| a == addr)
    }

    /// All that stay until Samba has been told.
    pub(super) fn telling(&self) -> impl Iterator<Item = IpAddr> {
        self.telling.iter().flat_map(|telling| telling.addrs.iter().copied())
    }

    /// The connections of addresses that have just been silenced, for those who take them next: that may be this node again.
    fn tell_last(&mut self, addrs: &[IpAddr], events: &dyn Fn(Event)) {
        match self.connections.established_on(&addrs.iter().copied().collect()) {
            Ok(list) => {
                for (addr, list) in by_address(list) {
                    self.clients.insert(addr, list.clone().into());
                    events(Event::LastConnections { addr, list });
                }
            }
            Err(error) => {
                tracing::warn!(?addrs, %error, "connections of addresses that are being released cannot be listed");
            }
        }
    }

    /// Takes silent addresses off their interfaces, then waits for their servers.
    fn remove_and_wait(&mut self, addrs: &[IpAddr], events: &dyn Fn(Event)) {
        let gone = self.remove(addrs, events);
        if gone.is_empty() {
            return;
        }
        let busy: BTreeSet<IpAddr> = match self.connections.alive_on(&gone) {
            Ok(list) => list.iter().filter(|c| c.unread > 0).map(|c| c.local.ip()).collect(),
            Err(error) => {
                tracing::warn!(?gone, %error, "receive queues of addresses that are being released cannot be read");
                BTreeSet::new()
            }
        };
        let now = Instant::now();
        let (busy, idle): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) = gone.into_iter().partition(|a| busy.contains(a));
        self.leaving.extend(busy.into_iter().map(|addr| Leaving { addr, until: now + FINISH, look: now + LOOK }));
        self.confirm(&idle, events);
    }

    /// The lease is over: others take the addresses when it ends, whatever servers here have read by then.
    pub(super) fn release_all(&mut self, addrs: &[IpAddr], events: &dyn Fn(Event)) {
        if let Err(error) = self.silence(addrs) {
            tracing::warn!(%error, ?addrs, "addresses are removed without being silenced before");
        }
        let gone = self.remove(addrs, events);
        for &addr in &gone {
            events(Event::Released { addr });
        }
        self.remember(&gone);
        self.destroy(&gone, events);
    }

    /// The connections that these have now: should they be taken here again, because the lease came back before anybody else
    /// had them, their clients are tickled. One that waits for an answer has nothing to send that would tell it.
    fn remember(&mut self, gone: &BTreeSet<IpAddr>) {
        if gone.is_empty() {
            return;
        }
        match self.connections.established_on(gone) {
            Ok(list) => {
                for (addr, list) in by_address(list) {
                    self.clients.insert(addr, list.into());
                }
            }
            Err(error) => {
                tracing::warn!(?gone, %error, "connections of addresses that a lost lease ends cannot be listed");
            }
        }
    }

    /// Removes addresses that were silenced, all of them before that: in this order no address waits for another's.
    /// Returns those that are gone.
    fn remove(&mut self, addrs: &[IpAddr], events: &dyn Fn(Event)) -> BTreeSet<IpAddr> {
        if addrs.is_empty() {
            return BTreeSet::new();
        }
        let mut gone: BTreeSet<IpAddr> = addrs.iter().copied().collect();
        let failed: BTreeMap<IpAddr, String> = match self.addresses.purge_all(&gone) {
            Ok((_, failed)) => failed.into_iter().map(|(addr, e)| (addr, e.to_string())).collect(),
            Err(e) => gone.iter().map(|addr| (*addr, e.to_string())).collect(),
        };
        gone.retain(|addr| !failed.contains_key(addr));
        self.unreleased.retain(|addr| !gone.contains(addr));
        for (addr, e) in failed {
            self.unreleased.insert(addr);
            let silent = if self.gated() { "silenced, but" } else { "" };
            let why = format!("{silent} still on an interface: {e}").trim().to_owned();
            events(Event::ReleaseFailed { addr, why });
        }
        gone
    }

    /// Says that they are gone, then lets programs here know that their connections are.
    fn confirm(&mut self, gone: &BTreeSet<IpAddr>, events: &dyn Fn(Event)) {
        if gone.is_empty() {
            return;
        }
        for &addr in gone {
            events(Event::Released { addr });
        }
        self.destroy(gone, events);
    }

    /// Ends the connections of public addresses that are not here: those of a daemon that was killed. An NFS client comes
    /// back by the same port; when the address is here again its segments would reach the old connection, which neither
    /// serves nor resets it, until the client's own time-out (60 s and more).
    pub(super) fn destroy_strays(&mut self, events: &dyn Fn(Event)) {
        let here = |addr: IpAddr| self.has(addr) || self.leaves(addr);
        let elsewhere = self.vips.iter().map(|v| v.addr).filter(|addr| !here(*addr)).collect();
        self.destroy(&elsewhere, events);
    }

    fn destroy(&mut self, gone: &BTreeSet<IpAddr>, events: &dyn Fn(Event)) {
        match self.connections.destroy_local(gone) {
            Ok(destroyed) => {
                for (addr, sockets) in destroyed {
                    events(Event::SocketsDestroyed { addr, sockets });
                }
            }
            Err(error) => {
                tracing::warn!(?gone, %error, "connections of released addresses stay until they time out");
            }
        }
    }

    /// When to look at the receive queues again, or to go on without Samba's having been told.
    pub(super) fn next_look(&self) -> Option<Instant> {
        self.leaving.iter().map(|l| l.look.min(l.until)).chain(self.telling.iter().map(|t| t.until)).min()
    }

    /// Confirms those whose servers have read everything, or had their time.
    pub(super) fn look(&mut self, events: &dyn Fn(Event)) {
        let now = Instant::now();
        if self.next_look().is_none_or(|at| at > now) {
            return;
        }
        let late: Vec<IpAddr> =
            self.telling.iter().filter(|t| t.until <= now).flat_map(|t| t.addrs.iter().copied()).collect();
        if !late.is_empty() {
            tracing::warn!(addrs = ?late, "released though Samba could not be told within {} ms", TELL.as_millis());
            self.told(&late, events);
        }
        let addrs: BTreeSet<IpAddr> = self.leaving.iter().map(|l| l.addr).collect();
        let unread: BTreeSet<IpAddr> = match self.connections.alive_on(&addrs) {
            Ok(list) => list.iter().filter(|c| c.unread > 0).map(|c| c.local.ip()).collect(),
            Err(error) => {
                tracing::warn!(?addrs, %error, "receive queues cannot be read");
                BTreeSet::new()
            }
        };
        let mut done = BTreeSet::new();
        self.leaving.retain_mut(|l| {
            l.look = now + LOOK;
            let over = l.until <= now;
            if over && unread.contains(&l.addr) {
                tracing::warn!(addr = %l.addr, "released though a server has not read everything for {} ms", FINISH.as_millis());
            }
            let stays = !over && unread.contains(&l.addr);
            if !stays {
                done.insert(l.addr);
            }
            stays
        });
        self.confirm(&done, events);
    }

    /// No more waiting for these.
    pub(super) fn finish_now(&mut self, which: impl Fn(IpAddr) -> bool, events: &dyn Fn(Event)) {
        let telling: Vec<IpAddr> = self.telling().filter(|a| which(*a)).collect();
        self.told(&telling, events);
        let done = self.leaving.iter().map(|l| l.addr).filter(|a| which(*a)).collect();
        self.leaving.retain(|l| !which(l.addr));
        self.confirm(&done, events);
    }
}

fn by_address(list: Vec<Connection>) -> BTreeMap<IpAddr, Vec<ClientConnection>> {
    let mut all: BTreeMap<IpAddr, Vec<ClientConnection>> = BTreeMap::new();
    for c in list {
        all.entry(c.local.ip()).or_default().push(ClientConnection { vip: c.local, client: c.remote });
    }
    all
}
