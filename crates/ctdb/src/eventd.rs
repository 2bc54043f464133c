//! The protocol of CTDB's event daemon (4.9 and later), by which the `ctdb` tool runs events and asks how they went.
//!
//! A packet: length of all of it, version, number of the request, all `u32` in the machine's own order; then the
//! command and what belongs to it. Nothing is padded.

use crate::wire::{Reader, WireError, Writer};
use std::time::Duration;

/// Longest request that is taken, in bytes: names and arguments of an event.
pub const MAX_REQUEST: usize = 64 << 10;
/// Length of what goes before every request and reply.
pub const HEADER: usize = 12;
/// The only component there is.
pub const COMPONENT: &str = "legacy";

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run an event now and say how it ended.
    Run {
        /// `legacy`.
        component: String,
        /// Its name.
        event: String,
        /// What the scripts get after the name, split at white space.
        args: String,
        /// In seconds; 0: no limit.
        timeout: u32,
        /// 1: all scripts, also after one that failed.
        flags: u32,
    },
    /// How the last run of an event went.
    Status {
        /// `legacy`.
        component: String,
        /// Its name.
        event: String,
    },
    /// Enable or disable a script.
    Script {
        /// `legacy`.
        component: String,
        /// Its name without `.script`.
        script: String,
        /// Else disable it.
        enable: bool,
    },
}

/// How one script went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptResult {
    /// Its name without `.script`.
    pub name: String,
    /// When it began, since 1970.
    pub begin: Duration,
    /// When it ended, since 1970.
    pub end: Duration,
    /// Its exit status, or a negative errno: `-ENOEXEC` for one that is disabled, `-ETIMEDOUT`, `-EINTR` for a signal.
    pub result: i32,
    /// What it wrote.
    pub output: String,
}

/// How an event went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventResult {
    /// 0, or how the script went that failed.
    pub summary: i32,
    /// All of them, in their order.
    pub scripts: Vec<ScriptResult>,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 0 or an errno.
    Run(i32),
    /// How it went, or an errno.
    Status(Result<EventResult, i32>),
    /// 0 or an errno.
    Script(i32),
}

const RUN: u32 = 1;
const STATUS: u32 = 2;
const SCRIPT: u32 = 3;

/// Cuts a packet off the front of a stream; `None` while it is not whole.
///
/// # Errors
/// A length that cannot be.
pub fn cut(bytes: &[u8], longest: usize) -> Result<Option<&[u8]>, WireError> {
    let Some(length) = bytes.first_chunk() else { return Ok(None) };
    let length = u32::from_ne_bytes(*length) as usize;
    if length < HEADER + 4 || length > longest {
        return Err(WireError::Value { what: "the length of a packet of the event daemon", value: length as u64 });
    }
    Ok(bytes.get(..length))
}

impl Request {
    /// A whole packet, as [`cut`] gives it, with the number to be put into the reply.
    ///
    /// # Errors
    /// It says something else.
    pub fn decode(packet: &[u8]) -> Result<(u32, Self), WireError> {
        let mut r = Reader::new(packet);
        r.u32("length")?;
        r.u32("version")?;
        let number = r.u32("number")?;
        let request = match r.u32("command")? {
            RUN => Self::Run {
                component: string(&mut r)?,
                event: string(&mut r)?,
                args: string(&mut r)?,
                timeout: r.u32("timeout")?,
                flags: r.u32("flags")?,
            },
            STATUS => Self::Status { component: string(&mut r)?, event: string(&mut r)? },
            SCRIPT => {
                Self::Script { component: string(&mut r)?, script: string(&mut r)?, enable: r.u32("action")? == 1 }
            }
            value => return Err(WireError::Value { what: "the command", value: value.into() }),
        };
        Ok((number, request))
    }

    /// A whole packet.
    #[must_use]
    pub fn encode(&self, number: u32) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Run { component, event, args, timeout, flags } => {
                out.u32(RUN);
                put(&mut out, component);
                put(&mut out, event);
                put(&mut out, args);
                out.u32(*timeout).u32(*flags);
            }
            Self::Status { component, event } => {
                out.u32(STATUS);
                put(&mut out, component);
                put(&mut out, event);
            }
            Self::Script { component, script, enable } => {
                out.u32(SCRIPT);
                put(&mut out, component);
                put(&mut out, script);
                out.u32(u32::from(*enable));
            }
        }
        packet(number, out)
    }
}

impl Reply {
    /// A whole packet.
    #[must_use]
    pub fn encode(&self, number: u32) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Run(result) => {
                out.u32(RUN).i32(*result);
            }
            Self::Script(result) => {
                out.u32(SCRIPT).i32(*result);
            }
            Self::Status(Err(errno)) => {
                out.u32(STATUS).i32(*errno);
            }
            Self::Status(Ok(event)) => {
                out.u32(STATUS).i32(0).i32(event.summary);
                out.u32(u32::try_from(event.scripts.len()).unwrap_or(u32::MAX));
                for script in &event.scripts {
                    put(&mut out, &script.name);
                    time(&mut out, script.begin);
                    time(&mut out, script.end);
                    out.i32(script.result);
                    put(&mut out, &script.output);
                }
            }
        }
        packet(number, out)
    }

    /// The reply in a whole packet.
    ///
    /// # Errors
    /// It says something else.
    pub fn decode(packet: &[u8]) -> Result<(u32, Self), WireError> {
        let mut r = Reader::new(packet);
        r.u32("length")?;
        r.u32("version")?;
        let number = r.u32("number")?;
        let (command, result) = (r.u32("command")?, r.i32("result")?);
        let reply = match (command, result) {
            (RUN, result) => Self::Run(result),
            (SCRIPT, result) => Self::Script(result),
            (STATUS, 0) => {
                let summary = r.i32("summary")?;
                let mut scripts = Vec::new();
                for _ in 0..r.u32("number of scripts")? {
                    scripts.push(ScriptResult {
                        name: string(&mut r)?,
                        begin: get_time(&mut r)?,
                        end: get_time(&mut r)?,
                        result: r.i32("result of a script")?,
                        output: string(&mut r)?,
                    });
                }
                Self::Status(Ok(EventResult { summary, scripts }))
            }
            (STATUS, errno) => Self::Status(Err(errno)),
            (value, _) => return Err(WireError::Value { what: "the command of a reply", value: value.into() }),
        };
        Ok((number, reply))
    }
}

fn packet(number: u32, body: Writer) -> Vec<u8> {
    let body = body.finish();
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut packet = Vec::with_capacity(HEADER + body.len());
    for word in [length, 0, number] {
        packet.extend_from_slice(&word.to_ne_bytes());
    }
    packet.extend_from_slice(&body);
    packet
}

/// Length with the NUL at the end, then both; an empty one is only a length of 0.
fn put(out: &mut Writer, text: &str) {
    if text.is_empty() {
        out.u32(0);
    } else {
        out.counted_text(text);
    }
}

fn string(r: &mut Reader<'_>) -> Result<String, WireError> {
    r.counted_text("a name").map(str::to_owned)
}

/// `struct timeval` of a 64-bit machine: seconds in 64 bits, microseconds in 32, four bytes of nothing.
fn time(out: &mut Writer, at: Duration) {
    out.u64(at.as_secs()).u32(at.subsec_micros()).u32(0);
}

fn get_time(r: &mut Reader<'_>) -> Result<Duration, WireError> {
    let (seconds, micros) = (r.u64("seconds")?, r.u32("microseconds")?);
    r.u32("padding")?;
    Ok(Duration::new(seconds, micros.min(999_999) * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_come_back_as_they_were() {
        let requests = [
            Request::Run {
                component: COMPONENT.into(),
                event: "takeip".into(),
                args: "eth0 10.0.0.1 24".into(),
                timeout: 30,
                flags: 1,
            },
            Request::Run {
                component: COMPONENT.into(),
                event: "monitor".into(),
                args: String::new(),
                timeout: 0,
                flags: 0,
            },
            Request::Status { component: COMPONENT.into(), event: "monitor".into() },
            Request::Script { component: COMPONENT.into(), script: "50.samba".into(), enable: true },
        ];
        for request in requests {
            let bytes = request.encode(7);
            assert_eq!(cut(&bytes, MAX_REQUEST), Ok(Some(&bytes[..])));
            assert_eq!(cut(&bytes[..bytes.len() - 1], MAX_REQUEST), Ok(None));
            assert_eq!(Request::decode(&bytes), Ok((7, request)));
            for end in 0..bytes.len() {
                assert!(Request::decode(&bytes[..end]).is_err(), "{end}");
            }
        }
        let script = ScriptResult {
            name: "01.mine".into(),
            begin: Duration::new(1_700_000_000, 5_000),
            end: Duration::new(1_700_000_001, 999_999_000),
            result: -110,
            output: "late\n".into(),
        };
        for reply in [
            Reply::Run(110),
            Reply::Script(2),
            Reply::Status(Err(22)),
            Reply::Status(Ok(EventResult { summary: -110, scripts: vec![script] })),
        ] {
            assert_eq!(Reply::decode(&reply.encode(9)), Ok((9, reply)));
        }
    }

    /// What Debian's event daemon (4.17) answered for a script that was well and one that was not.
    #[test]
    fn the_originals_reply() {
        let script = |name: &str, begin, end, result, output: &str| ScriptResult {
            name: name.into(),
            begin: Duration::new(1_795_668_960, begin),
            end: Duration::new(1_795_668_960, end),
            result,
            output: output.into(),
        };
        let scripts =
            vec![script("01.a", 257_831_000, 263_066_000, 0, ""), script("02.b", 263_071_000, 268_229_000, 3, "hi\n")];
        let reply = Reply::Status(Ok(EventResult { summary: 3, scripts }));
        let bytes: Vec<u8> = ORIGINAL.split_whitespace().map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        assert_eq!(Reply::decode(&bytes), Ok((0x7fff_ff38, reply.clone())));
        assert_eq!(reply.encode(0x7fff_ff38), bytes);
    }

    const ORIGINAL: &str = "82 00 00 00 00 00 00 00 38 ff ff 7f 02 00 00 00 00 00 00 00 03 00 00 00 02 00 00 00 05 00 00 00 \
        30 31 2e 61 00 e0 bb 07 6b 00 00 00 00 27 ef 03 00 00 00 00 00 e0 bb 07 6b 00 00 00 00 9a 03 04 00 00 00 00 00 00 \
        00 00 00 00 00 00 00 05 00 00 00 30 32 2e 62 00 e0 bb 07 6b 00 00 00 00 9f 03 04 00 00 00 00 00 e0 bb 07 6b 00 00 \
        00 00 c5 17 04 00 00 00 00 00 03 00 00 00 04 00 00 00 68 69 0a 00";

    #[test]
    fn lengths_that_lie_are_told() {
        for length in [0u32, 15, 1 << 20, u32::MAX] {
            assert!(cut(&length.to_ne_bytes(), MAX_REQUEST).is_err(), "{length}");
        }
        assert_eq!(cut(&[1, 2], MAX_REQUEST), Ok(None));
    }
}
