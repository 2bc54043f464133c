//! Talks to the daemon on this node.

use crate::exit::Fail;
use node::admin::api::{Answer, Request, Status};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A daemon that lives answers within this; it gives up on its own parts sooner.
const PATIENCE: Duration = Duration::from_secs(30);
/// No answer line is longer.
const MAX_LINE: u64 = 64 << 20;

/// One request and its answers.
#[derive(Debug)]
pub(crate) struct Client {
    answers: BufReader<UnixStream>,
}

impl Client {
    /// Sends a request.
    pub(crate) fn ask(socket: &Path, request: &Request) -> Result<Self, Fail> {
        let stream = UnixStream::connect(socket).map_err(|e| no_daemon(socket, &e))?;
        let line = serde_json::to_string(request)?;
        // A storage check takes its time between two answers, and a follower waits for news.
        let waits = matches!(
            request,
            Request::Status { follow: true } | Request::Events { follow: true, .. } | Request::CheckStorage { .. }
        );
        let prepared = stream
            .set_read_timeout((!waits).then_some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| (&stream).write_all(format!("{line}\n").as_bytes()));
        prepared.map_err(|e| no_daemon(socket, &e))?;
        Ok(Self { answers: BufReader::new(stream) })
    }

    /// The next answer; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Answer>, Fail> {
        let mut line = String::new();
        let read = std::io::Read::take(&mut self.answers, MAX_LINE).read_line(&mut line);
        match read {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&line).map(Some).map_err(|e| {
                Fail::Other(format!(
                    "the daemon's answer makes no sense to this version of the command ({e}): `steadfast version` \
                     shows both; restart the daemon after an upgrade"
                ))
            }),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(Fail::NoDaemon(format!(
                "the daemon has not answered for {} s: it hangs. Its log: journalctl -u steadfast",
                PATIENCE.as_secs()
            ))),
            Err(e) => Err(Fail::NoDaemon(format!("the daemon closed the connection: {e}"))),
        }
    }

    /// Gives every answer to `each`; the last sentence is the result.
    pub(crate) fn all(mut self, mut each: impl FnMut(Answer) -> Result<(), Fail>) -> Result<String, Fail> {
        while let Some(answer) = self.next()? {
            match answer {
                Answer::Done { text } => return Ok(text),
                Answer::Failed { text } => return Err(Fail::Other(text)),
                other => each(other)?,
            }
        }
        Err(Fail::NoDaemon("the daemon closed the connection before it had answered; did it end just now?".into()))
    }
}

/// The state as it is now.
pub(crate) fn status(socket: &Path) -> Result<Status, Fail> {
    let mut found = None;
    Client::ask(socket, &Request::Status { follow: false })?.all(|answer| {
        if let Answer::Status(status) = answer {
            found = Some(*status);
        }
        Ok(())
    })?;
    found.ok_or_else(|| Fail::Other("the daemon did not say what its state is".into()))
}

fn no_daemon(socket: &Path, error: &std::io::Error) -> Fail {
    let path = socket.display();
    Fail::NoDaemon(match error.kind() {
        ErrorKind::PermissionDenied => format!("only root may talk to the daemon ({path}): run it as root, with sudo"),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
            "no daemon runs on this node (nobody answers on {path}). Start it: systemctl start steadfast\n\
             Why it ended, if it did: journalctl -u steadfast -n 50"
        ),
        _ => format!("cannot talk to the daemon on {path}: {error}"),
    })
}
