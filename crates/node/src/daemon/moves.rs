//! Prepares a GlusterFS volume for planned moves: the leader lifts replication's post-op delay while such moves are ahead,
//! and puts back what was there when none has been for [`HOLD`].
//!
//! The core says when ([`Snapshot::planned_moves`]) and waits a bounded time for [`Input::MovesWait`]. What was there is
//! kept on the volume itself, so it needs no memory here: whoever leads next finds a delay that is lifted, and puts it back.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Epoch, Health, Input, NodeStatus, Snapshot, Time};
use services::storage::volume::VolumeError;
use services::storage::{PostOpDelay, Volume, post_op_delay};
use tokio::sync::watch;
use tokio::time::sleep;

use super::facts::Facts;
use super::inbox::Inbox;
use crate::clock;
use crate::config::STORAGE;

/// Between the last planned move and putting the delay back. Longer than `fail_back_interval` at its default: addresses
/// that return one by one are one series.
const HOLD: Duration = Duration::from_secs(3);
/// Between a failure and the next attempt.
const AGAIN: Duration = Duration::from_secs(5);
/// The same after the first failure: glusterd refuses while it does something else, as with a peer that is just back.
const SOON: Duration = Duration::from_secs(1);
/// For one question or order to glusterd.
const ASK: Duration = Duration::from_secs(10);
/// A core that says nothing for so long stands still, and may lead no more. It speaks once a second at least.
const SILENT: Duration = Duration::from_secs(2);
/// A mount that fails within this time of a change may fail for it: every client of the volume reads its settings anew.
const SUSPICIOUS: Duration = Duration::from_secs(10);
/// So nothing is lifted for this time, or addresses that leave a sick mount and return would make it sick again.
const REST: Duration = Duration::from_secs(600);
/// So long after the members have changed nothing is lifted: glusterds that have just found each other still compare their
/// volumes. Shorter than what the core waits with addresses that return for the spread.
const SETTLES: Duration = Duration::from_secs(10);
/// So long after the last move a delay stays lifted for a server that is away or starting. It may be away for days, in which
/// nobody shall write slowly.
const PATIENT: Duration = Duration::from_secs(60);
/// GlusterFS's clients hear of a setting when glusterd has answered, and nothing says when they heed it: an address that moved
/// 0.4 ms after the answer stalled a writer for the second that was to be spared it, once.
const HEEDED: Duration = Duration::from_millis(250);
/// Failures in a row that make a standing warning.
const STAYS: u32 = 2;

/// What this node is for the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It does not lead: somebody else acts.
    Nobody,
    /// It leads, and no planned move is ahead.
    Calm,
    /// It leads, and planned moves are ahead.
    Moves,
}

impl Part {
    fn of(snapshot: Option<&Snapshot>, now: Time) -> Self {
        match snapshot {
            Some(s) if s.leader == Some(s.me) && s.member && s.lease.valid && now.since(s.at) < SILENT => {
                if s.planned_moves { Self::Moves } else { Self::Calm }
            }
            _ => Self::Nobody,
        }
    }
}

/// Does the mount of any member fail?
fn sick(snapshot: &Snapshot) -> bool {
    let fails = |state| matches!(state, Health::Failing | Health::Failed);
    let mount = |node: &NodeStatus| node.services.get(STORAGE).is_some_and(|s| fails(s.state));
    snapshot.nodes.values().any(|node| node.member && mount(node))
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing, before then at least.
    Rest(Option<Time>),
    Lift,
    /// Put back what is there to put back.
    PutBack,
}

/// What is known and decided. No I/O.
#[derive(Debug)]
struct Decision {
    /// May it be lifted? A delay that was lifted before is put back in any case.
    wanted: bool,
    /// What the volume was when it was read last, by whoever reads it now and then.
    read: Option<PostOpDelay>,
    /// What it is, as long as nobody but this node may change it.
    known: Option<PostOpDelay>,
    /// It was lifted, or may have been, and is not known to be back.
    ours: bool,
    /// It is being put back.
    going: bool,
    calm_since: Option<Time>,
    again_at: Option<Time>,
    failures: u32,
    /// Lifting has failed twice, and glusterd has not answered since.
    in_vain: bool,
    /// The view that was seen last, and when for the first time.
    view: Option<(Epoch, Time)>,
    /// When the volume was last changed here.
    changed_at: Option<Time>,
    /// A member's mount fails: its volume is left alone.
    sick: bool,
    /// Nothing is lifted until then.
    rests_until: Option<Time>,
}

impl Decision {
    fn new(wanted: bool) -> Self {
        Self {
            wanted,
            read: None,
            known: None,
            ours: false,
            going: false,
            calm_since: None,
            again_at: None,
            failures: 0,
            in_vain: false,
            view: None,
            changed_at: None,
            sick: false,
            rests_until: None,
        }
    }

    /// Does the mount of a member fail? True: this may be for what was done here, and nothing is lifted for a while.
    fn mounts(&mut self, sick: bool, now: Time) -> bool {
        let news = sick && !std::mem::replace(&mut self.sick, sick);
        self.sick = sick;
        let suspicious = news && self.changed_at.is_some_and(|at| now.since(at) < SUSPICIOUS);
        if suspicious {
            self.rests_until = Some(now + REST);
        }
        self.rests_until = self.rests_until.filter(|until| now < *until);
        suspicious
    }

    /// The view that is in force.
    fn in_view(&mut self, epoch: Epoch, now: Time) {
        if self.view.is_none_or(|(seen, _)| seen != epoch) {
            self.view = Some((epoch, now));
        }
    }

    /// Is a delay that is lifted to be put back only while all servers are there?
    fn patient(&self, now: Time) -> bool {
        self.calm_since.is_some_and(|since| now.since(since) < PATIENT)
    }

    fn may_lift(&self) -> bool {
        self.wanted && !self.sick && self.rests_until.is_none()
    }

    fn step(&mut self, part: Part, now: Time) -> Step {
        if part == Part::Nobody {
            *self = Self {
                read: self.read.take(),
                view: self.view,
                changed_at: self.changed_at,
                sick: self.sick,
                rests_until: self.rests_until,
                ..Self::new(self.wanted)
            };
            return Step::Rest(None);
        }
        let step = if part == Part::Moves && self.may_lift() {
            self.calm_since = None;
            match self.known {
                Some(PostOpDelay::Lifted { .. } | PostOpDelay::Absent) => return Step::Rest(None),
                Some(PostOpDelay::InForce { .. } | PostOpDelay::Marked) | None => match self.view {
                    Some((_, since)) if now < since + SETTLES => return Step::Rest(Some(since + SETTLES)),
                    _ => Step::Lift,
                },
            }
        } else {
            let calm_since = *self.calm_since.get_or_insert(now);
            match self.known {
                Some(PostOpDelay::InForce { .. } | PostOpDelay::Absent) => return Step::Rest(None),
                Some(PostOpDelay::Lifted { .. } | PostOpDelay::Marked) | None if now < calm_since + HOLD => {
                    return Step::Rest(Some(calm_since + HOLD));
                }
                Some(PostOpDelay::Lifted { .. } | PostOpDelay::Marked) | None => Step::PutBack,
            }
        };
        match self.again_at {
            Some(again) if now < again => Step::Rest(Some(again)),
            _ => {
                self.ours |= step == Step::Lift;
                self.going = step == Step::PutBack;
                step
            }
        }
    }

    /// The volume was read, by somebody who does so now and then.
    fn read(&mut self, delay: PostOpDelay) {
        // A command that was given up, here or at an earlier leader, may have been carried out since.
        self.ours |= delay.is_ours();
        // The administrator may have put one in force that was absent.
        let absent = |known: &PostOpDelay| *known == PostOpDelay::Absent && delay != PostOpDelay::Absent;
        if self.known.as_ref().is_some_and(|known| absent(known) || delay.is_ours() && !known.is_ours()) {
            self.known = None;
        }
        self.read = Some(delay);
    }

    fn done(&mut self, delay: PostOpDelay, now: Time) {
        if self.ours || delay.is_ours() {
            self.changed_at = Some(now);
        }
        (self.ours, self.going, self.in_vain) = (delay.is_ours(), false, false);
        (self.known, self.again_at, self.failures) = (Some(delay), None, 0);
    }

    fn failed(&mut self, step: Step, now: Time) {
        self.failures += 1;
        let pause = if self.failures < STAYS { SOON } else { AGAIN };
        (self.known, self.going, self.again_at) = (None, false, Some(now + pause));
        self.in_vain |= step == Step::Lift && self.failures >= STAYS;
    }

    /// It waits for a server that is starting, or away.
    fn postponed(&mut self, now: Time) {
        (self.known, self.going, self.again_at) = (None, false, Some(now + SOON));
    }

    /// Shall the core wait for the delay to be lifted?
    fn moves_wait(&self) -> bool {
        let delay = self.known.as_ref().or(self.read.as_ref());
        let lifted = !self.going && matches!(self.known, Some(PostOpDelay::Lifted { .. }));
        self.may_lift() && !self.in_vain && !lifted && delay.is_some_and(|delay| *delay != PostOpDelay::Absent)
    }
}

/// The task; dropping its future ends it.
#[derive(Debug)]
pub(crate) struct MovesTask {
    inbox: Inbox,
    facts: Facts,
    /// Empty: the storage is of another kind.
    volume: String,
    decision: Decision,
    told: Option<bool>,
    /// The standing warning; none: what an earlier task said of it.
    warned: Option<String>,
}

impl MovesTask {
    pub(crate) fn new(inbox: Inbox, facts: Facts, volume: String, wanted: bool) -> Self {
        Self { inbox, facts, volume, decision: Decision::new(wanted), told: None, warned: None }
    }

    /// Ends when the daemon does. `reads` is the volume as it is read now and then.
    pub(crate) async fn run(
        mut self,
        mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        mut reads: watch::Receiver<Option<Arc<Volume>>>,
    ) {
        if self.volume.is_empty() {
            // What an earlier configuration's task said is no longer so.
            return self.say();
        }
        loop {
            let (part, sick) = {
                let seen = snapshots.borrow_and_update();
                if let Some(view) = seen.as_deref().and_then(|snapshot| snapshot.view.as_ref()) {
                    self.decision.in_view(view.epoch, clock::now());
                }
                (Part::of(seen.as_deref(), clock::now()), seen.as_deref().is_some_and(sick))
            };
            if self.decision.mounts(sick, clock::now()) {
                tracing::warn!(
                    "a mount of volume {} fails just after its settings were changed for planned moves: they are left alone for \
                     {} minutes, and clients that write wait a second when their address moves",
                    self.volume,
                    REST.as_secs() / 60
                );
            }
            let step = self.decision.step(part, clock::now());
            self.say();
            let wake = match step {
                Step::Lift | Step::PutBack => {
                    self.act(step).await;
                    continue;
                }
                Step::Rest(wake) => wake,
            };
            let time = async {
                match wake {
                    Some(at) => sleep(at.since(clock::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                Ok(()) = reads.changed() => {
                    let delay = reads.borrow_and_update().as_deref().map(Volume::post_op_delay);
                    if let Some(delay) = delay {
                        self.decision.read(delay);
                    }
                }
                () = time => {}
            }
        }
    }

    async fn act(&mut self, step: Step) {
        let outcome = match step {
            Step::Lift => Volume::lift_post_op_delay(&self.volume, ASK).await,
            Step::PutBack | Step::Rest(_) => {
                let patient = self.decision.patient(clock::now());
                Volume::put_back_post_op_delay(&self.volume, ASK, patient).await
            }
        };
        match outcome {
            Ok(delay) => {
                if delay.is_ours() {
                    sleep(HEEDED).await;
                    tracing::info!("{} of volume {} is 0 while addresses move", post_op_delay::OPTION, self.volume);
                } else if self.decision.ours {
                    tracing::info!("{} of volume {} is as it was", post_op_delay::OPTION, self.volume);
                }
                self.decision.done(delay, clock::now());
            }
            // No fault, and soon over: the core knows how long each move may wait for it.
            Err(error @ VolumeError::Unsettled { .. }) => {
                tracing::debug!("the settings of volume {} wait: {error}", self.volume);
                self.decision.postponed(clock::now());
            }
            Err(error) => {
                let text = self.trouble(step, &error.to_string());
                if self.decision.failures == 0 {
                    tracing::warn!("{text}");
                }
                self.decision.failed(step, clock::now());
                if self.decision.failures >= STAYS {
                    self.warn(text);
                }
            }
        }
    }

    fn trouble(&self, step: Step, error: &str) -> String {
        let (option, volume) = (post_op_delay::OPTION, &self.volume);
        let again = AGAIN.as_secs();
        match step {
            Step::Lift => format!(
                "volume {volume} cannot be prepared for planned moves, so NFS clients that write stall for a second when \
                 their address moves: {error} (the moves go on; tried again every {again} s while they do)"
            ),
            _ if self.decision.ours => format!(
                "{option} of volume {volume} may still be 0 after planned moves, which makes writing in sequence slow: {error} \
                 (tried again every {again} s; by hand: {})",
                post_op_delay::by_hand(volume)
            ),
            _ => format!(
                "whether {option} of volume {volume} was changed for planned moves cannot be told: {error} (tried again \
                 every {again} s)"
            ),
        }
    }

    /// Tells the core and `status` what has changed.
    fn say(&mut self) {
        let wait = self.decision.moves_wait();
        if self.told.replace(wait) != Some(wait) {
            self.inbox.input(Input::MovesWait(wait));
        }
        if self.decision.failures == 0 {
            self.warn(String::new());
        }
        let delay = self.decision.known.as_ref().or(self.decision.read.as_ref());
        let lifted = delay.is_some_and(PostOpDelay::is_ours);
        self.facts.lifted(lifted.then(|| post_op_delay::OPTION.to_owned()));
    }

    fn warn(&mut self, text: String) {
        if self.warned.as_ref() != Some(&text) {
            self.inbox.input(Input::Warning { key: "planned moves".to_owned(), text: text.clone() });
            self.warned = Some(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(7_000_000);
    const MS: Duration = Duration::from_millis(1);

    fn in_force() -> PostOpDelay {
        PostOpDelay::InForce { set: None }
    }

    fn lifted() -> PostOpDelay {
        PostOpDelay::Lifted { before: None }
    }

    /// A leader that has looked once.
    fn calm() -> Decision {
        let mut d = Decision::new(true);
        d.read(in_force());
        assert_eq!(d.step(Part::Calm, START), Step::Rest(Some(START + HOLD)));
        assert_eq!(d.step(Part::Calm, START + HOLD), Step::PutBack, "whatever an earlier leader left");
        d.done(in_force(), START);
        assert_eq!(d.step(Part::Calm, START + HOLD), Step::Rest(None));
        d
    }

    #[test]
    fn a_series_of_moves_is_one_lift_and_one_way_back() {
        let mut d = calm();
        assert!(d.moves_wait());
        assert_eq!(d.step(Part::Moves, START + HOLD), Step::Lift);
        d.done(lifted(), START);
        assert!(!d.moves_wait());
        let end = START + Duration::from_secs(60);
        for (part, at) in
            [(Part::Moves, end), (Part::Calm, end), (Part::Moves, end + (HOLD - MS)), (Part::Moves, end + HOLD)]
        {
            assert!(matches!(d.step(part, at), Step::Rest(_)), "{part:?}");
        }
        let end = end + HOLD * 2;
        assert_eq!(d.step(Part::Calm, end), Step::Rest(Some(end + HOLD)));
        assert!(!d.moves_wait(), "the next move needs no wait either");
        assert_eq!(d.step(Part::Calm, end + HOLD), Step::PutBack);
        assert!(d.moves_wait(), "from here on it may be in force again at any time");
        d.done(in_force(), START);
        assert!(d.moves_wait());
        assert_eq!(d.step(Part::Calm, end + HOLD * 9), Step::Rest(None));
    }

    #[test]
    fn only_the_leader_acts_and_it_trusts_no_memory_of_an_earlier_time() {
        let mut d = calm();
        d.step(Part::Moves, START);
        d.done(lifted(), START);
        assert_eq!(d.step(Part::Nobody, START), Step::Rest(None));
        assert!(d.moves_wait(), "what it will find when it leads again, nobody knows");
        assert_eq!(d.step(Part::Moves, START), Step::Lift, "which asks glusterd first");
        d.done(lifted(), START);
        // Back, when a lift of an earlier leader that glusterd was slow with comes late.
        assert_eq!(d.step(Part::Calm, START), Step::Rest(Some(START + HOLD)));
        assert_eq!(d.step(Part::Calm, START + HOLD), Step::PutBack);
        d.done(in_force(), START);
        d.read(PostOpDelay::Marked);
        assert_eq!(d.step(Part::Calm, START + HOLD), Step::PutBack);
    }

    #[test]
    fn failures_keep_nobody_waiting_and_are_tried_again() {
        let mut d = calm();
        assert_eq!(d.step(Part::Moves, START), Step::Lift);
        d.failed(Step::Lift, START);
        assert!(d.moves_wait(), "glusterd may only be busy");
        assert_eq!(d.step(Part::Moves, START), Step::Rest(Some(START + SOON)));
        assert_eq!(d.step(Part::Moves, START + SOON), Step::Lift);
        d.failed(Step::Lift, START + SOON);
        assert!(!d.moves_wait());
        assert_eq!(d.failures, STAYS);
        assert_eq!(d.step(Part::Moves, START + SOON), Step::Rest(Some(START + (SOON + AGAIN))));
        assert_eq!(d.step(Part::Moves, START + (SOON + AGAIN)), Step::Lift);
        d.failed(Step::Lift, START + (SOON + AGAIN));
        // It may have been carried out: it is looked after though it failed.
        let end = START + AGAIN * 3;
        assert_eq!(d.step(Part::Calm, end), Step::Rest(Some(end + HOLD)));
        assert_eq!(d.step(Part::Calm, end + HOLD), Step::PutBack);
        assert!(d.ours);
        d.failed(Step::PutBack, end + HOLD);
        assert!(d.ours && !d.moves_wait());
        assert_eq!(d.step(Part::Calm, end + (HOLD + AGAIN)), Step::PutBack);
        d.done(in_force(), START);
        assert!(d.failures == 0 && d.moves_wait());
    }

    #[test]
    fn a_mount_that_fails_after_a_change_is_left_alone_for_a_while() {
        let mut d = calm();
        assert_eq!(d.step(Part::Moves, START), Step::Lift);
        d.done(lifted(), START);
        assert!(!d.mounts(false, START));
        assert!(d.mounts(true, START + MS), "it may be for the change");
        assert!(!d.mounts(true, START + MS * 2), "said once");
        // The way back is taken, whatever moves.
        assert_eq!(d.step(Part::Moves, START + HOLD), Step::Rest(Some(START + HOLD * 2)));
        assert_eq!(d.step(Part::Moves, START + HOLD * 2), Step::PutBack);
        d.done(in_force(), START + HOLD * 2);
        assert!(!d.moves_wait());
        assert!(!d.mounts(false, START + REST));
        assert_eq!(d.step(Part::Moves, START + REST), Step::Rest(None), "and nothing is lifted");
        assert!(!d.mounts(false, START + (REST + MS)));
        assert_eq!(d.step(Part::Moves, START + (REST + MS)), Step::Lift);
        // One that fails at another time has another reason; nothing is lifted while it does.
        d.done(lifted(), START);
        assert!(!d.mounts(true, START + REST * 2));
        assert!(!d.may_lift());
        assert!(!d.mounts(false, START + REST * 2));
        assert!(d.may_lift());
    }

    #[test]
    fn nothing_is_lifted_just_after_a_server_has_come_or_gone() {
        let mut d = calm();
        d.in_view(Epoch(7), START);
        assert_eq!(d.step(Part::Moves, START + MS), Step::Rest(Some(START + SETTLES)));
        assert!(d.moves_wait(), "the moves wait for it, as long as the core lets them");
        assert_eq!(d.step(Part::Nobody, START + MS), Step::Rest(None));
        d.in_view(Epoch(7), START + MS);
        assert_eq!(d.step(Part::Moves, START + SETTLES), Step::Lift, "who follows the leader has seen it too");
        d.done(lifted(), START + SETTLES);
        // What is lifted is put back, whoever comes.
        d.in_view(Epoch(8), START + SETTLES);
        assert!(!d.moves_wait());
        let end = START + SETTLES;
        assert_eq!(d.step(Part::Calm, end), Step::Rest(Some(end + HOLD)));
        assert_eq!(d.step(Part::Calm, end + HOLD), Step::PutBack);
        assert!(d.patient(end + HOLD));
        d.postponed(end + HOLD);
        assert_eq!(d.failures, 0, "nothing is wrong");
        assert!(d.moves_wait(), "and the moves go when the core has had enough");
        assert_eq!(d.step(Part::Calm, end + HOLD), Step::Rest(Some(end + (HOLD + SOON))));
        assert_eq!(d.step(Part::Calm, end + PATIENT), Step::PutBack);
        assert!(!d.patient(end + PATIENT), "a server that stays away is not waited for");
    }

    #[test]
    fn nothing_is_lifted_where_there_is_nothing_to_lift_or_nobody_wants_it() {
        let mut d = Decision::new(true);
        assert!(!d.moves_wait(), "the volume was not read yet");
        d.read(PostOpDelay::Absent);
        assert!(!d.moves_wait());
        d.step(Part::Moves, START);
        d.done(PostOpDelay::Absent, START);
        assert_eq!(d.step(Part::Moves, START), Step::Rest(None));
        assert_eq!(d.step(Part::Calm, START + HOLD * 9), Step::Rest(None));
        let mut off = Decision::new(false);
        off.read(in_force());
        assert!(!off.moves_wait());
        assert_eq!(off.step(Part::Moves, START), Step::Rest(Some(START + HOLD)));
        assert_eq!(off.step(Part::Moves, START + HOLD), Step::PutBack, "of a time when it was wanted");
        off.done(in_force(), START);
        assert_eq!(off.step(Part::Moves, START + HOLD), Step::Rest(None));
        // The administrator has put one in force since.
        d.read(PostOpDelay::Absent);
        assert_eq!(d.step(Part::Calm, START + 20 * SETTLES), Step::Rest(None));
        d.read(in_force());
        assert!(d.moves_wait());
        assert_eq!(d.step(Part::Moves, START + 20 * SETTLES), Step::Lift);
    }
}
