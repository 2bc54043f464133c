//! Tickles: making a client notice that its TCP connection is gone.
//!
//! A bare ACK with wrong numbers, in the name of the server's end. The client's TCP answers it with an ACK that carries
//! its right numbers (RFC 9293, 3.10.7.4), to which this node, knowing no such connection, sends the reset that the
//! client needs to connect anew at once instead of at its next retransmission. If the connection exists here, nothing
//! happens to it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::command::ClientConnection;
use crate::error::{Error, Result};

/// How long one tickle waits for room in the socket's buffer. The buffer is what paces thousands of them: it holds a
/// few hundred, fewer than any device's queue.
const ROOM: Duration = Duration::from_millis(20);

/// Sends tickles in the name of one address, which must be on this node.
#[derive(Debug)]
pub struct Tickler {
    vip: IpAddr,
    socket: socket2::Socket,
}

impl Tickler {
    /// Opens its raw socket.
    ///
    /// # Errors
    /// The address is not on this node, or no permission for raw sockets.
    pub fn open(vip: IpAddr) -> Result<Self> {
        let fail = |e| Error::io(format!("opening a raw socket on {vip}"), e);
        let domain = if vip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = socket2::Socket::new_raw(domain, Type::RAW.cloexec(), Some(Protocol::TCP)).map_err(fail)?;
        socket.bind(&SocketAddr::new(vip, 0).into()).map_err(fail)?;
        socket.set_write_timeout(Some(ROOM)).map_err(fail)?;
        // It is for sending; what arrives for every TCP port should not pile up.
        let _ = socket.set_recv_buffer_size(0);
        Ok(Self { vip, socket })
    }

    /// Tickles these clients; returns how many were sent. Connections of other addresses are left out. What cannot be
    /// sent is logged: the client's own retransmission does the same, later.
    pub fn send(&self, connections: &[ClientConnection]) -> usize {
        let mut sent = 0;
        for c in connections.iter().filter(|c| c.vip.ip() == self.vip) {
            let Some(segment) = segment(c.vip, c.client) else { continue };
            // Raw IPv6 sockets want no port in the address, and the kernel routes by the rest.
            let to = SockAddr::from(SocketAddr::new(c.client.ip(), 0));
            match self.socket.send_to(&segment, &to) {
                Ok(_) => sent += 1,
                Err(error) => tracing::debug!(client = %c.client, %error, "client not tickled"),
            }
        }
        sent
    }
}

/// A TCP header (RFC 9293, 3.1): ACK, numbers zero. None when the ends are of different families.
fn segment(from: SocketAddr, to: SocketAddr) -> Option<[u8; 20]> {
    let mut s = [0u8; 20];
    s[..2].copy_from_slice(&from.port().to_be_bytes());
    s[2..4].copy_from_slice(&to.port().to_be_bytes());
    s[12] = 5 << 4;
    s[13] = 0x10;
    s[14..16].copy_from_slice(&1234u16.to_be_bytes());
    let sum = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => checksum(&a.octets(), &b.octets(), &s),
        (IpAddr::V6(a), IpAddr::V6(b)) => checksum(&a.octets(), &b.octets(), &s),
        _ => return None,
    };
    s[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(s)
}

/// The Internet checksum over pseudo-header and header.
fn checksum(from: &[u8], to: &[u8], segment: &[u8; 20]) -> u16 {
    // Protocol 6 and the length; the fields' widths differ between IPv4 and IPv6, the sum does not.
    let mut sum = 6u32 + 20;
    for pair in [from, to, segment].into_iter().flat_map(|part| part.chunks_exact(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_sums_to_zero() {
        for (a, b) in [("10.0.0.1:2049", "10.0.0.2:900"), ("[fd00::1]:445", "[fd00::2]:40000")] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let s = segment(a, b).unwrap();
            let rest = match (a.ip(), b.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => checksum(&a.octets(), &b.octets(), &s),
                (IpAddr::V6(a), IpAddr::V6(b)) => checksum(&a.octets(), &b.octets(), &s),
                _ => unreachable!(),
            };
            assert_eq!(rest, 0);
        }
        assert_eq!(segment("10.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()), None);
    }
}
