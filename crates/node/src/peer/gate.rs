//! At most one log line a minute and source, so that a stranger cannot fill the log.

use crate::sync::locked;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(60);
/// More sources than this at a time share one place.
const MAX_SOURCES: usize = 256;

/// Remembers who was logged, and how many lines were kept back since.
#[derive(Debug, Default)]
pub(super) struct Gate {
    sources: Mutex<HashMap<Option<IpAddr>, Seen>>,
}

#[derive(Debug)]
struct Seen {
    logged: Instant,
    kept_back: u64,
}

impl Gate {
    /// `Some(n)`: log it, and that `n` more were not logged since the last time. `None`: do not.
    pub(super) fn pass(&self, from: IpAddr, now: Instant) -> Option<u64> {
        let mut sources = locked(&self.sources);
        let mut key = Some(from);
        if !sources.contains_key(&key) && sources.len() >= MAX_SOURCES {
            sources.retain(|_, seen| now.saturating_duration_since(seen.logged) < PERIOD);
            if sources.len() >= MAX_SOURCES {
                key = None;
            }
        }
        match sources.get_mut(&key) {
            Some(seen) if now.saturating_duration_since(seen.logged) < PERIOD => {
                seen.kept_back += 1;
                None
            }
            Some(seen) => {
                seen.logged = now;
                Some(std::mem::take(&mut seen.kept_back))
            }
            None => {
                sources.insert(key, Seen { logged: now, kept_back: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_and_source() {
        let gate = Gate::default();
        let start = Instant::now();
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!(gate.pass(a, start), Some(0));
        for s in 1..60 {
            assert_eq!(gate.pass(a, start + Duration::from_secs(s)), None);
        }
        assert_eq!(gate.pass(b, start + Duration::from_secs(59)), Some(0));
        assert_eq!(gate.pass(a, start + Duration::from_secs(60)), Some(59));
    }

    #[test]
    fn many_sources_cost_bounded_memory_and_lines() {
        let gate = Gate::default();
        let start = Instant::now();
        let lines = (0..100_000u32).filter(|n| gate.pass(IpAddr::from(n.to_be_bytes()), start).is_some()).count();
        assert_eq!(lines, MAX_SOURCES + 1);
        assert!(locked(&gate.sources).len() <= MAX_SOURCES + 1);
    }
}
