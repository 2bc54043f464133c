//! What a database's own thread does with its file, one thing at a time.

use super::*;

impl World {
    /// A database's thread does the next thing.
    pub(super) fn work(&mut self, n: usize) {
        let busy: Vec<u32> = self.nodes[n].work.iter().filter(|(_, q)| !q.is_empty()).map(|(d, _)| *d).collect();
        if busy.is_empty() {
            return;
        }
        let db = busy[self.dice.roll(busy.len())];
        let work = self.nodes[n].work.get_mut(&db).unwrap().pop_front().unwrap();
        match work {
            Work::Effect(effect) => self.effect(n, effect),
            Work::Lock(key) if self.nodes[n].frozen[&VOLATILE] => self.nodes[n].blocked.push(key),
            Work::Lock(key) => {
                let value = self.nodes[n].volatile.get(&key).cloned();
                let mut out = Vec::new();
                self.nodes[n].migration.locked(&key, value.as_deref(), &mut out);
                self.moves(n, out);
            }
            Work::Transact { asker, id, records, generation } => {
                for record in records {
                    self.nodes[n].persistent.insert(record.key, record.data);
                }
                let mut out = Vec::new();
                Commits::written(asker, id, Ok(()), &mut out);
                for output in out {
                    let CommitOutput::Send { to, change } = output else { panic!("{output:?}") };
                    self.send(n, to as usize, Said::Change(Under { generation, db: PERSISTENT, what: change }));
                }
            }
        }
    }

    pub(super) fn effect(&mut self, n: usize, effect: Effect) {
        let mut answers = Vec::new();
        let (db, generation) = match effect {
            Effect::Freeze { db, generation, wipe } => {
                let node = &mut self.nodes[n];
                if wipe {
                    node.volatile.clear();
                }
                node.frozen.insert(db, true);
                let content = (db == PERSISTENT).then(|| Content {
                    synced: node.synced,
                    seqnum: number(node.persistent.get(SEQNUM)),
                    checksum: node.checksum(),
                });
                answers.push(Answer::Frozen(content));
                (db, generation)
            }
            Effect::Scan { db, generation } => {
                let claim = |v: &Vec<u8>| {
                    let (header, data) = LtdbHeader::split(v).unwrap();
                    Claim { header, empty: data.is_empty() }
                };
                let records: Vec<_> = self.nodes[n].volatile.iter().map(|(k, v)| (k.clone(), claim(v))).collect();
                let pieces: Vec<_> = records.chunks(2).map(<[_]>::to_vec).collect();
                answers.extend(pieces.into_iter().map(|records| Answer::Scanned { records, last: false }));
                answers.push(Answer::Scanned { records: Vec::new(), last: true });
                (db, generation)
            }
            Effect::Edit { db, edits } => {
                assert!(self.nodes[n].frozen[&db], "nothing is changed in a file that clients use");
                for (key, edit) in edits {
                    self.edit(n, key, edit);
                }
                return;
            }
            Effect::Read { db, generation, keys, asker } => {
                let file = &self.nodes[n].volatile;
                let records = keys.into_iter().map(|k| (k.clone(), file[&k].clone())).collect();
                answers.push(Answer::Read { asker, records });
                (db, generation)
            }
            Effect::Dump { db, generation } => {
                let records = self.nodes[n].persistent.clone().into_iter().collect();
                answers.push(Answer::Dumped { records, last: false });
                answers.push(Answer::Dumped { records: Vec::new(), last: true });
                (db, generation)
            }
            Effect::Replace { db, generation, records } => {
                self.nodes[n].persistent = records.into_iter().collect();
                answers.push(Answer::Replaced(Ok(())));
                (db, generation)
            }
            Effect::Prune { masters, .. } => {
                self.nodes[n].volatile.retain(|key, value| {
                    let master = masters[ctdb::lookup3(key) as usize % masters.len()];
                    let (header, data) = LtdbHeader::split(value).unwrap();
                    ctdb::database::store(header, data.is_empty(), n as u32, master) != Stored::Forgotten
                });
                return;
            }
            Effect::Thaw { db, generation, masters, members } => {
                return self.thaw(n, db, generation, masters, members);
            }
            Effect::Send { .. } | Effect::Create(_) | Effect::Suspend(_) | Effect::Finished(_) => return,
            // Nobody detaches here: `tests/detach.rs`.
            Effect::Vacate { .. } | Effect::Leave(_) | Effect::Kept { .. } | Effect::Detached(_) => {
                panic!("{effect:?}")
            }
        };
        for answer in answers {
            let mut effects = Vec::new();
            self.nodes[n].member.answer(db, generation, answer, &mut effects);
            self.effects(n, effects);
        }
    }

    fn edit(&mut self, n: usize, key: Vec<u8>, edit: Edit) {
        let file = &mut self.nodes[n].volatile;
        let old = file.get(&key).cloned();
        let value = match edit {
            Edit::Delete => {
                file.remove(&key);
                return;
            }
            Edit::Value(value) => value,
            Edit::Holder(dmaster) => {
                let (header, data) = old.as_deref().map_or_else(Default::default, |v| LtdbHeader::split(v).unwrap());
                [LtdbHeader { dmaster, ..header }.to_bytes(), data.to_vec()].concat()
            }
            Edit::Take => {
                let (header, data) = LtdbHeader::split(old.as_deref().unwrap()).unwrap();
                let header = LtdbHeader { rsn: header.rsn + 1, dmaster: n as u32, ..header };
                [header.to_bytes(), data.to_vec()].concat()
            }
        };
        file.insert(key, value);
    }

    /// Carried out in order, also when a later recovery has stopped the database again: that freezes it after this.
    pub(super) fn thaw(&mut self, n: usize, db: u32, generation: Generation, masters: Vec<u32>, members: Vec<u32>) {
        self.nodes[n].frozen.insert(db, false);
        if db == PERSISTENT {
            self.nodes[n].synced = generation;
            let mut effects = Vec::new();
            self.nodes[n].member.answer(db, generation, Answer::Noted, &mut effects);
            self.effects(n, effects);
        } else {
            let node = &mut self.nodes[n];
            let again = std::mem::take(&mut node.blocked).into_iter().map(Work::Lock);
            node.work.entry(db).or_default().extend(again);
        }
        let current = self.nodes[n].member.generation(db) == Some(generation)
            && self.nodes[n].member.phase(db) == Some(Phase::Open);
        if !current {
            return;
        }
        if db == PERSISTENT {
            let mut out = Vec::new();
            self.nodes[n].commits.thaw(members, &mut out);
            self.commit_outputs(n, out);
        } else {
            let mut out = Vec::new();
            if !masters.contains(&(n as u32)) {
                let held = self.nodes[n].volatile.values().filter(|v| header(v).dmaster == n as u32).count();
                assert_eq!(held, 0, "node {n} is idle and holds records");
            }
            self.nodes[n].migration.thaw(masters, members, &mut out);
            self.moves(n, out);
        }
    }
}
