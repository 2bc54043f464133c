//! Throws garbage at ports: random bytes, lying lengths, openings cut short, connections that say nothing.

use anyhow::Result;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Sends `rounds` pieces of garbage to each port of `target`; the bytes follow from the round.
pub(crate) fn main(target: IpAddr, tcp: &[u16], udp: &[u16], rounds: u64) -> Result<i32> {
    let mut sent = 0u64;
    let mut held = Vec::new();
    for port in tcp {
        let to = SocketAddr::new(target, *port);
        for round in 0..rounds {
            let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else {
                continue;
            };
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            stream.set_write_timeout(Some(Duration::from_millis(500)))?;
            // A server that hangs up on garbage is right: a failed write is no failure here.
            let _ = stream.write_all(&piece(round));
            let mut answer = [0u8; 512];
            let _ = stream.read(&mut answer);
            sent += 1;
            // Every eighth connection stays open and silent until the end.
            if round % 8 == 0 {
                held.push(stream);
            }
        }
    }
    let bind = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(bind)?;
    for port in udp {
        for round in 0..rounds * 4 {
            let bytes = piece(round);
            // The kernel may report an earlier packet's ICMP error here.
            let _ = socket.send_to(&bytes[..bytes.len().min(1400)], (target, *port));
            sent += 1;
            if round % 16 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    println!("{sent} pieces of garbage sent to {target}");
    Ok(0)
}

/// Piece `round`: eight kinds, each with its own random tail.
fn piece(round: u64) -> Vec<u8> {
    let mut x = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |len: usize| -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            out.extend(x.to_le_bytes());
        }
        out.truncate(len);
        out
    };
    let with = |head: &[u8], tail: Vec<u8>| [head, &tail].concat();
    match round % 8 {
        0 => random(1 + (round as usize * 37) % 1400),
        1 => random(200_000),
        // A TLS record header, then nonsense of the promised length; and one that promises more than it sends.
        2 => with(&[0x16, 3, 1, 2, 0], random(512)),
        3 => with(&[0x16, 3, 3, 0xff, 0xff, 1, 0xff, 0xff, 0xff], random(40)),
        // Lengths of four gigabytes, in either byte order.
        4 => with(&[0xff, 0xff, 0xff, 0xff], random(64)),
        5 => with(&[0, 0, 0, 0x7f], random(64)),
        // A DNS question whose compressed name points at itself, with a TCP length before it every other time.
        6 => {
            let dns = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
            if round % 16 == 6 { dns.to_vec() } else { with(&[0, 18], dns.to_vec()) }
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::piece;

    #[test]
    fn pieces_are_of_all_kinds_and_repeatable() {
        assert_eq!(piece(1).len(), 200_000);
        assert_eq!(piece(7).len(), 0);
        assert_eq!(piece(9), piece(9));
        assert_ne!(piece(1), piece(9));
    }
}
