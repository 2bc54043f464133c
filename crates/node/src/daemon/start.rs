//! The first steps, before the core runs: votes, eviction from the view on disk, leftover addresses.

use std::path::Path;
use std::time::{Duration, Instant};

use cluster::Durable;
use net::fence::{Fence, StoragePorts};
use net::{Command, Parts, Worker};

use super::effects::forward;
use super::inbox::{Inbox, Item, Outlet};
use super::{origin, site};
use crate::config::{Config, DEFAULT_CONTROL_PORT};
use crate::pki::PkiDir;
use crate::random;
use crate::state::{StateError, StateStore};

/// How long the kernel may take for the network's beginning.
const NETWORK: Duration = Duration::from_secs(5);

/// This node's votes: those on disk, or new ones with a new identity for a node that joins.
pub(super) fn votes(store: &StateStore, config: &Config) -> anyhow::Result<Durable> {
    let path = store.dir().join("votes.json");
    match store.load()? {
        Some(votes) if votes.pnn != config.me => {
            Err(StateError::OtherNode { path, found: votes.pnn, me: config.me }.into())
        }
        Some(votes) => Ok(votes),
        None => {
            // Without a certificate this is no node of any cluster, and `init` or `join` must find nothing here.
            PkiDir::in_state_dir(store.dir()).credentials()?;
            let votes = Durable::blank(config.me, random::node_uid()?);
            store.save(&votes)?;
            tracing::info!(uid = %votes.uid, "this disk has no votes yet: it begins as a new node");
            Ok(votes)
        }
    }
}

/// Starts the network worker, shuts out the nodes that the view on disk evicts, and clears addresses that an earlier
/// daemon left. What else the worker says stays in the inbox for the core.
pub(super) fn network(
    config: &Config,
    votes: &Durable,
    parts: Option<Parts>,
    inbox: &Inbox,
    outlet: &Outlet,
) -> anyhow::Result<Worker> {
    let worker = match parts {
        Some(parts) => Worker::start_with(parts, forward(inbox.clone()))?,
        None => Worker::imagined(forward(inbox.clone()))?,
    };
    worker.send(site::network(config))?;
    let view = votes.view.as_ref().filter(|_| site::evicts(config));
    if let Some(view) = view {
        let addresses = view.evicted.values().flatten().copied().collect();
        worker.send(Command::SetEvicted { epoch: view.epoch.0, addresses })?;
    }
    let (mut configured, mut evicted) = (false, view.is_none());
    let mut later = Vec::new();
    let begun = Instant::now();
    while !(configured && evicted) {
        let Some(left) = NETWORK.checked_sub(begun.elapsed()) else {
            anyhow::bail!("the kernel did not set up the network part within {} s", NETWORK.as_secs());
        };
        match outlet.next(left) {
            Ok(Some(Item::Net(event))) => {
                match &event {
                    net::Event::Lease { .. } => configured = true,
                    // Others wait to hear it: who was shut out frees what its storage keeps of this node's clients.
                    net::Event::Evicted { .. } => evicted = true,
                    // The core orders it again, and its addresses wait until it succeeds.
                    net::Event::EvictFailed { why, .. } => {
                        tracing::error!("nodes dropped by the view on disk are not shut out of the storage yet: {why}");
                        evicted = true;
                    }
                    _ => {}
                }
                later.push(event);
            }
            Ok(_) => {}
            Err(_) => anyhow::bail!("the network worker ended at once"),
        }
    }
    for event in later {
        inbox.put(Item::Net(event));
    }
    Ok(worker)
}

/// Takes every public address off this node: for after a daemon that was killed. The fence around evicted nodes
/// and the hold of this node's own storage clients stay.
///
/// # Errors
/// The configuration cannot be read, or the kernel refuses.
pub fn release_all(config: &Path, node: Option<&str>, state_dir: &Path) -> anyhow::Result<()> {
    let config = origin::read(config, node, state_dir).map_err(anyhow::Error::msg)?;
    // Held by a running daemon: then its addresses are none of our business.
    let _store = StateStore::open(state_dir)?;
    let (inbox, outlet) = super::inbox::inbox();
    let worker = Worker::start(forward(inbox))?;
    let mut network = site::network(&config);
    if let Command::Configure { hold, .. } = &mut network {
        // A crashed daemon's stays closed, one that ended in order left none.
        *hold = None;
    }
    worker.send(network)?;
    // Ends the worker after it has released everything and removed the gate.
    drop(worker);
    let mut failed = Vec::new();
    while let Ok(Some(item)) = outlet.next(Duration::ZERO) {
        match item {
            Item::Net(net::Event::StrayRemoved { addr, interface }) => {
                tracing::info!("{addr} removed from {interface}")
            }
            Item::Net(net::Event::ReleaseFailed { addr, why }) => failed.push(format!("{addr}: {why}")),
            Item::Net(net::Event::ConfigureFailed { why }) => failed.push(why),
            _ => {}
        }
    }
    anyhow::ensure!(failed.is_empty(), "addresses may be left on this node: {}", failed.join("; "));
    Ok(())
}

/// Shuts out the nodes that the view on disk drops, before the storage's own server starts. The fence outlives this
/// process; the daemon takes it over. Nothing to do while a daemon runs (it has done so), or before the first view.
///
/// # Errors
/// The votes cannot be read, or the kernel refuses. A configuration that cannot be read is no reason not to fence:
/// GlusterFS's ports are shut then.
pub fn fence(config: &Path, node: Option<&str>, state_dir: &Path) -> anyhow::Result<()> {
    if !state_dir.join("votes.json").try_exists()? {
        return Ok(());
    }
    let store = match StateStore::open(state_dir) {
        Ok(store) => store,
        Err(StateError::InUse { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some(view) = store.load()?.and_then(|votes| votes.view) else { return Ok(()) };
    let ports = match origin::read(config, node, state_dir) {
        Ok(config) if !site::evicts(&config) => return Ok(()),
        Ok(config) => site::fenced(&config),
        Err(why) => {
            eprintln!("the configuration cannot be read, so the usual storage ports are shut: {why}");
            StoragePorts { storage: net::fence::GLUSTERFS_PORTS.to_vec(), spared: vec![22, DEFAULT_CONTROL_PORT] }
        }
    };
    let evicted: Vec<_> = view.evicted.values().flatten().copied().collect();
    Fence::open()?.set_evicted(&evicted, &ports)?;
    Ok(())
}
