//! `bench db`: how fast the clustered databases are, under this daemon and under Debian's ctdbd.
//!
//! One client on each node speaks CTDB's client protocol to the daemon there (`ctdb-client`), the same program for both
//! subjects. [`plan`] brings up one laboratory after the other, subjects in turn; in each, [`drive`] does every case once;
//! [`worker`] is what runs on a node, with [`recovery`] for the largest case.

mod counters;
mod drive;
pub(crate) mod plan;
mod recovery;
mod report;
pub(crate) mod worker;

pub(crate) use drive::main as drive;

use crate::site::{Storage, Subject};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Case {
    /// One record goes round: each client locks it, adds one, and tells the next
    #[serde(rename = "fetch-ring-2")]
    #[value(name = "fetch-ring-2")]
    FetchRing2,
    #[serde(rename = "fetch-ring-4")]
    #[value(name = "fetch-ring-4")]
    FetchRing4,
    /// Two messages go round, one each way
    #[serde(rename = "message-ring-2")]
    #[value(name = "message-ring-2")]
    MessageRing2,
    #[serde(rename = "message-ring-4")]
    #[value(name = "message-ring-4")]
    MessageRing4,
    /// Persistent transactions, one after the other, each by the next node
    #[serde(rename = "transactions-2")]
    #[value(name = "transactions-2")]
    Transactions2,
    #[serde(rename = "transactions-4")]
    #[value(name = "transactions-4")]
    Transactions4,
    /// Recovery of small records spread over four nodes
    #[serde(rename = "recovery-1m")]
    #[value(name = "recovery-1m")]
    Recovery1m,
    /// Eight SMB clients of four nodes add to the number in one file, under a lock, on a replicated GlusterFS volume
    #[serde(rename = "smb-counters-4")]
    #[value(name = "smb-counters-4")]
    SmbCounters4,
}

impl Case {
    const ALL: [Self; 8] = [
        Self::FetchRing2,
        Self::FetchRing4,
        Self::MessageRing2,
        Self::MessageRing4,
        Self::Transactions2,
        Self::Transactions4,
        Self::Recovery1m,
        Self::SmbCounters4,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::FetchRing2 => "fetch-ring-2",
            Self::FetchRing4 => "fetch-ring-4",
            Self::MessageRing2 => "message-ring-2",
            Self::MessageRing4 => "message-ring-4",
            Self::Transactions2 => "transactions-2",
            Self::Transactions4 => "transactions-4",
            Self::Recovery1m => "recovery-1m",
            Self::SmbCounters4 => "smb-counters-4",
        }
    }

    fn nodes(self) -> usize {
        match self {
            Self::FetchRing2 | Self::MessageRing2 | Self::Transactions2 => 2,
            _ => 4,
        }
    }

    /// Has it a laboratory of its own, in which Debian's ctdbd has more time for a recovery than at its defaults?
    fn patient(self) -> bool {
        self == Self::Recovery1m
    }

    /// What the nodes share.
    fn storage(self) -> Storage {
        if self == Self::SmbCounters4 { Storage::Gluster } else { Storage::Local }
    }

    fn unit(self) -> &'static str {
        if self == Self::Recovery1m { "ms" } else { "1/s" }
    }

    /// What the databases' own clients do; none where SMB clients do it all.
    fn work(self) -> Option<Work> {
        Some(match self {
            Self::FetchRing2 | Self::FetchRing4 => Work::FetchRing,
            Self::MessageRing2 | Self::MessageRing4 => Work::MessageRing,
            Self::Transactions2 | Self::Transactions4 => Work::Transactions,
            Self::Recovery1m => Work::Recovery,
            Self::SmbCounters4 => return None,
        })
    }
}

/// A client's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    FetchRing,
    MessageRing,
    Transactions,
    Recovery,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::FetchRing => "fetch-ring",
            Self::MessageRing => "message-ring",
            Self::Transactions => "transactions",
            Self::Recovery => "recovery",
        }
    }
}

/// One measurement, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) subject: Subject,
    pub(crate) case: Case,
    pub(crate) run: usize,
    /// Begin, seconds since 1970.
    pub(crate) unix: u64,
    /// The machine's load average (1 min) at its begin.
    pub(crate) load: f64,
    /// In the case's unit; none when it failed.
    pub(crate) value: Option<f64>,
    /// It was not over when it was no longer waited for: the value is how long that was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unfinished: bool,
    pub(crate) failure: Option<String>,
    /// What else was seen, by name.
    pub(crate) beside: BTreeMap<String, f64>,
}

impl Run {
    /// One that has measured nothing yet.
    fn new(subject: Subject, case: Case, run: usize, unix: u64) -> Self {
        let load = super::run::load();
        Self { subject, case, run, unix, load, value: None, unfinished: false, failure: None, beside: BTreeMap::new() }
    }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
