//! Bugs on purpose, for tests: each leaves out one rule, and a checker that does not notice is no checker.
//!
//! Only there with the feature `planted` and in this crate's own tests; the product is built without. A bug is planted
//! for the calling thread, so that tests beside each other stay whole.

#![cfg_attr(not(feature = "planted"), allow(unreachable_pub))]

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// A voter that accepted the next view goes on granting leases under this one.
    GrantsAfterAccept,
    /// A promise does not say what was accepted before.
    AcceptedUntold,
    /// The oldest of the values that were accepted before is taken over, not the newest.
    OldestValue,
    /// An accept is obeyed though a higher ballot was promised.
    AcceptBelowPromise,
    /// Votes are told before they are on disk.
    VoteBeforeDisk,
    /// A value is proposed before the proposer's own promise is on disk: after a crash it can use the ballot again.
    BallotUsedTwice,
    /// Half of the voters are a quorum, without the lock.
    HalfIsEnough,
    /// Nodes that are no voters of the view vote.
    AnybodyVotes,
    /// Grants of half of the voters are a lease.
    LeaseByHalf,
    /// A higher ballot beside the lock does not stop a proposer.
    HigherRecordIgnored,
    /// What others wanted accepted beside the lock is not taken over.
    RecordValueIgnored,
    /// The lock has no memory: whoever holds it has half a vote.
    LockWithoutMemory,
    /// An address is given to a node before the one that had it has released it.
    TakeBeforeRelease,
    /// An address is no longer reported as held while it is still being released.
    ReleaseSaidEarly,
    /// The leases of nodes that a view dropped are not waited for.
    OldLeaseNotAwaited,
    /// Addresses move before all members have shut the dropped nodes out of the storage.
    EvictionNotAwaited,
    /// Orders of an older epoch are obeyed.
    OldOrdersObeyed,
    /// Every member leads.
    AllLead,
    /// A node that one other does not hear is out, whatever the others say.
    OutOnOneWord,
    /// A lease counts from the arrival of the grant, not from what it answers.
    LeaseFromArrival,
    /// A lease of the view before goes on under a new one that this run is no member of.
    LeaseOutlivesView,
    /// Addresses that could stay are placed anew.
    MovesTooMany,
    /// An address that an administrator has moved is placed again as if nobody had.
    PinForgotten,
    /// What was to leave a sick node leaves it though it is fit again before it has heard so.
    NotReconsidered,
    /// Addresses that nobody serves wait for the storage to be prepared for planned moves.
    EverythingWaits,
    /// A member that is no longer in the nodes list is dropped, and not shut out of the storage.
    RemovedNotEvicted,
    /// Lost nodes are shut out of the storage before the NFS servers of all members are in their grace period.
    GraceNotAwaited,
    /// An address by which NFS clients hold locks moves before all members' NFS servers are in their grace period.
    MoveGraceNotAwaited,
    /// It is given to the next node before the old one's NFS server has let go of those locks.
    LetGoNotAwaited,
    /// An address that is still being taken, and is wanted elsewhere, leaves at once.
    TakingLeavesAtOnce,
    /// The time in which a daemon stood still counts as time that its NFS server had to let go, before it was asked to.
    WaitsWhileStanding,
    /// What a lost node had of NFS clients is forgotten when it is heard of again, started anew, before a view has dropped it.
    ClientsOfLastRunForgotten,
    /// An NFS server that hangs when an address leaves it is not ended.
    HungServerLivesOn,
    /// Nor is one that is found to hang a moment later.
    HungServerForgotten,
    /// Addresses leave an NFS server that has not proved that it answers.
    ProofNotAwaited,
    /// An address that a node has lost with its lease counts as released, whatever servers there have in hand.
    LostCountsAsReleased,
    /// So does one that nobody took before the daemon was stopped, while its services still run.
    StopCountsAsReleased,
    /// What servers proved before the lease was lost counts after.
    ProofOutlivesLease,
    /// A node is taken for deserted as soon as it has no address, whoever serves them.
    DesertedTooEarly,
    /// A node is taken for deserted when others serve one of its addresses.
    DesertedByOne,
    /// A node is taken for deserted when one of its public interfaces is down.
    DesertedByHalf,
    /// What a node said under an older view, or before it fell silent, counts for who serves a deserted node's addresses.
    DesertedByOldReport,
    /// A node that comes back keeps what clients of the others held of its storage before they shut it out.
    StorageNotFreed,
    /// A member counts as one that has everything that was committed as soon as it has learned of a view.
    RecoveryNotAwaited,
    /// A restarted voter forgets that it may have granted before.
    GrantsForgotten,
}

#[cfg(any(test, feature = "planted"))]
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

#[cfg(any(test, feature = "planted"))]
pub use switch::plant;
#[cfg(any(test, feature = "planted"))]
pub(crate) use switch::planted;

#[cfg(not(any(test, feature = "planted")))]
pub(crate) const fn planted(_bug: Planted) -> bool {
    false
}
