//! TCP connections: listing and destroying them (sock_diag(7), linux/inet_diag.h).
//!
//! Destroying (SOCK_DESTROY) makes the local program see ECONNABORTED at once instead of after its own time-outs. IPv4
//! connections of IPv6 sockets are found under their IPv4 addresses.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use crate::address::ip_from;
use crate::error::{Error, Result};
use crate::fence::StoragePorts;
use crate::socket::{NETLINK_SOCK_DIAG, Socket};
use crate::wire;

/// The older request, for TCP only: its dump is of both families, which the newer one has no word for.
const TCPDIAG_GETSOCK: u16 = 18;
const SOCK_DESTROY: u16 = 21;
const TCP: u8 = 6;
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const FIN_WAIT_1: u8 = 4;
const TIME_WAIT: u8 = 6;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;
/// Every state of a connection except the two that hold no program's socket.
const ALIVE: u32 = 0x1fff & !(1 << TIME_WAIT) & !(1 << LISTEN) & !1;

/// One TCP connection of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// The kernel's TCP state; 1 is established.
    pub state: u8,
    /// Bytes that the program has not read yet.
    pub unread: u32,
    /// The program has ended, and the kernel sends on what it gave.
    pub orphan: bool,
    /// The kernel's inet_diag_sockid as it came, to name the socket again.
    id: [u8; 48],
    family: u8,
}

impl Connection {
    /// Both ends have agreed on it.
    pub fn is_established(&self) -> bool {
        self.state == ESTABLISHED
    }
}

/// Lists and destroys connections.
#[derive(Debug)]
pub struct Connections {
    socket: Socket,
}

impl Connections {
    /// Opens the way to the kernel.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(NETLINK_SOCK_DIAG)? })
    }

    /// All connections with a program behind them, both families.
    pub fn list(&mut self) -> Result<Vec<Connection>> {
        self.list_states(ALIVE)
    }

    /// The established connections of clients to these addresses.
    pub fn established_on(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<Vec<Connection>> {
        let mut all = self.list_states(1 << ESTABLISHED)?;
        all.retain(|c| addrs.contains(&c.local.ip()));
        Ok(all)
    }

    /// All connections to these addresses with a program behind them.
    pub fn alive_on(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<Vec<Connection>> {
        let mut all = self.list()?;
        all.retain(|c| addrs.contains(&c.local.ip()));
        Ok(all)
    }

    /// The ports on which something listens.
    pub fn listening(&mut self) -> Result<Vec<u16>> {
        Ok(self.list_states(1 << LISTEN)?.iter().map(|c| c.local.port()).collect())
    }

    /// Destroys the connections whose local address is one of these; returns how many of each.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the kernel cannot destroy sockets. Others: what could be destroyed is.
    pub fn destroy_local(&mut self, addrs: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, usize>> {
        let mut of: BTreeMap<IpAddr, usize> = BTreeMap::new();
        self.destroy_matching(|c| addrs.contains(&c.local.ip()), |c| *of.entry(c.local.ip()).or_default() += 1)?;
        Ok(of)
    }

    /// Destroys the storage's connections to and from these nodes; returns how many.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the kernel cannot destroy sockets. Others: what could be destroyed is.
    pub fn kick(&mut self, addresses: &[IpAddr], ports: &StoragePorts) -> Result<usize> {
        let covered = |c: &Connection| {
            // A node that is named by an address of our own must not cost our own connections to ourselves.
            let other = addresses.contains(&c.remote.ip()) && c.local.ip() != c.remote.ip();
            other && ports.covers(c.local.port(), c.remote.port())
        };
        let mut destroyed = 0;
        self.destroy_matching(covered, |_| destroyed += 1)?;
        Ok(destroyed)
    }

    /// Destroys the connections that storage clients of these nodes have to servers of this one; returns how many.
    ///
    /// # Errors
    /// As [`Connections::kick`].
    pub fn free(&mut self, addresses: &[IpAddr], ports: &StoragePorts) -> Result<usize> {
        // Clients of other services have ports of their own in the same range.
        let servers: BTreeSet<u16> = self.listening()?.into_iter().filter(|p| ports.is_storage(*p)).collect();
        let theirs = |c: &Connection| {
            let other = addresses.contains(&c.remote.ip()) && c.local.ip() != c.remote.ip();
            other && servers.contains(&c.local.port()) && ports.covers(c.local.port(), c.remote.port())
        };
        let mut destroyed = 0;
        self.destroy_matching(theirs, |_| destroyed += 1)?;
        Ok(destroyed)
    }

    /// Ends the attempts to connect to the storage of these nodes, so that they are made anew at once; returns how many.
    /// While a node was away the kernel has doubled the time to the next SYN again and again, up to minutes.
    ///
    /// # Errors
    /// As [`Connections::kick`].
    pub fn try_anew(&mut self, addresses: &[IpAddr], ports: &StoragePorts) -> Result<usize> {
        let covered = |c: &Connection| {
            let theirs = addresses.contains(&c.remote.ip()) && c.local.ip() != c.remote.ip();
            c.state == SYN_SENT && theirs && ports.covers(c.local.port(), c.remote.port())
        };
        let mut ended = 0;
        self.destroy_matching(covered, |_| ended += 1)?;
        Ok(ended)
    }

    /// Destroys the storage's connections whose program has ended: what it gave to them and has not been sent, or not been
    /// received, is not sent any more. Returns how many.
    ///
    /// # Errors
    /// As [`Connections::kick`].
    pub fn end_orphans(&mut self, ports: &StoragePorts) -> Result<usize> {
        let left = |c: &Connection| c.orphan && ports.covers(c.local.port(), c.remote.port());
        let mut destroyed = 0;
        self.destroy_matching(left, |_| destroyed += 1)?;
        Ok(destroyed)
    }

    fn list_states(&mut self, states: u32) -> Result<Vec<Connection>> {
        // A dump walks the kernel's whole table of connections, however few they are: both families at one go.
        let answers = self.socket.dump("list TCP connections", TCPDIAG_GETSOCK, |b| {
            b.raw(&both_families(states));
        })?;
        Ok(answers.iter().filter_map(|a| parse(&a.payload)).collect())
    }

    fn destroy_matching(
        &mut self,
        matches: impl Fn(&Connection) -> bool,
        mut destroyed: impl FnMut(&Connection),
    ) -> Result<()> {
        let mut failed = None;
        let found = self.list()?;
        let mut seen = HashSet::new();
        for c in found.iter().filter(|c| matches(c) && seen.insert(**c)) {
            match self.destroy(c) {
                Ok(true) => destroyed(c),
                Ok(false) => {}
                Err(e @ Error::Unsupported { .. }) => return Err(e),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Destroys one; false when it had ended by itself.
    fn destroy(&mut self, c: &Connection) -> Result<bool> {
        let what = format!("destroy the connection {} - {}", c.local, c.remote);
        let outcome = self.socket.request(&what, SOCK_DESTROY, 0, |b| {
            b.raw(&request(c.family, u32::MAX, &c.id));
        });
        match outcome {
            Ok(()) => Ok(true),
            Err(e) => match e.errno() {
                Some(libc::ENOENT) => Ok(false),
                // ENOTSUPP is the kernel's own number for it and has no name outside.
                Some(libc::EOPNOTSUPP | 524 | libc::EINVAL) => Err(Error::Unsupported {
                    what: "destroy TCP connections".to_owned(),
                    hint: "it was built without CONFIG_INET_DIAG_DESTROY; storage clients will block for the \
                           filesystem's own time-out when a server dies"
                        .to_owned(),
                }),
                _ => Err(e),
            },
        }
    }
}

/// Destroys the storage's connections to and from these nodes; returns how many.
pub fn kick(addresses: &[IpAddr], ports: &StoragePorts) -> Result<usize> {
    Connections::open()?.kick(addresses, ports)
}

/// struct inet_diag_req: four bytes of family, prefix lengths and extensions, the id, states, database.
fn both_families(states: u32) -> [u8; 60] {
    let mut r = [0u8; 60];
    r[52..56].copy_from_slice(&states.to_ne_bytes());
    r
}

/// struct inet_diag_req_v2.
fn request(family: u8, states: u32, id: &[u8; 48]) -> [u8; 56] {
    let mut r = [0u8; 56];
    r[0] = family;
    r[1] = TCP;
    r[4..8].copy_from_slice(&states.to_ne_bytes());
    r[8..].copy_from_slice(id);
    r
}

/// Reads a struct inet_diag_msg.
pub(crate) fn parse(payload: &[u8]) -> Option<Connection> {
    let family = *payload.first()?;
    let state = *payload.get(1)?;
    let id: [u8; 48] = wire::bytes_at(payload, 4)?;
    // idiag_expires follows the id, then the two queues, the user and the inode, which a socket has while a program has it.
    let unread = wire::u32_at(payload, 56)?;
    let orphan = wire::u32_at(payload, 68)? == 0 && matches!(state, FIN_WAIT_1 | LAST_ACK | CLOSING);
    let len = match i32::from(family) {
        libc::AF_INET => 4,
        libc::AF_INET6 => 16,
        _ => return None,
    };
    let port = |at| wire::bytes_at(&id, at).map(u16::from_be_bytes);
    let addr = |at: usize| ip_from(id.get(at..at + len)?).map(|a| a.to_canonical());
    Some(Connection {
        local: SocketAddr::new(addr(4)?, port(0)?),
        remote: SocketAddr::new(addr(20)?, port(2)?),
        state,
        unread,
        orphan,
        id,
        family,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let mut payload = vec![10u8, 1, 0, 0];
        let mut id = [0u8; 48];
        id[..4].copy_from_slice(&[0, 22, 0xc0, 0x00]);
        id[14..20].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        id[30..36].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 2]);
        payload.extend_from_slice(&id);
        payload.extend_from_slice(&[0; 20]);
        let c = parse(&payload).unwrap();
        assert_eq!(c.local, "10.0.0.1:22".parse().unwrap());
        assert_eq!(c.remote, "10.0.0.2:49152".parse().unwrap());
        for cut in 0..payload.len() {
            let _ = parse(&payload[..cut]);
        }
    }
}
