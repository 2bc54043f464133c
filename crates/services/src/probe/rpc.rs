//! ONC RPC over TCP (RFC 5531): one call, one answer, with record marking.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::xdr::{Reader, Writer, XdrError};
use super::{Peer, ProbeError, arbitrary};

/// Largest answer that is read; the longest real one is below 1 KiB.
const MAX_ANSWER: usize = 64 * 1024;
/// Most fragments of one answer.
const MAX_FRAGMENTS: usize = 64;
const LAST_FRAGMENT: u32 = 0x8000_0000;
const MAX_AUTH: usize = 400;

/// A program, version and procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Procedure {
    pub program: u32,
    pub version: u32,
    pub number: u32,
}

/// The portmapper (RFC 1833), version 2.
const PORTMAP_GETPORT: Procedure = Procedure { program: 100_000, version: 2, number: 3 };
const TCP: u32 = 6;

/// A connection to one RPC server.
#[derive(Debug)]
pub(crate) struct Connection {
    peer: Peer,
    stream: TcpStream,
    xid: u32,
}

impl Connection {
    pub(crate) async fn open(peer: Peer) -> Result<Self, ProbeError> {
        let stream = peer.connect().await?;
        // an xid only has to differ from those of earlier probes; the low half of a random number does
        let xid = u32::try_from(arbitrary() & 0x7fff_ffff).unwrap_or(0);
        Ok(Self { peer, stream, xid })
    }

    /// Calls `procedure` and returns its result.
    pub(crate) async fn call(&mut self, procedure: Procedure, args: &Writer) -> Result<Vec<u8>, ProbeError> {
        self.xid = self.xid.wrapping_add(1);
        let message = call_message(self.xid, procedure, args);
        let peer = self.peer;
        self.stream.write_all(&message).await.map_err(|error| peer.broken(error))?;
        let answer = self.read_record().await?;
        match result_of(&answer, self.xid) {
            Ok(result) => Ok(result.to_vec()),
            Err(NoResult::Refused(problem)) => Err(peer.refused(problem)),
            Err(NoResult::Nonsense(problem)) => Err(peer.nonsense(problem)),
        }
    }

    async fn read_record(&mut self) -> Result<Vec<u8>, ProbeError> {
        let peer = self.peer;
        let mut record = Vec::new();
        for _ in 0..MAX_FRAGMENTS {
            let mark = self.stream.read_u32().await.map_err(|error| peer.broken(error))?;
            let len = usize::try_from(mark & !LAST_FRAGMENT).unwrap_or(usize::MAX);
            if len > MAX_ANSWER - record.len() {
                return Err(peer.nonsense(format!("a record of {len} bytes is announced")));
            }
            let begin = record.len();
            record.resize(begin + len, 0);
            self.stream.read_exact(&mut record[begin..]).await.map_err(|error| peer.broken(error))?;
            if mark & LAST_FRAGMENT != 0 {
                return Ok(record);
            }
        }
        Err(peer.nonsense("a record that does not end"))
    }
}

/// Asks rpcbind for the TCP port of a program. `None`: not registered.
pub(super) async fn port_of(rpcbind: &mut Connection, program: u32, version: u32) -> Result<Option<u16>, ProbeError> {
    let args = Writer::new().u32s(&[program, version, TCP, 0]);
    let answer = rpcbind.call(PORTMAP_GETPORT, &args).await?;
    let port = Reader::new(&answer).u32().map_err(|error| rpcbind.peer.nonsense(error.to_string()))?;
    match u16::try_from(port) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(rpcbind.peer.nonsense(format!("{port} is no port"))),
    }
}

fn call_message(xid: u32, procedure: Procedure, args: &Writer) -> Vec<u8> {
    let body = call_body(xid, procedure, args);
    let mark = LAST_FRAGMENT | u32::try_from(body.len()).unwrap_or(0);
    let mut message = mark.to_be_bytes().to_vec();
    message.extend(body);
    message
}

/// A call as a datagram has it.
pub(crate) fn call_body(xid: u32, procedure: Procedure, args: &Writer) -> Vec<u8> {
    let Procedure { program, version, number } = procedure;
    // AUTH_SYS as root, whom every export of a server to its own node lets ask for attributes
    let credential = Writer::new().u32(0).opaque(b"steadfast").u32s(&[0, 0, 0]).finish();
    Writer::new().u32s(&[xid, 0, 2, program, version, number, 1]).opaque(&credential).u32s(&[0, 0]).raw(args).finish()
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoResult {
    Refused(String),
    Nonsense(String),
}

impl From<XdrError> for NoResult {
    fn from(error: XdrError) -> Self {
        Self::Nonsense(error.to_string())
    }
}

/// The result within an answer to call `xid`.
pub(crate) fn result_of(answer: &[u8], xid: u32) -> Result<&[u8], NoResult> {
    let mut reader = Reader::new(answer);
    let got = reader.u32()?;
    if got != xid {
        return Err(NoResult::Nonsense(format!("the answer to another call ({got}, not {xid})")));
    }
    let kind = reader.u32()?;
    if kind != 1 {
        return Err(NoResult::Nonsense(format!("message type {kind} is no reply")));
    }
    match reader.u32()? {
        0 => {}
        1 => {
            let reason = if reader.u32()? == 0 { "RPC version mismatch" } else { "credentials refused" };
            return Err(NoResult::Refused(format!("the call was denied: {reason}")));
        }
        other => return Err(NoResult::Nonsense(format!("reply status {other}"))),
    }
    reader.u32()?;
    reader.opaque(MAX_AUTH)?;
    let status = reader.u32()?;
    if status == 0 {
        return Ok(reader.rest());
    }
    let problem = match status {
        1 => "the program is not served here".into(),
        2 => format!("only versions {} to {} are served", reader.u32()?, reader.u32()?),
        3 => "the procedure is not served here".into(),
        4 => "the server could not read the call".into(),
        5 => "the server failed (system error)".into(),
        other => return Err(NoResult::Nonsense(format!("accept status {other}"))),
    };
    Err(NoResult::Refused(problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_results_and_refusals() {
        let good = Writer::new().u32s(&[9, 1, 0, 0, 0, 0, 77]).finish();
        assert_eq!(result_of(&good, 9), Ok(&77u32.to_be_bytes()[..]));
        assert!(matches!(result_of(&good, 8), Err(NoResult::Nonsense(_))));
        let versions = Writer::new().u32s(&[9, 1, 0, 0, 0, 2, 3, 4]).finish();
        assert_eq!(result_of(&versions, 9), Err(NoResult::Refused("only versions 3 to 4 are served".into())));
        let denied = Writer::new().u32s(&[9, 1, 1, 1, 5]).finish();
        assert_eq!(result_of(&denied, 9), Err(NoResult::Refused("the call was denied: credentials refused".into())));
    }

    #[test]
    fn any_truncation_and_any_bit_flip_is_an_error_or_a_result_never_a_panic() {
        let good = Writer::new().u32s(&[9, 1, 0, 0, 8, 1, 2, 0, 77]).finish();
        for len in 0..good.len() {
            let _ = result_of(&good[..len], 9);
        }
        assert!(result_of(&good[..28], 9).is_err());
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = result_of(&bytes, 9);
        }
    }

    #[test]
    fn a_call_is_one_marked_record() {
        let message = call_message(5, PORTMAP_GETPORT, &Writer::new());
        let mark = u32::from_be_bytes([message[0], message[1], message[2], message[3]]);
        assert_eq!(mark, LAST_FRAGMENT | u32::try_from(message.len() - 4).unwrap());
        assert_eq!(message.len() % 4, 0);
    }
}
