//! Accepting: links and data links of nodes with lower PNNs, and joining nodes.

use super::link::{self, Ended, SETUP};
use super::shared::{Shared, Site};
use super::socket;
use crate::pki::{DATA_PROTOCOL, Enroller, JOIN_PROTOCOL, JoinAnswer, JoinRequest, LINK_PROTOCOL, MAX_JOIN};
use rustls::server::Acceptor;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream as ServerStream;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

/// Connections that have not proved who they are; more wait in the kernel.
const MAX_STRANGERS: usize = 64;
/// A joining node's whole request.
const JOIN_REQUEST: usize = 64 << 10;
const JOIN_TIME: Duration = Duration::from_secs(10);

/// Runs until it is aborted.
pub(super) async fn keep_accepting(shared: Arc<Shared>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let site = shared.site();
                    let met = timeout(SETUP, meet(&shared, &site, stream)).await;
                    match met {
                        Err(_) => shared.refuse(from, "it did not finish the TLS handshake in time"),
                        Ok(Err(why)) => shared.refuse(from, &why),
                        Ok(Ok(Met::Peer(stream))) => {
                            drop(permit);
                            serve(&shared, &site, *stream, from).await;
                        }
                        Ok(Ok(Met::Joiner(stream))) => {
                            match timeout(JOIN_TIME, admit(&shared, &site, *stream, from)).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => shared.refuse(from, &format!("it wanted to join: {error}")),
                                Err(_) => shared.refuse(from, "it wanted to join, and then said nothing"),
                            }
                        }
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

enum Met {
    Peer(Box<ServerStream<TcpStream>>),
    Joiner(Box<ServerStream<TcpStream>>),
}

async fn meet(shared: &Shared, site: &Site, stream: TcpStream) -> Result<Met, String> {
    shared.may_link(&stream)?;
    socket::tune(&stream, shared.patience).map_err(|e| e.to_string())?;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
        .await
        .map_err(|e| format!("it does not speak TLS 1.3 ({e})"))?;
    let joining = start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == JOIN_PROTOCOL));
    let config = if joining { &site.tls.join } else { &site.tls.accept };
    let stream = start.into_stream(Arc::clone(config)).await.map_err(|e| e.to_string())?;
    if joining {
        return Ok(Met::Joiner(Box::new(stream)));
    }
    if !matches!(stream.get_ref().1.alpn_protocol(), Some(LINK_PROTOCOL | DATA_PROTOCOL)) {
        return Err("it does not say that it wants a link".into());
    }
    Ok(Met::Peer(Box::new(stream)))
}

async fn serve(shared: &Shared, site: &Site, stream: ServerStream<TcpStream>, from: SocketAddr) {
    let mut stream = TlsStream::from(stream);
    let peer = link::who(shared, site, &stream).and_then(|pnn| {
        if pnn > shared.me {
            return Err(Ended::refused(format!(
                "the nodes lists differ: node {pnn} here dials node {}, and the lower one should; make the \
                 configuration the same on all nodes and reload it",
                shared.me
            )));
        }
        shared.slot(pnn).ok_or_else(|| Ended::refused("it is not in the nodes list"))
    });
    let slot = match peer {
        Ok(slot) => slot,
        Err(ended) => {
            link::say_bye(&mut stream, &ended.because).await;
            shared.refuse(from, &ended.because);
            return;
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(DATA_PROTOCOL) {
        if !slot.adopt(stream) {
            // It dials again in a moment.
            tracing::debug!(peer = slot.peer.0, "a data link without a link");
        }
        return;
    }
    let ended = link::run(shared, site, &slot, stream, false).await;
    let name = site.nodes.get(&slot.peer).map_or("", |n| n.name.as_str());
    if ended.refused {
        shared.refuse(from, &ended.because);
    } else if ended.was_up || slot.failed(&ended.because) {
        tracing::warn!(peer = name, "link lost: {}", ended.because);
    }
}

/// Answers a joining node. A wrong token looks like any other refusal in the log: who, and why.
async fn admit(
    shared: &Arc<Shared>,
    site: &Arc<Site>,
    mut stream: ServerStream<TcpStream>,
    from: SocketAddr,
) -> io::Result<()> {
    let length = stream.read_u32().await? as usize;
    if length > JOIN_REQUEST {
        return Err(io::Error::other(format!("a request of {length} bytes was announced")));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let request: JoinRequest = serde_json::from_slice(&body)?;
    let (enroller, site) = (Enroller::new(shared.pki.clone()), Arc::clone(site));
    let answer = tokio::task::spawn_blocking(move || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        enroller.answer(&request, from.ip(), &site.nodes, site.config_text.as_deref(), now)
    })
    .await
    .map_err(io::Error::other)?;
    let refused = match &answer {
        JoinAnswer::Refused { because } => Some(because.clone()),
        JoinAnswer::Welcome { .. } => None,
    };
    let body = serde_json::to_vec(&answer)?;
    if body.len() > MAX_JOIN {
        return Err(io::Error::other("the configuration file is too long to be sent"));
    }
    stream.write_u32(u32::try_from(body.len()).map_err(io::Error::other)?).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    refused.map_or(Ok(()), |because| Err(io::Error::other(because)))
}
