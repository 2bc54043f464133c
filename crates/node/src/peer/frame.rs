//! Frames on a link: length of the payload (4 bytes, big-endian), kind (1 byte), payload.
//!
//! Kinds that a version does not know, of frames and of messages, are passed over, so later ones can say more. A length
//! above the limit is refused before anything is allocated for it.

use super::MAX_FRAME;
use cluster::{Message, Pnn};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Oldest and newest version of what is said on a link.
pub(super) const PROTOCOL: (u16, u16) = (1, 1);
/// A `Hello` is never longer.
pub(super) const MAX_HELLO: usize = 4096;

const HEADER: usize = 5;
const HELLO: u8 = 1;
const PING: u8 = 2;
const PONG: u8 = 3;
const MESSAGE: u8 = 4;
const BYTES: u8 = 5;
const BYE: u8 = 6;

/// First frame of each end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol_min: u16,
    pub(super) protocol_max: u16,
    /// Names of what goes beyond the protocol's version; none yet.
    #[serde(default)]
    pub(super) features: Vec<String>,
    pub(super) version: String,
    pub(super) cluster: String,
    pub(super) node: Pnn,
    pub(super) name: String,
}

/// What a frame says.
#[derive(Debug)]
pub(super) enum Frame {
    Hello(Hello),
    /// Asks for an answer; says when, by the asking node's wall clock ([`super::wall`]). None from versions that do not.
    Ping(Option<u64>),
    /// The answer: what the question said, and the answering node's wall clock.
    Pong(Option<(u64, u64)>),
    Message(Box<Message>),
    Bytes {
        channel: u8,
        bytes: Vec<u8>,
    },
    /// The other end closes, and says why.
    Bye(String),
    /// Of a later version.
    Unknown,
    /// A message of a later version: its kind.
    UnknownMessage(String),
}

pub(super) fn hello(hello: &Hello) -> io::Result<Vec<u8>> {
    encode(HELLO, &serde_json::to_vec(hello)?)
}
pub(super) fn ping(asked: u64) -> Vec<u8> {
    [&[0, 0, 0, 8, PING], &asked.to_be_bytes()[..]].concat()
}
/// Without the time of the question an answer says no time either.
pub(super) fn pong(asked: Option<u64>, now: u64) -> Vec<u8> {
    match asked {
        Some(asked) => [&[0, 0, 0, 16, PONG], &asked.to_be_bytes()[..], &now.to_be_bytes()[..]].concat(),
        None => vec![0, 0, 0, 0, PONG],
    }
}
pub(super) fn message(message: &Message) -> io::Result<Vec<u8>> {
    encode(MESSAGE, &serde_json::to_vec(message)?)
}
pub(super) fn bytes(channel: u8, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut payload = Vec::with_capacity(1 + bytes.len());
    payload.push(channel);
    payload.extend_from_slice(bytes);
    encode(BYTES, &payload)
}
pub(super) fn bye(because: &str) -> io::Result<Vec<u8>> {
    encode(BYE, because.as_bytes())
}

fn encode(kind: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    if payload.len() > MAX_FRAME {
        return Err(invalid(format!("a frame of {} bytes is more than {MAX_FRAME}", payload.len())));
    }
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    Ok(frame)
}

/// Reads one frame with at most `limit` bytes of payload.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Frame> {
    let mut header = [0; HEADER];
    from.read_exact(&mut header).await?;
    let [a, b, c, d, kind] = header;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > limit {
        return Err(invalid(format!("a frame of {length} bytes was announced; {limit} are the limit")));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    decode(kind, payload)
}

fn decode(kind: u8, mut payload: Vec<u8>) -> io::Result<Frame> {
    Ok(match kind {
        HELLO => Frame::Hello(serde_json::from_slice(&payload)?),
        PING => Frame::Ping(number(&payload, 0)),
        PONG => Frame::Pong(number(&payload, 0).zip(number(&payload, 8))),
        MESSAGE => match serde_json::from_slice(&payload) {
            Ok(message) => Frame::Message(Box::new(message)),
            Err(error) => match unknown_kind(&payload) {
                Some(kind) => Frame::UnknownMessage(kind),
                // Of a kind that is needed, so the link must end: a node whose reports were passed over would stay a member
                // of which nothing is known any more.
                None => return Err(invalid(format!("a message that this version cannot read: {error}"))),
            },
        },
        BYTES if payload.is_empty() => return Err(invalid("a frame without its channel".into())),
        BYTES => {
            let channel = payload.remove(0);
            Frame::Bytes { channel, bytes: payload }
        }
        BYE => Frame::Bye(String::from_utf8_lossy(&payload).chars().take(500).collect()),
        _ => Frame::Unknown,
    })
}

/// The kind of a message, if this version does not know it.
fn unknown_kind(payload: &[u8]) -> Option<String> {
    let said: BTreeMap<String, IgnoredAny> = serde_json::from_slice(payload).ok()?;
    let (kind, _) = said.into_iter().next()?;
    (!Message::KINDS.contains(&kind.as_str())).then_some(kind)
}

/// The number of eight bytes at `at`; None where there are fewer.
fn number(payload: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*payload.get(at..)?.first_chunk()?))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::runtime::Builder;

    fn read_from(mut bytes: &[u8], limit: usize) -> io::Result<Frame> {
        Builder::new_current_thread().build().unwrap().block_on(read(&mut bytes, limit))
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_header_alone() {
        let error = read_from(&[0xff, 0xff, 0xff, 0xff, MESSAGE], MAX_FRAME).unwrap_err();
        assert!(error.to_string().contains("limit"), "{error}");
        assert!(bytes(0, &vec![0; MAX_FRAME]).is_err());
        let longest = bytes(7, &vec![1; MAX_FRAME - 1]).unwrap();
        let Frame::Bytes { channel: 7, bytes } = read_from(&longest, MAX_FRAME).unwrap() else { panic!() };
        assert_eq!(bytes.len(), MAX_FRAME - 1);
    }

    #[test]
    fn what_is_unknown_is_passed_over_and_what_is_wrong_is_not() {
        assert!(matches!(read_from(&[0, 0, 0, 2, 99, 1, 2], 10), Ok(Frame::Unknown)));
        let message = |text: &str| read_from(&encode(MESSAGE, text.as_bytes()).unwrap(), 100);
        assert!(matches!(message(r#"{"later": {"epoch": 1}}"#), Ok(Frame::UnknownMessage(kind)) if kind == "later"));
        for wrong in ["{}", "{}!", r#"{"report": {"epoch": 1}}"#, r#"{"report": "later"}"#] {
            assert!(message(wrong).is_err(), "{wrong}");
        }
        assert!(read_from(&[0, 0, 0, 0, BYTES], 10).is_err());
        assert!(read_from(&[0, 0, 0, 9, PING, 1], 10).is_err(), "truncated");
    }

    #[test]
    fn questions_and_answers_carry_clocks_and_may_lack_them() {
        assert!(matches!(read_from(&ping(7), 10), Ok(Frame::Ping(Some(7)))));
        assert!(matches!(read_from(&[0, 0, 0, 0, PING], 10), Ok(Frame::Ping(None))));
        assert!(matches!(read_from(&pong(Some(7), u64::MAX), 16), Ok(Frame::Pong(Some((7, u64::MAX))))));
        assert!(matches!(read_from(&pong(None, 9), 10), Ok(Frame::Pong(None))));
        assert!(matches!(read_from(&[0, 0, 0, 9, PONG, 1, 2, 3, 4, 5, 6, 7, 8, 9], 10), Ok(Frame::Pong(None))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind: u8, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(kind, payload.clone());
            let _ = read_from(&payload, 1000);
        }
    }
}
