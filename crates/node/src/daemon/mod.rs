//! The daemon: wires the cluster core to sockets, clocks, disks and services, in the right order, and ends them.
//!
//! ```text
//!               peers (links, heartbeats)      net worker        admin socket, signals
//!                        │  ▲                    │  ▲                │
//!                  Input ▼  │ Send…        Event ▼  │ Command        ▼ Input
//!   ┌─────────────────────────── core's thread: Cluster::handle ───────────────────────────┐
//!   └──┬──────────────┬──────────────┬──────────────┬──────────────────┬─────────────────┬─┘
//!      ▼ Persist      ▼ Lock         ▼ Serve        ▼ Publish          ▼ Event           ▼ LockUsable…
//!   votes' thread   lock task     services task   DNS, admin (watch)  timeline's thread  storage task
//! ```
//!
//! The core's thread never waits for anything but its inbox and its own next timeout; everything that can hang (the
//! mount, a disk, a client, glusterd) is on the other side of a queue. What it does not do: decide anything.

mod check;
mod core;
mod databases;
mod disk;
mod dns;
mod effects;
mod eventd;
mod events;
mod evict;
mod facts;
mod handler;
mod heals;
mod held;
mod inbox;
mod lists;
mod lock;
mod moves;
mod newcomers;
mod nfs;
mod nfs_anew;
mod nfs_moves;
mod nfs_ways;
mod origin;
mod run;
mod services;
mod site;
mod smb_witness;
mod start;
mod storage;
mod tickles;
mod time_of_day;
pub mod timeline;
mod wall_clocks;
mod without;

pub(crate) use inbox::Inbox;
pub use origin::Origin;
pub use run::{Options, run};
pub use start::{fence, release_all};
pub use without::Without;

/// Directory of the admin socket and of what need not survive a restart of the machine.
pub const DEFAULT_RUN_DIR: &str = "/run/steadfast";
