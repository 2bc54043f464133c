//! Questions in datagrams.

use super::{RETRY, Shared, socket};
use crate::wire::{Transport, respond};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UdpSocket;

/// Questions are short; what is longer is cut off and found malformed.
const MOST: usize = 4096;

/// Answers on one address for ever.
pub(super) async fn run(shared: Arc<Shared>, address: SocketAddr, mut socket: Option<UdpSocket>) {
    loop {
        if let Some(open) = socket.take() {
            shared.note(address, "UDP", None);
            let error = serve(&shared, &open).await;
            tracing::debug!(%address, %error, "DNS socket failed, opened again");
        } else {
            tokio::time::sleep(RETRY).await;
        }
        match socket::udp(address) {
            Ok(fresh) => socket = Some(fresh),
            Err(error) => shared.note(address, "UDP", Some(&error)),
        }
    }
}

/// Until the socket fails.
async fn serve(shared: &Shared, socket: &UdpSocket) -> io::Error {
    let mut buffer = vec![0; MOST];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // an ICMP message about an earlier answer: the client is gone
            Err(error) if is_clients(&error) => continue,
            Err(error) => return error,
        };
        // nobody asks from port 0, and a forged answer to it must not be echoed about
        if client.port() == 0 {
            continue;
        }
        let view = Arc::clone(&shared.view.borrow());
        let limited = !shared.allow(client.ip());
        let Some(bytes) = respond(&view, &buffer[..length], Transport::Udp { limited }, shared.turn()) else {
            continue;
        };
        match socket.try_send_to(&bytes, client) {
            Ok(_) => {}
            // a full queue: the client asks again
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // no route, or the address has just gone: of no interest to the next client
            Err(error) => tracing::trace!(%client, %error, "DNS answer not sent"),
        }
    }
}

fn is_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
    )
}
