//! One link, from the TLS handshake's end to its own.

use super::frame::{self, Frame, Hello, MAX_HELLO, PROTOCOL};
use super::queue::{Queued, queue};
use super::seal::{EXPORTED, LABEL, SessionKeys};
use super::shared::{Shared, Site};
use super::slot::Slot;
use super::{MAX_FRAME, PeerEvent, data, wall};
use crate::pki::Identity;
use cluster::Pnn;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_rustls::TlsStream;

/// For connecting, the handshake and `Hello` each.
pub(super) const SETUP: Duration = Duration::from_secs(3);

/// Why there is no link (any more), as a phrase, and whether the other end is to blame for not being a peer.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) because: String,
    pub(super) refused: bool,
    /// It was up before.
    pub(super) was_up: bool,
}

impl Ended {
    pub(super) fn lost(because: impl std::fmt::Display) -> Self {
        Self { because: because.to_string(), refused: false, was_up: false }
    }
    pub(super) fn refused(because: impl std::fmt::Display) -> Self {
        Self { because: because.to_string(), refused: true, was_up: false }
    }
}

/// Which node is at the other end, by its certificate.
pub(super) fn who(shared: &Shared, site: &Site, stream: &TlsStream<TcpStream>) -> Result<Pnn, Ended> {
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or_else(|| Ended::refused("it shows no certificate"))?;
    let identity = Identity::of_certificate(certificate).map_err(Ended::refused)?;
    site.peer(shared.me, &identity).map_err(Ended::refused)
}

/// Runs the link until it ends.
pub(super) async fn run(
    shared: &Shared,
    site: &Site,
    slot: &Arc<Slot>,
    mut stream: TlsStream<TcpStream>,
    dialer: bool,
) -> Ended {
    let exported = match export(&stream) {
        Ok(exported) => exported,
        Err(ended) => return ended,
    };
    let keys = match SessionKeys::new(&exported, dialer) {
        Ok(keys) => keys,
        Err(error) => return Ended::lost(format!("the heartbeat keys: {error}")),
    };
    // The peer may use the new keys as soon as it has our Hello, so they must be known before that leaves.
    let agreed = shared.keys.agree(slot.peer, keys);
    let greeted = match timeout(SETUP, greet(shared, site, slot.peer, &mut stream)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(ended)) => {
            if ended.refused {
                shared.keys.give_up(&agreed);
                say_bye(&mut stream, &ended.because).await;
            }
            return ended;
        }
        Err(_) => return Ended::lost("no greeting in time"),
    };
    shared.keys.use_for_sending(agreed);

    let name = site.nodes.get(&slot.peer).map_or("", |n| n.name.as_str());
    tracing::info!(peer = name, version = %greeted.version, "link up");

    let (queue, queued, closed) = queue(Arc::clone(&shared.counters));
    let closing = queue.clone();
    let (adopt, adopted) = mpsc::channel(1);
    let Some(generation) = slot.up(queue, adopt, greeted.version) else {
        return Ended::lost("the node left the nodes list");
    };
    let (reader, writer) = tokio::io::split(stream);
    let (answers, pongs) = mpsc::channel(8);
    let because = tokio::select! {
        because = receive(shared, name, slot, generation, reader, answers) => because,
        because = transmit(shared, writer, queued, pongs, shared.me < slot.peer) => because,
        never = data::keep(shared, site, slot.peer, dialer, adopted) => match never {},
        () = closed.wait() => "too slow, or replaced by a newer connection".to_owned(),
    };
    closing.close();
    slot.down(generation, &because);
    Ended { because, refused: false, was_up: true }
}

fn export(stream: &TlsStream<TcpStream>) -> Result<[u8; EXPORTED], Ended> {
    let room = [0; EXPORTED];
    match stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material(room, LABEL, None),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material(room, LABEL, None),
    }
    .map_err(|e| Ended::lost(format!("the heartbeat keys: {e}")))
}

pub(super) async fn greet(
    shared: &Shared,
    site: &Site,
    peer: Pnn,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> Result<Hello, Ended> {
    let mine = Hello {
        protocol_min: PROTOCOL.0,
        protocol_max: PROTOCOL.1,
        features: Vec::new(),
        version: shared.version.clone(),
        cluster: site.identity.cluster.to_string(),
        node: shared.me,
        name: site.identity.name.clone(),
    };
    let bytes = frame::hello(&mine).map_err(Ended::lost)?;
    stream.write_all(&bytes).await.map_err(Ended::lost)?;
    stream.flush().await.map_err(Ended::lost)?;
    let theirs = match frame::read(stream, MAX_HELLO).await {
        Ok(Frame::Hello(hello)) => hello,
        Ok(Frame::Bye(because)) => return Err(Ended::lost(format!("it refuses this node: {because}"))),
        Ok(_) => return Err(Ended::refused("it does not greet")),
        Err(error) => return Err(Ended::lost(error)),
    };
    check(&mine, &theirs, peer)?;
    Ok(theirs)
}

fn check(mine: &Hello, theirs: &Hello, peer: Pnn) -> Result<(), Ended> {
    if theirs.protocol_min > mine.protocol_max || theirs.protocol_max < mine.protocol_min {
        return Err(Ended::refused(format!(
            "'{}' runs version {} and speaks protocol {} to {}, '{}' runs {} and speaks {} to {}: upgrade the older one",
            theirs.name,
            theirs.version,
            theirs.protocol_min,
            theirs.protocol_max,
            mine.name,
            mine.version,
            mine.protocol_min,
            mine.protocol_max
        )));
    }
    if theirs.cluster != mine.cluster {
        return Err(Ended::refused(format!("it is of another cluster ({})", theirs.cluster)));
    }
    if theirs.node != peer {
        return Err(Ended::refused(format!(
            "the nodes lists differ: '{}' takes itself for node {}, '{}' has it as node {peer}; make the configuration \
             the same on all nodes and reload it",
            theirs.name, theirs.node, mine.name
        )));
    }
    Ok(())
}

/// A last word, so that both ends' logs say why. It is no matter if it does not arrive.
pub(super) async fn say_bye(stream: &mut (impl AsyncWrite + Unpin), because: &str) {
    let Ok(bytes) = frame::bye(because) else { return };
    let said = timeout(Duration::from_millis(500), async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    });
    if let Ok(Err(error)) = said.await {
        tracing::debug!(%error, "could not say why a link was refused");
    }
}

async fn receive(
    shared: &Shared,
    name: &str,
    slot: &Slot,
    generation: u64,
    mut reader: ReadHalf<TlsStream<TcpStream>>,
    answers: mpsc::Sender<Option<u64>>,
) -> String {
    let mut clock = wall::Listener::default();
    let mut deadline = Instant::now() + shared.patience;
    // Said once, not at each of many.
    let mut of_later_version = false;
    loop {
        let frame = match timeout_at(deadline, frame::read(&mut reader, MAX_FRAME)).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return "the peer closed the connection".into();
            }
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("no answer for {}", cluster::human(shared.patience)),
        };
        let event = match frame {
            Frame::Pong(clocks) => {
                deadline = Instant::now() + shared.patience;
                match clocks.and_then(|(asked, theirs)| clock.answer(asked, theirs, wall::now())) {
                    Some(clock) => PeerEvent::Clock { peer: slot.peer, name: name.to_owned(), clock },
                    None => continue,
                }
            }
            Frame::Ping(asked) => {
                deadline = Instant::now() + shared.patience;
                // When answers pile up the peer is not reading: it gets its answer later.
                let _ = answers.try_send(asked);
                continue;
            }
            Frame::Unknown => continue,
            Frame::UnknownMessage(kind) => {
                if !std::mem::replace(&mut of_later_version, true) {
                    tracing::info!(
                        peer = name,
                        kind,
                        "it is of a later version: messages of this kind are passed over"
                    );
                }
                continue;
            }
            Frame::Hello(_) => return "it greeted twice".into(),
            Frame::Bye(because) => return format!("the peer closed the connection: {because}"),
            Frame::Message(message) => PeerEvent::Message { from: slot.peer, message: *message },
            Frame::Bytes { channel, bytes } => PeerEvent::Bytes { from: slot.peer, channel, bytes },
        };
        if !slot.deliver(generation, event) {
            return "replaced by a newer connection".into();
        }
    }
}

async fn transmit(
    shared: &Shared,
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    mut queued: Queued,
    mut pongs: mpsc::Receiver<Option<u64>>,
    asks: bool,
) -> String {
    // One end asks, the lower PNN: the other knows by the questions that the link works, and is left when its answers stop.
    let mut pings = interval(shared.ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let frame = tokio::select! {
            biased;
            Some(asked) = pongs.recv() => frame::pong(asked, wall::now()),
            _ = pings.tick(), if asks => frame::ping(wall::now()),
            Some(frame) = queued.next() => frame,
            else => return "closed".into(),
        };
        let written = timeout(shared.patience, async {
            writer.write_all(&frame).await?;
            // What is there already goes along, one flush for all; pings and answers come first again after it.
            for _ in 0..16 {
                let Some(frame) = queued.ready() else { break };
                writer.write_all(&frame).await?;
            }
            writer.flush().await
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("it has not read for {}", cluster::human(shared.patience)),
        }
    }
}
