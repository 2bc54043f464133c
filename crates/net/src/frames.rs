//! Ethernet frames of ARP (RFC 826, RFC 5227) and IPv6 neighbour discovery (RFC 4861), as bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::command::Mac;
use crate::wire::bytes_at;

/// Ethernet type of ARP.
pub(crate) const ETH_P_ARP: u16 = 0x0806;
/// Ethernet type of IPv6.
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;

const BROADCAST: Mac = Mac([0xff; 6]);
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Gratuitous ARP, request form: "who has `addr`, tell `addr`".
pub fn announce_request(mac: Mac, addr: Ipv4Addr) -> Vec<u8> {
    arp(ARP_REQUEST, mac, addr, Mac([0; 6]), addr)
}

/// Gratuitous ARP, reply form, for those who ignore the request form.
pub fn announce_reply(mac: Mac, addr: Ipv4Addr) -> Vec<u8> {
    arp(ARP_REPLY, mac, addr, mac, addr)
}

/// ARP probe: asks for `addr` without telling anybody an address of one's own (RFC 5227, 2.1.1).
pub fn arp_probe(mac: Mac, addr: Ipv4Addr) -> Vec<u8> {
    arp(ARP_REQUEST, mac, Ipv4Addr::UNSPECIFIED, Mac([0; 6]), addr)
}

fn arp(op: u16, sender: Mac, sender_ip: Ipv4Addr, target: Mac, target_ip: Ipv4Addr) -> Vec<u8> {
    let mut f = ethernet(BROADCAST, sender, ETH_P_ARP);
    // Ethernet, IPv4, their address lengths.
    f.extend_from_slice(&[0, 1, 8, 0, 6, 4]);
    f.extend_from_slice(&op.to_be_bytes());
    f.extend_from_slice(&sender.0);
    f.extend_from_slice(&sender_ip.octets());
    f.extend_from_slice(&target.0);
    f.extend_from_slice(&target_ip.octets());
    f
}

/// Who says in this frame that `ip` is theirs: (mac, ip). None for anything but ARP for IPv4 with a sender.
pub fn arp_sender(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let arp = frame.get(14..)?;
    if bytes_at(frame, 12) != Some(ETH_P_ARP.to_be_bytes()) || bytes_at(arp, 0) != Some([0u8, 1, 8, 0, 6, 4]) {
        return None;
    }
    let ip = Ipv4Addr::from(bytes_at::<4>(arp, 14)?);
    (!ip.is_unspecified()).then_some((Mac(bytes_at(arp, 8)?), ip))
}

/// Unsolicited neighbour advertisement to all nodes, overriding what they know (RFC 4861, 7.2.6).
pub fn advertisement(mac: Mac, addr: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Flags: override; then the target and its link-layer address as an option.
    let mut icmp = vec![ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend_from_slice(&addr.octets());
    icmp.extend_from_slice(&[2, 1]);
    icmp.extend_from_slice(&mac.0);
    icmp6(mac, addr, all_nodes, icmp)
}

/// Neighbour solicitation without a sender, as in duplicate address detection (RFC 4862, 5.4.2).
pub fn solicitation(mac: Mac, target: Ipv6Addr) -> Vec<u8> {
    let t = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]]);
    let mut icmp = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&t);
    icmp6(mac, Ipv6Addr::UNSPECIFIED, group, icmp)
}

/// Which address an ICMPv6 message advertises and where: (mac, target). None for other messages, and for those
/// that do not carry the link-layer address.
pub fn advertised(icmp: &[u8]) -> Option<(Mac, Ipv6Addr)> {
    if icmp.first() != Some(&ADVERTISEMENT) {
        return None;
    }
    let target = Ipv6Addr::from(bytes_at::<16>(icmp, 8)?);
    let mut options = icmp.get(24..)?;
    // Type, length in units of 8 octets, content.
    while let (Some(&kind), Some(&units)) = (options.first(), options.get(1)) {
        if units == 0 {
            return None;
        }
        if kind == 2 {
            return Some((Mac(bytes_at(options, 2)?), target));
        }
        options = options.get(usize::from(units) * 8..)?;
    }
    None
}

fn icmp6(mac: Mac, from: Ipv6Addr, to: Ipv6Addr, mut icmp: Vec<u8>) -> Vec<u8> {
    let sum = checksum(from, to, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let t = to.octets();
    let mut f = ethernet(Mac([0x33, 0x33, t[12], t[13], t[14], t[15]]), mac, ETH_P_IPV6);
    let len = u16::try_from(icmp.len()).unwrap_or(0);
    f.extend_from_slice(&[0x60, 0, 0, 0]);
    f.extend_from_slice(&len.to_be_bytes());
    // ICMPv6, and the hop limit by which receivers know that no router was in between.
    f.extend_from_slice(&[58, 255]);
    f.extend_from_slice(&from.octets());
    f.extend_from_slice(&to.octets());
    f.extend_from_slice(&icmp);
    f
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut f = Vec::with_capacity(90);
    f.extend_from_slice(&to.0);
    f.extend_from_slice(&from.0);
    f.extend_from_slice(&kind.to_be_bytes());
    f
}

/// The Internet checksum over the IPv6 pseudo-header and an ICMPv6 message (RFC 4443, 2.3).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, icmp: &[u8]) -> u16 {
    let len = u32::try_from(icmp.len()).unwrap_or(0).to_be_bytes();
    let mut sum = 0u32;
    for part in [&from.octets()[..], &to.octets()[..], &len, &[0, 0, 0, 58], icmp] {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_announcement_names_its_sender_and_a_probe_does_not() {
        let addr = Ipv4Addr::new(10, 0, 0, 9);
        for frame in [announce_request(MAC, addr), announce_reply(MAC, addr)] {
            assert_eq!(frame.len(), 42);
            assert_eq!(arp_sender(&frame), Some((MAC, addr)));
        }
        assert_eq!(arp_sender(&arp_probe(MAC, addr)), None);
    }

    #[test]
    fn an_advertisement_is_read_back_and_sums_to_zero() {
        let addr: Ipv6Addr = "fd00::9".parse().unwrap();
        let frame = advertisement(MAC, addr);
        let icmp = &frame[54..];
        assert_eq!(advertised(icmp), Some((MAC, addr)));
        assert_eq!(checksum(addr, "ff02::1".parse().unwrap(), icmp), 0);
    }

    #[test]
    fn truncated_frames_are_nothing() {
        let frame = advertisement(MAC, "fd00::9".parse().unwrap());
        for cut in 0..frame.len() - 54 {
            assert_eq!(advertised(&frame[54..54 + cut]), None);
        }
        let frame = announce_reply(MAC, Ipv4Addr::new(1, 2, 3, 4));
        for cut in 0..32 {
            assert_eq!(arp_sender(&frame[..cut]), None);
        }
    }
}
