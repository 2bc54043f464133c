//! A service that systemd runs: `systemctl` to start and stop it, a pidfd to notice its end at once.
//!
//! systemd may restart a unit by itself (`Restart=`); that is no conflict: a start of a unit that is active
//! or activating changes nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

use super::SupervisorError;
use super::process::watch;
use crate::output::lines_of;

/// How long systemctl may take to say how a unit is.
const SHOW_DEADLINE: Duration = Duration::from_secs(3);
/// How long the restart of a unit that ended waits for systemd's words on that.
const WORDS_DEADLINE: Duration = Duration::from_millis(100);
/// How long it may take to start one. systemd goes on by itself after that.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A systemd unit.
#[derive(Debug)]
pub(super) struct Unit {
    name: String,
    systemctl: PathBuf,
    main: Option<AsyncFd<OwnedFd>>,
    pid: Option<i32>,
}

/// What `systemctl show` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shown {
    active: String,
    result: String,
    main_pid: i32,
}

impl Shown {
    fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "reloading")
    }
}

impl Unit {
    pub(super) fn new(name: String, systemctl: PathBuf) -> Self {
        Self { name, systemctl, main: None, pid: None }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Takes over a unit that is active already.
    pub(super) async fn adopt(&mut self) -> bool {
        match self.show(SHOW_DEADLINE).await {
            Ok(shown) if shown.active == "active" => {
                self.follow(shown.main_pid);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Whether it runs, or is about to.
    pub(super) async fn is_up(&self) -> bool {
        self.show(SHOW_DEADLINE).await.is_ok_and(|shown| shown.is_up())
    }

    pub(super) async fn start(&mut self, again: bool) -> Result<(), SupervisorError> {
        // After the end of the main process a unit may count as active still, which only restart cures
        let action = [if again { "restart" } else { "start" }];
        if self.run(&action, START_DEADLINE).await.is_err() {
            // A unit that hit systemd's own start limit refuses to start until that is reset
            let _ = self.run(&["reset-failed"], SHOW_DEADLINE).await;
            self.run(&action, START_DEADLINE).await?;
        }
        let shown = self.show(SHOW_DEADLINE).await?;
        if shown.is_up() {
            self.follow(shown.main_pid);
            Ok(())
        } else {
            Err(SupervisorError::UnitNotActive { unit: self.name.clone(), state: shown.active, result: shown.result })
        }
    }

    pub(super) async fn stop(&mut self, patience: Duration) -> Result<(), SupervisorError> {
        self.main = None;
        self.pid = None;
        if self.run(&["stop"], patience).await.is_ok() {
            return Ok(());
        }
        self.run(&["kill", "--signal=KILL"], SHOW_DEADLINE).await?;
        self.run(&["stop"], patience).await.map(|_| ())
    }

    /// Ends it at once, without a chance to do anything more, and waits for that. What systemd does then is the unit's.
    pub(super) async fn kill(&mut self) -> Result<(), SupervisorError> {
        self.run(&["kill", "--signal=KILL"], SHOW_DEADLINE).await?;
        let Some(main) = &self.main else { return Ok(()) };
        let late = || SupervisorError::Stuck { service: self.name.clone(), pid: self.pid.unwrap_or_default() };
        // Only an error of epoll itself ends this early
        tokio::time::timeout(SHOW_DEADLINE, main.readable()).await.map(drop).map_err(|_| late())
    }

    /// Waits for the end of the main process. For ever when systemd knows none; the probes tell then.
    pub(super) async fn ended(&self) -> String {
        match &self.main {
            Some(main) => {
                // Only an error of epoll itself ends this early
                let _ = main.readable().await;
            }
            None => std::future::pending().await,
        }
        match self.show(WORDS_DEADLINE).await {
            Ok(shown) => format!("ended (unit {} is {}, result {})", self.name, shown.active, shown.result),
            Err(error) => format!("ended ({error})"),
        }
    }

    fn follow(&mut self, pid: i32) {
        let fd = Pid::from_raw(pid.max(0)).and_then(|pid| watch(pid).ok());
        self.pid = fd.as_ref().map(|_| pid);
        self.main = fd;
    }

    async fn show(&self, deadline: Duration) -> Result<Shown, SupervisorError> {
        let text = self.run(&["show", "--property=ActiveState,Result,MainPID"], deadline).await;
        text.map(|lines| parse(&lines))
    }

    async fn run(&self, args: &[&str], deadline: Duration) -> Result<Vec<String>, SupervisorError> {
        let failed = |problem: String| SupervisorError::Systemctl {
            unit: self.name.clone(),
            action: args.first().copied().unwrap_or_default().to_owned(),
            problem,
        };
        let child =
            Command::new(&self.systemctl).args(args).arg(&self.name).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = match tokio::time::timeout(deadline, child).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Err(failed(format!("{} is not installed", self.systemctl.display())));
            }
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {} ms", deadline.as_millis()))),
        };
        if output.status.success() {
            Ok(lines_of(&output.stdout, 20))
        } else {
            Err(failed(lines_of(&output.stderr, 3).join(" / ")))
        }
    }
}

fn parse(lines: &[String]) -> Shown {
    let mut shown = Shown::default();
    for (key, value) in lines.iter().filter_map(|line| line.split_once('=')) {
        match key {
            "ActiveState" => shown.active = value.to_owned(),
            "Result" => shown.result = value.to_owned(),
            "MainPID" => shown.main_pid = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_show_in_any_order_and_survives_nonsense() {
        let lines = ["MainPID=42", "Result=signal", "nonsense", "ActiveState=failed"].map(String::from);
        assert_eq!(parse(&lines), Shown { active: "failed".into(), result: "signal".into(), main_pid: 42 });
        assert_eq!(parse(&["MainPID=x".into()]), Shown::default());
    }
}
