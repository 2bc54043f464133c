//! A client's packet, to where it belongs.

use super::io::{ClientId, Input, Level, Output};
use super::remote::is_about_life;
use super::{Origin, Server};
use crate::call;
use crate::control::{Opcode, flags};
use crate::database::{Caller, Function, Token};
use crate::node;
use crate::peer::Said;
use crate::recovery::Phase;
use crate::server::databases::Call as Waiting;
use crate::wire::{Body, Call, CallReply, Connection, Control, ControlReply, Header, Packet, Reader, Tunnel};

/// Controls that only look at what this node knows: answered also while it has no lease.
const ALWAYS: [Opcode; 20] = [
    Opcode::PING,
    Opcode::GETDBPATH,
    Opcode::GETVNNMAP,
    Opcode::GET_DEBUG,
    Opcode::GET_DBMAP,
    Opcode::GET_RECMODE,
    Opcode::GET_DBNAME,
    Opcode::GET_PID,
    Opcode::GET_PNN,
    Opcode::SHUTDOWN,
    Opcode::GET_TUNABLE,
    Opcode::LIST_TUNABLES,
    Opcode::GET_ALL_TUNABLES,
    Opcode::UPTIME,
    Opcode::GET_CAPABILITIES,
    Opcode::GET_PUBLIC_IPS,
    Opcode::GET_NODEMAP,
    Opcode::GET_IFACES,
    Opcode::GET_RUNSTATE,
    Opcode::REGISTER_SRVID,
];

/// A message between processes that has come from another node. Only rules that are left out on purpose ask.
pub(super) fn message(input: &Input) -> Option<(u32, Said)> {
    let Input::Peer { from, bytes } = input else { return None };
    Said::decode(bytes).ok().filter(|said| matches!(said, Said::Message { .. })).map(|said| (*from, said))
}

/// A control that has come from another node.
pub(super) fn is_question(input: &Input) -> bool {
    let Input::Peer { bytes, .. } = input else { return false };
    matches!(Said::decode(bytes), Ok(Said::Control { .. }))
}

/// Is it this client's question whether a process is alive?
pub(super) fn is_about_life_for(input: &Input, asker: ClientId) -> bool {
    let Input::Packet { client, packet } = input else { return false };
    let asks = |body| matches!(body, Body::Control(Control { opcode, .. }) if is_about_life(opcode));
    *client == asker && Packet::decode(packet).is_ok_and(|packet| asks(packet.body))
}

/// The connection that this client says it serves.
pub(super) fn connection_told_by(input: &Input, teller: ClientId) -> Option<Connection> {
    let Input::Packet { client, packet } = input else { return None };
    match Packet::decode(packet).ok()?.body {
        Body::Control(control) if *client == teller && Opcode(control.opcode) == Opcode::TCP_CLIENT => {
            Connection::get(&mut Reader::new(&control.data)).ok()
        }
        _ => None,
    }
}

impl Server {
    /// Does it wait until the node has a lease again, or is dropped? Without a lease nobody here may be told that he has a
    /// record, or that somebody is dead: others may have decided otherwise.
    pub(super) fn is_held(&self, input: &Input) -> bool {
        if !self.is_member() || self.picture.leased {
            return false;
        }
        match input {
            Input::Packet { packet, .. } => match Packet::decode(packet).map(|p| p.body) {
                Ok(Body::Control(control)) => !ALWAYS.contains(&Opcode(control.opcode)),
                _ => true,
            },
            Input::Peer { .. } => true,
            _ => false,
        }
    }

    pub(super) fn packet(&mut self, client: ClientId, packet: &[u8]) {
        if self.clients.get(client).is_none() {
            return;
        }
        self.statistics.client_received += 1;
        let Packet { header, body } = match Packet::decode(packet) {
            Ok(packet) => packet,
            // As the original: no answer, and the connection stays.
            Err(error) => {
                return self.log(Level::Warning, format!("a client's packet is passed over: {error}"));
            }
        };
        match body {
            Body::Call(call) => self.client_calls(client, header.reqid, call),
            Body::Message(message) => {
                self.statistics.client_messages += 1;
                self.route(header.dest, message.srvid, message.data);
            }
            Body::Control(control) => {
                let (opcode, control_flags) = (control.opcode, control.flags);
                let quiet = control_flags & flags::NOREPLY != 0;
                let origin = if quiet { Origin::Nobody } else { Origin::Client { client, reqid: header.reqid } };
                self.statistics.client_controls += 1;
                if node::is_broadcast(header.dest) {
                    // The original drops one that wants an answer.
                    if quiet {
                        self.broadcast_control(Some(client), header.dest, control);
                    }
                } else if header.dest == node::CURRENT || header.dest == self.me {
                    self.local_control(Some(client), origin, opcode, control.srvid, control_flags, &control.data);
                } else {
                    self.ask(origin, header.dest, control);
                }
            }
            Body::Tunnel(Tunnel { id, flags, data }) => {
                if header.dest == self.me {
                    self.deliver_tunnel(self.me, id, flags, header.reqid, data);
                } else {
                    self.send(header.dest, Said::Tunnel { id, flags, reqid: header.reqid, data });
                }
            }
            Body::CallReply(_) | Body::Error { .. } | Body::ControlReply(_) => {
                self.log(Level::Debug, "a client sends an answer to nothing".to_owned());
            }
        }
    }

    fn client_calls(&mut self, client: ClientId, reqid: u32, call: Call) {
        self.statistics.client_calls += 1;
        let function = match call.function {
            call::NULL => Function::Null,
            call::FETCH => Function::Fetch,
            call::FETCH_WITH_HEADER => Function::FetchWithHeader,
            other => return self.call_fails(client, reqid, format!("no function {other:#x}")),
        };
        let reads = call.flags & call::flags::WANT_READONLY != 0;
        let token = Token(self.next_serial());
        let Some(db) = self.dbs.get_mut(&call.db) else {
            return self.call_fails(client, reqid, format!("no database {:#010x}: attach it first", call.db));
        };
        self.calls.insert(token, Waiting { client, reqid });
        let mut out = std::mem::take(&mut self.moved);
        db.calls += 1;
        db.hot_keys.count(&call.key);
        db.migration.call(call.key, Caller { token, function, reads }, &mut out);
        self.migrated(call.db, out);
    }

    pub(super) fn call_fails(&mut self, client: ClientId, reqid: u32, why: String) {
        self.log(Level::Warning, format!("a client's call fails: {why}"));
        self.packet_for(client, reqid, Body::Error { status: -1, why });
    }

    pub(super) fn call_done(&mut self, token: Token, data: Vec<u8>) {
        if let Some(Waiting { client, reqid }) = self.calls.remove(&token) {
            self.packet_for(client, reqid, Body::CallReply(CallReply { status: 0, data }));
        }
    }

    pub(super) fn packet_for(&mut self, client: ClientId, reqid: u32, body: Body) {
        if self.clients.get(client).is_none() {
            return;
        }
        self.statistics.client_sent += 1;
        let header = Header { generation: self.generation(), dest: 0, source: self.me, reqid };
        self.out.push(Output::Client { client, packet: Packet { header, body }.encode() });
    }

    /// Answers a control.
    pub(super) fn answer(&mut self, origin: Origin, reply: ControlReply) {
        match origin {
            Origin::Client { client, reqid } => {
                self.packet_for(client, reqid, Body::ControlReply(reply));
                self.tell_later(client);
            }
            Origin::Node { node, id } => {
                let ControlReply { status, data, error } = reply;
                self.send(node, Said::ControlReply { id, status, data, error });
            }
            Origin::Nobody => {}
        }
    }

    pub(super) fn answer_status(&mut self, origin: Origin, status: i32) {
        self.answer(origin, ControlReply { status, data: Vec::new(), error: String::new() });
    }

    pub(super) fn answer_data(&mut self, origin: Origin, data: Vec<u8>) {
        self.answer(origin, ControlReply { status: 0, data, error: String::new() });
    }

    pub(super) fn answer_error(&mut self, origin: Origin, error: impl Into<String>) {
        self.answer(origin, ControlReply { status: -1, data: Vec::new(), error: error.into() });
    }

    pub(super) fn disconnected(&mut self, id: ClientId) {
        let held = std::mem::take(&mut self.held);
        self.held = held.into_iter().filter(|i| !matches!(i, Input::Packet { client, .. } if *client == id)).collect();
        let Some(client) = self.clients.remove(id) else { return };
        client.connections.iter().for_each(|connection| self.took_back(*connection));
        // Whatever is done for it goes on; the answer is dropped.
        self.calls.retain(|_, call| call.client != id);
        let gone = |origin: &Origin| matches!(origin, Origin::Client { client, .. } if *client == id);
        self.reads.retain(|_, (_, origin)| !gone(origin));
        for asked in self.asked.values_mut() {
            if gone(&asked.origin) {
                asked.origin = Origin::Nobody;
            }
        }
        for db in self.dbs.values_mut() {
            db.attaching.retain(|origin| !gone(origin));
        }
        self.end_traverses_of(id);
        if client.updates > 0 && self.is_member() {
            self.want_recovery("a client died in the middle of an update");
        }
        self.give_back();
        for (srvid, data) in client.notify {
            self.route(node::BROADCAST_CONNECTED, srvid, data);
        }
    }

    /// Is a database in use?
    pub(super) fn is_open(&self, db: u32) -> bool {
        self.member.phase(db) == Some(Phase::Open)
    }
}
