//! What every command works with: the connection, the options, the output.

use super::args::Options;
use super::out::{Exit, FAILED, Out, Outcome, complain};
use ctdb::control::{NodeEntry, NodeMap, Opcode};
use ctdb::node::{UNKNOWN, flags};
use ctdb::srvid;
use ctdb::wire::{ControlReply, Message, WireError};
use ctdb_client::{Client, Error};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The range of numbers that the tool has answers sent to.
const TOOL: u64 = 0xCE01 << 48;
/// As C's `ETIMEDOUT`, `EPROTO`, `EIO`.
const ETIMEDOUT: i32 = 110;
const EPROTO: i32 = 71;
const EIO: i32 = 5;

/// A command that needs the daemon.
pub(super) struct Context {
    pub(super) options: Options,
    pub(super) out: Out,
    pub(super) client: Client,
    /// This node.
    pub(super) pnn: u32,
    /// The node that is asked.
    pub(super) node: u32,
    nodes: Option<NodeMap>,
    leader: Option<u32>,
    listens: bool,
    last_srvid: u64,
}

/// Where the daemon listens.
pub(super) fn socket() -> PathBuf {
    if let Some(path) = std::env::var_os("CTDB_SOCKET") {
        return path.into();
    }
    run_directory().map_or_else(|| ctdb_client::SOCKET.into(), |run| run.join("ctdbd.socket"))
}

/// The run directory of a test's daemon.
pub(super) fn run_directory() -> Option<PathBuf> {
    std::env::var_os("CTDB_TEST_MODE")?;
    Some(base().join("run"))
}

/// The directory of the configuration.
pub(super) fn base() -> PathBuf {
    std::env::var_os("CTDB_BASE").map_or_else(|| "/etc/ctdb".into(), PathBuf::from)
}

/// The text of an argument.
pub(super) fn text(arg: &OsString) -> std::borrow::Cow<'_, str> {
    arg.to_string_lossy()
}

/// What follows from an error of the connection, said or not.
pub(super) fn status_of(error: &Error) -> i32 {
    match error {
        Error::Refused { status, .. } => *status,
        Error::Timeout { .. } => ETIMEDOUT,
        Error::Wire(_) | Error::Unexpected { .. } => EPROTO,
        Error::Closed => 1,
        Error::Connect { source, .. } | Error::Socket { source, .. } => source.raw_os_error().unwrap_or(EIO),
        _ => EIO,
    }
}

impl Context {
    pub(super) fn new(options: Options, out: Out, mut client: Client) -> Self {
        client.set_time_limit(limit(&options));
        let pnn = client.pnn();
        let last_srvid = TOOL | u64::from(std::process::id() & 0xFFFF) << 16;
        Self { options, out, client, pnn, node: pnn, nodes: None, leader: None, listens: false, last_srvid }
    }

    /// How long one answer may take.
    pub(super) fn limit(&self) -> Duration {
        limit(&self.options)
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.limit()
    }

    /// A number of this process to which answers can be sent.
    pub(super) fn next_srvid(&mut self) -> u64 {
        self.last_srvid += 1;
        self.last_srvid
    }

    /// An error of the connection: when the daemon has gone there is nothing left to do.
    pub(super) fn lost(error: &Error) -> Exit {
        complain!("{error}");
        Exit(status_of(error))
    }

    /// Asks a daemon; its status is for the caller.
    pub(super) fn control(&mut self, dest: u32, opcode: Opcode, data: &[u8]) -> Result<ControlReply, Exit> {
        self.control_with(dest, opcode, 0, data)
    }

    /// As [`Self::control`], with flags of the packet.
    pub(super) fn control_with(
        &mut self,
        dest: u32,
        opcode: Opcode,
        flags: u32,
        data: &[u8],
    ) -> Result<ControlReply, Exit> {
        self.client.control_with(dest, opcode, 0, flags, data).map_err(|error| {
            let status = status_of(&error);
            match error {
                Error::Closed => complain!("{error}"),
                _ => complain!("Control {} failed to node {dest}, ret={status}", name(opcode)),
            }
            Exit(status)
        })
    }

    /// Asks a daemon; a status other than 0 is told and is how the command ends.
    pub(super) fn ask(&mut self, dest: u32, opcode: Opcode, data: &[u8]) -> Result<Vec<u8>, Exit> {
        let reply = self.control(dest, opcode, data)?;
        if reply.status != 0 {
            complain!("Control {} failed, ret={}", name(opcode), reply.status);
            return Err(Exit(reply.status));
        }
        Ok(reply.data)
    }

    /// As [`Self::ask`], of the node that is meant.
    pub(super) fn ask_node(&mut self, opcode: Opcode, data: &[u8]) -> Result<Vec<u8>, Exit> {
        self.ask(self.node, opcode, data)
    }

    /// As [`Self::ask`], and reads the answer.
    pub(super) fn get<T>(
        &mut self,
        dest: u32,
        opcode: Opcode,
        data: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, WireError>,
    ) -> Result<T, Exit> {
        let data = self.ask(dest, opcode, data)?;
        read(&data).map_err(|_| {
            complain!("Control {} failed, ret={EPROTO}", name(opcode));
            Exit(EPROTO)
        })
    }

    /// A text that the daemon answers; none if it is empty.
    pub(super) fn get_text(&mut self, dest: u32, opcode: Opcode, data: &[u8]) -> Result<Option<String>, Exit> {
        let data = self.ask(dest, opcode, data)?;
        let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
        Ok((!data.is_empty()).then(|| String::from_utf8_lossy(&data[..end]).into_owned()))
    }

    /// Asks several nodes at once; all must answer 0. The answers, in the nodes' order.
    pub(super) fn ask_all(&mut self, nodes: &[u32], opcode: Opcode, data: &[u8]) -> Result<Vec<Vec<u8>>, Exit> {
        let answers = self.client.control_all(nodes, opcode, data).map_err(|e| Self::lost(&e))?;
        let one = |(node, answer): (&u32, Result<ControlReply, Error>)| {
            let status = match answer {
                Ok(reply) if reply.status == 0 => return Ok(reply.data),
                Ok(reply) => reply.status,
                Err(error) => status_of(&error),
            };
            complain!("Control {} failed on node {node}, ret={status}", name(opcode));
            Err(Exit(status))
        };
        nodes.iter().zip(answers).map(one).collect()
    }

    /// The nodes, as this node's daemon knows them; of a banned one as the next does that can be asked.
    pub(super) fn nodes(&mut self) -> Result<NodeMap, Exit> {
        if let Some(nodes) = &self.nodes {
            return Ok(nodes.clone());
        }
        let mut asked = self.pnn;
        loop {
            let found = self.get(asked, Opcode::GET_NODEMAP, &[], NodeMap::get);
            let Ok(map) = found else {
                complain!("Failed to get nodemap from node {asked}");
                return Err(FAILED);
            };
            let banned = map.0.iter().any(|n| n.pnn == asked && n.flags & flags::BANNED != 0);
            if !banned {
                self.nodes = Some(map.clone());
                return Ok(map);
            }
            let count = u32::try_from(map.0.len()).unwrap_or(u32::MAX).max(1);
            loop {
                asked = (asked + 1) % count;
                let away = flags::DELETED | flags::DISCONNECTED;
                if asked == self.pnn || map.0.iter().any(|n| n.pnn == asked && n.flags & away == 0) {
                    break;
                }
            }
            if asked == self.pnn {
                complain!("Warning: All nodes are banned.");
                return Err(FAILED);
            }
        }
    }

    /// The nodes as they are now.
    pub(super) fn nodes_now(&mut self) -> Result<NodeMap, Exit> {
        self.nodes = None;
        self.nodes()
    }

    /// The node that is meant, as the node map has it.
    pub(super) fn entry(&mut self) -> Result<NodeEntry, Exit> {
        let node = self.node;
        let found = self.nodes()?.0.iter().find(|n| n.pnn == node).copied();
        found.ok_or_else(|| {
            complain!("Node {node} does not exist");
            FAILED
        })
    }

    /// Takes `-n`: the node must exist and be connected.
    pub(super) fn choose_node(&mut self, pnn: u32) -> Outcome {
        let nodes = self.nodes()?;
        let Some(node) = nodes.0.iter().find(|n| n.pnn == pnn) else {
            complain!("Node {pnn} does not exist");
            return Err(FAILED);
        };
        if node.flags & (flags::DISCONNECTED | flags::DELETED) != 0 {
            complain!("Node {pnn} has status {}", super::nodes::describe(node.flags));
            return Err(FAILED);
        }
        self.node = pnn;
        Ok(())
    }

    /// Who leads, by what it says each second itself; none within the time limit.
    pub(super) fn leader(&mut self) -> Result<Option<u32>, Exit> {
        if !self.listens {
            self.listens = true;
            if let Err(error) = self.client.register(srvid::LEADER) {
                complain!("Failed to setup leader handler");
                return Err(Exit(status_of(&error)));
            }
        }
        let deadline = self.deadline();
        // What came meanwhile is read first: the last word counts.
        let mut until = Instant::now();
        loop {
            match self.client.message(until).map_err(|e| Self::lost(&e))? {
                Some(message) if message.srvid == srvid::LEADER => {
                    let pnn = message.data.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b));
                    self.leader = pnn.filter(|pnn| *pnn != UNKNOWN);
                }
                Some(_) => {}
                None if until == deadline => return Ok(None),
                None if self.leader.is_some() => return Ok(self.leader),
                None => {}
            }
            until = if self.leader.is_some() { Instant::now() } else { deadline };
        }
    }

    /// The next message to `srvid`; none in time. Others are passed over.
    pub(super) fn answer_to(&mut self, srvid: u64, deadline: Instant) -> Result<Option<Message>, Exit> {
        loop {
            match self.client.message(deadline).map_err(|e| Self::lost(&e))? {
                Some(message) if message.srvid == srvid => return Ok(Some(message)),
                Some(message) if message.srvid == srvid::LEADER => {
                    let pnn = message.data.first_chunk::<4>().map(|b| u32::from_ne_bytes(*b));
                    self.leader = pnn.filter(|pnn| *pnn != UNKNOWN);
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The numbers of the nodes that `list` names: `all`, or numbers with commas; without it the node that is meant.
    pub(super) fn listed(&mut self, list: Option<&str>) -> Result<Vec<NodeEntry>, Exit> {
        let nodes = self.nodes()?;
        let Some(list) = list else { return self.entry().map(|entry| vec![entry]) };
        if list == "all" {
            return Ok(nodes.0);
        }
        let mut found = Vec::new();
        for item in list.split(',').filter(|item| !item.is_empty()) {
            let (_, left) = super::args::prefix(item);
            if left == item {
                complain!("Invalid node {item}");
                return Err(FAILED);
            }
            let pnn = super::args::lenient_u32(item);
            match nodes.0.iter().find(|n| n.pnn == pnn) {
                Some(node) => found.push(*node),
                None => {
                    complain!("Node {pnn} does not exist");
                    return Err(FAILED);
                }
            }
        }
        Ok(found)
    }
}

fn limit(options: &Options) -> Duration {
    Duration::from_secs(u64::try_from(options.time_limit).unwrap_or(0))
}

/// The numbers of those that can be asked.
pub(super) fn connected(nodes: &[NodeEntry]) -> Vec<u32> {
    without(nodes, flags::DISCONNECTED | flags::DELETED)
}

/// The numbers of those that take part.
pub(super) fn active(nodes: &[NodeEntry]) -> Vec<u32> {
    without(nodes, flags::INACTIVE)
}

fn without(nodes: &[NodeEntry], flags: u32) -> Vec<u32> {
    nodes.iter().filter(|n| n.flags & flags == 0).map(|n| n.pnn).collect()
}

fn name(opcode: Opcode) -> &'static str {
    opcode.name().unwrap_or("UNKNOWN")
}
