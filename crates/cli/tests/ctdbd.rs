//! Called `ctdbd`, this program is a node from CTDB's files alone: three of them on loopback addresses in CTDB's test
//! mode, one `CTDB_BASE` each, driven by Debian's `ctdb` (by ours where that is not installed).
//!
//! `beside_debians` tells the same story to Debian's ctdbd and compares what the tool prints.

#![allow(clippy::unwrap_used)]

#[path = "ctdbd/lock.rs"]
mod lock;
#[path = "ctdbd/networks.rs"]
mod networks;

use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const STOCK: &str = "/usr/sbin/ctdbd";
const STOCK_TOOL: &str = "/usr/bin/ctdb";
const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    dir: tempfile::TempDir,
    program: PathBuf,
    tool: PathBuf,
    addresses: Vec<String>,
    daemons: Vec<Option<Child>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    out: String,
    err: String,
    code: i32,
}

impl Cluster {
    /// Directories and files of all nodes; nothing runs yet.
    fn new(program: Option<&str>) -> Self {
        Self::of(NODES, program)
    }

    fn of(nodes: usize, program: Option<&str>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("ctdbd");
        symlink(env!("CARGO_BIN_EXE_steadfast"), &ours).unwrap();
        symlink(env!("CARGO_BIN_EXE_steadfast"), dir.path().join("ctdb")).unwrap();
        let tool = if Path::new(STOCK_TOOL).exists() { STOCK_TOOL.into() } else { dir.path().join("ctdb") };
        // Tests at the same time have other addresses.
        let (id, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = format!("127.{}.{}", 64 + id % 128, id / 128 % 256);
        let addresses = (0..nodes).map(|n| format!("{net}.{}", 1 + 10 * count as usize + n)).collect();
        let program = program.map_or(ours, PathBuf::from);
        let cluster = Self { dir, program, tool, addresses, daemons: (0..nodes).map(|_| None).collect() };
        for node in 0..nodes {
            cluster.write_files(node);
        }
        cluster
    }

    fn base(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node.{node}"))
    }

    /// As CTDB's own `local_daemons.sh` has them.
    fn write_files(&self, node: usize) {
        let base = self.base(node);
        for sub in ["db/volatile", "db/persistent", "db/state", "events/legacy", "run"] {
            fs::create_dir_all(base.join(sub)).unwrap();
        }
        let script = base.join("events/legacy/00.test.script");
        fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let at = base.display();
        let conf = format!(
            "[logging]\n\tlocation = file:{at}/log.ctdb\n\tlog level = INFO\n\n[cluster]\n\tcluster lock = \
             {}/shared/.ctdb/cluster.lock\n\tnode address = {}\n\n[database]\n\tvolatile database directory = \
             {at}/db/volatile\n\tpersistent database directory = {at}/db/persistent\n\tstate database directory = \
             {at}/db/state\n\ttdb mutexes = false\n",
            self.dir.path().display(),
            self.addresses[node]
        );
        fs::create_dir_all(self.dir.path().join("shared/.ctdb")).unwrap();
        self.write(node, "ctdb.conf", &conf);
        self.write(node, "nodes", &(self.addresses.join("\n") + "\n"));
        self.write(node, "public_addresses", "203.0.113.1/24 lo\n203.0.113.2/24 lo\n203.0.113.3/24 lo\n");
        self.write(node, "ctdb.tunables", "RerecoveryTimeout=1\nMonitorInterval=7\n");
    }

    fn write(&self, node: usize, name: &str, text: &str) {
        fs::write(self.base(node).join(name), text).unwrap();
    }

    fn daemon(&self, node: usize, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("CTDB_TEST_MODE", "yes").env("CTDB_BASE", self.base(node)).env_remove("CTDB_SOCKET");
        command
    }

    fn start(&mut self, node: usize) {
        let errors = fs::File::create(self.base(node).join("errors")).unwrap();
        let daemon = self.daemon(node, &["-i"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors).spawn();
        self.daemons[node] = Some(daemon.unwrap());
    }

    /// Starts one that was killed. Debian's fails while the killed one's event daemon has not noticed.
    fn start_again(&mut self, node: usize) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.start(node);
            while self.daemons[node].as_mut().unwrap().try_wait().unwrap().is_none() {
                if self.ctdb(node, "pnn").code == 0 {
                    return;
                }
                sleep(Duration::from_millis(50));
            }
            let again = self.program == Path::new(STOCK) && Instant::now() < deadline;
            assert!(again, "node {node} does not start again\n{}", self.logs());
        }
    }

    fn start_all(&mut self) {
        for node in 0..self.daemons.len() {
            self.start(node);
        }
        self.whole();
    }

    /// Runs the tool against a node.
    fn ctdb(&self, node: usize, line: &str) -> Answer {
        let ran = Command::new(&self.tool)
            .args(["-T", "20"])
            .args(line.split_ascii_whitespace())
            .env("CTDB_TEST_MODE", "yes")
            .env("CTDB_BASE", self.base(node))
            .env_remove("CTDB_SOCKET")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut plain = [ran.stdout, ran.stderr].map(|text| self.plain(&String::from_utf8_lossy(&text)));
        Answer {
            out: std::mem::take(&mut plain[0]),
            err: std::mem::take(&mut plain[1]),
            code: ran.status.code().unwrap_or(-1),
        }
    }

    /// Without what is this cluster's own.
    fn plain(&self, text: &str) -> String {
        let mut text = text.replace(&self.dir.path().display().to_string(), "DIR");
        for (node, address) in self.addresses.iter().enumerate() {
            // The tool fills up to a column.
            text = text.replace(&format!("{address:<16}"), &format!("ADDRESS{node} "));
            text = text.replace(address, &format!("ADDRESS{node}"));
        }
        text
    }

    /// Waits until an answer is as wanted.
    fn until(&self, node: usize, line: &str, what: &str, good: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ctdb(node, line);
            if good(&answer) {
                return answer;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not after {PATIENCE:?}; ctdb {line} on node {node}: {answer:?}\n{}",
                self.logs()
            );
            sleep(Duration::from_millis(100));
        }
    }

    /// All nodes are well, every address has a holder, and all are ready for clients.
    fn whole(&self) {
        for node in 0..self.daemons.len() {
            self.until(node, "nodestatus all", "all nodes are well", |answer| answer.code == 0);
            self.until(node, "ip all", "all addresses are held", |answer| {
                answer.code == 0 && !answer.out.contains(" -1")
            });
            self.until(node, "runstate running", "it runs", |answer| answer.code == 0);
        }
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        for node in 0..self.daemons.len() {
            for name in ["errors", "log.ctdb"] {
                let text = fs::read_to_string(self.base(node).join(name)).unwrap_or_default();
                let end: Vec<&str> = text.lines().rev().take(25).collect();
                let end: Vec<&str> = end.into_iter().rev().collect();
                let _ = writeln!(all, "--- node {node}, {name}\n{}", end.join("\n"));
            }
        }
        all
    }

    fn signal(&self, node: usize, signal: Signal) {
        let id = self.daemons[node].as_ref().unwrap().id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until the daemon has ended.
    fn ended(&mut self, node: usize) -> ExitStatus {
        let mut daemon = self.daemons[node].take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "node {node} has not ended after {PATIENCE:?}\n{}", self.logs());
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut left: Vec<Child> = self.daemons.iter_mut().filter_map(Option::take).collect();
        for daemon in &mut left {
            // Ends with its standard input.
            drop(daemon.stdin.take());
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        for daemon in &mut left {
            while matches!(daemon.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = daemon.kill();
                    let _ = daemon.wait();
                    break;
                }
                sleep(Duration::from_millis(20));
            }
        }
    }
}

/// What happens to three nodes, and what the tool says of it.
fn story(cluster: &mut Cluster) -> Vec<(String, Answer)> {
    let mut told = Vec::new();
    cluster.start_all();
    let mut tell = |cluster: &Cluster, node: usize, line: &str| {
        let mut answer = cluster.ctdb(node, line);
        if line == "status" {
            // The map; the generation is random, and flags are told by `nodestatus`.
            answer.out = answer.out.lines().filter(|l| l.starts_with("Size:") || l.starts_with("hash:")).collect();
        }
        told.push((format!("node {node}: ctdb {line}"), answer));
    };
    for node in 0..NODES {
        tell(cluster, node, "pnn");
    }
    for line in [
        "listnodes",
        "-X listnodes",
        "nodestatus all",
        "-X nodestatus all",
        "getvar MonitorInterval",
        "getvar EventScriptTimeout",
        "getreclock",
        "runstate",
        "-n 2 runstate",
        "attach shared.tdb persistent",
        "attach shared.tdb",
        "pstore shared.tdb key value",
    ] {
        tell(cluster, 0, line);
    }
    tell(cluster, 1, "pfetch shared.tdb key");
    tell(cluster, 2, "pfetch shared.tdb key");
    tell(cluster, 2, "pfetch shared.tdb another");

    for line in [
        "attach copies.tdb",
        "getdbmap",
        "setdbreadonly copies.tdb",
        "setdbreadonly shared.tdb",
        "getdbmap",
        "-X getdbmap",
        "getdbstatus copies.tdb",
        "writekey copies.tdb key value",
    ] {
        tell(cluster, 0, line);
    }
    tell(cluster, 2, "-X getdbmap");
    for line in ["readkey copies.tdb key", "readkey copies.tdb key readonly", "writekey copies.tdb key other"] {
        for node in [1, 2, 0] {
            tell(cluster, node, line);
        }
    }
    tell(cluster, 2, "readkey copies.tdb key readonly");

    tell(cluster, 0, "disable -n 1");
    cluster.until(2, "nodestatus 1", "node 1 is disabled", |a| a.out.contains("DISABLED"));
    cluster.until(2, "ip all", "node 1 has no address", |a| !a.out.contains(" 1\n") && !a.out.contains(" -1"));
    tell(cluster, 2, "-X nodestatus 1");
    tell(cluster, 0, "enable -n 1");
    cluster.whole();

    tell(cluster, 0, "status");
    tell(cluster, 0, "stop -n 2");
    for node in [0, 1] {
        cluster.until(node, "nodestatus 2", "node 2 is stopped", |a| a.out.contains("STOPPED"));
        cluster.until(node, "status", "the map is without it", |a| a.out.contains("Size:2"));
        tell(cluster, node, "status");
    }
    tell(cluster, 0, "readkey copies.tdb key");
    tell(cluster, 0, "continue -n 2");
    cluster.until(0, "status", "it is back in the map", |a| a.out.contains("Size:3"));
    cluster.whole();
    tell(cluster, 2, "status");
    tell(cluster, 2, "readkey copies.tdb key");

    cluster.signal(1, Signal::KILL);
    cluster.ended(1);
    cluster.until(0, "nodestatus 1", "node 1 is gone", |a| a.out.contains("DISCONNECTED"));
    cluster.until(0, "ip all", "its addresses are elsewhere", |a| !a.out.contains(" 1\n") && !a.out.contains(" -1"));
    tell(cluster, 0, "nodestatus 0,2");
    tell(cluster, 2, "pfetch shared.tdb key");
    tell(cluster, 2, "pstore shared.tdb key changed");
    cluster.start_again(1);
    cluster.whole();
    tell(cluster, 1, "attach shared.tdb persistent");
    tell(cluster, 1, "pfetch shared.tdb key");

    tell(cluster, 2, "shutdown");
    cluster.ended(2);
    cluster.until(0, "nodestatus 2", "node 2 is gone", |a| a.out.contains("DISCONNECTED"));
    assert_eq!(cluster.ctdb(2, "pnn").code, 1);
    told
}

#[test]
fn three_nodes_from_ctdbs_files_alone() {
    let mut cluster = Cluster::new(None);
    let told = story(&mut cluster);
    let said = |line: &str| {
        let found = told.iter().rev().find(|(of, _)| of == line);
        &found.unwrap_or_else(|| panic!("{line} in {told:#?}")).1
    };
    for (node, pnn) in ["0\n", "1\n"].into_iter().enumerate() {
        assert_eq!(said(&format!("node {node}: ctdb pnn")).out, pnn);
    }
    assert_eq!(said("node 0: ctdb listnodes").out, "ADDRESS0\nADDRESS1\nADDRESS2\n");
    assert_eq!(said("node 0: ctdb getvar MonitorInterval").out, "MonitorInterval            = 7\n");
    assert_eq!(said("node 0: ctdb getreclock").out, "DIR/shared/.ctdb/cluster.lock\n");
    assert_eq!(said("node 1: ctdb pfetch shared.tdb key").out, "changed\n");
    assert!(
        said("node 0: ctdb getdbmap").out.contains("name:copies.tdb path:DIR/node.0/db/volatile/copies.tdb.0 READONLY")
    );
    assert_eq!(said("node 1: ctdb status").out, "Size:2hash:0 lmaster:0hash:1 lmaster:1");
    assert_eq!(said("node 2: ctdb readkey copies.tdb key").out, "Data: size:5 ptr:[other]\n");
    assert_eq!(said("node 2: ctdb readkey copies.tdb key readonly").out, "Data: size:5 ptr:[other]\n");
    let base = cluster.base(0);
    assert!(base.join("db/persistent/shared.tdb.0").exists(), "where ctdb.conf says");
    let errors = fs::read_to_string(base.join("errors")).unwrap();
    assert!(errors.contains("WARN") && errors.contains("without certificates"), "{errors}");
    // Nothing of it is on a real interface.
    let addresses = String::from_utf8(Command::new("ip").args(["-o", "addr"]).output().unwrap().stdout).unwrap();
    assert!(!addresses.contains("203.0.113."), "{addresses}");

    // A pipe that is closed ends it, with nothing left behind.
    let pid_file = base.join("run/ctdbd.pid");
    let socket = base.join("run/ctdbd.socket");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{}\n", cluster.daemons[0].as_ref().unwrap().id()));
    drop(cluster.daemons[0].as_mut().unwrap().stdin.take());
    let status = cluster.ended(0);
    assert_eq!(status.code(), Some(0), "{}", cluster.logs());
    assert!(!socket.exists() && !pid_file.exists());
    // It does for the tool what it did for the harness: the rest goes on.
    cluster.until(1, "nodestatus 0", "node 0 is gone", |a| a.out.contains("DISCONNECTED"));
}

/// Without -i: in the background, with its log in the file, until the pipe of who started it is closed.
#[test]
fn in_the_background() {
    let mut cluster = Cluster::new(None);
    let nodes = cluster.addresses[0].clone() + "\n";
    cluster.write(0, "nodes", &nodes);
    // It finds its address itself.
    let conf = fs::read_to_string(cluster.base(0).join("ctdb.conf")).unwrap().replace("node address", "# node address");
    cluster.write(0, "ctdb.conf", &conf);
    let mut starter = cluster.daemon(0, &[]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = starter.stdin.take();
    let started = Instant::now();
    // The daemon lets go of it, or this would last for ever.
    let mut errors = String::new();
    starter.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    let status = starter.wait().unwrap();
    assert!(status.success(), "{errors}\n{}", cluster.logs());
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert_eq!(cluster.ctdb(0, "pnn").out, "0\n");
    cluster.until(0, "nodestatus", "it is well", |a| a.code == 0);
    let pid: i32 = fs::read_to_string(cluster.base(0).join("run/ctdbd.pid")).unwrap().trim().parse().unwrap();
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name, "ctdbd\n");
    let log = fs::read_to_string(cluster.base(0).join("log.ctdb")).unwrap();
    assert!(log.contains("trial on one machine"), "{log}");

    // One directory, one daemon.
    let second = cluster.daemon(0, &["-i"]).stdin(Stdio::null()).output().unwrap();
    let why = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && why.contains(&format!("(pid {pid})")), "{why}");
    // One address, one daemon.
    let conf = fs::read_to_string(cluster.base(1).join("ctdb.conf")).unwrap();
    cluster.write(1, "ctdb.conf", &conf.replace(&cluster.addresses[1], &cluster.addresses[0]));
    cluster.write(1, "nodes", &nodes);
    let second = cluster.daemon(1, &["-i"]).stdin(Stdio::null()).output().unwrap();
    let why = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && why.contains("another ctdbd has it"), "{why}");

    drop(stdin);
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < deadline, "it does not end with its standard input\n{}", cluster.logs());
        sleep(Duration::from_millis(20));
    }
    assert!(!cluster.base(0).join("run/ctdbd.socket").exists());
    cluster.daemons.clear();
}

#[test]
fn what_cannot_run_says_why() {
    let fails = |prepare: &dyn Fn(&Cluster), wanted: &[&str]| {
        let cluster = Cluster::new(None);
        prepare(&cluster);
        // In both ways of starting it.
        for args in [&["-i"][..], &[]] {
            let ran = cluster.daemon(0, args).stdin(Stdio::null()).output().unwrap();
            let why = cluster.plain(&String::from_utf8_lossy(&ran.stderr));
            assert_eq!(ran.status.code(), Some(1), "{wanted:?}: {why}");
            for word in wanted {
                assert!(why.contains(word), "{word} in {why}");
            }
            assert!(!cluster.base(0).join("run/ctdbd.socket").exists());
        }
    };
    fails(
        &|c| fs::remove_file(c.base(0).join("nodes")).unwrap(),
        &["there is no DIR/node.0/nodes", "write the private address"],
    );
    fails(&|c| c.write(0, "nodes", "# none\n"), &["lists no node"]);
    fails(&|c| c.write(0, "nodes", "127.0.0.1\nnot-an-address\n"), &["`not-an-address`", "DIR/node.0/nodes:2:1"]);
    fails(
        &|c| c.write(0, "nodes", &c.addresses[1]),
        &["this node's address ADDRESS0 is none of the nodes'", "DIR/node.0/ctdb.conf", "add it there"],
    );
    fails(
        &|c| c.write(0, "ctdb.conf", "[cluster]\nsomething else\n"),
        &["DIR/node.0/ctdb.conf:2:1", "write `name = value`"],
    );
    fails(&|c| c.write(0, "ctdb.tunables", "Frobnicate=1\n"), &["no tunable Frobnicate", "ctdb.tunables:1:1"]);
    let no_certificates = |c: &Cluster| {
        c.write(0, "ctdb.conf", "");
        // This machine's own, if it has one that is not a loopback address.
        let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let own = probe.connect("192.0.2.1:9").and_then(|()| probe.local_addr()).map(|a| a.ip().to_string());
        let own = own.unwrap_or_else(|_| "198.51.100.1".to_owned());
        c.write(0, "nodes", &format!("{own}\n198.51.100.77\n"));
    };
    let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let reachable = own.connect("192.0.2.1:9").is_ok();
    let wanted: &[&str] = if reachable {
        &["without certificates are refused", "DIR/node.0/steadfast/pki", "steadfast import-ctdb", "steadfast init"]
    } else {
        &["none of the addresses in DIR/node.0/nodes is this machine's"]
    };
    fails(&no_certificates, wanted);

    let cluster = Cluster::new(None);
    let ran = cluster.daemon(0, &["--nlist=/etc/ctdb/nodes"]).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("there is no option --nlist"));
    let ran = Command::new(&cluster.program).env("CTDB_TEST_MODE", "1").env_remove("CTDB_BASE").output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("CTDB_BASE is not"));
    for (args, begins) in [(["--help"], "Usage: ctdbd"), (["-V"], "Steadfast ")] {
        let ran = cluster.daemon(0, &args).output().unwrap();
        assert!(ran.status.success() && String::from_utf8_lossy(&ran.stdout).starts_with(begins), "{args:?}");
    }
}

#[test]
#[ignore = "takes a minute of Debian's ctdbd: scripts/test runs it"]
fn beside_debians() {
    if !Path::new(STOCK).exists() || !Path::new(STOCK_TOOL).exists() {
        eprintln!("skipped: needs Debian's package ctdb (scripts/install-needs)");
        return;
    }
    let [stock, ours] = [Some(STOCK), None].map(|program| story(&mut Cluster::new(program)));
    let mut wrong = String::new();
    for ((line, stock), (_, ours)) in stock.iter().zip(&ours) {
        if stock != ours {
            let _ = writeln!(wrong, "{line}\n  Debian's: {stock:?}\n  ours:     {ours:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(stock.len(), ours.len());
}
