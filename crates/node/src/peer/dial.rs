//! Dialling: the node with the lower PNN dials the other, again and again until there is a link.

use super::error::explained;
use super::link::{self, Ended, SETUP};
use super::shared::Shared;
use super::slot::Slot;
use super::socket;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsConnector, TlsStream};

const CONNECT: Duration = Duration::from_millis(800);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Runs until it is aborted.
pub(super) async fn keep_dialling(shared: Arc<Shared>, slot: Arc<Slot>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = once(&shared, &slot).await;
        let name = shared.site().nodes.get(&slot.peer).map(|n| n.name.clone()).unwrap_or_default();
        if ended.was_up {
            tracing::warn!(peer = %name, "link lost: {}", ended.because);
            pause = FIRST_PAUSE;
        } else if slot.failed(&ended.because) {
            tracing::warn!(peer = %name, "no link: {}", explained(&ended.because));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn once(shared: &Shared, slot: &Arc<Slot>) -> Ended {
    let site = shared.site();
    let first = |pnn| site.nodes.get(&pnn).and_then(|n| n.addresses.first()).copied();
    let (Some(from), Some(to)) = (first(shared.me), first(slot.peer)) else {
        return Ended::lost("it has no address in the nodes list");
    };
    let to = SocketAddr::new(to, shared.port);
    let stream = match timeout(CONNECT, socket::connect(from, to)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Ended::lost(format!("{to}: {error}")),
        Err(_) => return Ended::lost(format!("{to} does not answer")),
    };
    if let Err(why) = shared.may_link(&stream) {
        return Ended::lost(format!("{to}: {why}"));
    }
    if let Err(error) = socket::tune(&stream, shared.patience) {
        return Ended::lost(format!("{to}: {error}"));
    }
    let connector = TlsConnector::from(Arc::clone(&site.tls.dial));
    let stream = match timeout(SETUP, connector.connect(ServerName::from(to.ip()), stream)).await {
        Ok(Ok(stream)) => TlsStream::from(stream),
        Ok(Err(error)) => return Ended::lost(format!("{to}: {error}")),
        Err(_) => return Ended::lost(format!("{to} does not finish the TLS handshake")),
    };
    let mut ended = match link::who(shared, &site, &stream) {
        Ok(pnn) if pnn == slot.peer => link::run(shared, &site, slot, stream, true).await,
        Ok(pnn) => Ended::refused(format!("node {pnn} answers at the address of node {}", slot.peer)),
        Err(ended) => ended,
    };
    if ended.refused {
        shared.refuse(to, &ended.because);
    }
    if !ended.was_up {
        ended.because = format!("{to}: {}", ended.because);
    }
    ended
}
