//! Data links: the second connection of a pair, for what is too much or too urgent to pass through this runtime.
//!
//! It is dialled, authenticated and greeted as the link is, belongs to the link that is up, and ends with it. Then its
//! socket and its TLS session are handed over, to be used by a poller of their own: no task stands between.

use super::dial;
use super::link::{self, Ended, SETUP};
use super::shared::{Shared, Site};
use cluster::Pnn;
use std::convert::Infallible;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsStream;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// Takes data links.
pub(crate) trait DataSink: Send + Sync {
    /// Are any wanted? Else none are dialled and the peers' are refused.
    fn wanted(&self) -> bool;
    /// Another one; an older one to the same peer is over. Must not block.
    fn take(&self, link: DataLink);
}

/// A connection to a peer, after its handshake. Who drops it ends it, and another one will be made.
#[derive(Debug)]
pub(crate) struct DataLink {
    pub(crate) peer: Pnn,
    /// Non-blocking. Shut down from afar when the link that it belongs to is over.
    pub(crate) stream: TcpStream,
    /// May have received something already.
    pub(crate) tls: rustls::Connection,
    /// Dropped with it.
    pub(crate) _ended: oneshot::Sender<Infallible>,
}

/// Ends the connection when the link is over, whoever has it.
struct Cut(TcpStream);

impl Drop for Cut {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// Keeps up the data link beside a link that is up, until that is over and this is dropped. The end that has dialled
/// the link dials; the other takes what is `adopted`.
pub(super) async fn keep(
    shared: &Shared,
    site: &Site,
    peer: Pnn,
    dialer: bool,
    adopted: mpsc::Receiver<TlsStream<tokio::net::TcpStream>>,
) -> Infallible {
    if dialer { dialled(shared, site, peer).await } else { taken(shared, site, peer, adopted).await }
}

async fn dialled(shared: &Shared, site: &Site, peer: Pnn) -> Infallible {
    let mut pause = FIRST_PAUSE;
    let (mut failures, mut told) = (0, String::new());
    loop {
        if shared.data.wanted() {
            let ended = match dial::open(shared, site, peer, &site.tls.dial_data).await {
                Ok(stream) => greeted(shared, site, peer, stream).await,
                Err(ended) => ended,
            };
            if ended.was_up {
                pause = FIRST_PAUSE;
                failures = 0;
                told.clear();
            } else {
                failures += 1;
            }
            // At first the other end may not have noticed yet that there is a link.
            if failures > 1 && ended.because != told {
                let name = site.nodes.get(&peer).map_or("", |n| n.name.as_str());
                tracing::warn!(peer = name, "no data link, the databases wait for it: {}", ended.because);
                told = ended.because;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn taken(
    shared: &Shared,
    site: &Site,
    peer: Pnn,
    mut adopted: mpsc::Receiver<TlsStream<tokio::net::TcpStream>>,
) -> Infallible {
    let mut next = adopted.recv().await;
    loop {
        let Some(mut stream) = next else {
            // The link is over: this is about to be dropped.
            return std::future::pending().await;
        };
        if !shared.data.wanted() {
            link::say_bye(&mut stream, "it has no databases").await;
            next = adopted.recv().await;
            continue;
        }
        tokio::select! {
            ended = greeted(shared, site, peer, stream) => {
                if !ended.was_up {
                    let name = site.nodes.get(&peer).map_or("", |n| n.name.as_str());
                    tracing::warn!(peer = name, "no data link, the databases wait for it: {}", ended.because);
                }
                next = adopted.recv().await;
            }
            newer = adopted.recv() => next = newer,
        }
    }
}

/// Greets and hands over, until it is over.
async fn greeted(shared: &Shared, site: &Site, peer: Pnn, mut stream: TlsStream<tokio::net::TcpStream>) -> Ended {
    match timeout(SETUP, link::greet(shared, site, peer, &mut stream)).await {
        Ok(Ok(_)) => {}
        Ok(Err(ended)) => {
            if ended.refused {
                link::say_bye(&mut stream, &ended.because).await;
            }
            return ended;
        }
        Err(_) => return Ended::lost("no greeting in time"),
    }
    match hand_over(shared, peer, stream) {
        Ok((cut, over)) => {
            // An error: it has been dropped.
            let _ = over.await;
            drop(cut);
            Ended { because: "it is over".to_owned(), refused: false, was_up: true }
        }
        Err(error) => Ended::lost(error),
    }
}

fn hand_over(
    shared: &Shared,
    peer: Pnn,
    stream: TlsStream<tokio::net::TcpStream>,
) -> io::Result<(Cut, oneshot::Receiver<Infallible>)> {
    let (stream, tls) = match stream {
        TlsStream::Client(stream) => {
            let (stream, tls) = stream.into_inner();
            (stream, tls.into())
        }
        TlsStream::Server(stream) => {
            let (stream, tls) = stream.into_inner();
            (stream, tls.into())
        }
    };
    let stream = stream.into_std()?;
    let cut = Cut(stream.try_clone()?);
    let (ended, over) = oneshot::channel();
    shared.data.take(DataLink { peer, stream, tls, _ended: ended });
    Ok((cut, over))
}
