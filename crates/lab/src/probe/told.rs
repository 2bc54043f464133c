//! Hears, on a node, of addresses that leave its interfaces, and says whether Samba has been told of each before.
//!
//! It is a client of the databases that listens as smbd does. The kernel tells it of an address that is gone; what the
//! daemon wrote before that must be in the client's socket then.
//!
//! ```text
//! ready                   listening
//! B address               left, after Samba was told
//! L address               left, and nobody had been told
//! F text                  ended by this error
//! ```

use super::say;
use anyhow::{Context, Result, bail};
use ctdb::control::Opcode;
use ctdb::node::CURRENT;
use ctdb::srvid;
use ctdb::wire::{Body, Control, Frames, Header, Packet};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;

/// Multicast groups of rtnetlink(7): addresses of IPv4 and of IPv6.
const GROUPS: u32 = 0x10 | 0x100;
const RTM_DELADDR: u16 = 21;
/// `struct nlmsghdr`, `struct ifaddrmsg`, `struct rtattr`.
const NLMSG: usize = 16;
const IFADDR: usize = 8;
const RTATTR: usize = 4;
const IFA_ADDRESS: u16 = 1;

pub(crate) fn main() -> Result<i32> {
    if let Err(e) = listen() {
        say(&format!("F {e:#}"));
        return Ok(1);
    }
    Ok(0)
}

fn listen() -> Result<()> {
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&kernel, &SocketAddrNetlink::new(0, GROUPS))?;
    let mut samba = Samba::connect()?;
    let stop = super::stop_flag();
    say("ready");
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let mut ready = [PollFd::new(&kernel, PollFlags::IN)];
        let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        if poll(&mut ready, Some(&wait))? == 0 {
            continue;
        }
        for address in gone(&kernel)? {
            samba.hear()?;
            let before = samba.told.remove(&address);
            say(&format!("{} {address}", if before { 'B' } else { 'L' }));
        }
    }
    Ok(())
}

/// Addresses of one message of the kernel.
fn gone(kernel: &OwnedFd) -> Result<Vec<IpAddr>> {
    let mut buffer = [0u8; 16 << 10];
    let (_, n) = recv(kernel, &mut buffer[..], RecvFlags::empty())?;
    let mut left = &buffer[..n.min(buffer.len())];
    let mut found = Vec::new();
    while left.len() >= NLMSG {
        let length = u32::from_ne_bytes([left[0], left[1], left[2], left[3]]) as usize;
        let kind = u16::from_ne_bytes([left[4], left[5]]);
        let Some(message) = left.get(..length).filter(|_| length >= NLMSG) else { break };
        if kind == RTM_DELADDR {
            found.extend(message.get(NLMSG + IFADDR..).and_then(address));
        }
        left = left.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

/// The address among the attributes of a message about one.
fn address(mut left: &[u8]) -> Option<IpAddr> {
    while left.len() >= RTATTR {
        let length = u16::from_ne_bytes([left[0], left[1]]) as usize;
        let value = left.get(RTATTR..length)?;
        if u16::from_ne_bytes([left[2], left[3]]) == IFA_ADDRESS {
            let v4 = <[u8; 4]>::try_from(value).map(|b| IpAddr::V4(Ipv4Addr::from(b)));
            return v4.or_else(|_| <[u8; 16]>::try_from(value).map(|b| IpAddr::V6(Ipv6Addr::from(b)))).ok();
        }
        left = left.get(length.next_multiple_of(4)..)?;
    }
    None
}

struct Samba {
    stream: UnixStream,
    frames: Frames,
    told: BTreeSet<IpAddr>,
}

impl Samba {
    /// Connected and listening.
    fn connect() -> Result<Self> {
        let mut stream = UnixStream::connect(ctdb_client::SOCKET).context("cannot connect")?;
        let header = Header { generation: 0, dest: CURRENT, source: 0, reqid: 1 };
        let body = Control { opcode: Opcode::REGISTER_SRVID.0, srvid: srvid::RELEASE_IP, flags: 0, data: Vec::new() };
        stream.write_all(&Packet { header, body: Body::Control(body) }.encode())?;
        let mut samba = Self { stream, frames: Frames::default(), told: BTreeSet::new() };
        // The answer.
        let mut buffer = [0; 4096];
        while samba.frames.packet()?.is_none() {
            match samba.stream.read(&mut buffer)? {
                0 => bail!("the daemon does not answer"),
                n => samba.frames.push(&buffer[..n]),
            }
        }
        samba.stream.set_nonblocking(true)?;
        Ok(samba)
    }

    /// Reads what is there.
    fn hear(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the daemon has closed the connection"),
                Ok(n) => self.frames.push(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e.into()),
            }
        }
        while let Some(bytes) = self.frames.packet()? {
            if let Body::Message(message) = Packet::decode(bytes)?.body {
                let text = String::from_utf8_lossy(&message.data).trim_end_matches('\0').to_owned();
                self.told.extend(text.parse::<IpAddr>().ok());
            }
        }
        Ok(())
    }
}
