//! The child's side of a helper: reads requests, answers them, ends with its stdin.

use std::io::{self, BufRead, Write};
use std::process::{self, ExitCode};
use std::sync::mpsc;
use std::thread;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes.
pub(super) const MAX_LINE: usize = 1 << 20;

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Request<Q> {
    pub(super) id: u64,
    pub(super) ask: Q,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Answer<A> {
    /// Of the request; 0 for a line that could not be read as one.
    pub(super) id: u64,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(super) ok: Option<A>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// Answers requests from stdin until it closes.
///
/// A thread of its own reads stdin, so that the process ends with its parent also while `handle` hangs in a
/// call into the mount.
pub(crate) fn serve<Q, A, F>(mut handle: F) -> ExitCode
where
    Q: DeserializeOwned,
    A: Serialize,
    F: FnMut(Q) -> Result<A, String>,
{
    let (lines, requests) = mpsc::sync_channel::<Vec<u8>>(64);
    let reader = thread::Builder::new().name("stdin".into()).spawn(move || read_lines(&lines));
    if let Err(error) = reader {
        eprintln!("steadfast helper: cannot start a thread: {error}");
        return ExitCode::FAILURE;
    }
    for line in requests {
        let answer = match serde_json::from_slice::<Request<Q>>(&line) {
            Ok(request) => match handle(request.ask) {
                Ok(ok) => Answer { id: request.id, ok: Some(ok), error: None },
                Err(error) => Answer { id: request.id, ok: None, error: Some(error) },
            },
            Err(error) => Answer { id: id_of(&line), ok: None, error: Some(format!("unreadable request: {error}")) },
        };
        if let Err(error) = write_line(&answer) {
            // The parent closed its end: it no longer wants the answer or us.
            eprintln!("steadfast helper: cannot answer: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read_lines(lines: &mpsc::SyncSender<Vec<u8>>) {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = io::Read::take(&mut input, MAX_LINE as u64).read_until(b'\n', &mut line);
        match read {
            Ok(n) if n > 0 && line.ends_with(b"\n") => {
                if lines.send(line).is_err() {
                    return;
                }
            }
            Ok(0) => process::exit(0),
            Ok(_) => {
                eprintln!("steadfast helper: a request without end or longer than {MAX_LINE} bytes");
                process::exit(1);
            }
            Err(error) => {
                eprintln!("steadfast helper: cannot read requests: {error}");
                process::exit(1);
            }
        }
    }
}

fn id_of(line: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct OnlyId {
        id: u64,
    }
    serde_json::from_slice::<OnlyId>(line).map_or(0, |only| only.id)
}

fn write_line(answer: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
