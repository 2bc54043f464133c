//! Connects to a service's port and hangs up, a hundred times a second.

use super::{Recorder, pause};
use crate::now_us;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a connect may take before it is tried again: far above a LAN's, far below what is measured.
const CONNECT: Duration = Duration::from_millis(30);

pub(super) fn run(to: SocketAddr, record: &Recorder, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let begun = now_us();
        match TcpStream::connect_timeout(&to, CONNECT) {
            Ok(stream) => {
                // A reset instead of TIME_WAIT: so many connections must not use up the ports.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                record.ok(begun);
            }
            Err(e) => record.missed(&e.to_string()),
        }
        pause(Duration::from_millis(10), stop);
    }
}
