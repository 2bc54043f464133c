//! Arbitration, exhaustively: every interleaving of a bounded number of attempts and crashes on 2 to 4 nodes.
//!
//! What is driven is the product's own [`Arbiter`] and [`crate::lease::Lease`], not a copy of their rules. Asynchronous:
//! a message, a write to disk, an exchange beside the lock can happen at any time after it was begun or never, so loss,
//! delay, cuts, hung disks and hung locks are all in it. The lock is believed to be held by anybody at any time. Time
//! stands still: a lease ends when its grants stop, that is, the waits of the core are taken as kept (the simulator
//! looks at those); what is looked at here is who may decide and who may grant.

mod explore;
mod safe;
mod state;
mod stuck;
mod weaker;

pub(crate) use stuck::config;
