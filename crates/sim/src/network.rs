//! The networks between the nodes: datagrams that get lost, and links that keep order while they last.
//!
//! A link here is what the daemon's TLS connections are to the core: up or down, reliable and in order while up.
//! It runs over network 0; what was on its way when it breaks is lost. Its two ends may disagree for a while.
//! Only state lives here; `world` schedules.

use crate::clock::Micros;
use crate::rng::Rng;
use crate::setup::Noise;
use cluster::{Grant, GuardWord, Heartbeat, Input, Message, Pnn};
use std::collections::VecDeque;

/// What travels as a datagram. Not on the heap: most of what happens is one of these.
#[derive(Clone, Debug)]
pub(crate) enum Datagram {
    Heartbeat { from: Pnn, net: u8, heartbeat: Heartbeat },
    Grant { from: Pnn, grant: Grant },
    Guard { from: Pnn, word: GuardWord },
}

impl Datagram {
    /// Who sent it.
    pub(crate) fn from(&self) -> Pnn {
        match self {
            Self::Heartbeat { from, .. } | Self::Grant { from, .. } | Self::Guard { from, .. } => *from,
        }
    }
}

impl From<Datagram> for Input {
    fn from(datagram: Datagram) -> Self {
        match datagram {
            Datagram::Heartbeat { from, net, heartbeat } => Self::Heartbeat { from, net, heartbeat },
            Datagram::Grant { from, grant } => Self::Grant { from, grant },
            Datagram::Guard { from, word } => Self::Guard { from, word },
        }
    }
}

/// What travels over a link.
#[derive(Debug)]
pub enum Cargo {
    /// Between the cluster cores.
    Message(Box<Message>),
    /// Between the databases' servers.
    Bytes(Vec<u8>),
}

/// Link between two nodes; side 0 is the lower one.
#[derive(Debug, Default)]
pub struct Pair {
    /// Does this side believe that the link is up?
    pub up: [bool; 2],
    /// Number of the connection that a side believes in.
    pub session: u64,
    /// On the way from this side.
    pub queue: [VecDeque<Cargo>; 2],
    /// Nothing sent by this side arrives before this.
    pub tail: [Micros; 2],
    /// Grows when anything changes; older plans for this pair are void.
    pub change: u64,
    /// Since when the way is blocked, if it is.
    pub bad_since: Option<Micros>,
}

impl Pair {
    /// Can what one side sends reach the other?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.up[0] && self.up[1]
    }

    /// This side closes: whatever was on the way is lost.
    pub fn close(&mut self, side: usize) {
        self.up[side] = false;
        self.queue = [VecDeque::new(), VecDeque::new()];
    }
}

/// All networks and links.
#[derive(Debug)]
pub struct Network {
    nodes: usize,
    blocked: Vec<u32>,
    pairs: Vec<Pair>,
    /// How bad the networks are now.
    pub noise: Noise,
}

impl Network {
    /// Everything reachable, all links down.
    #[must_use]
    pub fn new(nodes: usize, nets: usize, noise: Noise) -> Self {
        Self {
            nodes,
            blocked: vec![0; nets * nodes * nodes],
            pairs: (0..nodes * nodes).map(|_| Pair::default()).collect(),
            noise,
        }
    }

    fn slot(&self, net: usize, from: usize, to: usize) -> usize {
        (net * self.nodes + from) * self.nodes + to
    }

    /// Nothing passes from `from` to `to` on `net` any more. Counted: as many `unblock`s undo it.
    pub fn block(&mut self, net: usize, from: usize, to: usize) {
        let slot = self.slot(net, from, to);
        self.blocked[slot] += 1;
    }

    /// Undoes one `block`.
    pub fn unblock(&mut self, net: usize, from: usize, to: usize) {
        let slot = self.slot(net, from, to);
        self.blocked[slot] = self.blocked[slot].saturating_sub(1);
    }

    /// Does anything pass this way?
    #[must_use]
    pub fn passes(&self, net: usize, from: usize, to: usize) -> bool {
        self.blocked[self.slot(net, from, to)] == 0
    }

    /// Does network 0 pass both ways?
    #[must_use]
    pub fn round_trip(&self, a: usize, b: usize) -> bool {
        self.passes(0, a, b) && self.passes(0, b, a)
    }

    /// The link between two nodes.
    #[must_use]
    pub fn pair(&self, a: usize, b: usize) -> &Pair {
        &self.pairs[a.min(b) * self.nodes + a.max(b)]
    }

    /// The link between two nodes.
    pub fn pair_mut(&mut self, a: usize, b: usize) -> &mut Pair {
        &mut self.pairs[a.min(b) * self.nodes + a.max(b)]
    }

    /// How long one packet takes.
    pub fn delay(&self, rng: &mut Rng) -> Micros {
        let base = self.noise.delay + rng.below(self.noise.jitter + 1);
        if rng.chance(self.noise.tail) { base * 10 } else { base }
    }

    /// Messages on the way, at most on one side of one link.
    #[must_use]
    pub fn longest_queue(&self) -> usize {
        self.pairs.iter().flat_map(|p| p.queue.iter().map(VecDeque::len)).max().unwrap_or(0)
    }
}

/// Which side of a pair `me` is.
#[must_use]
pub fn side(me: usize, other: usize) -> usize {
    usize::from(me > other)
}
