//! Planned moves: addresses that leave a node which serves them well, one or many of them in a row.
//!
//! Some storage makes a client wait that writes through one node just after it wrote through another. Where it can be
//! prepared for that, the driver says so ([`Input::MovesWait`](crate::Input::MovesWait)), the leader publishes that such
//! moves are ahead ([`Snapshot::planned_moves`](crate::Snapshot::planned_moves)), and the first of them waits until it is
//! done, has failed, or has taken too long. Nothing else ever waits for it: an address that is not served where it is has
//! clients that wait already.

use crate::Time;
use std::time::Duration;

/// So long the first of a series waits at most. GlusterFS takes 0.2 to 0.4 s on a quiet machine, and several seconds
/// where it has many bricks or slow disks.
const PREPARE: Duration = Duration::from_secs(5);
/// The same off a node whose daemon is being stopped: that gives its clients up before long, moved or not.
const PREPARE_LEAVING: Duration = Duration::from_secs(1);
/// The same of moves for an even spread, which nobody is in need of: the storage may want to be left alone for a while after
/// a server has come back.
const PREPARE_SPREAD: Duration = Duration::from_secs(30);
/// Moves that are further apart than this are a series each.
const APART: Duration = Duration::from_secs(10);

/// Why a planned move is to go: how long it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// For an even spread.
    Spread,
    /// An administrator wants it.
    Ordered,
    /// The daemon of the node that it leaves is being stopped.
    Leaving,
}

impl Reason {
    pub(crate) fn of(ordered: bool, leaving: bool) -> Self {
        match (leaving, ordered) {
            (true, _) => Self::Leaving,
            (false, true) => Self::Ordered,
            (false, false) => Self::Spread,
        }
    }

    fn patience(self) -> Duration {
        match self {
            Self::Spread => PREPARE_SPREAD,
            Self::Ordered => PREPARE,
            Self::Leaving => PREPARE_LEAVING,
        }
    }
}

/// The leader's planned moves of the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    ahead: bool,
    /// When the first of them could have gone.
    since: Option<Time>,
    /// When the wait of those that wait is over.
    until: Option<Time>,
}

impl Series {
    /// Before a look at all addresses.
    pub(crate) fn begin(&mut self) {
        self.ahead = false;
        self.until = None;
    }

    /// After it.
    pub(crate) fn end(&mut self) {
        if !self.ahead {
            self.since = None;
        }
    }

    /// A planned move waits for its turn, which comes `pause` after the one before.
    pub(crate) fn queued(&mut self, pause: Duration) {
        self.ahead |= pause <= APART;
    }

    /// May a planned move go now whose turn it is? `wait`: the storage is not prepared for it, and may be soon.
    pub(crate) fn may_go(&mut self, now: Time, wait: bool, reason: Reason) -> bool {
        self.ahead = true;
        let since = *self.since.get_or_insert(now);
        let until = since + reason.patience();
        if !wait || now >= until {
            return true;
        }
        self.until = Some(self.until.map_or(until, |t| t.min(until)));
        false
    }

    /// Is any planned move due, or soon?
    pub(crate) fn ahead(&self) -> bool {
        self.ahead
    }

    /// When to look again though nothing happens.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time(5_000_000);
    const MS: Duration = Duration::from_millis(1);

    fn look(series: &mut Series, now: Time, wait: bool, reason: Reason) -> bool {
        series.begin();
        let go = series.may_go(now, wait, reason);
        series.end();
        go
    }

    #[test]
    fn the_first_of_a_series_waits_and_not_for_ever() {
        let mut series = Series::default();
        assert!(!look(&mut series, START, true, Reason::Ordered));
        assert_eq!(series.next_timeout(), Some(START + PREPARE));
        assert!(series.ahead());
        assert!(!look(&mut series, START + (PREPARE - MS), true, Reason::Ordered));
        assert!(look(&mut series, START + PREPARE, true, Reason::Ordered));
        assert_eq!(series.next_timeout(), None, "nobody is woken at once again, for ever");
        // The second one waits for its turn, and not for the storage once more.
        series.begin();
        series.queued(APART);
        series.end();
        assert!(look(&mut series, START + APART, true, Reason::Ordered));
        // The next series does.
        series.begin();
        series.end();
        assert!(!series.ahead());
        assert!(!look(&mut series, START + APART, true, Reason::Ordered));
    }

    #[test]
    fn what_is_prepared_goes_at_once_and_a_leaving_node_is_not_kept_for_long() {
        assert!(look(&mut Series::default(), START, false, Reason::Ordered));
        let mut series = Series::default();
        assert!(!look(&mut series, START, true, Reason::Leaving));
        assert_eq!(series.next_timeout(), Some(START + PREPARE_LEAVING));
        assert!(look(&mut series, START + PREPARE_LEAVING, true, Reason::Leaving));
        let mut series = Series::default();
        assert!(!look(&mut series, START + (PREPARE_SPREAD - MS), true, Reason::Spread), "its wait begins here");
        assert!(!look(&mut series, START + (PREPARE_SPREAD + PREPARE), true, Reason::Spread));
        assert!(look(&mut series, START + (PREPARE_SPREAD + PREPARE_SPREAD), true, Reason::Spread));
        series.begin();
        series.queued(APART + MS);
        series.end();
        assert!(!series.ahead(), "a move a minute does not keep the storage prepared all the time");
    }
}
