//! What happens by the clock.

use super::io::{FileOrder, Now};
use super::messages::AT_REST;
use super::{Origin, Server};
use crate::peer::Said;
use std::net::IpAddr;
use std::time::Duration;

/// The leader is named to clients this often, as the original's does.
const LEADER: Duration = Duration::from_secs(1);

/// When what is due.
#[derive(Debug)]
pub(super) struct Timers {
    leader: Duration,
    sequence: Duration,
    vacuum: Duration,
    moved: Duration,
    /// Clients that wait for the addresses to be at rest.
    takeovers: Vec<(Duration, (u32, u64))>,
    /// Clients that wait for an address to be here, until when.
    pub(super) moves: Vec<(IpAddr, Origin, Duration)>,
    /// Clients that wait until an address is in this node's list, or is not any more.
    pub(super) lists: Vec<(IpAddr, bool, Origin, Duration)>,
}

impl Timers {
    pub(super) fn new(now: Now) -> Self {
        let at = now.mono;
        Self {
            leader: at + LEADER,
            sequence: at + LEADER,
            vacuum: at + LEADER,
            moved: at,
            takeovers: Vec::new(),
            moves: Vec::new(),
            lists: Vec::new(),
        }
    }

    pub(super) fn next(&self, server: &Server) -> Duration {
        let moves = self.moves.iter().map(|(.., at)| *at);
        let takeovers = self.takeovers.iter().map(|(asked, _)| (*asked).max(self.moved) + AT_REST);
        let fixed = [self.leader, self.sequence, self.vacuum];
        let next = fixed
            .into_iter()
            .chain(moves)
            .chain(self.lists.iter().map(|(.., at)| *at))
            .chain(takeovers)
            .chain(server.next_control())
            .chain(server.next_later())
            .chain(server.next_by_hand())
            .chain(server.next_detaching())
            .min();
        next.unwrap_or(self.leader)
    }

    pub(super) fn addresses_moved(&mut self, now: Now) {
        self.moved = now.mono;
    }

    pub(super) fn takeover_asked(&mut self, now: Now, to: (u32, u64)) {
        self.takeovers.push((now.mono, to));
    }

    /// Those who asked while nothing has moved since.
    pub(super) fn takeovers_due(&mut self, now: Now) -> Vec<(u32, u64)> {
        let moved = self.moved;
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.takeovers)
            .into_iter()
            .partition(|(asked, _)| (*asked).max(moved) + AT_REST <= now.mono);
        self.takeovers = later;
        due.into_iter().map(|(_, to)| to).collect()
    }
}

impl Server {
    /// Whatever is due.
    pub(super) fn wake(&mut self) {
        let now = self.now.mono;
        if self.timers.leader <= now {
            self.timers.leader = now + LEADER;
            self.say_leader(None);
        }
        if self.timers.sequence <= now {
            let interval = self.tunables.named("SeqnumInterval").max(10);
            self.timers.sequence = now + Duration::from_millis(interval.into());
            self.look_at_sequences();
        }
        if self.timers.vacuum <= now {
            self.timers.vacuum = now + self.vacuum();
        }
        self.controls_due();
        self.later_is_due();
        self.by_hand_due();
        self.detaching_due();
        self.look_at_moves();
        self.look_at_lists();
        self.takeover_done();
    }

    fn look_at_sequences(&mut self) {
        let counting: Vec<u32> =
            self.dbs.values().filter(|d| d.counts && d.path.is_some()).map(|d| d.have.db).collect();
        for id in counting {
            self.order(id, FileOrder::LookSequence);
        }
    }

    /// A file's sequence number: others are told when clients here have changed it.
    pub(super) fn sequence(&mut self, id: u32, n: u32) {
        let Some(db) = self.dbs.get_mut(&id) else { return };
        let before = db.sequence.replace(n);
        if before.is_some_and(|before| before != n) {
            for to in self.others() {
                self.send(to, Said::Changed { db: id });
            }
        }
    }

    /// Changes count in the file from this number on.
    pub(super) fn counting(&mut self, id: u32, n: u32) {
        if let Some(db) = self.dbs.get_mut(&id) {
            db.sequence = Some(n);
        }
    }

    /// Another node's clients have changed the database.
    pub(super) fn bump(&mut self, id: u32) {
        if let Some(db) = self.dbs.get(&id)
            && db.counts
            && db.path.is_some()
        {
            self.order(id, FileOrder::Bump);
        }
    }

    /// That change stands in the file's number. It is told no further; what clients here have changed meanwhile is.
    pub(super) fn bumped(&mut self, id: u32) {
        if let Some(db) = self.dbs.get_mut(&id) {
            db.sequence = db.sequence.map(|n| n.wrapping_add(1));
        }
    }
}
