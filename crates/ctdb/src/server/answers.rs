//! What this node knows, as the bytes of answers.

use super::databases::Database;
use super::statistics::{Current, low, time};
use super::{Origin, Server};
use crate::control::{
    DbMap, Iface, Ifaces, NodeEntry, NodeMap, Opcode, PublicIp, PublicIpInfo, PublicIps, Uptime, VnnMap,
    flags as control_flags,
};
use crate::node::{INVALID_GENERATION, RunState, capability, flags};
use crate::wire::Writer;
use std::net::SocketAddr;

/// In `ctdb_db_statistics`, always so many.
const HOT_KEYS: usize = 10;

impl Server {
    /// The answer to a question without arguments; none: such a control is not answered.
    pub(super) fn picture_of(&self, opcode: Opcode, flags: u32) -> Option<Vec<u8>> {
        let mut out = Writer::default();
        match opcode {
            Opcode::STATISTICS => {
                self.statistics.put(self.current(), self.now, &mut out);
            }
            Opcode::GET_STAT_HISTORY => {
                out.u32(0).u32(0);
            }
            Opcode::GETVNNMAP => self.vnn_map().put(&mut out),
            Opcode::GET_DEBUG => {
                out.i32(self.debug);
            }
            Opcode::GET_DBMAP => {
                let mut known: Vec<_> =
                    self.dbs.values().filter(|d| d.path.is_some() || d.unhealthy.is_some()).collect();
                // The original puts each new one before the others.
                known.sort_by_key(|d| std::cmp::Reverse(d.nth));
                DbMap(known.into_iter().map(|d| (d.have.db, d.flags())).collect()).put(&mut out);
            }
            Opcode::DUMP_MEMORY => {
                out.raw(self.memory().as_bytes());
            }
            Opcode::LIST_TUNABLES => {
                out.counted_text(&super::Tunables::list());
            }
            Opcode::GET_ALL_TUNABLES => {
                for value in self.tunables.values() {
                    out.u32(*value);
                }
            }
            Opcode::UPTIME => Uptime {
                now: time(self.now),
                started: time(self.started),
                recovery_began: time(self.recovery_began),
                recovery_ended: time(self.recovery_ended),
            }
            .put(&mut out),
            Opcode::GET_CAPABILITIES => {
                let no_leader = if self.may_lead() { 0 } else { capability::LEADER };
                let no_lmaster = if self.may_be_lmaster() { 0 } else { capability::LMASTER };
                out.u32(capability::DEFAULT & !no_leader & !no_lmaster);
            }
            Opcode::GET_PUBLIC_IPS => self.public_ips(flags & control_flags::ONLY_AVAILABLE != 0).put(&mut out),
            Opcode::GET_NODEMAP | Opcode::GET_NODES_FILE => self.node_map(opcode).put(&mut out),
            Opcode::GET_RECLOCK_FILE => {
                if !self.picture.lock.is_empty() {
                    out.text(&self.picture.lock);
                }
            }
            Opcode::GET_BAN_STATE => {
                out.u32(self.me).u32(0);
            }
            Opcode::GET_IFACES => self.ifaces().put(&mut out),
            Opcode::GET_RUNSTATE => {
                out.u32(self.run_state() as u32);
            }
            _ => return None,
        }
        Some(out.finish())
    }

    fn current(&self) -> Current {
        Current {
            clients: self.clients.len(),
            recovering: self.is_recovering(),
            pending_calls: self.calls.len(),
            delegations: self.delegations(),
        }
    }

    pub(super) fn vnn_map(&self) -> VnnMap {
        let masters = self.member.masters();
        // Outside of every view nobody has said who they are.
        let map = if masters.is_empty() { &*self.picture.members } else { masters };
        let mut map = map.to_vec();
        if self.is_inactive() {
            // As ctdbd: a stopped or banned node keeps the map that it was last in, without a generation.
            map.extend(Some(self.me).filter(|me| !map.contains(me)));
            map.sort_unstable();
            return VnnMap { generation: INVALID_GENERATION, map };
        }
        VnnMap { generation: self.generation(), map }
    }

    /// Is this node stopped or banned?
    pub(super) fn is_inactive(&self) -> bool {
        self.flags_of(self.me) & (flags::STOPPED | flags::BANNED) != 0
    }

    fn run_state(&self) -> RunState {
        if self.ran {
            RunState::Running
        } else if self.is_member() {
            RunState::FirstRecovery
        } else {
            RunState::Setup
        }
    }

    fn node_map(&self, opcode: Opcode) -> NodeMap {
        let flags = |pnn| if opcode == Opcode::GET_NODES_FILE { 0 } else { self.flags_of(pnn) };
        let entry = |n: &super::NodeFacts| NodeEntry {
            pnn: n.pnn,
            flags: flags(n.pnn),
            address: n.address.ip(),
            port: n.address.port(),
        };
        NodeMap(self.picture.nodes.iter().map(entry).collect())
    }

    fn public_ips(&self, only_available: bool) -> PublicIps {
        let able = self.flags_of(self.me) & (flags::INACTIVE | flags::DISABLED) == 0;
        let up = |name: &str| self.picture.ifaces.iter().any(|i| i.name == name && i.up);
        let listed = |a: &&super::AddressFacts| a.here.as_ref().is_some_and(|name| !only_available || able && up(name));
        let entry =
            |a: &super::AddressFacts| PublicIp { pnn: a.holder.unwrap_or(crate::node::UNKNOWN), address: a.address };
        PublicIps(self.picture.addresses.iter().filter(listed).map(entry).collect())
    }

    fn ifaces(&self) -> Ifaces {
        let on = |name: &str| {
            let here = |a: &&super::AddressFacts| a.holder == Some(self.me) && a.here.as_deref() == Some(name);
            u32::try_from(self.picture.addresses.iter().filter(here).count()).unwrap_or(u32::MAX)
        };
        let entry = |i: &super::IfaceFacts| Iface { name: i.name.clone(), up: i.up, references: on(&i.name) };
        Ifaces(self.picture.ifaces.iter().map(entry).collect())
    }

    pub(super) fn about_address(&mut self, origin: Origin, opcode: Opcode, address: SocketAddr) {
        let Some(facts) = self.picture.addresses.iter().find(|a| a.address == address.ip()) else {
            return self.answer_status(origin, if opcode == Opcode::GET_TCP_TICKLE_LIST { 1 } else { -1 });
        };
        let mut out = Writer::default();
        if opcode == Opcode::GET_TCP_TICKLE_LIST {
            self.connections_of(address, facts.holder).put(&mut out);
        } else {
            let Some(iface) = facts.here.clone() else { return self.answer_status(origin, -1) };
            let mut ifaces = self.ifaces();
            ifaces.0.retain(|i| i.name == iface);
            let here = facts.holder == Some(self.me);
            let ip = PublicIp { pnn: facts.holder.unwrap_or(crate::node::UNKNOWN), address: facts.address };
            PublicIpInfo { ip, active: (here && !ifaces.0.is_empty()).then_some(0), ifaces }.put(&mut out);
        }
        self.answer_data(origin, out.finish());
    }

    /// Of all databases, since the start: copies given to be read, records whose copies were taken back.
    pub(super) fn delegations(&self) -> (u64, u64) {
        let each = self.dbs.values().map(|db| db.migration.delegations());
        each.fold(self.delegations_gone, |(given, revoked), (g, r)| (given + g, revoked + r))
    }

    /// `ctdb_db_statistics`: of its counters those of read-only copies and the hot keys are kept here.
    pub(super) fn database_statistics(&self, id: u32) -> Vec<u8> {
        let (given, revoked) = self.dbs.get(&id).map(Database::delegations).unwrap_or_default();
        let mut top = self.dbs.get(&id).map(|db| db.hot_keys.top(HOT_KEYS)).unwrap_or_default();
        // As the original: the hottest last, then places for more.
        top.reverse();
        top.resize(HOT_KEYS, (&[][..], 0));
        let mut out = Writer::default();
        out.zeros(144).u32(low(given)).u32(low(revoked)).zeros(64).u32(10).u32(0);
        for (key, count) in &top {
            // Between them a pointer of the original's.
            out.u32(*count).u32(0).u64(0).u64(key.len() as u64);
        }
        for (key, _) in &top {
            out.raw(key);
        }
        out.finish()
    }
}
