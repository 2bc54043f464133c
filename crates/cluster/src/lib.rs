//! The cluster core: membership, arbitration, leases, health and placement, **without I/O**.
//!
//! [`Cluster::handle`] takes the time and one [`Input`] and appends the effects to a list of [`Output`]s, which the
//! driver carries out in order before it feeds the next input. Between inputs the driver waits until
//! [`Cluster::next_timeout`] and then feeds [`Input::Tick`]. The core has no clock, socket, thread, file, random
//! source or async runtime of its own; the daemon and the simulator drive the very same code.

mod added;
mod arbiter;
mod clique;
mod cluster;
mod config;
mod deserted;
mod durable;
mod event;
#[cfg(test)]
mod exhaust;
mod fitness;
mod grace;
mod guard;
mod holder;
mod id;
mod io;
mod lease;
mod membership;
mod message;
mod news;
mod pace;
mod parting;
pub mod placement;
mod placing;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
mod pnn_set;
mod reach;
mod rng;
mod series;
mod snapshot;
mod status;
mod time;
mod unfinished;
mod view;

pub use added::ADOPT;
pub use config::{Config, DayWindow, FailBack, NodeConf, Restraint, Role, Timing, VipConf};
pub use durable::{Accepted, Durable, LockRecord};
pub use event::{Event, Level};
pub use grace::GRACE_WAIT;
pub use id::{Ballot, Epoch, Incarnation, NodeUid, Pnn, RunId};
pub use io::{AdminReply, AdminRequest, AdminState, Health, Input, Output, ServiceHealth, human, public_interfaces};
pub use message::{Ages, Grant, GuardWord, Heartbeat, Message, Orders, Report};
pub use pace::PaceStatus;
pub use parting::LET_GO_WAIT;
pub use pnn_set::PnnSet;
pub use snapshot::{Eviction, LeaseStatus, LockStatus, NodeState, NodeStatus, Snapshot, VipState, VipStatus};
pub use status::LACKS;
pub use time::Time;
pub use unfinished::{END_WAIT, LEFT_HANGING, PROOF_WAIT};
pub use view::{Member, Rules, View};

pub use cluster::{Cluster, Start};
