//! A database's file in memory, with its locks: what the servers' tests and the simulator have in place of the files.

use crate::database::{Kind, Stored, Write, recovered, store};
use crate::lookup3;
use crate::recovery::{Answer, Claim, Content, Edit, Generation, Have};
use crate::server::{FileAnswer, FileOrder};
use crate::wire::{LtdbHeader, record_flags as flag};
use std::collections::{BTreeMap, BTreeSet};

/// Keys and values, headers included.
pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// One database's file on one node.
#[derive(Debug, Default)]
pub struct File {
    /// What kind of database; none before it is opened.
    pub kind: Option<Kind>,
    /// Its name.
    pub name: String,
    /// What is in it.
    pub records: Records,
    /// The daemon has the lock on all of it.
    pub frozen: bool,
    /// The generation that it was last let go under.
    pub synced: Generation,
    sequence: u32,
    /// Changes are counted.
    counting: bool,
    /// Keys that a client has locked, and lock orders that wait for that or for the thaw.
    pub locked: BTreeSet<Vec<u8>>,
    /// Keys that the daemon has locked.
    ours: BTreeSet<Vec<u8>>,
    waiting: Vec<Vec<u8>>,
    freezing: Option<(Generation, bool)>,
    /// It cannot be opened.
    pub broken: bool,
    /// Processes that have it open.
    pub users: u32,
    /// The daemon alone has it open, and nobody else gets it so.
    pub sole: bool,
}

impl File {
    /// Is a client kept from changing this key?
    #[must_use]
    pub fn is_locked(&self, key: &[u8]) -> bool {
        self.frozen || self.freezing.is_some() || self.locked.contains(key) || self.ours.contains(key)
    }

    /// Nobody holds a lock any more: their processes have ended.
    pub fn unlock_all(&mut self) {
        self.frozen = false;
        self.freezing = None;
        self.sole = false;
        self.locked.clear();
        self.ours.clear();
        self.waiting.clear();
    }

    /// The number that changes are counted in.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// A client on this node writes a record.
    pub fn write(&mut self, key: &[u8], value: &[u8]) {
        self.records.insert(key.to_vec(), value.to_vec());
        self.sequence += u32::from(self.counting);
    }

    /// Carries an order out; appends the answers.
    ///
    /// # Panics
    /// A key is let go that is not held: an error of the server.
    pub fn order(&mut self, me: u32, order: FileOrder, out: &mut Vec<FileAnswer>) {
        match order {
            FileOrder::Open(Have { name, kind, .. }) => {
                self.kind = Some(kind);
                self.name.clone_from(&name);
                out.push(FileAnswer::Opened(if self.broken {
                    Err("damaged".into())
                } else {
                    Ok(format!("/db/{name}.{me}"))
                }));
            }
            FileOrder::Lock { key } => {
                self.waiting.push(key);
                self.go_on(out);
            }
            FileOrder::Unlock { key, write } => {
                assert!(self.ours.remove(&key), "{key:?} is let go and was not held");
                match write {
                    Write::Nothing => {}
                    Write::Value(value) => drop(self.records.insert(key, value)),
                    Write::Delete => drop(self.records.remove(&key)),
                }
                self.go_on(out);
            }
            FileOrder::Freeze { generation, wipe } => {
                // The wipe of one that was ordered before stands.
                let wipe = wipe || self.freezing.is_some_and(|(_, wipe)| wipe);
                self.freezing = Some((generation, wipe));
                self.sole = false;
                self.go_on(out);
            }
            FileOrder::Scan { generation } => {
                for value in self.records.values_mut() {
                    if let Ok((header, data)) = LtdbHeader::split(value)
                        && let Some(header) = recovered(header, me)
                    {
                        *value = header.before(data);
                    }
                }
                // What has no header is no record of a cluster, here and below.
                let claim = |(k, v): (&Vec<u8>, &Vec<u8>)| {
                    let (header, data) = LtdbHeader::split(v).ok()?;
                    Some((k.clone(), Claim { header, empty: data.is_empty() }))
                };
                let records = self.records.iter().filter_map(claim).collect();
                out.push(FileAnswer::Recovery { generation, answer: Answer::Scanned { records, last: true } });
            }
            FileOrder::Edit { edits } => edits.into_iter().for_each(|(key, edit)| self.edit(me, key, edit)),
            FileOrder::Read { generation, keys, asker } => {
                let records =
                    keys.into_iter().filter_map(|k| Some((k.clone(), self.records.get(&k)?.clone()))).collect();
                out.push(FileAnswer::Recovery { generation, answer: Answer::Read { asker, records } });
            }
            FileOrder::Dump { generation } => {
                let records = self.records.clone().into_iter().collect();
                out.push(FileAnswer::Recovery { generation, answer: Answer::Dumped { records, last: true } });
            }
            FileOrder::Replace { generation, records } => {
                self.records = records.into_iter().collect();
                out.push(FileAnswer::Recovery { generation, answer: Answer::Replaced(Ok(())) });
            }
            FileOrder::Prune { masters } => self.records.retain(|key, value| {
                let Ok((header, data)) = LtdbHeader::split(value) else { return true };
                let lmaster = masters[lookup3(key) as usize % masters.len()];
                store(header, data.is_empty(), me, lmaster) != Stored::Forgotten
            }),
            FileOrder::Thaw { generation } => {
                self.frozen = false;
                self.freezing = None;
                self.sole = false;
                self.synced = generation;
                if self.kind != Some(Kind::Volatile) {
                    out.push(FileAnswer::Recovery { generation, answer: Answer::Noted });
                }
                self.go_on(out);
            }
            FileOrder::Transact { generation, asker, id, records } => {
                for record in records {
                    self.records.insert(record.key, record.data);
                }
                out.push(FileAnswer::Written { generation, asker, id, result: Ok(()) });
            }
            FileOrder::Fetch { token, key } => {
                out.push(FileAnswer::Fetched { token, value: self.records.get(&key).cloned() });
            }
            FileOrder::Traverse { token, held_by, which } => {
                let wanted = |v: &Vec<u8>| {
                    let Ok((header, data)) = LtdbHeader::split(v) else { return false };
                    held_by.is_none_or(|n| header.dmaster == n) && which.has(data.is_empty())
                };
                let records =
                    self.records.iter().filter(|(_, v)| wanted(v)).map(|(k, v)| (k.clone(), v.clone())).collect();
                out.push(FileAnswer::Traversed { token, records, last: true });
            }
            FileOrder::StopTraverse { .. } => {}
            FileOrder::CountChanges => {
                self.counting = true;
                out.push(FileAnswer::Counting(self.sequence));
            }
            FileOrder::LookSequence => out.push(FileAnswer::Sequence(self.sequence)),
            FileOrder::Bump => {
                self.sequence += 1;
                out.push(FileAnswer::Bumped);
            }
            FileOrder::Vacate { generation } => {
                self.sole = self.users == 0;
                let result = if self.sole { Ok(()) } else { Err(format!("{} processes use it", self.users)) };
                out.push(FileAnswer::Recovery { generation, answer: Answer::Vacated(result) });
            }
            FileOrder::Close => {
                self.records.clear();
                self.unlock_all();
                self.kind = None;
            }
        }
    }

    /// A lock was let go: what waited for it gets it. Appends the answers.
    pub fn go_on(&mut self, out: &mut Vec<FileAnswer>) {
        if let Some((generation, wipe)) = self.freezing
            && self.locked.is_empty()
            && self.ours.is_empty()
        {
            self.freezing = None;
            self.frozen = true;
            if wipe {
                self.records.clear();
            }
            let content = (self.kind != Some(Kind::Volatile)).then(|| Content {
                synced: self.synced,
                seqnum: self.records.get(&b"__db_sequence_number__\0"[..]).map_or(0, |v| number(v.get(24..))),
                checksum: self.checksum(),
            });
            out.push(FileAnswer::Recovery { generation, answer: Answer::Frozen(content) });
        }
        if self.frozen {
            return;
        }
        for key in self.waiting.extract_if(.., |key| !self.locked.contains(key)) {
            self.ours.insert(key.clone());
            out.push(FileAnswer::Locked { value: self.records.get(&key).cloned(), key });
        }
    }

    fn checksum(&self) -> u64 {
        self.records.iter().map(|(k, v)| u64::from(lookup3(k)) * 31 + u64::from(lookup3(v))).fold(0, u64::wrapping_add)
    }

    fn edit(&mut self, me: u32, key: Vec<u8>, edit: Edit) {
        let (mut header, data) =
            self.records.get(&key).and_then(|value| LtdbHeader::split(value).ok()).unwrap_or_default();
        match edit {
            Edit::Holder(to) => header.dmaster = to,
            Edit::Take => {
                header.dmaster = me;
                header.rsn += 1;
                if !data.is_empty() {
                    header.flags |= flag::MIGRATED_WITH_DATA;
                }
            }
            Edit::Value(value) => {
                self.records.insert(key, value);
                return;
            }
            Edit::Delete => {
                self.records.remove(&key);
                return;
            }
        }
        let value = header.before(data);
        self.records.insert(key, value);
    }
}

/// Eight bytes as a number; 0 if they are not there.
fn number(bytes: Option<&[u8]>) -> u64 {
    bytes.and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}
