//! Packet sockets: whole Ethernet frames on one interface (packet(7)).
//!
//! They pass by every nf_tables rule: who sends through one answers for the lease.

use std::io::{self, Read};
use std::mem::size_of;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Type};

use crate::error::{Error, Result};
use crate::link::Link;

/// A packet socket bound to an interface and an Ethernet type.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    inner: socket2::Socket,
    interface: String,
}

impl PacketSocket {
    /// Opens one that sends only.
    pub(crate) fn sender(link: &Link) -> Result<Self> {
        Self::open(link, 0)
    }

    /// Opens one that also receives frames of `ethertype`.
    pub(crate) fn open(link: &Link, ethertype: u16) -> Result<Self> {
        let fail = |e| Error::io(format!("opening a packet socket on {}", link.name), e);
        let kind = Type::RAW.cloexec();
        // Protocol 0 receives nothing before the bind.
        let inner = socket2::Socket::new_raw(Domain::PACKET, kind, Some(Protocol::from(0))).map_err(fail)?;
        let index = i32::try_from(link.index).unwrap_or(0);
        inner.bind(&link_address(index, ethertype)).map_err(fail)?;
        Ok(Self { inner, interface: link.name.clone() })
    }

    /// Sends a whole frame.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = self.inner.send(frame).map_err(|e| Error::io(format!("sending on {}", self.interface), e))?;
        if sent == frame.len() {
            return Ok(());
        }
        Err(Error::Invalid(format!("sending on {}: {sent} of {} bytes went out", self.interface, frame.len())))
    }

    /// Receives a frame within `wait`; None when none came. Longer frames are cut.
    pub(crate) fn receive<'a>(&self, buf: &'a mut [u8], wait: Duration) -> Result<Option<&'a [u8]>> {
        receive(&self.inner, buf, wait).map_err(|e| Error::io(format!("receiving on {}", self.interface), e))
    }
}

/// Receives one datagram within `wait`.
pub(crate) fn receive<'a>(socket: &socket2::Socket, buf: &'a mut [u8], wait: Duration) -> io::Result<Option<&'a [u8]>> {
    // A zero time-out would mean for ever.
    socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
    let mut reader = socket;
    match reader.read(buf) {
        Ok(n) => Ok(Some(&buf[..n])),
        Err(e)
            if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) =>
        {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

#[allow(unsafe_code)]
fn link_address(index: i32, ethertype: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the kernel's socket address types, smaller than sockaddr_storage, valid when all
    // zero, and only its plain integer fields are written.
    let address: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(17);
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = index;
    let len = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(20);
    // SAFETY: the storage holds an initialised sockaddr_ll and `len` is its size.
    unsafe { SockAddr::new(storage, len) }
}
