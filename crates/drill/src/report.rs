//! What a drill found: as a table, JSON, or a timeline.

use crate::Fault;
use crate::clients::{Stall, Stream};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Moments of a drill, in microseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// All clients work.
    pub began_us: u64,
    /// The fault is made.
    pub fault_us: u64,
    /// It is taken back.
    pub mended_us: u64,
    /// All is well again.
    pub ended_us: u64,
}

/// A drill's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The fault.
    pub fault: Fault,
    /// The node that it hit.
    pub node: String,
    /// Addresses that this node held.
    pub moved: Vec<String>,
    /// When.
    pub marks: Marks,
    /// What the clients saw.
    pub streams: Vec<Stream>,
    /// What did not go as it should.
    pub notes: Vec<String>,
}

impl Report {
    /// Longest stall of a client that began or ended between two moments, in milliseconds.
    #[must_use]
    pub fn longest(stream: &Stream, from_us: u64, to_us: u64) -> f64 {
        let touches = |s: &&Stall| s.to_us >= from_us && s.from_us < to_us;
        stream.stalls.iter().filter(touches).map(|s| s.ms()).fold(0.0, f64::max)
    }

    /// Longest stall by the fault, and by its mending, in milliseconds. For a rejoin the fault is the mending.
    #[must_use]
    pub fn outages(&self, stream: &Stream) -> (f64, f64) {
        let m = self.marks;
        (Self::longest(stream, m.fault_us, m.mended_us), Self::longest(stream, m.mended_us, u64::MAX))
    }

    /// Is its address one that the node held?
    #[must_use]
    pub fn is_moved(&self, stream: &Stream) -> bool {
        self.moved.contains(&stream.vip)
    }

    /// No operation failed, nothing is lost, all is well again.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.notes.is_empty() && self.streams.iter().all(|s| s.failed == 0 && s.wrong.is_none())
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{} on {}\n\n", self.fault, self.node);
        let _ = writeln!(
            text,
            "{:<6} {:<16} {:<9} {:>8} {:>8} {:>9} {:>9} {:>9} {:>7} {:>7} {:>10}",
            "client",
            "address",
            "",
            "p50 ms",
            "p99 ms",
            "max ms",
            "outage ms",
            "return ms",
            "ops",
            "failed",
            "compared"
        );
        for s in &self.streams {
            let (fault, mended) = self.outages(s);
            let place = if self.is_moved(s) { "moved" } else { "elsewhere" };
            let _ = writeln!(
                text,
                "{:<6} {:<16} {:<9} {:>8.1} {:>8.1} {:>9.1} {:>9.0} {:>9.0} {:>7} {:>7} {:>10}",
                s.protocol,
                s.vip,
                place,
                s.p50_ms,
                s.p99_ms,
                s.max_ms,
                fault,
                mended,
                s.ok,
                s.failed,
                bytes(s.compared)
            );
        }
        text.push_str(
            "\noutage: longest time without a success from the fault on; return: the same from its mending on.\n",
        );
        for s in &self.streams {
            if let Some(why) = &s.wrong {
                let _ = writeln!(text, "{} to {}: {why}", s.protocol, s.vip);
            }
            if s.failed > 0
                && let Some(why) = &s.first_failure
            {
                let _ = writeln!(text, "{} to {}: first failure: {why}", s.protocol, s.vip);
            }
        }
        for note in &self.notes {
            let _ = writeln!(text, "NOTE: {note}");
        }
        text
    }

    /// A timeline that a person can read; all of it in one file without references.
    #[must_use]
    pub fn svg(&self) -> String {
        crate::svg::draw(self)
    }
}

/// With a unit that suits.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0 => "-".to_owned(),
        1..=10_239 => format!("{n} B"),
        10_240..=10_485_759 => format!("{} KiB", n / 1024),
        _ => format!("{} MiB", n >> 20),
    }
}
