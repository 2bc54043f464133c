//! Bugs on purpose, for tests: each leaves out one rule, and a checker that does not notice is no checker.
//!
//! As in the `cluster` crate: only there with the feature `planted`; the product is built without. A bug is planted for
//! the calling thread.

#![cfg_attr(not(feature = "planted"), allow(unreachable_pub))]

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// A process on a node that was dropped is called dead before that node can do no harm any more.
    DeadTooEarly,
    /// A location master decides without what the last member has.
    MemberForgotten,
    /// The highest sequence number does not win in a recovery.
    NewestNotPreferred,
    /// Who takes itself for the holder of a record and is not is not told in a recovery.
    StaleHolderKept,
    /// Whoever was not in a recovery keeps the records that it has from before.
    StaleCopiesKept,
    /// A record's sequence number does not grow when it changes hands.
    RsnNotRaised,
    /// A transaction is acknowledged before the last member has it.
    EarlyCommit,
    /// Persistent databases are not brought to the same content.
    ContentsDiffer,
    /// Databases go on before nodes that were dropped can do no harm any more.
    HarmNotAwaited,
    /// A traverse leaves out one member.
    TraverseMissesMember,
    /// Words that were lost with a link are not made up for.
    LostWordsForgotten,
    /// Samba's processes are not disconnected when their node is dropped.
    ProcessesKept,
    /// Copies that others read are not taken back before a record is changed.
    RevocationSkipped,
    /// A member that is stopped goes on holding records.
    IdleHolds,
    /// A recovery leaves copies to be read as they are.
    CopiesOutliveRecovery,
    /// A message between processes that comes while there is no lease is delivered at once, and again when there is one.
    MessageTwice,
    /// A message between processes that comes while there is no lease is thrown away.
    MessagesDropped,
    /// What was held while there was no lease is taken newest first.
    MessagesOvertake,
    /// Messages that are held for want of a lease are forgotten when the view changes.
    MessagesForgotten,
    /// A process hears that an address leaves while it waits for an answer about life.
    AddressBeforeAnswer,
    /// A process hears that its address leaves whatever it is doing.
    AddressWhileBusy,
    /// A database that is replaced by hand goes on before the last member has the new content.
    WipeForgetsMember,
    /// A database that is wiped keeps what it had: there is nothing to write.
    WipeWritesNothing,
    /// A database is detached before the last member has said that nobody uses it.
    DetachForgetsMember,
    /// A member that was elsewhere while a database was detached brings it back.
    DetachedComesBack,
    /// A database that is to be replaced is not let go when who replaces it has died.
    RestoreNotUndone,
}

#[cfg(feature = "planted")]
mod switch {
    use super::Planted;
    use std::cell::Cell;

    thread_local! {
        static BUG: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Plants a bug for this thread, or takes it out again.
    pub fn plant(bug: Option<Planted>) {
        BUG.set(bug);
    }

    pub(crate) fn planted(bug: Planted) -> bool {
        BUG.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use switch::plant;
#[cfg(feature = "planted")]
pub(crate) use switch::planted;

#[cfg(not(feature = "planted"))]
pub(crate) const fn planted(_bug: Planted) -> bool {
    false
}
