//! The socket at which CTDB's event daemon would answer: `ctdb event run` and `status`, `ctdb scriptstatus`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ctdb::eventd::{COMPONENT, EventResult, MAX_REQUEST, Reply, Request, ScriptResult, cut};
use rustix::io::Errno;
use services::events::{Event, Events, Outcome, Ran, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Clients at a time; others wait to be taken.
const CLIENTS: usize = 64;
/// A client that says nothing is closed after this.
const SILENT: Duration = Duration::from_secs(60);
/// Between two tries to get the socket.
const RETRY: Duration = Duration::from_secs(3);

/// The listening socket's file; removed when dropped.
struct File(PathBuf);

impl Drop for File {
    fn drop(&mut self) {
        // An error leaves a socket that nobody answers at: the next daemon replaces it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Serves until it is aborted.
pub(super) async fn serve(path: PathBuf, events: Events) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    let mut told = String::new();
    loop {
        let (listener, _file) = match bind(&path) {
            Ok(listener) => (listener, File(path.clone())),
            Err(error) => {
                let text =
                    format!("{}: `ctdb event` and `ctdb scriptstatus` are not answered: {error}", path.display());
                if told != text {
                    tracing::error!("{text}");
                    told = text;
                }
                sleep(RETRY).await;
                continue;
            }
        };
        told.clear();
        loop {
            // Never closed.
            let Ok(place) = Arc::clone(&clients).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let events = events.clone();
                    tokio::spawn(async move {
                        if let Err(error) = talk(stream, &events).await {
                            tracing::debug!("a client of the event scripts' socket is closed: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("{}: {error}", path.display());
                    sleep(RETRY).await;
                }
            }
        }
    }
}

/// Binds it, root's alone, in place of one that nobody answers at any more.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            let why = "stock ctdbd or another steadfast answers there (systemctl disable --now ctdb)";
            return Err(io::Error::new(ErrorKind::AddrInUse, why));
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    Ok(listener)
}

/// One request after the other.
async fn talk(mut stream: UnixStream, events: &Events) -> io::Result<()> {
    let bad = |error: ctdb::wire::WireError| io::Error::new(ErrorKind::InvalidData, error.to_string());
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while let Some(packet) = cut(&bytes, MAX_REQUEST).map_err(bad)? {
            let (number, request) = Request::decode(packet).map_err(bad)?;
            let length = packet.len();
            let reply = answer(request, events).await;
            timeout(SILENT, stream.write_all(&reply.encode(number))).await??;
            bytes.drain(..length);
        }
        match timeout(SILENT, stream.read(&mut buffer)).await?? {
            0 => return Ok(()),
            n => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

async fn answer(request: Request, events: &Events) -> Reply {
    match request {
        Request::Run { component, .. } if component != COMPONENT => Reply::Run(Errno::NOENT.raw_os_error()),
        Request::Run { event, args, timeout, flags, .. } => {
            tracing::info!("asked for at the event scripts' socket: event {event} {args}");
            let args = args.split_whitespace().map(str::to_owned).collect();
            let limit = (timeout > 0).then(|| Duration::from_secs(timeout.into()));
            Reply::Run(match events.run_within(Event { name: event, args }, limit, flags & 1 != 0).await {
                Ok(Outcome::Done(record)) if record.summary == 0 => 0,
                Ok(Outcome::Done(record)) if record.timed_out() => Errno::TIMEDOUT.raw_os_error(),
                // Whatever it was; the status has the script's own word.
                Ok(Outcome::Done(_)) => Errno::NOEXEC.raw_os_error(),
                Ok(Outcome::Cancelled) => Errno::CANCELED.raw_os_error(),
                Err(_) => Errno::IO.raw_os_error(),
            })
        }
        Request::Status { component, .. } if component != COMPONENT => Reply::Status(Err(Errno::NOENT.raw_os_error())),
        Request::Status { event, .. } => {
            let record = events.status(&event).ok_or(Errno::INVAL.raw_os_error());
            Reply::Status(record.map(result))
        }
        Request::Script { component, .. } if component != COMPONENT => Reply::Script(Errno::NOENT.raw_os_error()),
        Request::Script { script, enable, .. } => Reply::Script(match events.enable(&script, enable) {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()),
        }),
    }
}

fn result(record: Record) -> EventResult {
    let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let script = |ran: Ran| ScriptResult {
        name: ran.name,
        begin: since(ran.begin),
        end: since(ran.end),
        result: ran.result,
        output: ran.output,
    };
    EventResult { summary: record.summary, scripts: record.scripts.into_iter().map(script).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use services::events::{BuiltIn, Plan};

    /// A runner with one script, and its socket.
    fn site(body: &str) -> (tempfile::TempDir, PathBuf, Events) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("events/legacy");
        fs::create_dir_all(&folder).unwrap();
        let script = folder.join("10.a.script");
        fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let plan = Plan {
            base: dir.path().to_owned(),
            built_in: BuiltIn::default(),
            timeout: Duration::from_secs(20),
            hung: None,
        };
        let path = dir.path().join("run/eventd.socket");
        let (events, _) = Events::spawn(plan);
        tokio::spawn(serve(path.clone(), events.clone()));
        (dir, path, events)
    }

    async fn connect(path: &Path) -> UnixStream {
        for _ in 0..1000 {
            if let Ok(stream) = UnixStream::connect(path).await {
                return stream;
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody answers at {}", path.display());
    }

    async fn ask(stream: &mut UnixStream, request: Request) -> Reply {
        stream.write_all(&request.encode(5)).await.unwrap();
        let mut bytes = Vec::new();
        loop {
            if let Some(packet) = cut(&bytes, 1 << 20).unwrap() {
                return Reply::decode(packet).unwrap().1;
            }
            assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "closed");
        }
    }

    fn run(event: &str, args: &str, timeout: u32) -> Request {
        Request::Run { component: COMPONENT.into(), event: event.into(), args: args.into(), timeout, flags: 0 }
    }

    fn status(component: &str, event: &str) -> Request {
        Request::Status { component: component.into(), event: event.into() }
    }

    #[tokio::test]
    async fn the_tool_runs_events_and_learns_how_they_went() {
        let (dir, path, _events) = site("echo \"$@\"; [ \"$1\" != hang ] || sleep 100; [ \"$1\" != monitor ]");
        let mut stream = connect(&path).await;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(ask(&mut stream, status(COMPONENT, "takeip")).await, Reply::Status(Err(22)));
        assert_eq!(ask(&mut stream, run("takeip", "eth0  10.0.0.1 24", 30)).await, Reply::Run(0));
        let Reply::Status(Ok(seen)) = ask(&mut stream, status(COMPONENT, "takeip")).await else { panic!("no status") };
        assert_eq!((seen.summary, seen.scripts[0].output.as_str()), (0, "takeip eth0 10.0.0.1 24\n"));
        assert_eq!(ask(&mut stream, run("monitor", "", 0)).await, Reply::Run(8));
        assert_eq!(ask(&mut stream, run("hang", "", 1)).await, Reply::Run(110));
        assert_eq!(ask(&mut stream, status("other", "monitor")).await, Reply::Status(Err(2)));
        let script =
            |script: &str| Request::Script { component: COMPONENT.into(), script: script.into(), enable: false };
        assert_eq!(
            ask(&mut stream, script("11.b")).await,
            Reply::Script(0),
            "as the tool says of one that is not there"
        );
        assert_eq!(ask(&mut stream, script("10.a")).await, Reply::Script(0));
        assert_eq!(ask(&mut stream, run("monitor", "", 0)).await, Reply::Run(0), "the script is disabled");
        drop(dir);
    }

    #[tokio::test]
    async fn garbage_ends_its_client_only() {
        let (_dir, path, _events) = site("");
        let mut good = connect(&path).await;
        let mut bad = connect(&path).await;
        bad.write_all(&[255; 64]).await.unwrap();
        assert_eq!(bad.read(&mut [0; 8]).await.unwrap_or(0), 0);
        assert_eq!(ask(&mut good, run("monitor", "", 0)).await, Reply::Run(0));
    }
}
