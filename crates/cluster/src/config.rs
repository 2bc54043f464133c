//! The core's part of the configuration, already checked.

use crate::Pnn;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// What a node of the list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves and votes.
    #[default]
    Server,
    /// Votes only.
    Witness,
}

/// A line of the nodes list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeConf {
    /// Name for people.
    pub name: String,
    /// Serves, or votes only.
    pub role: Role,
    /// Private addresses; the first is the one of control and storage, heartbeats run over all. At least one.
    pub addresses: Vec<IpAddr>,
}

/// A public address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipConf {
    /// Prefix length, 1 to 32 or 128.
    pub prefix_len: u8,
    /// Interface by node; nodes that are absent cannot host it.
    pub hosts: BTreeMap<Pnn, String>,
}

/// How returning nodes get addresses back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailBack {
    /// One address at a time until the spread is even.
    #[default]
    Spread,
    /// Addresses stay where they are until their host fails or is drained.
    Never,
    /// As `Spread`, but only at these times of the day.
    Window(DayWindow),
}

impl FailBack {
    /// May addresses move for the spread at this time of the day, in minutes after midnight? If not, why.
    ///
    /// # Errors
    /// The reason.
    pub fn allows(self, minute: Option<u16>) -> Result<(), String> {
        match self {
            Self::Spread => Ok(()),
            Self::Never => Err("fail_back is \"never\"".into()),
            Self::Window(window) if minute.is_some_and(|m| window.contains(m)) => Ok(()),
            Self::Window(window) => Err(format!("waits for the fail-back window {window}")),
        }
    }
}

/// What an administrator wants addresses not to do. The leader's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Restraint {
    /// No node takes an address that it does not have: one that leaves its host goes nowhere, and stays there until this is
    /// lifted. An administrator moves addresses all the same. CTDB's `NoIPTakeover`.
    pub no_takeover: bool,
    /// Addresses with a good host stay there, however uneven that is. CTDB's `NoIPFailback`.
    pub no_failback: bool,
}

/// A part of the day, in minutes after midnight of the nodes' local time. It may run over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayWindow {
    /// First minute, 0 to 1439.
    pub from: u16,
    /// First minute that is outside again, 0 to 1439. Equal to `from`: never open; the configuration refuses that.
    pub to: u16,
}

impl DayWindow {
    /// Is this minute of the day inside?
    #[must_use]
    pub fn contains(self, minute: u16) -> bool {
        if self.from <= self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

impl std::fmt::Display for DayWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

/// Time limits. All of a cluster's nodes must use the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Between two heartbeats to one peer. Default 100 ms.
    pub heartbeat: Duration,
    /// A grant's life from the moment the heartbeat was sent that it answers. Default 600 ms.
    pub lease: Duration,
    /// Silence after which a peer is suspected. Default three quarters of the lease.
    pub suspect: Duration,
    /// Added to every wait for somebody else's lease: clock drift and rounding. Default 50 ms.
    pub margin: Duration,
    /// What a kernel lease with whole seconds lives longer than the node lease. 1 s.
    pub whole_seconds: Duration,
    /// How long a node must reach everybody before it joins; doubled at each relapse. Default 3 s.
    pub join_delay: Duration,
    /// How long a link between two other nodes must be missing before one of them stays out. Default 300 ms.
    pub mesh_delay: Duration,
    /// An attempt to decide a view is given up and begun anew after this. Default 400 ms.
    pub proposal: Duration,
    /// Between two addresses that move for the spread, back to a returning node for example. Default 2 s.
    pub fail_back_interval: Duration,
    /// State is sent again to peers this often, changed or not. Default 1 s.
    pub refresh: Duration,
}

impl Timing {
    /// The defaults for a given lease.
    #[must_use]
    pub fn for_lease(lease: Duration) -> Self {
        Self {
            heartbeat: lease / 6,
            lease,
            suspect: lease * 3 / 4,
            margin: Duration::from_millis(50),
            whole_seconds: Duration::from_secs(1),
            join_delay: Duration::from_secs(3),
            mesh_delay: lease / 2,
            proposal: Duration::from_millis(400),
            fail_back_interval: Duration::from_secs(2),
            refresh: Duration::from_secs(1),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::for_lease(Duration::from_millis(600))
    }
}

/// Everything that the core needs to know of the site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the cluster.
    pub cluster: String,
    /// This node.
    pub me: Pnn,
    /// The nodes list.
    pub nodes: BTreeMap<Pnn, NodeConf>,
    /// Private addresses of nodes that were removed from it: whoever of them is a member still is dropped and shut out.
    pub removed: BTreeMap<Pnn, Vec<IpAddr>>,
    /// The public addresses.
    pub vips: BTreeMap<IpAddr, VipConf>,
    /// Do members keep databases with transactions? Then a member has everything that was committed when
    /// [`crate::Input::Recovered`] says so, and otherwise as soon as it has learned of a view.
    #[serde(default)]
    pub databases: bool,
    /// Services whose failure makes a node unfit to host addresses.
    pub services: BTreeSet<String>,
    /// Time limits.
    pub timing: Timing,
    /// How returning nodes get addresses back.
    pub fail_back: FailBack,
    /// How long a drain waits for clients to forget what DNS has told them. Zero without DNS.
    pub drain_wait: Duration,
    /// Fingerprint of what must be equal on all nodes; a difference is shown as a warning.
    pub fingerprint: u64,
}

impl Config {
    /// Private addresses of a node of the list, or of one that was removed from it.
    #[must_use]
    pub fn private_addresses(&self, pnn: Pnn) -> Option<&Vec<IpAddr>> {
        self.nodes.get(&pnn).map(|node| &node.addresses).or_else(|| self.removed.get(&pnn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_the_day() {
        let night = DayWindow { from: 22 * 60, to: 4 * 60 + 30 };
        assert_eq!(night.to_string(), "22:00-04:30");
        assert!([22 * 60, 1439, 0, 4 * 60 + 29].into_iter().all(|m| night.contains(m)));
        assert!([4 * 60 + 30, 12 * 60, 22 * 60 - 1].into_iter().all(|m| !night.contains(m)));
        let noon = DayWindow { from: 720, to: 780 };
        assert!(noon.contains(720) && !noon.contains(780) && !noon.contains(0));
        assert!(FailBack::Window(noon).allows(Some(721)).is_ok());
        // Nobody has said what time it is.
        assert_eq!(FailBack::Window(noon).allows(None), Err("waits for the fail-back window 12:00-13:00".into()));
        assert!(FailBack::Never.allows(Some(0)).is_err() && FailBack::Spread.allows(None).is_ok());
    }
}
