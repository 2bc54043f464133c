//! The TCP probe: connects to the ident server behind an address, reads who answers, hangs up; again and again.

use super::{Gaps, stop_flag};
use anyhow::Result;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a connect may take before it counts as failed: far above a LAN's, far below what is measured.
const CONNECT: Duration = Duration::from_millis(30);

/// Probes `target` each `interval` until standard input closes; gaps above 25 ms are reported.
pub(crate) fn main(target: IpAddr, interval: Duration) -> Result<i32> {
    let stop = stop_flag();
    let mut gaps = Gaps::new(25);
    let to = SocketAddr::new(target, crate::site::IDENT_PORT);
    while !stop.load(Ordering::Relaxed) {
        match once(&to) {
            Ok(who) => gaps.success(&who),
            Err(e) => gaps.failure(&e.to_string()),
        }
        std::thread::sleep(interval);
    }
    gaps.end("-");
    Ok(0)
}

fn once(to: &SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(to, CONNECT)?;
    // A reset instead of TIME_WAIT: 200 connections a second must not use up the ports.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut name = [0u8; 64];
    let n = stream.read(&mut name)?;
    if n == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&name[..n]).trim().to_owned())
}
