//! States as text: pure functions from what the daemon said to what a person reads.

mod events;
mod import;
mod ip;
mod nodes;
#[cfg(test)]
mod sample;
mod status;
mod table;

pub(crate) use events::event;
pub(crate) use import::imported;
pub(crate) use ip::ip;
pub(crate) use nodes::nodes;
pub(crate) use status::{is_healthy, status};

use cluster::{NodeState, Pnn, Snapshot, Time, VipState};
use std::time::Duration;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    /// With ANSI colours.
    pub(crate) colour: bool,
    /// Columns; what does not fit is wrapped.
    pub(crate) width: usize,
}

impl Style {
    /// For files and pipes.
    pub(crate) fn plain() -> Self {
        Self { colour: false, width: usize::MAX }
    }

    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        if self.colour && !text.is_empty() && colour != Colour::None {
            format!("\x1b[{}m{text}\x1b[0m", colour.code())
        } else {
            text.to_owned()
        }
    }
}

/// What a colour means is the same everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    None,
    /// As it should be.
    Good,
    /// On its way, or wished so.
    Waiting,
    /// Not as it should be.
    Bad,
    Bold,
    Faint,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::None => "0",
            Self::Good => "32",
            Self::Waiting => "33",
            Self::Bad => "1;31",
            Self::Bold => "1",
            Self::Faint => "2",
        }
    }
}

fn node_state(state: NodeState) -> (&'static str, Colour) {
    match state {
        NodeState::Ok => ("OK", Colour::Good),
        NodeState::Witness => ("witness", Colour::Good),
        NodeState::Starting => ("starting", Colour::Waiting),
        NodeState::Joining => ("joining", Colour::Waiting),
        NodeState::Drained => ("drained", Colour::Waiting),
        NodeState::Stopped => ("stopped", Colour::Waiting),
        NodeState::Banned => ("BANNED", Colour::Bad),
        NodeState::Unhealthy => ("UNHEALTHY", Colour::Bad),
        NodeState::Suspected => ("SUSPECTED", Colour::Bad),
        NodeState::Down => ("DOWN", Colour::Bad),
    }
}

fn vip_state(state: VipState) -> (&'static str, Colour) {
    match state {
        VipState::Held => ("held", Colour::Good),
        VipState::Moving => ("moving", Colour::Waiting),
        VipState::Waiting => ("waiting", Colour::Waiting),
        VipState::Unserved => ("UNSERVED", Colour::Bad),
    }
}

/// A node's name, or its number when the list does not have it.
fn name(snapshot: &Snapshot, pnn: Pnn) -> String {
    snapshot.nodes.get(&pnn).map_or_else(|| format!("node {pnn}"), |n| n.name.clone())
}

/// How long ago, in one or two units.
fn ago(since: Time, now: Time) -> String {
    span(now.since(since))
}

fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
