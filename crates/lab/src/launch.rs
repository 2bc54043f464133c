//! Starts a laboratory and finds running ones.
//!
//! A laboratory is a mount, a network and a pid namespace with one process as pid 1 ([`crate::pid1`]). Everything,
//! nodes and probes and virtual machines too, lives below it. When that process ends, however it ends, the kernel
//! kills the rest and drops every mount and interface: there is nothing that a clean-up could forget. It reads a
//! pipe whose other end only its owner holds, so an owner that was killed takes its laboratory with it.
//!
//! On the machine itself a laboratory leaves only its entry below [`REGISTRY`].

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Entries of running laboratories, and the mount points of their state.
pub(crate) const REGISTRY: &str = "/run/steadfast-lab";

/// How other shells find a laboratory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    /// pid 1 of the laboratory, as the machine sees it.
    pub(crate) pid: i32,
    /// Start time of that process, so that a reused pid is not taken for it.
    started: u64,
    /// Who started it; None for one that stays until `down`.
    pub(crate) owner: Option<u32>,
}

impl Entry {
    fn path(id: &str) -> PathBuf {
        Path::new(REGISTRY).join(format!("{id}.json"))
    }

    pub(crate) fn alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Kills the laboratory and waits until the kernel has cleared it away.
    pub(crate) fn end(&self) -> Result<()> {
        if self.alive() {
            use rustix::process::{Pid, Signal, kill_process};
            let pid = Pid::from_raw(self.pid).context("an entry without a pid")?;
            let cannot = || format!("cannot end laboratory {} (pid {})", self.id, self.pid);
            let gone = |limit| {
                let what = "the laboratory's processes to end";
                crate::sh::wait_for(what, limit, || Ok((!self.alive()).then_some(())))
            };
            match kill_process(pid, Signal::TERM) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(e).with_context(cannot),
            }
            if gone(Duration::from_secs(5)).is_err() {
                kill_process(pid, Signal::KILL).with_context(cannot)?;
                gone(Duration::from_secs(30))?;
            }
        }
        forget(&self.id);
        Ok(())
    }
}

/// What a laboratory that stays says.
pub(crate) fn log_path(id: &str) -> PathBuf {
    Path::new(REGISTRY).join(format!("{id}.log"))
}

fn forget(id: &str) {
    let _ = fs::remove_file(Entry::path(id));
    let _ = fs::remove_file(log_path(id));
    let _ = fs::remove_dir(Path::new(REGISTRY).join(id));
    let _ = fs::remove_dir(REGISTRY);
}

/// Field 22 of /proc/PID/stat; None when there is no such process, or it is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// All entries, live or stale.
pub(crate) fn entries() -> Vec<Entry> {
    let Ok(dir) = fs::read_dir(REGISTRY) else {
        return Vec::new();
    };
    let mut all: Vec<Entry> = dir
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|x| x == "json"))
        .filter_map(|e| serde_json::from_str(&fs::read_to_string(e.path()).ok()?).ok())
        .collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Removes entries whose laboratory is gone; returns their names.
pub(crate) fn sweep() -> Vec<String> {
    let stale: Vec<String> = entries().into_iter().filter(|e| !e.alive()).map(|e| e.id).collect();
    for id in &stale {
        forget(id);
    }
    stale
}

/// The laboratory that a command without `--lab` means: the only one there is.
pub(crate) fn find(id: Option<&str>) -> Result<Entry> {
    let mut live: Vec<Entry> = entries().into_iter().filter(Entry::alive).collect();
    if let Some(id) = id {
        let at = live.iter().position(|e| e.id == id);
        return at.map(|i| live.swap_remove(i)).with_context(|| format!("no laboratory {id} is running"));
    }
    match live.len() {
        0 => bail!("no laboratory is running: start one with `steadfast-lab up`, or scripts/demo"),
        1 => Ok(live.swap_remove(0)),
        _ => {
            let ids: Vec<&str> = live.iter().map(|e| e.id.as_str()).collect();
            bail!("several laboratories are running: choose one with --lab {}", ids.join("|"))
        }
    }
}

/// A laboratory that ends with this value.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) id: String,
    child: Child,
    leash: Option<std::process::ChildStdin>,
}

impl Launched {
    /// Starts pid 1 in fresh namespaces; it runs this program again as `inside` says.
    pub(crate) fn start(id: &str, inside: &[String]) -> Result<Self> {
        Self::start_saying(id, inside, None)
    }

    /// As [`Self::start`], with all that the laboratory says in `log`: one that stays when this process ends must not
    /// keep its outputs open, or who reads them (`up | tail`) waits for ever.
    pub(crate) fn start_saying(id: &str, inside: &[String], log: Option<&fs::File>) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!("the laboratory makes namespaces and mounts: run it as root (sudo)");
        }
        fs::create_dir_all(Path::new(REGISTRY).join(id)).with_context(|| format!("cannot make {REGISTRY}/{id}"))?;
        let me = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--net", "--fork", "--mount-proc", "--propagation", "private", "--"]);
        command.arg(&me).args(["pid1", "--id", id, "--"]).args(inside);
        if let Some(log) = log {
            command.stdout(log.try_clone()?).stderr(log.try_clone()?);
        }
        let mut child = command.stdin(Stdio::piped()).spawn().context("cannot start `unshare` (package util-linux)")?;
        let leash = child.stdin.take();
        let unshare = child.id();
        let mut launched = Self { id: id.to_owned(), child, leash };
        let end = Instant::now() + Duration::from_secs(10);
        let pid: i32 = loop {
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap_or_default();
            if let Some(pid) = children.split_whitespace().next().and_then(|p| p.parse().ok()) {
                break pid;
            }
            if let Some(status) = launched.child.try_wait()? {
                bail!("could not make the laboratory's namespaces ({status})");
            }
            if Instant::now() > end {
                bail!("the laboratory's first process did not appear within 10 s");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let entry = Entry {
            id: id.to_owned(),
            pid,
            started: start_time(pid).context("the laboratory's first process ended at once")?,
            owner: Some(std::process::id()),
        };
        fs::write(Entry::path(id), serde_json::to_string(&entry)?)?;
        Ok(launched)
    }

    /// Waits for the laboratory to end by itself, or ends it on Ctrl-C or SIGTERM; its exit code.
    pub(crate) fn wait(mut self) -> Result<i32> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let status = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hangup = signal(SignalKind::hangup())?;
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return Ok::<_, anyhow::Error>(None),
                    _ = terminate.recv() => return Ok(None),
                    _ = hangup.recv() => return Ok(None),
                    _ = tick.tick() => if let Some(status) = self.child.try_wait()? { return Ok(Some(status)) },
                }
            }
        })?;
        match status {
            Some(status) => {
                forget(&self.id);
                Ok(status.code().unwrap_or(1))
            }
            None => {
                eprintln!("\nending the laboratory ...");
                self.end()?;
                eprintln!("gone: no process, mount or namespace is left");
                Ok(130)
            }
        }
    }

    /// Lets go: the laboratory stays until `down`.
    pub(crate) fn detach(mut self) -> Result<()> {
        if let Some(mut leash) = self.leash.take() {
            leash.write_all(b"stay\n")?;
        }
        let mut entry = find(Some(&self.id))?;
        entry.owner = None;
        fs::write(Entry::path(&self.id), serde_json::to_string(&entry)?)?;
        Ok(())
    }

    /// True until the laboratory has ended.
    pub(crate) fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it, whatever it does.
    pub(crate) fn end(mut self) -> Result<()> {
        self.leash = None;
        let id = self.id.clone();
        if let Some(entry) = entries().into_iter().find(|e| e.id == id) {
            entry.end()?;
        }
        self.child.wait()?;
        forget(&id);
        Ok(())
    }
}

/// Runs this program again inside a running laboratory; its exit code.
pub(crate) fn enter(entry: &Entry, inside: &[String]) -> Result<i32> {
    let me = std::env::current_exe()?;
    let status = Command::new("nsenter")
        .args(["-t", &entry.pid.to_string(), "-m", "-p", "-n", "--"])
        .arg(me)
        .args(["inside", "--id", &entry.id])
        .args(inside)
        .status()
        .context("cannot start `nsenter` (package util-linux)")?;
    Ok(status.code().unwrap_or(1))
}
