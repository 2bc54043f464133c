//! The bytes of SMB2 (MS-SMB2) and of an anonymous NTLM login (MS-NLMP): three requests and their answers.

use thiserror::Error;

/// An answer that does not follow MS-SMB2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum WireError {
    #[error("the message ends early")]
    Truncated,
    #[error("no SMB2 message")]
    NotSmb2,
    #[error("an answer to another command")]
    OtherCommand,
    #[error("dialect {0:#06x}, which was not offered")]
    Dialect(u16),
}

pub(super) const HEADER: usize = 64;
/// Largest message that is read.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

pub(super) const STATUS_SUCCESS: u32 = 0;
pub(super) const STATUS_PENDING: u32 = 0x0000_0103;
pub(super) const STATUS_MORE_PROCESSING_REQUIRED: u32 = 0xc000_0016;
pub(super) const STATUS_ACCESS_DENIED: u32 = 0xc000_0022;
pub(super) const STATUS_BAD_NETWORK_NAME: u32 = 0xc000_00cc;

const DIALECTS: [u16; 5] = [0x0202, 0x0210, 0x0300, 0x0302, 0x0311];
const SIGNING_ENABLED: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Negotiate = 0,
    SessionSetup = 1,
    TreeConnect = 3,
}

/// Little-endian builder.
#[derive(Debug, Default)]
struct Le(Vec<u8>);

impl Le {
    fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn raw(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }
}

/// What identifies a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) message_id: u64,
    pub(super) session_id: u64,
}

/// A whole message with its length in front (direct TCP transport).
fn message(request: Request, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + body.len()).unwrap_or(0);
    Le::default()
        .raw(&len.to_be_bytes())
        .raw(b"\xfeSMB")
        .u16(64)
        // a credit charge of 1 is refused below SMB 2.1, where 0 is meant; both are accepted for the first
        .u16(u16::from(request.command != Command::Negotiate))
        .u32(0)
        .u16(request.command as u16)
        .u16(31)
        .u32(0)
        .u32(0)
        .u64(request.message_id)
        .u32(0xfeff)
        .u32(0)
        .u64(request.session_id)
        .raw(&[0; 16])
        .raw(body)
        .0
}

pub(super) fn negotiate(request: Request, guid: [u64; 2]) -> Vec<u8> {
    // contexts begin on a multiple of 8 after the dialects
    let dialects = DIALECTS.len() * 2;
    let padding = (HEADER + 36 + dialects).next_multiple_of(8) - (HEADER + 36 + dialects);
    let contexts = u32::try_from(HEADER + 36 + dialects + padding).unwrap_or(0);
    let mut body = Le::default()
        .u16(36)
        .u16(DIALECTS.len() as u16)
        .u16(u16::from(SIGNING_ENABLED))
        .u16(0)
        .u32(0)
        .u64(guid[0])
        .u64(guid[1])
        .u32(contexts)
        .u16(1)
        .u16(0);
    for dialect in DIALECTS {
        body = body.u16(dialect);
    }
    // pre-authentication integrity: SHA-512 with a salt, without which 3.1.1 is no offer
    let body = body.raw(&[0; 8][..padding]).u16(1).u16(38).u32(0).u16(1).u16(32).u16(1);
    let body = body.u64(guid[1]).u64(guid[0]).u64(!guid[1]).u64(!guid[0]);
    message(request, &body.0)
}

pub(super) fn session_setup(request: Request, token: &[u8]) -> Vec<u8> {
    let body = Le::default()
        .u16(25)
        .u8(0)
        .u8(SIGNING_ENABLED)
        .u32(0)
        .u32(0)
        .u16(HEADER as u16 + 24)
        .u16(u16::try_from(token.len()).unwrap_or(0))
        .u64(0)
        .raw(token);
    message(request, &body.0)
}

pub(super) fn tree_connect(request: Request, path: &str) -> Vec<u8> {
    let path: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let body =
        Le::default().u16(9).u16(0).u16(HEADER as u16 + 8).u16(u16::try_from(path.len()).unwrap_or(0)).raw(&path);
    message(request, &body.0)
}

const NTLM_FLAGS: u32 = 0x0000_0001 // unicode
    | 0x0000_0004 // request target
    | 0x0000_0200 // NTLM
    | 0x0000_8000 // always sign
    | 0x0008_0000 // extended session security
    | 0x2000_0000; // 128 bit
const NTLM_ANONYMOUS: u32 = 0x0000_0800;

/// NTLM's first message. Sent bare: servers take it without SPNEGO around it.
pub(super) fn ntlm_negotiate() -> Vec<u8> {
    Le::default().raw(b"NTLMSSP\0").u32(1).u32(NTLM_FLAGS).u64(0).u64(0).0
}

/// NTLM's third message, of nobody.
pub(super) fn ntlm_anonymous() -> Vec<u8> {
    const END: u32 = 64;
    let nothing = |le: Le, offset: u32| le.u16(0).u16(0).u32(offset);
    let le = Le::default().raw(b"NTLMSSP\0").u32(3);
    // the LM answer of an anonymous login is one zero byte
    let le = le.u16(1).u16(1).u32(END);
    let le = (0..5).fold(le, |le, _| nothing(le, END + 1));
    le.u32(NTLM_FLAGS | NTLM_ANONYMOUS).u8(0).0
}

/// The header of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    pub(super) status: u32,
    pub(super) message_id: u64,
    pub(super) session_id: u64,
    body: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, WireError> {
    let rest = bytes.get(at..).ok_or(WireError::Truncated)?;
    rest.first_chunk().map(|b| u16::from_le_bytes(*b)).ok_or(WireError::Truncated)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, WireError> {
    let rest = bytes.get(at..).ok_or(WireError::Truncated)?;
    rest.first_chunk().map(|b| u32::from_le_bytes(*b)).ok_or(WireError::Truncated)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, WireError> {
    let rest = bytes.get(at..).ok_or(WireError::Truncated)?;
    rest.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or(WireError::Truncated)
}

impl<'a> Answer<'a> {
    /// Reads a message (without its length in front) that should answer `command`.
    pub(super) fn parse(bytes: &'a [u8], command: Command) -> Result<Self, WireError> {
        if bytes.len() >= 4 && !bytes.starts_with(b"\xfeSMB") {
            return Err(WireError::NotSmb2);
        }
        let (header, body) = bytes.split_at_checked(HEADER).ok_or(WireError::Truncated)?;
        const FROM_SERVER: u32 = 1;
        if u16_at(header, 4)? != 64 || u32_at(header, 16)? & FROM_SERVER == 0 {
            return Err(WireError::NotSmb2);
        }
        if u16_at(header, 12)? != command as u16 {
            return Err(WireError::OtherCommand);
        }
        Ok(Self { status: u32_at(header, 8)?, message_id: u64_at(header, 24)?, session_id: u64_at(header, 40)?, body })
    }

    /// The dialect that the server chose in an answer to NEGOTIATE.
    pub(super) fn dialect(&self) -> Result<u16, WireError> {
        if u16_at(self.body, 0)? != 65 || self.body.len() < 64 {
            return Err(WireError::Truncated);
        }
        let dialect = u16_at(self.body, 4)?;
        if DIALECTS.contains(&dialect) { Ok(dialect) } else { Err(WireError::Dialect(dialect)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: Command) -> Request {
        Request { command, message_id: 0, session_id: 0 }
    }

    fn answer(command: u16, status: u32, body: &[u8]) -> Vec<u8> {
        Le::default()
            .raw(b"\xfeSMB")
            .u16(64)
            .u16(0)
            .u32(status)
            .u16(command)
            .u16(1)
            .u32(1)
            .u32(0)
            .u64(7)
            .u64(0)
            .u64(99)
            .raw(&[0; 16])
            .raw(body)
            .0
    }

    #[test]
    fn requests_are_laid_out_as_specified() {
        let bytes = negotiate(request(Command::Negotiate), [1, 2]);
        let len = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        assert_eq!(len, bytes.len() - 4);
        let message = &bytes[4..];
        let contexts = u32_at(message, HEADER + 28).unwrap() as usize;
        assert_eq!(contexts % 8, 0);
        assert_eq!(u16_at(message, contexts).unwrap(), 1);
        assert_eq!(message.len() - contexts, 8 + 38);
        let setup = session_setup(request(Command::SessionSetup), b"token");
        assert_eq!(&setup[4 + 88..], b"token");
        let tree = tree_connect(request(Command::TreeConnect), "ab");
        assert_eq!(&tree[4 + 72..], b"a\0b\0");
        assert_eq!(ntlm_negotiate().len(), 32);
        assert_eq!(ntlm_anonymous().len(), 65);
    }

    #[test]
    fn reads_answers() {
        let mut body = vec![0; 64];
        body[0] = 65;
        body[4..6].copy_from_slice(&[0x11, 3]);
        let bytes = answer(0, 0, &body);
        let parsed = Answer::parse(&bytes, Command::Negotiate).unwrap();
        assert_eq!((parsed.status, parsed.message_id, parsed.session_id), (0, 7, 99));
        assert_eq!(parsed.dialect(), Ok(0x0311));
        assert_eq!(Answer::parse(&bytes, Command::TreeConnect), Err(WireError::OtherCommand));
        body[4] = 0xff;
        let bytes = answer(0, 0, &body);
        assert_eq!(Answer::parse(&bytes, Command::Negotiate).unwrap().dialect(), Err(WireError::Dialect(0x03ff)));
    }

    #[test]
    fn no_byte_string_panics() {
        let whole = answer(0, 0, &[65; 70]);
        for len in 0..whole.len() {
            let parsed = Answer::parse(&whole[..len], Command::Negotiate);
            assert!(len >= HEADER || parsed.is_err());
            if let Ok(parsed) = parsed {
                let _ = parsed.dialect();
            }
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(parsed) = Answer::parse(&bytes, Command::Negotiate) {
                let _ = parsed.dialect();
            }
        }
        assert_eq!(Answer::parse(b"GET / HTTP/1.0", Command::Negotiate), Err(WireError::NotSmb2));
    }
}
