//! The `ctdb` command beside Debian's, against daemons of Debian's package: the same output, the same exit codes.
//!
//! Two daemons run in CTDB's test mode on loopback addresses of this test's own. Needs root and the package `ctdb`.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const DAEMON: &str = "/usr/sbin/ctdbd";
const STOCK: &str = "/usr/bin/ctdb";
const NODES: usize = 2;

/// Daemons that end with the test, however that ends.
struct Cluster {
    daemons: Vec<Mutex<Child>>,
    directory: tempfile::TempDir,
    ours: PathBuf,
    addresses: Vec<String>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut daemons: Vec<&mut Child> = self.daemons.iter_mut().filter_map(|daemon| daemon.get_mut().ok()).collect();
        // A stopped one has to go on to end.
        daemons.retain_mut(|daemon| matches!(daemon.try_wait(), Ok(None)));
        for daemon in &daemons {
            for signal in [rustix::process::Signal::CONT, rustix::process::Signal::TERM] {
                let _ = rustix::process::kill_process(pid(daemon.id()), signal);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(3);
        for daemon in &mut daemons {
            while matches!(daemon.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    // With its recovery and event daemons, which otherwise end when it has ended.
                    let _ = rustix::process::kill_process_group(pid(daemon.id()), rustix::process::Signal::KILL);
                    let _ = daemon.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn pid(of: u32) -> rustix::process::Pid {
    i32::try_from(of).ok().and_then(rustix::process::Pid::from_raw).unwrap()
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let id = std::process::id();
        // Two tests at the same time have other addresses.
        let addresses: Vec<String> =
            (1..=NODES).map(|n| format!("127.{}.{}.{n}", 64 + id % 128, id / 128 % 256)).collect();
        let ours = directory.path().join("ctdb");
        symlink(env!("CARGO_BIN_EXE_steadfast"), &ours).unwrap();
        let mut cluster = Self { daemons: Vec::new(), directory, ours, addresses };
        for node in 0..NODES {
            let daemon = cluster.daemon(node);
            cluster.daemons.push(Mutex::new(daemon));
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while !cluster.is_whole() {
            assert!(Instant::now() < deadline, "the daemons of Debian's package are not ready after 30 s");
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster
    }

    fn base(&self, node: usize) -> PathBuf {
        self.directory.path().join(format!("node.{node}"))
    }

    fn daemon(&self, node: usize) -> Child {
        let base = self.base(node);
        for sub in ["db/volatile", "db/persistent", "db/state", "events/legacy", "run"] {
            std::fs::create_dir_all(base.join(sub)).unwrap();
        }
        let script = base.join("events/legacy/01.test.script");
        std::fs::write(&script, "#!/bin/sh\necho \"event $1\"\n").unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let at = base.display();
        let conf = format!(
            "[logging]\n\tlocation = file:{at}/log\n[cluster]\n\tnode address = {}\n\tcluster lock = {}/lock\n[database]\n\
             \tvolatile database directory = {at}/db/volatile\n\tpersistent database directory = {at}/db/persistent\n\
             \tstate database directory = {at}/db/state\n\ttdb mutexes = false\n",
            self.addresses[node],
            self.directory.path().display()
        );
        std::fs::write(base.join("ctdb.conf"), conf).unwrap();
        std::fs::write(base.join("nodes"), self.addresses.join("\n") + "\n").unwrap();
        std::fs::write(base.join("public_addresses"), "192.0.2.1/24 lo\n192.0.2.2/24 lo\n2001:db8::7/64 lo\n").unwrap();
        // Recoveries one after the other, without the original's pause between.
        std::fs::write(base.join("ctdb.tunables"), "RerecoveryTimeout=1\n").unwrap();
        Command::new(DAEMON)
            .arg("-i")
            .env("CTDB_TEST_MODE", "1")
            .env("CTDB_BASE", &base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    fn is_whole(&self) -> bool {
        let [status, addresses] = ["nodestatus all", "ip all"].map(|line| self.run(STOCK, &self.base(0), line));
        status.code == 0 && addresses.code == 0 && !addresses.out.contains("-1\n") && {
            let states = (0..NODES).map(|node| self.run(STOCK, &self.base(node), "runstate"));
            states.into_iter().all(|state| state.out == "RUNNING\n")
        }
    }

    /// Runs one command line; words may be quoted with `'`.
    fn run(&self, program: impl AsRef<OsStr>, base: &Path, line: &str) -> Answer {
        let words = line
            .split('\'')
            .enumerate()
            .flat_map(|(at, part)| if at % 2 == 1 { vec![part] } else { part.split_ascii_whitespace().collect() });
        let ran = Command::new(program)
            .args(words)
            .env("CTDB_TEST_MODE", "1")
            .env("CTDB_BASE", base)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Answer {
            out: String::from_utf8_lossy(&ran.stdout).into_owned(),
            err: String::from_utf8_lossy(&ran.stderr).into_owned(),
            code: ran.status.code().unwrap_or(-1),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    out: String,
    err: String,
    code: i32,
}

/// Numbers are `N` and spaces one: for what counts or tells the time.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { 'N' } else { c };
        if !(matches!(c, 'N' | ' ') && plain.ends_with(c)) {
            plain.push(c);
        }
    }
    // Days and months have no numbers.
    plain.replace("N.N", "N")
}

/// Waits until a daemon has ended.
fn ends(daemon: &Mutex<Child>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while daemon.lock().unwrap().try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "a daemon that was told to shut down is still there after 10 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What differs between the two, in words.
fn compare(line: &str, stock: &Answer, ours: &Answer, wrong: &mut String) {
    if stock != ours {
        let _ = writeln!(wrong, "ctdb {line}\n  Debian's: {stock:?}\n  ours:     {ours:?}");
    }
}

/// Commands that change nothing, or nothing that the second one would see.
const STILL: &str = "
status
-X status
-Y status
-x: -Y status
status -X -x ab
nodestatus
nodestatus all
nodestatus 0,1
nodestatus 9
nodestatus x
-X nodestatus all
-n 1 nodestatus
pnn
getpid
-n 1 getpid
-n=1 getpid
-n 0x1 getpid
--node=1 getpid
runstate
runstate running startup
runstate foo
runstate startup
listnodes
-X listnodes
-v listnodes
ip
ip all
-v ip
-v ip all
-X ip
-X -v ip all
-n 1 ip
ip foo
ipinfo 192.0.2.1
ipinfo 2001:db8::7
ipinfo 1.2.3.4
ipinfo x
ifaces
-X ifaces
-n 1 ifaces
setifacelink lo up
setifacelink foo up
setifacelink lo foo
setifacelink a-very-long-interface-name up
getvar MonitorInterval
getvar monitorinterval
getvar Nope
setvar MonitorInterval 15
setvar MonitorInterval 0x0f
setvar MonitorInterval abc
setvar MonitorInterval ''
setvar Nope 1
listvars
-n 1 listvars
getcapabilities
-X getcapabilities
getreclock
setdebug 4
getdebug
setdebug inf
getdebug
setdebug foo
setdebug 11
setdebug NOTICE
getdebug
leader
-n 1 leader
process-exists 1
process-exists abc
process-exists 1 5
getdbmap
-X getdbmap
getdbstatus per.tdb
getdbstatus rep.tdb
getdbstatus nope
getdbseqnum per.tdb
getdbseqnum 0x1
catdb per.tdb
cattdb per.tdb
catdb vol.tdb
catdb nope
pfetch per.tdb key
pfetch per.tdb 0x6b6579
pfetch per.tdb 0x1
pfetch per.tdb 0xzz
pfetch per.tdb nope
pfetch vol.tdb a
pfetch rep.tdb a
readkey vol.tdb a
readkey per.tdb a
dbstatistics nope
gettickles 192.0.2.1
gettickles 192.0.2.1 445
-X gettickles 192.0.2.1
gettickles 9.9.9.9
gettickles x
addtickle 10.0.0.1:1 1.2.3.4:445
addtickle 10.0.0.1 1.2.3.4:445
deltickle 10.0.0.1:1 1.2.3.4:445
tickle 1 2
tickle 1.1.1.1:3 2
gratarp 192.0.2.1 lo
gratarp x lo
addip 1.2.3 lo
addip 192.0.2.1/24 lo
delip 1.2.3.4
moveip x 1
reloadnodes
detach per.tdb
setdbreadonly per.tdb
setdbsticky nope
attach foo.tdb bar
attach per.tdb persistent
enable
continue
unban
ban 0
checktcpport 4379
checktcpport 0
tfetch /nope a
tfetch BASE/db/persistent/per.tdb.0 key
tfetch BASE/db/persistent/per.tdb.0 nope
tstore /nope a b
dumpdbbackup /nope
dumpdbbackup BASE/nodes
dumpdbbackup BASE/stock.backup
dumpdbbackup BASE/ours.backup
restoredb /nope
ptrans per.tdb /nope
backupdb per.tdb /nope/x
wipedb nope
event status legacy nope
natgw list
lvs list
nosuch
help
''
-n 7 status
-n 1 pnn
-n all pnn
-n -2 status
stop -n 9
-n 1 catdb vol.tdb
listnodes -n 1
--version
--help
-?
--usage
-t
-t abc status
-Z status
-YZ status
-Y=1 pnn
--verbose=1 pnn
-n 99999999999 pnn
pnn -- -n 9
- pnn
";

/// Answers that count or tell the time.
const COUNTING: &str = "
ping
-n 1 ping
uptime
-n 1 uptime
statistics
-n 1 statistics
-X statistics
dbstatistics vol.tdb
scriptstatus
scriptstatus startup
event status legacy startup
";

/// With arguments that they do not take.
const WRONG: &str = "status getvar setvar listvars statistics statisticsreset stats ip ipinfo ifaces setifacelink
process-exists getdbmap getdbstatus catdb cattdb getcapabilities lvs setdebug getdebug attach disable enable stop
continue ban unban shutdown recover sync ipreallocate gratarp tickle gettickles addtickle deltickle listnodes moveip
addip delip backupdb restoredb dumpdbbackup wipedb scriptstatus natgw getreclock setlmasterrole setleaderrole
setdbreadonly setdbsticky pfetch pstore pdelete ptrans tfetch tstore readkey writekey deletekey checktcpport
getdbseqnum nodestatus dbstatistics reloadips";

/// Orders of our command, and what both then say.
const ORDERED: &[(&str, &str)] = &[
    ("disable -n 1", "disable -n 1\nstatus\n-X status\nip all\n-X ip\n-n 1 nodestatus"),
    ("enable -n 1", "enable -n 1\nnodestatus all"),
    ("reloadips all", "ip all"),
    ("addip 192.0.2.9/24 lo", "ip all\n-X -v ip all\naddip 192.0.2.9/24 lo"),
    ("sync", "ip\nipinfo 192.0.2.9"),
    ("delip 192.0.2.9", ""),
    ("ipreallocate", "ip all\ndelip 192.0.2.9"),
    (
        "stop -n 1",
        "stop -n 1\nnodestatus all\n-X nodestatus all\n-n 1 nodestatus\n-X status\nip all\n-n 1 ip\n-n 1 runstate\n\
         detach vol.tdb",
    ),
    ("continue -n 1", "nodestatus all"),
    ("recover", "status"),
];

/// Commands that change something, each list with a database of its own (`DB`) and back to where it began.
const CHANGING: &[&str] = &[
    "attach DB
     writekey DB a b
     writekey DB 0x4142 'two words'
     readkey DB a
     readkey DB a readonly
     catdb DB
     cattdb DB
     backupdb DB BASE/DB.backup
     dumpdbbackup BASE/DB.backup
     readkey DB zz
     deletekey DB zz
     wipedb DB
     catdb DB
     restoredb BASE/DB.backup
     catdb DB
     setdbsticky DB
     setdbreadonly DB
     getdbstatus DB
     detach DB
     setvar AllowClientDBAttach 0
     -n 1 setvar AllowClientDBAttach 0
     detach DB
     getdbstatus DB
     attach DB
     setvar AllowClientDBAttach 1
     -n 1 setvar AllowClientDBAttach 1",
    "attach DB persistent
     pstore DB a b
     pstore DB a b
     getdbseqnum DB
     ptrans DB BASE/transaction
     catdb DB
     pdelete DB a
     pdelete DB nope
     getdbseqnum DB
     cattdb DB
     pfetch DB AB
     wipedb DB
     catdb DB",
    "attach DB replicated
     pstore DB a b
     catdb DB",
    "addtickle 10.0.0.1:1000 192.0.2.1:445
     addtickle [fd00::1]:1000 192.0.2.1:445
     gettickles 192.0.2.1
     -X gettickles 192.0.2.1
     gettickles 192.0.2.1 446
     deltickle 10.0.0.1:1000 192.0.2.1:445
     deltickle [fd00::1]:1000 192.0.2.1:445",
    "setvar MonitorInterval 16
     getvar MonitorInterval
     setvar MonitorInterval 15
     -n 1 setlmasterrole on
     -n 1 setleaderrole off
     -n 1 getcapabilities
     -n 1 setleaderrole on
     -n 1 setifacelink lo down
     -n 1 ifaces
     nodestatus all
     -X nodestatus all
     -n 1 setifacelink lo up",
    // The last: for 20 s after it addresses are not placed anew.
    "moveip 192.0.2.1 1
     ip all
     moveip 192.0.2.1 0
     ip all",
];

#[test]
#[ignore = "starts daemons, 40 s: scripts/test runs it"]
fn the_ctdb_command_equals_debians() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    if !Path::new(DAEMON).exists() || !Path::new(STOCK).exists() {
        println!("skipped: Debian's package ctdb is not installed");
        return;
    }
    let cluster = Cluster::start();
    let base = cluster.base(0);
    let mut wrong = String::new();
    let both = |line: &str| {
        let line = line.replace("BASE", &base.to_string_lossy());
        std::thread::scope(|scope| {
            let stock = scope.spawn(|| cluster.run(STOCK, &base, &line));
            let ours = cluster.run(&cluster.ours, &base, &line);
            (stock.join().unwrap(), ours)
        })
    };
    for line in [
        "attach vol.tdb",
        "attach per.tdb persistent",
        "attach rep.tdb replicated",
        "writekey vol.tdb a b",
        "pstore per.tdb key value",
    ] {
        assert_eq!(cluster.run(STOCK, &base, line).code, 0, "{line}");
    }

    // Each reads the other's file.
    for (program, file) in [(Path::new(STOCK), "stock.backup"), (cluster.ours.as_path(), "ours.backup")] {
        let line = format!("backupdb vol.tdb {}", base.join(file).display());
        assert_eq!(cluster.run(program, &base, &line).code, 0, "{line}");
    }
    for line in STILL.lines().filter(|line| !line.is_empty()).chain([""]) {
        let (stock, ours) = both(line);
        compare(line, &stock, &ours, &mut wrong);
    }
    for line in COUNTING.lines().filter(|line| !line.is_empty()) {
        let (mut stock, mut ours) = both(line);
        stock.out = without_numbers(&stock.out);
        ours.out = without_numbers(&ours.out);
        compare(line, &stock, &ours, &mut wrong);
    }
    for command in WRONG.split_ascii_whitespace() {
        let line = format!("{command} 1 2 3 4 5 6 7");
        let (stock, ours) = both(&line);
        compare(&line, &stock, &ours, &mut wrong);
    }
    // The same lists of columns; how many lines there are depends on the second.
    let (stock, ours) = both("-X stats");
    assert_eq!(stock.out.lines().next(), ours.out.lines().next(), "the columns of -X stats");
    let columns = |answer: &Answer| answer.out.lines().nth(1).map(|line| line.split('|').count());
    assert_eq!(columns(&stock), columns(&ours), "the fields of -X stats");

    let order = |line: &str| {
        let answer = cluster.run(&cluster.ours, &base, line);
        assert_eq!((answer.code, answer.err.as_str()), (0, ""), "{line}");
    };
    for (ordered, questions) in ORDERED {
        order(ordered);
        for line in questions.lines() {
            let (stock, ours) = both(line);
            compare(&format!("{line} (after {ordered})"), &stock, &ours, &mut wrong);
        }
    }

    std::fs::write(base.join("transaction"), "\"c\" \"d\"\nbad\n\"0x4142\" \"0x4344\"\n\"e\" \"\"\n").unwrap();
    for (at, list) in CHANGING.iter().enumerate() {
        let lines = || list.lines().map(str::trim);
        let run = |program: &Path, db: &str| -> Vec<Answer> {
            let there = base.to_string_lossy();
            let id = format!("{:08x}", ctdb::database_id(db));
            lines()
                .map(|line| {
                    let line = line.replace("DB", db).replace("BASE", &there);
                    let mut answer = cluster.run(program, &base, &line);
                    for text in [&mut answer.out, &mut answer.err] {
                        *text = text.replace(db, "DB").replace(&id, "ID");
                        if line.starts_with("dumpdb") || line.starts_with("restoredb") || line == "status" {
                            // When it was written; the generation.
                            *text = text.lines().map(|l| if l.contains(" @ ") || l.starts_with("Gen") { without_numbers(l) } else { l.into() } + "\n").collect();
                        }
                    }
                    answer
                })
                .collect()
        };
        let stock = run(Path::new(STOCK), &format!("s{at}x.tdb"));
        let ours = run(&cluster.ours, &format!("o{at}x.tdb"));
        for ((line, stock), ours) in lines().zip(&stock).zip(&ours) {
            compare(line, stock, ours, &mut wrong);
        }
    }

    // A node that does not answer, one that has gone, and the end of this one.
    let other = pid(cluster.daemons[1].lock().unwrap().id());
    rustix::process::kill_process(other, rustix::process::Signal::STOP).unwrap();
    for line in ["-t 1 -n 1 getpid", "-t 1 -X status", "-t 1 -n 1 setvar MonitorInterval 15"] {
        let (stock, ours) = both(line);
        compare(line, &stock, &ours, &mut wrong);
    }
    rustix::process::kill_process(other, rustix::process::Signal::CONT).unwrap();
    order("-n 1 shutdown");
    ends(&cluster.daemons[1]);
    for line in ["nodestatus all", "-X nodestatus all", "status -n 1"] {
        let (stock, ours) = both(line);
        compare(line, &stock, &ours, &mut wrong);
    }
    order("shutdown");
    ends(&cluster.daemons[0]);

    // Nobody listens: in a directory of its own, and with the nodes file of the cluster.
    let empty = cluster.directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for line in ["status", "listnodes", "pnn"] {
        let (stock, ours) = (cluster.run(STOCK, &empty, line), cluster.run(&cluster.ours, &empty, line));
        compare(&format!("{line} (without a daemon)"), &stock, &ours, &mut wrong);
    }
    // Ours says what is to be done.
    let asked = "event status legacy monitor";
    let (stock, ours) = (cluster.run(STOCK, &empty, asked), cluster.run(&cluster.ours, &empty, asked));
    if (stock.code, stock.out) != (ours.code, ours.out) || !ours.err.contains("eventd.socket") {
        wrong.push_str(&format!("{asked} (without a daemon): {} and {}: {}", stock.code, ours.code, ours.err));
    }
    assert!(wrong.is_empty(), "{wrong}");
}
