//! A probe as its starter sees it: started on a host, watched while it runs, its gaps at the end.

use super::arp::Change;
use crate::lab::Lab;
use crate::sh;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A time without success.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) from_us: u64,
    pub(crate) to_us: u64,
    pub(crate) before: String,
    pub(crate) after: String,
    pub(crate) why: String,
}

impl Gap {
    pub(crate) fn ms(&self) -> f64 {
        (self.to_us - self.from_us) as f64 / 1000.0
    }
}

/// What a probe has said so far.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Seen {
    /// Time of the last success that was reported (at most every 100 ms).
    pub(crate) last_us: u64,
    pub(crate) ok: u64,
    pub(crate) errors: u64,
    /// The node that answered last.
    pub(crate) who: String,
    pub(crate) gaps: Vec<Gap>,
    /// Reasons for lost connections.
    pub(crate) reconnects: Vec<String>,
    /// Last line's extra words.
    pub(crate) extra: Vec<String>,
    pub(crate) failed: Option<String>,
    #[serde(skip)]
    pub(crate) changes: Vec<Change>,
    #[serde(skip)]
    ended: bool,
}

impl Seen {
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        let word = |i: usize| words.get(i).map_or_else(String::new, |w| (*w).to_owned());
        match words[0] {
            "A" => {
                (self.last_us, self.ok, self.errors, self.who) = (number(1), number(2), number(3), word(4));
            }
            "G" => self.gaps.push(Gap {
                from_us: number(1),
                to_us: number(2),
                before: word(3),
                after: word(4),
                why: word(5),
            }),
            "R" => self.reconnects.push(line[2..].to_owned()),
            "F" => self.failed = Some(line[2..].to_owned()),
            "C" => self.changes.extend(Change::parse(line)),
            "N" => {
                (self.ok, self.errors) = (number(1), number(2));
                self.extra = words.iter().skip(3).map(|w| (*w).to_owned()).collect();
                self.ended = true;
            }
            _ => {}
        }
    }

    /// The longest gap that touches the time from `since_us` on, in milliseconds; 0 when there was none.
    pub(crate) fn longest_ms(&self, since_us: u64) -> f64 {
        self.gaps.iter().filter(|g| g.to_us >= since_us).map(Gap::ms).fold(0.0, f64::max)
    }
}

/// A probe that runs on a host; it ends with this value.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    seen: Arc<Mutex<Seen>>,
}

impl Probe {
    /// Starts `steadfast-lab probe WORDS` on `host`.
    pub(crate) fn start(lab: &Lab, host: &str, name: &str, words: &[&str]) -> Result<Self> {
        let all = [&["/usr/local/sbin/steadfast-lab", "probe"], words].concat();
        let mut child = lab
            .command(host, &all)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start probe {name}"))?;
        let stdin = child.stdin.take();
        let seen = Arc::new(Mutex::new(Seen::default()));
        if let Some(out) = child.stdout.take() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).take(&line);
                }
            });
        }
        Ok(Self { name: name.to_owned(), child, stdin, seen })
    }

    pub(crate) fn tcp(lab: &Lab, name: &str, target: &str) -> Result<Self> {
        Self::start(lab, crate::site::CLIENT, name, &["tcp", "--target", target])
    }

    pub(crate) fn nfs_writer(lab: &Lab, name: &str, server: &str, path: &str) -> Result<Self> {
        Self::start(lab, crate::site::CLIENT, name, &["nfs-writer", "--server", server, "--path", path])
    }

    /// Watches all VIPs of the site by ARP, from the watcher host.
    pub(crate) fn arp(lab: &Lab) -> Result<Self> {
        let vips = lab.site.vips().join(",");
        Self::start(lab, crate::site::WATCHER, "arp", &["arp", "--own", "192.168.122.11", "--vips", &vips])
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has succeeded after `since_us`, and goes on succeeding. From 0 on is before any fault: the error says so.
    pub(crate) fn wait_ok(&self, since_us: u64, limit: Duration) -> Result<()> {
        let what = if since_us == 0 { "begin" } else { "succeed" };
        sh::wait_for(&format!("probe {} to {what}", self.name), limit, || {
            let seen = self.seen();
            if let Some(why) = seen.failed {
                bail!("probe {}: {why}", self.name);
            }
            Ok((seen.last_us > since_us && super::now_us() - seen.last_us < 400_000).then_some(()))
        })
    }

    /// Ends it; everything it has seen.
    pub(crate) fn stop(mut self) -> Result<Seen> {
        self.stdin = None;
        let _ = sh::wait_for(&format!("probe {} to end", self.name), Duration::from_secs(10), || {
            Ok((self.seen().ended || self.child.try_wait()?.is_some()).then_some(()))
        });
        sh::kill_group(&mut self.child);
        Ok(self.seen())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stdin = None;
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
