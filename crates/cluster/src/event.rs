//! The timeline: what happened, and why.

use crate::{Epoch, Pnn, Time};
use serde::{Deserialize, Serialize};

/// How much an operator cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A normal change.
    Info,
    /// Something works less well than it should.
    Warning,
    /// Something is down.
    Error,
}

/// One line of the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The node's clock.
    pub at: Time,
    /// How much an operator cares.
    pub level: Level,
    /// Stable name: `view`, `suspect`, `lease`, `take`, `release`, `placement`, `service`, `storage`, `admin`, `lock`, `config`.
    pub kind: String,
    /// Epoch it happened in.
    pub epoch: Epoch,
    /// The node it is about, if one.
    pub node: Option<Pnn>,
    /// What happened.
    pub text: String,
    /// Why.
    pub because: String,
}
