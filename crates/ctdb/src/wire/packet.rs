//! Packets: header and body.

use super::bytes::{Reader, WireError, Writer};
use super::header::{HEADER_LEN, Header, Operation};

/// A call on a record (operation 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// [`crate::call`]'s flags.
    pub flags: u32,
    /// The database.
    pub db: u32,
    /// [`crate::call`]'s functions.
    pub function: u32,
    /// Nodes that passed it on; 0 from a client.
    pub hops: u32,
    /// The record's key.
    pub key: Vec<u8>,
    /// Argument of the function; none of those in use has one.
    pub argument: Vec<u8>,
}

/// Answer to a call (operation 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallReply {
    /// 0: done.
    pub status: i32,
    /// What the function gives.
    pub data: Vec<u8>,
}

/// A message (operation 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whoever registered this number gets it.
    pub srvid: u64,
    /// The sender's bytes.
    pub data: Vec<u8>,
}

/// A question or order (operation 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// [`crate::control`]'s numbers.
    pub opcode: u32,
    /// A number that some controls take beside their data.
    pub srvid: u64,
    /// 1: no answer is wanted; upper half: of the control.
    pub flags: u32,
    /// Its data.
    pub data: Vec<u8>,
}

/// Answer to a control (operation 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlReply {
    /// 0: done; some controls answer by it.
    pub status: i32,
    /// Its data.
    pub data: Vec<u8>,
    /// Why not, for people; usually empty.
    pub error: String,
}

/// Bytes for who registered a tunnel (operation 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The tunnel.
    pub id: u64,
    /// 1: request, 2: reply, 0x10: no reply is wanted.
    pub flags: u32,
    /// The sender's bytes.
    pub data: Vec<u8>,
}

/// What a packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Call(Call),
    CallReply(CallReply),
    /// A call that failed, with the reason (operation 4).
    Error {
        status: i32,
        why: String,
    },
    Message(Message),
    Control(Control),
    ControlReply(ControlReply),
    Tunnel(Tunnel),
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub header: Header,
    pub body: Body,
}

/// `errorlen` of a control's answer counts no final NUL.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

impl Packet {
    /// Reads one whole packet, as [`super::Frames`] gives it.
    ///
    /// # Errors
    /// Wrong magic number or version, an operation that clients do not use, or a length beyond the packet.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let (header, number) = Header::get(&mut r)?;
        let operation = Operation::from_number(number)
            .ok_or_else(|| WireError::Value { what: "operation of a client's packet", value: number.into() })?;
        let body = match operation {
            Operation::Call => {
                let flags = r.u32("call flags")?;
                let db = r.u32("database id")?;
                let function = r.u32("call function")?;
                let hops = r.u32("hop count")?;
                let key_len = r.len("key length")?;
                let argument_len = r.len("call argument length")?;
                let key = r.take(key_len, "key")?.to_vec();
                let argument = r.take(argument_len, "call argument")?.to_vec();
                Body::Call(Call { flags, db, function, hops, key, argument })
            }
            Operation::CallReply => {
                let status = r.i32("status")?;
                Body::CallReply(CallReply { status, data: r.counted("call result")?.to_vec() })
            }
            Operation::Error => {
                let status = r.i32("status")?;
                Body::Error { status, why: lossy(r.counted("error text")?) }
            }
            Operation::Message => {
                let srvid = r.u64("message number")?;
                Body::Message(Message { srvid, data: r.counted("message")?.to_vec() })
            }
            Operation::Control => {
                let opcode = r.u32("control number")?;
                r.u32("padding")?;
                let srvid = r.u64("control's number")?;
                // The daemon knows by the connection which client this is.
                r.u32("client id")?;
                let flags = r.u32("control flags")?;
                Body::Control(Control { opcode, srvid, flags, data: r.counted("control data")?.to_vec() })
            }
            Operation::ControlReply => {
                let status = r.i32("status")?;
                let data_len = r.len("reply length")?;
                let error_len = r.len("error length")?;
                let data = r.take(data_len, "reply")?.to_vec();
                let error = lossy(r.take(error_len, "error text")?);
                Body::ControlReply(ControlReply { status, data, error })
            }
            Operation::Tunnel => {
                let id = r.u64("tunnel id")?;
                let flags = r.u32("tunnel flags")?;
                Body::Tunnel(Tunnel { id, flags, data: r.counted("tunnel data")?.to_vec() })
            }
        };
        Ok(Self { header, body })
    }

    /// The packet's bytes, padded to a multiple of eight.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(HEADER_LEN + 64 + self.payload_len());
        match &self.body {
            Body::Call(call) => {
                self.header.put(Operation::Call, &mut out);
                out.u32(call.flags).u32(call.db).u32(call.function).u32(call.hops);
                out.len_of(&call.key).len_of(&call.argument).raw(&call.key).raw(&call.argument);
            }
            Body::CallReply(reply) => {
                self.header.put(Operation::CallReply, &mut out);
                out.i32(reply.status).counted(&reply.data);
            }
            Body::Error { status, why } => {
                self.header.put(Operation::Error, &mut out);
                out.i32(*status).counted_text(why);
            }
            Body::Message(message) => {
                self.header.put(Operation::Message, &mut out);
                out.u64(message.srvid).counted(&message.data);
            }
            Body::Control(control) => {
                self.header.put(Operation::Control, &mut out);
                out.u32(control.opcode).u32(0).u64(control.srvid).u32(0).u32(control.flags).counted(&control.data);
            }
            Body::ControlReply(reply) => {
                self.header.put(Operation::ControlReply, &mut out);
                out.i32(reply.status).len_of(&reply.data).len_of(reply.error.as_bytes());
                out.raw(&reply.data).raw(reply.error.as_bytes());
            }
            Body::Tunnel(tunnel) => {
                self.header.put(Operation::Tunnel, &mut out);
                out.u64(tunnel.id).u32(tunnel.flags).counted(&tunnel.data);
            }
        }
        out.pad_to(8);
        let len = u32::try_from(out.written()).unwrap_or(u32::MAX);
        out.put_u32_at(0, len);
        out.finish()
    }

    fn payload_len(&self) -> usize {
        match &self.body {
            Body::Call(c) => c.key.len() + c.argument.len(),
            Body::CallReply(r) => r.data.len(),
            Body::Error { why, .. } => why.len(),
            Body::Message(m) => m.data.len(),
            Body::Control(c) => c.data.len(),
            Body::ControlReply(r) => r.data.len() + r.error.len(),
            Body::Tunnel(t) => t.data.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..60)
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            (any::<[u32; 4]>(), some_bytes(), some_bytes()).prop_map(|([flags, db, function, hops], key, argument)| {
                Body::Call(Call { flags, db, function, hops, key, argument })
            }),
            (any::<i32>(), some_bytes()).prop_map(|(status, data)| Body::CallReply(CallReply { status, data })),
            (any::<i32>(), "[a-z ]{0,20}").prop_map(|(status, why)| Body::Error { status, why }),
            (any::<u64>(), some_bytes()).prop_map(|(srvid, data)| Body::Message(Message { srvid, data })),
            (any::<[u32; 2]>(), any::<u64>(), some_bytes())
                .prop_map(|([opcode, flags], srvid, data)| { Body::Control(Control { opcode, srvid, flags, data }) }),
            (any::<i32>(), some_bytes(), "[a-z ]{0,20}")
                .prop_map(|(status, data, error)| { Body::ControlReply(ControlReply { status, data, error }) }),
            (any::<u64>(), any::<u32>(), some_bytes()).prop_map(|(id, flags, data)| Body::Tunnel(Tunnel {
                id,
                flags,
                data
            })),
        ]
    }

    proptest! {
        #[test]
        fn packets_survive_and_are_padded(header: [u32; 4], body in body()) {
            let [generation, dest, source, reqid] = header;
            let packet = Packet { header: Header { generation, dest, source, reqid }, body };
            let bytes = packet.encode();
            prop_assert_eq!(bytes.len() % 8, 0);
            prop_assert_eq!(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize, bytes.len());
            prop_assert_eq!(Packet::decode(&bytes).unwrap(), packet);
        }

        #[test]
        fn a_packet_cut_anywhere_or_with_any_byte_changed_is_survived(body in body(), at: prop::sample::Index, value: u8) {
            let bytes = Packet { header: Header::default(), body }.encode();
            let _ = Packet::decode(&bytes[..at.index(bytes.len())]);
            let mut changed = bytes;
            let i = at.index(changed.len());
            changed[i] = value;
            let _ = Packet::decode(&changed);
        }
    }

    #[test]
    fn a_call_of_smbd_is_read() {
        // g_lock.tdb, fetch-lock of "transaction_db_0x7132c184" as smbd 4.17 sends it: 56 + 26 bytes, not padded.
        let key = b"transaction_db_0x7132c184\0";
        let mut out = Writer::default();
        out.u32(82).u32(0x4354_4442).u32(1).u32(0).u32(0).u32(0).u32(0).u32(12);
        out.u32(1).u32(0x4d2a_432b).u32(0xff00_0001).u32(0).u32(26).u32(0).raw(key);
        let packet = Packet::decode(&out.finish()).unwrap();
        let Body::Call(call) = packet.body else { panic!("no call") };
        assert_eq!((packet.header.reqid, call.db, call.flags, &call.key[..]), (12, 0x4d2a_432b, 1, &key[..]));
    }

    #[test]
    fn packets_between_the_originals_daemons_are_refused() {
        for operation in [2u32, 3, 6, 9, 11, u32::MAX] {
            let mut out = Writer::default();
            out.u32(64).u32(0x4354_4442).u32(1).u32(0).u32(operation).zeros(44);
            assert!(Packet::decode(&out.finish()).is_err(), "{operation}");
        }
    }
}
