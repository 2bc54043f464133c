//! Starts, watches and stops one service, whoever runs its process.
//!
//! The caller decides when ([`Backoff`] says how long to wait); this knows how. It signals only processes
//! that it started (or that an earlier daemon on this machine started, by record) and the unit it was given.

mod backoff;
mod process;
mod unit;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub use backoff::Backoff;
use process::{Found, Process, Stopped};
pub(crate) use process::{search_path, watch};
use unit::Unit;

use crate::output::{MAX_LINES, Watched, bound, within};

/// How a service is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// A foreground command of ours.
    Exec(Vec<String>),
    /// A systemd unit, through this `systemctl`.
    Unit { name: String, systemctl: PathBuf },
    /// Somebody else starts and stops it; start and stop do nothing.
    Foreign,
}

/// What a supervisor needs to know about its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Name of the service; also of its files in `run_dir`.
    pub name: String,
    pub launch: Launch,
    /// Where the record and the output of a process of ours are kept.
    pub run_dir: PathBuf,
    /// The service's own log, if it has one.
    pub log_file: Option<PathBuf>,
    /// Words that mark a line of its log as the cause of trouble; other lines then are left out.
    pub severe: &'static [&'static str],
    /// From TERM to KILL.
    pub stop_timeout: Duration,
    /// Others on this machine may use it too: a unit that ran before us is left running when we end.
    pub shared: bool,
}

/// A service could not be started or stopped.
#[derive(Debug, Error)]
pub enum SupervisorError {
    #[error("{program} is not installed (or not in PATH); install it, or name it in the configuration")]
    NotInstalled { program: String },
    #[error("cannot start {program}: {source}")]
    Spawn { program: String, source: io::Error },
    #[error("cannot use {}: {source}", path.display())]
    RunDir { path: PathBuf, source: io::Error },
    #[error("systemctl {action} {unit}: {problem}")]
    Systemctl { unit: String, action: String, problem: String },
    #[error("unit {unit} is {state} after its start (result {result}); see journalctl -u {unit}")]
    UnitNotActive { unit: String, state: String, result: String },
    /// The process may still be there.
    #[error(
        "process {pid} of {service} does not end, not even by KILL: it waits in the kernel, most likely for a hung mount"
    )]
    Stuck { service: String, pid: i32 },
}

#[derive(Debug)]
enum Running {
    No,
    Process(Process),
    Unit(Unit),
    Foreign,
}

/// One service: at most one running process or unit.
#[derive(Debug)]
pub struct Supervisor {
    spec: ServiceSpec,
    running: Running,
    /// What it writes since its last start.
    written: Vec<Watched>,
    started_before: bool,
    /// The unit ran before us, so it is not ours to end.
    borrowed: bool,
}

impl Supervisor {
    pub fn new(spec: ServiceSpec) -> Self {
        Self { spec, running: Running::No, written: Vec::new(), started_before: false, borrowed: false }
    }

    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    pub fn is_running(&self) -> bool {
        !matches!(self.running, Running::No)
    }

    /// The main process, when it is known.
    pub fn pid(&self) -> Option<i32> {
        match &self.running {
            Running::Process(process) => Some(process.pid()),
            Running::Unit(unit) => unit.pid(),
            Running::No | Running::Foreign => None,
        }
    }

    /// Takes over the service if an earlier daemon, or systemd, runs it. One that runs with another command
    /// than today's is stopped.
    pub async fn adopt(&mut self) -> Result<bool, SupervisorError> {
        let adopted = match self.spec.launch.clone() {
            Launch::Foreign => Running::Foreign,
            Launch::Unit { name, systemctl } => {
                let mut unit = Unit::new(name, systemctl);
                let active = unit.adopt().await;
                self.borrowed = active && self.spec.shared && !self.started_mark().exists();
                if !active {
                    return Ok(false);
                }
                self.started_before = true;
                Running::Unit(unit)
            }
            Launch::Exec(command) => match Process::find(&self.record(), &command) {
                Some(Found::Same(process)) => Running::Process(process),
                Some(Found::Other(process)) => {
                    self.stop_process(process).await?;
                    return Ok(false);
                }
                None => return Ok(false),
            },
        };
        self.running = adopted;
        self.watch_output().await;
        Ok(true)
    }

    /// Leaves the service to whoever runs it already: it is neither watched nor stopped by us.
    pub fn leave_to_others(&mut self) {
        self.running = Running::Foreign;
    }

    /// Starts the service. What ran before must have ended or been stopped.
    pub async fn start(&mut self) -> Result<(), SupervisorError> {
        self.start_as(None).await
    }

    /// Starts the service, a process of ours with `command` this time. The next daemon takes it for the usual one.
    pub async fn start_as(&mut self, command: Option<Vec<String>>) -> Result<(), SupervisorError> {
        self.watch_output().await;
        self.running = match self.spec.launch.clone() {
            Launch::Foreign => Running::Foreign,
            Launch::Unit { name, systemctl } => {
                let mut unit = Unit::new(name, systemctl);
                // at boot systemd may be about to start it for somebody else
                self.borrowed |= self.spec.shared && !self.started_mark().exists() && unit.is_up().await;
                unit.start(self.started_before).await?;
                if self.spec.shared && !self.borrowed {
                    self.mark_started()?;
                }
                Running::Unit(unit)
            }
            Launch::Exec(usual) => {
                self.in_run_dir(|| bound(&self.output()))?;
                let command = command.as_ref().unwrap_or(&usual);
                let program = command.first().cloned().unwrap_or_default();
                let process = Process::spawn(command, &usual, &self.output(), &self.record()).map_err(|source| {
                    if source.kind() == io::ErrorKind::NotFound {
                        SupervisorError::NotInstalled { program }
                    } else {
                        SupervisorError::Spawn { program, source }
                    }
                })?;
                Running::Process(process)
            }
        };
        self.started_before = true;
        Ok(())
    }

    /// Waits for the end of the service's main process and says how it ended; pending while nothing runs that
    /// could be watched. May be dropped and called again; then call [`Supervisor::sweep`].
    pub async fn ended(&mut self) -> String {
        match &mut self.running {
            Running::Process(process) => process.ended().await,
            Running::Unit(unit) => unit.ended().await,
            Running::No | Running::Foreign => std::future::pending().await,
        }
    }

    /// After the end of the main process: ends what is left of the service, so that a successor finds its
    /// ports free.
    pub async fn sweep(&mut self) -> Result<(), SupervisorError> {
        match std::mem::replace(&mut self.running, Running::No) {
            Running::Process(process) => {
                let pid = process.pid();
                self.gone(pid, process.sweep().await)
            }
            // systemd sweeps a unit's control group itself
            Running::No | Running::Unit(_) | Running::Foreign => Ok(()),
        }
    }

    /// Stops the service and waits for its end. Ok when nothing runs.
    pub async fn stop(&mut self) -> Result<(), SupervisorError> {
        match std::mem::replace(&mut self.running, Running::No) {
            Running::No | Running::Foreign => Ok(()),
            Running::Unit(mut unit) => unit.stop(self.spec.stop_timeout).await,
            Running::Process(process) => self.stop_process(process).await,
        }
    }

    /// Ends the service at once, without a chance to do anything more. Ok when none runs; what others run is left alone.
    pub async fn kill(&mut self) -> Result<(), SupervisorError> {
        match std::mem::replace(&mut self.running, Running::No) {
            Running::Process(process) => self.gone(process.pid(), process.kill().await),
            Running::Unit(mut unit) => unit.kill().await,
            other => {
                self.running = other;
                Ok(())
            }
        }
    }

    /// Ends our use of the service: stops it, or leaves it to the others when it ran before us.
    pub async fn end(&mut self) -> Result<(), SupervisorError> {
        if self.borrowed && matches!(self.running, Running::Unit(_)) {
            self.running = Running::No;
            return Ok(());
        }
        self.stop().await?;
        // One that stays behind makes a unit ours that we did not start, so that it is stopped once too often
        let _ = std::fs::remove_file(self.started_mark());
        Ok(())
    }

    /// The last lines of its output and log since the last start.
    pub async fn last_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for written in &self.written {
            lines.extend(written.last_lines(MAX_LINES, self.spec.severe).await);
        }
        let surplus = lines.len().saturating_sub(MAX_LINES);
        lines.drain(..surplus);
        lines
    }

    /// Empties the output file of a process of ours when it has grown too large.
    pub async fn bound_output(&self) {
        if matches!(self.running, Running::Process(_)) {
            let output = self.output();
            // a failure is met again, and told, at the next start
            let _ = within(Duration::from_secs(1), move || bound(&output)).await;
        }
    }

    /// Whether what runs is a process of ours, and not a unit or somebody else's.
    pub fn is_ours(&self) -> bool {
        matches!(self.running, Running::Process(_))
    }

    /// Whether a service that hangs is ours to start again. One that others began is, once it is gone.
    pub fn may_restart(&self) -> bool {
        self.spec.launch != Launch::Foreign
    }

    async fn stop_process(&self, process: Process) -> Result<(), SupervisorError> {
        self.gone(process.pid(), process.stop(self.spec.stop_timeout).await)
    }

    fn gone(&self, pid: i32, stopped: Stopped) -> Result<(), SupervisorError> {
        match stopped {
            Stopped::Gone => Ok(()),
            Stopped::Stuck => Err(SupervisorError::Stuck { service: self.spec.name.clone(), pid }),
        }
    }

    async fn watch_output(&mut self) {
        self.written.clear();
        if matches!(self.spec.launch, Launch::Exec(_)) {
            self.written.push(Watched::from_here(&self.output()).await);
        }
        if let Some(log) = &self.spec.log_file {
            self.written.push(Watched::from_here(log).await);
        }
    }

    /// Says to the next daemon that the unit is ours to stop: it did not run before us.
    fn mark_started(&self) -> Result<(), SupervisorError> {
        self.in_run_dir(|| std::fs::write(self.started_mark(), b""))
    }

    fn in_run_dir(&self, work: impl FnOnce() -> io::Result<()>) -> Result<(), SupervisorError> {
        std::fs::create_dir_all(&self.spec.run_dir)
            .and_then(|()| work())
            .map_err(|source| SupervisorError::RunDir { path: self.spec.run_dir.clone(), source })
    }

    fn started_mark(&self) -> PathBuf {
        self.spec.run_dir.join(format!("{}.started", self.spec.name))
    }

    fn record(&self) -> PathBuf {
        self.spec.run_dir.join(format!("{}.json", self.spec.name))
    }

    fn output(&self) -> PathBuf {
        self.spec.run_dir.join(format!("{}.out", self.spec.name))
    }
}

#[cfg(test)]
mod tests;
