//! The clients that count over NFSv4, as the driver hears them.

use super::history::{Hold, Increment};
use super::smb::{Notes, STALL_US};
use crate::lab::Lab;
use crate::sh;
use crate::site::CLIENT;
use ::drill::now_us;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// What their holds are of.
const NFS_LOCK: &str = "a range locked over NFSv4";

/// One that runs; killed with this value.
pub(super) struct Counter {
    child: Child,
    heard: Option<JoinHandle<(Notes, bool)>>,
}

/// Takes a line; true for the last one.
fn take(notes: &mut Notes, client: usize, line: &str) -> bool {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    let numbers: Vec<u64> = rest.split(' ').filter_map(|w| w.parse().ok()).collect();
    match (kind, &numbers[..]) {
        ("H", &[from_us, to_us]) => notes.holds.push(Hold { of: NFS_LOCK, client, from_us, to_us }),
        ("I", &[begun_us, ended_us, value, known]) => {
            notes.increments.push(Increment { client, begun_us, ended_us, value, known: known == 1 });
        }
        ("W", _) => notes.wrong.push(format!("NFSv4 client {client} {rest}")),
        ("N", &[longest_us, stalls]) => {
            (notes.longest_us, notes.stalls) = (longest_us, stalls);
            return true;
        }
        _ => notes.errors.add(format!("NFSv4 counter: {rest}"), 1, now_us()),
    }
    false
}

impl Counter {
    pub(super) fn start(lab: &Lab, client: usize, server: &str, path: &str) -> Result<Self> {
        let stall = (STALL_US / 1000).to_string();
        let words = ["/usr/local/sbin/steadfast-lab", "probe", "nfs-count", "--server", server, "--path", path];
        let mut command = lab.command(CLIENT, &[&words[..], &["--stall-ms", &stall]].concat())?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a probe")?;
        let out = child.stdout.take().context("no way to hear the probe")?;
        let heard = std::thread::spawn(move || {
            let (mut notes, mut ended) = (Notes::default(), false);
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                ended |= take(&mut notes, client, &line);
            }
            (notes, ended)
        });
        Ok(Self { child, heard: Some(heard) })
    }

    /// Ends it; what it has seen.
    pub(super) fn stop(mut self) -> Result<Notes> {
        drop(self.child.stdin.take());
        sh::wait_for("an NFSv4 counter to end", Duration::from_secs(30), || Ok(self.child.try_wait()?))?;
        match self.heard.take().map(JoinHandle::join) {
            Some(Ok((notes, true))) => Ok(notes),
            _ => bail!("an NFSv4 counter has ended by itself"),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        sh::kill_group(&mut self.child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_understood() {
        let mut notes = Notes::default();
        for line in ["I 5 9 1 1", "H 5 8", "W wrote 1 under its lock and reads 2", "X LOCK: NFS status 5"] {
            assert!(!take(&mut notes, 3, line));
        }
        assert!(take(&mut notes, 3, "N 70 2"));
        assert_eq!(notes.holds, [Hold { of: NFS_LOCK, client: 3, from_us: 5, to_us: 8 }]);
        assert_eq!(notes.increments, [Increment { client: 3, begun_us: 5, ended_us: 9, value: 1, known: true }]);
        assert_eq!((notes.wrong.len(), notes.longest_us, notes.stalls), (1, 70, 2));
        assert!(serde_json::to_string(&notes.errors).unwrap().contains("NFSv4 counter: LOCK: NFS status 5"));
    }
}
