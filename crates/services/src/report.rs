//! What the daemon tells the service managers, and what they tell the daemon.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Whether this node may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Serve {
    /// Not a member: the services are stopped first, then the shared mount is unmounted.
    Off,
    /// A member: the mount is made ready, then the services are started and probed.
    On,
}

/// Health of one service on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Stopped, as told. For the storage: unmounted.
    Off,
    /// Started, has not answered a probe yet.
    Starting,
    /// Answers its probes.
    Ok,
    /// A probe failed or the process ended, but not for long enough to move addresses.
    Failing,
    /// Unhealthy: the addresses that need this service should be elsewhere.
    Failed,
}

impl State {
    /// Whether an address that needs this service may be hosted here.
    pub fn can_host(self) -> bool {
        matches!(self, Self::Ok | Self::Failing)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Failed => "failed",
        })
    }
}

/// A change of one service, with its reason. Sent whenever state, reason or output change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// `samba`, `nfs` or `storage`; helpers of a service (rpcbind, rpc.statd) report under their own names.
    pub service: String,
    pub state: State,
    /// Why, in words for the operator.
    pub because: String,
    /// The last lines that a service wrote before it failed, or what a check complained about; else empty.
    pub output: Vec<String>,
    /// How often its process was started since this daemon manages it: one that is taken over was started 0 times.
    pub starts: u64,
    pub at: SystemTime,
}

impl Report {
    /// A report of this moment without output.
    pub fn new(service: impl Into<String>, state: State, because: impl Into<String>) -> Self {
        let (service, because, at) = (service.into(), because.into(), SystemTime::now());
        Self { service, state, because, output: Vec::new(), starts: 0, at }
    }

    /// The same with the last lines of a failing service.
    pub fn with_output(mut self, output: Vec<String>) -> Self {
        self.output = output;
        self
    }

    /// Whether `other` says the same, apart from the time.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.service == other.service
            && self.state == other.state
            && self.because == other.because
            && self.output == other.output
            && self.starts == other.starts
    }
}
