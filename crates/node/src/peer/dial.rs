//! Dialling: the node with the lower PNN dials the other, again and again until there is a link.
//!
//! When the network between them has been mended, heartbeats arrive before anything else. Then it dials at once: members
//! without a link are put out of the cluster after a moment, and a connection that was begun before, or a pause, takes longer.

use super::error::explained;
use super::link::{self, Ended, SETUP};
use super::shared::{Shared, Site};
use super::slot::Slot;
use super::socket;
use cluster::Pnn;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

const CONNECT: Duration = Duration::from_millis(800);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Runs until it is aborted.
pub(super) async fn keep_dialling(shared: Arc<Shared>, slot: Arc<Slot>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(ended) = once(&shared, &slot).await else { continue };
        let name = shared.site().nodes.get(&slot.peer).map(|n| n.name.clone()).unwrap_or_default();
        if ended.was_up {
            tracing::warn!(peer = %name, "link lost: {}", ended.because);
            pause = FIRST_PAUSE;
        } else if slot.failed(&ended.because) {
            tracing::warn!(peer = %name, "no link: {}", explained(&ended.because));
        }
        pause = tokio::select! {
            () = sleep(pause) => (pause * 2).min(LONGEST_PAUSE),
            () = slot.heard_again() => FIRST_PAUSE,
        };
    }
}

/// None: it is to be dialled anew, at once.
async fn once(shared: &Shared, slot: &Arc<Slot>) -> Option<Ended> {
    let site = shared.site();
    let opened = tokio::select! {
        opened = open(shared, &site, slot.peer, &site.tls.dial) => opened,
        () = slot.heard_again() => return None,
    };
    let mut ended = match opened {
        Ok(stream) => link::run(shared, &site, slot, stream, true).await,
        Err(ended) => ended,
    };
    let to = address(shared, &site, slot.peer);
    if let Some(to) = to.filter(|_| ended.refused) {
        shared.refuse(to, &ended.because);
    }
    if let Some(to) = to.filter(|_| !ended.was_up) {
        ended.because = format!("{to}: {}", ended.because);
    }
    Some(ended)
}

fn address(shared: &Shared, site: &Site, node: Pnn) -> Option<SocketAddr> {
    let ip = site.nodes.get(&node)?.addresses.first()?;
    Some(SocketAddr::new(*ip, shared.port))
}

/// Connects to that peer, and no other, with `tls`.
pub(super) async fn open(
    shared: &Shared,
    site: &Site,
    peer: Pnn,
    tls: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Ended> {
    let (Some(from), Some(to)) = (address(shared, site, shared.me), address(shared, site, peer)) else {
        return Err(Ended::lost("it has no address in the nodes list"));
    };
    let stream = match timeout(CONNECT, socket::connect(from.ip(), to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Ended::lost(error)),
        Err(_) => return Err(Ended::lost("it does not answer")),
    };
    shared.may_link(&stream).map_err(Ended::lost)?;
    socket::tune(&stream, shared.patience).map_err(Ended::lost)?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let stream = match timeout(SETUP, connector.connect(ServerName::from(to.ip()), stream)).await {
        Ok(Ok(stream)) => TlsStream::from(stream),
        Ok(Err(error)) => return Err(Ended::lost(error)),
        Err(_) => return Err(Ended::lost("it does not finish the TLS handshake")),
    };
    match link::who(shared, site, &stream)? {
        pnn if pnn == peer => Ok(stream),
        pnn => Err(Ended::refused(format!("node {pnn} answers at the address of node {peer}"))),
    }
}
