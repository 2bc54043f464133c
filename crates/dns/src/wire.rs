//! Bytes in, bytes out: parse a message, answer it, encode within the room that the client has.
//!
//! Whatever comes in: no panic, no answer to an answer (two servers would talk for ever), nothing longer than asked
//! for over UDP. Wire format by hickory-proto.

use crate::answer::{Answer, Code, Data, Kind, Owner, Question, Record, answer};
use crate::zone::ZoneView;
use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use std::fmt::Write as _;

/// No fragments on any IPv6 network (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// Longest message that is answered over UDP; questions are short.
const HEADER: usize = 12;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram; `limited`: this client has had its share and gets a truncated answer.
    Udp {
        /// Over the rate.
        limited: bool,
    },
    /// Over a connection.
    Tcp,
}

/// The bytes to send back, if any. `turn` rotates the addresses.
#[must_use]
pub fn respond(view: &ZoneView, packet: &[u8], transport: Transport, turn: usize) -> Option<Vec<u8>> {
    if packet.len() < HEADER || packet[2] & 0x80 != 0 {
        return None;
    }
    let request = match Message::from_vec(packet) {
        Ok(request) if request.metadata.message_type == MessageType::Query => request,
        Ok(_) => return None,
        Err(_) => return Some(malformed(packet)),
    };
    let mut response = Message::new(request.metadata.id, MessageType::Response, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    // RFC 4035, 3.1.6: to be cleared in an authoritative answer
    response.metadata.checking_disabled = false;
    response.queries.clone_from(&request.queries);
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(asked.flags().dnssec_ok);
        response.set_edns(edns);
    }
    response.metadata.response_code = match (&request.edns, request.metadata.op_code, request.queries.as_slice()) {
        (Some(edns), _, _) if edns.version() > 0 => ResponseCode::BADVERS,
        (_, OpCode::Query, [query]) if query.query_class() == DNSClass::IN => {
            match fill(&mut response, view, query, turn) {
                Ok(code) => code,
                // names of the configuration are checked when it is read
                Err(error) => {
                    tracing::error!(%error, name = %query.name(), "an answer cannot be encoded");
                    ResponseCode::ServFail
                }
            }
        }
        (_, OpCode::Query, [_]) => ResponseCode::Refused,
        (_, OpCode::Query, _) => ResponseCode::FormErr,
        _ => ResponseCode::NotImp,
    };
    let room = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp { limited: true } => {
            response = response.truncate();
            UDP_PAYLOAD
        }
        Transport::Udp { limited: false } => match &request.edns {
            Some(edns) => edns.max_payload().clamp(512, UDP_PAYLOAD),
            None => 512,
        },
    };
    encode(&response, room)
}

/// FORMERR to what has a header and nothing else that makes sense.
fn malformed(packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes[..2].copy_from_slice(&packet[..2]);
    // QR, and the request's opcode and RD; then RCODE 1
    bytes[2] = 0x80 | packet[2] & 0x79;
    bytes[3] = 1;
    bytes
}

/// A message that does not fit is sent empty with the TC bit: the client asks again over TCP.
fn encode(message: &Message, room: u16) -> Option<Vec<u8>> {
    let whole = message.to_vec().ok()?;
    if whole.len() <= usize::from(room) {
        return Some(whole);
    }
    let mut without = message.clone();
    without.additionals.clear();
    let bytes = without.to_vec().ok()?;
    if bytes.len() <= usize::from(room) {
        return Some(bytes);
    }
    let mut bytes = Vec::with_capacity(512);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(room);
    message.truncate().emit(&mut encoder).ok()?;
    Some(bytes)
}

fn fill(response: &mut Message, view: &ZoneView, query: &Query, turn: usize) -> Result<ResponseCode, ProtoError> {
    let name = plain(query.name());
    let question = Question { name: &name, kind: kind(query.query_type()) };
    let Answer { code, authoritative, answers, authority, additional } = answer(view, &question, turn);
    response.metadata.authoritative = authoritative;
    let convert = |records: Vec<Record>| {
        let converted = records.into_iter().map(|record| wire_record(record, query.name()));
        converted.collect::<Result<Vec<_>, ProtoError>>()
    };
    response.answers = convert(answers)?;
    response.authorities = convert(authority)?;
    response.additionals = convert(additional)?;
    Ok(match code {
        Code::NoError => ResponseCode::NoError,
        Code::NxDomain => ResponseCode::NXDomain,
        Code::ServFail => ResponseCode::ServFail,
        Code::Refused => ResponseCode::Refused,
    })
}

/// In lower case, with dots between the labels; a dot within a label is none of them.
fn plain(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            let byte = byte.to_ascii_lowercase();
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "\\{byte:03}");
            }
        }
    }
    text
}

fn kind(asked: RecordType) -> Kind {
    match asked {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SOA => Kind::Soa,
        RecordType::NS => Kind::Ns,
        RecordType::ANY => Kind::Any,
        RecordType::AXFR | RecordType::IXFR => Kind::Transfer,
        _ => Kind::Other,
    }
}

fn absolute(text: &str) -> Result<Name, ProtoError> {
    let mut name = Name::from_ascii(text)?;
    name.set_fqdn(true);
    Ok(name)
}

fn wire_record(record: Record, asked: &Name) -> Result<WireRecord, ProtoError> {
    let owner = match record.owner {
        Owner::Asked => asked.clone(),
        Owner::Name(name) => absolute(&name)?,
    };
    let data = match record.data {
        Data::A(address) => RData::A(A(address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(address)),
        Data::Ns(name) => RData::NS(NS(absolute(&name)?)),
        Data::Soa { server, contact, serial, minimum } => {
            // refresh, retry and expire are for secondaries
            let (refresh, retry, expire) = (60, 10, 86_400);
            let (server, contact) = (absolute(&server)?, absolute(&contact)?);
            RData::SOA(SOA::new(server, contact, serial, refresh, retry, expire, minimum))
        }
    };
    Ok(WireRecord::from_rdata(owner, record.ttl, data))
}
