//! One clustered database on one node: who has a record, and how it comes here.

mod commit;
mod migration;
mod rules;

pub use commit::{Change, CommitOutput, Commits, ENDED_BY_RECOVERY, Under};
pub use migration::{Caller, Function, Message, Migration, Output, Token, Write};
pub use rules::{Stored, recovered, store};

/// What kind of database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Records move between the nodes; gone when the last Samba ends.
    Volatile,
    /// Every node has all of it on disk; changed by transactions.
    Persistent,
    /// Every node has all of it, but it does not outlive the last node; changed by transactions.
    Replicated,
}
