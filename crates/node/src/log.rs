//! The log: one stream per node, to the journal, standard error or a file.
//!
//! Lines are formatted where they are said and written by a thread of their own, so that a full pipe, a slow disk or
//! a hung journal delays nobody; when the queue overflows, lines are lost and their number is said. Under systemd
//! (`JOURNAL_STREAM`) lines go to standard error with the priority prefix of sd-daemon(3).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, time};
use tracing_subscriber::registry::LookupSpan;

/// What is logged unless something else is asked for.
pub const DEFAULT_FILTER: &str = "info,hickory_server=warn,hickory_proto=warn,rustls=warn";

/// Lines that may wait for the writer; at 200 bytes each, 400 KiB.
const QUEUE: usize = 2048;

enum Order {
    Line(Vec<u8>),
    /// Open the file again: logrotate has moved it.
    Reopen,
    Flush(SyncSender<()>),
}

/// Where lines end up.
enum Sink {
    Stderr,
    File { path: PathBuf, file: File },
    Syslog(UnixDatagram),
}

/// Where the log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Standard error; the journal, where systemd has made it that.
    #[default]
    Stderr,
    /// A file, appended to.
    File(PathBuf),
    /// The machine's syslog (`/dev/log`), under this program's name.
    Syslog(&'static str),
}

/// A handle on the log; dropping it does not end it.
#[derive(Clone, Debug)]
pub struct Log {
    orders: SyncSender<Order>,
    place: String,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Line(_) => "Line",
            Self::Reopen => "Reopen",
            Self::Flush(_) => "Flush",
        })
    }
}

impl Log {
    /// Starts the log and makes it the program's. `filter`: what is logged unless `STEADFAST_LOG` says otherwise, in the
    /// syntax of tracing's filters.
    ///
    /// # Errors
    /// The file cannot be opened, nobody listens at `/dev/log`, the thread cannot be started, or a log is running already.
    pub fn start(to: &Place, filter: &str) -> anyhow::Result<Self> {
        let form = match to {
            Place::Stderr if stderr_is_journal() => Form::Journal,
            Place::Syslog(name) => Form::Syslog(name),
            Place::Stderr | Place::File(_) => Form::Timed,
        };
        let sink = match to {
            Place::Stderr => Sink::Stderr,
            Place::File(path) => Sink::File { path: path.clone(), file: open(path)? },
            Place::Syslog(_) => Sink::Syslog(syslog()?),
        };
        let place = match to {
            Place::File(path) => path.display().to_string(),
            Place::Stderr if form == Form::Journal => "journalctl -u steadfast".to_owned(),
            Place::Stderr => "standard error of the daemon".to_owned(),
            Place::Syslog(name) => format!("syslog, lines of {name}"),
        };
        let (orders, queue) = mpsc::sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Lines { orders: orders.clone(), lost: Arc::clone(&lost) };
        thread::Builder::new().name("log".into()).stack_size(128 << 10).spawn(move || write(sink, &queue, &lost))?;
        let filter = EnvFilter::try_from_env("STEADFAST_LOG").unwrap_or_else(|_| EnvFilter::new(filter));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            .with_ansi(false)
            .event_format(Lined(form))
            .try_init()
            .map_err(|e| anyhow::anyhow!("the log cannot be started: {e}"))?;
        Ok(Self { orders, place })
    }

    /// How to read it: a command or a file.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Opens the log file again under its name.
    pub fn reopen(&self) {
        // A full queue means that the writer hangs; the next rotation tries again.
        let _ = self.orders.try_send(Order::Reopen);
    }

    /// Waits until everything said so far is written, at most a second.
    pub fn flush(&self) {
        let (done, wait) = mpsc::sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            // Late or never: the line is lost, and the program ends all the same.
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }
}

/// Is standard error the stream that systemd announced?
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let Ok(stat) = rustix::fs::fstat(rustix::stdio::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

fn open(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|e| anyhow::anyhow!("cannot open the log file {}: {e}", path.display()))
}

fn syslog() -> anyhow::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket
        .connect("/dev/log")
        .map_err(|e| anyhow::anyhow!("no syslog answers at /dev/log ({e}): start one, or log to a file"))?;
    Ok(socket)
}

fn write(mut sink: Sink, queue: &Receiver<Order>, lost: &AtomicU64) {
    while let Ok(order) = queue.recv() {
        match order {
            Order::Line(line) => {
                sink.put(&line);
                let missing = lost.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    sink.put(format!("<4>{missing} lines of the log were lost: its reader was too slow\n").as_bytes());
                }
            }
            Order::Reopen => sink.reopen(),
            // The asker may have given up.
            Order::Flush(done) => drop(done.try_send(())),
        }
    }
}

impl Sink {
    /// A log that cannot be written has nowhere to say so; the events of `steadfast events` are kept apart from it.
    fn put(&mut self, line: &[u8]) {
        let _ = match self {
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::File { file, .. } => file.write_all(line),
            Self::Syslog(socket) => socket.send(line.trim_ascii_end()).map(drop),
        };
    }

    fn reopen(&mut self) {
        if let Self::File { path, file } = self
            && let Ok(new) = open(path)
        {
            let same = match (file.metadata(), new.metadata()) {
                (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
                _ => false,
            };
            if !same {
                *file = new;
            }
        }
    }
}

/// Hands finished lines to the writing thread.
#[derive(Debug)]
struct Lines {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;
    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, text: Vec::with_capacity(256) }
    }
}

/// One line while it is put together.
#[derive(Debug)]
struct Line<'a> {
    lines: &'a Lines,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let line = Order::Line(std::mem::take(&mut self.text));
        if let Err(TrySendError::Full(_)) = self.lines.orders.try_send(line) {
            self.lines.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Time, level and text.
    Timed,
    /// For the journal, which knows the time: the level as sd-daemon(3) wants it, and the text.
    Journal,
    /// For syslog, which knows the time: the facility `daemon` with the level, who says it, and the text.
    Syslog(&'static str),
}

#[derive(Debug)]
struct Lined(Form);

impl<S, N> FormatEvent<S, N> for Lined
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let level = priority(*event.metadata().level());
        if self.0 != Form::Timed {
            match self.0 {
                Form::Syslog(name) => write!(writer, "<{}>{name}[{}]: ", 24 + level, std::process::id())?,
                Form::Journal | Form::Timed => write!(writer, "<{level}>")?,
            }
            let format = Format::default().without_time().with_level(false).with_target(false);
            return format.format_event(context, writer, event);
        }
        let format = Format::default().with_timer(time::SystemTime).with_target(false);
        format.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program's log can be started once, so this is one test.
    #[test]
    fn lines_reach_the_file_and_a_moved_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::start(&Place::File(path.clone()), DEFAULT_FILTER).unwrap();
        assert_eq!(log.place(), path.display().to_string());
        tracing::warn!(node = 3, "first line");
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("WARN") && text.contains("first line") && text.contains("node=3"), "{text}");
        std::fs::rename(&path, dir.path().join("log.1")).unwrap();
        log.reopen();
        tracing::info!("second line");
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("second line") && !text.contains("first line"), "{text}");
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_time() {
        let (orders, _queue) = mpsc::sync_channel(4);
        let lines = Lines { orders, lost: Arc::default() };
        for _ in 0..10 {
            lines.make_writer().write_all(b"x\n").unwrap();
        }
        assert_eq!(lines.lost.load(Ordering::Relaxed), 6);
    }
}
