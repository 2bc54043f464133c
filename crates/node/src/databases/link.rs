//! One data link: TLS and frames on a socket that never waits.
//!
//! A frame is its length (4 bytes, big-endian) and so many bytes; several small ones share a TLS record.

use crate::peer::DataLink;
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;

/// Longest frame, in bytes.
pub(super) const MAX_FRAME: usize = 256 << 20;
/// A peer that leaves so many bytes unread loses its link.
const MAX_WAITING: usize = if cfg!(test) { 64 << 20 } else { 512 << 20 };
const HEADER: usize = 4;
/// What a TLS record holds.
const RECORD: usize = 16 << 10;
/// Of a buffer, kept after something big.
const KEPT: usize = 256 << 10;

/// A link that is up.
#[derive(Debug)]
pub(super) struct Link {
    data: DataLink,
    /// Frames that TLS has not got yet, from `begun` on.
    waiting: Vec<u8>,
    begun: usize,
    /// What has come and is no whole frame yet.
    come: Vec<u8>,
    /// The poller tells when it can be written to.
    pub(super) awaited: bool,
}

/// Writes what is of one piece, as nearly all is, by the call for which the kernel does less.
struct Sender<'a>(&'a TcpStream);

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match pieces {
            [one] => self.0.write(one),
            several => self.0.write_vectored(several),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.data.stream.as_fd()
    }
}

impl Link {
    pub(super) fn new(data: DataLink) -> Self {
        Self { data, waiting: Vec::new(), begun: 0, come: Vec::new(), awaited: false }
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() - self.begun
    }

    /// Queues a frame; [`Link::write`] writes it, or says that there is too much.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        // What is too long is too much at once: the link ends.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.waiting.extend_from_slice(&length.to_be_bytes());
        self.waiting.extend_from_slice(bytes);
    }

    /// Writes what can be written. True if that was all.
    ///
    /// # Errors
    /// The link is over, as a phrase.
    pub(super) fn write(&mut self) -> Result<bool, String> {
        let left = self.waiting();
        if left > MAX_WAITING {
            return Err(format!("it has not read {} MiB", left >> 20));
        }
        loop {
            while self.begun < self.waiting.len() {
                let end = self.waiting.len().min(self.begun + RECORD);
                let taken = self.data.tls.writer().write(&self.waiting[self.begun..end]).map_err(|e| e.to_string())?;
                if taken == 0 {
                    break;
                }
                self.begun += taken;
            }
            if self.begun == self.waiting.len() {
                self.waiting.clear();
                self.waiting.shrink_to(KEPT);
                self.begun = 0;
            } else if self.begun > self.waiting.len() / 2 {
                self.waiting.drain(..self.begun);
                self.begun = 0;
            }
            if !self.data.tls.wants_write() {
                return Ok(true);
            }
            match self.data.tls.write_tls(&mut Sender(&self.data.stream)) {
                Ok(0) => return Err("its connection takes nothing".to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Reads once, and what TLS has got before; whole frames go behind those in `frames`.
    ///
    /// # Errors
    /// The link is over, as a phrase.
    pub(super) fn read(&mut self, frames: &mut Vec<Vec<u8>>) -> Result<(), String> {
        self.decrypt(frames)?;
        match self.data.tls.read_tls(&mut self.data.stream) {
            Ok(0) => return Err("the peer has closed it, or the link is over".to_owned()),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        self.decrypt(frames)
    }

    fn decrypt(&mut self, frames: &mut Vec<Vec<u8>>) -> Result<(), String> {
        let state = self.data.tls.process_new_packets().map_err(|error| error.to_string())?;
        let mut left = state.plaintext_bytes_to_read();
        let before = self.come.len();
        self.come.resize(before + left, 0);
        let mut at = before;
        while left > 0 {
            let got = self.data.tls.reader().read(&mut self.come[at..]).map_err(|error| error.to_string())?;
            if got == 0 {
                break;
            }
            at += got;
            left -= got;
        }
        self.come.truncate(at);
        self.cut(frames)
    }

    /// Whole frames out of what has come.
    fn cut(&mut self, frames: &mut Vec<Vec<u8>>) -> Result<(), String> {
        let mut rest = &*self.come;
        while let Some((length, bytes)) = rest.split_first_chunk::<HEADER>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > MAX_FRAME {
                return Err(format!("a frame of {length} bytes was announced; {MAX_FRAME} are the limit"));
            }
            let Some((frame, behind)) = bytes.split_at_checked(length) else { break };
            frames.push(frame.to_vec());
            rest = behind;
        }
        let used = self.come.len() - rest.len();
        self.come.drain(..used);
        if self.come.is_empty() {
            self.come.shrink_to(KEPT);
        }
        Ok(())
    }
}
