//! Holds of this node's own storage clients: nobody's health is judged by what hangs in them.
//!
//! A node without a lease is held by its kernel, and everything that asks the shared filesystem waits. That says nothing of the
//! filesystem or the services: were they called failed for it, addresses would move as soon as the lease is back, and what
//! they leave would be ended for hanging.

use std::time::{Duration, Instant};

/// For so long after a hold a failed probe says nothing yet. TCP sends again after 0.2, 0.6, 1.4, 3, 6.2 and 12.6 s: what has waited
/// for up to 6.2 s goes on within this time, and most of what has waited longer. With the probes that follow (2.7 s) it is less than
/// the ten seconds for which the core remembers which addresses have left (`cluster::LEFT_HANGING`).
const AFTER: Duration = Duration::from_millis(6500);
/// A probe whose end is noticed so much later than it was due was not at fault: this daemon stood still, or was stopped.
const LATE: Duration = Duration::from_millis(500);

/// The newest hold, if there was one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    since: Option<Instant>,
    until: Option<Instant>,
}

impl Hold {
    /// Everything waits from now on. True if that is news.
    pub fn begin(&mut self, now: Instant) -> bool {
        let news = !self.lasts();
        if news {
            *self = Self { since: Some(now), until: None };
        }
        news
    }

    /// What waits goes on. True if that is news.
    pub fn end(&mut self, now: Instant) -> bool {
        let news = self.lasts();
        if news {
            self.until = Some(now);
        }
        news
    }

    /// Does it last?
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.since.is_some() && self.until.is_none()
    }

    /// Why a probe's failure at `now` says nothing of what has been watched since `begun`.
    pub(crate) fn excuse(&self, begun: Instant, now: Instant) -> Option<&'static str> {
        // What was begun in a hold has not been seen well before it.
        self.since.filter(|since| *since > begun)?;
        match self.until {
            None => Some("this node has no lease, so its storage clients are held"),
            Some(until) if now.saturating_duration_since(until) < AFTER => {
                Some("this node's storage clients were held until a moment ago")
            }
            Some(_) => None,
        }
    }
}

/// Was the end of a probe that was `due` after it began noticed so late that nobody but this daemon can be blamed?
pub(crate) fn noticed_late(began: Instant, due: Duration, now: Instant) -> bool {
    now.saturating_duration_since(began) > due + LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn failures_in_a_hold_and_a_moment_after_it_say_nothing() {
        let begun = Instant::now();
        let mut hold = Hold::default();
        assert!(!hold.lasts() && hold.excuse(begun, begun + ms(1)).is_none());
        assert!(!hold.end(begun), "there was none");
        assert!(hold.begin(begun + ms(10)) && !hold.begin(begun + ms(20)), "one that lasts does not begin");
        assert!(hold.lasts() && hold.excuse(begun, begun + ms(100_000)).is_some());
        assert!(hold.end(begun + ms(3000)) && !hold.end(begun + ms(4000)));
        assert!(!hold.lasts() && hold.excuse(begun, begun + ms(9499)).is_some());
        assert!(hold.excuse(begun, begun + ms(9500)).is_none());
        assert!(hold.begin(begun + ms(10_000)) && hold.excuse(begun, begun + ms(10_001)).is_some(), "the next one");
    }

    #[test]
    fn what_begins_in_a_hold_has_to_show_that_it_is_well() {
        let begun = Instant::now();
        let mut hold = Hold::default();
        hold.begin(begun);
        assert!(hold.excuse(begun, begun + ms(1)).is_none());
        hold.end(begun + ms(2));
        assert!(hold.excuse(begun + ms(1), begun + ms(3)).is_none());
    }

    #[test]
    fn a_deadline_that_is_noticed_late_is_nobody_elses_fault() {
        let began = Instant::now();
        assert!(!noticed_late(began, ms(1000), began + ms(1500)));
        assert!(noticed_late(began, ms(1000), began + ms(1501)));
    }
}
