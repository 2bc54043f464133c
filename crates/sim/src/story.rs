//! The readable trace of a simulation.

use crate::clock::{Micros, S};

/// Lines of "virtual time, node, what", kept only when somebody will read them.
#[derive(Debug)]
pub struct Story {
    /// Is it kept at all?
    pub keep: bool,
    /// The lines so far.
    pub lines: Vec<String>,
}

impl Story {
    /// A story; `keep` = false costs nothing and remembers nothing.
    #[must_use]
    pub fn new(keep: bool) -> Self {
        Self { keep, lines: Vec::new() }
    }

    /// Something happened to a node.
    pub fn node(&mut self, now: Micros, node: usize, what: impl FnOnce() -> String) {
        if self.keep {
            self.lines.push(format!("{} n{node:<2} {}", stamp(now), what()));
        }
    }

    /// Something happened to the world.
    pub fn world(&mut self, now: Micros, what: impl FnOnce() -> String) {
        if self.keep {
            self.lines.push(format!("{} --- {}", stamp(now), what()));
        }
    }
}

/// World time for people.
#[must_use]
pub fn stamp(now: Micros) -> String {
    format!("[{:>4}.{:06}]", now / S, now % S)
}
