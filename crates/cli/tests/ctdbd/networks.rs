//! On other addresses than loopback ones: in networks of the test's own, which end with it and with what runs in them.

use super::{Answer, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Two machines' worth of network, which end with the test.
struct Networks([String; 2]);

impl Networks {
    fn new() -> Self {
        let networks = Self([0, 1].map(|n| format!("ctdbd-{}-{n}", std::process::id())));
        let [a, b] = &networks.0;
        let mut lines = vec![format!("netns add {a}"), format!("netns add {b}")];
        lines.push(format!("link add v0 netns {a} type veth peer name v1 netns {b}"));
        for (n, name) in networks.0.iter().enumerate() {
            lines.push(format!("-n {name} link set lo up"));
            lines.push(format!("-n {name} link set v{n} up"));
            lines.push(format!("-n {name} addr add 10.99.0.{}/24 dev v{n}", n + 1));
        }
        for line in lines {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
        }
        networks
    }

    fn run(&self, n: usize, base: &Path, command: &[&str]) -> Answer {
        let mut all = Command::new("ip");
        all.args(["netns", "exec", &self.0[n]]).args(command);
        let ran = all.env("CTDB_TEST_MODE", "1").env("CTDB_BASE", base).stdin(Stdio::null());
        // Files, for a daemon's guard keeps what it has of its starter's.
        let files = ["out", "err"].map(|name| base.join(name));
        let [out, err] = files.each_ref().map(|path| fs::File::create(path).unwrap());
        let status = ran.stdout(out).stderr(err).status().unwrap();
        let [out, err] = files.map(|path| fs::read_to_string(path).unwrap());
        Answer { out, err, code: status.code().unwrap_or(-1) }
    }
}

impl Networks {
    /// Whatever runs in them; nothing does that this test has not started.
    fn processes(&self) -> Vec<Pid> {
        let of = |name: &String| Command::new("ip").args(["netns", "pids", name]).output();
        let lists: Vec<_> = self.0.iter().filter_map(|name| of(name).ok()).collect();
        let text: Vec<_> = lists.iter().map(|ran| String::from_utf8_lossy(&ran.stdout)).collect();
        text.iter().flat_map(|t| t.split_ascii_whitespace()).filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect()
    }

    fn end_processes(&self) {
        // In order first: a daemon takes its addresses away, and its guard ends when it has ended.
        for (signal, patience) in [(Signal::TERM, Duration::from_secs(10)), (Signal::KILL, Duration::from_secs(5))] {
            let deadline = Instant::now() + patience;
            for id in self.processes() {
                let _ = kill_process(id, signal);
            }
            while !self.processes().is_empty() && Instant::now() < deadline {
                sleep(Duration::from_millis(20));
            }
        }
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.end_processes();
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// However a test with networks ends, nothing goes on in them.
#[test]
#[ignore = "makes networks: scripts/test runs it"]
fn networks_end_with_what_runs_in_them() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let networks = Networks::new();
    let start = |n: usize, command: &[&str]| {
        let mut all = Command::new("ip");
        all.args(["netns", "exec", &networks.0[n]]).args(command).spawn().unwrap()
    };
    let mut children =
        [start(0, &["sleep", "1000"]), start(1, &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])];
    let deadline = Instant::now() + PATIENCE;
    while networks.processes().len() < 2 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10));
    }
    // Zombies are in no network: it is enough that they are waited for below.
    drop(networks);
    let ended = children.each_mut().map(|child| child.try_wait().unwrap());
    assert!(ended.iter().all(Option::is_some), "{ended:?}");
}

/// Nodes on other addresses: refused without certificates, and with them as `steadfast daemon`.
#[test]
#[ignore = "makes networks: scripts/test runs it"]
fn real_nodes_need_certificates() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("ctdbd");
    let program = program.to_str().unwrap();
    let steadfast = env!("CARGO_BIN_EXE_steadfast");
    symlink(steadfast, program).unwrap();
    let networks = Networks::new();
    let bases = [0, 1].map(|n| dir.path().join(format!("node.{n}")));
    for (n, base) in bases.iter().enumerate() {
        fs::create_dir(base).unwrap();
        fs::write(base.join("nodes"), "10.99.0.1\n10.99.0.2\n").unwrap();
        fs::write(base.join("public_addresses"), format!("10.99.0.100/24 v{n}\n10.99.0.101/24 v{n}\n")).unwrap();
        let refused = networks.run(n, base, &[program]);
        assert_eq!(refused.code, 1);
        assert!(refused.err.contains("without certificates are refused"), "{}", refused.err);
    }
    let text = |n: usize, name: &str| bases[n].join(name).display().to_string();
    let good = |n: usize, command: &[&str]| {
        let answer = networks.run(n, &bases[n], command);
        assert_eq!(answer.code, 0, "{command:?}: {answer:?}");
        answer.out
    };
    let (config, state, admin) = (text(0, "steadfast.toml"), text(0, "steadfast"), text(0, "run/admin.sock"));
    good(0, &[steadfast, "import-ctdb", "--output", &config]);
    good(0, &[steadfast, "init", "--config", &config, "--state-dir", &state]);
    good(0, &[program]);
    let token = good(0, &[steadfast, "--socket", &admin, "token", "--config", &config, "--state-dir", &state]);
    good(1, &[steadfast, "join", "--config", &text(1, "none"), "--state-dir", &text(1, "steadfast"), token.trim()]);
    good(1, &[program]);
    let tool = dir.path().join("ctdb");
    symlink(steadfast, &tool).unwrap();
    let tool = tool.to_str().unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let [state, ip] = [(0, ["nodestatus", "all"]), (1, ["ip", "all"])]
            .map(|(n, [command, all])| networks.run(n, &bases[n], &[tool, command, all]));
        if state.code == 0 && ip.out.contains(" 0\n") && ip.out.contains(" 1\n") {
            break;
        }
        let logs = [0, 1].map(|n| fs::read_to_string(bases[n].join("log.ctdb")).unwrap_or_default()).join("\n---\n");
        assert!(Instant::now() < deadline, "{state:?} {ip:?}\n{logs}");
        sleep(Duration::from_millis(100));
    }
    // On a real interface now.
    for n in [0, 1] {
        let held = good(n, &["ip", "-o", "addr", "show", "dev", &format!("v{n}")]);
        assert!(held.contains("10.99.0.10"), "{held}");
    }
    for n in [1, 0] {
        good(n, &[tool, "shutdown"]);
        let pid_file = bases[n].join("run/ctdbd.pid");
        while pid_file.exists() {
            assert!(Instant::now() < deadline + PATIENCE, "node {n} does not end");
            sleep(Duration::from_millis(20));
        }
        assert!(!good(n, &["ip", "-o", "addr", "show", "dev", &format!("v{n}")]).contains("10.99.0.10"));
    }
}
