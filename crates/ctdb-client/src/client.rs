//! One connection to a daemon: questions, calls, messages.

use crate::Error;
use ctdb::call;
use ctdb::control::{NodeMap, Opcode, VnnMap};
use ctdb::node::{CURRENT, RunState, flags};
use ctdb::wire::{Body, Call, CallReply, Control, ControlReply, Frames, Header, Message, Packet};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where Samba and the `ctdb` tool look for the daemon.
pub const SOCKET: &str = "/run/ctdb/ctdbd.socket";
/// No answer of a daemon takes longer: it answers its own time limit (60 s) itself.
const PATIENCE: Duration = Duration::from_secs(130);

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    frames: Frames,
    last_reqid: u32,
    pnn: u32,
    limit: Duration,
    /// Messages that came while an answer was waited for.
    messages: VecDeque<Message>,
    buffer: Vec<u8>,
}

/// An answer that is waited for.
struct Waiting {
    reqid: u32,
    what: String,
}

impl Client {
    /// Connects and asks which node this is.
    ///
    /// # Errors
    /// Nobody listens ([`Error::Connect`]), or who listens does not answer.
    pub fn connect(socket: &Path) -> Result<Self, Error> {
        let stream =
            UnixStream::connect(socket).map_err(|source| Error::Connect { path: socket.to_owned(), source })?;
        let mut client = Self {
            stream,
            frames: Frames::default(),
            last_reqid: 0,
            pnn: 0,
            limit: PATIENCE,
            messages: VecDeque::new(),
            buffer: vec![0; 64 << 10],
        };
        let pnn = client.control(CURRENT, Opcode::GET_PNN, 0, &[])?.status;
        client.pnn = u32::try_from(pnn)
            .map_err(|_| Error::Unexpected { what: Opcode::GET_PNN.to_string(), got: format!("status {pnn}") })?;
        Ok(client)
    }

    /// How long to wait for each answer from now on; 130 s at first.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// That time limit, but no less than this.
    pub(crate) fn patience(&self, at_least: Duration) -> Duration {
        self.limit.max(at_least)
    }

    /// What keeps the databases of a cluster of `nodes` from being served; `None` once all nodes are active and in the
    /// map of location masters and no recovery is under way.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn why_not_whole(&mut self, nodes: usize) -> Result<Option<String>, Error> {
        let state = self.ask(CURRENT, Opcode::GET_RUNSTATE, &[])?;
        if state.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b)) != Some(RunState::Running as u32) {
            return Ok(Some(format!("runstate {state:?}")));
        }
        let map = NodeMap::get(&self.ask(CURRENT, Opcode::GET_NODEMAP, &[])?)?;
        let active = map.0.iter().filter(|n| n.flags & flags::INACTIVE == 0).count();
        let masters = self.vnn_map(CURRENT)?.map.len();
        if active != nodes || masters != nodes {
            return Ok(Some(format!("{active} nodes are active and {masters} are location masters, not {nodes}")));
        }
        Ok((!self.recovery_mode_is_normal(CURRENT)?).then(|| "a recovery is under way".into()))
    }

    /// The number of this node.
    #[must_use]
    pub fn pnn(&self) -> u32 {
        self.pnn
    }

    /// Asks a node's daemon. Whatever status it answers is for the caller.
    ///
    /// # Errors
    /// No answer, or one of another kind.
    pub fn control(&mut self, dest: u32, opcode: Opcode, srvid: u64, data: &[u8]) -> Result<ControlReply, Error> {
        self.control_with(dest, opcode, srvid, 0, data)
    }

    /// As [`Self::control`], with flags of the control packet ([`ctdb::control::flags`]).
    ///
    /// # Errors
    /// As for [`Self::control`].
    pub fn control_with(
        &mut self,
        dest: u32,
        opcode: Opcode,
        srvid: u64,
        flags: u32,
        data: &[u8],
    ) -> Result<ControlReply, Error> {
        let waiting = self.begin(dest, opcode, srvid, flags, data)?;
        let deadline = Instant::now() + self.limit;
        let body = self.answer(&waiting, deadline)?;
        control_reply(waiting, body)
    }

    /// Sends an order to which the daemon shall not answer.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn order(&mut self, dest: u32, opcode: Opcode, data: &[u8]) -> Result<(), Error> {
        let flags = ctdb::control::flags::NOREPLY;
        self.begin(dest, opcode, 0, flags, data).map(drop)
    }

    /// Asks several nodes at the same time; the answers come in the nodes' order, all within one time limit.
    ///
    /// # Errors
    /// The connection is lost. A node that does not answer has an error of its own.
    pub fn control_all(
        &mut self,
        nodes: &[u32],
        opcode: Opcode,
        data: &[u8],
    ) -> Result<Vec<Result<ControlReply, Error>>, Error> {
        let waits: Vec<Waiting> =
            nodes.iter().map(|node| self.begin(*node, opcode, 0, 0, data)).collect::<Result<_, _>>()?;
        let deadline = Instant::now() + self.limit;
        let mut answers: Vec<Option<Body>> = waits.iter().map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            match self.receive(deadline)? {
                None => break,
                Some(Packet { body: Body::Message(message), .. }) => self.messages.push_back(message),
                Some(packet) => {
                    if let Some(at) = waits.iter().position(|w| w.reqid == packet.header.reqid) {
                        answers[at] = Some(packet.body);
                    }
                }
            }
        }
        let limit = self.limit;
        let answer = |(waiting, body): (Waiting, Option<Body>)| match body {
            Some(body) => control_reply(waiting, body),
            None => Err(Error::Timeout { what: waiting.what, after: limit }),
        };
        Ok(waits.into_iter().zip(answers).map(answer).collect())
    }

    /// As [`Self::control`]; a status other than 0 is an error.
    ///
    /// # Errors
    /// No answer, or [`Error::Refused`].
    pub fn ask(&mut self, dest: u32, opcode: Opcode, data: &[u8]) -> Result<Vec<u8>, Error> {
        let reply = self.control(dest, opcode, 0, data)?;
        if reply.status != 0 {
            return Err(Error::Refused { opcode, dest, status: reply.status, why: reply.error });
        }
        Ok(reply.data)
    }

    /// The map of location masters, with its generation.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub fn vnn_map(&mut self, dest: u32) -> Result<VnnMap, Error> {
        Ok(VnnMap::get(&self.ask(dest, Opcode::GETVNNMAP, &[])?)?)
    }

    /// Whether a node's databases can be used.
    ///
    /// # Errors
    /// As for [`Self::control`]; also a mode that is neither.
    pub fn recovery_mode_is_normal(&mut self, dest: u32) -> Result<bool, Error> {
        match self.control(dest, Opcode::GET_RECMODE, 0, &[])?.status {
            0 => Ok(true),
            1 => Ok(false),
            other => Err(Error::Unexpected { what: Opcode::GET_RECMODE.to_string(), got: format!("status {other}") }),
        }
    }

    /// Orders a recovery of all databases, as `ctdb recover` does.
    ///
    /// # Errors
    /// As for [`Self::ask`].
    pub fn recover(&mut self) -> Result<(), Error> {
        self.ask(CURRENT, Opcode::SET_RECMODE, &1u32.to_ne_bytes()).map(drop)
    }

    /// Has the record brought to this node.
    ///
    /// # Errors
    /// No answer within the time limit.
    pub fn migrate(&mut self, db: u32, key: &[u8]) -> Result<CallReply, Error> {
        self.call(db, key, call::flags::IMMEDIATE_MIGRATION)
    }

    /// Has the record, or with [`call::flags::WANT_READONLY`] a copy of it, brought to this node.
    ///
    /// # Errors
    /// No answer within the time limit.
    pub fn call(&mut self, db: u32, key: &[u8], flags: u32) -> Result<CallReply, Error> {
        let call = Call { flags, db, function: call::NULL, hops: 0, key: key.to_vec(), argument: Vec::new() };
        let what = format!("a call on database {db:#x}");
        let waiting = self.send_request(0, Body::Call(call), what)?;
        let deadline = Instant::now() + self.limit;
        match self.answer(&waiting, deadline)? {
            Body::CallReply(reply) => Ok(reply),
            other => Err(Error::Unexpected { what: waiting.what, got: format!("{other:?}") }),
        }
    }

    /// Wants the messages to this number.
    ///
    /// # Errors
    /// No answer, or [`Error::Refused`].
    pub fn register(&mut self, srvid: u64) -> Result<(), Error> {
        self.srvid(Opcode::REGISTER_SRVID, srvid)
    }

    /// Does not want them any more.
    ///
    /// # Errors
    /// No answer, or [`Error::Refused`].
    pub fn deregister(&mut self, srvid: u64) -> Result<(), Error> {
        self.srvid(Opcode::DEREGISTER_SRVID, srvid)
    }

    fn srvid(&mut self, opcode: Opcode, srvid: u64) -> Result<(), Error> {
        let reply = self.control(CURRENT, opcode, srvid, &[])?;
        if reply.status != 0 {
            return Err(Error::Refused { opcode, dest: CURRENT, status: reply.status, why: reply.error });
        }
        Ok(())
    }

    /// Sends a message; nobody says whether it arrives.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn send_message(&mut self, dest: u32, srvid: u64, data: &[u8]) -> Result<(), Error> {
        self.send(dest, 0, Body::Message(Message { srvid, data: data.to_vec() }))
    }

    /// The next message; none came until `deadline`.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn message(&mut self, deadline: Instant) -> Result<Option<Message>, Error> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            match self.receive(deadline)? {
                None => return Ok(None),
                Some(Packet { body: Body::Message(message), .. }) => self.messages.push_back(message),
                // An answer that nobody waits for any more.
                Some(_) => {}
            }
        }
    }

    fn begin(&mut self, dest: u32, opcode: Opcode, srvid: u64, flags: u32, data: &[u8]) -> Result<Waiting, Error> {
        let body = Body::Control(Control { opcode: opcode.0, srvid, flags, data: data.to_vec() });
        self.send_request(dest, body, format!("{opcode} to node {dest:#x}"))
    }

    fn send_request(&mut self, dest: u32, body: Body, what: String) -> Result<Waiting, Error> {
        self.last_reqid = self.last_reqid.wrapping_add(1).max(1);
        let reqid = self.last_reqid;
        self.send(dest, reqid, body)?;
        Ok(Waiting { reqid, what })
    }

    fn send(&mut self, dest: u32, reqid: u32, body: Body) -> Result<(), Error> {
        let header = Header { generation: 0, dest, source: self.pnn, reqid };
        match self.stream.write_all(&Packet { header, body }.encode()) {
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Err(Error::Closed),
            other => other.map_err(|source| Error::Socket { doing: "cannot write to the daemon", source }),
        }
    }

    fn answer(&mut self, waiting: &Waiting, deadline: Instant) -> Result<Body, Error> {
        loop {
            match self.receive(deadline)? {
                None => return Err(Error::Timeout { what: waiting.what.clone(), after: self.limit }),
                Some(Packet { body: Body::Message(message), .. }) => self.messages.push_back(message),
                Some(packet) if packet.header.reqid == waiting.reqid => return Ok(packet.body),
                // An answer to what has timed out.
                Some(_) => {}
            }
        }
    }

    /// Waits until there is something to be read, or the connection has ended; false: not by `deadline`. A wait in the
    /// read itself would also be woken, for nothing, each time the daemon takes what was written to it; smbd's is not.
    fn wait(&self, deadline: Instant) -> Result<bool, Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut stream = [PollFd::new(&self.stream, PollFlags::IN)];
            // More than the kernel can wait is for ever.
            match poll(&mut stream, Timespec::try_from(left).ok().as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::Socket { doing: "cannot wait for the daemon", source: e.into() }),
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Option<Packet>, Error> {
        loop {
            if let Some(bytes) = self.frames.packet()? {
                return Ok(Some(Packet::decode(bytes)?));
            }
            if !self.wait(deadline)? {
                return Ok(None);
            }
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Err(Error::Closed),
                Ok(n) => self.frames.push(&self.buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Err(Error::Closed),
                Err(source) => return Err(Error::Socket { doing: "cannot read from the daemon", source }),
            }
        }
    }
}

fn control_reply(waiting: Waiting, body: Body) -> Result<ControlReply, Error> {
    match body {
        Body::ControlReply(reply) => Ok(reply),
        other => Err(Error::Unexpected { what: waiting.what, got: format!("{other:?}") }),
    }
}
