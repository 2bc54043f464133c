//! A blocking netlink socket: ask, wait for the answer, give up after a while.
//!
//! The kernel works a request off inside `send`, so its answer is there when `send` returns; the time limit only guards
//! against surprises. Answers to older requests (after a time-out) are told apart by their sequence number. An overrun
//! of the receive buffer (ENOBUFS) is an error for a request and a reason to start over for a dump.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};

use crate::error::{Error, Result};
use crate::wire::{self, Builder, Message};

pub(crate) use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};

/// How long the kernel may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The kernel never fills more than 32 KiB into one datagram of a dump.
const BUFFER: usize = 64 * 1024;
/// How often a dump that changed under the kernel's hands is started again.
const DUMP_ATTEMPTS: usize = 5;

/// A netlink socket of one family.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: netlink_sys::Socket,
    seq: u32,
    buf: Vec<u8>,
}

/// A message of an answer: its type and what follows the header.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) payload: Vec<u8>,
}

/// What one step of reading an answer found.
enum Step {
    /// Read on.
    More,
    /// The answer is complete.
    Done,
    /// The kernel says that what it told is not consistent.
    Again,
}

impl Socket {
    /// Opens a socket of a netlink family (`NETLINK_ROUTE`, ...).
    pub(crate) fn open(protocol: isize) -> Result<Self> {
        Self::open_with_groups(protocol, 0)
    }

    /// Opens a socket that also receives the multicast groups of the mask.
    pub(crate) fn open_with_groups(protocol: isize, groups: u32) -> Result<Self> {
        let fail = |e: io::Error| Error::io("opening a netlink socket", e);
        let mut inner = netlink_sys::Socket::new(protocol).map_err(fail)?;
        inner.bind(&SocketAddr::new(0, groups)).map_err(fail)?;
        if groups == 0 {
            inner.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
        }
        // The kernel's own words make better errors; kernels that do not offer them still work.
        let _ = inner.set_ext_ack(true);
        // Room for bursts (thousands of addresses at once); needs CAP_NET_ADMIN, works with less without.
        let _ = set_socket_recv_buffer_size_force(&inner, 1 << 20);
        set_socket_timeout(&inner, Timeout::Recv, Some(TIMEOUT)).map_err(|e| fail(e.into()))?;
        Ok(Self { inner, seq: 0, buf: vec![0; BUFFER] })
    }

    /// The next request's sequence number.
    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1).max(1);
        self.seq
    }

    /// Continues numbering after `seq`, for a batch that counted by itself.
    pub(crate) fn skip_to(&mut self, seq: u32) {
        self.seq = seq;
    }

    /// Sends a message and waits until the kernel has done it. `build` gets the begun message.
    pub(crate) fn request(
        &mut self,
        what: &str,
        kind: u16,
        flags: u16,
        build: impl FnOnce(&mut Builder),
    ) -> Result<()> {
        let seq = self.next_seq();
        let mut b = Builder::message(kind, flags | wire::NLM_F_REQUEST | wire::NLM_F_ACK, seq);
        build(&mut b);
        b.end();
        self.send(what, b.bytes())?;
        self.acknowledged(what, seq, seq)
    }

    /// Sends a finished batch of messages `first..=last` and waits for the acknowledgement of `last`; any refusal
    /// of a message before is the batch's.
    pub(crate) fn batch(&mut self, what: &str, bytes: &[u8], first: u32, last: u32) -> Result<()> {
        self.send(what, bytes)?;
        self.acknowledged(what, first, last)
    }

    /// Asks for one thing.
    pub(crate) fn get(&mut self, what: &str, kind: u16, build: impl FnOnce(&mut Builder)) -> Result<Option<Answer>> {
        let seq = self.next_seq();
        let mut b = Builder::message(kind, wire::NLM_F_REQUEST | wire::NLM_F_ACK, seq);
        build(&mut b);
        b.end();
        self.send(what, b.bytes())?;
        let mut found = None;
        self.read(what, |message| {
            if message.seq != seq {
                return Ok(Step::More);
            }
            if message.kind == wire::NLMSG_ERROR {
                return verdict(what, &message).map(|()| Step::Done);
            }
            found = Some(Answer { kind: message.kind, payload: message.payload.to_vec() });
            Ok(Step::More)
        })?;
        Ok(found)
    }

    /// Asks for a list. `build` may be called more than once.
    pub(crate) fn dump(&mut self, what: &str, kind: u16, build: impl Fn(&mut Builder)) -> Result<Vec<Answer>> {
        for _ in 0..DUMP_ATTEMPTS {
            let seq = self.next_seq();
            let mut b = Builder::message(kind, wire::NLM_F_REQUEST | wire::NLM_F_DUMP, seq);
            build(&mut b);
            b.end();
            self.send(what, b.bytes())?;
            let mut all = Vec::new();
            let mut interrupted = false;
            let outcome = self.read(what, |message| {
                if message.seq != seq {
                    return Ok(Step::More);
                }
                interrupted |= message.flags & wire::NLM_F_DUMP_INTR != 0;
                match message.kind {
                    wire::NLMSG_DONE if interrupted => return Ok(Step::Again),
                    wire::NLMSG_DONE => return done(what, &message),
                    wire::NLMSG_ERROR => return verdict(what, &message).map(|()| Step::Done),
                    kind => all.push(Answer { kind, payload: message.payload.to_vec() }),
                }
                Ok(Step::More)
            });
            match outcome {
                Ok(true) => return Ok(all),
                Ok(false) => {}
                Err(e) if e.errno() == Some(libc::ENOBUFS) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Error::Malformed {
            what: what.to_owned(),
            why: format!("the list changed {DUMP_ATTEMPTS} times while it was read"),
        })
    }

    /// Receives one datagram of a multicast group; None when nothing is waiting.
    pub(crate) fn receive_news(&mut self) -> io::Result<Option<&[u8]>> {
        match rustix::net::recv(&self.inner, &mut self.buf[..], rustix::net::RecvFlags::DONTWAIT) {
            Ok((n, _)) => Ok(Some(&self.buf[..n.min(BUFFER)])),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn send(&mut self, what: &str, bytes: &[u8]) -> Result<()> {
        // Left-overs of an exchange that timed out must not fill the buffer.
        while rustix::net::recv(&self.inner, &mut self.buf[..], rustix::net::RecvFlags::DONTWAIT).is_ok() {}
        loop {
            match self.inner.send(bytes, 0) {
                Ok(n) if n == bytes.len() => return Ok(()),
                Ok(n) => {
                    return Err(Error::Invalid(format!("{what}: only {n} of {} bytes were sent", bytes.len())));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(what, e)),
            }
        }
    }

    fn acknowledged(&mut self, what: &str, first: u32, last: u32) -> Result<()> {
        self.read(what, |message| {
            if message.kind != wire::NLMSG_ERROR || !(first..=last).contains(&message.seq) {
                return Ok(Step::More);
            }
            verdict(what, &message)?;
            Ok(if message.seq == last { Step::Done } else { Step::More })
        })
        .map(|_| ())
    }

    /// Hands every received message to `on` until it says stop; true when the answer was complete.
    fn read(&mut self, what: &str, mut on: impl FnMut(Message<'_>) -> Result<Step>) -> Result<bool> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let n = match rustix::net::recv(&self.inner, &mut self.buf[..], rustix::net::RecvFlags::empty()) {
                Ok((n, _)) => n.min(BUFFER),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {
                    return Err(Error::Timeout { what: what.to_owned(), after: TIMEOUT });
                }
                Err(e) => return Err(Error::io(what, e)),
            };
            for message in wire::messages(&self.buf[..n]) {
                let message = message.map_err(|why| Error::Malformed { what: what.to_owned(), why })?;
                if message.kind == wire::NLMSG_OVERRUN {
                    return Err(Error::io(what, io::Error::from_raw_os_error(libc::ENOBUFS)));
                }
                match on(message)? {
                    Step::More => {}
                    Step::Done => return Ok(true),
                    Step::Again => return Ok(false),
                }
            }
            if Instant::now() > deadline {
                return Err(Error::Timeout { what: what.to_owned(), after: TIMEOUT });
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// An acknowledgement as a result.
fn verdict(what: &str, message: &Message<'_>) -> Result<()> {
    let ack = wire::ack_of(message)
        .ok_or_else(|| Error::Malformed { what: what.to_owned(), why: "acknowledgement too short".to_owned() })?;
    match ack.error {
        None => Ok(()),
        Some(source) => Err(Error::Refused { what: what.to_owned(), source, detail: ack.detail }),
    }
}

/// The end of a dump carries an error number too.
fn done(what: &str, message: &Message<'_>) -> Result<Step> {
    match wire::bytes_at(message.payload, 0).map(i32::from_ne_bytes) {
        Some(code) if code < 0 => Err(Error::Refused {
            what: what.to_owned(),
            source: io::Error::from_raw_os_error(code.checked_neg().unwrap_or(libc::EPROTO)),
            detail: String::new(),
        }),
        _ => Ok(Step::Done),
    }
}
