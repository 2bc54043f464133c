//! Parts that a test leaves out, to see that their absence shows: a test of a failover that passes without the part
//! that makes it fast measures nothing.

use std::fmt;
use std::str::FromStr;

use net::Parts;
use services::Parts as Services;

/// A part of the daemon that can be left out; for tests only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// Clients of an address that was taken are not told that their connections are gone.
    Tickle,
    /// An address that was taken is not announced.
    Announce,
    /// No guard takes a killed daemon's addresses away.
    Guard,
    /// Nothing ends a stopped daemon's addresses when the node lease ends.
    Lease,
    /// A node's own storage clients go on without a lease.
    Hold,
    /// A public interface that has lost its carrier is not noticed.
    Link,
    /// An address leaves without Samba's having been told before.
    Tell,
    /// The NFS server of a node that has lost its clients keeps what they had.
    Anew,
    /// No NFS server enters its grace period when another node is lost, or an address moves.
    Grace,
    /// The NFS server of a node that an address has left keeps its clients' locks.
    LetGo,
    /// An NFS server or a mount that hangs when an address has left its node goes on when its storage answers again.
    End,
    /// Nodes that a view drops are not shut out of the storage.
    Evict,
    /// A node that was shut out keeps what others held of its storage.
    Free,
    /// Nodes do not tell each other of clients' connections.
    Lists,
    /// The end of a service's process is not noticed, only that it does not answer.
    Exit,
    /// Nobody minds that a service or the shared mount does not answer.
    Probe,
}

impl Without {
    const ALL: [Self; 16] = [
        Self::Tickle,
        Self::Announce,
        Self::Guard,
        Self::Lease,
        Self::Hold,
        Self::Link,
        Self::Tell,
        Self::Anew,
        Self::Grace,
        Self::LetGo,
        Self::End,
        Self::Evict,
        Self::Free,
        Self::Lists,
        Self::Exit,
        Self::Probe,
    ];

    /// What is left of the network worker without these.
    pub(super) fn parts(list: &[Self]) -> Parts {
        let lease = !list.contains(&Self::Lease);
        Parts {
            gate: lease,
            lifetimes: lease,
            announce: !list.contains(&Self::Announce),
            hold: !list.contains(&Self::Hold),
            tickle: !list.contains(&Self::Tickle),
            link: !list.contains(&Self::Link),
            tell: !list.contains(&Self::Tell),
            evict: !list.contains(&Self::Evict),
            free: !list.contains(&Self::Free),
        }
    }

    /// What is left of the service manager without these.
    pub(super) fn services(list: &[Self]) -> Services {
        Services { exits: !list.contains(&Self::Exit), probes: !list.contains(&Self::Probe) }
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tickle => "tickle",
            Self::Announce => "announce",
            Self::Guard => "guard",
            Self::Lease => "lease",
            Self::Hold => "hold",
            Self::Link => "link",
            Self::Tell => "tell",
            Self::Anew => "anew",
            Self::Grace => "grace",
            Self::LetGo => "let-go",
            Self::End => "end",
            Self::Evict => "evict",
            Self::Free => "free",
            Self::Lists => "lists",
            Self::Exit => "exit",
            Self::Probe => "probe",
        })
    }
}

impl FromStr for Without {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|w| w.to_string() == word);
        found.ok_or_else(|| format!("there is no part {word}: {}", Self::ALL.map(|w| w.to_string()).join(", ")))
    }
}
