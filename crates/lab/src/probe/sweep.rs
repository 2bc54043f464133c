//! The sweep: pings many addresses and reports each one's gaps, told apart by the address in place of a name.
//!
//! An address that answers is asked every 50 ms, one that does not every 10 ms.

use super::{now_us, say, stop_flag};
use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

const WELL_US: u64 = 50_000;
const LOST_US: u64 = 10_000;
/// Shorter gaps are a busy machine's.
const GAP_US: u64 = 100_000;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

struct Target {
    addr: Ipv4Addr,
    /// When it was asked last, and when it answered last; 0 is never.
    asked: u64,
    last: u64,
}

impl Target {
    fn due(&self) -> u64 {
        self.asked + if self.last >= self.asked { WELL_US } else { LOST_US }
    }
}

/// Pings until standard input closes.
pub(crate) fn main(targets: &[Ipv4Addr]) -> Result<i32> {
    let stop = stop_flag();
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).context("cannot open a raw socket")?;
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    socket.set_recv_buffer_size(1 << 20)?;
    let id = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    let begun = now_us();
    let count = u64::try_from(targets.len()).unwrap_or(1).max(1);
    let mut all: Vec<Target> = (0..)
        .zip(targets)
        // Spread over the interval, so that they are not all asked in one go.
        .map(|(i, &addr)| Target { addr, asked: begun - WELL_US + i * WELL_US / count, last: 0 })
        .collect();
    let request = echo(id);
    let (mut answers, mut said) = (0u64, begun);
    let mut buffer = [0u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let now = now_us();
        for target in all.iter_mut().filter(|t| t.due() <= now) {
            target.asked = now;
            // An address that nobody has is "unreachable" now and then: it is asked again.
            let _ = socket.send_to(&request, &SocketAddr::from((target.addr, 0)).into());
        }
        if now > said + GAP_US && all.iter().all(|t| now < t.last + GAP_US) {
            said = now;
            say(&format!("A {now} {answers} 0 -"));
        }
        while let Ok(n) = (&socket).read(&mut buffer) {
            let Some(target) = from(&buffer[..n], id).and_then(|a| all.iter_mut().find(|t| t.addr == a)) else {
                continue;
            };
            let now = now_us();
            if target.last > 0 && now - target.last > GAP_US {
                say(&format!("G {} {now} {1} {1} -", target.last, target.addr));
            }
            target.last = now;
            answers += 1;
            if all.iter().any(|t| t.due() <= now) {
                break;
            }
        }
    }
    let now = now_us();
    for target in all.iter().filter(|t| now - t.last > GAP_US) {
        say(&format!("G {} {now} {} NEVER -", target.last, target.addr));
    }
    say(&format!("N {answers} 0 -"));
    Ok(0)
}

/// An ICMP echo request without data.
fn echo(id: u16) -> [u8; 8] {
    let [a, b] = id.to_be_bytes();
    // The ones' complement sum of type and identifier (RFC 1071).
    let (low, carry) = (u16::from(ECHO_REQUEST) << 8).overflowing_add(id);
    let [c, d] = (!(low + u16::from(carry))).to_be_bytes();
    [ECHO_REQUEST, 0, c, d, a, b, 0, 0]
}

/// Whose answer to us a received IPv4 packet is.
fn from(packet: &[u8], id: u16) -> Option<Ipv4Addr> {
    let icmp = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
    if *icmp.first()? != ECHO_REPLY || icmp.get(4..6)? != id.to_be_bytes() {
        return None;
    }
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    Some(source.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_request_has_a_right_checksum() {
        for id in [0u16, 1, 0x1234, 0xf7ff, 0xf800, 0xffff] {
            let f = echo(id);
            let sum: u32 = f.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "id {id:x}");
        }
    }

    #[test]
    fn only_answers_to_us_count() {
        let mut packet = vec![0x45; 1];
        packet.extend([0; 11]);
        packet.extend([10, 8, 1, 2, 10, 8, 255, 10]);
        packet.extend([ECHO_REPLY, 0, 0, 0, 0x12, 0x34, 0, 0]);
        assert_eq!(from(&packet, 0x1234), Some(Ipv4Addr::new(10, 8, 1, 2)));
        assert_eq!(from(&packet, 0x1235), None);
        assert_eq!(from(&packet[..22], 0x1234), None);
    }
}
