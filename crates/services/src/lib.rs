//! Samba, the NFS server and the shared mount of one node: start, probe, restart, stop.
//!
//! The daemon tells [`Manager`] through a watch channel whether this node may serve ([`Serve`]) and reads
//! what became of it as [`Report`]s. One task per service owns its process, its probe and its health:
//!
//! ```text
//!   Serve ──> Manager ──> storage: ensure_mounted ── watch ── unmount
//!                │ On: storage first, services after; Off: services gone first, storage after
//!                └──> one task per service:  Supervisor (process or unit)  Health (damping)  probe
//!                                                       └────────── Report ──────────> daemon
//! ```
//!
//! CTDB's event scripts are run beside that, by a task of their own ([`events`]).
//!
//! What it does not do: decide about addresses (a [`State::Failed`] report is only an input of the cluster
//! core), or touch the shared filesystem itself: a call into a hung mount never returns,
//! so probes here use sockets only and everything that touches the mount lives in killable helpers
//! ([`storage`]).

pub mod config;
pub mod events;
pub mod ganesha;
mod hanging;
pub mod health;
mod hold;
mod kind;
pub mod manager;
pub mod nfs_state;
pub mod output;
mod parts;
pub mod probe;
pub mod report;
pub mod samba;
pub mod seam;
mod service;
pub mod storage;
pub mod supervisor;
mod told;

pub use config::{EventsConfig, Grace, MoveGrace, NfsConfig, SambaConfig, ServicesConfig};
pub use hanging::{Answer, Ask};
pub use hold::Hold;
pub use manager::{Leaving, Manager};
pub use parts::Parts;
pub use report::{Report, Serve, State};
pub use seam::{NoStorage, Storage};
