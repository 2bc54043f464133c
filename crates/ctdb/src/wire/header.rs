//! The 32 bytes that every packet begins with.

use super::bytes::{Reader, WireError, Writer};

/// Bytes of a header.
pub const HEADER_LEN: usize = 32;
/// "CTDB" as a number.
pub const MAGIC: u32 = 0x4354_4442;
/// Of the protocol; the only one there is.
pub const VERSION: u32 = 1;

/// What a packet is. Numbers 2, 3, 4 and 9 travel between the original's daemons only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Operation {
    /// A call on a record.
    Call = 0,
    /// Its answer.
    CallReply = 1,
    /// A call that failed.
    Error = 4,
    /// A message to whoever registered its number.
    Message = 5,
    /// A question or order to a daemon.
    Control = 7,
    /// Its answer.
    ControlReply = 8,
    /// Bytes between two programs that registered one tunnel.
    Tunnel = 10,
}

impl Operation {
    /// By its number, if it is one that clients and daemon exchange.
    #[must_use]
    pub fn from_number(n: u32) -> Option<Self> {
        [Self::Call, Self::CallReply, Self::Error, Self::Message, Self::Control, Self::ControlReply, Self::Tunnel]
            .into_iter()
            .find(|op| *op as u32 == n)
    }
}

/// The fields beside length, magic, version and operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Header {
    /// Of the databases, from the daemon; meaningless from a client.
    pub generation: u32,
    /// A node's number or one of [`crate::node`]'s special ones.
    pub dest: u32,
    /// The sender's node; a client's word is not believed.
    pub source: u32,
    /// Chosen by who asks, comes back in the answer; 0 in what nobody asked for.
    pub reqid: u32,
}

impl Header {
    pub(super) fn put(self, operation: Operation, out: &mut Writer) {
        out.u32(0).u32(MAGIC).u32(VERSION).u32(self.generation);
        out.u32(operation as u32).u32(self.dest).u32(self.source).u32(self.reqid);
    }

    /// The header and its operation's number.
    pub(super) fn get(reader: &mut Reader<'_>) -> Result<(Self, u32), WireError> {
        reader.u32("packet length")?;
        let magic = reader.u32("magic number")?;
        if magic != MAGIC {
            return Err(WireError::Value { what: "magic number", value: magic.into() });
        }
        let version = reader.u32("protocol version")?;
        if version != VERSION {
            return Err(WireError::Value { what: "protocol version", value: version.into() });
        }
        let generation = reader.u32("generation")?;
        let operation = reader.u32("operation")?;
        let dest = reader.u32("destination")?;
        let source = reader.u32("source")?;
        let reqid = reader.u32("request id")?;
        Ok((Self { generation, dest, source, reqid }, operation))
    }
}
