//! The same questions and orders for whatever runs the site.

use crate::lab::Lab;
use crate::parts::{self, Progress};
use crate::site::{self, Subject};
use crate::{steadfast, stock};
use anyhow::Result;
use std::collections::BTreeMap;
use std::time::Duration;

/// Who has which address.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) holders: BTreeMap<String, usize>,
    pub(crate) leader: Option<usize>,
}

impl Placement {
    /// An IPv4 address that the node has.
    pub(crate) fn of(&self, node: usize) -> Option<&str> {
        self.holders.iter().find(|(a, h)| **h == node && !a.contains(':')).map(|(a, _)| a.as_str())
    }
}

impl From<&steadfast::Status> for Placement {
    fn from(status: &steadfast::Status) -> Self {
        let vips = status.snapshot.vips.keys();
        let holders = vips.filter_map(|v| Some((v.clone(), status.holder(v)?))).collect();
        Self { holders, leader: status.snapshot.leader }
    }
}

impl From<&stock::Status> for Placement {
    fn from(status: &stock::Status) -> Self {
        let holders = status.vips.iter().filter_map(|(v, h)| Some((v.clone(), (*h)?))).collect();
        Self { holders, leader: status.leader }
    }
}

/// The system under test in a laboratory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rival<'a> {
    pub(super) lab: &'a Lab,
    stock: bool,
}

impl<'a> Rival<'a> {
    pub(crate) fn new(lab: &'a Lab) -> Self {
        Self { lab, stock: lab.site.subject.is_ctdb() }
    }

    /// How long clients are left alone before the fault, so that all nodes know their connections: this daemon tells
    /// within a second; CTDB looks each MonitorInterval (15 s) and tells each TickleUpdateInterval (20 s).
    pub(super) fn warm(self) -> Duration {
        Duration::from_millis(match self.lab.site.subject {
            Subject::Ctdb => 38_000,
            Subject::CtdbTuned => 6000,
            Subject::Steadfast | Subject::SteadfastFast | Subject::Parts => 2500,
        })
    }

    /// How long after a fault clients are waited for.
    pub(super) fn patience(self) -> Duration {
        Duration::from_secs(if self.stock { 120 } else { 60 })
    }

    /// How long an address that should move is waited for when the clients do not need it to.
    pub(super) fn move_limit(self) -> Duration {
        Duration::from_secs(match self.lab.site.subject {
            Subject::Ctdb => 60,
            _ => 20,
        })
    }

    /// How long everything must have been well before a phase is over.
    pub(super) fn calm(self) -> Duration {
        Duration::from_millis(if self.stock { 3000 } else { 1000 })
    }

    pub(crate) fn form(self, progress: &Progress) -> Result<()> {
        if self.stock { stock::form(self.lab, progress) } else { steadfast::form(self.lab, progress) }
    }

    /// Everything on, connected, running, whole.
    pub(crate) fn settle(self) -> Result<Placement> {
        Ok(if self.stock {
            Placement::from(&stock::settle(self.lab)?)
        } else {
            Placement::from(&steadfast::settle(self.lab)?)
        })
    }

    /// As `node` sees it now.
    pub(super) fn placement(self, node: usize) -> Result<Placement> {
        Ok(if self.stock {
            Placement::from(&stock::status(self.lab, node)?)
        } else {
            Placement::from(&steadfast::status(self.lab, node)?)
        })
    }

    /// Sends a signal to the node's daemon.
    pub(super) fn signal(self, node: usize, signal: &str) -> Result<()> {
        if self.stock { stock::signal(self.lab, node, signal) } else { steadfast::signal(self.lab, node, signal) }
    }

    /// Starts a daemon that was killed.
    pub(super) fn start_again(self, node: usize) -> Result<()> {
        if self.stock { stock::start_again(self.lab, node) } else { steadfast::start(self.lab, node) }
    }

    /// Boots a node that was off, as it would by itself.
    pub(super) fn boot(self, node: usize) -> Result<()> {
        parts::boot(self.lab, node)?;
        if self.stock { stock::start(self.lab, node) } else { steadfast::start(self.lab, node) }
    }

    /// Takes every address off a node, or ends that.
    pub(super) fn drain(self, node: usize, on: bool) -> Result<()> {
        let name = site::name(node);
        let other = site::name((node + 1) % self.lab.site.nodes);
        let done = if self.stock {
            let words = ["ctdb", if on { "disable" } else { "enable" }];
            self.lab.exec(&name, &words, Duration::from_secs(60))
        } else {
            // What waits to be healed after the run before must not make it ask.
            let words: &[&str] =
                if on { &["steadfast", "drain", "--yes", &name] } else { &["steadfast", "resume", &name] };
            self.lab.exec(&other, words, Duration::from_secs(120))
        };
        done.map(drop)
    }
}
