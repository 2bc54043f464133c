//! What must be true once nothing has been wrong for a while.

use crate::host::Host;
use crate::setup::interface_of;
use crate::world::World;
use cluster::{AdminState, FailBack, View};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Why the cluster is not at rest yet; `None` when it is.
#[must_use]
pub fn unrest(world: &World) -> Option<String> {
    let Some(view) = world.newest_view() else {
        return Some("nobody knows a view".to_owned());
    };
    for host in world.hosts.iter().filter(|h| h.is_live()) {
        let pnn = host.pnn();
        let Some(snapshot) = host.snapshot() else {
            return Some(format!("n{} has published nothing", host.index));
        };
        if snapshot.view.as_deref() != Some(view) {
            return Some(format!(
                "n{} knows epoch {:?}, the newest is {}",
                host.index,
                snapshot.view.as_ref().map(|v| v.epoch),
                view.epoch
            ));
        }
        let run = host.daemon.as_ref().map(|d| d.run);
        if !world.setup.is_witness(host.index) && !run.is_some_and(|run| view.has_run(pnn, run)) {
            return Some(format!("n{} is no member of epoch {}", host.index, view.epoch));
        }
        if !world.setup.is_witness(host.index) && !snapshot.lease.valid {
            return Some(format!("n{} has no node lease", host.index));
        }
    }
    for pnn in view.members.keys() {
        if !world.hosts[usize::from(pnn.0)].is_live() {
            return Some(format!("n{pnn} is dead and still a member"));
        }
    }
    addresses_unrest(world, view)
}

/// May this node host this address now?
pub(crate) fn is_fit(world: &World, view: &View, node: usize, vip: IpAddr) -> bool {
    works(world, view, node) && can_have(&world.hosts[node], vip)
}

/// May this node host addresses at all?
fn works(world: &World, view: &View, node: usize) -> bool {
    let host = &world.hosts[node];
    host.is_live()
        && view.members.contains_key(&host.pnn())
        && host.disk.durable.admin == AdminState::Active
        && host.daemon.as_ref().is_some_and(|d| d.services_up)
        && host.config.services.iter().all(|s| !host.is_broken(s))
}

/// Can this address be there?
fn can_have(host: &Host, vip: IpAddr) -> bool {
    !host.interface_down(interface_of(vip))
        && host.config.vips.get(&vip).is_some_and(|conf| conf.hosts.contains_key(&host.pnn()))
}

/// By interface, and by the nodes that could have its addresses: how many each of these has, and whether one of them may go
/// elsewhere.
type Spread<'a> = BTreeMap<(&'a str, Vec<usize>), BTreeMap<usize, (usize, bool)>>;

fn addresses_unrest(world: &World, view: &View) -> Option<String> {
    let mut spread = Spread::new();
    let mut vips: Vec<IpAddr> = world.hosts.iter().flat_map(|h| h.config.vips.keys().copied()).collect();
    vips.sort_unstable();
    vips.dedup();
    let working: Vec<&Host> = world.hosts.iter().filter(|h| works(world, view, h.index)).collect();
    for vip in vips {
        let fit: Vec<usize> = working.iter().filter(|h| can_have(h, vip)).map(|h| h.index).collect();
        let names = || BTreeSet::from_iter(&fit);
        let held = world.answering(vip);
        match (fit.is_empty(), held.as_slice()) {
            (true, _) => continue,
            (false, []) => return Some(format!("nobody answers for {vip}, {:?} could", names())),
            (false, [one]) if fit.contains(one) => {
                let counts = spread
                    .entry((interface_of(vip), fit))
                    .or_insert_with_key(|(_, fit)| fit.iter().map(|n| (*n, (0, false))).collect());
                let (count, movable) = counts.entry(*one).or_default();
                *count += 1;
                *movable |= !world.pins.stays(vip, *one);
            }
            (false, [one]) => {
                return Some(format!("n{one} answers for {vip} and is not fit to; {:?} are", names()));
            }
            (false, many) => return Some(format!("{many:?} answer for {vip}")),
        }
    }
    if world.setup.fail_back == FailBack::Never || !world.setup.barred.is_empty() {
        return None;
    }
    for ((interface, _), nodes) in &spread {
        // An administrator's word stands: two addresses moved to one node may leave others without any.
        let most = nodes.values().filter(|(_, movable)| *movable).map(|(count, _)| *count).max().unwrap_or(0);
        let least = nodes.values().map(|(count, _)| *count).min().unwrap_or(0);
        if most > least + 1 {
            let counts: BTreeMap<_, _> = nodes.iter().map(|(node, (count, _))| (node, count)).collect();
            return Some(format!("addresses of {interface} are spread {counts:?}"));
        }
    }
    None
}

/// Does this machine's disk have everything that was committed?
pub(crate) fn has_all(world: &World, view: &View, host: &Host) -> bool {
    let member = view.members.get(&host.pnn()).is_some_and(|m| m.uid == host.uid());
    let recovered = world.databases.is_none() || host.disk.durable.recovered == Some(view.number());
    view.keepers.contains(&host.uid()) || (member && recovered)
}

/// Can the cluster decide anything at all: is a quorum of the newest view's own identities there, with the lock if
/// that breaks ties, and one that has all commits? If not, only a person may go on (`force-view`).
#[must_use]
pub fn can_decide(world: &World) -> bool {
    let Some(view) =
        world.hosts.iter().filter(|h| h.power).filter_map(|h| h.disk.durable.view.as_ref()).max_by_key(|v| v.rank())
    else {
        return false;
    };
    let there = |uid| world.hosts.iter().any(|h| h.is_live() && h.uid() == uid);
    let voters = view.voters.values().filter(|uid| there(**uid)).count();
    let keeper = world.hosts.iter().any(|h| h.is_live() && has_all(world, view, h));
    keeper && (view.is_majority(voters) || view.is_half_with_lock(voters))
}
