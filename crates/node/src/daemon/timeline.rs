//! The timeline: what happened on this node and why, for `steadfast events`.
//!
//! The last [`KEPT`] events are in memory; all are appended to `events.jsonl` in the state directory, which is moved
//! to `events.jsonl.1` when it reaches [`FILE_LIMIT`]. The log gets the same words. A thread of its own does it: the
//! core only hands events over. A full disk costs the file, not the events in memory.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use cluster::{Event, Level};
use tokio::sync::broadcast;

use crate::admin::api::TimedEvent;

/// Events kept in memory.
pub const KEPT: usize = 1000;
/// Size in bytes at which the file is moved away.
pub const FILE_LIMIT: u64 = 4 << 20;
/// Followers that are further behind miss events, and are told so.
const FOLLOW: usize = 256;

const NAME: &str = "events.jsonl";
const OLD: &str = "events.jsonl.1";

/// Reads the timeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Timeline {
    kept: Arc<Mutex<Kept>>,
    news: broadcast::Sender<(u64, TimedEvent)>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Number of the next event of this run, so that a follower neither misses nor repeats one.
    next: u64,
    ring: VecDeque<(u64, TimedEvent)>,
}

/// Adds to the timeline.
pub(crate) type Recorder = mpsc::Sender<TimedEvent>;

/// An event of this moment.
pub(crate) fn timed(event: Event) -> TimedEvent {
    TimedEvent { unix_ms: unix_ms(), event }
}

/// Milliseconds since 1970 by the wall clock.
#[must_use]
pub fn unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Timeline {
    /// Reads what an earlier run left in `dir` and starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started. A file that cannot be read or written is a warning in the log.
    pub(crate) fn start(dir: &Path) -> io::Result<(Self, Recorder)> {
        let mut kept = Kept::default();
        for old in read_tail(dir) {
            kept.push(old);
        }
        let (news, _) = broadcast::channel(FOLLOW);
        let timeline = Self { kept: Arc::new(Mutex::new(kept)), news };
        let (recorder, events) = mpsc::channel::<TimedEvent>();
        let mut file = EventFile { dir: dir.to_owned(), open: None, broken: false };
        let writer = timeline.clone();
        thread::Builder::new().name("timeline".into()).stack_size(256 << 10).spawn(move || {
            for event in events {
                say(&event.event);
                file.append(&event);
                writer.add(event);
            }
        })?;
        Ok((timeline, recorder))
    }

    fn add(&self, event: TimedEvent) {
        let mut kept = self.lock();
        let number = kept.push(event.clone());
        // Nobody follows: that is no error. Sent under the lock, so that `follow` sees each event exactly once.
        let _ = self.news.send((number, event));
    }

    /// The last `count` events, oldest first; all that are kept for 0.
    #[must_use]
    pub fn last(&self, count: usize) -> Vec<TimedEvent> {
        self.lock().last(count)
    }

    /// The last `count` events and a receiver of all that come after them.
    #[must_use]
    pub fn follow(&self, count: usize) -> (Vec<TimedEvent>, broadcast::Receiver<(u64, TimedEvent)>) {
        let kept = self.lock();
        (kept.last(count), self.news.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, event: TimedEvent) -> u64 {
        let number = self.next;
        self.next += 1;
        self.ring.push_back((number, event));
        if self.ring.len() > KEPT {
            self.ring.pop_front();
        }
        number
    }

    fn last(&self, count: usize) -> Vec<TimedEvent> {
        let count = if count == 0 { self.ring.len() } else { count };
        let skip = self.ring.len().saturating_sub(count);
        self.ring.iter().skip(skip).map(|(_, event)| event.clone()).collect()
    }
}

/// The log says what the timeline says.
fn say(event: &Event) {
    let Event { kind, epoch, node, text, because, .. } = event;
    let node = node.map(|n| n.0);
    let because = if because.is_empty() { None } else { Some(because.as_str()) };
    match event.level {
        Level::Info => tracing::info!(kind, %epoch, node, because, "{text}"),
        Level::Warning => tracing::warn!(kind, %epoch, node, because, "{text}"),
        Level::Error => tracing::error!(kind, %epoch, node, because, "{text}"),
    }
}

#[derive(Debug)]
struct EventFile {
    dir: PathBuf,
    open: Option<(File, u64)>,
    /// The last write failed, and that was said.
    broken: bool,
}

impl EventFile {
    fn append(&mut self, event: &TimedEvent) {
        match self.try_append(event) {
            Ok(()) => self.broken = false,
            Err(error) => {
                self.open = None;
                if !self.broken {
                    let path = self.dir.join(NAME);
                    tracing::warn!("cannot append to {}: {error}; events are kept in memory only", path.display());
                }
                self.broken = true;
            }
        }
    }

    fn try_append(&mut self, event: &TimedEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let (mut file, len) = match self.open.take() {
            Some((file, len)) if len + line.len() as u64 <= FILE_LIMIT => (file, len),
            Some(_) => {
                fs::rename(self.dir.join(NAME), self.dir.join(OLD))?;
                self.create()?
            }
            None => self.create()?,
        };
        if let Err(error) = file.write_all(&line) {
            // No half lines: the reader would skip them, but the next line would be lost with them.
            let _ = file.set_len(len);
            return Err(error);
        }
        self.open = Some((file, len + line.len() as u64));
        Ok(())
    }

    fn create(&self) -> io::Result<(File, u64)> {
        let path = self.dir.join(NAME);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut len = file.metadata()?.len();
        if len > 0 {
            // A kill may have left half a line.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                len += 1;
            }
        }
        Ok((file, len))
    }
}

/// The last events of earlier runs; lines that cannot be read are skipped.
fn read_tail(dir: &Path) -> Vec<TimedEvent> {
    let mut events = VecDeque::new();
    for name in [OLD, NAME] {
        let file = match File::open(dir.join(name)) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read {}: {error}", dir.join(name).display());
                }
                continue;
            }
        };
        let mut reader = BufReader::new(file.take(2 * FILE_LIMIT));
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            if let Ok(event) = serde_json::from_slice(&line) {
                events.push_back(event);
                if events.len() > KEPT {
                    events.pop_front();
                }
            }
            line.clear();
        }
    }
    events.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Epoch, Time};

    fn event(n: u64) -> TimedEvent {
        timed(Event {
            at: Time(n),
            level: Level::Info,
            kind: "take".into(),
            epoch: Epoch(n),
            node: None,
            text: format!("event {n}"),
            because: "test".into(),
        })
    }

    fn texts(events: &[TimedEvent]) -> Vec<String> {
        events.iter().map(|e| e.event.text.clone()).collect()
    }

    #[tokio::test]
    async fn events_are_kept_followed_and_survive_a_restart_after_a_half_written_line() {
        let dir = tempfile::tempdir().unwrap();
        let (timeline, recorder) = Timeline::start(dir.path()).unwrap();
        let (before, mut follower) = timeline.follow(0);
        assert!(before.is_empty());
        for n in 0..3 {
            recorder.send(event(n)).unwrap();
        }
        for n in 0..3 {
            let (number, news) = follower.recv().await.unwrap();
            assert_eq!((number, news.event.text), (n, format!("event {n}")));
        }
        assert_eq!(texts(&timeline.last(2)), ["event 1", "event 2"]);
        drop(recorder);

        let mut file = OpenOptions::new().append(true).open(dir.path().join(NAME)).unwrap();
        file.write_all(b"{\"unix_ms\": 12").unwrap();
        let (timeline, recorder) = Timeline::start(dir.path()).unwrap();
        assert_eq!(timeline.last(0).len(), 3);
        let (_, mut follower) = timeline.follow(1);
        recorder.send(event(9)).unwrap();
        follower.recv().await.unwrap();
        let (again, _recorder) = Timeline::start(dir.path()).unwrap();
        assert_eq!(texts(&again.last(0)), ["event 0", "event 1", "event 2", "event 9"]);
    }

    #[test]
    fn memory_and_file_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::default();
        let mut file = EventFile { dir: dir.path().to_owned(), open: None, broken: false };
        let mut big = event(0);
        big.event.because = "x".repeat(20_000);
        for _ in 0..KEPT + 10 {
            kept.push(big.clone());
            file.append(&big);
        }
        assert_eq!((kept.ring.len(), kept.next), (KEPT, KEPT as u64 + 10));
        assert!(!file.broken);
        for name in [NAME, OLD] {
            let len = fs::metadata(dir.path().join(name)).unwrap().len();
            assert!(len <= FILE_LIMIT, "{name} has {len} bytes");
        }
        assert!(read_tail(dir.path()).len() <= KEPT);
    }

    #[test]
    fn a_directory_that_cannot_be_written_costs_only_the_file() {
        let mut file = EventFile { dir: PathBuf::from("/proc/no/such"), open: None, broken: false };
        file.append(&event(1));
        assert!(file.broken);
    }
}
