//! The guard: a small process beside the daemon that outlives it by milliseconds.
//!
//! ```text
//!   daemon ── keeper's thread ── socket pair ──> guard (own session, own cgroup, memory locked)
//!              addresses, sealed words              │ the socket ends without a goodbye: the daemon is dead
//!                                                   ├─ empties the gate's set, removes the addresses
//!                                                   └─ sends the peers the words that the daemon sealed
//! ```
//!
//! What it says is a [`cluster::GuardWord`] under the keys of the daemon's links, for this run of the daemon: nobody
//! else can make one, and it means no other run. It is only sent when the daemon's process has ended and every address is
//! off the interfaces. A lock file that daemon and guard hold together makes the next daemon wait until both have
//! ended: a late guard never takes a new daemon's addresses.

mod keeper;
mod lock;
mod order;
mod process;

pub(crate) use keeper::{Guard, Keeper, channel};
pub(crate) use lock::GuardLock;
pub(crate) use order::SealedWord;
pub use process::run;
