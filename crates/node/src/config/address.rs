//! Which addresses can be used: as a node's own, as a public one, as a network in a list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What is wrong with it.
    pub(super) label: String,
    /// What to write instead.
    pub(super) help: String,
}

fn wrong<T>(label: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { label: label.into(), help: help.into() })
}

/// A host's address, without a prefix length. `loopback`: one of the loopback network will do.
pub(super) fn parse_unicast(text: &str, loopback: bool) -> Result<IpAddr, Wrong> {
    let address: IpAddr = match text.parse() {
        Ok(address) => address,
        Err(_) => {
            if let Some((address, _)) = text.split_once('/')
                && address.parse::<IpAddr>().is_ok()
            {
                return wrong("no prefix length here", format!("write {address}"));
            }
            return wrong(
                "not an IP address; names are not looked up, they may be unknown when it matters",
                "write an address as 192.168.122.100 or fd00::100",
            );
        }
    };
    match not_a_host(address) {
        Some(_) if loopback && address.is_loopback() => Ok(address),
        Some(kind) => wrong(kind, "write an address of a network interface that other machines reach"),
        None => Ok(address),
    }
}

/// A public address with its prefix length.
pub(super) fn parse_vip(text: &str) -> Result<(IpAddr, u8), Wrong> {
    let Some((address, bits)) = text.split_once('/') else {
        return match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => {
                wrong("its prefix length is missing", format!("write {text}/24 if the network has 24 bits"))
            }
            Ok(IpAddr::V6(_)) => {
                wrong("its prefix length is missing", format!("write {text}/64 if the network has 64 bits"))
            }
            Err(_) => wrong("not an IP address", "write ADDRESS/BITS, as 192.168.122.200/24"),
        };
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return wrong("not an IP address", "write ADDRESS/BITS, as 192.168.122.200/24");
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix_len = match bits.parse::<u8>() {
        Ok(bits) if (1..=most).contains(&bits) => bits,
        _ => {
            return wrong(
                format!("`{bits}` is no prefix length"),
                format!("write {address}/N with N from 1 to {most}"),
            );
        }
    };
    if let Some(kind) = not_a_host(address) {
        return wrong(kind, "write a free address of the clients' network");
    }
    if let IpAddr::V4(v4) = address
        && prefix_len < 31
    {
        let hosts = u32::MAX >> prefix_len;
        let host = u32::from(v4) & hosts;
        let network = Ipv4Addr::from(u32::from(v4) & !hosts);
        if host == 0 {
            return wrong(
                format!("the network {network}/{prefix_len} itself"),
                "write a free address inside of this network",
            );
        }
        if host == hosts {
            return wrong(
                format!("the broadcast address of {network}/{prefix_len}"),
                "write a free address inside of this network",
            );
        }
    }
    Ok((address, prefix_len))
}

/// A network, or one address.
pub(super) fn parse_network(text: &str) -> Result<(IpAddr, u8), Wrong> {
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    let Ok(address) = address.parse::<IpAddr>() else {
        return wrong("not a network", "write ADDRESS/BITS, as 10.0.0.0/8, or an address");
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits.parse::<u8>() {
        Ok(bits) if bits <= most => Ok((address, bits)),
        Err(_) if bits.is_empty() && !text.contains('/') => Ok((address, most)),
        _ => wrong(format!("`{bits}` is no prefix length"), format!("write {address}/N with N from 0 to {most}")),
    }
}

/// What an address is when it is none that a host can have on a network.
fn not_a_host(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("no address in particular");
    }
    if address.is_loopback() {
        return Some("a loopback address, which no other machine reaches");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an address of \"this network\" (0.0.0.0/8)"),
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => Some("a reserved address (240.0.0.0/4)"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some("a link-local address, which means something else on each link")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 clothes"),
        _ => None,
    }
}

/// The network that an address with this prefix length lies in.
pub(super) fn network(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_outside_of_any_sense_are_refused() {
        for text in [
            "192.168.122.0/24",
            "192.168.122.255/24",
            "127.0.0.5/8",
            "224.0.0.1/24",
            "0.0.0.0/1",
            "255.255.255.255/32",
            "240.1.1.1/24",
            "fe80::1/64",
            "::1/128",
            "ff02::1/16",
            "::ffff:10.0.0.1/120",
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0.1/0",
            "10.0.0.1/",
            "10.0.0/24",
            "fd00::1/129",
            "",
            "/",
            "10.0.0.1/+8",
        ] {
            let accepted = parse_vip(text);
            // "+8" is a number to Rust; it may pass as 8 and does no harm
            assert!(accepted.is_err() || text.contains('+'), "{text}: {accepted:?}");
        }
        for text in ["10.0.0.0/31", "10.0.0.1/31", "10.0.0.7/32", "192.168.122.200/24", "fd00::/64", "fd00::200/128"] {
            parse_vip(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        }
        assert!(parse_unicast("10.0.0.1/24", false).is_err_and(|w| w.help == "write 10.0.0.1"));
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.1.2.3".parse().expect("v4"), 8), IpAddr::from([10, 0, 0, 0]));
        assert_eq!(network("10.1.2.3".parse().expect("v4"), 0), IpAddr::from([0, 0, 0, 0]));
        assert_eq!(network("10.1.2.3".parse().expect("v4"), 32), IpAddr::from([10, 1, 2, 3]));
        assert_eq!(network("fd00::1:5".parse().expect("v6"), 112), "fd00::1:0".parse::<IpAddr>().expect("v6"));
        assert_eq!(parse_network("10.0.0.1").expect("host").1, 32);
        assert!(parse_network("10.0.0.0/x").is_err());
        assert!(parse_network("10.0.0.0/").is_err());
    }
}
