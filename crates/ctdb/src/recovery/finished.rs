//! When a node has everything that was committed: the recovery of its view is finished, and that is on its disk.
//!
//! Only such a node may be all that a later view has. One that was let in a moment ago has files of before. Even with the
//! newest content they would lose, in a later recovery, to somebody's old copies with newer notes ([`super::Content`]).

use super::word::Generation;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// The leader has not said that all databases have gone on.
    #[default]
    Recovers,
    /// It has; this node may have yet to note it.
    Everywhere,
    /// Here too, and that was said.
    Here,
}

/// How far the recovery of this node's view is.
#[derive(Debug, Default)]
pub(super) struct Finished {
    step: Step,
    /// The last recovery after which each database with transactions went on, as it is on disk.
    noted: BTreeMap<u32, Generation>,
}

impl Finished {
    /// A new view, or none.
    pub(super) fn begin(&mut self) {
        self.step = Step::Recovers;
    }

    /// The leader says that all databases have gone on.
    pub(super) fn everywhere(&mut self) {
        if self.step == Step::Recovers {
            self.step = Step::Everywhere;
        }
    }

    /// That a database went on after this recovery is on disk. It may be recovered again by now: what it had then it has still.
    pub(super) fn noted(&mut self, db: u32, generation: Generation) {
        let last = self.noted.entry(db).or_default();
        *last = generation.max(*last);
    }

    /// Is it finished here now? Once in a view. `kept`: the databases with transactions that this node has.
    pub(super) fn is_news(&mut self, epoch: u64, mut kept: impl Iterator<Item = u32>) -> bool {
        let noted = |db: u32| self.noted.get(&db).is_some_and(|last| last.epoch == epoch);
        let news = self.step == Step::Everywhere && kept.all(noted);
        if news {
            self.step = Step::Here;
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_recovered_when_all_databases_are_noted_and_the_leader_has_said_that_there_are_no_more() {
        let noted = |epoch, attempt| Generation { epoch, attempt };
        let mut finished = Finished::default();
        finished.begin();
        finished.noted(1, noted(3, 1));
        assert!(!finished.is_news(3, [1].into_iter()), "there may be others");
        finished.everywhere();
        assert!(!finished.is_news(3, [1, 2].into_iter()), "one of them is not noted");
        finished.noted(2, noted(3, 2));
        finished.noted(2, noted(2, 9));
        assert!(finished.is_news(3, [1, 2].into_iter()));
        finished.everywhere();
        assert!(!finished.is_news(3, [1, 2].into_iter()), "that was said");
        finished.begin();
        finished.everywhere();
        assert!(!finished.is_news(4, [1, 2].into_iter()), "notes of the view before");
        assert!(finished.is_news(4, [].into_iter()), "no databases");
    }
}
