//! Socket addresses as C unions, and pairs of them.

use super::bytes::{Reader, WireError, Writer};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Bytes of a socket address: the union of `sockaddr_in` and `sockaddr_in6`.
pub const SOCK_ADDR_LEN: usize = 28;
/// Bytes of a connection.
pub const CONNECTION_LEN: usize = 2 * SOCK_ADDR_LEN;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// A socket address on the wire. IPv4 in IPv6 is taken for IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SockAddr(pub SocketAddr);

impl SockAddr {
    /// An address without a port.
    #[must_use]
    pub fn ip(ip: IpAddr) -> Self {
        Self(SocketAddr::new(ip, 0))
    }

    /// Writes its 28 bytes.
    pub fn put(self, out: &mut Writer) {
        match self.0 {
            SocketAddr::V4(a) => {
                out.u16(AF_INET).raw(&a.port().to_be_bytes()).raw(&a.ip().octets()).zeros(20);
            }
            SocketAddr::V6(a) => {
                out.u16(AF_INET6).raw(&a.port().to_be_bytes()).u32(a.flowinfo());
                out.raw(&a.ip().octets()).u32(a.scope_id());
            }
        }
    }

    /// Reads its 28 bytes.
    ///
    /// # Errors
    /// Fewer are left, or the family is neither IPv4 nor IPv6.
    pub fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut r = Reader::new(reader.take(SOCK_ADDR_LEN, "socket address")?);
        let family = r.u16("address family")?;
        let port = r.u16("port").map(u16::from_be)?;
        match family {
            AF_INET => {
                let ip = Ipv4Addr::from(u32::from_be(r.u32("IPv4 address")?));
                Ok(Self(SocketAddr::V4(SocketAddrV4::new(ip, port))))
            }
            AF_INET6 => {
                let flow = r.u32("flow information")?;
                let mut octets = [0; 16];
                octets.copy_from_slice(r.take(16, "IPv6 address")?);
                let scope = r.u32("scope")?;
                let ip = Ipv6Addr::from(octets);
                Ok(Self(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
                    None => SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)),
                }))
            }
            other => Err(WireError::Value { what: "address family", value: other.into() }),
        }
    }
}

/// A client's TCP connection to a public address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// The client's end.
    pub client: SocketAddr,
    /// The server's end.
    pub server: SocketAddr,
}

impl Connection {
    /// Writes its 56 bytes.
    pub fn put(self, out: &mut Writer) {
        SockAddr(self.client).put(out);
        SockAddr(self.server).put(out);
    }

    /// Reads its 56 bytes.
    ///
    /// # Errors
    /// As for [`SockAddr::get`].
    pub fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let SockAddr(client) = SockAddr::get(reader)?;
        let SockAddr(server) = SockAddr::get(reader)?;
        Ok(Self { client, server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(addr: &str) -> String {
        let mut out = Writer::default();
        SockAddr(addr.parse().unwrap()).put(&mut out);
        let bytes = out.finish();
        assert_eq!(bytes.len(), SOCK_ADDR_LEN);
        SockAddr::get(&mut Reader::new(&bytes)).unwrap().0.to_string()
    }

    #[test]
    fn addresses_survive_and_v4_in_v6_is_v4() {
        assert_eq!(through("192.168.122.200:445"), "192.168.122.200:445");
        assert_eq!(through("[fd5f:122::200]:2049"), "[fd5f:122::200]:2049");
        assert_eq!(through("[::ffff:10.0.0.1]:445"), "10.0.0.1:445");
    }

    #[test]
    fn the_layout_is_the_one_of_c() {
        // As seen from smbd: family 2, port 4379 and 127.88.0.1 in network order.
        let mut bytes = vec![2, 0, 0x11, 0x1b, 0x7f, 0x58, 0, 1];
        bytes.resize(SOCK_ADDR_LEN, 0);
        let SockAddr(addr) = SockAddr::get(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(addr.to_string(), "127.88.0.1:4379");
        bytes[0] = 1;
        assert!(SockAddr::get(&mut Reader::new(&bytes)).is_err(), "a unix address is refused");
        assert!(SockAddr::get(&mut Reader::new(&bytes[..27])).is_err());
    }
}
