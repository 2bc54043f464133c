//! Parsers of the kernel's and the network's bytes return for any input.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

/// A netlink message whose length is right, so that the parsers behind the header see the payload.
fn framed(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut m = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
    m.extend_from_slice(&kind.to_ne_bytes());
    m.extend_from_slice(&flags.to_ne_bytes());
    m.extend_from_slice(&[0; 8]);
    m.extend_from_slice(payload);
    m
}

/// Attributes with plausible types and lengths, and lengths that lie.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let one = (0u16..16, 0u16..40, prop::collection::vec(any::<u8>(), 0..36));
    prop::collection::vec(one, 0..6).prop_map(|all| {
        all.into_iter()
            .flat_map(|(kind, len, mut value)| {
                value.resize(value.len().next_multiple_of(4), 0);
                [len.to_ne_bytes().to_vec(), kind.to_ne_bytes().to_vec(), value].concat()
            })
            .collect()
    })
}

proptest! {
    // Failures are printed with their input; no files beside the sources.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        net::fuzzing::all(&bytes);
    }

    #[test]
    fn lying_messages(kind in prop_oneof![Just(2u16), Just(3), Just(16), Just(20), any::<u16>()], flags: u16,
                      header in prop::collection::vec(any::<u8>(), 0..72), attrs in attributes()) {
        let message = framed(kind, flags, &[header, attrs].concat());
        net::fuzzing::all(&message);
        net::fuzzing::all(&message[..message.len() - message.len().min(3)]);
    }

    #[test]
    fn mutated_frames(at in 0usize..86, byte: u8, cut in 0usize..87) {
        let mac = net::Mac([2, 0, 0, 0, 0, 1]);
        for mut frame in [
            net::frames::advertisement(mac, "fd00::1".parse().unwrap()),
            net::frames::announce_reply(mac, "10.0.0.1".parse().unwrap()),
        ] {
            let len = frame.len();
            frame[at.min(len - 1)] = byte;
            frame.truncate(cut);
            net::fuzzing::all(&frame);
            net::fuzzing::all(frame.get(54..).unwrap_or(&[]));
        }
    }
}
