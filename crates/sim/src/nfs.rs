//! NFS servers that enter their grace period when they are told: the daemon's part of `Output::Grace`, which is prompt, late,
//! refused or never done. The same of planned moves, and of locks that are let go of.

use crate::clock::{MS, Micros};
use crate::driver::NFS;
use crate::event::What;
use crate::world::World;
use cluster::{Epoch, Input, Pnn, RunId};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What an NFS server is asked for; each draws its own chance.
#[derive(Clone, Copy)]
enum Asked {
    Grace,
    GraceForMove,
    LetGo,
    Proof,
}

impl World {
    /// How long the NFS server takes to answer, and whether it refuses; nothing if it never answers. Drawn beside the
    /// world's own chance.
    fn nfs_answers(&self, host: usize, asked: Asked) -> Option<(Micros, bool)> {
        let (label, prompt) = match asked {
            Asked::Grace => (0, 30),
            Asked::GraceForMove => (1 << 32, 30),
            Asked::LetGo => (1 << 33, 60),
            Asked::Proof => (1 << 34, 20),
        };
        let mut rng = self.rng.fork(self.now ^ host as u64 ^ label);
        let delay = match rng.index(8) {
            0..=4 => rng.range(1..=prompt) * MS,
            5 | 6 => rng.range(100..=900) * MS,
            _ => return None,
        };
        Some((delay, rng.chance(150_000)))
    }

    /// A daemon that starts has yet to read who is recorded with its NFS server, and says until then that nobody is.
    pub(crate) fn read_nfs_clients(&mut self, host: usize) {
        let delay = self.rng.fork(self.now ^ host as u64 ^ 1 << 35).range(0..=1_000) * MS;
        let generation = self.hosts[host].generation;
        self.after(delay, What::Local { host, generation, input: Box::new(Input::NfsClients(true)) });
    }

    /// A core wants its NFS server in its grace period.
    pub(crate) fn grace(&mut self, host: usize, number: u64, epoch: Epoch, nodes: BTreeSet<Pnn>) {
        self.story.node(self.now, host, || format!("grace for {nodes:?} under epoch {epoch}"));
        let Some((delay, refused)) = self.nfs_answers(host, Asked::Grace) else { return };
        let generation = self.hosts[host].generation;
        self.after(delay, What::Graced { host, generation, number, nodes, refused });
    }

    pub(crate) fn grace_entered(
        &mut self,
        (host, generation): (usize, u64),
        number: u64,
        nodes: BTreeSet<Pnn>,
        refused: bool,
    ) {
        if !self.is_current(host, generation) {
            return;
        }
        let now = self.now;
        self.hosts[host].nfs_settled.extend(nodes.into_iter().map(|node| (node, now)));
        let because = refused.then(|| "not on the bus".to_owned());
        self.local(host, generation, Input::Graced { number, because });
    }

    /// The same for a planned move of another node, or of this one.
    pub(crate) fn grace_for_move(&mut self, host: usize, node: Pnn, request: (RunId, u64)) {
        self.story.node(self.now, host, || format!("grace for move {} of n{}", request.1, node.0));
        let Some((delay, refused)) = self.nfs_answers(host, Asked::GraceForMove) else { return };
        let generation = self.hosts[host].generation;
        self.after(delay, What::GracedForMove { host, generation, node, request, refused });
    }

    pub(crate) fn grace_for_move_entered(
        &mut self,
        (host, generation): (usize, u64),
        node: Pnn,
        (run, number): (RunId, u64),
        refused: bool,
    ) {
        if !self.is_current(host, generation) {
            return;
        }
        self.hosts[host].nfs_moves.insert((node, run, number));
        let because = refused.then(|| "not on the bus".to_owned());
        self.local(host, generation, Input::GracedForMove { node, run, number, because });
    }

    /// A core wants to know whether its servers and their storage answer.
    pub(crate) fn prove(&mut self, host: usize, number: u64) {
        let Some((delay, _)) = self.nfs_answers(host, Asked::Proof) else { return };
        let generation = self.hosts[host].generation;
        self.after(delay, What::Proved { host, generation, number });
    }

    pub(crate) fn proved(&mut self, host: usize, generation: u64, number: u64) {
        if !self.is_current(host, generation) {
            return;
        }
        if self.hosts[host].clock.local(self.now) >= self.hosts[host].core_lease {
            // Its storage clients are held, and the question waits with them.
            self.after(10 * MS, What::Proved { host, generation, number });
            return;
        }
        let because = self.hosts[host].is_broken(NFS).then(|| "it does not answer".to_owned());
        if because.is_none() {
            self.hosts[host].proved = Some((self.now, self.hosts[host].clock.local(self.now)));
        }
        self.local(host, generation, Input::Proved { number, because });
    }

    /// A core wants its NFS server to let go of what came by this address, or to be ended for its sake.
    pub(crate) fn let_go(&mut self, host: usize, vip: IpAddr, end: bool) {
        let what = if end { "ends its NFS server for" } else { "lets go of locks by" };
        self.story.node(self.now, host, || format!("{what} {vip}"));
        let since = self.hosts[host].clock.local(self.now);
        self.hosts[host].letting_go.insert(vip, (since, end));
        let Some((delay, refused)) = self.nfs_answers(host, Asked::LetGo) else { return };
        let generation = self.hosts[host].generation;
        self.after(delay, What::LetGo { host, generation, vip, end, refused });
    }

    pub(crate) fn let_go_done(&mut self, (host, generation): (usize, u64), vip: IpAddr, end: bool, refused: bool) {
        if !self.is_current(host, generation) {
            return;
        }
        if self.hosts[host].letting_go.get(&vip).is_some_and(|asked| asked.1 == end) {
            self.hosts[host].letting_go.remove(&vip);
        }
        let because = refused.then(|| "it does not answer".to_owned());
        self.local(host, generation, Input::LetGo { vip, end, because });
    }
}
