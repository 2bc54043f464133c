//! A healthy, fully connected node is never excluded on one other node's word.
//!
//! Healthy: nothing befell the machine or daemon for a while. Fully connected: no way to another healthy node was
//! troubled. A node that lost the way to half of the others counts as sick itself.

use super::Check;
use crate::clock::S;
use crate::world::World;
use cluster::{Epoch, Incarnation, Output, View};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is longer ago excuses nothing.
const MEMORY: u64 = 10 * S;

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Exclusion {
    seen: BTreeMap<(Incarnation, Epoch), Arc<View>>,
}

impl Check for Exclusion {
    fn name(&self) -> &'static str {
        "nobody out without cause"
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        let Output::Publish(snapshot) = output else {
            return Ok(());
        };
        let Some(view) = &snapshot.view else { return Ok(()) };
        if self.seen.contains_key(&view.rank()) {
            return Ok(());
        }
        self.seen.insert(view.rank(), view.clone());
        let before = (view.incarnation, Epoch(view.epoch.0.saturating_sub(1)));
        let Some(before) = self.seen.get(&before) else {
            return Ok(());
        };
        for (pnn, member) in &before.members {
            let stays = view.members.get(pnn).is_some_and(|m| m.run == member.run);
            let out = usize::from(pnn.0);
            // A run that has ended is out whenever the others get to it: a slow disk may hold them up for long.
            let ended = world.hosts[out].daemon.as_ref().is_none_or(|d| d.run != member.run);
            // Who has been told that another is no node any more has no connection to that one: either may go.
            let unlists = world.hosts[out].config.nodes.len() < world.setup.nodes;
            if stays || ended || unlists {
                continue;
            }
            if let Some(other) = on_one_word(world, out) {
                return Err(format!(
                    "n{host} publishes epoch {} without n{out}, which only n{other} has missed, and not for long ({})",
                    view.epoch, view.because
                ));
            }
            if !is_well(world, out) {
                continue;
            }
            return Err(format!(
                "n{host} publishes epoch {} without n{out}, which was healthy and reachable for everybody ({})",
                view.epoch, view.because
            ));
        }
        Ok(())
    }
}

fn troubled(world: &World, a: usize, b: usize) -> bool {
    world.edge_trouble.get(&(a.min(b), a.max(b))).is_some_and(|until| until + MEMORY > world.now)
}

/// Nothing has got through for so long that everybody can know it by now. A cut that was over sooner than anybody missed a
/// heartbeat tells nobody anything.
fn seen_cut(world: &World, a: usize, b: usize) -> bool {
    if world.net.pair(a, b).is_whole() {
        return false;
    }
    let timing = &world.setup.timing;
    let noticed = u64::try_from((timing.suspect + timing.heartbeat * 3).as_micros()).unwrap_or(u64::MAX);
    world.edge_cut.get(&(a.min(b), a.max(b))).is_some_and(|since| since.saturating_add(noticed) <= world.now)
}

/// The only one that has lost the way to this healthy node, so lately that both wait for what the others say. Judged on
/// networks that lose nothing: elsewhere the silence may have begun before the cut.
fn on_one_word(world: &World, node: usize) -> Option<usize> {
    let nodes = world.hosts.len();
    let others = |a: usize| (0..nodes).filter(move |b| *b != a);
    let healthy = |a: usize| world.hosts[a].is_live() && world.node_trouble[a] + MEMORY < world.now;
    let lost = |a: usize| others(a).filter(move |b| troubled(world, a, *b));
    let other = lost(node).next()?;
    let pair = lost(node).count() == 1 && lost(other).count() == 1 && (0..nodes).all(healthy);
    let timing = &world.setup.timing;
    let waits = u64::try_from((timing.suspect + timing.mesh_delay / 3).as_micros()).unwrap_or(u64::MAX);
    let since = world.edge_cut.get(&(node.min(other), node.max(other)))?;
    let judged = nodes > 3 && pair && world.setup.noise.loss == 0 && world.now < since + waits;
    judged.then_some(other)
}

/// Healthy, and no way to a node that is not cut off itself (as everybody can know) was troubled lately.
fn is_well(world: &World, node: usize) -> bool {
    let nodes = world.hosts.len();
    let others = |a: usize| (0..nodes).filter(move |b| *b != a);
    let half = |ways: usize| 2 * ways >= nodes.max(3) - 1;
    let cut_off = |a: usize| half(others(a).filter(|b| troubled(world, a, *b)).count());
    let seen_cut_off = |a: usize| half(others(a).filter(|b| troubled(world, a, *b) && seen_cut(world, a, *b)).count());
    let healthy = |a: usize| world.hosts[a].is_live() && world.node_trouble[a] + MEMORY < world.now && !cut_off(a);
    let crowd = others(node).filter(|b| healthy(*b)).count();
    // Too few healthy others: who is left decides by the lock, and either may win.
    healthy(node) && 2 * crowd > nodes && others(node).all(|b| seen_cut_off(b) || !troubled(world, node, b))
}
