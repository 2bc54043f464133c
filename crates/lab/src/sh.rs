//! Runs other programs: with a deadline, their output in the error.
//!
//! The laboratory is made of the tools that an administrator would use (ip, mount, gluster, smbclient), so that
//! what it does can be repeated by hand. Nothing here interprets their output.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a program left behind: its status and both outputs.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// True when it was killed because its time was over.
    pub(crate) timed_out: bool,
}

impl Outcome {
    pub(crate) fn ok(&self) -> bool {
        self.status.success() && !self.timed_out
    }

    /// Both outputs, for messages.
    pub(crate) fn text(&self) -> String {
        let mut text = self.stdout.trim_end().to_owned();
        if !self.stderr.trim().is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(self.stderr.trim_end());
        }
        text
    }
}

/// One line that a person could paste.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    words.join(" ")
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe only ends the output early; the exit status tells the rest.
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

/// Kills a child and everything in its process group.
pub(crate) fn kill_group(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Runs `command` to its end, or for `limit`; its failure is not an error here.
pub(crate) fn outcome(command: &mut Command, limit: Duration) -> Result<Outcome> {
    outcome_of(command, "", limit)
}

/// As [`outcome`], with this on its standard input.
pub(crate) fn outcome_of(command: &mut Command, input: &str, limit: Duration) -> Result<Outcome> {
    let what = line(command);
    let mut child = command
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{what}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Less than a pipe holds; a program that reads none of it says so in its own words.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let (status, timed_out) = loop {
        if let Some(status) = child.try_wait()? {
            break (status, false);
        }
        if Instant::now() > end {
            kill_group(&mut child);
            break (ExitStatus::from_raw(9), true);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let text = |h: Option<std::thread::JoinHandle<Vec<u8>>>| -> String {
        match h {
            // A killed program's own children may keep the pipe open: then its output is given up.
            Some(h) => {
                let grace = Instant::now() + Duration::from_secs(if timed_out { 1 } else { 5 });
                while !h.is_finished() && Instant::now() < grace {
                    std::thread::sleep(Duration::from_millis(1));
                }
                if h.is_finished() {
                    h.join().map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
                } else {
                    String::new()
                }
            }
            None => String::new(),
        }
    };
    Ok(Outcome { status, stdout: text(out), stderr: text(err), timed_out })
}

/// Runs `command`; its standard output. An error carries all it said.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let what = line(command);
    let done = outcome(command, limit)?;
    if done.timed_out {
        bail!("`{what}` was not done after {:.0} s\n{}", limit.as_secs_f64(), done.text());
    }
    if !done.ok() {
        bail!("`{what}` failed ({})\n{}", done.status, done.text());
    }
    Ok(done.stdout)
}

/// Runs a program with plain words, for at most ten seconds.
pub(crate) fn quick(words: &[&str]) -> Result<String> {
    let (program, args) = words.split_first().context("no command given")?;
    run(Command::new(program).args(args), Duration::from_secs(10))
}

/// Asks again until `condition` gives something; `what` is named in the error.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    let mut last = None;
    loop {
        match condition() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(e) => last = Some(e),
        }
        if Instant::now() > end {
            let after = format!("waited {:.0} s for: {what}", limit.as_secs_f64());
            return Err(match last {
                Some(e) => e.context(after),
                None => anyhow::anyhow!(after),
            });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
