//! ICMP echo (RFC 792, RFC 4443), fifty times a second.

use super::{Recorder, pause};
use crate::now_us;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(20);
const ANSWER: Duration = Duration::from_millis(100);

pub(super) fn run(vip: IpAddr, record: &Recorder, stop: &AtomicBool) {
    let mut socket = match open(vip) {
        Ok(socket) => socket,
        Err(e) => return record.wrong(format!("cannot ping: {e}; root may, and who is in net.ipv4.ping_group_range")),
    };
    let mut sequence = 0u16;
    while !stop.load(Ordering::Relaxed) {
        sequence = sequence.wrapping_add(1);
        let begun = now_us();
        match once(&mut socket, vip, sequence) {
            Ok(()) => record.ok(begun),
            Err(e) => record.missed(&e.to_string()),
        }
        pause(EVERY, stop);
    }
}

/// A ping socket (the kernel sets identifier and checksum, and gives only answers that are ours), or a raw one.
fn open(vip: IpAddr) -> std::io::Result<Socket> {
    let (domain, protocol) =
        if vip.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    let socket =
        Socket::new(domain, Type::DGRAM, Some(protocol)).or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))?;
    socket.connect(&SocketAddr::new(vip, 0).into())?;
    socket.set_read_timeout(Some(ANSWER))?;
    Ok(socket)
}

fn once(socket: &mut Socket, vip: IpAddr, sequence: u16) -> std::io::Result<()> {
    let request = if vip.is_ipv4() { 8 } else { 128 };
    let reply = if vip.is_ipv4() { 0 } else { 129 };
    let [a, b] = sequence.to_be_bytes();
    let mut packet = [request, 0, 0, 0, 0x5f, 0xd1, a, b, b's', b'f'];
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send(&packet)?;
    let end = std::time::Instant::now() + ANSWER;
    let mut answer = [0; 256];
    while std::time::Instant::now() < end {
        let n = socket.read(&mut answer)?;
        let mut bytes = &answer[..n];
        // A raw IPv4 socket gives the IP header too.
        if vip.is_ipv4() && bytes.first().is_some_and(|b| b >> 4 == 4) {
            bytes = bytes.get(usize::from(bytes[0] & 15) * 4..).unwrap_or_default();
        }
        if bytes.first() == Some(&reply) && bytes.get(6..8) == Some(&[a, b]) {
            return Ok(());
        }
    }
    Err(std::io::ErrorKind::TimedOut.into())
}

/// RFC 1071. (The kernel does it anew where it must.)
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_of_rfc_1071() {
        assert_eq!(super::checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
