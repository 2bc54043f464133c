//! DNS.

use dns::{Candidate, Entry, Transport, ZoneView, respond};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A query, over both transports, answered by a small zone; then the answer as a query.
pub fn dns_query(bytes: &[u8]) {
    let v4 = Ipv4Addr::new(192, 168, 122, 200);
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    let candidates = [IpAddr::V4(v4), IpAddr::V6(v6)].map(|address| Candidate { address, good: true }).to_vec();
    let entry = Entry { candidates, v4: vec![v4; 40], v6: vec![v6; 40] };
    let view = ZoneView {
        serving: true,
        apexes: vec!["storage.example".into(), "nfs".into()],
        names: BTreeMap::from([("nfs.storage.example".into(), entry.clone()), ("nfs".into(), entry)]),
        ns: vec!["ns1.storage.example".into()],
        contact: "hostmaster.storage.example".into(),
        ttl: 1,
        serial: 7,
    };
    for transport in [Transport::Udp { limited: false }, Transport::Udp { limited: true }, Transport::Tcp] {
        if let Some(answer) = respond(&view, bytes, transport, 3) {
            assert!(answer.len() <= 65_535, "an answer of {} bytes", answer.len());
            let again = respond(&view, &answer, transport, 0);
            assert!(again.is_none(), "an answer was answered: two servers would go on for ever");
        }
    }
}
