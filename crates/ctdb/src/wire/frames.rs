//! Cuts the stream of a client into packets.

use super::bytes::WireError;
use super::header::HEADER_LEN;

/// The longest packet that is taken: a transaction of a client is one packet. More than this is an attack or an error.
pub const MAX_PACKET: usize = 256 << 20;

/// What an idle client's buffer may keep, in bytes.
const KEPT: usize = 2 << 10;

/// Bytes of one client that are no whole packet yet.
///
/// A packet is kept as it grows, never reserved by its length field: a client that claims 200 MiB and sends nothing
/// costs nothing.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    at: usize,
}

impl Frames {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 && (self.at == self.buffer.len() || self.at > 64 << 10) {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet, as its bytes. Lengths of 4 to 31 are stepped over, as the original does.
    ///
    /// # Errors
    /// A length of 0 to 3 or over [`MAX_PACKET`]: the stream cannot be followed any more and must be closed.
    pub fn packet(&mut self) -> Result<Option<&[u8]>, WireError> {
        if self.at == self.buffer.len() && self.buffer.capacity() > KEPT {
            *self = Self::default();
        }
        loop {
            let left = &self.buffer[self.at..];
            let Some(field) = left.first_chunk::<4>() else { return Ok(None) };
            let len = u32::from_ne_bytes(*field) as usize;
            if !(4..=MAX_PACKET).contains(&len) {
                return Err(WireError::Value { what: "packet length", value: len as u64 });
            }
            if left.len() < len {
                return Ok(None);
            }
            let start = self.at;
            self.at += len;
            if len >= HEADER_LEN {
                return Ok(Some(&self.buffer[start..start + len]));
            }
        }
    }

    /// Bytes that wait for the rest of their packet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(len: u32) -> Vec<u8> {
        let mut bytes = vec![7; len as usize];
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes
    }

    #[test]
    fn packets_come_out_whole_however_they_come_in() {
        let stream: Vec<u8> = [packet(32), packet(5000), packet(8), packet(33)].concat();
        for step in [1, 3, 31, 64, 1000] {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for chunk in stream.chunks(step) {
                frames.push(chunk);
                while let Some(p) = frames.packet().unwrap() {
                    seen.push(p.len());
                }
            }
            assert_eq!(seen, [32, 5000, 33], "the runt of eight bytes is stepped over");
            assert_eq!(frames.waiting(), 0);
            assert!(frames.buffer.capacity() <= KEPT, "an idle client costs nothing");
        }
    }

    #[test]
    fn a_length_that_cannot_be_followed_ends_the_stream() {
        for len in [0u32, 3, u32::MAX, (2 << 30) - 1] {
            let mut frames = Frames::default();
            frames.push(&len.to_ne_bytes());
            assert!(frames.packet().is_err(), "{len}");
        }
    }
}
