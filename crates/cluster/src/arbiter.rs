//! Arbitration: view e+1 is one Paxos decision of the voters of view e.
//!
//! Acceptor and proposer of one node. Every answer waits until what it says is on disk. More than half of the
//! voters are a quorum; exactly half of them and the cluster lock are one too where the view's rules say so: the
//! lock is one more acceptor, whose memory is one record per node beside it (Disk Paxos, Gafni and Lamport 2003).
//!
//! This module decides *which* view is next once somebody wants one; what to want is [`crate::membership`]'s part.

use crate::planted::{Planted, planted};
use crate::rng::Rng;
use crate::{
    Accepted, Ages, Ballot, Durable, Epoch, Incarnation, LockRecord, Message, Output, Pnn, Time, Timing, View,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Ages above this are not worth saying: no lease lives that long.
const OLD: Duration = Duration::from_secs(20);
/// A disk that refused is tried again after this.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// How far the lock's half vote has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LockVote {
    NotAsked,
    Waiting { ticket: u64, second: bool },
    Promised(Vec<Accepted>),
    Accepted,
}

#[derive(Clone, Debug)]
struct Proposal {
    epoch: Epoch,
    ballot: Ballot,
    wish: View,
    deadline: Time,
    promises: BTreeMap<Pnn, Option<Accepted>>,
    value: Option<View>,
    accepts: BTreeMap<Pnn, (Time, Ages)>,
    lock: LockVote,
}

/// A view that this node saw decided, with the end of the leases of those it dropped.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub(crate) view: View,
    /// When the last lease of each node ends at the latest, by this node's clock, margin included. Only from the
    /// proposer's own count; others get it with the news.
    pub(crate) fences: BTreeMap<Pnn, Time>,
}

#[derive(Clone, Debug)]
pub(crate) struct Arbiter {
    me: Pnn,
    timing: Timing,
    started: Time,
    rng: Rng,
    pub(crate) durable: Durable,
    next_ticket: u64,
    /// Answers that leave when the ticket's state is on disk.
    waiting: VecDeque<(u64, Vec<(Pnn, Message)>)>,
    disk_retry: Option<Time>,
    pub(crate) disk_error: Option<String>,
    on_disk: u64,
    given: BTreeMap<Pnn, Time>,
    accepted_at: Option<Time>,
    /// When this node learned its view; after a restart, when it started.
    learned_at: Time,
    proposal: Option<Proposal>,
    highest_round: u64,
    not_before: Time,
    exchange: u64,
    pub(crate) lock_held: bool,
    pub(crate) records_error: Option<String>,
    pub(crate) decisions: VecDeque<Decision>,
}

impl Arbiter {
    pub(crate) fn new(me: Pnn, timing: Timing, durable: Durable, seed: u64, now: Time) -> Self {
        let highest_round = durable.promised.round;
        let accepted_at = durable.accepted.as_ref().map(|_| now);
        Self {
            me,
            timing,
            started: now,
            rng: Rng::new(seed),
            durable,
            next_ticket: 1,
            waiting: VecDeque::new(),
            disk_retry: None,
            disk_error: None,
            on_disk: 0,
            given: BTreeMap::new(),
            accepted_at,
            learned_at: now,
            proposal: None,
            highest_round,
            not_before: now,
            exchange: 0,
            lock_held: false,
            records_error: None,
            decisions: VecDeque::new(),
        }
    }

    pub(crate) fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    pub(crate) fn view(&self) -> Option<&View> {
        self.durable.view.as_ref()
    }

    fn voter(&self) -> bool {
        self.view().is_some_and(|v| v.is_voter(self.me, self.durable.uid))
    }

    /// May this node grant leases under its view? Not once it has accepted the next one.
    pub(crate) fn grants(&self) -> bool {
        self.voter() && (self.durable.accepted.is_none() || planted(Planted::GrantsAfterAccept))
    }

    /// A grant left for this node.
    pub(crate) fn granted(&mut self, to: Pnn, now: Time) {
        self.given.insert(to, now);
    }

    /// Is this node trying to get a view decided?
    pub(crate) fn proposing(&self) -> bool {
        self.proposal.is_some()
    }

    /// Since when an accepted view waits for its decision here.
    pub(crate) fn undecided_since(&self) -> Option<Time> {
        self.accepted_at
    }

    pub(crate) fn not_before(&self) -> Time {
        self.not_before
    }

    pub(crate) fn ticket_done(&self, ticket: u64) -> bool {
        self.on_disk >= ticket
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        [self.proposal.as_ref().map(|p| p.deadline), self.disk_retry].into_iter().flatten().min()
    }

    // ---- disk -------------------------------------------------------------------------------------------

    /// Puts the votes on disk; `answers` leave when they are there. Returns the ticket.
    pub(crate) fn persist(&mut self, answers: Vec<(Pnn, Message)>, out: &mut Vec<Output>) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let early = |to: Pnn| to != self.me && planted(Planted::VoteBeforeDisk);
        let (early, answers): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(to, _)| early(*to));
        self.waiting.push_back((ticket, answers));
        out.push(Output::Persist { ticket, state: Box::new(self.durable.clone()) });
        out.extend(early.into_iter().map(|(to, message)| Output::Send { to, message }));
        ticket
    }

    pub(crate) fn persisted(&mut self, now: Time, ticket: u64, out: &mut Vec<Output>) {
        self.on_disk = self.on_disk.max(ticket);
        self.disk_error = None;
        self.disk_retry = None;
        while self.waiting.front().is_some_and(|(t, _)| *t <= ticket) {
            let Some((_, answers)) = self.waiting.pop_front() else {
                break;
            };
            for (to, message) in answers {
                self.deliver(now, to, message, out);
            }
        }
    }

    /// The promise stays in force in memory, its answer does not leave, and the disk is asked again.
    pub(crate) fn persist_failed(&mut self, now: Time, error: String) {
        self.disk_error = Some(error);
        self.disk_retry = Some(now + DISK_RETRY);
    }

    fn retry_disk(&mut self, out: &mut Vec<Output>) {
        self.disk_retry = None;
        let answers = self.waiting.drain(..).flat_map(|(_, a)| a).collect();
        self.persist(answers, out);
    }

    fn deliver(&mut self, now: Time, to: Pnn, message: Message, out: &mut Vec<Output>) {
        if to == self.me {
            self.message(now, to, message, out);
        } else {
            out.push(Output::Send { to, message });
        }
    }

    // ---- messages ---------------------------------------------------------------------------------------

    /// The part of the messages that is arbitration; the rest is not for here.
    pub(crate) fn message(&mut self, now: Time, from: Pnn, message: Message, out: &mut Vec<Output>) {
        match message {
            Message::Prepare { incarnation, epoch, ballot } => self.prepare(now, from, incarnation, epoch, ballot, out),
            Message::Accept { ballot, view } => self.accept(now, from, ballot, *view, out),
            Message::Promise { epoch, ballot, accepted } => {
                if let Some(p) = self.proposal.as_mut().filter(|p| p.epoch == epoch && p.ballot == ballot) {
                    p.promises.insert(from, accepted.map(|a| *a));
                    self.first_phase(now, out);
                }
            }
            Message::Accepted { epoch, ballot, ages } => {
                if let Some(p) = self.proposal.as_mut().filter(|p| p.epoch == epoch && p.ballot == ballot) {
                    p.accepts.insert(from, (now, ages));
                    self.second_phase();
                }
            }
            Message::Refused { epoch, ballot, promised } => {
                if self.proposal.as_ref().is_some_and(|p| p.epoch == epoch && p.ballot == ballot) {
                    self.highest_round = self.highest_round.max(promised.round);
                    self.give_up(now);
                }
            }
            Message::Decided { .. }
            | Message::Report(_)
            | Message::Orders(_)
            | Message::Admin { .. }
            | Message::AdminDone { .. } => {}
        }
    }

    /// Is this the epoch that this node can vote for? Tells a proposer that knows less what was decided.
    fn may_vote(&mut self, from: Pnn, incarnation: Incarnation, epoch: Epoch, out: &mut Vec<Output>) -> bool {
        let Some(view) = self.view() else { return false };
        if (incarnation, epoch) <= view.rank() && from != self.me {
            let view = Box::new(view.clone());
            out.push(Output::Send { to: from, message: Message::Decided { view, fences: BTreeMap::new() } });
            return false;
        }
        // A proposer that knows more will send the news; until then there is no vote to give.
        incarnation == view.incarnation
            && epoch == view.epoch.next()
            && (self.voter() || planted(Planted::AnybodyVotes))
    }

    fn prepare(
        &mut self,
        now: Time,
        from: Pnn,
        incarnation: Incarnation,
        epoch: Epoch,
        ballot: Ballot,
        out: &mut Vec<Output>,
    ) {
        if !self.may_vote(from, incarnation, epoch, out) {
            return;
        }
        self.highest_round = self.highest_round.max(ballot.round);
        if ballot < self.durable.promised {
            let promised = self.durable.promised;
            self.deliver(now, from, Message::Refused { epoch, ballot, promised }, out);
            return;
        }
        if from != self.me {
            // Somebody else is at it: do not get in the way.
            self.not_before = self.not_before.max(now + self.timing.proposal / 2);
            if self.proposal.as_ref().is_some_and(|p| p.ballot < ballot) {
                self.proposal = None;
            }
        }
        self.durable.promised = ballot;
        let accepted = self.durable.accepted.clone().filter(|_| !planted(Planted::AcceptedUntold)).map(Box::new);
        self.persist(vec![(from, Message::Promise { epoch, ballot, accepted })], out);
    }

    fn accept(&mut self, now: Time, from: Pnn, ballot: Ballot, view: View, out: &mut Vec<Output>) {
        let epoch = view.epoch;
        if !self.may_vote(from, view.incarnation, epoch, out) {
            return;
        }
        if ballot < self.durable.promised && !planted(Planted::AcceptBelowPromise) {
            let promised = self.durable.promised;
            self.deliver(now, from, Message::Refused { epoch, ballot, promised }, out);
            return;
        }
        self.durable.promised = ballot;
        self.durable.accepted = Some(Accepted { ballot, view });
        self.accepted_at = Some(now);
        let ages = self.ages(now);
        self.persist(vec![(from, Message::Accepted { epoch, ballot, ages })], out);
    }

    /// How long ago each member got its last grant from this voter. A voter that has forgotten what it granted
    /// before its own start says that it granted until then.
    fn ages(&self, now: Time) -> Ages {
        let up = now.since(self.started);
        let members = self.view().map(|v| v.members.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
        members
            .into_iter()
            .filter_map(|n| {
                let forgets = planted(Planted::GrantsForgotten);
                let age = match self.given.get(&n) {
                    Some(t) => now.since(*t).min(up),
                    None if forgets => OLD,
                    None => up,
                };
                (age < OLD).then_some((n, age))
            })
            .collect()
    }

    // ---- proposing --------------------------------------------------------------------------------------

    /// Begins an attempt to get `wish` (or what was accepted before) decided.
    pub(crate) fn propose(&mut self, now: Time, wish: View, out: &mut Vec<Output>) {
        // Who votes for nothing has no ballot of its own on disk, and could use one twice. A quorum of voters that see the
        // same wish the same.
        let Some(view) = self.view().filter(|_| self.voter()) else { return };
        let (incarnation, epoch, voters) = (view.incarnation, view.epoch.next(), view.voters.clone());
        self.highest_round = self.highest_round.max(self.durable.promised.round) + 1;
        let ballot = Ballot { round: self.highest_round, uid: self.durable.uid };
        let jitter = self.rng.between(Duration::ZERO, self.timing.proposal / 4);
        self.proposal = Some(Proposal {
            epoch,
            ballot,
            wish,
            deadline: now + self.timing.proposal + jitter,
            promises: BTreeMap::new(),
            value: None,
            accepts: BTreeMap::new(),
            lock: LockVote::NotAsked,
        });
        for to in voters.into_keys() {
            self.deliver(now, to, Message::Prepare { incarnation, epoch, ballot }, out);
        }
    }

    fn give_up(&mut self, now: Time) {
        self.proposal = None;
        let wait = self.rng.between(self.timing.heartbeat / 5, self.timing.heartbeat * 3 / 2);
        self.not_before = now + wait;
    }

    /// Does the attempt need the lock, and is it not asked yet? (Half of the voters have answered, no more.)
    pub(crate) fn needs_lock(&self) -> bool {
        let (Some(view), Some(p)) = (self.view(), &self.proposal) else {
            return false;
        };
        let answers = if p.value.is_none() { p.promises.len() } else { p.accepts.len() };
        view.is_half_with_lock(answers)
    }

    /// Goes on with the lock's half vote where it is needed and the lock is held.
    pub(crate) fn ask_lock(&mut self, out: &mut Vec<Output>) {
        if !self.needs_lock() || !self.lock_held {
            return;
        }
        let Some(incarnation) = self.view().map(|v| v.incarnation) else {
            return;
        };
        let (pnn, uid) = (self.me, self.durable.uid);
        let before = self.durable.accepted.clone();
        let Some(p) = self.proposal.as_mut() else { return };
        let second = p.value.is_some();
        // What the record says must never go back behind what this node accepted: its own vote comes first.
        if second && !p.accepts.contains_key(&pnn) {
            return;
        }
        match (&p.lock, second) {
            (LockVote::NotAsked, false) | (LockVote::Promised(_), true) => {}
            // Phase two was reached by a majority that then shrank to half: the lock has not promised yet.
            (LockVote::NotAsked, true) | (LockVote::Waiting { .. } | LockVote::Accepted | LockVote::Promised(_), _) => {
                return;
            }
        }
        self.exchange += 1;
        p.lock = LockVote::Waiting { ticket: self.exchange, second };
        let accepted = p.value.clone().map(|view| Accepted { ballot: p.ballot, view }).or(before);
        let record = LockRecord { pnn, uid, incarnation, epoch: p.epoch, ballot: p.ballot, accepted };
        out.push(Output::Exchange { ticket: self.exchange, record: Box::new(record) });
    }

    /// The own record is on disk, and this is what stands beside the lock.
    pub(crate) fn records(
        &mut self,
        now: Time,
        ticket: u64,
        result: Result<Vec<LockRecord>, String>,
        out: &mut Vec<Output>,
    ) {
        let Some(incarnation) = self.view().map(|v| v.incarnation) else {
            return;
        };
        let Some(p) = self.proposal.as_mut() else { return };
        let LockVote::Waiting { ticket: asked, second } = p.lock else {
            return;
        };
        if asked != ticket {
            return;
        }
        let records = match result {
            Ok(records) => records,
            Err(error) => {
                self.records_error = Some(error);
                return self.give_up(now);
            }
        };
        self.records_error = None;
        let mut found = Vec::new();
        for r in records.into_iter().filter(|r| r.pnn != self.me || r.uid != self.durable.uid) {
            if planted(Planted::LockWithoutMemory) {
                continue;
            }
            let newer = (r.incarnation, r.epoch) > (incarnation, p.epoch);
            let same = (r.incarnation, r.epoch) == (incarnation, p.epoch);
            if (newer || (same && r.ballot > p.ballot)) && !planted(Planted::HigherRecordIgnored) {
                self.highest_round = self.highest_round.max(r.ballot.round);
                return self.give_up(now);
            }
            if same && !planted(Planted::RecordValueIgnored) {
                found.extend(r.accepted);
            }
        }
        if second {
            p.lock = LockVote::Accepted;
            self.second_phase();
        } else {
            p.lock = LockVote::Promised(found);
            self.first_phase(now, out);
        }
    }

    fn first_phase(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(view) = self.durable.view.as_ref() else {
            return;
        };
        let Some(p) = self.proposal.as_mut() else { return };
        if p.value.is_some() {
            return;
        }
        // Its own promise is among them, and so on disk: a run that crashed before that and begins again uses the same
        // ballot, and two values under one ballot can both be decided.
        if !p.promises.contains_key(&self.me) && !planted(Planted::BallotUsedTwice) {
            return;
        }
        let by_lock = match &p.lock {
            LockVote::Promised(found) if view.is_half_with_lock(p.promises.len()) => Some(found.clone()),
            _ => None,
        };
        if !view.is_majority(p.promises.len()) && by_lock.is_none() {
            return;
        }
        let records = by_lock.into_iter().flatten();
        let mut taken: Vec<Accepted> = p.promises.values().flatten().cloned().chain(records).collect();
        taken.sort_by_key(|a| a.ballot);
        let taken = if planted(Planted::OldestValue) { taken.into_iter().next() } else { taken.pop() };
        let value = taken.map_or_else(|| p.wish.clone(), |a| a.view);
        p.value = Some(value.clone());
        let ballot = p.ballot;
        let voters: Vec<Pnn> = view.voters.keys().copied().collect();
        for to in voters {
            self.deliver(now, to, Message::Accept { ballot, view: Box::new(value.clone()) }, out);
        }
    }

    fn second_phase(&mut self) {
        let Some(view) = self.durable.view.as_ref() else {
            return;
        };
        let Some(p) = &self.proposal else { return };
        let by_lock = p.lock == LockVote::Accepted && view.is_half_with_lock(p.accepts.len());
        if !view.is_majority(p.accepts.len()) && !by_lock {
            return;
        }
        let Some(p) = self.proposal.take() else { return };
        let Some(value) = p.value else { return };
        let wait = self.timing.lease + self.timing.margin;
        // A lease under the view before this one may rest on voters that this quorum does not share; it ends one lease
        // after that view was replaced, which was not after this node learned of it.
        let floor = self.learned_at;
        let mut fences: BTreeMap<Pnn, Time> = BTreeMap::new();
        for pnn in view.members.keys() {
            let last = p.accepts.values().filter_map(|(at, ages)| ages.get(pnn).map(|age| at.minus(*age))).max();
            fences.insert(*pnn, last.unwrap_or(floor).max(floor) + wait);
        }
        self.decisions.push_back(Decision { view: value, fences });
    }

    /// Makes `view` the newest view. False if it is not newer.
    pub(crate) fn learn(&mut self, now: Time, view: View, out: &mut Vec<Output>) -> bool {
        if self.view().is_some_and(|v| view.rank() <= v.rank()) {
            return false;
        }
        self.durable.view = Some(view);
        self.durable.promised = Ballot::ZERO;
        self.durable.accepted = None;
        self.accepted_at = None;
        self.learned_at = now;
        self.proposal = None;
        self.highest_round = 0;
        self.not_before = now;
        // Answers about the epoch before are void, but what waits for the disk otherwise must not be forgotten.
        for (_, answers) in &mut self.waiting {
            answers.clear();
        }
        self.persist(Vec::new(), out);
        true
    }

    /// True when an attempt was given up.
    pub(crate) fn tick(&mut self, now: Time, out: &mut Vec<Output>) -> bool {
        if self.disk_retry.is_some_and(|t| t <= now) {
            self.retry_disk(out);
        }
        let late = self.proposal.as_ref().is_some_and(|p| p.deadline <= now);
        if late {
            self.give_up(now);
        }
        late
    }

    /// Is this the attempt that is under way?
    #[cfg(test)]
    pub(crate) fn listens(&self, epoch: Epoch, ballot: Ballot) -> bool {
        self.proposal.as_ref().is_some_and(|p| p.epoch == epoch && p.ballot == ballot)
    }

    /// Does the attempt wait for this exchange?
    #[cfg(test)]
    pub(crate) fn waits_for(&self, exchange: u64) -> bool {
        let waits = |l: &LockVote| matches!(l, LockVote::Waiting { ticket, .. } if *ticket == exchange);
        self.proposal.as_ref().is_some_and(|p| waits(&p.lock))
    }

    /// All that later decisions depend on, times and the numbers of tickets apart.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self, into: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        (&self.durable, self.highest_round).hash(into);
        self.waiting.iter().map(|(_, answers)| answers).collect::<Vec<_>>().hash(into);
        if let Some(p) = &self.proposal {
            (p.epoch, p.ballot, &p.wish, &p.promises, &p.value).hash(into);
            p.accepts.keys().collect::<Vec<_>>().hash(into);
            match &p.lock {
                LockVote::NotAsked => 0.hash(into),
                LockVote::Waiting { second, .. } => (1, second).hash(into),
                LockVote::Promised(found) => (2, found).hash(into),
                LockVote::Accepted => 3.hash(into),
            }
        }
    }
}
