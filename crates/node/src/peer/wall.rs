//! How far a peer's wall clock is from this node's, told from the questions and answers that keep a link alive.
//!
//! Nothing that the cluster decides rests on wall clocks. Files do: GlusterFS tells by a file's times whether what a
//! server has cached of it is still right (docs/storage.md).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Answers that one reading takes; of these the one that came soonest counts, since it can be least wrong.
const ANSWERS: u32 = 16;

/// A peer's wall clock beside this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// By how much it is ahead, in microseconds; negative: behind.
    pub ahead_us: i64,
    /// How wrong that may be at most, in microseconds: half the time that the answer took.
    pub within_us: i64,
}

/// Nanoseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What is heard of one peer's clock over one link.
#[derive(Debug, Default)]
pub(super) struct Listener {
    best: Option<WallClock>,
    heard: u32,
}

impl Listener {
    /// One answer: when it was asked for and when it came, by this node's clock, and what the peer's said in between,
    /// in nanoseconds since 1970. Gives a reading every 16 answers. An answer from before its question (this node's
    /// clock was set back meanwhile) tells nothing.
    pub(super) fn answer(&mut self, asked: u64, theirs: u64, came: u64) -> Option<WallClock> {
        let took = came.checked_sub(asked)?;
        let us = |ns: i128| i64::try_from(ns / 1000).unwrap_or(i64::MAX);
        let middle = i128::from(asked) + i128::from(took / 2);
        // A microsecond more, for what is cut off.
        let clock = WallClock {
            ahead_us: us(i128::from(theirs) - middle),
            within_us: us(i128::from(took / 2)).saturating_add(1),
        };
        if self.best.is_none_or(|best| clock.within_us < best.within_us) {
            self.best = Some(clock);
        }
        self.heard += 1;
        if self.heard < ANSWERS {
            return None;
        }
        self.heard = 0;
        self.best.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_answer_that_came_soonest_counts() {
        let mut listener = Listener::default();
        for n in 0..u64::from(ANSWERS) - 1 {
            // The peer is 40 ms ahead; its answers come slowly, and most of the time goes by on the way back.
            let asked = 1_000_000 * MS + n * 600 * MS;
            assert_eq!(listener.answer(asked, asked + 41 * MS, asked + (20 + n) * MS), None);
        }
        let asked = 2_000_000 * MS;
        let read = listener.answer(asked, asked + 40 * MS + MS / 2, asked + MS).expect("a reading");
        assert_eq!(read, WallClock { ahead_us: 40_000, within_us: 501 });
        // The next reading begins anew.
        for _ in 1..ANSWERS {
            assert_eq!(listener.answer(asked, asked - 7 * MS, asked + 2 * MS), None);
        }
        let read = listener.answer(asked, asked - 7 * MS, asked + 2 * MS).expect("a reading");
        assert_eq!(read, WallClock { ahead_us: -8_000, within_us: 1_001 });
    }

    #[test]
    fn clocks_that_jump_or_lie_are_no_panic() {
        let mut listener = Listener::default();
        assert_eq!(listener.answer(5, 7, 3), None);
        for _ in 0..ANSWERS {
            listener.answer(0, u64::MAX, u64::MAX);
        }
        for _ in 0..ANSWERS {
            listener.answer(u64::MAX, 0, u64::MAX);
        }
    }
}
