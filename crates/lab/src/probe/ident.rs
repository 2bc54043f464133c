//! The always-on server of every host: whoever connects reads the host's name and is let go.
//!
//! It tells a probe not only that an address answers but who answers.

use crate::site::IDENT_PORT;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Serves from a thread of its own for as long as the process lives.
pub(crate) fn serve(name: &str) {
    let line = format!("{name}\n");
    std::thread::spawn(move || {
        loop {
            if let Ok(socket) = listen() {
                for connection in socket.incoming().flatten() {
                    // A client that hung up early is its own business.
                    let _ = (&connection).write_all(line.as_bytes());
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

fn listen() -> std::io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, IDENT_PORT)).into())?;
    socket.listen(512)?;
    Ok(socket.into())
}
