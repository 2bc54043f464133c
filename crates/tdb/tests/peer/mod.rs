//! The real libtdb as the other side: Debian's library in a process of its own, and Debian's tools.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Whether the tests can run. If not, says so once per test.
pub(crate) fn available(test: &str) -> bool {
    let python = Command::new("/usr/bin/python3")
        .args(["-c", "import ctypes; ctypes.CDLL('libtdb.so.1')"])
        .stderr(Stdio::null())
        .status();
    let tools = Command::new("tdbtool").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = python.is_ok_and(|status| status.success()) && tools.is_ok();
    if !there {
        println!(
            "test {test} skipped: needs python3, libtdb1 and tdb-tools, which come with samba (scripts/install-needs)"
        );
    }
    there
}

pub(crate) struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer/peer.py");
        let mut child = Command::new("/usr/bin/python3")
            .args(["-u", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdin, stdout }
    }

    /// Opened by libtdb with these flags.
    pub(crate) fn open(path: &Path, flags: u32, hash_size: u32) -> Self {
        let mut peer = Self::start();
        peer.ok(&format!("open {} {flags} {hash_size} 1", path.display()));
        peer
    }

    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "libtdb's process ended");
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.answer()
    }

    #[track_caller]
    pub(crate) fn ok(&mut self, line: &str) {
        assert_eq!(self.ask(line), "0", "{line}");
    }

    pub(crate) fn fetch(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let answer = self.ask(&format!("fetch {}", hex(key)));
        (answer != "none").then(|| unhex(&answer))
    }

    /// All records, sorted.
    pub(crate) fn all(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let answer = self.ask("all");
        let mut words = answer.split(' ');
        assert_eq!(words.next(), Some("ok"), "{answer}");
        let mut all: Vec<_> =
            words.map(|word| word.split_once('=').unwrap()).map(|(k, d)| (unhex(k), unhex(d))).collect();
        all.sort();
        all
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends `die` and waits for the end.
    pub(crate) fn die(&mut self) {
        self.send("die");
        self.child.wait().unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stdin = None;
        // Ended or killed by now, or never to end by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    if text == "-" {
        return Vec::new();
    }
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// `tdbtool FILE check` finds nothing wrong.
#[track_caller]
pub(crate) fn tool_check(path: &Path, context: &str) {
    let output = Command::new("tdbtool").arg(path).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Database integrity is OK"), "{context}: {said}");
}

/// What `tdbdump` says of a file, sorted.
pub(crate) fn dump(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let output = Command::new("tdbdump").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut records = Vec::new();
    let mut key = None;
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let Some(quoted) = line.iter().position(|byte| *byte == b'"').map(|at| &line[at + 1..line.len() - 1]) else {
            continue;
        };
        if line.starts_with(b"key(") {
            key = Some(unescape(quoted));
        } else if line.starts_with(b"data(") {
            records.push((key.take().unwrap(), unescape(quoted)));
        }
    }
    records.sort();
    records
}

fn unescape(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < quoted.len() {
        if quoted[at] == b'\\' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&quoted[at + 1..at + 3]).unwrap(), 16).unwrap());
            at += 3;
        } else {
            bytes.push(quoted[at]);
            at += 1;
        }
    }
    bytes
}

/// A small generator of numbers: the same seed, the same run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.roll(256)).unwrap()).collect()
    }
}
