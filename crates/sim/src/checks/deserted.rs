//! A node gives up what its NFS server keeps for clients only when no client can want it any more.
//!
//! That is: its core was told that all of its public interfaces are down, its kernel has no address, and each address that
//! it had since the first of them went down has been answered for by another node since. The server is started anew
//! without a grace period then, so clients that came back to it would find their locks gone and given to others.

use super::Check;
use crate::world::World;
use cluster::{Output, public_interfaces};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What a daemon knows of its interfaces, and the addresses whose clients may still come to it.
#[derive(Debug, Default)]
struct Node {
    down: BTreeSet<String>,
    /// Addresses that it has had since the first interface went down, and nobody else since.
    had: BTreeSet<IpAddr>,
}

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Deserted(BTreeMap<usize, Node>);

impl Check for Deserted {
    fn name(&self) -> &'static str {
        "no clients are given up"
    }

    fn started(&mut self, _world: &World, host: usize) -> Result<(), String> {
        self.0.remove(&host);
        Ok(())
    }

    fn interface(&mut self, world: &World, host: usize, name: &str, up: bool) -> Result<(), String> {
        let node = self.0.entry(host).or_default();
        if up {
            node.down.remove(name);
        } else {
            node.down.insert(name.to_owned());
        }
        if node.down.is_empty() {
            *node = Node::default();
        } else {
            node.had.extend(&world.hosts[host].kernel.addresses);
        }
        Ok(())
    }

    fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        // A machine that goes on after a pause takes nobody's clients over: it is cut off from the storage.
        if !world.has_just_thawed(host) {
            for (_, other) in self.0.iter_mut().filter(|(other, _)| **other != host) {
                other.had.remove(&vip);
            }
        }
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        if !matches!(output, Output::Deserted) {
            return Ok(());
        }
        let (machine, none) = (&world.hosts[host], Node::default());
        let node = self.0.get(&host).unwrap_or(&none);
        if let Some(up) = public_interfaces(&machine.config).iter().find(|name| !node.down.contains(*name)) {
            return Err(format!("n{host} gives all clients up, and {up} is up"));
        }
        if let Some(vip) = machine.kernel.addresses.first() {
            return Err(format!("n{host} gives all clients up, and has {vip}"));
        }
        // Who has gone on after a pause just now and is a member takes clients over, too: it answers still.
        if let Some(vip) = node.had.iter().find(|vip| world.answering(**vip).is_empty()) {
            return Err(format!("n{host} gives all clients up, and nobody else has had {vip} since"));
        }
        // One whose only address was on its way here or away has nobody to lose: an idle server is started anew.
        Ok(())
    }
}
