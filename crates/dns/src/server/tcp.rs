//! Questions over connections (RFC 7766): two bytes of length before each message.

use super::{RETRY, Shared, socket};
use crate::wire::{Transport, respond};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A client that says nothing (or does not read) is let go.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections of one client address at once.
const MOST_PER_CLIENT: usize = 16;
/// Longest question that is read.
const MOST: usize = 4096;

/// Answers on one address for ever.
pub(super) async fn run(shared: Arc<Shared>, address: SocketAddr, mut listener: Option<TcpListener>) {
    loop {
        if let Some(open) = listener.take() {
            shared.note(address, "TCP", None);
            let error = accept(&shared, &open).await;
            tracing::debug!(%address, %error, "DNS listener failed, opened again");
        } else {
            tokio::time::sleep(RETRY).await;
        }
        match socket::tcp(address) {
            Ok(fresh) => listener = Some(fresh),
            Err(error) => shared.note(address, "TCP", Some(&error)),
        }
    }
}

/// Until the listener fails.
async fn accept(shared: &Arc<Shared>, listener: &TcpListener) -> io::Error {
    let mut connections = JoinSet::new();
    loop {
        let (stream, client) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if is_full(&error) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(error) => return error,
            },
            Some(_) = connections.join_next() => continue,
        };
        let Some(place) = Place::take(shared, client.ip()) else {
            continue;
        };
        let shared = Arc::clone(shared);
        connections.spawn(async move {
            if let Err(error) = converse(&shared, stream).await {
                tracing::trace!(%client, %error, "DNS connection ended");
            }
            drop(place);
        });
    }
}

/// Out of descriptors or memory: it passes.
fn is_full(error: &io::Error) -> bool {
    // std has no ErrorKind for these two
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
        || matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted)
}

/// One of the connections that are allowed, given back when dropped.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    client: IpAddr,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Place {
    fn take(shared: &Arc<Shared>, client: IpAddr) -> Option<Self> {
        let permit = Arc::clone(&shared.connections).try_acquire_owned().ok()?;
        let mut clients = shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let count = clients.entry(client).or_insert(0);
        if *count >= MOST_PER_CLIENT {
            return None;
        }
        *count += 1;
        drop(clients);
        Some(Self { shared: Arc::clone(shared), client, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

async fn converse(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut question = Vec::new();
    loop {
        let length = match timeout(PATIENCE, stream.read_u16()).await {
            Ok(Ok(length)) => usize::from(length),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        if length > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a question of {length} bytes")));
        }
        question.resize(length, 0);
        timeout(PATIENCE, stream.read_exact(&mut question)).await??;
        let view = Arc::clone(&shared.view.borrow());
        let Some(bytes) = respond(&view, &question, Transport::Tcp, shared.turn()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no question"));
        };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(bytes.len() + 2);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&bytes);
        timeout(PATIENCE, stream.write_all(&message)).await??;
    }
}
