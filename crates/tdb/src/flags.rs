//! Flags of an open database, with the numbers that CTDB tells its clients.

use std::ops::BitOr;

/// A set of flags. Unknown ones are kept and have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    /// Empty the file unless another handle with this flag has it open.
    pub const CLEAR_IF_FIRST: Self = Self(0x1);
    /// No locks: for a file that nobody else uses, or under a lock on all records that the caller has elsewhere.
    pub const NO_LOCK: Self = Self(0x4);
    /// Transactions stand a killed process, but not a lost machine: nothing waits for the disk.
    pub const NO_SYNC: Self = Self(0x40);
    /// Writes change the sequence number.
    pub const SEQNUM: Self = Self(0x80);
    /// Keep up to five deleted records in each chain.
    pub const VOLATILE: Self = Self(0x100);
    /// A transaction within a transaction is an error. It always is here.
    pub const DISALLOW_NESTING: Self = Self(0x400);
    /// A new file uses lookup3.
    pub const INCOMPATIBLE_HASH: Self = Self(0x800);
    /// Mutexes instead of file locks: refused here.
    pub const MUTEX_LOCKING: Self = Self(0x1000);

    /// What CTDB gives its volatile and replicated databases, without mutexes: 0xC41.
    pub const CTDB_VOLATILE: Self = Self(0xc41);
    /// What CTDB gives its persistent databases: 0x400.
    pub const CTDB_PERSISTENT: Self = Self(0x400);

    /// Whether all of `flags` are set.
    #[must_use]
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
