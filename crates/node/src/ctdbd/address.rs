//! Which node this is: as with CTDB, the one whose address can be had.
//!
//! CTDB's daemons listen on their address at TCP port 4379, so one that is taken there has a daemon of CTDB's. Ours
//! hold the UDP port of that number for as long as they live, which nobody else wants and which the kernel gives to
//! one process only, without a moment between.

use crate::config::{CtdbFiles, CtdbPlaces};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// CTDB's own port.
const CTDB_PORT: u16 = 4379;

/// An address that no other daemon has, for as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    address: IpAddr,
    _held: UdpSocket,
}

impl Claim {
    /// The address.
    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    fn of(address: IpAddr, port: u16) -> io::Result<Self> {
        let address_there = SocketAddr::new(address, port);
        // As CTDB does it: in use only while somebody listens.
        let listener = Socket::new(Domain::for_address(address_there), Type::STREAM, Some(Protocol::TCP))?;
        listener.set_reuse_address(true)?;
        listener.bind(&address_there.into())?;
        listener.listen(1)?;
        Ok(Self { address, _held: UdpSocket::bind(address_there)? })
    }
}

/// The address that `ctdb.conf` names, or the first of the nodes' that this machine has and no other daemon.
///
/// # Errors
/// There is none.
pub(super) fn claim(files: &CtdbFiles, places: &CtdbPlaces) -> Result<Claim, String> {
    let nodes = places.base.join("nodes");
    first(files.address(), files.addresses(), CTDB_PORT).map_err(|why| match why {
        Why::Named(address, error) => format!(
            "cannot be the node with the address {address}, which {} names as this one's: {}",
            places.base.join("ctdb.conf").display(),
            explained(&error)
        ),
        Why::Taken(taken) => format!(
            "each of {} ({}) that this machine has is another daemon's already: end that one, or write this node's address \
             into {0} on all nodes",
            nodes.display(),
            list(&taken)
        ),
        Why::None => format!(
            "none of the addresses in {} is this machine's: write this node's address into it, on all nodes, or bring the \
             interface up that has it",
            nodes.display()
        ),
        Why::Failed(address, error) => format!("cannot use this node's address {address}: {error}"),
    })
}

fn explained(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => "another ctdbd has it: end that one, or name another address".into(),
        ErrorKind::AddrNotAvailable => "this machine does not have it: correct it, or bring the interface up".into(),
        _ => error.to_string(),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[derive(Debug)]
enum Why {
    Named(IpAddr, io::Error),
    Taken(Vec<IpAddr>),
    None,
    Failed(IpAddr, io::Error),
}

fn first(named: Option<IpAddr>, nodes: impl Iterator<Item = IpAddr>, port: u16) -> Result<Claim, Why> {
    if let Some(address) = named {
        return Claim::of(address, port).map_err(|error| Why::Named(address, error));
    }
    let mut taken = Vec::new();
    for address in nodes {
        match Claim::of(address, port) {
            Ok(claim) => return Ok(claim),
            Err(error) if error.kind() == ErrorKind::AddrInUse => taken.push(address),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(Why::Failed(address, error)),
        }
    }
    Err(if taken.is_empty() { Why::None } else { Why::Taken(taken) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_daemon_gets_another_address_and_a_stranger_keeps_his() {
        // Some port that is free on all of them.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nodes = ["203.0.113.1", "127.77.0.1", "127.77.0.2", "127.77.0.3"].map(ip);
        let claim = || first(None, nodes.into_iter(), port);
        let stranger = std::net::TcpListener::bind((nodes[2], port)).unwrap();
        let one = claim().unwrap();
        assert_eq!(one.address(), nodes[1]);
        let two = claim().unwrap();
        assert_eq!(two.address(), nodes[3]);
        assert!(matches!(claim(), Err(Why::Taken(taken)) if taken == nodes[1..]));
        drop(one);
        assert_eq!(claim().unwrap().address(), nodes[1]);
        drop(stranger);
        let named = |address| first(Some(address), std::iter::empty(), port);
        assert!(matches!(named(nodes[3]), Err(Why::Named(_, error)) if error.kind() == ErrorKind::AddrInUse));
        assert!(matches!(named(nodes[0]), Err(Why::Named(_, error)) if error.kind() == ErrorKind::AddrNotAvailable));
        assert!(matches!(first(None, [nodes[0]].into_iter(), port), Err(Why::None)));
    }
}
