//! Netlink's wire format: messages and attributes, in both directions (RFC 3549, netlink(7)).
//!
//! One small builder serves rtnetlink, nfnetlink and sock_diag. Nothing here knows a socket. Parsers return an error or
//! skip on any garbage and never read past a buffer.

use std::io;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;
pub(crate) const NLMSG_OVERRUN: u16 = 4;

const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;

fn aligned(len: usize) -> usize {
    (len + 3) & !3
}

/// Builds one or more netlink messages in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    buf: Vec<u8>,
    start: usize,
}

impl Builder {
    /// Starts a message; the one before, if any, must be finished.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, seq: u32) -> &mut Self {
        self.start = self.buf.len();
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&flags.to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self
    }

    /// A buffer with one begun message.
    pub(crate) fn message(kind: u16, flags: u16, seq: u32) -> Self {
        let mut b = Self::default();
        b.begin(kind, flags, seq);
        b
    }

    /// Appends bytes as they are (a family header).
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.buf.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        debug_assert!(usize::from(len) == value.len() + 4, "attribute too long");
        self.buf.extend_from_slice(&len.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a text attribute with its ending zero.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a number in network order, as nfnetlink wants them.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a nested attribute whose content `inner` writes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.buf.len();
        self.buf.extend_from_slice(&0u16.to_ne_bytes());
        self.buf.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        inner(self);
        let len = u16::try_from(self.buf.len() - at).unwrap_or(u16::MAX);
        debug_assert!(usize::from(len) == self.buf.len() - at, "nested attribute too long");
        self.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }

    /// Writes the length of the begun message.
    pub(crate) fn end(&mut self) -> &mut Self {
        let len = u32::try_from(self.buf.len() - self.start).unwrap_or(u32::MAX);
        self.buf[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    fn pad(&mut self) {
        self.buf.resize(aligned(self.buf.len()), 0);
    }
}

/// A received message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) seq: u32,
    pub(crate) payload: &'a [u8],
}

/// Reads `N` bytes at `at`.
pub(crate) fn bytes_at<const N: usize>(buf: &[u8], at: usize) -> Option<[u8; N]> {
    buf.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(crate) fn u16_at(buf: &[u8], at: usize) -> Option<u16> {
    bytes_at(buf, at).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(buf: &[u8], at: usize) -> Option<u32> {
    bytes_at(buf, at).map(u32::from_ne_bytes)
}

/// The messages of a datagram. Ends after the first one that does not parse.
pub(crate) fn messages(buf: &[u8]) -> impl Iterator<Item = Result<Message<'_>, String>> {
    let mut rest = buf;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = (|| {
            let len = usize::try_from(u32_at(rest, 0)?).ok()?;
            let message = Message {
                kind: u16_at(rest, 4)?,
                flags: u16_at(rest, 6)?,
                seq: u32_at(rest, 8)?,
                payload: rest.get(HEADER..len)?,
            };
            Some((message, len))
        })();
        let Some((message, len)) = parsed else {
            let why = format!("{} bytes left that are no netlink message", rest.len());
            rest = &[];
            return Some(Err(why));
        };
        rest = rest.get(aligned(len)..).unwrap_or(&[]);
        Some(Ok(message))
    })
}

/// The attributes in `buf`, as (type, value). Ends at the first one that does not parse.
pub(crate) fn attributes(buf: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = buf;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..len)?;
        rest = rest.get(aligned(len)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The kernel's verdict in a NLMSG_ERROR message.
#[derive(Debug)]
pub(crate) struct Ack {
    /// None: done as asked.
    pub(crate) error: Option<io::Error>,
    /// The kernel's words about it.
    pub(crate) detail: String,
}

/// Reads a NLMSG_ERROR message; None for any other kind or garbage.
pub(crate) fn ack_of(message: &Message<'_>) -> Option<Ack> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let code = bytes_at(message.payload, 0).map(i32::from_ne_bytes)?;
    let error = (code != 0).then(|| io::Error::from_raw_os_error(code.checked_neg().unwrap_or(libc::EPROTO)));
    let mut detail = String::new();
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let request = if message.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            u32_at(message.payload, 4).and_then(|n| usize::try_from(n).ok()).unwrap_or(HEADER)
        };
        let tlvs = request.checked_add(4).and_then(|at| message.payload.get(aligned(at)..)).unwrap_or(&[]);
        for (kind, value) in attributes(tlvs) {
            if kind == NLMSGERR_ATTR_MSG {
                detail = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
        }
    }
    Some(Ack { error, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut b = Builder::message(20, NLM_F_REQUEST, 7);
        b.raw(&[1, 2, 3, 4]).attr(1, &[9, 9, 9]).nest(2, |b| {
            b.attr_be32(3, 0x0102_0304);
        });
        b.end();
        let all: Vec<_> = messages(b.bytes()).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].kind, all[0].seq), (20, 7));
        let attrs: Vec<_> = attributes(&all[0].payload[4..]).collect();
        assert_eq!(attrs[0], (1, &[9u8, 9, 9][..]));
        assert_eq!(attrs[1].0, 2);
        assert_eq!(attributes(attrs[1].1).next(), Some((3, &[1u8, 2, 3, 4][..])));
    }

    #[test]
    fn truncated_messages_are_errors_not_panics() {
        let mut b = Builder::message(20, 0, 1);
        b.raw(&[0; 8]).end();
        for cut in 1..b.bytes().len() {
            assert!(messages(&b.bytes()[..cut]).any(|m| m.is_err()), "cut at {cut}");
        }
    }

    #[test]
    fn a_length_of_zero_ends_the_iteration() {
        assert_eq!(messages(&[0; 64]).count(), 1);
        assert_eq!(attributes(&[0; 64]).count(), 0);
    }
}
