//! A node's whole configuration from CTDB's files alone, in memory, for a daemon that is called `ctdbd`.
//!
//! The same reading and the same check as for `steadfast import-ctdb`, and beside them what only ctdbd itself needs:
//! where its log and its databases go, how it starts, its tunables.

use super::write::Run;
use super::{Did, Found, Gathered, LOCK_RECORDS, Line, Places, Setting, gather, write};
use crate::config::check::Purpose;
use crate::config::diagnostic::{Diagnostic, Diagnostics, Source};
use crate::config::files::Files;
use crate::config::machine::Machine;
use crate::config::model::{Config, DatabasePlaces};
use cluster::AdminState;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// CTDB's own places, which move with `CTDB_BASE` only in its test mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtdbPlaces {
    /// `$CTDB_BASE`: the directory of all files.
    pub base: PathBuf,
    /// `$CTDB_TEST_MODE` is set: everything is below `base`.
    pub test: bool,
}

impl CtdbPlaces {
    /// Socket and pid file.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        if self.test { self.base.join("run") } else { "/run/ctdb".into() }
    }

    /// The socket that Samba and the `ctdb` tool connect to.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("ctdbd.socket")
    }

    /// The file with the daemon's process number, locked while it runs.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.run_dir().join("ctdbd.pid")
    }

    fn log_file(&self) -> PathBuf {
        if self.test { self.base.join("log.ctdb") } else { "/var/log/ctdb/log.ctdb".into() }
    }

    fn databases(&self) -> PathBuf {
        if self.test { self.base.join("db") } else { "/var/lib/ctdb".into() }
    }
}

/// Where ctdbd's log goes when it is no foreground process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// Appended to.
    File(PathBuf),
    /// The machine's syslog.
    Syslog,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what is doubtful.
    Warning,
    /// And what happens: CTDB's NOTICE and INFO.
    Info,
    /// And why.
    Debug,
}

/// CTDB's files, read and not yet used.
#[derive(Debug)]
pub struct CtdbFiles {
    places: CtdbPlaces,
    gathered: Gathered,
    loopback: bool,
    address: Option<IpAddr>,
}

/// What a daemon runs with.
#[derive(Debug)]
pub struct CtdbSetup {
    /// The configuration.
    pub config: Config,
    /// Where the log goes.
    pub log: LogPlace,
    /// How much of it.
    pub level: LogLevel,
    /// How the node begins, whatever it was before.
    pub begin: AdminState,
    /// Lines without an effect that somebody may count on.
    pub ignored: Vec<Line>,
}

impl CtdbFiles {
    /// Reads them.
    ///
    /// # Errors
    /// All that cannot be read or is wrong, with file and line.
    pub fn read(places: &CtdbPlaces, machine: &Machine) -> Result<Self, Diagnostics> {
        let lenient = Machine { loopback: true, ..machine.clone() };
        let from = Places { base: places.base.clone(), root: "/".into() };
        let gathered = gather(&from, &lenient, true)?;
        let addresses: Vec<(&IpAddr, &String)> =
            gathered.found.nodes.iter().filter_map(|node| node.address.as_ref().map(|a| (a, &node.place))).collect();
        let (inner, outer): (Vec<_>, Vec<_>) = addresses.iter().partition(|(address, _)| address.is_loopback());
        if let (Some((address, place)), Some((other, _))) = (inner.first(), outer.first()) {
            let title = format!("{address} ({place}) is a loopback address, and {other} is none");
            let help = "other machines cannot reach a loopback address: write the address that they reach; or, to try a \
                        cluster out on one machine, loopback addresses only";
            return Err(Diagnostics(vec![Diagnostic::error(title).help(help)]));
        }
        let loopback = outer.is_empty();
        let mut problems = Diagnostics::default();
        let address = node_address(&gathered.found, &mut problems);
        if problems.has_errors() {
            return Err(problems);
        }
        Ok(Self { places: places.clone(), gathered, loopback, address })
    }

    /// Are all nodes on loopback addresses, this machine's own?
    #[must_use]
    pub fn loopback(&self) -> bool {
        self.loopback
    }

    /// This node's address, if `ctdb.conf` says which it is.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// The nodes' addresses, in order; removed nodes are left out.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.gathered.found.nodes.iter().filter_map(|node| node.address)
    }

    /// The configuration of the node with this address.
    ///
    /// # Errors
    /// All problems, when one of them is an error.
    pub fn setup(self, address: IpAddr, machine: &Machine) -> Result<CtdbSetup, Diagnostics> {
        let Gathered { found, lines, hosts, mounts } = &self.gathered;
        let mut problems = Diagnostics::default();
        let log = log_place(found, &self.places, &mut problems);
        let level = log_level(found, &mut problems);
        let begin = begin(found, &mut problems);
        let leads = truth(found, "cluster", "leader capability", &mut problems).unwrap_or(true);
        let lmaster = truth(found, "legacy", "lmaster capability", &mut problems).unwrap_or(true);
        let dirs = ["volatile", "persistent", "state"].map(|kind| {
            let key = format!("{kind} database directory");
            match setting(found, "database", &key) {
                Some(setting) => directory(setting, &key, &mut problems),
                None => self.places.databases().join(kind),
            }
        });
        if problems.has_errors() {
            return Err(problems);
        }
        let (text, _) = write::write(found, hosts, mounts, Some(Run { loopback: self.loopback }));
        let machine = Machine { addresses: [address].into(), loopback: self.loopback, node: None, ..machine.clone() };
        let path = self.places.base.join("ctdb.conf");
        let source = Source::new(Path::new("what CTDB's files say"), text);
        let mut config = super::super::checked(&path, &source, &machine, Purpose::Serve, &mut Files::default())?;
        if let Some(command) = found.lock.as_deref().filter(|lock| lock.starts_with('!') && config.lock.is_none()) {
            let title = format!("the cluster lock is the command {command}, and nothing says where its records lie");
            let help = format!(
                "a command keeps the lock, and what was decided under it must be kept beside it: write into {}, on every node \
                 the same, the full path of a directory that all nodes share (on the only shared mount that is there it would \
                 be .steadfast)",
                self.places.base.join(LOCK_RECORDS).display()
            );
            return Err(Diagnostics(vec![Diagnostic::error(title).help(help)]));
        }
        config.services.events.socket = self.places.run_dir().join("eventd.socket");
        if self.places.test {
            config.services.run_dir = self.places.run_dir().join("services");
        }
        let lock = setting(found, "cluster", "cluster lock").or_else(|| setting(found, "cluster", "recovery lock"));
        config.databases = Some(DatabasePlaces {
            socket: self.places.socket(),
            // Several that try a cluster out leave the machine as it is.
            keep_awake: !self.places.test,
            dirs: Some(dirs),
            tunables: found.tunables.clone(),
            leads,
            lmaster,
            // None where CTDB's word for it means none.
            lock: config.lock.as_ref().and_then(|_| lock.map(|lock| lock.value.clone()).or_else(|| found.lock.clone())),
        });
        let ignored = lines.iter().filter(|line| is_ignored(line)).cloned().collect();
        Ok(CtdbSetup { config, log, level, begin, ignored })
    }
}

/// Has it no effect, though somebody wrote it for one?
fn is_ignored(line: &Line) -> bool {
    let heeded = ["start as", "CTDB_START_AS_", "CTDB_SOCKET"].iter().any(|known| line.text.starts_with(known));
    // Whole files are CTDB's package's own, but for those that nobody knows.
    matches!(line.did, Did::ToDo | Did::Unknown) && line.line > 0 && !heeded
}

fn setting<'a>(found: &'a Found, section: &str, key: &str) -> Option<&'a Setting> {
    found.conf.get(&(section.to_owned(), key.to_owned())).filter(|setting| !setting.value.is_empty())
}

fn wrong(setting: &Setting, title: String, help: &str, problems: &mut Diagnostics) {
    let text = &setting.source.text;
    let end = text[setting.at..].find('\n').map_or(text.len(), |n| setting.at + n);
    problems.push(Diagnostic::error(title).at(&setting.source, setting.at..end, "").help(help));
}

fn node_address(found: &Found, problems: &mut Diagnostics) -> Option<IpAddr> {
    let setting = setting(found, "cluster", "node address")?;
    let address = setting.value.parse::<IpAddr>().ok();
    let listed = address.filter(|address| found.nodes.iter().any(|node| node.address == Some(*address)));
    if listed.is_none() {
        let (title, help) = match address {
            Some(address) => (
                format!("this node's address {address} is none of the nodes'"),
                "write one that is in the file `nodes`, or add it there on all nodes",
            ),
            None => (
                format!("`{}` cannot be this node's address", setting.value),
                "write an address of the file `nodes`, or remove the line: the node finds its own",
            ),
        };
        wrong(setting, title, help, problems);
    }
    listed
}

fn log_place(found: &Found, places: &CtdbPlaces, problems: &mut Diagnostics) -> LogPlace {
    let Some(setting) = setting(found, "logging", "location") else { return LogPlace::File(places.log_file()) };
    let value = setting.value.as_str();
    match (value.strip_prefix("file:"), value.split(':').next()) {
        (Some(path), _) if path.starts_with('/') => LogPlace::File(path.into()),
        (None, Some("syslog")) => LogPlace::Syslog,
        _ => {
            let title = format!("`{value}` is no place for a log");
            wrong(setting, title, "write file: and a full path, or syslog", problems);
            LogPlace::Syslog
        }
    }
}

fn log_level(found: &Found, problems: &mut Diagnostics) -> LogLevel {
    let Some(setting) = setting(found, "logging", "log level") else { return LogLevel::Info };
    match setting.value.to_ascii_uppercase().as_str() {
        "ERR" | "ERROR" | "ALERT" | "CRIT" | "CRITICAL" | "EMERG" | "0" => LogLevel::Error,
        "WARNING" | "WARN" | "1" => LogLevel::Warning,
        "NOTICE" | "INFO" | "2" | "3" => LogLevel::Info,
        "DEBUG" | "4" | "5" | "6" | "7" | "8" | "9" | "10" => LogLevel::Debug,
        _ => {
            let title = format!("`{}` is no log level", setting.value);
            wrong(setting, title, "write ERROR, WARNING, NOTICE, INFO or DEBUG", problems);
            LogLevel::Info
        }
    }
}

/// A setting that is yes or no; none if it is not there.
fn truth(found: &Found, section: &str, key: &str, problems: &mut Diagnostics) -> Option<bool> {
    let setting = setting(found, section, key)?;
    let value = super::settings::truth(&setting.value);
    if value.is_none() {
        let title = format!("`{}` is neither yes nor no", setting.value);
        wrong(setting, title, "write true or false", problems);
    }
    value
}

fn begin(found: &Found, problems: &mut Diagnostics) -> AdminState {
    let mut on = |key| truth(found, "legacy", key, problems).unwrap_or(false);
    // Asked both, so that both are checked.
    match (on("start as stopped"), on("start as disabled")) {
        (true, _) => AdminState::Stopped,
        (false, true) => AdminState::Drained,
        (false, false) => AdminState::Active,
    }
}

fn directory(setting: &Setting, key: &str, problems: &mut Diagnostics) -> PathBuf {
    if !setting.value.starts_with('/') {
        let title = format!("`{}` cannot be the {key}", setting.value);
        wrong(setting, title, "write its full path", problems);
    }
    setting.value.clone().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListEdit;
    use std::fs;

    struct Base(tempfile::TempDir);

    impl Base {
        fn new(files: &[(&str, &str)]) -> Self {
            let base = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                fs::write(base.0.path().join(name), text).unwrap();
            }
            base
        }

        fn places(&self) -> CtdbPlaces {
            CtdbPlaces { base: self.0.path().to_owned(), test: true }
        }

        fn read(&self) -> Result<CtdbFiles, Diagnostics> {
            CtdbFiles::read(&self.places(), &Machine::default())
        }

        fn setup(&self, address: &str) -> Result<CtdbSetup, Diagnostics> {
            self.read()?.setup(address.parse().unwrap(), &Machine::default())
        }
    }

    #[test]
    fn a_trial_on_loopback_addresses() {
        let conf = "[logging]\n\tlocation = syslog:nonblocking\n\tlog level = NOTICE\n[cluster]\n\tcluster lock = \
                    /srv/shared/.ctdb/cluster.lock\n\tnode address = 127.0.0.3\n[database]\n\tvolatile database directory = \
                    /srv/v\n[legacy]\n\tstart as disabled = true\n";
        let base = Base::new(&[
            ("ctdb.conf", conf),
            ("nodes", "127.0.0.1\n#127.0.0.2\n127.0.0.3\n"),
            ("public_addresses", "192.168.100.1/24 eth77\n192.168.200.1/24 eth78,eth79\n"),
            ("ctdb.tunables", "MonitorInterval = 7\n"),
        ]);
        let files = base.read().unwrap();
        assert!(files.loopback());
        let address = files.address().unwrap();
        let setup = files.setup(address, &Machine::default()).unwrap_or_else(|problems| panic!("{problems}"));
        let config = setup.config;
        assert_eq!((config.me.0, config.nodes.len(), config.removed.len()), (2, 2, 1));
        assert_eq!(config.this_node().name, "node2");
        assert_eq!(config.vips.len(), 2);
        assert_eq!(
            config.own_list.as_ref().unwrap().values().map(|(_, i)| i.as_str()).collect::<Vec<_>>(),
            ["eth77", "eth78"]
        );
        assert_eq!(config.lock.as_ref().unwrap().dir, Path::new("/srv/shared/.ctdb/.steadfast"));
        assert!(config.service_names().is_empty());
        let databases = config.databases.unwrap();
        assert_eq!(databases.socket, base.0.path().join("run/ctdbd.socket"));
        let [volatile, persistent, _] = databases.dirs.unwrap();
        assert_eq!((volatile, persistent), ("/srv/v".into(), base.0.path().join("db/persistent")));
        assert_eq!(databases.tunables, [("MonitorInterval".to_owned(), 7)]);
        assert_eq!(databases.lock.unwrap(), "/srv/shared/.ctdb/cluster.lock");
        assert_eq!((setup.log, setup.level), (LogPlace::Syslog, LogLevel::Info));
        assert_eq!(setup.begin, AdminState::Drained);
        assert_eq!(setup.ignored, []);
    }

    #[test]
    fn an_own_list_is_edited_by_the_rules_of_the_file() {
        let base = Base::new(&[
            ("nodes", "127.0.0.1\n127.0.0.2\n"),
            ("public_addresses", "192.168.100.1/24 eth77\n192.168.100.2/24 eth77\n"),
        ]);
        let mut config = base.setup("127.0.0.1").unwrap_or_else(|problems| panic!("{problems}")).config;
        assert!(config.on_one_machine());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let add = |address: &str, bits| ListEdit::Add(ip(address), bits, "eth78".into());
        for (edit, wanted) in [
            (add("127.0.0.2", 8), "cannot be a public address"),
            (add("192.168.100.0", 24), "the network"),
            (add("192.168.100.3", 300), "no prefix length"),
            (add("192.168.100.2", 16), "another prefix length"),
            (ListEdit::Add(ip("192.168.100.3"), 24, "a/b".into()), "interface's name"),
            (ListEdit::Remove(ip("192.168.100.3")), "not in this node's list"),
        ] {
            let why = config.edit_list(&edit).unwrap_err();
            assert!(why.contains(wanted), "{edit:?}: {why}");
        }
        config.edit_list(&add("192.168.100.3", 24)).unwrap();
        config.edit_list(&ListEdit::Remove(ip("192.168.100.1"))).unwrap();
        assert!(config.set_lists(&[(cluster::Pnn(1), [(ip("192.168.100.2"), (24, "eth77".into()))].into())].into()));
        let hosts: Vec<_> = config.vips.iter().map(|(address, vip)| (*address, vip.hosts.len())).collect();
        assert_eq!(hosts, [(ip("192.168.100.2"), 2), (ip("192.168.100.3"), 1)]);
    }

    #[test]
    fn without_failover_no_address_is_given_out() {
        for (disabled, addresses) in [("true", 0), ("No", 1)] {
            let base = Base::new(&[
                ("nodes", "127.0.0.1\n127.0.0.2\n"),
                ("public_addresses", "192.168.100.1/24 eth77\n"),
                ("ctdb.conf", &format!("[failover]\n\tdisabled = {disabled}\n")),
            ]);
            let setup = base.setup("127.0.0.1").unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!((setup.config.vips.len(), setup.ignored.len()), (addresses, 0), "{disabled}");
        }
    }

    #[test]
    fn what_a_node_may_be() {
        let nodes = ("nodes", "127.0.0.1\n127.0.0.2\n");
        for (files, roles) in [
            (vec![nodes], (true, true)),
            (vec![nodes, ("ctdb.conf", "[cluster]\n\tleader capability = false\n")], (false, true)),
            (vec![nodes, ("ctdb.conf", "[legacy]\n\tlmaster capability = no\n")], (true, false)),
            (vec![nodes, ("ctdb.conf", "[legacy]\n\tlmaster capability = true\n")], (true, true)),
            (vec![nodes, ("ctdbd.conf", "CTDB_CAPABILITY_RECMASTER=no\nCTDB_CAPABILITY_LMASTER=no\n")], (false, false)),
        ] {
            let setup = Base::new(&files).setup("127.0.0.1").unwrap_or_else(|problems| panic!("{problems}"));
            let databases = setup.config.databases.unwrap();
            assert_eq!((databases.leads, databases.lmaster), roles, "{files:?}");
            assert_eq!(setup.ignored, [], "{files:?}");
        }
    }

    #[test]
    fn a_command_as_lock() {
        let command = "!/usr/libexec/ctdb/ctdb_mutex_ceph_rados_helper ceph client.a pool obj";
        let conf = format!("[cluster]\n\trecovery lock = {command}\n");
        let base = Base::new(&[
            ("nodes", "127.0.0.1\n127.0.0.2\n"),
            ("ctdb.conf", &conf),
            ("lock_records", "# the same on all nodes\n/srv/shared/records\n/srv/other\n"),
        ]);
        let config = base.setup("127.0.0.2").unwrap_or_else(|problems| panic!("{problems}")).config;
        let lock = config.lock.unwrap();
        assert_eq!(lock.dir, Path::new("/srv/shared/records"));
        assert_eq!(lock.command.as_deref(), Some(&command[1..]));
        assert_eq!(config.databases.unwrap().lock.as_deref(), Some(command), "what getreclock says");
    }

    #[test]
    fn real_addresses_and_names_of_2012() {
        let base = Base::new(&[
            ("nodes", "10.0.0.1\n10.0.0.2\n"),
            (
                "ctdbd.conf",
                "CTDB_DBDIR=/srv/v\nCTDB_LOGGING=file:/srv/log\nCTDB_START_AS_STOPPED=yes\nCTDB_SET_NoIPFailback=1\n",
            ),
        ]);
        let files = base.read().unwrap();
        assert!(!files.loopback());
        assert_eq!(files.address(), None);
        assert_eq!(files.addresses().count(), 2);
        let setup = base.setup("10.0.0.2").unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(setup.config.me.0, 1);
        assert_eq!(setup.config.databases.unwrap().dirs.unwrap()[0], Path::new("/srv/v"));
        assert_eq!(setup.log, LogPlace::File("/srv/log".into()));
        assert_eq!(setup.begin, AdminState::Stopped);
        // A tunable, which `ctdb setvar` changes while the daemon runs.
        assert_eq!(setup.config.fail_back, cluster::FailBack::Spread);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let nodes = ("nodes", "127.0.0.1\n127.0.0.2\n");
        for (files, wanted) in [
            (vec![], "nodes"),
            (vec![("nodes", "127.0.0.1\n10.0.0.1\n")], "is a loopback address, and 10.0.0.1 is none"),
            (vec![nodes, ("ctdb.conf", "[cluster]\nnode address = 127.0.0.9\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[cluster]\nnode address = me\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[logging]\nlocation = printer\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[logging]\nlog level = loud\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[legacy]\nstart as disabled = perhaps\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[legacy]\nlmaster capability = perhaps\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[database]\nstate database directory = here\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[cluster]\nwhatever\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[failover]\ndisabled = perhaps\n")], "ctdb.conf:2:1"),
            (vec![nodes, ("ctdb.conf", "[cluster]\ncluster lock = !/usr/bin/helper a\n")], "lock_records"),
            (vec![nodes, ("lock_records", "\nsrv/records\n")], "lock_records:2:1"),
            (vec![nodes, ("lock_records", "/srv/../records\n")], "lock_records:1:1"),
            (
                vec![nodes, ("ctdb.conf", "[cluster]\ncluster lock = !helper a\n"), ("lock_records", "/srv/r")],
                "full path",
            ),
            (vec![nodes, ("ctdb.tunables", "\nNoSuch = 1\n")], "ctdb.tunables:2:1"),
            (vec![nodes, ("ctdb.tunables", "MonitorInterval = soon\n")], "ctdb.tunables:1:1"),
        ] {
            let text = Base::new(&files).setup("127.0.0.1").err().map(|p| p.to_string()).unwrap_or_default();
            assert!(text.contains(wanted), "{files:?}: {text}");
        }
    }
}
