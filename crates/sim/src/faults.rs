//! What goes wrong: the kinds of faults, and the plan that a seed makes of them.

use crate::clock::{MS, Micros, S};
use crate::rng::Rng;
use crate::setup::{Setup, interface_of};
use cluster::AdminState;
use std::net::IpAddr;

/// Faults of a calm seed fall within this.
const HOUR: Micros = 3_600 * S;

/// One kind of fault, with whom it hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A machine loses power and gets it back at the end.
    PowerOff { node: usize },
    /// A machine loses power for good.
    PowerOffForGood { node: usize },
    /// All machines lose power at once.
    PowerCut,
    /// As `PowerOff`, and the disk comes back empty. Only when the cluster can stand that.
    Wipe { node: usize },
    /// The daemon is killed, with or without its guard, and started again at the end.
    Kill { node: usize, guard: bool },
    /// The daemon is told to end and started again at the end.
    Stop { node: usize },
    /// The daemon stands still; `between` = between a decision and its effects.
    Pause { node: usize, between: bool },
    /// The machine stands still.
    Freeze { node: usize },
    /// Every input waits up to so many microseconds.
    Slow { node: usize, by: Micros },
    /// Writes take so much longer.
    SlowDisk { node: usize, by: Micros },
    /// Writes fail.
    FullDisk { node: usize },
    /// Only nodes of the same side reach each other; on network 0 alone or on all.
    Split { side: Vec<usize>, all: bool },
    /// Two nodes do not reach each other, or only one way.
    Cut { a: usize, b: usize, one_way: bool, all: bool },
    /// One node hears and reaches nobody; `deaf` = it hears nobody, but is heard.
    Isolate { node: usize, deaf: bool },
    /// Datagrams get lost and late everywhere.
    Storm { loss: u32, jitter: Micros, twice: u32 },
    /// A connection is reset.
    Reset { a: usize, b: usize },
    /// Lock and records hang for everybody, or for one node.
    StorageHangs { node: Option<usize> },
    /// Nobody can read a node's record.
    RecordUnreadable { node: usize },
    /// The lock's holder loses it and is not told.
    LockLost,
    /// Evictions fail at a node.
    EvictFails { node: usize },
    /// A service fails.
    Service { node: usize, name: String },
    /// A public interface is down.
    Interface { node: usize, name: String },
    /// All public interfaces of a node are down: they share a cable.
    Cable { node: usize },
    /// Somebody removes an address by hand.
    RemoveAddress { vip: IpAddr },
    /// An administrator sets a state, and takes it back at the end.
    Admin { node: usize, state: AdminState },
    /// An administrator moves an address.
    MoveIp { vip: IpAddr, to: usize },
    /// It is another time of the day at a node: it passes, or somebody sets the clock.
    TimeOfDay { node: usize, minute: u16 },
    /// An address disappears from the configuration, and comes back at the end.
    Config { vip: IpAddr },
    /// A node is taken off the others' list of nodes, on one after another, and put back at the end.
    Unlist { node: usize },
    /// The test of the storage says at one node, or at all, that the lock may break no ties.
    LockDoubted { node: Option<usize> },
    /// An administrator wants addresses to stay where they are, or to go nowhere, by the word of one node or of all.
    Restrain { node: Option<usize>, takeover: bool, failback: bool },
    /// A machine outside of the cluster uses an address.
    Stranger { vip: IpAddr },
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// World time of its beginning.
    pub at: Micros,
    /// How long it lasts.
    pub lasts: Micros,
    /// What.
    pub kind: Kind,
}

/// All faults of a run, in no particular order.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The faults.
    pub faults: Vec<Fault>,
}

impl Plan {
    /// When the last one is over.
    #[must_use]
    pub fn end(&self) -> Micros {
        self.faults.iter().map(|f| f.at + f.lasts).max().unwrap_or(0)
    }

    /// A plan drawn from a seed; faults begin after `quiet`. Dense: one every second or two. Calm: as many within an hour.
    #[must_use]
    pub fn random(rng: &mut Rng, setup: &Setup, quiet: Micros, calm: bool) -> Self {
        let count = rng.range(1..=10);
        let dense = rng.range(2..=5) * count * S / 2;
        let span = if calm { HOUR } else { dense };
        // From a stream of its own: the other faults stay as they are.
        let mut cables = rng.fork(33);
        let mut faults: Vec<Fault> = (0..count)
            .map(|_| Fault {
                at: quiet + rng.below(span),
                lasts: match rng.index(4) {
                    0 => rng.range(20..=900) * MS,
                    1 => rng.range(500..=3_000) * MS,
                    2 => rng.range(1_000..=8_000) * MS,
                    _ => rng.range(3_000..=20_000) * MS,
                },
                kind: Kind::random(rng, setup),
            })
            .collect();
        for fault in &mut faults {
            if let Kind::Interface { node, .. } = fault.kind
                && cables.chance(500_000)
            {
                fault.kind = Kind::Cable { node };
            }
        }
        let mut rare = rng.fork(34);
        if rare.chance(150_000) {
            faults.push(Fault {
                at: quiet + rare.below(span),
                lasts: rare.range(4_000..=20_000) * MS,
                kind: Kind::rare(&mut rare, setup),
            });
        }
        Self { faults }
    }
}

impl Kind {
    fn random(rng: &mut Rng, setup: &Setup) -> Self {
        let node = rng.index(setup.nodes);
        let other = (node + 1 + rng.index(setup.nodes - 1)) % setup.nodes;
        let vip = setup.vips[rng.index(setup.vips.len())].0;
        let name = |rng: &mut Rng| {
            let names: Vec<&String> = setup.services.iter().collect();
            names[rng.index(names.len())].clone()
        };
        match rng.index(36) {
            0..=4 => Self::PowerOff { node },
            5 => Self::PowerOffForGood { node },
            6 => Self::PowerCut,
            7 => Self::Wipe { node },
            8..=10 => Self::Kill { node, guard: rng.chance(500_000) },
            11 => Self::Stop { node },
            12..=14 => Self::Pause { node, between: rng.chance(500_000) },
            15 => Self::Freeze { node },
            16 => Self::Slow { node, by: rng.range(1..=200) * MS },
            17 => Self::SlowDisk { node, by: rng.range(5..=600) * MS },
            18 => Self::FullDisk { node },
            19..=21 => {
                let mut side: Vec<usize> = (0..setup.nodes).filter(|_| rng.chance(500_000)).collect();
                if side.is_empty() || side.len() == setup.nodes {
                    side = vec![node];
                }
                Self::Split { side, all: rng.chance(700_000) }
            }
            22..=23 => Self::Cut { a: node, b: other, one_way: rng.chance(400_000), all: rng.chance(700_000) },
            24..=25 => Self::Isolate { node, deaf: rng.chance(300_000) },
            26 => Self::Storm {
                loss: rng.range(20_000..=500_000) as u32,
                jitter: rng.range(1..=300) * MS,
                twice: rng.range(0..=200_000) as u32,
            },
            27 => Self::Reset { a: node, b: other },
            28 => Self::StorageHangs { node: rng.chance(500_000).then_some(node) },
            29 => Self::RecordUnreadable { node },
            30 => Self::LockLost,
            31 => Self::EvictFails { node },
            32 => Self::Service { node, name: name(rng) },
            33 => match rng.index(2) {
                0 => Self::Interface { node, name: interface_of(vip).to_owned() },
                _ => Self::RemoveAddress { vip },
            },
            34 => match rng.index(3) {
                0 => Self::MoveIp { vip, to: node },
                1 => Self::TimeOfDay { node, minute: rng.index(1440) as u16 },
                _ => Self::Config { vip },
            },
            _ => Self::Admin {
                node,
                state: [AdminState::Drained, AdminState::Stopped, AdminState::Banned][rng.index(3)],
            },
        }
    }

    /// What happens beside the other faults in one seed of seven.
    fn rare(rng: &mut Rng, setup: &Setup) -> Self {
        let node = rng.index(setup.nodes);
        let one = rng.chance(500_000).then_some(node);
        match rng.index(5) {
            0 | 1 => Self::Unlist { node },
            2 => Self::LockDoubted { node: one },
            3 => Self::Restrain { node: one, takeover: rng.chance(700_000), failback: rng.chance(700_000) },
            _ => Self::Stranger { vip: setup.vips[rng.index(setup.vips.len())].0 },
        }
    }
}
