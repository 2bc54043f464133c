//! The clients that count over NFS, as the driver hears them.

use super::history::{Hold, Increment};
use super::smb::{Notes, STALL_US};
use crate::lab::Lab;
use crate::sh;
use crate::site::CLIENT;
use ::drill::now_us;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// To give a lock back, by way of a server that may just have been lost.
const REST: Duration = Duration::from_secs(90);

/// One who has counted within this counts.
const NOW: Duration = Duration::from_millis(50);

/// The protocol that is counted over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nfs {
    V3,
    V4,
}

impl Nfs {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::V3 => "NFSv3",
            Self::V4 => "NFSv4",
        }
    }

    /// What holds are of.
    fn lock(self) -> &'static str {
        match self {
            Self::V3 => "a range locked over NFSv3",
            Self::V4 => "a range locked over NFSv4",
        }
    }

    /// What the report calls its increments, its locks, and those that were taken back and lost.
    pub(super) fn kinds(self) -> [&'static str; 4] {
        match self {
            Self::V3 => ["NFSv3 increments", "NFSv3 locks", "NFSv3 locks taken back", "NFSv3 locks lost"],
            Self::V4 => ["NFSv4 increments", "NFSv4 locks", "NFSv4 locks taken back", "NFSv4 locks lost"],
        }
    }
}

/// What one of them has seen.
#[derive(Debug, Default)]
struct Seen {
    notes: Notes,
    ended: bool,
}

/// Whom a client asks, and what it counts in, below the export.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) server: String,
    pub(super) file: String,
}

/// All that count over one protocol, in one process; killed with this value.
pub(super) struct Counters {
    pub(super) nfs: Nfs,
    clients: Vec<Counts>,
    child: Child,
    /// One says that it rests.
    resting: Receiver<usize>,
    last: Arc<Last>,
    heard: Option<JoinHandle<Vec<Seen>>>,
}

/// Takes the line of a client; true when it says that it rests.
fn take(seen: &mut Seen, nfs: Nfs, client: usize, line: &str) -> bool {
    let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
    let numbers: Vec<u64> = rest.split(' ').filter_map(|w| w.parse().ok()).collect();
    let notes = &mut seen.notes;
    match (kind, &numbers[..]) {
        ("H", &[from_us, to_us]) => notes.holds.push(Hold { of: nfs.lock(), client, from_us, to_us }),
        ("I", &[begun_us, ended_us, value, known]) => {
            notes.increments.push(Increment { client, begun_us, ended_us, value, known: known == 1 });
        }
        ("B", &[_]) => notes.taken_back += 1,
        ("L", &[_]) => notes.lost += 1,
        ("W", _) => notes.wrong.push(format!("{} client {client} {rest}", nfs.word())),
        ("P", &[_]) => return true,
        ("N", &[longest_us, stalls]) => {
            (notes.longest_us, notes.stalls) = (longest_us, stalls);
            seen.ended = true;
        }
        _ => notes.errors.add(format!("{} counter: {rest}", nfs.word()), 1, now_us()),
    }
    false
}

/// Who has incremented last, and when.
type Last = Mutex<Option<(usize, Instant)>>;

fn listen(out: impl std::io::Read, nfs: Nfs, clients: usize, resting: &Sender<usize>, last: &Last) -> Vec<Seen> {
    let mut all: Vec<Seen> = (0..clients).map(|_| Seen::default()).collect();
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let found = line.split_once(' ').and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)));
        let Some((index, rest)) = found.filter(|(index, _)| *index < clients) else {
            all[0].notes.errors.add(format!("{} counter: {line}", nfs.word()), 1, now_us());
            continue;
        };
        if rest.starts_with('I') {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, Instant::now()));
        }
        if take(&mut all[index], nfs, index, rest) {
            // Nobody need wait for it.
            let _ = resting.send(index);
        }
    }
    all
}

impl Counters {
    pub(super) fn start(lab: &Lab, nfs: Nfs, clients: Vec<Counts>) -> Result<Self> {
        let stall = (STALL_US / 1000).to_string();
        let version = if nfs == Nfs::V3 { "3" } else { "4" };
        let words = ["/usr/local/sbin/steadfast-lab", "probe", "nfs-count", "--nfs", version, "--stall-ms", &stall];
        let each =
            |client: &'_ Counts| ["--server".into(), client.server.clone(), "--path".into(), client.file.clone()];
        let each: Vec<String> = clients.iter().flat_map(each).collect();
        let each: Vec<&str> = each.iter().map(String::as_str).collect();
        let mut command = lab.command(CLIENT, &[&words[..], &each].concat())?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a probe")?;
        let out = child.stdout.take().context("no way to hear the probe")?;
        let (rests, resting) = channel();
        let number = clients.len();
        let last = Arc::<Last>::default();
        let noted = Arc::clone(&last);
        let heard = std::thread::spawn(move || listen(out, nfs, number, &rests, &noted));
        Ok(Self { nfs, clients, child, resting, last, heard: Some(heard) })
    }

    /// Whom a client asks that counts now.
    pub(super) fn counts(&self) -> Option<&str> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(_, at)| at.elapsed() < NOW).map(|(client, _)| self.clients[client].server.as_str())
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        let to = self.child.stdin.as_mut().context("the counters have ended")?;
        writeln!(to, "{word}").with_context(|| format!("the {} counters have ended by themselves", self.nfs.word()))
    }

    /// None of them has the lock, or takes it, before [`Self::go`].
    pub(super) fn rest(&mut self) -> Result<()> {
        self.tell("rest")?;
        let all = self.clients.len();
        for n in 0..all {
            let silent = || format!("{n} of {all} {} counters give their lock back", self.nfs.word());
            self.resting.recv_timeout(REST).with_context(silent)?;
        }
        Ok(())
    }

    pub(super) fn go(&mut self) -> Result<()> {
        self.tell("go")
    }

    /// Ends them; what each counted in, and what it has seen.
    pub(super) fn stop(mut self) -> Result<Vec<(String, Notes)>> {
        drop(self.child.stdin.take());
        let nfs = self.nfs.word();
        sh::wait_for(&format!("the {nfs} counters to end"), Duration::from_secs(30), || Ok(self.child.try_wait()?))?;
        let heard = self.heard.take().map(JoinHandle::join);
        match heard {
            Some(Ok(seen)) if seen.iter().all(|s| s.ended) => {
                let files = self.clients.iter().map(|client| client.file.clone());
                Ok(files.zip(seen.into_iter().map(|s| s.notes)).collect())
            }
            _ => bail!("an {nfs} counter has ended by itself"),
        }
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        sh::kill_group(&mut self.child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_they_say_is_understood() {
        let said = [
            "1 I 5 9 1 1",
            "0 N 1 0",
            "1 H 5 8",
            "1 B 6",
            "1 L 7",
            "1 P 8",
            "1 W wrote 1 under its lock and reads 2",
            "1 X LOCK: NFS status 5",
            "1 N 70 2",
            "7 N 70 2",
        ];
        let (rests, resting) = channel();
        let last = Last::default();
        let seen = listen(said.join("\n").as_bytes(), Nfs::V4, 2, &rests, &last);
        assert_eq!(last.into_inner().unwrap().map(|(client, _)| client), Some(1));
        assert_eq!(resting.try_iter().collect::<Vec<_>>(), [1]);
        assert!(seen.iter().all(|s| s.ended));
        let notes = &seen[1].notes;
        assert_eq!(notes.holds, [Hold { of: Nfs::V4.lock(), client: 1, from_us: 5, to_us: 8 }]);
        assert_eq!(notes.increments, [Increment { client: 1, begun_us: 5, ended_us: 9, value: 1, known: true }]);
        assert_eq!((notes.taken_back, notes.lost), (1, 1));
        assert_eq!((notes.wrong.len(), notes.longest_us, notes.stalls), (1, 70, 2));
        assert!(serde_json::to_string(&notes.errors).unwrap().contains("NFSv4 counter: LOCK: NFS status 5"));
        assert!(serde_json::to_string(&seen[0].notes.errors).unwrap().contains("7 N 70 2"));
    }
}
