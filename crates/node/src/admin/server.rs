//! The admin socket's server: a unix socket of root's, lines of JSON (see [`super::api`]).
//!
//! Each connection is a task with deadlines of its own, so a client that neither reads nor writes costs its place
//! (of [`MAX_CLIENTS`]) for a while and delays nobody. What a request does is the [`Handler`]'s business.

use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::api::{Answer, MAX_REQUEST, Request};

/// Connections served at a time.
pub const MAX_CLIENTS: usize = 64;
/// A client that sends no request for this long is dropped.
const IDLE: Duration = Duration::from_secs(60);
/// A client that does not read an answer for this long is dropped.
const UNREAD: Duration = Duration::from_secs(5);

/// Carries out requests.
pub trait Handler: Send + Sync + 'static {
    /// Writes every answer to `out`, [`Answer::Done`] or [`Answer::Failed`] last. An error of `out` (the client has
    /// gone or does not read) ends it.
    fn handle(&self, request: Request, out: &mut Answers) -> impl Future<Output = io::Result<()>> + Send;
}

/// Where answers are written to.
#[derive(Debug)]
pub struct Answers {
    stream: OwnedWriteHalf,
}

impl Answers {
    /// Writes one line.
    ///
    /// # Errors
    /// The client has gone, or has not read for too long.
    pub async fn write(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        timeout(UNREAD, self.stream.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Writes the last line: it worked.
    ///
    /// # Errors
    /// As [`Answers::write`].
    pub async fn done(&mut self, text: impl Into<String>) -> io::Result<()> {
        self.write(&Answer::Done { text: text.into() }).await
    }

    /// Writes the last line: it did not.
    ///
    /// # Errors
    /// As [`Answers::write`].
    pub async fn failed(&mut self, text: impl Into<String>) -> io::Result<()> {
        self.write(&Answer::Failed { text: text.into() }).await
    }
}

/// The listening socket; removed when dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds the socket in a directory of root's alone, in place of one that a killed daemon left. Only one daemon
    /// can get here: the state directory's lock sees to that.
    ///
    /// # Errors
    /// The directory or the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let at = |what: &str, e: io::Error| io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()));
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|e| at("cannot make the directory of", e))?;
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("cannot remove the old", e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(|e| at("cannot listen on", e))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| at("cannot make private", e))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves clients until dropped.
    pub async fn serve<H: Handler>(self, handler: Arc<H>) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely; without the pause this loop would do nothing else.
                    tracing::warn!("the admin socket cannot take a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            if let Err(why) = admit(&stream) {
                tracing::warn!("admin socket: {why}");
                continue;
            }
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                refuse(stream);
                continue;
            };
            let handler = Arc::clone(&handler);
            tokio::spawn(async move {
                let (reader, stream) = stream.into_split();
                if let Err(error) = talk(reader, &mut Answers { stream }, &*handler).await {
                    tracing::debug!("admin client: {error}");
                }
                drop(place);
            });
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // The next start removes it, if this does not.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The socket's mode should do; this is for those who change it.
fn admit(stream: &UnixStream) -> Result<(), String> {
    let peer = stream.peer_cred().map_err(|e| format!("cannot tell who connects: {e}"))?;
    let me = rustix::process::geteuid().as_raw();
    if peer.uid() == 0 || peer.uid() == me {
        return Ok(());
    }
    Err(format!("user {} was refused; only root may use it", peer.uid()))
}

fn refuse(stream: UnixStream) {
    let text = format!("{MAX_CLIENTS} clients are connected already: end some (`steadfast ... --watch`, `--follow`)");
    if let Ok(mut line) = serde_json::to_vec(&Answer::Failed { text }) {
        line.push(b'\n');
        // A client that cannot even take this line learns from the closed socket.
        let _ = stream.try_write(&line);
    }
}

async fn talk<H: Handler>(reader: OwnedReadHalf, out: &mut Answers, handler: &H) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_REQUEST as u64;
        let mut limited = (&mut reader).take(limit);
        match timeout(IDLE, limited.read_until(b'\n', &mut line)).await {
            Err(_) | Ok(Ok(0)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) => {}
        }
        if !line.ends_with(b"\n") {
            if line.len() >= MAX_REQUEST {
                out.failed(format!("a request may have at most {MAX_REQUEST} bytes")).await?;
            }
            return Ok(());
        }
        let request = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => request,
            Err(error) => {
                out.failed(format!("this daemon ({}) does not understand the request: {error}", crate::VERSION))
                    .await?;
                continue;
            }
        };
        // A follower may listen for hours; its end is noticed when it closes.
        tokio::select! {
            done = handler.handle(request, out) => done?,
            gone = closed(&mut reader) => return gone,
        }
    }
}

/// Returns when the client has closed its end; bytes of a next request only wait.
async fn closed(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<()> {
    if reader.fill_buf().await?.is_empty() { Ok(()) } else { std::future::pending().await }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    struct Echo(watch::Sender<u32>);

    impl Handler for Echo {
        async fn handle(&self, request: Request, out: &mut Answers) -> io::Result<()> {
            match request {
                Request::Version => out.done("1").await,
                Request::Zone => {
                    // More than any socket buffer takes.
                    let text = "x".repeat(64 << 10);
                    for _ in 0..1000 {
                        out.write(&Answer::Text { text: text.clone() }).await?;
                    }
                    out.done("").await
                }
                Request::Status { follow: true } => {
                    struct Gone<'a>(&'a watch::Sender<u32>);
                    impl Drop for Gone<'_> {
                        fn drop(&mut self) {
                            self.0.send_modify(|n| *n += 1);
                        }
                    }
                    let _gone = Gone(&self.0);
                    std::future::pending().await
                }
                _ => out.failed("no").await,
            }
        }
    }

    struct Fixture {
        _dir: tempfile::TempDir,
        path: PathBuf,
        gone: watch::Receiver<u32>,
    }

    fn start() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/admin.sock");
        let (sender, gone) = watch::channel(0);
        let socket = AdminSocket::bind(&path).unwrap();
        tokio::spawn(socket.serve(Arc::new(Echo(sender))));
        Fixture { _dir: dir, path, gone }
    }

    impl Fixture {
        async fn connect(&self) -> BufReader<UnixStream> {
            BufReader::new(UnixStream::connect(&self.path).await.unwrap())
        }
    }

    async fn ask(client: &mut BufReader<UnixStream>, bytes: &[u8]) -> String {
        // The server may close before it has read everything.
        let _ = client.write_all(bytes).await;
        let mut line = String::new();
        timeout(Duration::from_secs(20), client.read_line(&mut line)).await.unwrap().unwrap();
        line
    }

    #[tokio::test]
    async fn garbage_and_oversized_lines_are_answered_and_the_next_client_is_served() {
        let server = start();
        let mode = std::fs::metadata(&server.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut client = server.connect().await;
        for garbage in [&b"\n"[..], b"{}\n", b"\xff\xfe\x00\n", b"{\"request\":\"explode\"}\n", b"[[[[[[\n"] {
            assert!(ask(&mut client, garbage).await.contains("does not understand"));
        }
        assert!(ask(&mut client, b"{\"request\":\"version\",\"new\":1}\n").await.contains("done"));
        let endless = vec![b'x'; MAX_REQUEST + 10];
        assert!(ask(&mut server.connect().await, &endless).await.contains("at most"));
        drop(server.connect().await);
        assert!(ask(&mut server.connect().await, b"{\"request\":\"version\"}\n").await.contains("done"));
    }

    #[tokio::test]
    async fn who_does_not_read_is_dropped_and_holds_up_nobody() {
        let server = start();
        let mut slow = server.connect().await;
        slow.write_all(b"{\"request\":\"zone\"}\n").await.unwrap();
        for _ in 0..10 {
            assert!(ask(&mut server.connect().await, b"{\"request\":\"version\"}\n").await.contains("done"));
        }
    }

    #[tokio::test]
    async fn clients_beyond_the_limit_are_told_and_places_come_back() {
        let mut server = start();
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS {
            let mut client = server.connect().await;
            client.write_all(b"{\"request\":\"status\",\"follow\":true}\n").await.unwrap();
            clients.push(client);
        }
        let refused = ask(&mut server.connect().await, b"").await;
        assert!(refused.contains("clients are connected already"), "{refused}");
        drop(clients);
        server.gone.wait_for(|n| *n == MAX_CLIENTS as u32).await.unwrap();
        let mut client = server.connect().await;
        // The last places are given back just after the followers' ends were counted.
        for _ in 0..100 {
            if ask(&mut client, b"{\"request\":\"version\"}\n").await.contains("done") {
                return;
            }
            client = server.connect().await;
        }
        panic!("no place came back");
    }
}
