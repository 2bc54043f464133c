//! An address by which NFS clients hold locks leaves by plan only when every NFS server that could give them to others is in
//! its grace period, or never will be; and answers elsewhere only when the old server has let go. Or when either has been
//! waited for long enough.

use super::learned::{Learned, may_serve};
use super::{Check, PULSE};
use crate::world::World;
use cluster::{GRACE_WAIT, LET_GO_WAIT, Output, RunId, Time, View};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What was asked longer ago was asked for another move: a core waits for less, but for the time in which its daemon stands still.
const SAME_MOVE: Duration = Duration::from_secs(5);
/// A planned move of a node's run.
type Request = (RunId, u64);
/// What a core says of a release that the leader wants.
const PLANNED: &str = "the leader placed it elsewhere";

/// The checker.
#[derive(Debug, Default)]
pub(crate) struct Parting {
    learned: Learned,
    /// The newest move that each node has asked all members for.
    asked: BTreeMap<usize, Asked>,
}

#[derive(Debug)]
struct Asked {
    request: Request,
    /// When, by the node's own clock.
    at: Time,
    /// For so long its daemon has stood still since, by that clock: who goes on goes on with the same move.
    stood: Duration,
}

impl Check for Parting {
    fn name(&self) -> &'static str {
        "locks of NFS clients over planned moves"
    }

    fn started(&mut self, _world: &World, host: usize) -> Result<(), String> {
        self.learned.started(host);
        self.asked.remove(&host);
        Ok(())
    }

    fn output(&mut self, world: &World, host: usize, output: &Output) -> Result<(), String> {
        self.learned.output(host, output);
        let now = || world.hosts[host].clock.local(world.now);
        match output {
            Output::GraceForMove { node, run, number } if usize::from(node.0) == host => {
                self.asked.insert(host, Asked { request: (*run, *number), at: now(), stood: Duration::ZERO });
            }
            Output::Release { vip, because } if because == PLANNED && world.setup.nfs_locks.contains(&host) => {
                let served = world.hosts[host].kernel.addresses.contains(vip);
                let now = now();
                match self.asked.get(&host).filter(|asked| now.since(asked.at) < SAME_MOVE + asked.stood) {
                    _ if !served => {}
                    None => return Err(format!("n{host} lets {vip} go, and has asked nobody for a grace period")),
                    Some(asked) if now.since(asked.at) >= GRACE_WAIT => {}
                    Some(asked) => return self.all_settled(world, host, asked.request),
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn pulse(&mut self, world: &World) -> Result<(), String> {
        let stands = |host: usize| world.hosts[host].runs() && !world.hosts[host].is_live();
        for (_, asked) in self.asked.iter_mut().filter(|(host, _)| stands(**host)) {
            asked.stood += Duration::from_micros(PULSE);
        }
        Ok(())
    }

    fn answers(&mut self, world: &World, host: usize, vip: IpAddr) -> Result<(), String> {
        // Who has no lease any more, or is no member for who answers (it was paused, and still believes in its lease), is
        // another matter: its storage is shut out before.
        let dropped = |pnn| self.learned.view(host).is_some_and(|view| !view.members.contains_key(&pnn));
        // Nor is it one's fault who waits that a machine goes on which a view has dropped while it was paused: it answers beside
        // its heirs for a lease (docs/testing.md), and the storage does not listen to it.
        let run = world.hosts[host].daemon.as_ref().map(|d| d.run);
        let shut_out = |other| {
            let member = |view: &View| run.is_some_and(|run| view.has_run(world.hosts[host].pnn(), run));
            world.has_just_thawed(host) && self.learned.view(other).is_some_and(|view| !member(view))
        };
        for other in world.hosts.iter().filter(|h| h.index != host && world.setup.nfs_locks.contains(&h.index)) {
            if dropped(other.pnn()) || shut_out(other.index) {
                continue;
            }
            let now = other.clock.local(world.now);
            let leased = other.is_live() && now < other.core_lease;
            let waits = other.letting_go.get(&vip).is_some_and(|(since, end)| !end && now.since(*since) < LET_GO_WAIT);
            if leased && waits {
                return Err(format!("n{host} answers for {vip}, and n{} has not let go of its locks", other.index));
            }
        }
        Ok(())
    }
}

impl Parting {
    fn all_settled(&self, world: &World, host: usize, (run, number): Request) -> Result<(), String> {
        let Some(view) = self.learned.view(host) else { return Ok(()) };
        let me = world.hosts[host].pnn();
        for (pnn, member) in &view.members {
            let Some(other) = world.hosts.get(usize::from(pnn.0)) else { continue };
            if may_serve(world, (pnn, member)) && !other.nfs_moves.contains(&(me, run, number)) {
                return Err(format!("n{host} lets an address go, and n{}'s NFS server is in no grace period", pnn.0));
            }
        }
        Ok(())
    }
}
