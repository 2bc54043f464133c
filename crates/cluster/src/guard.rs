//! What the guards of dead daemons said.
//!
//! A guard outlives its daemon by milliseconds: it takes the node's addresses away and says so by a word that the
//! daemon had sealed for it. So the word means: that run of the daemon is dead and nothing answers under its leases any
//! more. It says nothing of the node's storage clients; those are shut out as those of any lost node. Runs of a node
//! follow each other, and a run is dead for ever: a late or repeated word says nothing of a later one.

use crate::{GuardWord, Pnn, RunId};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(crate) struct Guards {
    /// The newest word of each node.
    words: BTreeMap<Pnn, GuardWord>,
    /// The runs that a view dropped, where no later run of the node can have served since.
    dropped: BTreeMap<Pnn, RunId>,
}

impl Guards {
    /// Takes a word. False if it was known.
    pub(crate) fn hear(&mut self, from: Pnn, word: &GuardWord) -> bool {
        self.words.insert(from, word.clone()).as_ref() != Some(word)
    }

    /// Is this run of the node dead, its addresses gone?
    pub(crate) fn gone(&self, pnn: Pnn, run: RunId) -> bool {
        self.words.get(&pnn).is_some_and(|w| w.run == run)
    }

    /// A view that follows `old` directly has dropped the node's member of that view.
    pub(crate) fn dropped(&mut self, pnn: Pnn, run: RunId) {
        self.dropped.insert(pnn, run);
    }

    /// It is a member again, or may have been one in a view that this node has not seen.
    pub(crate) fn unknown(&mut self, pnn: Pnn) {
        self.dropped.remove(&pnn);
    }

    /// Has the guard of the run that was dropped spoken? Then nothing is left of the node to wait for.
    pub(crate) fn released(&self, pnn: Pnn) -> bool {
        self.dropped.get(&pnn).is_some_and(|run| self.gone(pnn, *run))
    }
}
