//! How long to wait before the next start of a service that ended.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
const HEALTHY: Duration = Duration::from_secs(60);

/// At once, then 0.5 s doubling to 30 s; from the beginning after 60 s of health.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    attempts: u32,
    healthy_since: Option<Instant>,
}

impl Backoff {
    /// The service ended or did not start: how long to wait.
    pub fn next_delay(&mut self, now: Instant) -> Duration {
        if self.healthy_since.take().is_some_and(|since| now.duration_since(since) >= HEALTHY) {
            self.attempts = 0;
        }
        let delay = match self.attempts {
            0 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(16)).min(LONGEST),
        };
        self.attempts = self.attempts.saturating_add(1);
        delay
    }

    /// How often it ended since it was last well for a minute.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The service answers.
    pub fn healthy(&mut self, now: Instant) {
        self.healthy_since.get_or_insert(now);
    }

    /// The service does not answer.
    pub fn unhealthy(&mut self) {
        self.healthy_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_thirty_seconds_and_starts_over_after_a_minute_of_health() {
        let t = Instant::now();
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..9).map(|_| backoff.next_delay(t).as_millis()).collect();
        assert_eq!(delays, [0, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        backoff.healthy(t);
        backoff.healthy(t + Duration::from_secs(59));
        assert_eq!(backoff.next_delay(t + Duration::from_secs(59)), LONGEST);
        backoff.healthy(t);
        assert_eq!(backoff.next_delay(t + Duration::from_secs(60)), Duration::ZERO);
        for _ in 0..100 {
            assert!(backoff.next_delay(t) <= LONGEST);
        }
    }
}
