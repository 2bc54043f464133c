//! The state machine.

use crate::{Config, Durable, Input, Output, RunId, Time};

/// What a run of the daemon starts from.
#[derive(Clone, Debug)]
pub struct Start {
    /// The site.
    pub config: Config,
    /// The votes read from disk ([`Durable::blank`] for a new disk).
    pub durable: Durable,
    /// Random number of this start.
    pub run: RunId,
    /// Seed of the core's own random delays.
    pub seed: u64,
    /// Version of the program, for `status`.
    pub version: String,
}

/// One node's cluster core.
#[derive(Debug)]
pub struct Cluster {
    _start: Start,
}

impl Cluster {
    /// A daemon that has just started. All addresses of an earlier run must be gone from the machine by now:
    /// its first report says so to the others.
    #[must_use]
    pub fn new(start: Start, _now: Time) -> Self {
        Self { _start: start }
    }

    /// Takes one input; appends the effects.
    pub fn handle(&mut self, _now: Time, _input: Input, _out: &mut Vec<Output>) {}

    /// When to feed [`Input::Tick`] at the latest.
    #[must_use]
    pub fn next_timeout(&self) -> Time {
        Time(0)
    }
}
