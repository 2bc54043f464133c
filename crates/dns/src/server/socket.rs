//! Sockets for addresses that may not be there yet.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

fn free(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Without SO_REUSEADDR: for UDP it would share the port with another server silently.
pub(super) fn udp(address: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = free(address, Type::DGRAM, Protocol::UDP)?;
    socket.bind(&address.into())?;
    tokio::net::UdpSocket::from_std(UdpSocket::from(socket))
}

/// With SO_REUSEADDR: for TCP it only means not to wait for old connections.
pub(super) fn tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = free(address, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(64)?;
    tokio::net::TcpListener::from_std(TcpListener::from(socket))
}
