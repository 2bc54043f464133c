//! One client: its bytes that are no packet yet, and packets that it has not read yet.

use ctdb::server::ClientId;
use ctdb::wire::Frames;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Unread packets, or their bytes, that are worth a line in the log.
const MANY: usize = 1_000;
const MUCH: usize = 16 << 20;
/// Unread bytes of a client that is stuck for good.
const TOO_MUCH: usize = if cfg!(test) { 64 << 20 } else { 1 << 30 };
/// What each packet costs beside its bytes.
const COST: usize = 64;
/// Packets of one write.
const TOGETHER: usize = 64;

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) stream: UnixStream,
    pub(super) pid: i32,
    pub(super) frames: Frames,
    unread: VecDeque<Vec<u8>>,
    /// Of the first packet, how much is written.
    written: usize,
    /// Of all of them.
    bytes: usize,
    told: bool,
    /// The poller tells when it can be written to.
    pub(super) awaited: bool,
    /// It ends when all is written, at the latest then.
    pub(super) closing: Option<Duration>,
}

/// What became of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// So many bytes.
    Bytes(usize),
    /// None now.
    Nothing,
    /// The client has closed, or its connection is broken.
    Gone,
}

/// It has too much unread.
#[derive(Debug)]
pub(super) struct Stuck;

impl Client {
    pub(super) fn new(stream: UnixStream, pid: i32) -> Self {
        Self {
            stream,
            pid,
            frames: Frames::default(),
            unread: VecDeque::new(),
            written: 0,
            bytes: 0,
            told: false,
            awaited: false,
            closing: None,
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Got {
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => Got::Gone,
                Ok(n) => Got::Bytes(n),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => Got::Nothing,
                // Reset: it died with packets unread.
                Err(_) => Got::Gone,
            };
        }
    }

    /// Queues a packet; [`Client::write`] writes it.
    pub(super) fn push(&mut self, id: ClientId, packet: Vec<u8>) -> Result<(), Stuck> {
        self.bytes += packet.len() + COST;
        self.unread.push_back(packet);
        if self.bytes > TOO_MUCH {
            tracing::error!(
                client = id.0,
                pid = self.pid,
                "a client has left {} packets ({} MiB) unread: it is stuck, and its connection is closed",
                self.unread.len(),
                self.bytes >> 20
            );
            return Err(Stuck);
        }
        if !self.told && (self.unread.len() > MANY || self.bytes > MUCH) {
            self.told = true;
            tracing::warn!(
                client = id.0,
                pid = self.pid,
                "a client does not read: {} packets ({} MiB) wait for it",
                self.unread.len(),
                self.bytes >> 20
            );
        }
        Ok(())
    }

    /// Writes what can be written. True if that was all.
    ///
    /// # Errors
    /// The client has gone.
    pub(super) fn write(&mut self) -> io::Result<bool> {
        while !self.unread.is_empty() {
            let first = self.unread.iter().take(1).map(|p| &p[self.written..]);
            let others = self.unread.iter().skip(1).map(Vec::as_slice);
            let mut slices = [IoSlice::new(&[]); TOGETHER];
            let mut count = 0;
            for (slice, packet) in slices.iter_mut().zip(first.chain(others)) {
                *slice = IoSlice::new(packet);
                count += 1;
            }
            let written = match &slices[..count] {
                // The kernel does less for it.
                [one] => self.stream.write(one),
                several => self.stream.write_vectored(several),
            };
            match written {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.told = false;
        if self.unread.capacity() > TOGETHER {
            self.unread = VecDeque::new();
        }
        Ok(true)
    }

    fn advance(&mut self, written: usize) {
        let mut left = self.written + written;
        while let Some(first) = self.unread.front() {
            let len = first.len();
            if left < len {
                break;
            }
            left -= len;
            self.bytes -= len + COST;
            self.unread.pop_front();
        }
        self.written = left;
    }
}
