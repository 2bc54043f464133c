//! SMB clients of all nodes that count in one file, under a lock of Samba's.

use crate::bench::{rival::Rival, round};
use crate::lab::Lab;
use crate::site;
use crate::smb::{self, Session};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::time::Duration;

/// Clients of each node.
const CLIENTS: usize = 2;

/// Increments per second of all clients; beside it the longest wait and how evenly they came to their turn.
pub(super) fn measure(lab: &Lab, seconds: f64, beside: &mut BTreeMap<String, f64>) -> Result<f64> {
    let placement = Rival::new(lab).settle()?;
    let mut sessions: Vec<Session> = Vec::new();
    for node in (0..CLIENTS).flat_map(|_| 0..lab.site.nodes) {
        let vip = placement.of(node).with_context(|| format!("{} has no address", site::name(node)))?;
        sessions.push(Session::locking(lab, vip)?);
    }
    let counted = smb::count_together(&mut sessions, lab.site.nodes, Duration::from_secs_f64(seconds))?;
    for (node, shown) in counted.shown.iter().enumerate() {
        if *shown != counted.sum() {
            bail!("{} increments were counted, and {} shows {shown}", counted.sum(), site::name(node));
        }
    }
    beside.insert("longest_ms".into(), round(counted.longest_ms()));
    beside.insert("fewest".into(), counted.fewest() as f64);
    beside.insert("most".into(), counted.most() as f64);
    Ok(counted.sum() as f64 / counted.seconds)
}
