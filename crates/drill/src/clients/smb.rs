//! The SMB client: one `smbclient` that puts a small file again and again.
//!
//! As a kernel's mount does, it connects again when the connection is lost and repeats the operation that was under way;
//! an error over a living connection is a failed operation.

use super::{BLOCK, Recorder, Spec, block, pause};
use crate::now_us;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// smbclient's own limit for an answer is 20 s; a server that is gone costs no more here.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a put that is under way at the end may take.
const FINISH: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(100);

struct Session {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    fn open(spec: &Spec, vip: IpAddr, directory: &Path) -> Result<Self> {
        let mut child = Command::new("smbclient")
            .arg(format!("//{vip}/{}", spec.share))
            .args(["-U", &spec.user, "-E"])
            .env("PASSWD", &spec.password)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start smbclient: install it, or leave smb out (--protocols)")?;
        let stdin = child.stdin.take().context("no pipe to smbclient")?;
        let stderr = child.stderr.take().context("no pipe from smbclient")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, stdin, lines })
    }

    /// Says a command, waits for the line with `wanted`. An error of the connection is `Err`, one of the server's
    /// `Ok(Some)`.
    fn ask(&mut self, command: &str, wanted: &str) -> Result<Option<String>> {
        writeln!(self.stdin, "{command}").and_then(|()| self.stdin.flush()).context("smbclient has ended")?;
        let end = Instant::now() + ANSWER;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(wanted) => return Ok(None),
                Ok(line) if line.contains("NT_STATUS_") => {
                    let lost = ["CONNECTION", "IO_TIMEOUT", "UNREACHABLE", "NETWORK", "INVALID_NETWORK", "LOGON"];
                    if lost.iter().any(|word| line.contains(word)) {
                        bail!("{line}");
                    }
                    return Ok(Some(line));
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("no answer within {} s", ANSWER.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("smbclient has ended"),
            }
        }
    }
}

/// A directory of its own for the files that are sent.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn run(spec: &Spec, vip: IpAddr, name: &str, record: &Recorder, stop: &AtomicBool) {
    let scratch = Scratch(std::env::temp_dir().join(format!("steadfast-drill-{}-{name}", std::process::id())));
    if let Err(e) = fs::create_dir_all(&scratch.0) {
        return record.wrong(format!("cannot make {}: {e}", scratch.0.display()));
    }
    let mut session = None;
    let mut n = 0;
    let mut interrupted = false;
    while !stop.load(Ordering::Relaxed) {
        let begun = now_us();
        // Until it is there, whatever becomes of connections meanwhile, and after the end, too: a put that was interrupted
        // leaves an empty file, or half of one, and that is nobody's fault.
        let mut late = None;
        while !stop.load(Ordering::Relaxed) || *late.get_or_insert_with(Instant::now) + FINISH > Instant::now() {
            match put(&mut session, spec, vip, name, n, &scratch.0) {
                Ok(None) => {
                    (n, interrupted) = (n + 1, false);
                    record.ok(begun);
                    break;
                }
                Ok(Some(why)) => {
                    record.failed(&why);
                    break;
                }
                Err(e) => {
                    record.missed(&format!("{e:#}"));
                    (session, interrupted) = (None, true);
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        pause(EVERY, stop);
    }
    if n == 0 {
        return record.wrong(format!("nothing could be put on //{vip}/{}", spec.share));
    }
    if interrupted {
        let limit = FINISH.as_secs();
        return record.wrong(format!("a put of {name} was interrupted and could not be done again within {limit} s"));
    }
    match compare(&mut session, spec, vip, name, n, &scratch.0) {
        Ok(()) => record.compared(BLOCK as u64),
        Err(e) => record.wrong(format!("{e:#}")),
    }
}

fn put(
    session: &mut Option<Session>,
    spec: &Spec,
    vip: IpAddr,
    name: &str,
    n: u64,
    directory: &Path,
) -> Result<Option<String>> {
    fs::write(directory.join("out"), block(name, n))?;
    connected(session, spec, vip, directory)?.ask(&format!("put out {name}"), "putting file")
}

/// The session, opened if there is none.
fn connected<'a>(
    session: &'a mut Option<Session>,
    spec: &Spec,
    vip: IpAddr,
    directory: &Path,
) -> Result<&'a mut Session> {
    let open = match session.take() {
        Some(open) => open,
        None => Session::open(spec, vip, directory)?,
    };
    Ok(session.insert(open))
}

/// The last block that was acknowledged, or the one after it, must be there.
fn compare(
    session: &mut Option<Session>,
    spec: &Spec,
    vip: IpAddr,
    name: &str,
    n: u64,
    directory: &Path,
) -> Result<()> {
    for attempt in 0..3 {
        match connected(session, spec, vip, directory)?.ask(&format!("get {name} back"), "getting file") {
            Ok(None) => break,
            Ok(Some(why)) => bail!("cannot read {name} back: {why}"),
            Err(e) if attempt == 2 => return Err(e.context(format!("cannot read {name} back"))),
            Err(_) => *session = None,
        }
    }
    let back = fs::read(directory.join("back"))?;
    anyhow::ensure!(
        back == block(name, n - 1) || back == block(name, n),
        "{name} is not what was acknowledged last ({} bytes are there)",
        back.len()
    );
    if let Some(open) = session.as_mut() {
        // Its answer is not waited for: smbclient says nothing when a deletion worked.
        writeln!(open.stdin, "del {name}\nquit").context("smbclient has ended")?;
        let end = Instant::now() + ANSWER;
        while Instant::now() < end && open.child.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}
