//! Samba's own tests of servers (`smbtorture`, Debian's samba-testsuite) against two clusters: the same smbd on Debian's CTDB
//! and on this daemon.
//!
//! [`list`] says which tests there are and how each is run; [`stand`] runs them in a laboratory, [`ran`] reads what they
//! print; [`drive`] is such a laboratory's work, [`plan`] what happens outside: both laboratories, what is done again, what
//! is kept. [`known`] are the differences that are accepted, with their reasons; [`report`] counts and judges.

mod drive;
mod known;
mod list;
pub(crate) mod plan;
mod ran;
mod report;
mod stand;

pub(crate) use drive::main as drive;
pub(crate) use list::{Kind, Test, all, find};
pub(crate) use ran::Ran;
pub(crate) use stand::Stand;

use serde::{Deserialize, Serialize};
use std::fmt;

/// What one run of a test said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Pass,
    Fail,
    /// The test does not apply here, by its own word.
    Skip,
    /// Its time was over.
    Timeout,
    /// It ended without a word.
    Broken,
    /// It had no connection to be tested, or lost it.
    Unconnected,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Unconnected => "no connection",
        })
    }
}

/// Under what a test ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Column {
    Ctdb,
    Steadfast,
    /// This daemon, and the line that it writes against multi-channel taken back: only tests that are known to differ for it.
    MultiChannel,
}

/// A test and what its runs have said, the first one first; the raw file has one of these on a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) test: String,
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ctdb: Vec<Outcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) steadfast: Vec<Outcome>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) multi_channel: Vec<Outcome>,
}

impl Row {
    pub(crate) fn runs(&self, column: Column) -> &[Outcome] {
        match column {
            Column::Ctdb => &self.ctdb,
            Column::Steadfast => &self.steadfast,
            Column::MultiChannel => &self.multi_channel,
        }
    }

    fn runs_mut(&mut self, column: Column) -> &mut Vec<Outcome> {
        match column {
            Column::Ctdb => &mut self.ctdb,
            Column::Steadfast => &mut self.steadfast,
            Column::MultiChannel => &mut self.multi_channel,
        }
    }

    /// Some tests depend on time: one run in which it passed is enough.
    pub(crate) fn verdict(&self, column: Column) -> Option<Outcome> {
        let runs = self.runs(column);
        runs.iter().find(|o| **o == Outcome::Pass).or_else(|| runs.last()).copied()
    }

    /// Do both say the same, as far as both have been asked? What does not pass is one, however it ends.
    pub(crate) fn differs(&self) -> bool {
        let passes = |column| self.verdict(column).map(|o| o == Outcome::Pass);
        matches!((passes(Column::Ctdb), passes(Column::Steadfast)), (Some(a), Some(b)) if a != b)
    }
}
