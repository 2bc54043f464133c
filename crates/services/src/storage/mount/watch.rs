//! Watches a ready mount: one probe a second, its health as reports.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::probe::{NOT_MOUNTED, Probed};
use super::{Mount, PROBE_DEADLINE};
use crate::hold::{Hold, noticed_late};
use crate::report::{Report, State};
use crate::storage::helper::HelperError;

const INTERVAL: Duration = Duration::from_secs(1);
/// Errors in a row that make it failed; good probes in a row that make it ok again.
const DAMPING: u32 = 3;
/// After this long without an answer a fresh mount is asked for.
const BEYOND_REPAIR: Duration = Duration::from_secs(60);
/// A probe that takes longer than this is told at once, before it is known how it ends: others then do not send addresses
/// here that leave them because the whole volume hangs. More than a busy machine's probe takes.
const HESITATES: Duration = Duration::from_millis(700);
const SERVICE: &str = "storage";

/// What is remembered between probes.
#[derive(Debug, Default)]
struct Health {
    bad: u32,
    good: u32,
    failed: bool,
    /// Since when it has not answered, by both clocks: one to measure, one to tell.
    silent: Option<(Instant, SystemTime)>,
    /// The last probe failed, and nobody was blamed for it, for this daemon had stood still.
    spared: bool,
}

/// What follows from one probe.
#[derive(Debug)]
struct Judged {
    state: State,
    because: String,
    /// No use in waiting: unmount, then mount afresh.
    give_up: bool,
}

impl Health {
    fn judge(&mut self, now: Instant, at: SystemTime, path: &str, result: &Result<Probed, HelperError>) -> Judged {
        let error = match result {
            Ok(probed) => return self.judge_good(path, probed),
            Err(error) => error,
        };
        self.good = 0;
        self.bad = self.bad.saturating_add(1);
        if error.is_hang() {
            let asked = now.checked_sub(PROBE_DEADLINE).unwrap_or(now);
            let &mut (since, told) =
                self.silent.get_or_insert_with(|| (asked, at.checked_sub(PROBE_DEADLINE).unwrap_or(at)));
            self.failed = true;
            let because = format!("{path} does not answer since {}", clock(told));
            return Judged { state: State::Failed, because, give_up: now.duration_since(since) >= BEYOND_REPAIR };
        }
        self.silent = None;
        let text = error.to_string();
        if text == NOT_MOUNTED || text.contains("Transport endpoint is not connected") {
            self.failed = true;
            let what = if text == NOT_MOUNTED { "is not mounted any more" } else { "lost its client process" };
            return Judged { state: State::Failed, because: format!("{path} {what}"), give_up: true };
        }
        self.failed |= self.bad >= DAMPING;
        let state = if self.failed { State::Failed } else { State::Failing };
        Judged { state, because: text, give_up: false }
    }

    /// Why the mount is not to blame for a probe that hung.
    fn why_not_to_blame(
        &mut self,
        hold: Hold,
        begun: Instant,
        (sent, now): (Instant, Instant),
    ) -> Option<&'static str> {
        if let Some(why) = hold.excuse(begun.into_std(), now.into_std()) {
            return Some(why);
        }
        // Not twice in a row: a machine that is always late must notice a mount that hangs, too.
        self.spared = !self.spared && noticed_late(sent.into_std(), PROBE_DEADLINE, now.into_std());
        self.spared.then_some("this daemon has stood still meanwhile")
    }

    /// A probe failed for which the mount is not to blame, `why` says for what reason. One that has failed stays so.
    fn excuse(&mut self, path: &str, why: &str) -> Judged {
        self.good = 0;
        self.bad = 0;
        self.silent = None;
        let state = if self.failed { State::Failed } else { State::Failing };
        Judged { state, because: format!("{path} does not answer: {why}"), give_up: false }
    }

    fn judge_good(&mut self, path: &str, probed: &Probed) -> Judged {
        self.silent = None;
        self.spared = false;
        self.bad = 0;
        self.good = self.good.saturating_add(1);
        if self.failed && self.good < DAMPING {
            let because = format!("{path} answers again; waiting for {DAMPING} good probes in a row");
            return Judged { state: State::Failed, because, give_up: false };
        }
        self.failed = false;
        // A full volume is full on every node: moving addresses would not help, and reads go on.
        let because = match &probed.full {
            Some(error) => format!("{path} answers, but cannot be written: {error}"),
            None => format!("{path} answers"),
        };
        Judged { state: State::Ok, because, give_up: false }
    }
}

/// `HH:MM:SS UTC`.
fn clock(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()) % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Reports what is news.
async fn tell(reports: &mpsc::Sender<Report>, last: &mut Option<Report>, report: Report, warnings: &[String]) {
    let report = report.with_output(warnings.to_vec());
    if last.as_ref().is_some_and(|last| last.says_the_same(&report)) {
        return;
    }
    if reports.send(report.clone()).await.is_err() {
        // Nobody listens any more: the daemon is going away, and with it this future.
        return std::future::pending().await;
    }
    *last = Some(report);
}

/// Probes until the mount is beyond repair; returns why.
pub(super) async fn watch(mount: &Mount, hold: &watch::Receiver<Hold>, reports: &mpsc::Sender<Report>) -> String {
    let begun = Instant::now();
    let path = mount.path().display().to_string();
    let warnings = mount.warnings();
    let mut health = Health { failed: mount.ended.swap(false, Ordering::Relaxed), ..Health::default() };
    let mut last: Option<Report> = None;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        let probe = mount.probe(PROBE_DEADLINE);
        tokio::pin!(probe);
        let result = match timeout(HESITATES, &mut probe).await {
            Ok(result) => result,
            Err(_) => {
                if !health.failed {
                    let because = format!("{path} has not answered for {} ms", HESITATES.as_millis());
                    tell(reports, &mut last, Report::new(SERVICE, State::Failing, because), &warnings).await;
                }
                probe.await
            }
        };
        let now = Instant::now();
        let excuse = match &result {
            Err(error) if error.is_hang() => health.why_not_to_blame(*hold.borrow(), begun, (sent, now)),
            Ok(_) | Err(_) => None,
        };
        let judged = match excuse {
            Some(why) => health.excuse(&path, why),
            None => health.judge(now, SystemTime::now(), &path, &result),
        };
        tell(reports, &mut last, Report::new(SERVICE, judged.state, judged.because.clone()), &warnings).await;
        if judged.give_up {
            return judged.because;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Result<Probed, HelperError> {
        let zero = Duration::ZERO;
        Ok(Probed { total: 10, free: 5, statfs: zero, write: zero, full: None })
    }

    fn error(why: &str) -> Result<Probed, HelperError> {
        Err(HelperError::Refused { why: why.to_owned() })
    }

    fn hang() -> Result<Probed, HelperError> {
        Err(HelperError::Deadline { what: "probe".into(), after: PROBE_DEADLINE })
    }

    fn run(health: &mut Health, at: Instant, result: Result<Probed, HelperError>) -> Judged {
        health.judge(at, SystemTime::UNIX_EPOCH + Duration::from_secs(3725), "/m", &result)
    }

    #[tokio::test]
    async fn errors_are_damped_and_a_hang_is_not() {
        let (mut health, now) = (Health::default(), Instant::now());
        let states = |health: &mut Health, results: Vec<Result<Probed, HelperError>>| {
            results.into_iter().map(|r| run(health, now, r).state).collect::<Vec<_>>()
        };
        use State::{Failed, Failing, Ok};
        assert_eq!(states(&mut health, vec![good(), error("EIO"), good(), error("EIO")]), [Ok, Failing, Ok, Failing]);
        assert_eq!(states(&mut health, vec![error("EIO"), error("EIO"), error("EIO")]), [Failing, Failed, Failed]);
        assert_eq!(states(&mut health, vec![good(), good(), good(), good()]), [Failed, Failed, Ok, Ok]);
        let judged = run(&mut health, now, hang());
        assert_eq!((judged.state, judged.give_up), (Failed, false));
        assert_eq!(judged.because, "/m does not answer since 01:02:03 UTC");
    }

    #[tokio::test]
    async fn a_mount_beyond_repair_is_given_up() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert!(!run(&mut health, now, hang()).give_up);
        assert!(!run(&mut health, now + Duration::from_secs(30), hang()).give_up);
        assert!(run(&mut health, now + Duration::from_secs(61), hang()).give_up);
        assert!(run(&mut Health::default(), now, error(NOT_MOUNTED)).give_up);
        let lost = run(&mut Health::default(), now, error("stat of /m: Transport endpoint is not connected"));
        assert!(lost.give_up && lost.because.contains("client process"));
    }

    #[tokio::test]
    async fn a_mount_that_is_held_has_not_failed() {
        let (mut health, begun) = (Health::default(), Instant::now());
        let ms = |n| begun + Duration::from_millis(n);
        let mut hold = Hold::default();
        hold.begin(ms(100).into_std());
        let why = health.why_not_to_blame(hold, begun, (ms(0), ms(2000))).unwrap();
        let judged = health.excuse("/m", why);
        assert_eq!((judged.state, judged.give_up), (State::Failing, false));
        assert_eq!(judged.because, "/m does not answer: this node has no lease, so its storage clients are held");
        hold.end(ms(3000).into_std());
        assert!(health.why_not_to_blame(hold, begun, (ms(3000), ms(5000))).is_some());
        assert_eq!(run(&mut health, ms(6000), good()).state, State::Ok, "it has not failed, so one good probe will do");
        assert!(health.why_not_to_blame(hold, begun, (ms(8000), ms(10_000))).is_none());
        // What had failed before has to show that it is well again.
        assert_eq!(run(&mut health, ms(10_000), hang()).state, State::Failed);
        assert_eq!(health.excuse("/m", why).state, State::Failed);
    }

    #[test]
    fn a_daemon_that_stood_still_blames_nobody_once() {
        let (mut health, begun) = (Health::default(), Instant::now());
        let late = (begun, begun + PROBE_DEADLINE + Duration::from_secs(1));
        assert!(health.why_not_to_blame(Hold::default(), begun, late).is_some());
        assert!(health.why_not_to_blame(Hold::default(), begun, late).is_none());
        let in_time = (begun, begun + PROBE_DEADLINE);
        assert!(health.why_not_to_blame(Hold::default(), begun, in_time).is_none());
    }

    #[tokio::test]
    async fn a_full_volume_moves_nothing() {
        let full = Ok(Probed { full: Some("No space left on device".into()), ..good().unwrap() });
        let judged = run(&mut Health::default(), Instant::now(), full);
        assert_eq!(judged.state, State::Ok);
        assert!(judged.because.contains("No space left"));
    }
}
