//! Damping: when probes and exits of one service make it failed, and when it is healthy again.
//!
//! Pure: time comes in as an argument. Addresses move on [`State::Failed`], which costs every client of them
//! a pause, so one lost probe does nothing; and a service that is down must not keep addresses, so nothing
//! here takes longer than the configured limits.
//!
//! ```text
//!   Starting ──good──> Ok ──failed probe──> Failing ──3 in a row──────> Failed
//!      └─start limit─> Failed   └──exit──> Failing ──limit, 3rd exit──> Failed ──3 good──> Ok
//! ```

use std::time::{Duration, Instant};

use crate::config::HealthConfig;
use crate::report::State;

/// How long a service must have been well until its earlier exits are forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// How long a service that starts may answer with a refusal.
const REFUSED_LIMIT: Duration = Duration::from_secs(5);

/// Why the service is `Failing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Probes fail; the process is there.
    Probes,
    /// The process ended; its successor must answer until then.
    Exit { until: Instant },
}

/// Health of one service.
#[derive(Debug, Clone)]
pub struct Health {
    config: HealthConfig,
    state: State,
    because: String,
    trouble: Option<Trouble>,
    start_until: Option<Instant>,
    bad: u32,
    good: u32,
    exits: u32,
    ok_since: Option<Instant>,
    failed_since: Option<Instant>,
}

impl Health {
    pub fn new(config: HealthConfig) -> Self {
        Self {
            config,
            state: State::Off,
            because: "not started yet".into(),
            trouble: None,
            start_until: None,
            bad: 0,
            good: 0,
            exits: 0,
            ok_since: None,
            failed_since: None,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn because(&self) -> &str {
        &self.because
    }

    /// Since when it is failed.
    pub fn failed_since(&self) -> Option<Instant> {
        self.failed_since
    }

    /// Whether the process ended and its successor has not answered yet.
    pub fn recovers_from_exit(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Exit { .. }))
    }

    /// Stopped, as told. Forgets everything.
    pub fn off(&mut self, because: impl Into<String>) {
        *self = Self { because: because.into(), ..Self::new(self.config.clone()) };
    }

    /// The service is being started after having been off.
    pub fn starting(&mut self, now: Instant, because: impl Into<String>) {
        if self.state == State::Off {
            self.state = State::Starting;
            self.start_until = Some(now + Duration::from_millis(self.config.start_limit_ms));
        }
        if self.state == State::Starting {
            self.because = because.into();
        }
    }

    /// A probe was answered.
    pub fn probe_good(&mut self, now: Instant, because: impl Into<String>) {
        self.bad = 0;
        match self.state {
            State::Off => {}
            State::Starting | State::Failing | State::Ok => self.well(now, because),
            State::Failed => {
                self.good += 1;
                if self.good >= self.config.successes {
                    self.well(now, because);
                }
            }
        }
    }

    fn well(&mut self, now: Instant, because: impl Into<String>) {
        self.state = State::Ok;
        self.because = because.into();
        self.trouble = None;
        self.start_until = None;
        self.failed_since = None;
        let since = *self.ok_since.get_or_insert(now);
        if now.duration_since(since) >= FORGIVEN_AFTER {
            self.exits = 0;
        }
    }

    /// A probe failed.
    pub fn probe_bad(&mut self, now: Instant, because: impl Into<String>) {
        self.good = 0;
        self.ok_since = None;
        match self.state {
            State::Off => {}
            // it is not up yet; the limit decides
            State::Starting => self.because = because.into(),
            State::Ok | State::Failing => {
                if self.recovers_from_exit() {
                    return;
                }
                self.bad += 1;
                self.trouble = Some(Trouble::Probes);
                let because = because.into();
                if self.bad >= self.config.failures {
                    self.fail(now, format!("{because} ({} probes in a row)", self.bad));
                } else {
                    self.state = State::Failing;
                    self.because = because;
                }
            }
            State::Failed => self.because = because.into(),
        }
    }

    /// A probe failed, for which the service is not to blame: it is waited for, and nothing is counted; but it is no good one in
    /// a row either.
    pub fn probe_excused(&mut self, because: impl Into<String>) {
        self.good = 0;
        let waits = matches!(self.state, State::Ok | State::Failing) && !self.recovers_from_exit();
        if waits {
            self.state = State::Failing;
            self.trouble = Some(Trouble::Probes);
            self.because = because.into();
        }
    }

    /// The service answered, and the answer is no: a start is over soon then, for the service is up.
    pub fn probe_refused(&mut self, now: Instant, because: impl Into<String>) {
        if let Some(until) = &mut self.start_until {
            *until = (*until).min(now + REFUSED_LIMIT);
        }
        self.probe_bad(now, because);
    }

    /// The process ended, or did not start.
    pub fn exited(&mut self, now: Instant, because: impl Into<String>) {
        let because = because.into();
        self.exits += 1;
        self.good = 0;
        self.bad = 0;
        self.ok_since = None;
        match self.state {
            State::Off => {}
            State::Failed => self.because = because,
            State::Starting | State::Ok | State::Failing => {
                if self.exits > self.config.fast_restarts {
                    let restarts = self.config.fast_restarts;
                    self.fail(now, format!("{because}; {restarts} fast restarts did not help"));
                    return;
                }
                if self.state != State::Starting {
                    self.state = State::Failing;
                    let until = now + Duration::from_millis(self.config.restart_limit_ms);
                    // the first exit sets the limit: a second one must not stretch it
                    if !self.recovers_from_exit() {
                        self.trouble = Some(Trouble::Exit { until });
                    }
                }
                self.because = because;
            }
        }
    }

    /// A hung service is being killed and started again: not again before `until`.
    pub fn restarted_hung(&mut self, until: Instant) {
        if self.failed_since.is_some() {
            self.failed_since = Some(until);
        }
    }

    /// It cannot be started at all: no use in waiting for probes.
    pub fn broken(&mut self, now: Instant, because: impl Into<String>) {
        self.good = 0;
        self.ok_since = None;
        self.fail(now, because.into());
    }

    /// When [`Health::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.state, self.trouble) {
            (State::Starting, _) => self.start_until,
            (State::Failing, Some(Trouble::Exit { until })) => Some(until),
            _ => None,
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            let text = match self.state {
                State::Starting => format!("does not answer {} s after its start", self.config.start_limit_ms / 1000),
                _ => format!("does not answer again {} ms after its process ended", self.config.restart_limit_ms),
            };
            let because = format!("{text}: {}", self.because);
            self.fail(now, because);
        }
    }

    fn fail(&mut self, now: Instant, because: String) {
        self.state = State::Failed;
        self.because = because;
        self.trouble = None;
        self.start_until = None;
        self.failed_since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn ok(now: Instant) -> Health {
        let mut health = Health::new(HealthConfig::default());
        health.starting(now, "started");
        assert_eq!(health.state(), State::Starting);
        health.probe_good(now, "answers");
        assert_eq!(health.state(), State::Ok);
        health
    }

    #[test]
    fn an_excused_probe_fails_nothing_and_mends_nothing() {
        let t = Instant::now();
        let mut health = ok(t);
        for _ in 0..9 {
            health.probe_excused("held");
            assert_eq!((health.state(), health.because()), (State::Failing, "held"));
        }
        health.probe_good(t, "answers");
        assert_eq!(health.state(), State::Ok, "one good one will do");
        for _ in 0..3 {
            health.probe_bad(t, "no answer");
        }
        health.probe_good(t, "answers");
        health.probe_good(t, "answers");
        health.probe_excused("held");
        assert_eq!((health.state(), health.because()), (State::Failed, "no answer (3 probes in a row)"));
        health.probe_good(t, "answers");
        assert_eq!(health.state(), State::Failed, "not the third in a row");
        // What its process does counts as ever.
        let mut health = ok(t);
        health.exited(t, "ended");
        health.probe_excused("held");
        assert!(health.recovers_from_exit() && health.because() == "ended");
    }

    #[test]
    fn three_failed_probes_in_a_row_and_three_good_ones() {
        let t = Instant::now();
        let mut health = ok(t);
        health.probe_bad(t, "no answer");
        health.probe_bad(t, "no answer");
        health.probe_good(t, "answers");
        assert_eq!(health.state(), State::Ok);
        for expected in [State::Failing, State::Failing, State::Failed] {
            health.probe_bad(t, "no answer");
            assert_eq!(health.state(), expected);
        }
        assert_eq!(health.because(), "no answer (3 probes in a row)");
        health.probe_good(t, "answers");
        health.probe_good(t, "answers");
        health.probe_bad(t, "no answer");
        for expected in [State::Failed, State::Failed, State::Ok] {
            health.probe_good(t, "answers");
            assert_eq!(health.state(), expected);
        }
    }

    #[test]
    fn an_exit_has_until_the_limit() {
        let t = Instant::now();
        let mut health = ok(t);
        health.exited(t, "killed");
        assert_eq!(health.state(), State::Failing);
        for _ in 0..10 {
            health.probe_bad(t, "connection refused");
        }
        assert_eq!(health.state(), State::Failing, "refused probes of a process that starts do not count");
        health.exited(t + ms(300), "killed again");
        assert_eq!(health.deadline(), Some(t + ms(400)), "a second exit must not stretch the limit");
        health.tick(t + ms(399));
        assert_eq!(health.state(), State::Failing);
        health.tick(t + ms(400));
        assert_eq!(health.state(), State::Failed);
        assert!(health.because().contains("killed again"));
    }

    #[test]
    fn two_fast_restarts_then_failed_and_forgiven_after_a_minute() {
        let t = Instant::now();
        let mut health = ok(t);
        for _ in 0..2 {
            health.exited(t, "killed");
            health.probe_good(t, "answers");
            assert_eq!(health.state(), State::Ok);
        }
        health.exited(t, "killed");
        assert_eq!(health.state(), State::Failed);
        for _ in 0..3 {
            health.probe_good(t, "answers");
        }
        assert_eq!(health.state(), State::Ok);
        health.exited(t, "killed");
        assert_eq!(health.state(), State::Failed, "not forgiven yet");
        for second in 0..64 {
            health.probe_good(t + ms(second * 1000), "answers");
        }
        health.exited(t + ms(64_000), "killed");
        assert_eq!(health.state(), State::Failing);
    }

    #[test]
    fn a_start_has_its_own_limit() {
        let t = Instant::now();
        let mut health = Health::new(HealthConfig::default());
        health.starting(t, "started");
        for _ in 0..50 {
            health.probe_bad(t, "connection refused");
        }
        assert_eq!(health.state(), State::Starting);
        health.tick(t + ms(30_000));
        assert_eq!(health.state(), State::Failed);
        let mut refused = Health::new(HealthConfig::default());
        refused.starting(t, "started");
        refused.probe_refused(t + ms(100), "no such export");
        refused.probe_refused(t + ms(4000), "no such export");
        assert_eq!(refused.deadline(), Some(t + ms(5100)));
        health.off("told so");
        assert_eq!((health.state(), health.deadline()), (State::Off, None));
    }
}
