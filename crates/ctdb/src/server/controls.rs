//! Controls: what a client, here or on another node, asks of this node.

use super::io::{ClientId, FileOrder, Level, Output, Wish};
use super::remote::PATIENCE;
use super::traverse::Wanted;
use super::tunables::{Known, Tunables};
use super::{Origin, Server};
use crate::control::{Opcode, Request};
use crate::database::{Kind, Token};
use crate::srvid;
use crate::wire::ControlReply;
use std::net::IpAddr;
use std::time::Duration;

/// Where persistent databases count their transactions.
const DB_SEQNUM_KEY: &[u8] = b"__db_sequence_number__\0";
/// Status of a number that was not registered (ENOENT).
const ENOENT: i32 = 2;
/// Status of a tunable that there is not.
const EINVAL: i32 = -22;

impl Server {
    /// Of a client of another node.
    pub(super) fn control(&mut self, origin: Origin, opcode: u32, srvid: u64, flags: u32, data: &[u8]) {
        self.local_control(None, origin, opcode, srvid, flags, data);
    }

    pub(super) fn local_control(
        &mut self,
        client: Option<ClientId>,
        origin: Origin,
        opcode: u32,
        srvid: u64,
        flags: u32,
        data: &[u8],
    ) {
        let opcode = Opcode(opcode);
        match Request::decode(opcode, srvid, data) {
            Ok(Some(request)) => self.request(client, origin, request, flags),
            Ok(None) => {
                if self.said_unknown.insert(opcode.0) {
                    self.log(Level::Info, format!("{opcode} is not known here; clients that ask it get status -1"));
                }
                self.answer_status(origin, -1);
            }
            Err(error) => {
                self.log(Level::Warning, format!("{opcode} of a client cannot be read: {error}"));
                self.answer_status(origin, -1);
            }
        }
    }

    fn request(&mut self, client: Option<ClientId>, origin: Origin, request: Request, flags: u32) {
        match request {
            Request::Plain(opcode) => self.plain(origin, opcode, flags),
            Request::Database(opcode, db) => self.about_database(origin, opcode, db),
            Request::Attach(opcode, name) => {
                let kind = match opcode {
                    Opcode::DB_ATTACH_PERSISTENT => Kind::Persistent,
                    Opcode::DB_ATTACH_REPLICATED => Kind::Replicated,
                    _ => Kind::Volatile,
                };
                self.attach(origin, kind, &name);
            }
            Request::Srvid(opcode, number) => self.register(client, origin, opcode, number),
            Request::ProcessExists(pid) => {
                let status = if self.clients.has_pid(pid) { 0 } else { -1 };
                self.answer_status(origin, status);
            }
            Request::CheckPidSrvid(pid, number) => {
                let status = if self.clients.has_pid_with(pid, number) { 0 } else { -1 };
                self.answer_status(origin, status);
            }
            Request::Connection(opcode, connection) => self.connection(client, origin, opcode, connection),
            Request::Connections(list) => self.set_connections(origin, list),
            Request::Address(opcode, address) => self.about_address(origin, opcode, address),
            Request::MoveIp(opcode, to, address) => self.move_ip(origin, opcode, to, address),
            Request::AddIp(address, prefix, iface) => self.add_ip(origin, address, prefix, iface),
            Request::DeleteIp(address) => self.delete_ip(origin, address),
            Request::Announce(address, iface) => self.announce(origin, address, &iface),
            Request::Link(iface) => self.set_link(origin, iface.name, iface.up),
            Request::Number(opcode, number) => self.number(origin, opcode, number),
            Request::Ban(pnn, seconds) => {
                if pnn == self.me {
                    self.wish(origin, Wish::Ban(pnn, Duration::from_secs(seconds.into())));
                } else {
                    self.answer_error(origin, format!("node {} cannot ban node {pnn}: ask that one", self.me));
                }
            }
            Request::SetTunable(name, value) => match Tunables::find(&name) {
                None => self.answer_error(origin, format!("no tunable {name}")),
                Some(known) => {
                    self.tunables.set(known, value);
                    self.restrain();
                    self.answer_status(origin, i32::from(matches!(known, Known::Obsolete(_))));
                }
            },
            Request::GetTunable(name) => match Tunables::find(&name) {
                None => self.answer_status(origin, EINVAL),
                Some(known) => self.answer_data(origin, self.tunables.get(known).to_ne_bytes().to_vec()),
            },
            Request::Traverse { db, reqid, srvid, empty } => {
                self.traverse(client, origin, Wanted { db, reqid, srvid, empty });
            }
            Request::Commit(buffer) => self.commit(origin, buffer),
            Request::Update(buffer) => self.update_record(origin, buffer),
            Request::DeleteLater(empty) => {
                if let Some(db) = self.dbs.get_mut(&empty.db).filter(|db| db.have.kind == Kind::Volatile) {
                    db.to_delete.insert(empty.key);
                }
                self.answer_status(origin, 0);
            }
            Request::RegisterNotify(number, message) => {
                let new = client.and_then(|id| self.clients.get(id)).is_some_and(|client| {
                    let new = !client.notify.contains_key(&number);
                    client.notify.entry(number).or_insert(message);
                    new
                });
                self.answer_status(origin, if new { 0 } else { -1 });
            }
            Request::DeregisterNotify(number) => {
                let had = client.and_then(|id| self.clients.get(id)).and_then(|c| c.notify.remove(&number)).is_some();
                self.answer_status(origin, if had { 0 } else { -1 });
            }
            Request::Transaction(opcode, db, _) => self.step_by_hand(origin, opcode, db, 0),
            Request::Push(db, srvid) => self.step_by_hand(origin, Opcode::DB_PUSH_START, db, srvid),
            Request::Echo(data) => self.answer_data(origin, data),
            Request::Vacuum(db, full) => self.vacuum_asked(origin, db, full),
        }
    }

    fn register(&mut self, client: Option<ClientId>, origin: Origin, opcode: Opcode, number: u64) {
        let Some(client) = client else { return self.answer_status(origin, -1) };
        let status = match opcode {
            Opcode::REGISTER_SRVID => {
                self.clients.listen(client, number);
                0
            }
            Opcode::DEREGISTER_SRVID => {
                if self.clients.unlisten(client, number) {
                    0
                } else {
                    ENOENT
                }
            }
            Opcode::TUNNEL_REGISTER => {
                if self.clients.open_tunnel(client, number) {
                    0
                } else {
                    -1
                }
            }
            _ => {
                if self.clients.close_tunnel(client, number) {
                    0
                } else {
                    -1
                }
            }
        };
        self.answer_status(origin, status);
        if opcode == Opcode::REGISTER_SRVID && number == srvid::LEADER {
            self.say_leader(Some(client));
        }
    }

    fn move_ip(&mut self, origin: Origin, opcode: Opcode, to: u32, address: IpAddr) {
        // Taking moves it, and nobody takes what another still has: there is nothing to release before.
        if opcode == Opcode::RELEASE_IP {
            return self.answer_status(origin, 0);
        }
        let known = self.picture.addresses.iter().find(|a| a.address == address);
        let can = known.is_some_and(|a| a.here.is_some());
        if to != self.me || !can {
            return self.answer_error(origin, format!("{address} cannot come to node {to}"));
        }
        if known.and_then(|a| a.holder) == Some(self.me) {
            return self.answer_status(origin, 0);
        }
        self.timers.moves.push((address, origin, self.now.mono + PATIENCE));
        self.out.push(Output::Admin(Wish::Move(address, to)));
    }

    fn number(&mut self, origin: Origin, opcode: Opcode, number: u32) {
        match opcode {
            Opcode::SET_DEBUG => {
                self.debug = i32::try_from(number).unwrap_or(i32::MAX);
                self.answer_status(origin, 0);
            }
            Opcode::SET_RECMODE => {
                if number != 0 {
                    self.want_recovery("a client asked for it");
                }
                self.answer_status(origin, 0);
            }
            Opcode::SET_RECMASTERROLE => {
                self.set_role(number != 0);
                self.answer_status(origin, 0);
            }
            Opcode::SET_LMASTERROLE => {
                self.set_lmaster(number != 0);
                self.answer_status(origin, 0);
            }
            _ => self.answer_error(origin, format!("{opcode} is not done here")),
        }
    }

    /// The cluster's core places the addresses: it hears which tunables forbid something.
    pub(super) fn restrain(&mut self) {
        let set = |name| self.tunables.named(name) != 0;
        let new = (set("NoIPTakeover"), set("NoIPFailback"));
        if std::mem::replace(&mut self.restrained, new) != new {
            let (no_takeover, no_failback) = new;
            self.out.push(Output::Admin(Wish::Restrain { no_takeover, no_failback }));
        }
    }

    pub(super) fn wish(&mut self, origin: Origin, wish: Wish) {
        self.out.push(Output::Admin(wish));
        self.answer_status(origin, 0);
    }

    fn plain(&mut self, origin: Origin, opcode: Opcode, flags: u32) {
        match opcode {
            Opcode::DISABLE_NODE => self.wish(origin, Wish::Disable(self.me)),
            Opcode::ENABLE_NODE => self.wish(origin, Wish::Enable(self.me)),
            Opcode::STOP_NODE => self.wish(origin, Wish::Stop(self.me)),
            Opcode::CONTINUE_NODE => self.wish(origin, Wish::Continue(self.me)),
            Opcode::RELOAD_NODES_FILE | Opcode::RELOAD_PUBLIC_IPS => self.wish(origin, Wish::Reload),
            Opcode::SHUTDOWN => self.out.push(Output::Admin(Wish::ShutDown)),
            Opcode::STATISTICS_RESET => {
                let delegations_before = self.delegations();
                self.statistics =
                    super::statistics::Statistics { since: self.now, delegations_before, ..Default::default() };
                self.dbs.values_mut().for_each(super::databases::Database::count_anew);
                self.answer_status(origin, 0);
            }
            Opcode::PING => self.answer_status(origin, i32::try_from(self.clients.len()).unwrap_or(i32::MAX)),
            Opcode::GET_PID => self.answer_status(origin, self.pid),
            Opcode::GET_PNN => self.answer_status(origin, i32::try_from(self.me).unwrap_or(i32::MAX)),
            Opcode::GET_RECMODE => self.answer_status(origin, i32::from(self.is_recovering() || self.is_inactive())),
            Opcode::IPREALLOCATED | Opcode::START_IPREALLOCATE => self.answer_status(origin, 0),
            _ => match self.picture_of(opcode, flags) {
                Some(data) => self.answer_data(origin, data),
                None => self.answer_status(origin, -1),
            },
        }
    }

    fn about_database(&mut self, origin: Origin, opcode: Opcode, id: u32) {
        let Some(db) = self.dbs.get_mut(&id) else {
            return self.answer_error(origin, format!("no database {id:#010x}"));
        };
        match opcode {
            Opcode::GETDBPATH => match db.path.clone() {
                Some(path) => self.answer_text(origin, &path),
                None => self.answer_error(origin, "its file is not open"),
            },
            Opcode::GET_DBNAME => {
                let name = db.have.name.clone();
                self.answer_text(origin, &name);
            }
            Opcode::DB_OPEN_FLAGS => {
                let flags = db.open_flags();
                self.answer_data(origin, flags.to_ne_bytes().to_vec());
            }
            Opcode::ENABLE_SEQNUM => {
                let new = !std::mem::replace(&mut db.counts, true);
                if new && db.path.is_some() {
                    self.order(id, FileOrder::CountChanges);
                }
                self.answer_status(origin, 0);
            }
            Opcode::SET_DB_READONLY | Opcode::SET_DB_STICKY => {
                if db.have.kind != Kind::Volatile {
                    return self.answer_error(origin, "only a volatile database can be so");
                }
                if opcode == Opcode::SET_DB_READONLY {
                    db.migration.give_copies();
                } else {
                    db.sticky = true;
                }
                self.answer_status(origin, 0);
            }
            Opcode::DB_GET_HEALTH => match db.unhealthy.clone() {
                Some(why) => self.answer_text(origin, &why),
                None => self.answer_data(origin, Vec::new()),
            },
            Opcode::DB_SET_HEALTHY | Opcode::START_PERSISTENT_UPDATE | Opcode::CANCEL_PERSISTENT_UPDATE => {
                self.answer_status(origin, 0);
            }
            Opcode::GET_DB_SEQNUM => {
                let token = Token(self.next_serial());
                self.reads.insert(token, (id, origin));
                self.order(id, FileOrder::Fetch { token, key: DB_SEQNUM_KEY.to_vec() });
            }
            Opcode::GET_DB_STATISTICS => {
                let data = self.database_statistics(id);
                self.answer_data(origin, data);
            }
            Opcode::DB_DETACH => self.detach(origin, id),
            Opcode::DB_FREEZE => self.stop_by_hand(origin, id),
            _ => self.step_by_hand(origin, opcode, id, 0),
        }
    }

    /// A file has answered what a client asked.
    pub(super) fn fetched(&mut self, token: Token, value: Option<Vec<u8>>) {
        let Some((_, origin)) = self.reads.remove(&token) else { return };
        // Header, then the number.
        let number = value.as_deref().and_then(|v| v.get(24..)).and_then(|v| <[u8; 8]>::try_from(v).ok());
        self.answer_data(origin, number.unwrap_or_default().to_vec());
    }

    pub(super) fn answer_text(&mut self, origin: Origin, text: &str) {
        let mut data = text.as_bytes().to_vec();
        data.push(0);
        self.answer(origin, ControlReply { status: 0, data, error: String::new() });
    }
}
