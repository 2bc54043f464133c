//! One interface's number, state and link-layer address over rtnetlink (rtnetlink(7), RTM_GETLINK).
//!
//! Asks for single interfaces by name: a server may have thousands of others, and their statistics are not wanted.

use crate::command::Mac;
use crate::error::{Error, Result};
use crate::socket::{NETLINK_ROUTE, Socket};
use crate::wire;

const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;

const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_RUNNING: u32 = 0x40;
const IFF_NOARP: u32 = 0x80;
const IFF_LOWER_UP: u32 = 0x1_0000;

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of the interface.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its link-layer address, if it is an Ethernet-like one.
    pub mac: Option<Mac>,
    flags: u32,
}

impl Link {
    /// Administratively up, with a carrier, and able to pass packets.
    pub fn is_up(&self) -> bool {
        let all = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
        self.flags & all == all
    }

    /// Neighbours find addresses on it by ARP or neighbour discovery.
    pub fn has_neighbours(&self) -> bool {
        self.flags & (IFF_LOOPBACK | IFF_NOARP) == 0 && self.mac.is_some()
    }
}

/// Asks for the interface of this name.
pub fn find(name: &str) -> Result<Link> {
    find_with(&mut Socket::open(NETLINK_ROUTE)?, name)
}

pub(crate) fn find_with(socket: &mut Socket, name: &str) -> Result<Link> {
    let what = format!("describe interface {name}");
    let missing = || Error::NoInterface { name: name.to_owned() };
    // IFNAMSIZ with its ending zero.
    if name.is_empty() || name.len() > 15 || name.contains('\0') {
        return Err(missing());
    }
    let answer = socket.get(&what, RTM_GETLINK, |b| {
        b.raw(&[0; 16]).attr_str(IFLA_IFNAME, name).attr(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    });
    match answer {
        Ok(Some(answer)) => parse(&answer.payload)
            .ok_or_else(|| Error::Malformed { what, why: "interface description too short".to_owned() }),
        Ok(None) => Err(missing()),
        Err(e) if e.errno() == Some(libc::ENODEV) => Err(missing()),
        Err(e) => Err(e),
    }
}

/// Reads a struct ifinfomsg and its attributes.
pub(crate) fn parse(payload: &[u8]) -> Option<Link> {
    let index = u32::try_from(wire::bytes_at(payload, 4).map(i32::from_ne_bytes)?).ok()?;
    let flags = wire::u32_at(payload, 8)?;
    let mut link = Link { index, name: String::new(), mac: None, flags };
    for (kind, value) in wire::attributes(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some(link)
}
