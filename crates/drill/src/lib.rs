//! The drill: a fault on purpose, and what clients see of it.
//!
//! [`clients`] are small clients, one thread each: ping, TCP, an NFSv3 writer and an SMB client. They note each
//! operation's time and every stall. [`conduct`] lets them run, has a [`Stage`] inflict the [`Fault`] and mend it, waits
//! until all is well again, and makes the [`Report`]: a table, JSON, or a timeline as SVG. The stage is a live cluster
//! (the `steadfast drill` command) or the laboratory.

pub mod clients;
mod conduct;
mod fault;
pub mod inflict;
mod report;
mod stats;
mod svg;

pub use conduct::{Clients, Plan, Stage, conduct};
pub use fault::Fault;
pub use report::{Marks, Report};
pub use stats::percentile;

/// CLOCK_MONOTONIC in microseconds: the same in all programs of a machine, also across network namespaces.
#[must_use]
pub fn now_us() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1000
}
