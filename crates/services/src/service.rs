//! The task of one service: start, watch, probe, restart, stop.
//!
//! It owns the process and the health; everything else reads its reports. Probes run beside it, so that a
//! hung service never delays the notice of an exit or the order to stop. A probe that is not answered after
//! a third of its deadline is followed by another at once: three unanswered ones then take 2.7 s at most
//! from the moment a service hangs, at an interval and a deadline of 1 s.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::config::{HealthConfig, ServicesConfig};
use crate::hanging::Answer;
use crate::health::Health;
use crate::hold::{Hold, noticed_late};
use crate::kind::Kind;
use crate::parts::Parts;
use crate::probe::ProbeError;
use crate::report::{Report, State};
use crate::supervisor::{Backoff, Supervisor};
use crate::told::Told;

/// Between probes of a service that starts.
const START_POLL: Duration = Duration::from_millis(100);
/// Between probes of one that is started again: its clients wait, and the addresses may have to move.
const RESTART_POLL: Duration = Duration::from_millis(25);
/// How often output files are looked at and unsent reports are tried again.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What a service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Nothing yet.
    Wait,
    /// Stop it, also what an earlier daemon left, and acknowledge the number.
    Stop(u64, Why),
    Run,
    /// End the task, leave the process running.
    Leave,
}

/// Why a service is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// This node does not serve.
    NotServing,
    /// A new configuration does not enable it.
    NotEnabled,
}

/// What else a service hears of.
#[derive(Debug, Clone)]
pub(crate) struct Cues {
    /// The shared filesystem answers nobody on this node: no service can be told hung.
    pub(crate) silent: watch::Receiver<bool>,
    /// This node's own storage clients are held, or were.
    pub(crate) hold: watch::Receiver<Hold>,
    /// All clients of this node are with other nodes: counts how often that came to pass.
    pub(crate) deserted: watch::Receiver<u64>,
}

/// What a probe found, and when it was sent.
struct Probed {
    at: Instant,
    result: Result<String, ProbeError>,
}

pub(crate) struct Service {
    kind: Kind,
    parts: Parts,
    config: HealthConfig,
    supervisor: Supervisor,
    health: Health,
    backoff: Backoff,
    orders: watch::Receiver<Order>,
    cues: Cues,
    /// Who wants it ended, for what it has in hand.
    ends: mpsc::UnboundedReceiver<Answer>,
    /// The command of the next start, after the service was ended for that.
    anew: Option<Vec<String>>,
    /// The service that must answer before this one is started.
    after: Option<watch::Receiver<State>>,
    told: Told,
    /// Number of the last stop that was carried out.
    stopped: watch::Sender<u64>,
    probes: JoinSet<Probed>,
    next_probe: Option<Instant>,
    next_start: Option<Instant>,
    /// Since when it is to run.
    begun: Instant,
    /// The last probe failed, and nobody was blamed for it, for this daemon had stood still.
    spared: bool,
    /// Since when it answers, over restarts that its clients hardly notice.
    answers_since: Option<Instant>,
    run_dir: PathBuf,
}

impl Service {
    pub(crate) fn new(
        kind: Kind,
        parts: Parts,
        services: &ServicesConfig,
        orders: watch::Receiver<Order>,
        (cues, ends): (Cues, Option<mpsc::UnboundedReceiver<Answer>>),
        after: Option<watch::Receiver<State>>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let supervisor = Supervisor::new(kind.spec(services));
        let told = Told::new(kind.name(), reports);
        Self {
            kind,
            parts,
            config: services.health.clone(),
            supervisor,
            health: Health::new(services.health.clone()),
            backoff: Backoff::default(),
            orders,
            cues,
            ends: ends.unwrap_or_else(|| mpsc::unbounded_channel().1),
            anew: None,
            after,
            told,
            stopped: watch::Sender::new(0),
            probes: JoinSet::new(),
            next_probe: None,
            next_start: None,
            begun: Instant::now(),
            spared: false,
            answers_since: None,
            run_dir: services.run_dir.clone(),
        }
    }

    /// Follows the state.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.told.state()
    }

    /// Follows the stops: a number that is reached means that the process is gone.
    pub(crate) fn stopped(&self) -> watch::Receiver<u64> {
        self.stopped.subscribe()
    }

    pub(crate) async fn run(mut self) {
        loop {
            let order = *self.orders.borrow_and_update();
            match order {
                Order::Leave => return,
                Order::Run => {
                    self.begin().await;
                    self.serve().await;
                    continue;
                }
                Order::Stop(number, why) => {
                    self.stop(why).await;
                    self.stopped.send_replace(number);
                }
                Order::Wait => {}
            }
            loop {
                tokio::select! {
                    changed = self.orders.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    // It is stopped; or what an earlier daemon left is not known yet.
                    Some(ended) = self.ends.recv() => self.end(ended).await,
                }
            }
        }
    }

    /// Kills it, for the sake of clients that are with other nodes now: what hangs in it must not be carried out later.
    async fn end(&mut self, ended: Answer) {
        let runs = self.supervisor.is_running();
        let done = if runs && !self.supervisor.may_restart() {
            Err(format!("{} is not managed here (manage = false): it is not ended", self.kind.program()))
        } else {
            if runs {
                warn!(
                    service = self.kind.name(),
                    "{} hangs with what clients have sent again elsewhere: it is killed, and started again",
                    self.kind.program()
                );
            }
            in_time(&mut self.health, &mut self.told, self.supervisor.kill()).await.map_err(|error| error.to_string())
        };
        let stuck = done.as_ref().err().filter(|_| self.supervisor.may_restart()).cloned();
        let killed = runs && done.is_ok();
        // Who asked may have ended meanwhile.
        let _ = ended.send(done);
        if killed {
            self.on_exit("was ended, for it hangs and its clients are with other nodes").await;
        } else if let Some(why) = stuck {
            self.health.broken(Instant::now(), why);
            self.schedule_start();
        }
    }

    /// Stops whatever runs; that may be what an earlier daemon left.
    async fn stop(&mut self, why: Why) {
        if !self.supervisor.is_running()
            && let Err(error) = self.supervisor.adopt().await
        {
            warn!(service = self.kind.name(), %error, "cannot take over what runs");
        }
        self.probes.abort_all();
        loop {
            match self.supervisor.end().await {
                Ok(()) => break,
                Err(error) => {
                    // Off would promise that nothing holds the mount any more
                    let now = Instant::now();
                    self.health.broken(now, format!("does not stop: {error}"));
                    self.report();
                    if matches!(*self.orders.borrow(), Order::Leave) {
                        return;
                    }
                    tokio::time::sleep(HOUSEKEEPING).await;
                    if let Err(error) = self.supervisor.adopt().await {
                        warn!(service = self.kind.name(), %error, "still cannot be stopped");
                    }
                    if !self.supervisor.is_running() {
                        break;
                    }
                }
            }
        }
        self.told.output.clear();
        self.told.warnings.clear();
        self.told.unprobed = false;
        self.backoff = Backoff::default();
        self.answers_since = None;
        self.kind.on_stop();
        self.health.off(match (self.supervisor.may_restart(), why) {
            (true, Why::NotServing) => "stopped: this node does not serve",
            (true, Why::NotEnabled) => "stopped: the configuration does not enable it any more",
            (false, Why::NotServing) => "not looked at: this node does not serve (manage = false, it may run on)",
            (false, Why::NotEnabled) => {
                "not looked at: the configuration does not enable it any more (manage = false, it may run on)"
            }
        });
        self.report();
    }

    /// Takes over what runs, or schedules a start.
    async fn begin(&mut self) {
        let now = Instant::now();
        self.begun = now;
        self.next_start = Some(now);
        self.next_probe = None;
        if self.supervisor.is_running() {
            self.next_start = None;
        } else if self.kind.may_be_shared() && self.kind.probe(self.config.deadline()).await.is_ok() {
            // somebody's rpcbind is everybody's; but one of ours is still ours to stop
            if !matches!(self.supervisor.adopt().await, Ok(true)) {
                self.supervisor.leave_to_others();
            }
            self.next_start = None;
        } else {
            match self.supervisor.adopt().await {
                Ok(true) => self.next_start = None,
                Ok(false) => {}
                Err(error) => {
                    self.health.broken(now, error.to_string());
                    self.report();
                }
            }
        }
        if self.next_start.is_none() {
            let pid = self.supervisor.pid().map_or_else(String::new, |pid| format!(", pid {pid}"));
            info!(service = self.kind.name(), "{} runs already{pid}", self.kind.program());
            if let Ok(warnings) = self.kind.prepare().await {
                self.told.warnings = warnings;
            }
            self.health.starting(Instant::now(), "runs already, not probed yet");
            self.told.unprobed = true;
            self.next_probe = Some(Instant::now());
        } else {
            self.health.starting(now, "being started");
        }
        self.report();
    }

    /// Until the order changes.
    async fn serve(&mut self) {
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        loop {
            let now = Instant::now();
            tokio::select! {
                biased;
                changed = self.orders.changed() => {
                    if changed.is_err() || *self.orders.borrow() != Order::Run {
                        return;
                    }
                }
                Ok(()) = self.cues.deserted.changed() => self.begin_anew().await,
                Some(ended) = self.ends.recv() => self.end(ended).await,
                how = self.supervisor.ended(), if self.parts.exits => self.on_exit(&how).await,
                Some(Ok(probed)) = self.probes.join_next(), if !self.probes.is_empty() => {
                    self.on_probe(probed).await;
                }
                () = at(self.next_start) => self.on_start().await,
                () = at(self.next_probe) => self.send_probe(now),
                () = at(self.health.deadline()) => {
                    self.health.tick(Instant::now());
                    self.told.output = self.supervisor.last_lines().await;
                }
                _ = housekeeping.tick() => self.housekeep().await,
            }
            self.report();
        }
    }

    async fn on_start(&mut self) {
        self.next_start = None;
        if !self.predecessor_ready() {
            self.health.starting(Instant::now(), "waits for rpcbind to answer");
            self.next_start = Some(Instant::now() + START_POLL);
            return;
        }
        // The first restart is fast: what was good a moment ago is not checked again before it
        if self.backoff.attempts() != 1 {
            match self.kind.prepare().await {
                Ok(warnings) => self.told.warnings = warnings,
                Err(not_ready) => {
                    self.health.broken(Instant::now(), not_ready.because);
                    self.told.output = not_ready.output;
                    self.schedule_start();
                    return;
                }
            }
        }
        let anew = self.anew.take();
        let other = match self.answers_since {
            _ if anew.is_some() => anew,
            Some(since) => self.kind.restart_command(&self.run_dir, Some(since.elapsed())).await,
            None => None,
        };
        if other.is_none() {
            self.answers_since = None;
        }
        let command = self.kind.this_start(other);
        match in_time(&mut self.health, &mut self.told, self.supervisor.start_as(command)).await {
            Ok(()) => {
                let pid = self.supervisor.pid().map_or_else(String::new, |pid| format!(" as pid {pid}"));
                info!(service = self.kind.name(), "{} started{pid}", self.kind.program());
                self.told.starts += 1;
                self.health.starting(Instant::now(), format!("{} started{pid}", self.kind.program()));
                self.next_probe = Some(Instant::now());
            }
            Err(error) => {
                self.health.broken(Instant::now(), error.to_string());
                self.told.output = self.supervisor.last_lines().await;
                self.schedule_start();
            }
        }
    }

    /// Ends the service and starts it again when it may only keep what others need: it has no client any more. Not when it
    /// could not start without a grace period, which would make those wait who come back.
    async fn begin_anew(&mut self) {
        self.cues.deserted.mark_unchanged();
        if self.health.state() != State::Ok || !self.supervisor.is_ours() {
            return;
        }
        let Some(command) = self.kind.restart_command(&self.run_dir, None).await else { return };
        let because = "its clients are with other nodes, which wait for what it keeps of their files";
        info!(service = self.kind.name(), "{} is ended and started again: {because}", self.kind.program());
        self.probes.abort_all();
        self.next_probe = None;
        self.health.starting(Instant::now(), format!("started again: {because}"));
        self.report();
        let now = Instant::now();
        match in_time(&mut self.health, &mut self.told, self.supervisor.kill()).await {
            Ok(()) => {
                self.anew = Some(command);
                self.next_start = Some(now);
            }
            Err(error) => {
                self.health.broken(now, error.to_string());
                self.schedule_start();
            }
        }
    }

    async fn on_exit(&mut self, how: &str) {
        self.told.unprobed = false;
        self.kind.on_exit();
        self.probes.abort_all();
        self.next_probe = None;
        self.health.exited(Instant::now(), format!("{} {how}", self.kind.program()));
        self.report();
        let swept = in_time(&mut self.health, &mut self.told, self.supervisor.sweep()).await;
        if let Err(error) = swept {
            self.health.broken(Instant::now(), error.to_string());
        }
        // before the start, which begins a new page
        self.told.output = self.supervisor.last_lines().await;
        self.schedule_start();
    }

    async fn on_probe(&mut self, probed: Probed) {
        let now = Instant::now();
        self.told.unprobed = false;
        match probed.result {
            Ok(what) => {
                self.spared = false;
                self.answers_since.get_or_insert(now);
                self.backoff.healthy(now);
                self.health.probe_good(now, what);
                if self.health.state() == State::Ok {
                    self.told.output = Vec::new();
                }
                // it answers, so those that wait beside this one have nothing to add
                self.probes.abort_all();
                self.next_probe = Some(probed.at + self.config.interval());
            }
            Err(_) if !self.parts.probes && self.health.state() == State::Ok => {
                self.next_probe = Some(now + self.config.interval());
            }
            Err(error) => {
                self.backoff.unhealthy();
                let before = self.health.state();
                if let Some(why) = self.excuse(&error, probed.at, now) {
                    self.health.probe_excused(format!("{error}; {why}"));
                } else if matches!(error, ProbeError::Refused { .. }) {
                    self.health.probe_refused(now, error.to_string());
                } else {
                    self.health.probe_bad(now, error.to_string());
                }
                if self.health.state() == State::Failed && before != State::Failed {
                    self.told.output = self.supervisor.last_lines().await;
                }
                let next = match self.health.state() {
                    State::Starting => now + START_POLL,
                    State::Failing if self.health.recovers_from_exit() => now + RESTART_POLL,
                    State::Off | State::Ok | State::Failing => now + self.config.deadline() / 3,
                    State::Failed => (probed.at + self.config.interval()).max(now + START_POLL),
                };
                self.next_probe = Some(self.next_probe.map_or(next, |planned| planned.min(next)));
            }
        }
    }

    /// Why the service is not to blame for a failed probe. One that answers wrongly, or is not there, is.
    fn excuse(&mut self, error: &ProbeError, sent: Instant, now: Instant) -> Option<&'static str> {
        if !error.is_hang() {
            return None;
        }
        if let Some(why) = self.cues.hold.borrow().excuse(self.begun, now) {
            return Some(why);
        }
        // Not twice in a row: a machine that is always late must notice a service that hangs, too.
        self.spared = !self.spared && noticed_late(sent, self.config.deadline(), now);
        self.spared.then_some("this daemon has stood still meanwhile")
    }

    fn send_probe(&mut self, now: Instant) {
        let probe = self.kind.probe(self.config.deadline());
        self.probes.spawn(async move { Probed { at: now, result: probe.await } });
        let suspect = matches!(self.health.state(), State::Ok | State::Failing) && !self.health.recovers_from_exit();
        let most = usize::try_from(self.config.failures).unwrap_or(usize::MAX);
        // otherwise the next one is planned when this one has ended
        self.next_probe = (suspect && self.probes.len() < most).then(|| now + self.config.deadline() / 3);
    }

    async fn housekeep(&mut self) {
        self.supervisor.bound_output().await;
        if *self.cues.silent.borrow() || self.cues.hold.borrow().lasts() {
            // Its patience begins when the filesystem answers again.
            self.health.restarted_hung(Instant::now());
            return;
        }
        let hung_for = self.health.failed_since().map(|since| Instant::now().saturating_duration_since(since));
        let patience = Duration::from_secs(self.config.restart_hung_after);
        if patience.is_zero() || self.next_start.is_some() || hung_for.is_none_or(|hung| hung < patience) {
            return;
        }
        if !self.supervisor.may_restart() {
            return;
        }
        let delay = self.backoff.next_delay(Instant::now());
        warn!(service = self.kind.name(), "{} is hung, it is killed and started again", self.kind.program());
        self.probes.abort_all();
        self.next_probe = None;
        self.health.restarted_hung(Instant::now() + delay);
        match self.supervisor.stop().await {
            Ok(()) => self.next_start = Some(Instant::now()),
            Err(error) => {
                self.health.broken(Instant::now(), error.to_string());
                self.next_probe = Some(Instant::now() + self.config.interval());
            }
        }
    }

    fn schedule_start(&mut self) {
        let now = Instant::now();
        self.next_start = Some(now + self.backoff.next_delay(now));
    }

    fn predecessor_ready(&self) -> bool {
        self.after.as_ref().is_none_or(|after| after.borrow().can_host())
    }

    fn report(&mut self) {
        self.told.report(&self.health);
    }
}

/// Does what may hang in the kernel or in systemd, while the health's own deadline is kept: addresses must not
/// wait for it.
async fn in_time<T>(health: &mut Health, told: &mut Told, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = at(health.deadline()) => {
                health.tick(Instant::now());
                told.report(health);
            }
        }
    }
}

/// Waits until then; for ever when there is no then.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
