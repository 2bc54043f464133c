//! Public addresses, interfaces, tickle lists.

use super::nodes::counted;
use crate::wire::{CONNECTION_LEN, Connection, Reader, SOCK_ADDR_LEN, SockAddr, WireError, Writer};
use std::net::{IpAddr, SocketAddr};

/// One public address and the node that hosts it ([`crate::node::UNKNOWN`]: nobody).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicIp {
    pub pnn: u32,
    pub address: IpAddr,
}

/// `GET_PUBLIC_IPS`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PublicIps(pub Vec<PublicIp>);

impl PublicIps {
    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        out.u32(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        for ip in &self.0 {
            out.u32(ip.pnn);
            SockAddr::ip(ip.address).put(out);
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Fewer addresses than announced, or one of another family.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let count = counted(&mut r, 4 + SOCK_ADDR_LEN, "public addresses")?;
        let one = |_| {
            let pnn = r.u32("node number")?;
            SockAddr::get(&mut r).map(|a| PublicIp { pnn, address: a.0.ip() })
        };
        (0..count).map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iface {
    /// At most 15 bytes.
    pub name: String,
    pub up: bool,
    /// Public addresses on it.
    pub references: u32,
}

/// Room for a name in C.
const NAME_LEN: usize = 18;
const IFACE_LEN: usize = NAME_LEN + 6;

impl Iface {
    /// Writes its 24 bytes.
    pub fn put(&self, out: &mut Writer) {
        let name = &self.name.as_bytes()[..self.name.len().min(NAME_LEN - 1)];
        out.raw(name).zeros(NAME_LEN - name.len()).u16(u16::from(self.up)).u32(self.references);
    }

    /// Reads its 24 bytes.
    ///
    /// # Errors
    /// Fewer are left, or the name has no end.
    pub fn get(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let name = crate::wire::text(r.take(NAME_LEN, "interface name")?, "interface name")?.to_owned();
        let up = r.u16("link state")? != 0;
        Ok(Self { name, up, references: r.u32("references")? })
    }
}

/// Interfaces of a node (`GET_IFACES`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ifaces(pub Vec<Iface>);

impl Ifaces {
    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        out.u32(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.iter().for_each(|i| i.put(out));
    }

    /// Reads it.
    ///
    /// # Errors
    /// Fewer interfaces than announced.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        Self::read(&mut Reader::new(bytes))
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = counted(r, IFACE_LEN, "interfaces")?;
        (0..count).map(|_| Iface::get(r)).collect::<Result<_, _>>().map(Self)
    }
}

/// One public address with its interfaces (`GET_PUBLIC_IP_INFO`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicIpInfo {
    pub ip: PublicIp,
    /// Which of the interfaces it is on, if it is here.
    pub active: Option<u32>,
    pub ifaces: Ifaces,
}

impl PublicIpInfo {
    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        out.u32(self.ip.pnn);
        SockAddr::ip(self.ip.address).put(out);
        out.u32(self.active.unwrap_or(u32::MAX));
        self.ifaces.put(out);
    }

    /// Reads it.
    ///
    /// # Errors
    /// Fewer interfaces than announced.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let pnn = r.u32("node number")?;
        let address = SockAddr::get(&mut r)?.0.ip();
        let active = Some(r.u32("active interface")?).filter(|n| *n != u32::MAX);
        Ok(Self { ip: PublicIp { pnn, address }, active, ifaces: Ifaces::read(&mut r)? })
    }
}

/// Connections to an address (`GET_TCP_TICKLE_LIST`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickleList {
    /// The address; in a question a port of 0 means all ports.
    pub address: SocketAddr,
    pub connections: Vec<Connection>,
}

impl TickleList {
    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        SockAddr(self.address).put(out);
        out.u32(u32::try_from(self.connections.len()).unwrap_or(u32::MAX));
        self.connections.iter().for_each(|c| c.put(out));
    }

    /// Reads it.
    ///
    /// # Errors
    /// Fewer connections than announced.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let SockAddr(address) = SockAddr::get(&mut r)?;
        let count = counted(&mut r, CONNECTION_LEN, "connections")?;
        let connections = (0..count).map(|_| Connection::get(&mut r)).collect::<Result<_, _>>()?;
        Ok(Self { address, connections })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_interfaces_survive() {
        let info = PublicIpInfo {
            ip: PublicIp { pnn: 2, address: "192.168.122.200".parse().unwrap() },
            active: Some(0),
            ifaces: Ifaces(vec![Iface { name: "eth0".into(), up: true, references: 1 }]),
        };
        let mut out = Writer::default();
        info.put(&mut out);
        let bytes = out.finish();
        assert_eq!(PublicIpInfo::get(&bytes).unwrap(), info);
        assert_eq!(bytes.len(), 4 + 28 + 4 + 4 + 24);
        for cut in 0..bytes.len() {
            assert!(PublicIpInfo::get(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_interface_name_that_is_too_long_is_cut_and_one_without_end_refused() {
        let mut out = Writer::default();
        Iface { name: "a-name-that-is-far-too-long".into(), up: false, references: 0 }.put(&mut out);
        let bytes = out.finish();
        assert_eq!(bytes.len(), IFACE_LEN);
        assert_eq!(Iface::get(&mut Reader::new(&bytes)).unwrap().name, "a-name-that-is-fa");
        assert!(Iface::get(&mut Reader::new(&[b'x'; IFACE_LEN])).is_err());
    }
}
