//! What can be made to go wrong.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A fault of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The node loses power without a word.
    PowerOff,
    /// The same, of the node that leads.
    LeaderPowerOff,
    /// The daemon is killed (SIGKILL).
    DaemonKilled,
    /// The daemon is stopped (SIGSTOP), as a machine would that hangs.
    DaemonStopped,
    /// The cable of the clients' network is out.
    PublicLinkDown,
    /// The cable of the storage's and control's network is out.
    PrivateLinkDown,
    /// The NFS server is killed.
    ServiceKilled,
    /// The NFS server is stopped (SIGSTOP).
    ServiceHung,
    /// The process behind the shared mount is stopped: every access to it hangs.
    MountHung,
    /// No fault: the node is drained, as before maintenance.
    Drain,
    /// No fault: a node that was off comes back.
    Rejoin,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::PowerOff,
        Self::LeaderPowerOff,
        Self::DaemonKilled,
        Self::DaemonStopped,
        Self::PublicLinkDown,
        Self::PrivateLinkDown,
        Self::ServiceKilled,
        Self::ServiceHung,
        Self::MountHung,
        Self::Drain,
        Self::Rejoin,
    ];

    /// As it is written on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::LeaderPowerOff => "leader-power-off",
            Self::DaemonKilled => "daemon-killed",
            Self::DaemonStopped => "daemon-stopped",
            Self::PublicLinkDown => "public-link-down",
            Self::PrivateLinkDown => "private-link-down",
            Self::ServiceKilled => "service-killed",
            Self::ServiceHung => "service-hung",
            Self::MountHung => "mount-hung",
            Self::Drain => "drain",
            Self::Rejoin => "rejoin",
        }
    }

    /// What is done to the node, for the person who is asked.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::PowerOff | Self::LeaderPowerOff => {
                "its power is cut without a warning, and given back at the end: what its disks have not written is lost"
            }
            Self::DaemonKilled => "its daemon is killed, and started again at the end",
            Self::DaemonStopped => "its daemon is stopped as if the machine hung, and goes on at the end",
            Self::PublicLinkDown => "its interface on the clients' network goes down, and up at the end",
            Self::PrivateLinkDown => "its interface on the storage's network goes down, and up at the end",
            Self::ServiceKilled => "its NFS server is killed; the daemon starts it again",
            Self::ServiceHung => "its NFS server is stopped as if it hung, and goes on at the end",
            Self::MountHung => "the process behind its shared mount is stopped, and goes on at the end",
            Self::Drain => "it is drained, and resumed at the end",
            Self::Rejoin => {
                "its power is cut; when the others have taken over it comes back, which is what is measured"
            }
        }
    }

    /// The node is without power for a while.
    #[must_use]
    pub fn cuts_power(self) -> bool {
        matches!(self, Self::PowerOff | Self::LeaderPowerOff | Self::Rejoin)
    }

    /// The node's addresses are expected to move.
    #[must_use]
    pub fn moves_addresses(self) -> bool {
        self != Self::ServiceKilled
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|f| f.word() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|f| f.word()).collect();
            format!("'{text}' is no fault; there are: {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    fn every_fault_is_found_by_its_word() {
        for fault in Fault::ALL {
            assert_eq!(fault.word().parse::<Fault>(), Ok(fault));
            let json = serde_json::to_string(&fault).unwrap();
            assert_eq!(json, format!("\"{}\"", fault.word()));
        }
        assert!("poweroff".parse::<Fault>().unwrap_err().contains("power-off, leader-power-off"));
    }
}
