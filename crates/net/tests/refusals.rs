//! Connections to ports of the managed services on which nothing listens: a public address says nothing, every other address
//! refuses them as usual.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use common::{LONG, ip, pair, vip};
use net::address::Addresses;
use net::gate::Gate;

const V4: &str = "10.77.0.200";
const V6: &str = "fd77::200";

#[test]
fn only_a_managed_address_is_silent_where_nothing_listens_and_only_on_the_services_ports() {
    let Some((a, b)) = pair() else { return };
    a.run(|| {
        let lease = Duration::from_secs(60);
        let mut gate = Gate::open().unwrap();
        let mut addresses = Addresses::open().unwrap();
        gate.install(&[ip(V4), ip(V6)], &[445, 2049], &[ip(V4), ip(V6)], lease).unwrap();
        let eth0 = addresses.link("eth0").unwrap();
        for v in [V4, V6] {
            addresses.set(&eth0, &vip(v), lease).unwrap();
        }
    });
    b.run(|| {
        for (to, port, refuses) in [
            (V4, 445, false),
            (V4, 2049, false),
            (V4, 2050, true),
            (V6, 445, false),
            (V6, 2049, false),
            (V6, 2050, true),
            ("10.77.0.1", 2049, true),
            ("fd77::1", 2049, true),
        ] {
            // A refusal comes within microseconds.
            let limit = if refuses { LONG } else { Duration::from_millis(500) };
            let error = TcpStream::connect_timeout(&(ip(to), port).into(), limit).unwrap_err();
            let expected = if refuses { ErrorKind::ConnectionRefused } else { ErrorKind::TimedOut };
            assert_eq!(error.kind(), expected, "{to} port {port}");
        }
    });
}
