//! Does somebody else have this address? ARP probes (RFC 5227, 2.1) and neighbour solicitations in the form of
//! duplicate address detection (RFC 4862, 5.4), with shorter times than the RFCs': it is asked during a takeover.
//!
//! Only somebody who *uses* the address counts. Another prober does not: it may be a node of the cluster that was to be
//! the heir in a view before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Type};

use crate::command::Mac;
use crate::error::{Error, Result};
use crate::frames;
use crate::link::Link;
use crate::packet::{self, PacketSocket};

/// How long a probe listens: a machine on the same link answers within a millisecond, and an address that comes from a
/// dead server waits for less than 200 ms until it is taken.
pub const WINDOW: Duration = Duration::from_millis(150);
/// How many questions it asks in that time.
const QUESTIONS: u32 = 3;

/// Asks for `window`; the other's link-layer address as soon as one answers, None when nobody does.
pub fn duplicate(link: &Link, addr: IpAddr, window: Duration) -> Result<Option<Mac>> {
    let (true, Some(mac)) = (link.has_neighbours(), link.mac) else {
        return Ok(None);
    };
    match addr {
        IpAddr::V4(v4) => by_arp(link, mac, v4, window),
        IpAddr::V6(v6) => by_solicitation(link, mac, v6, window),
    }
}

fn by_arp(link: &Link, mac: Mac, addr: Ipv4Addr, window: Duration) -> Result<Option<Mac>> {
    let socket = PacketSocket::open(link, frames::ETH_P_ARP)?;
    let question = frames::arp_probe(mac, addr);
    let mut buf = [0u8; 128];
    ask(
        window,
        || socket.send(&question),
        |wait| {
            let frame = socket.receive(&mut buf, wait)?;
            Ok(frame.and_then(frames::arp_sender).filter(|&(m, a)| a == addr && m != mac).map(|(m, _)| m))
        },
    )
}

fn by_solicitation(link: &Link, mac: Mac, addr: Ipv6Addr, window: Duration) -> Result<Option<Mac>> {
    let fail = |e| Error::io(format!("opening an ICMPv6 socket on {}", link.name), e);
    let listener = socket2::Socket::new(Domain::IPV6, Type::RAW.cloexec(), Some(Protocol::ICMPV6)).map_err(fail)?;
    listener.bind_device(Some(link.name.as_bytes())).map_err(fail)?;
    let sender = PacketSocket::sender(link)?;
    let question = frames::solicitation(mac, addr);
    let mut buf = [0u8; 256];
    ask(
        window,
        || sender.send(&question),
        |wait| {
            let message = packet::receive(&listener, &mut buf, wait).map_err(fail)?;
            Ok(message.and_then(frames::advertised).filter(|&(m, a)| a == addr && m != mac).map(|(m, _)| m))
        },
    )
}

/// Asks a few times, spread over the first half of the window, and listens all the time.
fn ask(
    window: Duration,
    mut question: impl FnMut() -> Result<()>,
    mut listen: impl FnMut(Duration) -> Result<Option<Mac>>,
) -> Result<Option<Mac>> {
    let start = Instant::now();
    let end = start + window;
    let gap = window / 2 / QUESTIONS;
    let mut asked = 0;
    loop {
        let now = Instant::now();
        if now >= end {
            return Ok(None);
        }
        if asked < QUESTIONS && now >= start + gap * asked {
            question()?;
            asked += 1;
        }
        let until = if asked < QUESTIONS { (start + gap * asked).min(end) } else { end };
        if let Some(mac) = listen(until.saturating_duration_since(Instant::now()))? {
            return Ok(Some(mac));
        }
    }
}
