//! The program as scripts see it: exit codes, JSON, a daemon that misbehaves, a pipe that closes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use cluster::{AdminState, LeaseStatus, LockStatus, NodeState, NodeStatus, PaceStatus, Pnn, Role, Snapshot, Time};
use node::admin::api::{Answer, Local, Request, Status};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A daemon that says these lines to each request; ends with the test.
struct Daemon {
    dir: tempfile::TempDir,
}

impl Daemon {
    fn says(answer: impl Fn(Request) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                for line in answer(serde_json::from_str(&line).unwrap()) {
                    // The command may have seen enough.
                    let _ = stream.write_all(&line);
                }
            }
        });
        Self { dir }
    }

    fn answers(answer: impl Fn(Request) -> Vec<Answer> + Send + 'static) -> Self {
        Self::says(move |request| {
            let lines = answer(request).into_iter();
            lines.map(|a| format!("{}\n", serde_json::to_string(&a).unwrap()).into_bytes()).collect()
        })
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }
}

fn steadfast(socket: &Path, args: &[&str]) -> Output {
    command(socket, args).output().unwrap()
}

fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
    command.arg("--socket").arg(socket).args(args).stdin(Stdio::null());
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn empty_status() -> Status {
    Status {
        snapshot: Snapshot {
            at: Time(0),
            serial: 1,
            cluster: "storage".into(),
            me: Pnn(0),
            view: None,
            leader: None,
            member: false,
            lease: LeaseStatus { valid: false, until: None, grants: 0, voters: 0 },
            harmless: false,
            planned_moves: false,
            nodes: BTreeMap::new(),
            vips: BTreeMap::new(),
            lock: LockStatus::default(),
            takeover_wait: Duration::ZERO,
            pace: PaceStatus::default(),
            warnings: vec![],
        },
        local: Local::default(),
        unix_ms: 0,
    }
}

fn done(text: &str) -> Answer {
    Answer::Done { text: text.into() }
}

#[test]
fn exit_codes_and_messages() {
    let nowhere = Path::new("/nonexistent/socket");
    for words in [&["status"][..], &["ip"], &["drain"], &["events"], &["reload"]] {
        let output = steadfast(nowhere, words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), 4, "{words:?}: {text}");
        assert!(text.contains("systemctl start steadfast") && output.stdout.is_empty(), "{text}");
    }
    assert_eq!(code(&steadfast(nowhere, &["no-such-command"])), 2);
    assert_eq!(code(&steadfast(nowhere, &["move-ip", "not-an-address", "a"])), 2);
    assert_eq!(code(&steadfast(nowhere, &["--help"])), 0);
    assert_eq!(code(&steadfast(nowhere, &["version"])), 0);
    assert_eq!(code(&steadfast(nowhere, &["config", "check", "/nonexistent/file"])), 1);

    let daemon = Daemon::answers(|request| match request {
        Request::Status { .. } => vec![Answer::Status(Box::new(empty_status())), done("")],
        Request::Reload => vec![Answer::Failed { text: "line 3 is wrong".into() }],
        _ => vec![done("it is so")],
    });
    let output = steadfast(&daemon.socket(), &["status"]);
    assert_eq!(code(&output), 3);
    assert!(String::from_utf8_lossy(&output.stdout).contains("has not joined"));
    let output = steadfast(&daemon.socket(), &["status", "--json"]);
    let status: Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), status), (3, empty_status()));

    let output = steadfast(&daemon.socket(), &["reload"]);
    assert_eq!(code(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("line 3 is wrong"));
    let output = steadfast(&daemon.socket(), &["drain", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &value["ok"], &value["text"]), (0, &true.into(), &"it is so".into()));
    let output = steadfast(&daemon.socket(), &["drain", "nobody"]);
    assert_eq!(code(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("'nobody' is no node"));

    let output = steadfast(&daemon.socket(), &["force-view"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(code(&output), 1);
    assert!(text.contains("may be lost") && text.contains("nothing was done"), "{text}");
    assert_eq!(code(&steadfast(&daemon.socket(), &["force-view", "--yes"])), 0);
}

#[test]
fn a_node_with_the_only_good_copy_goes_down_only_when_told_twice() {
    let mut status = empty_status();
    let warning = "do not take a down: 1 entry of volume v waits to be healed, and a has the only good copy";
    let node = NodeStatus {
        name: "a".into(),
        role: Role::Server,
        addresses: vec![],
        state: NodeState::Ok,
        because: String::new(),
        uid: None,
        member: true,
        voter: true,
        evicted: None,
        since: Time(0),
        admin: AdminState::Active,
        lingers: false,
        links_down: [].into(),
        services: std::sync::Arc::default(),
        vips: [].into(),
        version: String::new(),
        warnings: vec![warning.into()],
        nfs_clients: false,
    };
    status.snapshot.nodes.insert(Pnn(0), node.into());
    let daemon = Daemon::answers(move |request| match request {
        Request::Status { .. } => vec![Answer::Status(Box::new(status.clone())), done("")],
        _ => vec![done("it is so")],
    });
    for words in [&["drain", "a"][..], &["stop", "a"]] {
        let output = steadfast(&daemon.socket(), words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), 1, "{words:?}: {text}");
        assert!(text.contains(warning) && text.contains("nothing was done") && text.contains("--yes"), "{text}");
        let output = steadfast(&daemon.socket(), &[words, &["--yes"]].concat());
        assert_eq!(code(&output), 0, "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(warning));
    }
    assert_eq!(code(&steadfast(&daemon.socket(), &["resume", "a"])), 0);
}

#[test]
fn a_daemon_that_misbehaves() {
    for (lines, wanted) in [
        (vec![], 4),
        (vec![b"garbage\n".to_vec()], 1),
        (vec![b"{\"answer\":\"of_tomorrow\"}\n".to_vec()], 1),
        (vec![vec![0xff, b'\n']], 4),
        (vec![b"{\"answer\":".to_vec()], 1),
    ] {
        let said = lines.clone();
        let daemon = Daemon::says(move |_| said.clone());
        let output = steadfast(&daemon.socket(), &["status"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), wanted, "{lines:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let daemon = Daemon::answers(|_| {
        let text = "x".repeat(1 << 20);
        vec![Answer::Text { text }, done("")]
    });
    let mut child =
        command(&daemon.socket(), &["dns", "zone"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn documents_are_made() {
    let nowhere = Path::new("/nonexistent/socket");
    for shell in ["bash", "zsh", "fish"] {
        let output = steadfast(nowhere, &["completions", shell]);
        assert!(String::from_utf8_lossy(&output.stdout).contains("steadfast"));
    }
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man");
    assert_eq!(code(&steadfast(nowhere, &["man", man.to_str().unwrap()])), 0);
    assert!(std::fs::read_to_string(man.join("steadfast-force-view.1")).unwrap().contains("may lose data"));
    assert!(!man.join("steadfast-helper.1").exists());
}
