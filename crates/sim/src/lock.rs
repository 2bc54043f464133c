//! The cluster lock and the record files beside it, with the odd behaviours that GlusterFS has shown: believed
//! held after it was lost, kept for the dead, hanging.
//!
//! Records are a register per node: one write, then one read of all, each at one instant between the request and
//! its answer. That every read passes every cache is the storage's promise, not a thing that is simulated.

use crate::clock::Micros;
use cluster::{LockRecord, Pnn};
use std::collections::{BTreeMap, BTreeSet};

/// Lock and records of the cluster.
#[derive(Debug, Default)]
pub struct Lock {
    /// Who has it as the storage sees it.
    pub holder: Option<usize>,
    /// Who wants it.
    pub wanted: BTreeSet<usize>,
    /// Who was told that it has it (and may be wrong).
    pub believers: BTreeSet<usize>,
    /// Who was told that it cannot have it, since it last asked.
    pub refused: BTreeSet<usize>,
    /// Neither lock nor records answer before this.
    pub hangs_until: Micros,
    /// Nodes whose own access hangs, until when.
    pub hangs_for: BTreeMap<usize, Micros>,
    /// Nodes whose records nobody can read, until when.
    pub unreadable: BTreeMap<usize, Micros>,
    /// One record per node.
    pub records: BTreeMap<Pnn, LockRecord>,
}

impl Lock {
    /// Does the storage hang for this node, apart from dead peers?
    #[must_use]
    pub fn hangs(&self, node: usize, now: Micros) -> bool {
        now < self.hangs_until || self.hangs_for.get(&node).is_some_and(|until| now < *until)
    }

    /// All records, or why not all could be read.
    pub fn read(&self, now: Micros) -> Result<Vec<LockRecord>, String> {
        match self.unreadable.iter().find(|(_, until)| now < **until) {
            Some((node, _)) => Err(format!("record of node {node}: Input/output error")),
            None => Ok(self.records.values().cloned().collect()),
        }
    }

    /// The storage frees what a node held; nobody tells the node.
    pub fn free(&mut self, node: usize) {
        if self.holder == Some(node) {
            self.holder = None;
        }
    }
}
