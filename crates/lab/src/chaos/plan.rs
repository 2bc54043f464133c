//! What is done to the nodes, and when: drawn from one seed, before anything happens.
//!
//! Which node leads, and who is out still from a former fault, is seen when a step begins: [`Step::on`] puts the drawn
//! numbers on nodes that are there.

use std::time::Duration;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    PowerOff,
    LeaderPowerOff,
    DaemonKilled,
    DaemonAndGuardKilled,
    /// SIGSTOP for longer than the lease.
    DaemonStopped,
    /// SIGSTOP for less than the lease.
    DaemonPaused,
    /// All processes of the node, while its kernel goes on.
    NodePaused,
    PublicLinkDown,
    PrivateLinkDown,
    /// From all other nodes, both ways; clients reach it still.
    CutOff,
    /// Others hear it, it hears nobody; or the other way round.
    CutOneWay,
    CutFromOne,
    SmbdKilled,
    GaneshaKilled,
    GaneshaStopped,
    MountHung,
    Drain,
    CleanStop,
    /// The daemon comes back with its clocks days ahead, and then with the machine's.
    ClockJump,
    GuardKilled,
}

/// Which kinds there are: what depends on the site.
#[derive(Debug, Clone, Copy)]
pub(super) struct Possible {
    /// The storage has processes of its own that can hang, and shuts lost nodes out.
    pub(super) gluster: bool,
    pub(super) private_net: bool,
}

impl Kind {
    pub(super) const ALL: [Self; 20] = [
        Self::PowerOff,
        Self::LeaderPowerOff,
        Self::DaemonKilled,
        Self::DaemonAndGuardKilled,
        Self::DaemonStopped,
        Self::DaemonPaused,
        Self::NodePaused,
        Self::PublicLinkDown,
        Self::PrivateLinkDown,
        Self::CutOff,
        Self::CutOneWay,
        Self::CutFromOne,
        Self::SmbdKilled,
        Self::GaneshaKilled,
        Self::GaneshaStopped,
        Self::MountHung,
        Self::Drain,
        Self::CleanStop,
        Self::ClockJump,
        Self::GuardKilled,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::LeaderPowerOff => "leader-power-off",
            Self::DaemonKilled => "daemon-killed",
            Self::DaemonAndGuardKilled => "daemon-and-guard-killed",
            Self::DaemonStopped => "daemon-stopped",
            Self::DaemonPaused => "daemon-paused",
            Self::NodePaused => "node-paused",
            Self::PublicLinkDown => "public-link-down",
            Self::PrivateLinkDown => "private-link-down",
            Self::CutOff => "cut-off",
            Self::CutOneWay => "cut-one-way",
            Self::CutFromOne => "cut-from-one",
            Self::SmbdKilled => "smbd-killed",
            Self::GaneshaKilled => "ganesha-killed",
            Self::GaneshaStopped => "ganesha-stopped",
            Self::MountHung => "mount-hung",
            Self::Drain => "drain",
            Self::CleanStop => "clean-stop",
            Self::ClockJump => "clock-jump",
            Self::GuardKilled => "guard-killed",
        }
    }

    /// The node stays a member: any number of these may be at once.
    pub(super) fn is_mild(self) -> bool {
        matches!(
            self,
            Self::DaemonPaused | Self::SmbdKilled | Self::GaneshaKilled | Self::GaneshaStopped | Self::GuardKilled
        )
    }

    /// There is one table of cuts.
    fn cuts(self) -> bool {
        matches!(self, Self::CutOff | Self::CutOneWay | Self::CutFromOne)
    }

    fn is_possible(self, on: Possible) -> bool {
        match self {
            // A paused server may write when it goes on: without a storage that shuts it out nothing is promised.
            Self::MountHung | Self::NodePaused => on.gluster,
            Self::PrivateLinkDown => on.private_net,
            _ => true,
        }
    }

    /// Locks over NFSv3 do not outlive it, and nobody is told (docs/nfs.md).
    pub(super) fn frees_nfs3_locks(self, on: Possible) -> bool {
        match self {
            // With the server's process, before the others have heard of it.
            Self::GaneshaKilled | Self::GaneshaStopped => true,
            // So it is with a shared directory of this machine; GlusterFS keeps them until the node is evicted.
            Self::PowerOff | Self::LeaderPowerOff => !on.gluster,
            _ => false,
        }
    }

    /// How long it lasts, in milliseconds: least and most.
    fn lasts(self) -> (u64, u64) {
        match self {
            Self::DaemonPaused => (50, 450),
            Self::GaneshaStopped => (100, 4000),
            Self::SmbdKilled | Self::GaneshaKilled | Self::GuardKilled => (100, 1000),
            Self::PowerOff | Self::LeaderPowerOff => (1500, 8000),
            Self::DaemonStopped | Self::NodePaused | Self::MountHung => (900, 7000),
            Self::Drain | Self::CleanStop | Self::ClockJump => (1000, 6000),
            _ => (300, 6000),
        }
    }
}

/// Chances from a seed: SplitMix64.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// From `low` on, in milliseconds, less than `high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high.saturating_sub(low)))
    }
}

/// One fault of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// Which of the nodes that are there: any number.
    pub(super) node: usize,
    /// After the step's beginning.
    pub(super) after: Duration,
    pub(super) lasts: Duration,
    /// Decides what a kind leaves open: who else, which way, how far.
    pub(super) detail: u64,
}

/// What happens at one time; then everything is mended and served again before the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) calm: Duration,
    pub(super) faults: Vec<Fault>,
    /// Three of four nodes or all of them go: nobody has to serve meanwhile.
    pub(super) majority: bool,
    /// It begins when a client has a lock over NFSv3, and hits its server first. (Such a lock is rarely to be had otherwise:
    /// none is given in the grace period that follows a fault.)
    pub(super) under_lock: bool,
}

/// Who has something that a step wants to hit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks {
    pub(super) leader: Option<usize>,
    /// Serves a client that has a lock over NFSv3.
    pub(super) lock: Option<usize>,
}

/// Draws one step after the other.
#[derive(Debug)]
pub(super) struct Plan {
    chance: Chance,
    /// For the time in which somebody is still waited for; its own, so that how often it is asked changes nothing else.
    mild: Chance,
    pub(super) possible: Possible,
    nodes: usize,
}

impl Plan {
    pub(super) fn new(seed: u64, nodes: usize, possible: Possible) -> Self {
        Self { chance: Chance::new(seed), mild: Chance::new(!seed), possible, nodes }
    }

    fn kinds(&self, may: impl Fn(Kind) -> bool) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|k| k.is_possible(self.possible) && may(*k)).collect()
    }

    fn draw(&mut self, from: &[Kind]) -> Fault {
        let kind = from[self.chance.below(from.len() as u64) as usize];
        let (low, high) = kind.lasts();
        Fault {
            kind,
            node: self.chance.below(self.nodes as u64) as usize,
            after: Duration::ZERO,
            lasts: self.chance.between(low, high),
            detail: self.chance.next(),
        }
    }

    /// The next step: mostly one fault that costs a node its membership; often beside what costs none; now and then two
    /// nodes one after the other; and seldom most of the nodes at once.
    pub(super) fn step(&mut self) -> Step {
        let calm = self.chance.between(300, 3500);
        let lot = self.chance.below(100);
        if lot < 5 {
            return self.most(calm);
        }
        let under_lock = self.chance.below(4) == 0;
        let possible = self.possible;
        let any = self.kinds(|kind| !under_lock || !(kind.is_mild() || kind.frees_nfs3_locks(possible)));
        let first = self.draw(&any);
        let mut faults = vec![first.clone()];
        if lot < 40 {
            let mild = self.kinds(|kind| kind.is_mild() && !(under_lock && kind.frees_nfs3_locks(possible)));
            for _ in 0..=self.chance.below(2) {
                let mut beside = self.draw(&mild);
                beside.after = self.chance.between(0, 2500);
                faults.push(beside);
            }
        } else if lot < 50 {
            let frees = |kind: Kind| under_lock && kind.frees_nfs3_locks(possible);
            let second = self.kinds(|k| !(k.is_mild() || k.cuts() && first.kind.cuts() || frees(k)));
            let mut second = self.draw(&second);
            second.after = self.chance.between(1500, 3500);
            if !first.kind.is_mild() {
                // Still out when the second one goes, and the others have decided without it by then.
                faults[0].lasts += second.after;
            }
            faults.push(second);
        }
        Step { calm, faults, majority: false, under_lock }
    }

    fn most(&mut self, calm: Duration) -> Step {
        let nodes = self.nodes - self.chance.below(2) as usize;
        let first = self.chance.below(self.nodes as u64) as usize;
        let lasts = self.chance.between(1500, 5000);
        let detail = self.chance.next();
        let off = |i| Fault { kind: Kind::PowerOff, node: first + i, after: Duration::ZERO, lasts, detail };
        Step { calm, faults: (0..nodes).map(off).collect(), majority: true, under_lock: false }
    }

    /// Something that costs nobody his membership.
    pub(super) fn mild(&mut self) -> Fault {
        std::mem::swap(&mut self.chance, &mut self.mild);
        let fault = self.draw(&self.kinds(Kind::is_mild));
        std::mem::swap(&mut self.chance, &mut self.mild);
        fault
    }
}

impl Step {
    /// Each fault with a node of its own among those that are there; faults for which none is left are left out. `apart`
    /// tells whether two nodes may be out at one time.
    pub(super) fn on(
        &self,
        there: &[usize],
        marks: Marks,
        apart: impl Fn(usize, usize) -> bool,
    ) -> Vec<(Fault, usize)> {
        let mut free = there.to_vec();
        let mut all: Vec<(Fault, usize)> = Vec::new();
        for fault in &self.faults {
            let out: Vec<usize> = all.iter().filter(|(f, _)| !f.kind.is_mild()).map(|(_, n)| *n).collect();
            let may = |n: usize| self.majority || fault.kind.is_mild() || out.iter().all(|o| apart(*o, n));
            let some: Vec<usize> = free.iter().copied().filter(|n| may(*n)).collect();
            let lock = marks.lock.filter(|_| self.under_lock && all.is_empty());
            let marked = if fault.kind == Kind::LeaderPowerOff { marks.leader } else { lock };
            let at = fault.node % some.len().max(1);
            if let Some(node) = marked.filter(|node| some.contains(node)).or_else(|| some.get(at).copied()) {
                free.retain(|n| *n != node);
                all.push((fault.clone(), node));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALL: Possible = Possible { gluster: true, private_net: true };

    fn steps(seed: u64, possible: Possible) -> Vec<Step> {
        let mut plan = Plan::new(seed, 4, possible);
        (0..400).map(|_| plan.step()).collect()
    }

    #[test]
    fn a_seed_is_a_plan_whatever_is_asked_between() {
        assert_eq!(steps(7, ALL), steps(7, ALL));
        assert_ne!(steps(7, ALL), steps(8, ALL));
        let mut plan = Plan::new(7, 4, ALL);
        let beside: Vec<Step> = (0..400)
            .map(|_| {
                assert!(plan.mild().kind.is_mild());
                plan.step()
            })
            .collect();
        assert_eq!(beside, steps(7, ALL));
    }

    #[test]
    fn every_kind_that_is_possible_comes_and_no_other() {
        let seen = |possible| -> BTreeSet<Kind> {
            steps(1, possible).iter().flat_map(|s| s.faults.iter().map(|f| f.kind)).collect()
        };
        assert_eq!(seen(ALL).len(), Kind::ALL.len());
        let local = seen(Possible { gluster: false, private_net: false });
        assert_eq!(local.len(), Kind::ALL.len() - 3);
        assert!(!local.contains(&Kind::MountHung) && !local.contains(&Kind::NodePaused));
    }

    #[test]
    fn a_minority_is_out_unless_it_is_said() {
        let (mut two, mut most) = (0, 0);
        for step in steps(3, ALL) {
            let marks = Marks { leader: Some(2), lock: Some(3) };
            let on = step.on(&[0, 1, 2, 3], marks, |a, b| a / 2 != b / 2);
            let out: Vec<usize> = on.iter().filter(|(f, _)| !f.kind.is_mild()).map(|(_, n)| *n).collect();
            let nodes: BTreeSet<usize> = on.iter().map(|(_, n)| *n).collect();
            assert_eq!(nodes.len(), on.len(), "one fault a node: {on:?}");
            match (step.majority, out.len()) {
                (true, 3 | 4) => most += 1,
                (false, 2) => {
                    assert_ne!(out[0] / 2, out[1] / 2, "not both of a pair");
                    two += 1;
                }
                (false, 0 | 1) => {}
                (majority, n) => panic!("majority {majority}, {n} out"),
            }
            assert!(on.iter().filter(|(f, _)| f.kind.cuts()).count() < 2, "{on:?}");
            if let Some((_, node)) = on.iter().find(|(f, _)| f.kind == Kind::LeaderPowerOff) {
                // The leader, unless it or the other of its pair is out already.
                assert!(*node == 2 || out.iter().any(|n| n / 2 == 1), "{on:?}");
            }
        }
        assert!(two > 10 && most > 5, "{two} {most}");
    }

    #[test]
    fn a_step_under_a_lock_hits_its_server_and_does_not_free_it() {
        let marks = Marks { leader: Some(2), lock: Some(1) };
        let all: Vec<Step> = steps(5, ALL).into_iter().filter(|step| step.under_lock).collect();
        assert!((60..140).contains(&all.len()), "{}", all.len());
        for step in all {
            let on = step.on(&[0, 1, 2, 3], marks, |_, _| true);
            let (first, node) = &on[0];
            assert!(*node == if first.kind == Kind::LeaderPowerOff { 2 } else { 1 } && !first.kind.is_mild(), "{on:?}");
            assert!(!on.iter().any(|(f, _)| f.kind.frees_nfs3_locks(ALL)), "{on:?}");
        }
    }
}
