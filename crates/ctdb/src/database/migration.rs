//! How the records of a volatile database change hands.
//!
//! Each key has a *location master*, found by its hash: the node that knows who holds the record. Who wants it asks
//! there (`Want`). The location master writes down the new holder at once and tells the holder before (`Yield`), which
//! sends header and data straight on (`Give`). So requests for one key stand in a queue whose order the location master
//! decides: each node has at most one predecessor and one successor, whatever overtakes what on the way. A node that
//! is to yield what has not come yet waits for it, lets its own clients have it first, and then yields.
//!
//! Invariants: a node writes "I hold it" into its file only after the holder before wrote that it does not; both do so
//! under the key's chain lock, which Samba's processes take as well; the sequence number grows with each holder. So of
//! all copies the one with the highest is the newest, also when messages are lost with a node: recovery goes by that.
//!
//! Samba reads and changes the file itself while its node holds the record; therefore every decision here is made from
//! the value read under the lock, never from memory. The lock is not waited for: [`Output::Lock`] asks for it, the
//! driver gets it in its own time and says [`Migration::locked`]. Whatever came for the key meanwhile is then done at
//! once, in order of arrival, with one write.
//!
//! Copies that are only read are in [`delegations`].

mod delegations;
mod message;
mod output;

pub use message::Message;
pub use output::{Output, Write};

use super::rules::{Stored, store};
use crate::hash::lookup3;
use crate::wire::{LtdbHeader, record_flags as flag};
use delegations::Delegations;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;

/// Names a client's call. The answer carries it; an answer to a client that has gone is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What a call gives once the record is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// Nothing: the client then reads its file.
    Null,
    /// The data.
    Fetch,
    /// Header and data.
    FetchWithHeader,
}

/// A client that waits for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whom to answer.
    pub token: Token,
    /// With what.
    pub function: Function,
    /// It only reads: a copy is enough, where the database gives copies.
    pub reads: bool,
}

#[derive(Clone, Debug)]
enum Job {
    Call(Caller),
    Want { from: u32 },
    Yield { to: u32 },
    Give { rsn: u64, flags: u32, data: Vec<u8> },
    Emptied { from: u32 },
    Purge { from: u32, rsn: u64 },
    Purged { from: u32, done: bool },
    WantCopy { from: u32 },
    Delegate { to: u32 },
    Copy { from: u32, rsn: u64, flags: u32, data: Vec<u8> },
    Revoke { from: u32 },
    Revoked { from: u32 },
    Vacuum,
}

impl Job {
    /// Comes from another node, and so ends with the generation.
    fn is_foreign(&self) -> bool {
        !matches!(self, Self::Call(_))
    }
}

/// A key about which something is under way.
#[derive(Debug, Default)]
struct Key {
    /// Waits for the chain lock, in order of arrival.
    jobs: VecDeque<Job>,
    /// The chain lock has been asked for.
    locking: bool,
    /// The record is on its way here.
    wanted: bool,
    /// It comes to be deleted.
    vacuum: bool,
    /// Clients that are served when it is here.
    callers: Vec<Caller>,
    /// Done after that: it goes on to others.
    parked: VecDeque<Job>,
    /// Others are told to delete their copies.
    purge: Option<Purge>,
    /// A copy to read is on its way here.
    copy_wanted: bool,
    /// Clients that are served when it is here.
    readers: Vec<Caller>,
    /// Nodes that have not said yet that nobody there reads the copy any more.
    revoking: Option<BTreeSet<u32>>,
    /// Done when all have.
    held: VecDeque<Job>,
}

/// What a location master waits for before it forgets a record.
#[derive(Debug)]
struct Purge {
    rsn: u64,
    missing: BTreeSet<u32>,
}

impl Key {
    fn is_idle(&self) -> bool {
        self.jobs.is_empty()
            && !self.locking
            && !self.wanted
            && self.callers.is_empty()
            && self.parked.is_empty()
            && self.purge.is_none()
            && !self.copy_wanted
            && self.readers.is_empty()
            && self.revoking.is_none()
            && self.held.is_empty()
    }
}

/// Migration of one volatile database's records on one node.
#[derive(Debug)]
pub struct Migration {
    me: u32,
    /// Location masters; a key's is the one at its hash modulo their number. Empty before the first recovery.
    masters: Vec<u32>,
    /// These and the other members: all that may have copies.
    members: Vec<u32>,
    /// A record has come here since the last recovery.
    took: bool,
    frozen: bool,
    keys: BTreeMap<Vec<u8>, Key>,
    delegations: Delegations,
}

impl Migration {
    /// A database on node `me`, frozen until the first [`Migration::thaw`].
    #[must_use]
    pub fn new(me: u32) -> Self {
        Self {
            me,
            masters: Vec::new(),
            members: Vec::new(),
            took: false,
            frozen: true,
            keys: BTreeMap::new(),
            delegations: Delegations::default(),
        }
    }

    /// The location master of a key; nobody's before the first thaw.
    #[must_use]
    pub fn lmaster(&self, key: &[u8]) -> Option<u32> {
        lmaster(&self.masters, key)
    }

    /// Nothing moves until [`Migration::thaw`].
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// This node knows of no records, being stopped, and yet a client here has had one brought since the last recovery.
    #[must_use]
    pub fn holds_out_of_place(&self) -> bool {
        self.took && !self.frozen && !self.masters.contains(&self.me)
    }

    /// Number of keys about which something is under way.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.keys.len()
    }

    /// Clients that wait for a record, of one that is frozen.
    pub fn callers(&self) -> impl Iterator<Item = Token> + '_ {
        let jobs = self.keys.values().flat_map(|key| &key.jobs);
        jobs.filter_map(|job| if let Job::Call(caller) = job { Some(caller.token) } else { None })
    }

    /// A client of this node wants the record here.
    pub fn call(&mut self, key: Vec<u8>, caller: Caller, out: &mut Vec<Output>) {
        self.add(key, Job::Call(caller), out);
    }

    /// Another node says something. Its generation is this database's; the caller drops what is of an older one. It may
    /// come while this node is still frozen and the other is not: then it waits.
    pub fn message(&mut self, from: u32, message: Message, out: &mut Vec<Output>) {
        let (key, job) = match message {
            Message::Want { key } => (key, Job::Want { from }),
            Message::Yield { key, to } => (key, Job::Yield { to }),
            Message::Give { key, rsn, flags, data } => (key, Job::Give { rsn, flags, data }),
            Message::Emptied { key } => (key, Job::Emptied { from }),
            Message::Purge { key, rsn } => (key, Job::Purge { from, rsn }),
            Message::Purged { key, done } => (key, Job::Purged { from, done }),
            Message::WantCopy { key } => (key, Job::WantCopy { from }),
            Message::Delegate { key, to } => (key, Job::Delegate { to }),
            Message::Copy { key, rsn, flags, data } => (key, Job::Copy { from, rsn, flags, data }),
            Message::Revoke { key } => (key, Job::Revoke { from }),
            Message::Revoked { key } => (key, Job::Revoked { from }),
        };
        self.add(key, job, out);
    }

    /// An empty record is to be deleted if it is still empty: here, or through its location master.
    pub fn vacuum(&mut self, key: &[u8], out: &mut Vec<Output>) {
        if !self.frozen {
            self.add(key.to_vec(), Job::Vacuum, out);
        }
    }

    /// Is it still to be deleted, or are others told to? What is another location master's to delete is not.
    #[must_use]
    pub fn is_vacuuming(&self, key: &[u8]) -> bool {
        let vacuums = |key: &Key| key.purge.is_some() || key.jobs.iter().any(|job| matches!(job, Job::Vacuum));
        self.keys.get(key).is_some_and(vacuums)
    }

    /// Stops; what other nodes asked and promised under the old generation is forgotten, what clients asked is not.
    /// Chain locks that were asked for are still to be answered.
    pub fn freeze(&mut self) {
        self.frozen = true;
        self.delegations.forget();
        for key in self.keys.values_mut() {
            key.wanted = false;
            key.vacuum = false;
            key.purge = None;
            key.copy_wanted = false;
            key.revoking = None;
            key.parked.clear();
            key.jobs.append(&mut key.held);
            key.jobs.retain(|job| !job.is_foreign());
            key.jobs.extend(mem::take(&mut key.callers).into_iter().map(Job::Call));
            key.jobs.extend(mem::take(&mut key.readers).into_iter().map(Job::Call));
        }
        self.keys.retain(|_, key| !key.is_idle());
    }

    /// Goes on under a new generation with these location masters, every file being as recovery left it. `members`: they
    /// and those that know of no record.
    pub fn thaw(&mut self, masters: Vec<u32>, members: Vec<u32>, out: &mut Vec<Output>) {
        self.masters = masters;
        self.members = members;
        self.took = false;
        self.frozen = false;
        for (name, key) in &mut self.keys {
            if !key.jobs.is_empty() && !mem::replace(&mut key.locking, true) {
                out.push(Output::Lock(name.clone()));
            }
        }
    }

    /// The chain lock that was asked for is held, and `value` is what the file has (nothing: no record).
    pub fn locked(&mut self, name: &[u8], value: Option<&[u8]>, out: &mut Vec<Output>) {
        let me = self.me;
        let (frozen, master) = (self.frozen, self.lmaster(name));
        let Some(key) = self.keys.get_mut(name) else {
            out.push(Output::Unlock { key: name.to_vec(), write: Write::Nothing });
            return;
        };
        key.locking = false;
        match master.filter(|_| !frozen) {
            Some(master) => {
                let (members, delegations) = (&*self.members, &mut self.delegations);
                let pass = Pass {
                    me,
                    master,
                    members,
                    took: &mut self.took,
                    name,
                    key,
                    delegations,
                    header: LtdbHeader::default(),
                    data: Vec::new(),
                    write: Write::Nothing,
                    next: VecDeque::new(),
                    then: Vec::new(),
                };
                pass.on(value).run(out);
            }
            None => out.push(Output::Unlock { key: name.to_vec(), write: Write::Nothing }),
        }
        if key.is_idle() {
            self.keys.remove(name);
        }
    }

    fn add(&mut self, name: Vec<u8>, job: Job, out: &mut Vec<Output>) {
        if let Some(key) = self.keys.get_mut(&name) {
            key.jobs.push_back(job);
            if !self.frozen && !mem::replace(&mut key.locking, true) {
                out.push(Output::Lock(name));
            }
            return;
        }
        if !self.frozen {
            out.push(Output::Lock(name.clone()));
        }
        self.keys.insert(name, Key { jobs: VecDeque::from([job]), locking: !self.frozen, ..Key::default() });
    }
}

fn lmaster(masters: &[u32], key: &[u8]) -> Option<u32> {
    let count = u32::try_from(masters.len()).ok().filter(|n| *n > 0)?;
    masters.get((lookup3(key) % count) as usize).copied()
}

/// One hold of a chain lock: all that waited for it, one after the other, on the value as it becomes.
struct Pass<'a> {
    me: u32,
    master: u32,
    members: &'a [u32],
    took: &'a mut bool,
    name: &'a [u8],
    key: &'a mut Key,
    delegations: &'a mut Delegations,
    header: LtdbHeader,
    data: Vec<u8>,
    write: Write,
    /// Done next, before anything that came later.
    next: VecDeque<Job>,
    /// Carried out after the write.
    then: Vec<Output>,
}

impl<'a> Pass<'a> {
    /// With what the file has.
    fn on(mut self, value: Option<&[u8]>) -> Self {
        // A value too short for a header is what a crashed writer left: as if it were not there.
        match value.and_then(|v| LtdbHeader::split(v).ok()) {
            Some((header, data)) => (self.header, self.data) = (header, data.to_vec()),
            None => self.missing(),
        }
        self
    }

    fn run(mut self, out: &mut Vec<Output>) {
        let mut jobs = mem::take(&mut self.key.jobs);
        while let Some(job) = jobs.pop_front() {
            match job {
                Job::Call(caller) => self.call(caller),
                Job::Want { from } => self.want(from),
                Job::Yield { to } => self.yield_to(to),
                Job::Give { rsn, flags, data } => self.given(rsn, flags, data),
                Job::Emptied { from } => self.emptied(from),
                Job::Purge { from, rsn } => self.purge(from, rsn),
                Job::Purged { from, done } => self.purged(from, done),
                Job::WantCopy { from } => self.want_copy(from),
                Job::Delegate { to } => self.delegate(to),
                Job::Copy { from, rsn, flags, data } => self.copy(from, rsn, flags, data),
                Job::Revoke { from } => self.revoke(from),
                Job::Revoked { from } => self.revoked(from),
                Job::Vacuum => self.vacuum(),
            }
            while let Some(next) = self.next.pop_back() {
                jobs.push_front(next);
            }
        }
        out.push(Output::Unlock { key: self.name.to_vec(), write: self.write });
        out.append(&mut self.then);
    }

    fn missing(&mut self) {
        self.header = LtdbHeader { rsn: 0, dmaster: self.master, reserved: 0, flags: flag::AUTOMATIC };
        self.data.clear();
    }

    /// Puts header and data, as they are now, into the file by the rule.
    fn store(&mut self) {
        match store(self.header, self.data.is_empty(), self.me, self.master) {
            Stored::Kept { header, delete_later } => {
                self.header = header;
                self.write = Write::Value(header.before(&self.data));
                if delete_later {
                    self.then.push(Output::DeleteLater(self.name.to_vec()));
                }
            }
            Stored::Forgotten => {
                self.write = Write::Delete;
                self.header = LtdbHeader { rsn: 0, dmaster: self.master, reserved: 0, flags: flag::AUTOMATIC };
                self.data.clear();
            }
        }
    }

    fn is_here(&self) -> bool {
        self.header.dmaster == self.me
    }

    fn send(&mut self, to: u32, message: Message) {
        self.then.push(Output::Send { to, message });
    }

    fn inconsistent(&mut self, what: &str) {
        let key = String::from_utf8_lossy(self.name).into_owned();
        let (me, holder, rsn) = (self.me, self.header.dmaster, self.header.rsn);
        let why = format!("{what} (key {key:?}; node {me} has it as node {holder}'s with sequence number {rsn})");
        self.then.push(Output::Inconsistent { why });
    }

    fn call(&mut self, caller: Caller) {
        if self.is_here() {
            if self.is_delegated() && !caller.reads {
                return self.revoke_for(Job::Call(caller));
            }
            // The client looks for it in the file.
            if self.header.flags & flag::AUTOMATIC != 0 {
                self.store();
            }
            return self.answer(caller);
        }
        if caller.reads && self.delegations.on && !self.key.wanted {
            return self.read(caller);
        }
        self.key.callers.push(caller);
        self.fetch();
    }

    fn answer(&mut self, caller: Caller) {
        let data = match caller.function {
            Function::Null => Vec::new(),
            Function::Fetch => self.data.clone(),
            Function::FetchWithHeader => self.header.before(&self.data),
        };
        self.then.push(Output::Reply { token: caller.token, data });
    }

    /// Gets it here, unless it is on its way.
    fn fetch(&mut self) {
        if mem::replace(&mut self.key.wanted, true) {
            return;
        }
        let key = self.name.to_vec();
        if self.master == self.me {
            // Not written down: "I hold it" is true only when it has come. Whoever asks meanwhile is parked.
            let (holder, to) = (self.header.dmaster, self.me);
            self.send(holder, Message::Yield { key, to });
        } else {
            let master = self.master;
            self.send(master, Message::Want { key });
        }
    }

    /// As the location master: `from` shall have it next.
    fn want(&mut self, from: u32) {
        if self.master != self.me {
            return self.inconsistent("another node takes this one for the location master");
        }
        if self.is_here() && self.is_delegated() {
            return self.revoke_for(Job::Want { from });
        }
        if self.is_here() {
            return self.give(from);
        }
        if self.key.wanted {
            self.key.parked.push_back(Job::Want { from });
            return;
        }
        let holder = self.header.dmaster;
        if holder == from {
            return self.inconsistent("the holder of a record asks for it");
        }
        self.header.dmaster = from;
        self.store();
        self.send(holder, Message::Yield { key: self.name.to_vec(), to: from });
    }

    fn yield_to(&mut self, to: u32) {
        if self.is_here() && self.is_delegated() {
            self.revoke_for(Job::Yield { to });
        } else if self.is_here() {
            self.give(to);
        } else if self.key.wanted {
            self.key.parked.push_back(Job::Yield { to });
        } else {
            self.inconsistent("a record is to go on from a node that does not have it");
        }
    }

    fn give(&mut self, to: u32) {
        self.delegations.gone(self.name);
        if !self.data.is_empty() {
            self.header.flags |= flag::MIGRATED_WITH_DATA;
        }
        let message = Message::Give {
            key: self.name.to_vec(),
            rsn: self.header.rsn,
            flags: self.header.flags,
            data: self.data.clone(),
        };
        self.header.dmaster = to;
        self.store();
        self.send(to, message);
    }

    fn given(&mut self, rsn: u64, flags: u32, data: Vec<u8>) {
        if self.is_here() || !self.key.wanted {
            return self.inconsistent("a record arrives that nobody here asked for");
        }
        self.key.wanted = false;
        *self.took = true;
        let vacuum = mem::take(&mut self.key.vacuum) && self.key.callers.is_empty();
        let flags = flags & !flag::READONLY | if vacuum { flag::VACUUM_MIGRATED } else { 0 };
        self.header = LtdbHeader { rsn, dmaster: self.me, reserved: self.header.reserved, flags };
        self.data = data;
        self.store();
        for caller in mem::take(&mut self.key.callers) {
            self.answer(caller);
        }
        self.next = mem::take(&mut self.key.parked);
    }

    /// As the location master: the holder says that it is empty.
    fn emptied(&mut self, from: u32) {
        // Anybody who holds it by now will say so himself when it is empty.
        if self.master == self.me && self.header.dmaster == from && !self.key.wanted {
            self.key.vacuum = true;
            self.fetch();
        }
    }

    fn vacuum(&mut self) {
        let in_use = !self.key.callers.is_empty() || self.key.wanted;
        let left_alone = flag::READONLY | flag::AUTOMATIC;
        if in_use || !self.is_here() || !self.data.is_empty() || self.header.flags & left_alone != 0 {
            return;
        }
        if self.master != self.me {
            let master = self.master;
            self.send(master, Message::Emptied { key: self.name.to_vec() });
        } else if self.header.flags & flag::MIGRATED_WITH_DATA == 0 {
            self.header.flags |= flag::VACUUM_MIGRATED;
            self.store();
        } else if self.key.purge.is_none() {
            // Others may have old data, which would pass for the newest if this node forgot the record.
            let missing: BTreeSet<u32> = self.members.iter().copied().filter(|n| *n != self.me).collect();
            let rsn = self.header.rsn;
            for to in &missing {
                self.then.push(Output::Send { to: *to, message: Message::Purge { key: self.name.to_vec(), rsn } });
            }
            self.key.purge = Some(Purge { rsn, missing });
            self.purge_done();
        }
    }

    fn purge(&mut self, from: u32, rsn: u64) {
        let there = self.header.flags & flag::AUTOMATIC == 0;
        let needed = self.is_here() || self.header.rsn > rsn || self.header.flags & flag::READONLY != 0;
        let done = !there || !needed;
        if there && done {
            self.write = Write::Delete;
            self.missing();
        }
        self.send(from, Message::Purged { key: self.name.to_vec(), done });
    }

    fn purged(&mut self, from: u32, done: bool) {
        if !done {
            self.key.purge = None;
        } else if let Some(purge) = &mut self.key.purge {
            purge.missing.remove(&from);
            self.purge_done();
        }
    }

    fn purge_done(&mut self) {
        let Some(purge) = self.key.purge.take_if(|p| p.missing.is_empty()) else { return };
        let untouched = self.is_here() && self.data.is_empty() && self.header.rsn == purge.rsn;
        if untouched && self.header.flags & (flag::READONLY | flag::AUTOMATIC) == 0 {
            self.write = Write::Delete;
            self.missing();
        }
    }
}
