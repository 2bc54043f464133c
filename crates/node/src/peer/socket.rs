//! Sockets with the options that links and heartbeats need.

use super::PeerError;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const BACKLOG: i32 = 128;
/// Bytes that may wait in the kernel to be sent for the first time: enough that the wire never waits for this process.
const UNSENT: u32 = 256 << 10;

/// Listens on an address of this node, which may not be there yet.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, PeerError> {
    let bind = || {
        let socket = prepare(address.ip(), Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|source| PeerError::Bind { what: "TCP", address, source })
}

/// Opens the heartbeat socket on an address of this node.
pub(super) fn datagrams(address: SocketAddr) -> Result<UdpSocket, PeerError> {
    let bind = || {
        let socket = prepare(address.ip(), Type::DGRAM, Protocol::UDP)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    bind().map_err(|source| PeerError::Bind { what: "UDP", address, source })
}

fn prepare(address: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(address, 0)), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // The network may come up later than the daemon.
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    Ok(socket)
}

/// Connects from an address of this node.
pub(super) async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if from.is_ipv4() == to.is_ipv4() {
        socket
            .bind(SocketAddr::new(from, 0))
            .map_err(|e| io::Error::new(e.kind(), format!("this node's own address {from}: {e}")))?;
    }
    socket.connect(to).await
}

/// No waiting for more bytes, no connection that outlives its peer, and little that waits in the kernel before what is
/// urgent.
pub(super) fn tune(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(patience))
}
