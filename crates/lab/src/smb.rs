//! SMB sessions that a test keeps: files held open with chosen rights, which smbclient cannot do.
//!
//! Samba's own Python binding speaks the protocol (package python3-samba, which samba needs itself).

use crate::lab::Lab;
use crate::site::{CLIENT, PASSWORD, SHARE, USER};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PROGRAM: &str = include_str!("smb_client.py");
/// For one answer; the server may be busy with a lost node meanwhile.
const PATIENCE: Duration = Duration::from_secs(40);

/// What others may do with a file while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nothing: the open is exclusive.
    Nothing,
    /// Read, write and delete.
    All,
}

/// What the server said to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done; of an open file its handle.
    Done(String),
    /// Refused, with the server's status and words.
    Refused(String),
}

impl Answer {
    /// Somebody else has the file open in a way that does not go with this one.
    pub(crate) fn is_sharing_violation(&self) -> bool {
        matches!(self, Self::Refused(why) if why.starts_with("0xc0000043"))
    }

    /// The handle, or the refusal as an error.
    pub(crate) fn handle(self) -> Result<String> {
        match self {
            Self::Done(handle) => Ok(handle),
            Self::Refused(why) => bail!("SMB: {why}"),
        }
    }
}

/// A client's connection to one address; it ends with this value.
#[derive(Debug)]
pub(crate) struct Session {
    server: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Session {
    /// Logs the laboratory's user in at `server`.
    pub(crate) fn open(lab: &Lab, server: &str) -> Result<Self> {
        let words = ["/usr/bin/python3", "-c", PROGRAM, server, SHARE, USER, PASSWORD];
        let mut child = lab
            .command(CLIENT, &words)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the SMB client")?;
        let (Some(stdin), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the SMB client has no pipes");
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let session = Self { server: server.to_owned(), child, stdin, lines };
        let first = session.line()?;
        if first != "ready" {
            bail!("the SMB client of {server} says: {first}");
        }
        Ok(session)
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).with_context(|| format!("no answer of the SMB session with {}", self.server))
    }

    fn order(&mut self, line: &str) -> Result<Answer> {
        writeln!(self.stdin, "{line}").with_context(|| format!("the SMB session with {} has ended", self.server))?;
        let said = self.line()?;
        match said.split_once(' ') {
            Some(("ok", handle)) => Ok(Answer::Done(handle.trim().to_owned())),
            Some(("error", why)) => Ok(Answer::Refused(why.to_owned())),
            _ => bail!("the SMB client of {} says: {said}", self.server),
        }
    }

    /// Opens a file for reading and writing, makes it if it is not there.
    pub(crate) fn create(&mut self, name: &str, sharing: Sharing) -> Result<Answer> {
        let share = match sharing {
            Sharing::Nothing => 0,
            Sharing::All => 7,
        };
        self.order(&format!("open {name} 0x0012019f {share:#x}"))
    }

    /// Writes a word through an open file.
    pub(crate) fn write(&mut self, handle: &str, word: &str) -> Result<Answer> {
        self.order(&format!("write {handle} {word}"))
    }

    /// Closes an open file.
    pub(crate) fn close(&mut self, handle: &str) -> Result<Answer> {
        self.order(&format!("close {handle}"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ends the client, which is a child of the child; that one need not be waited for.
        let _ = writeln!(self.stdin, "exit");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
