//! All records of a database: every node sends those that it holds; of a database that every node has all of, the own
//! node's are all.

use super::io::{ClientId, FileOrder, Which};
use super::{Origin, Server};
use crate::database::{Kind, Token};
use crate::peer::Said;
use crate::planted::{Planted, planted};
use crate::wire::{Record, Writer};
use std::collections::BTreeSet;

/// One that is under way, for a client here or for another node.
#[derive(Debug)]
pub(super) struct Traverse {
    db: u32,
    who: Who,
    /// Nodes whose records are not all here; this one among them.
    missing: BTreeSet<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Client { client: Option<ClientId>, node: u32, srvid: u64, reqid: u32 },
    Node { node: u32, id: u64 },
}

/// What a client wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) db: u32,
    pub(super) reqid: u32,
    pub(super) srvid: u64,
    pub(super) empty: bool,
}

impl Server {
    pub(super) fn traverse(&mut self, client: Option<ClientId>, origin: Origin, wanted: Wanted) {
        let Wanted { db, reqid, srvid, empty } = wanted;
        let Some(database) = self.dbs.get(&db) else {
            return self.answer_error(origin, format!("no database {db:#010x}"));
        };
        if let Some(why) = database.unhealthy.clone() {
            return self.answer_error(origin, why);
        }
        let all_here = database.have.kind != Kind::Volatile;
        // The answer comes before the first record: Samba throws away records that come before it.
        self.answer_status(origin, 0);
        let node = if let Origin::Node { node, .. } = origin { node } else { self.me };
        let id = self.next_serial();
        let mut missing = BTreeSet::from([self.me]);
        if !all_here {
            let left_out = usize::from(planted(Planted::TraverseMissesMember));
            for to in self.others().into_iter().skip(left_out) {
                missing.insert(to);
                self.send(to, Said::Traverse { id, db, empty });
            }
        }
        self.traverses.insert(id, Traverse { db, who: Who::Client { client, node, srvid, reqid }, missing });
        let held_by = (!all_here).then_some(self.me);
        self.order(db, FileOrder::Traverse { token: Token(id), held_by, which: Which::with_empty(empty) });
    }

    /// Another node wants what this one holds.
    pub(super) fn traverse_for(&mut self, node: u32, theirs: u64, db: u32, empty: bool) {
        if !self.dbs.contains_key(&db) {
            return self.send(node, Said::Traversed { id: theirs, records: Vec::new(), last: true });
        }
        let id = self.next_serial();
        let who = Who::Node { node, id: theirs };
        self.traverses.insert(id, Traverse { db, who, missing: BTreeSet::from([self.me]) });
        let (held_by, which) = (Some(self.me), Which::with_empty(empty));
        self.order(db, FileOrder::Traverse { token: Token(id), held_by, which });
    }

    pub(super) fn file_traversed(&mut self, token: Token, records: Vec<(Vec<u8>, Vec<u8>)>, last: bool) {
        if !self.swept(token, &records, last) {
            self.records(token.0, self.me, records, last);
        }
    }

    pub(super) fn traversed(&mut self, from: u32, id: u64, records: Vec<(Vec<u8>, Vec<u8>)>, last: bool) {
        self.records(id, from, records, last);
    }

    fn records(&mut self, id: u64, from: u32, records: Vec<(Vec<u8>, Vec<u8>)>, last: bool) {
        let Some(traverse) = self.traverses.get_mut(&id).filter(|t| t.missing.contains(&from)) else { return };
        let who = traverse.who;
        if last {
            traverse.missing.remove(&from);
        }
        let done = traverse.missing.is_empty();
        match who {
            Who::Node { node, id: theirs } => {
                self.send(node, Said::Traversed { id: theirs, records, last: done });
            }
            Who::Client { node, srvid, reqid, .. } => {
                for (key, data) in records {
                    self.record_to(node, srvid, &Record { reqid, key, data });
                }
                if done {
                    self.record_to(node, srvid, &Record { reqid, ..Record::default() });
                }
            }
        }
        if done {
            self.traverses.remove(&id);
        }
    }

    /// One record as a message; clients that listen to everything do not get it.
    fn record_to(&mut self, node: u32, srvid: u64, record: &Record) {
        let mut out = Writer::with_capacity(record.wire_len());
        record.put(&mut out);
        let data = out.finish();
        if node != self.me {
            return self.send(node, Said::Message { srvid, data });
        }
        for client in self.clients.listeners_of(srvid) {
            self.message_to(client, srvid, &data);
        }
    }

    /// Nothing more comes from this node.
    pub(super) fn traverse_without(&mut self, node: u32) {
        let theirs: Vec<u64> =
            self.traverses.iter().filter(|(_, t)| t.missing.contains(&node)).map(|(id, _)| *id).collect();
        for id in theirs {
            self.records(id, node, Vec::new(), true);
        }
        let orphans: Vec<u64> = self
            .traverses
            .iter()
            .filter(|(_, t)| matches!(t.who, Who::Node { node: n, .. } if n == node))
            .map(|(id, _)| *id)
            .collect();
        orphans.into_iter().for_each(|id| self.stop_traverse(id));
    }

    pub(super) fn traversed_nodes(&self) -> BTreeSet<u32> {
        self.traverses.values().flat_map(|t| &t.missing).copied().filter(|n| *n != self.me).collect()
    }

    /// A client that has gone wants no more records.
    pub(super) fn end_traverses_of(&mut self, id: ClientId) {
        let his = |t: &Traverse| matches!(t.who, Who::Client { client: Some(client), .. } if client == id);
        let ended: Vec<u64> = self.traverses.iter().filter(|(_, t)| his(t)).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| self.stop_traverse(id));
    }

    fn stop_traverse(&mut self, id: u64) {
        let Some(traverse) = self.traverses.remove(&id) else { return };
        for node in traverse.missing {
            if node == self.me {
                self.order(traverse.db, FileOrder::StopTraverse { token: Token(id) });
            } else {
                self.send(node, Said::StopTraverse { id });
            }
        }
    }

    /// This node has no records of a database any more.
    pub(super) fn end_traverses_over(&mut self, db: u32) {
        let mine = |t: &Traverse| t.db == db && t.missing.contains(&self.me);
        let ended: Vec<u64> = self.traverses.iter().filter(|(_, t)| mine(t)).map(|(id, _)| *id).collect();
        for id in ended {
            self.order(db, FileOrder::StopTraverse { token: Token(id) });
            self.records(id, self.me, Vec::new(), true);
        }
    }

    /// Another node wants no more.
    pub(super) fn stop_traverse_for(&mut self, from: u32, theirs: u64) {
        let who = Who::Node { node: from, id: theirs };
        let id = self.traverses.iter().find(|(_, t)| t.who == who).map(|(id, _)| *id);
        if let Some(id) = id {
            self.stop_traverse(id);
        }
    }
}
