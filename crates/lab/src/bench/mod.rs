//! Benchmarks: figures with their raw data, no verdicts.
//!
//! `failover` does the same faults to the same site under this daemon and under Debian's CTDB, in alternating blocks of
//! runs ([`plan`]), each block in a laboratory of its own ([`block`]). A run ([`run`]) is: cluster whole, clients
//! started and known to all nodes, fault, all served again, mended, whole again. Its figures are the longest gaps between
//! two successes of each client. `db` measures the clustered databases under both ([`db`]).

mod block;
pub(crate) mod db;
mod idle;
mod load;
pub(crate) mod plan;
mod report;
mod rival;
mod run;

pub(crate) use block::main as block;
pub(crate) use idle::idle;
pub(crate) use load::load;
pub(crate) use rival::{Placement, Rival};

use crate::probe::run::Gap;
use crate::site::{Storage, Subject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Cables out, then every process of the node killed at once
    PowerOff,
    /// The same to the leader
    LeaderPowerOff,
    /// SIGKILL for the daemon
    DaemonKilled,
    /// SIGSTOP for the daemon
    DaemonStopped,
    /// The cable to the clients is out; control and storage have a network of their own
    LinkDown,
    /// The only cable is out
    LinkDownOneNetwork,
    /// SIGKILL for NFS-Ganesha
    ServiceKilled,
    /// Planned: every address off the node
    Drain,
    /// The node comes back after a power cut: measured by the runs of power-off
    Rejoin,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::PowerOff,
        Self::LeaderPowerOff,
        Self::DaemonKilled,
        Self::DaemonStopped,
        Self::LinkDown,
        Self::LinkDownOneNetwork,
        Self::ServiceKilled,
        Self::Drain,
        Self::Rejoin,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::LeaderPowerOff => "leader-power-off",
            Self::DaemonKilled => "daemon-killed",
            Self::DaemonStopped => "daemon-stopped",
            Self::LinkDown => "link-down",
            Self::LinkDownOneNetwork => "link-down-one-network",
            Self::ServiceKilled => "service-killed",
            Self::Drain => "drain",
            Self::Rejoin => "rejoin",
        }
    }

    /// Done on a site with a second network between the nodes.
    fn two_networks(self) -> bool {
        self == Self::LinkDown
    }

    /// Something comes back that was not the whole node.
    fn is_undone(self) -> bool {
        matches!(self, Self::DaemonKilled | Self::DaemonStopped | Self::LinkDown | Self::LinkDownOneNetwork)
    }

    fn is_power_off(self) -> bool {
        matches!(self, Self::PowerOff | Self::LeaderPowerOff)
    }
}

/// The clients of a run, in the order in which they are shown.
pub(crate) const PROBES: [&str; 4] = ["tcp", "nfs3-moved", "tcp-unmoved", "nfs3-unmoved"];

/// One client's part of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Longest gap between the fault and the mending, milliseconds.
    pub(crate) fault_ms: f64,
    /// Longest gap after the mending.
    pub(crate) mended_ms: f64,
    /// True when it was never served again before the run ended: `fault_ms` is a lower bound.
    pub(crate) never: bool,
    /// Operations that failed for good (an NFS error other than "try again later").
    pub(crate) errors: u64,
    pub(crate) gaps: Vec<Gap>,
}

/// One run, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) subject: Subject,
    pub(crate) storage: Storage,
    pub(crate) case: Fault,
    pub(crate) run: usize,
    /// Begin of the run, seconds since 1970.
    pub(crate) unix: u64,
    /// The machine's load average (1 min) at its begin.
    pub(crate) load: f64,
    pub(crate) victim: String,
    /// CLOCK_MONOTONIC, microseconds, as in the gaps.
    pub(crate) fault_at_us: u64,
    pub(crate) mended_at_us: u64,
    pub(crate) seconds: f64,
    /// Why there are no figures, or not all.
    pub(crate) failure: Option<String>,
    /// What is worth knowing about the run and is no failure.
    pub(crate) notes: Vec<String>,
    /// How often two nodes answered ARP for one address at the same time.
    pub(crate) double: usize,
    pub(crate) probes: BTreeMap<String, Figures>,
}

fn round(v: f64) -> f64 {
    (v * 10.0).round() / 10.0
}
