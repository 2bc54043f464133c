//! Looks at every state, once.

use super::state::{Action, Bounds, State};
use std::collections::{HashSet, VecDeque};

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) states: usize,
    /// False: the limit was reached first.
    pub(super) complete: bool,
    /// What was violated and how it came about.
    pub(super) violation: Option<(String, Vec<String>)>,
}

/// Breadth first finds the shortest story and needs the memory; depth first needs little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Breadth,
    Depth,
}

pub(super) fn explore(b: &Bounds, order: Order, limit: usize) -> Found {
    let first = State::first(b);
    let mut seen = HashSet::from([first.hash()]);
    let mut from: Vec<(u32, Action)> = vec![(0, Action::Deliver(0))];
    let mut open = VecDeque::from([(first, 0u32)]);
    while let Some((state, at)) = if order == Order::Breadth { open.pop_front() } else { open.pop_back() } {
        for action in state.actions(b) {
            let next = state.after(action, b);
            if !seen.insert(next.hash()) {
                continue;
            }
            if seen.len() > limit {
                return Found { states: seen.len(), complete: false, violation: None };
            }
            from.push((at, action));
            let id = u32::try_from(from.len() - 1).unwrap_or(u32::MAX);
            if let Some(what) = next.violation() {
                return Found { states: seen.len(), complete: false, violation: Some((what, story(b, &from, id))) };
            }
            open.push_back((next, id));
        }
    }
    Found { states: seen.len(), complete: true, violation: None }
}

fn story(b: &Bounds, from: &[(u32, Action)], mut at: u32) -> Vec<String> {
    let mut actions = Vec::new();
    while at != 0 {
        let (before, action) = from[at as usize];
        actions.push(action);
        at = before;
    }
    let mut state = State::first(b);
    let mut told = Vec::new();
    for action in actions.into_iter().rev() {
        told.push(state.say(action));
        state = state.after(action, b);
    }
    told
}
