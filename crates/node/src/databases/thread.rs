//! The thread's loop: waits for whatever is ready, feeds the core, carries out what it says.

use super::alarm::Alarm;
use super::awake::Awake;
use super::clients::{Client, Got};
use super::inbox::{Item, Post};
use super::links::Links;
use super::rest::Rest;
use super::socket::Socket;
use super::{Core, Files, Outside, Served, mono, now};
use crate::peer::DataLink;
use ctdb::server::{ClientId, Input, Level, Output};
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

/// What the poller calls them; clients by their own numbers, which begin after these.
const LISTENER: u64 = 0;
const INBOX: u64 = 1;
const ALARM: u64 = 2;
const FIRST_CLIENT: u32 = 3;
/// Links by their peers' numbers above this.
pub(super) const LINKS: u64 = 1 << 32;

/// Of one client in one turn, so that the others get theirs.
const READ: usize = 64 << 10;
/// Connections taken in one turn.
const ACCEPTS: usize = 64;
const EVENTS: usize = 256;
/// With so many bytes waiting for the peers, parts of files wait too.
const MUCH: usize = 32 << 20;
/// Without descriptors for another connection.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two tries to get the socket.
const RETRY: Duration = Duration::from_secs(3);
/// A client that is to be closed reads what is left within this.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// If nothing is due: the machine does not run for so long (a thousand years).
const NEVER: Duration = Duration::from_secs(1000 * 365 * 86400);
/// A core that is due again at once, for ever, would burn a processor.
const SHORTEST: Duration = Duration::from_millis(1);

/// The loop and what it needs.
pub(super) struct Loop<'a, C, F, O> {
    core: C,
    files: F,
    outside: &'a O,
    poll: OwnedFd,
    post: Post,
    alarm: Alarm,
    path: PathBuf,
    socket: Option<Socket>,
    /// When the socket is tried again, or connections are taken again.
    listen_at: Option<Duration>,
    /// Why there is no socket, or that there are no descriptors: said once.
    told: String,
    clients: BTreeMap<ClientId, Client>,
    next_client: u32,
    links: Links,
    awake: Awake,
    rest: Rest,
    /// Parts of files wait in the inbox.
    parts_left: bool,
    /// What came over a link, until the core has heard it.
    frames: Vec<Vec<u8>>,
    out: Vec<Output>,
    /// For the core, after what it is about to hear.
    pending: VecDeque<Input>,
    /// Clients with packets to be written.
    unwritten: Vec<ClientId>,
    /// Clients that end when they have read everything.
    closing: Vec<ClientId>,
    buffer: Vec<u8>,
}

impl<'a, C: Core, F: Files, O: Outside> Loop<'a, C, F, O> {
    pub(super) fn new(post: Post, served: Served, core: C, files: F, outside: &'a O) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, post.wakes(), epoll::EventData::new_u64(INBOX), epoll::EventFlags::IN)?;
        let alarm = Alarm::new()?;
        epoll::add(&poll, &alarm, epoll::EventData::new_u64(ALARM), epoll::EventFlags::IN)?;
        Ok(Self {
            core,
            files,
            outside,
            poll,
            post,
            alarm,
            path: served.socket,
            socket: None,
            listen_at: Some(Duration::ZERO),
            told: String::new(),
            clients: BTreeMap::new(),
            next_client: FIRST_CLIENT,
            links: Links::default(),
            awake: Awake::new(served.keep_awake),
            rest: Rest::default(),
            parts_left: false,
            frames: Vec::new(),
            out: Vec::new(),
            pending: VecDeque::new(),
            unwritten: Vec::new(),
            closing: Vec::new(),
            buffer: vec![0; READ],
        })
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// The poller fails.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let mut due = self.timers();
            let mut heard = self.flush();
            if self.parts_left && self.links.waiting() < MUCH {
                if self.inbox() {
                    self.end();
                    return Ok(());
                }
                self.write();
                self.flush();
                heard = true;
            }
            if heard {
                due = due.min(self.due());
            }
            self.alarm.no_later_than(due)?;
            let more = self.parts_left && self.links.waiting() < MUCH;
            let wait = more.then_some(Timespec { tv_sec: 0, tv_nsec: 0 });
            events.clear();
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    INBOX => {
                        if self.inbox() {
                            self.end();
                            return Ok(());
                        }
                    }
                    ALARM => self.alarm.rung(),
                    link if link >= LINKS => {
                        // Only peers' numbers are given to the poller.
                        self.link(u32::try_from(link - LINKS).unwrap_or(0), event.flags);
                    }
                    client => {
                        // Only clients' numbers are given to the poller.
                        let client = ClientId(u32::try_from(client).unwrap_or(0));
                        self.client(client, event.flags);
                    }
                }
                self.write();
            }
            // The peers first, then what is due by time.
            self.flush();
        }
    }

    /// What is due by time; when something is due again.
    fn timers(&mut self) -> Duration {
        let now = mono();
        let due = self.due();
        if due > now {
            return due;
        }
        let woken = self.core.next_wake().is_some_and(|at| at <= now);
        if woken {
            self.feed(Input::Wake);
        }
        if self.listen_at.is_some_and(|at| at <= now) {
            self.listen_at = None;
            self.listen(now);
        }
        let due = |client: &Client| client.closing.is_some_and(|at| at <= now);
        let gone: Vec<_> = self.closing.iter().copied().filter(|id| self.clients.get(id).is_some_and(due)).collect();
        for id in gone {
            tracing::warn!(client = id.0, "a client that was to be closed did not read what was left for it");
            self.gone(id);
        }
        self.awake.look(now);
        if self.rest.due().is_some_and(|at| at <= now) {
            self.look_at_rest(now);
        }
        self.settle();
        self.write();
        let due = self.due();
        if woken { due.max(now + SHORTEST) } else { due }
    }

    /// When the first of all is due.
    fn due(&self) -> Duration {
        let closing = self.closing.iter().filter_map(|id| self.clients.get(id)?.closing).min();
        let all = [self.core.next_wake(), self.listen_at, closing, self.awake.due(), self.rest.due()];
        all.into_iter().flatten().min().unwrap_or(NEVER)
    }

    /// Gets the socket, or goes on with the one that there is.
    fn listen(&mut self, now: Duration) {
        if self.socket.is_none() {
            match Socket::bind(&self.path) {
                Ok(socket) => {
                    if !std::mem::take(&mut self.told).is_empty() {
                        tracing::info!("Samba's databases are served at {} now", self.path.display());
                    }
                    self.outside.warn(String::new());
                    self.socket = Some(socket);
                }
                Err(error) => {
                    self.listen_at = Some(now + RETRY);
                    let text = error.to_string();
                    if self.told != text {
                        tracing::error!("{text}");
                        self.told.clone_from(&text);
                        self.outside.warn(text);
                    }
                    return;
                }
            }
        }
        if let Some(socket) = &self.socket {
            let data = epoll::EventData::new_u64(LISTENER);
            if let Err(error) = epoll::add(&self.poll, socket.listener(), data, epoll::EventFlags::IN) {
                self.listen_at = Some(now + PAUSE);
                tracing::error!("{}: no connections are taken for a while: {error}", self.path.display());
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Some(socket) = &self.socket else { return };
            match socket.accept() {
                Ok(None) => {}
                Ok(Some((stream, pid))) => {
                    self.told.clear();
                    let id = self.fresh();
                    let client = Client::new(stream, pid);
                    match watch(&self.poll, &client, id, false) {
                        Ok(()) => {
                            self.clients.insert(id, client);
                            self.feed(Input::Connected { client: id, pid });
                        }
                        Err(error) => tracing::error!(pid, "a client cannot be served: {error}"),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It has gone before it was taken.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                Err(error) => {
                    // Out of descriptors, most likely: those that wait are taken when others have gone.
                    if self.told.is_empty() {
                        self.told = format!("{}: no connections are taken for a while: {error}", self.path.display());
                        tracing::error!(clients = self.clients.len(), "{}", self.told);
                    }
                    self.listen_at = Some(mono() + PAUSE);
                    if let Err(error) = epoll::delete(&self.poll, socket.listener()) {
                        tracing::error!("{}: {error}", self.path.display());
                    }
                    return;
                }
            }
        }
    }

    /// A number that nobody has; not given again for the first four thousand million.
    fn fresh(&mut self) -> ClientId {
        loop {
            let id = ClientId(self.next_client);
            self.next_client = self.next_client.checked_add(1).unwrap_or(FIRST_CLIENT);
            if !self.clients.contains_key(&id) {
                return id;
            }
        }
    }

    /// Tells the core who is at rest; what it says then is written at once, before that changes.
    fn look_at_rest(&mut self, now: Duration) {
        for _ in 0..self.rest.begin(now) {
            let clients = &self.clients;
            if let Some(client) = self.rest.look(|id| clients.get(&id).map(|client| client.pid)) {
                self.feed(Input::AtRest(client));
                self.write();
            }
        }
    }

    /// True when it is to stop.
    fn inbox(&mut self) -> bool {
        let can = self.links.waiting() < MUCH;
        let (items, left) = self.post.take(can);
        self.parts_left = left;
        for item in items {
            match item {
                Item::Input(input) => self.feed(input),
                Item::Link(link) => self.new_link(*link),
                Item::Releasing(addresses) => {
                    for address in &addresses {
                        self.feed(Input::Leaves(*address));
                    }
                    self.write();
                    // Most wait for events, and are told before the address leaves.
                    self.look_at_rest(mono());
                    self.outside.told(addresses);
                }
                Item::Stop => return true,
            }
        }
        false
    }

    /// Something is ready at a client; it may have gone in this turn.
    fn client(&mut self, id: ClientId, flags: epoll::EventFlags) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.closing.is_some() && flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            self.gone(id);
            return self.settle();
        }
        if flags.contains(epoll::EventFlags::OUT) {
            self.unwritten.push(id);
        }
        // What it says after that does not matter.
        if client.closing.is_some() || flags == epoll::EventFlags::OUT {
            return;
        }
        match client.read(&mut self.buffer) {
            Got::Nothing => {}
            Got::Gone => {
                self.gone(id);
                self.settle();
            }
            Got::Bytes(n) => {
                client.frames.push(&self.buffer[..n]);
                self.packets(id);
            }
        }
    }

    fn packets(&mut self, id: ClientId) {
        // Closed by the core, or gone, since the packet before.
        while let Some(client) = self.clients.get_mut(&id).filter(|client| client.closing.is_none()) {
            match client.frames.packet() {
                Ok(Some(packet)) => {
                    let packet = packet.to_vec();
                    self.feed(Input::Packet { client: id, packet });
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(
                        client = id.0,
                        pid = client.pid,
                        "a client is closed, for it sends garbage: {error}"
                    );
                    // The answers to what it said before; an error here is its end as well.
                    let _ = client.write();
                    self.gone(id);
                    return self.settle();
                }
            }
        }
    }

    /// Feeds the core, and all that comes of it at once.
    fn feed(&mut self, input: Input) {
        self.core.handle(now(), input, &mut self.out);
        self.settle();
    }

    /// Carries out what the core has said and tells it what is pending, until all is quiet.
    fn settle(&mut self) {
        let mut answers = Vec::new();
        loop {
            let mut out = std::mem::take(&mut self.out);
            for output in out.drain(..) {
                match output {
                    Output::Client { client: id, packet } => self.packet_for(id, packet),
                    Output::Close { client: id } => {
                        if let Some(client) = self.clients.get_mut(&id).filter(|client| client.closing.is_none()) {
                            client.closing = Some(mono() + LAST_WORDS);
                            self.closing.push(id);
                            self.unwritten.push(id);
                        }
                    }
                    Output::AwaitRest { client } => self.rest.add(client),
                    Output::Peer { to, bytes } => self.links.push(to, &bytes),
                    Output::File { db, order } => {
                        self.files.order(db, order, &mut answers);
                        self.pending.extend(answers.drain(..).map(|(db, answer)| Input::File { db, answer }));
                    }
                    Output::Connection { connection, told } => self.outside.connection(connection, told),
                    Output::Recovered { epoch } => self.outside.recovered(epoch),
                    Output::Admin(wish) => self.outside.wish(wish),
                    Output::Log { level, text } => log(level, &text),
                }
            }
            self.out = out;
            let Some(input) = self.pending.pop_front() else { return };
            self.core.handle(now(), input, &mut self.out);
        }
    }

    fn packet_for(&mut self, id: ClientId, packet: Vec<u8>) {
        let Some(client) = self.clients.get_mut(&id).filter(|client| client.closing.is_none()) else { return };
        if client.push(id, packet).is_err() {
            return self.gone(id);
        }
        // It is told by the poller, or has been noted for an earlier packet.
        if !client.awaited && self.unwritten.last() != Some(&id) {
            self.unwritten.push(id);
        }
    }

    /// Writes to the clients what is there for them.
    fn write(&mut self) {
        while let Some(id) = self.unwritten.pop() {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let Ok(done) = client.write() else {
                self.gone(id);
                self.settle();
                continue;
            };
            if done && client.closing.is_some() {
                self.gone(id);
                self.settle();
                continue;
            }
            // Also when it is to be closed: its packets are of no interest any more.
            if done == client.awaited || client.closing.is_some() {
                client.awaited = !done;
                if let Err(error) = watch(&self.poll, client, id, true) {
                    tracing::error!(client = id.0, pid = client.pid, "a client is closed: {error}");
                    self.gone(id);
                    self.settle();
                }
            }
        }
    }

    /// What was gathered in a turn goes together. True if the core has heard of a link that is over.
    fn flush(&mut self) -> bool {
        let mut heard = false;
        while let Some((peer, ended)) = self.links.write(&self.poll) {
            self.lost(peer, &ended);
            // What it says to clients is not put off to the next turn.
            self.write();
            heard = true;
        }
        heard
    }

    /// A link in place of the one that there was.
    fn new_link(&mut self, link: DataLink) {
        let peer = u32::from(link.peer.0);
        // What the core said until now was not for the new one.
        self.flush();
        if self.links.remove(peer, &self.poll) {
            self.feed(Input::Link { peer, up: false });
        }
        match self.links.insert(link, &self.poll) {
            Ok(()) => {
                tracing::debug!(peer, "data link up");
                self.feed(Input::Link { peer, up: true });
                // It may have come with the handshake's last bytes.
                self.link(peer, epoll::EventFlags::IN);
            }
            Err(error) => tracing::error!(peer, "a data link cannot be used: {error}"),
        }
    }

    /// Something is ready at a link; it may be over already.
    fn link(&mut self, peer: u32, flags: epoll::EventFlags) {
        if flags.contains(epoll::EventFlags::OUT) {
            self.links.again(peer);
        }
        if flags == epoll::EventFlags::OUT {
            return;
        }
        let mut frames = std::mem::take(&mut self.frames);
        let read = self.links.read(peer, &mut frames);
        self.awake.come(mono(), frames.len());
        for bytes in frames.drain(..) {
            self.feed(Input::Peer { from: peer, bytes });
        }
        self.frames = frames;
        if let Err(ended) = read {
            self.lost(peer, &ended);
        }
    }

    fn lost(&mut self, peer: u32, because: &str) {
        if self.links.remove(peer, &self.poll) {
            tracing::info!(peer, "data link lost: {because}");
            self.feed(Input::Link { peer, up: false });
        }
    }

    /// A client's connection ends here; the core learns it next.
    fn gone(&mut self, id: ClientId) {
        let Some(client) = self.clients.remove(&id) else { return };
        if client.closing.is_some() {
            self.closing.retain(|other| *other != id);
        }
        // Closing its only descriptor takes it from the poller too.
        drop(client);
        self.pending.push_back(Input::Disconnected { client: id });
    }

    /// The clients get what has been said to them, if they take it at once; then nothing is left.
    fn end(&mut self) {
        self.write();
        self.flush();
        tracing::info!(clients = self.clients.len(), "Samba's databases are closed");
    }
}

/// Lets the poller tell when the client can be read from or, if that is awaited, written to.
fn watch(poll: &OwnedFd, client: &Client, id: ClientId, known: bool) -> io::Result<()> {
    let mut flags = epoll::EventFlags::empty();
    if client.closing.is_none() {
        flags |= epoll::EventFlags::IN;
    }
    if client.awaited {
        flags |= epoll::EventFlags::OUT;
    }
    let (fd, data) = (client.stream.as_fd(), epoll::EventData::new_u64(u64::from(id.0)));
    if known {
        epoll::modify(poll, fd, data, flags)?
    } else {
        epoll::add(poll, fd, data, flags)?
    }
    Ok(())
}

fn log(level: Level, text: &str) {
    match level {
        Level::Error => tracing::error!("databases: {text}"),
        Level::Warning => tracing::warn!("databases: {text}"),
        Level::Info => tracing::info!("databases: {text}"),
        Level::Debug => tracing::debug!("databases: {text}"),
    }
}
