//! Bytes in, bytes out, without a socket: EDNS, truncation, garbage.

mod common;

use common::{conf, snapshot, view};
use dns::{Transport, Zone, respond};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use proptest::prelude::*;
use std::net::IpAddr;

const UDP: Transport = Transport::Udp { limited: false };

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn exchange(message: &Message, transport: Transport) -> Message {
    let bytes = respond(&view(), &message.to_vec().expect("encoded"), transport, 0).expect("an answer");
    Message::from_vec(&bytes).expect("a message")
}

#[test]
fn the_answer_repeats_the_question_in_its_own_letters() {
    let answer = exchange(&question("GlusterNFS.Storage.EXAMPLE.", RecordType::A), UDP);
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (4711, ResponseCode::NoError));
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired && !answer.metadata.recursion_available);
    assert_eq!(answer.queries[0].name().to_ascii(), "GlusterNFS.Storage.EXAMPLE.");
    assert_eq!(answer.answers.len(), 4);
    assert_eq!(answer.answers[0].name.to_ascii(), "GlusterNFS.Storage.EXAMPLE.");
    assert!(answer.edns.is_none(), "no EDNS was spoken");
}

#[test]
fn edns_is_answered_and_its_later_versions_are_not_understood() {
    let mut message = question("glusternfs.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    message.set_edns(edns.clone());
    let answer = exchange(&message, UDP);
    let given = answer.edns.expect("EDNS");
    assert_eq!((given.max_payload(), given.flags().dnssec_ok), (1232, true));
    edns.set_version(1);
    message.set_edns(edns);
    // 16 is BADVERS here (and BADSIG elsewhere)
    assert_eq!(u16::from(exchange(&message, UDP).metadata.response_code), 16);
}

#[test]
fn what_does_not_fit_is_truncated_over_udp_and_whole_over_tcp() {
    let mut many = snapshot();
    let vip = many.vips.values().next().expect("a VIP").clone();
    for n in 0..60 {
        many.vips.insert(IpAddr::from([10, 0, 1, n]), vip.clone());
    }
    let view = Zone::new(conf()).update(&many).expect("a view");
    let mut message = question("glusternfs.storage.example.", RecordType::A);
    let ask = |message: &Message, transport| {
        let bytes = respond(&view, &message.to_vec().expect("encoded"), transport, 0).expect("an answer");
        let length = bytes.len();
        (Message::from_vec(&bytes).expect("a message"), length)
    };
    let (answer, length) = ask(&message, UDP);
    assert!(answer.metadata.truncation && length <= 512 && answer.answers.is_empty());
    let (answer, _) = ask(&message, Transport::Tcp);
    assert!(!answer.metadata.truncation && answer.answers.len() == 64);
    let mut large = Edns::new();
    large.set_max_payload(4096);
    message.set_edns(large);
    let (answer, length) = ask(&message, UDP);
    assert!(!answer.metadata.truncation && length <= 1232 && answer.answers.len() == 64, "{length}");
    let mut small = Edns::new();
    small.set_max_payload(10);
    message.set_edns(small);
    let (answer, length) = ask(&message, UDP);
    assert!(answer.metadata.truncation && answer.edns.is_some() && length <= 512);
}

#[test]
fn over_the_rate_an_answer_is_no_longer_than_its_question() {
    let message = question("storage.example.", RecordType::ANY);
    let asked = message.to_vec().expect("encoded");
    let bytes = respond(&view(), &asked, Transport::Udp { limited: true }, 0).expect("an answer");
    let answer = Message::from_vec(&bytes).expect("a message");
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    assert!(bytes.len() <= asked.len());
}

#[test]
fn what_is_not_a_plain_question_is_turned_down() {
    let mut two = question("glusternfs.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(exchange(&two, UDP).metadata.response_code, ResponseCode::FormErr);
    let mut none = question("glusternfs.", RecordType::A);
    none.queries.clear();
    assert_eq!(exchange(&none, UDP).metadata.response_code, ResponseCode::FormErr);
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(exchange(&chaos, UDP).metadata.response_code, ResponseCode::Refused);
    let mut notify = question("storage.example.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(exchange(&notify, UDP).metadata.response_code, ResponseCode::NotImp);
    assert_eq!(
        exchange(&question("www.example.com.", RecordType::A), UDP).metadata.response_code,
        ResponseCode::Refused
    );
    let nothing = exchange(&question("nosuch.storage.example.", RecordType::A), UDP);
    assert_eq!((nothing.metadata.response_code, nothing.authorities.len()), (ResponseCode::NXDomain, 1));
    // never an answer to an answer
    let mut answer = question("glusternfs.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert!(respond(&view(), &answer.to_vec().expect("encoded"), UDP, 0).is_none());
    // a header and then nonsense
    let mut bytes = question("glusternfs.", RecordType::A).to_vec().expect("encoded");
    bytes.truncate(20);
    let answer = respond(&view(), &bytes, UDP, 0).expect("an answer");
    assert_eq!((answer.len(), answer[3] & 0x0f, &answer[..2]), (12, 1, &bytes[..2]));
    assert!(respond(&view(), &bytes[..11], UDP, 0).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Any bytes: no panic, and nothing that could not be parsed again.
    #[test]
    fn garbage_is_answered_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..200), tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { UDP };
        if let Some(answer) = respond(&view(), &bytes, transport, 0) {
            prop_assert!(answer.len() >= 12);
            prop_assert!(answer[2] & 0x80 != 0);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }

    /// A real question with damage.
    #[test]
    fn damaged_questions_do_no_harm(at in proptest::collection::vec((0..60_usize, any::<u8>()), 1..6), cut in 0..60_usize) {
        let mut message = question("glusternfs.storage.example.", RecordType::A);
        message.set_edns(Edns::new());
        let mut bytes = message.to_vec().expect("encoded");
        for (place, byte) in at {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut));
        if let Some(answer) = respond(&view(), &bytes, UDP, 0) {
            prop_assert!(answer.len() <= 1232);
            prop_assert!(Message::from_vec(&answer).is_ok());
        }
    }
}
