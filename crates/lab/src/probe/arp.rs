//! The ARP watcher: asks for every VIP several times a second and prints who claims it (RFC 826).
//!
//! Any ARP packet whose sender address is a VIP is a claim. A line is printed when the claimant of a VIP changes:
//!
//! ```text
//! C time vip old-mac new-mac time-of-old's-last-claim
//! ```
//!
//! Two holders at once show as changes to and fro ([`to_and_fro`]).

use super::{now_us, say, stop_flag};
use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const ETH_P_ARP: u16 = 0x0806;

type Mac = [u8; 6];

fn mac_text(m: Mac) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

/// Watches `vips` on `interface` until standard input closes, asking each `interval`.
pub(crate) fn main(interface: &str, own: Ipv4Addr, vips: &[Ipv4Addr], interval: Duration) -> Result<i32> {
    let stop = stop_flag();
    let mac = own_mac(interface)?;
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ARP.to_be()))))
        .context("cannot open a packet socket (root only)")?;
    socket.set_read_timeout(Some(Duration::from_millis(5)))?;
    let to = link_address(&socket, own)?;
    let mut held: BTreeMap<Ipv4Addr, (Mac, u64)> = BTreeMap::new();
    let (mut asked, mut heard, mut said) = (Instant::now() - interval, 0u64, Instant::now());
    let mut frame = [0u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        if asked.elapsed() >= interval {
            asked = Instant::now();
            for &vip in vips {
                socket.send_to(&request(mac, own, vip), &to).context("cannot send an ARP request")?;
            }
        }
        if said.elapsed() > Duration::from_millis(200) {
            said = Instant::now();
            say(&format!("A {} {heard} 0 {}", now_us(), held.len()));
        }
        let Ok(n) = (&socket).read(&mut frame) else {
            continue;
        };
        let Some((sender, ip)) = claim(&frame[..n]) else {
            continue;
        };
        if !vips.contains(&ip) {
            continue;
        }
        heard += 1;
        let now = now_us();
        let before = held.insert(ip, (sender, now));
        if before.is_none_or(|(mac, _)| mac != sender) {
            let (old, last) = before.map_or_else(|| ("-".to_owned(), 0), |(mac, last)| (mac_text(mac), last));
            say(&format!("C {now} {ip} {old} {} {last}", mac_text(sender)));
        }
    }
    say(&format!("N {heard} 0 -"));
    Ok(0)
}

fn own_mac(interface: &str) -> Result<Mac> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{interface}/address"))
        .with_context(|| format!("no interface {interface}"))?;
    let bytes: Vec<u8> =
        text.trim().split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<_, _>>().context("not a MAC")?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("{interface} has no Ethernet address"))
}

/// The interface's link-layer address for sending. A received frame brings one along: that spares building the
/// structure by hand.
fn link_address(socket: &Socket, own: Ipv4Addr) -> Result<SockAddr> {
    let [a, b, c, _] = own.octets();
    let nudge = UdpSocket::bind((own, 0))?;
    let end = Instant::now() + Duration::from_secs(10);
    let mut last = 10;
    while Instant::now() < end {
        // Any neighbour will do: the kernel asks for it, and the answer is our first frame.
        let _ = nudge.send_to(b"-", (Ipv4Addr::new(a, b, c, last), 9));
        last = if last == 10 { 100 } else { (last + 1).min(115) };
        let mut buffer = [MaybeUninit::uninit(); 256];
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            if let Ok((_, from)) = socket.recv_from(&mut buffer) {
                return Ok(from);
            }
        }
    }
    bail!("no ARP packet was seen for 10 s: is any host of the site on?")
}

fn request(mac: Mac, own: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend(mac);
    f.extend(ETH_P_ARP.to_be_bytes());
    f.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    f.extend(mac);
    f.extend(own.octets());
    f.extend([0; 6]);
    f.extend(target.octets());
    f
}

/// Sender MAC and address of an ARP packet for IPv4 over Ethernet.
fn claim(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let arp = frame.get(14..42)?;
    if frame[12..14] != ETH_P_ARP.to_be_bytes() || arp[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac: Mac = arp[8..14].try_into().ok()?;
    let ip: [u8; 4] = arp[14..18].try_into().ok()?;
    Some((mac, Ipv4Addr::from(ip)))
}

/// One printed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at_us: u64,
    pub(crate) vip: String,
    pub(crate) old: String,
    pub(crate) new: String,
    /// When `old` was last heard to claim it.
    pub(crate) old_until_us: u64,
}

impl Change {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("C ")?.split(' ');
        Some(Self {
            at_us: words.next()?.parse().ok()?,
            vip: words.next()?.to_owned(),
            old: words.next()?.to_owned(),
            new: words.next()?.to_owned(),
            old_until_us: words.next()?.parse().ok()?,
        })
    }
}

/// Claims that went A, B, A within `window`. With a window of a few polls: both answered at the same time.
pub(crate) fn to_and_fro(changes: &[Change], window: Duration) -> Vec<String> {
    let window = u64::try_from(window.as_micros()).unwrap_or(u64::MAX);
    let mut last: BTreeMap<&str, &Change> = BTreeMap::new();
    let mut found = Vec::new();
    for change in changes {
        if let Some(before) = last.insert(&change.vip, change)
            && before.old == change.new
            && change.at_us - before.at_us < window
        {
            found.push(format!(
                "at {} us: {} was claimed by {} and, {} ms after {} had taken it, by {} again",
                change.at_us,
                change.vip,
                before.old,
                (change.at_us - before.at_us) / 1000,
                before.new,
                change.new
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(at_ms: u64, old: &str, new: &str) -> Change {
        let at_us = at_ms * 1000;
        Change { at_us, vip: "192.0.2.1".into(), old: old.into(), new: new.into(), old_until_us: at_us }
    }

    #[test]
    fn a_request_is_a_claim_of_its_sender() {
        let f = request([2, 0, 0, 0, 0, 7], Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(claim(&f), Some(([2, 0, 0, 0, 0, 7], Ipv4Addr::new(192, 0, 2, 9))));
        assert_eq!(claim(&f[..40]), None);
    }

    #[test]
    fn a_move_is_no_double_claim_but_to_and_fro_is() {
        let window = Duration::from_secs(2);
        let moved = [change(0, "-", "a"), change(100, "a", "b")];
        assert!(to_and_fro(&moved, window).is_empty());
        let both = [change(0, "-", "a"), change(100, "a", "b"), change(150, "b", "a")];
        assert_eq!(to_and_fro(&both, window).len(), 1);
        let back_later = [change(0, "-", "a"), change(100, "a", "b"), change(9000, "b", "a")];
        assert!(to_and_fro(&back_later, window).is_empty());
    }
}
