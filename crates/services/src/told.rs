//! What the daemon is told of one service: health with the service's last words, each change once.

use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::health::Health;
use crate::report::{Report, State};

/// Publishes the reports of one service.
#[derive(Debug)]
pub(crate) struct Told {
    service: &'static str,
    /// The service's last words, while it is not well.
    pub(crate) output: Vec<String>,
    /// What a check of its configuration complained about.
    pub(crate) warnings: Vec<String>,
    /// It was found running and no probe has answered yet. That is not said: after a reload it would be "starting" for that
    /// moment, and its node would lose the addresses that it serves well.
    pub(crate) unprobed: bool,
    /// How often its process was started.
    pub(crate) starts: u64,
    reports: mpsc::Sender<Report>,
    state: watch::Sender<State>,
    last: Option<Report>,
    unsent: Option<Report>,
}

impl Told {
    pub(crate) fn new(service: &'static str, reports: mpsc::Sender<Report>) -> Self {
        let state = watch::Sender::new(State::Off);
        Self {
            service,
            output: Vec::new(),
            warnings: Vec::new(),
            unprobed: false,
            starts: 0,
            reports,
            state,
            last: None,
            unsent: None,
        }
    }

    /// Follows the state.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Publishes what changed.
    pub(crate) fn report(&mut self, health: &Health) {
        let state = health.state();
        if self.unprobed && state == State::Starting {
            return;
        }
        let mut because = health.because().to_owned();
        let mut output = self.output.clone();
        if !self.warnings.is_empty() && state != State::Off {
            because += "; its configuration has warnings";
            output.splice(0..0, self.warnings.iter().cloned());
        }
        let report = Report { starts: self.starts, ..Report::new(self.service, state, because).with_output(output) };
        if self.last.as_ref().is_none_or(|last| !last.says_the_same(&report)) {
            if self.last.as_ref().is_none_or(|last| last.state != state) {
                info!(service = self.service, %state, because = report.because, output = ?report.output, "health");
            }
            self.last = Some(report.clone());
            self.unsent = Some(report);
        }
        // A full channel must not keep a service from being restarted: the newest report is tried again
        if let Some(report) = self.unsent.take()
            && let Err(mpsc::error::TrySendError::Full(report)) = self.reports.try_send(report)
        {
            self.unsent = Some(report);
        }
        self.state.send_if_modified(|old| std::mem::replace(old, state) != state);
    }
}
