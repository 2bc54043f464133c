//! Public addresses on interfaces over rtnetlink (rtnetlink(7), RTM_NEWADDR and friends).
//!
//! Each is added with a lifetime, so that the kernel removes it when nobody refreshes it, and with a protocol number of
//! our own (IFA_PROTO, kernel 5.18 and later; older ones ignore it) by which what a crashed daemon left is recognised.
//! Node addresses are never touched: an IPv4 address that happens to be its subnet's primary takes the subnet's other
//! addresses with it unless `promote_secondaries` is on for the interface, so it is switched on first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::command::VipSpec;
use crate::error::{Error, Result};
use crate::link::{self, Link};
use crate::socket::{NETLINK_ROUTE, Socket};
use crate::wire::{self, Builder};

pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_PROTO: u16 = 11;
const IFA_F_NODAD: u32 = 0x02;

/// Who put an address there (`ip address show proto 0x53`).
pub const PROTO: u8 = 0x53;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub index: u32,
    /// The address.
    pub addr: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// We put it there.
    pub ours: bool,
    /// Seconds until the kernel removes it; None for never.
    pub valid: Option<u32>,
}

/// The node's addresses.
#[derive(Debug)]
pub struct Addresses {
    socket: Socket,
}

impl Addresses {
    /// Opens the way to the kernel.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(NETLINK_ROUTE)? })
    }

    /// Lists the addresses of all interfaces, both families.
    pub fn list(&mut self) -> Result<Vec<Address>> {
        let answers = self.socket.dump("list addresses", RTM_GETADDR, |b| {
            b.raw(&[0; 8]);
        })?;
        Ok(answers.iter().filter(|a| a.kind == RTM_NEWADDR).filter_map(|a| parse(&a.payload)).collect())
    }

    /// The interface of this name.
    pub fn link(&mut self, name: &str) -> Result<Link> {
        link::find_with(&mut self.socket, name)
    }

    /// Adds the address or gives it a new lifetime. `lifetime` is rounded up to whole seconds, at least one.
    pub fn set(&mut self, link: &Link, vip: &VipSpec, lifetime: Duration) -> Result<()> {
        let prefix_len = self.prepare(link, vip)?;
        let seconds = whole_seconds(lifetime);
        let what = format!("put {}/{prefix_len} on {}", vip.addr, link.name);
        self.socket.request(&what, RTM_NEWADDR, wire::NLM_F_CREATE | wire::NLM_F_REPLACE, |b| {
            header(b, vip.addr, prefix_len, link.index);
            bytes(vip.addr, |octets| {
                b.attr(IFA_LOCAL, octets).attr(IFA_ADDRESS, octets);
            });
            if let (IpAddr::V4(v4), true) = (vip.addr, prefix_len < 31) {
                b.attr(IFA_BROADCAST, &broadcast(v4, prefix_len).octets());
            }
            // struct ifa_cacheinfo: preferred, valid, then two stamps that the kernel fills. An IPv6 address
            // that is not preferred is never chosen as the source of the node's own connections.
            let preferred = if vip.addr.is_ipv6() { 0 } else { seconds };
            let mut cache = [0u8; 16];
            cache[..4].copy_from_slice(&preferred.to_ne_bytes());
            cache[4..8].copy_from_slice(&seconds.to_ne_bytes());
            b.attr(IFA_CACHEINFO, &cache).attr(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes()).attr(IFA_PROTO, &[PROTO]);
        })
    }

    /// Waits until packets to the address are for this node, at most `limit`; false when they are not by then. The
    /// kernel finishes adding an IPv6 address in a work queue, after its answer: packets that come before are lost.
    pub fn wait_until_local(&mut self, addr: IpAddr, limit: Duration) -> Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let answer = self.socket.get(&format!("find the route to {addr}"), RTM_GETROUTE, |b| {
                // struct rtmsg: family, length of the destination; the rest is for the answer.
                let (family, bits) = if addr.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
                let mut rtmsg = [0u8; 12];
                rtmsg[0] = u8::try_from(family).unwrap_or(0);
                rtmsg[1] = bits;
                b.raw(&rtmsg);
                bytes(addr, |octets| {
                    b.attr(RTA_DST, octets);
                });
            });
            match answer {
                Ok(Some(route)) if route.payload.get(7) == Some(&RTN_LOCAL) => return Ok(true),
                Ok(_) => {}
                Err(e) if matches!(e.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {}
                Err(e) => return Err(e),
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Removes an address as [`Self::list`] found it; true if it was still there.
    pub fn remove(&mut self, address: &Address) -> Result<bool> {
        let addr = address.addr;
        let outcome = self.socket.request(&format!("remove {addr}"), RTM_DELADDR, 0, |b| {
            header(b, addr, address.prefix_len, address.index);
            bytes(addr, |octets| {
                b.attr(IFA_LOCAL, octets);
            });
        });
        match outcome {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Removes these addresses from every interface, whoever put them there; returns what was found, and whatever could
    /// not be removed with the reason: one does not keep the others.
    pub fn purge_all(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<(Vec<Address>, BTreeMap<IpAddr, Error>)> {
        let mut found = Vec::new();
        let mut failed = BTreeMap::new();
        // The last ones first: without its first address the kernel would sort a subnet's others anew, each time.
        for address in self.list()?.into_iter().rev().filter(|a| addrs.contains(&a.addr)) {
            match self.remove(&address) {
                Ok(_) => found.push(address),
                Err(e) => {
                    failed.insert(address.addr, e);
                }
            }
        }
        Ok((found, failed))
    }

    /// As [`Self::purge_all`]; a failure is the first one's.
    pub fn purge(&mut self, addrs: &[IpAddr]) -> Result<Vec<Address>> {
        let (found, failed) = self.purge_all(&addrs.iter().copied().collect())?;
        failed.into_values().next().map_or(Ok(found), Err)
    }

    /// Makes sure that the address can be removed later without taking others along; returns the prefix length
    /// to use.
    fn prepare(&mut self, link: &Link, vip: &VipSpec) -> Result<u8> {
        let bits = if vip.addr.is_ipv4() { 32 } else { 128 };
        if vip.prefix_len > bits {
            return Err(Error::Invalid(format!(
                "{}/{} is no address: a prefix has at most {bits} bits",
                vip.addr, vip.prefix_len
            )));
        }
        if vip.addr.is_ipv6() || vip.prefix_len == bits {
            return Ok(vip.prefix_len);
        }
        let path = format!("/proc/sys/net/ipv4/conf/{}/promote_secondaries", link.name);
        if fs::read_to_string(&path).is_ok_and(|v| v.trim() == "1") {
            return Ok(vip.prefix_len);
        }
        if let Err(e) = fs::write(&path, "1") {
            // As an address of its own subnet it can neither be another's primary nor have one.
            tracing::debug!(%path, error = %e, addr = %vip.addr, "cannot write, using a host prefix");
            return Ok(bits);
        }
        Ok(vip.prefix_len)
    }
}

/// Rounds a lifetime up to what the kernel counts in, at least one.
pub(crate) fn whole_seconds(lifetime: Duration) -> u32 {
    let millis = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
    u32::try_from(millis.div_ceil(1000)).unwrap_or(u32::MAX - 1).clamp(1, u32::MAX - 1)
}

fn header(b: &mut Builder, addr: IpAddr, prefix_len: u8, index: u32) {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut ifaddrmsg = [0u8; 8];
    ifaddrmsg[0] = u8::try_from(family).unwrap_or(0);
    ifaddrmsg[1] = prefix_len;
    ifaddrmsg[4..].copy_from_slice(&index.to_ne_bytes());
    b.raw(&ifaddrmsg);
}

/// Hands the address's octets to `f`.
pub(crate) fn bytes<R>(addr: IpAddr, f: impl FnOnce(&[u8]) -> R) -> R {
    match addr {
        IpAddr::V4(a) => f(&a.octets()),
        IpAddr::V6(a) => f(&a.octets()),
    }
}

fn broadcast(addr: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let host = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    Ipv4Addr::from(u32::from(addr) | host)
}

/// An address from 4 or 16 octets.
pub(crate) fn ip_from(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => wire::bytes_at(octets, 0).map(|o: [u8; 4]| Ipv4Addr::from(o).into()),
        16 => wire::bytes_at(octets, 0).map(|o: [u8; 16]| Ipv6Addr::from(o).into()),
        _ => None,
    }
}

/// Reads a struct ifaddrmsg and its attributes.
pub(crate) fn parse(payload: &[u8]) -> Option<Address> {
    let prefix_len = *payload.get(1)?;
    let index = wire::u32_at(payload, 4)?;
    let (mut local, mut peer, mut valid, mut ours) = (None, None, None, false);
    for (kind, value) in wire::attributes(payload.get(8..)?) {
        match kind {
            IFA_LOCAL => local = ip_from(value),
            IFA_ADDRESS => peer = ip_from(value),
            IFA_CACHEINFO => valid = wire::u32_at(value, 4).filter(|&v| v != u32::MAX),
            IFA_PROTO => ours = value == [PROTO],
            _ => {}
        }
    }
    // IPv6 has IFA_LOCAL only on point-to-point links.
    let addr = local.or(peer)?;
    Some(Address { index, addr, prefix_len, ours, valid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_round_up_to_seconds() {
        for (ms, s) in [(0, 1), (1, 1), (600, 1), (1000, 1), (1001, 2), (2600, 3)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), s, "{ms} ms");
        }
        assert_eq!(whole_seconds(Duration::MAX), u32::MAX - 1, "never the kernel's word for ever");
    }

    #[test]
    fn broadcast_of_a_subnet() {
        assert_eq!(broadcast(Ipv4Addr::new(10, 1, 2, 3), 24), Ipv4Addr::new(10, 1, 2, 255));
        assert_eq!(broadcast(Ipv4Addr::new(10, 1, 2, 3), 0), Ipv4Addr::BROADCAST);
    }
}
