//! Directories as Debian 12 and a server of 2012 have them.

use super::*;
use std::fs;
use tempfile::TempDir;

const DEBIAN_CONF: &str = include_str!("fixtures/debian12/ctdb.conf");
const DEBIAN_OPTIONS: &str = include_str!("fixtures/debian12/script.options");
const DEBIAN_TUNABLES: &str = include_str!("fixtures/debian12/ctdb.tunables");
const SYSCONFIG_2012: &str = include_str!("fixtures/2012/ctdb");

struct Site(TempDir);

impl Site {
    fn new(files: &[(&str, &str)]) -> Self {
        let site = Self(tempfile::tempdir().expect("a directory"));
        for (path, text) in files {
            site.put(path, text);
        }
        site
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(&path, text).expect("written");
        if path.extension().is_some_and(|e| e == "script") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
    }

    fn import(&self) -> Result<Imported, Diagnostics> {
        let root = self.0.path().to_path_buf();
        import(&Places { base: root.join("etc/ctdb"), root }, &Machine::default())
    }

    fn good(&self) -> Imported {
        self.import().unwrap_or_else(|problems| panic!("{problems}"))
    }
}

fn did(imported: &Imported, text: &str) -> (Did, String) {
    let line = imported.lines.iter().find(|l| l.text.starts_with(text) || l.file.ends_with(text));
    let line = line.unwrap_or_else(|| panic!("{text} in {:#?}", imported.lines));
    (line.did, line.says.clone())
}

/// The daemon's own view of the text.
fn config(imported: &Imported) -> super::super::Config {
    let path = Path::new("steadfast.toml");
    let source = Source::new(path, imported.config.clone());
    super::super::checked(path, &source, &Machine::default(), Purpose::Inspect, &mut Files::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

/// Every line of a file is in the report, comments by their number.
fn is_complete(imported: &Imported, file: &str, text: &str) {
    let own: Vec<&Line> = imported.lines.iter().filter(|l| l.file.ends_with(file)).collect();
    let counted: usize =
        own.iter().filter(|l| l.line == 0).filter_map(|l| l.says.split(' ').next()?.parse::<usize>().ok()).sum();
    let lines = own.iter().filter(|l| l.line > 0).count();
    assert_eq!(lines + counted, text.lines().count(), "{own:#?}");
}

#[test]
fn debian_12_with_samba_and_a_lock() {
    let conf = DEBIAN_CONF
        .replace("# cluster lock = !/bin/false CLUSTER LOCK NOT CONFIGURED", "cluster lock = /mnt/vol/.ctdb/reclock");
    let options = DEBIAN_OPTIONS.replace("# CTDB_SAMBA", "CTDB_SAMBA");
    let tunables = format!("{DEBIAN_TUNABLES}NoIPFailback=1\nMonitorInterval = 10\nFrobnicate=3\n");
    let nodes = "10.0.0.1\n#10.0.0.2\n\n10.0.0.3\n10.0.0.4\n";
    let public = "# ours\n192.168.1.10/24 eth0\n192.168.1.11/24 eth1,eth2\n";
    let site = Site::new(&[
        ("etc/ctdb/ctdb.conf", &conf),
        ("etc/ctdb/script.options", &options),
        ("etc/ctdb/ctdb.tunables", &tunables),
        ("etc/ctdb/nodes", nodes),
        ("etc/ctdb/public_addresses", public),
        ("etc/ctdb/events/legacy/00.ctdb.script", ""),
        ("etc/ctdb/events/legacy/50.samba.script", ""),
        ("etc/ctdb/events/legacy/49.winbind.script", ""),
        ("etc/ctdb/events/legacy/99.mine.script", ""),
        ("etc/ctdb/strange", ""),
        ("etc/hosts", "127.0.0.1 localhost\n10.0.0.1 alpha.example.org alpha # first\n10.0.0.3 gamma\n"),
        ("proc/mounts", "/dev/vda / ext4 rw 0 0\nlocalhost:/vol1 /mnt/vol fuse.glusterfs rw 0 0\n"),
    ]);
    let imported = site.good();
    for (file, text) in [
        ("ctdb.conf", conf.as_str()),
        ("script.options", &options),
        ("ctdb.tunables", &tunables),
        ("nodes", nodes),
        ("public_addresses", public),
    ] {
        is_complete(&imported, file, text);
    }
    let config = config(&imported);
    let names: Vec<_> = config.nodes.iter().map(|(pnn, n)| (pnn.0, n.name.as_str())).collect();
    assert_eq!(names, [(0, "alpha"), (2, "gamma"), (3, "node3")]);
    assert_eq!(config.removed.keys().map(|p| p.0).collect::<Vec<_>>(), [1]);
    assert_eq!(config.vips.len(), 2);
    assert_eq!(config.lock.as_ref().expect("a lock").dir, Path::new("/mnt/vol/.steadfast"));
    assert!(config.services.samba.enabled && config.services.samba.clustering && !config.services.nfs.enabled);
    assert!(
        imported.config.contains("volume = \"vol1\"") && imported.config.contains("fail_back = \"never\""),
        "{}",
        imported.config
    );
    assert_eq!(did(&imported, "cluster lock").0, Did::Taken);
    assert_eq!(did(&imported, "location = syslog").0, Did::NoMeaning);
    assert_eq!(did(&imported, "CTDB_SAMBA_SKIP").0, Did::NoMeaning);
    assert_eq!(did(&imported, "MonitorInterval").0, Did::Taken);
    assert_eq!(did(&imported, "Frobnicate").0, Did::Unknown);
    for (script, what) in [("00.ctdb", Did::NoMeaning), ("50.samba", Did::Taken), ("49.winbind", Did::Taken)] {
        assert_eq!(did(&imported, &format!("{script}.script")).0, what, "{script}");
    }
    assert_eq!(did(&imported, "99.mine.script").0, Did::Taken);
    let events = &config.services.events;
    assert!(events.enabled && events.monitor_interval == 10 && events.base == site.0.path().join("etc/ctdb"));
    assert_eq!(did(&imported, "strange").0, Did::Unknown);
    assert!(imported.notes.iter().any(|n| n.contains("node3 for 10.0.0.4")), "{:#?}", imported.notes);
    let text = imported.lines.iter().find(|l| l.text == "192.168.1.11/24 eth1,eth2").expect("said");
    assert_eq!(text.line, 3);
}

#[test]
fn each_tunable_says_what_became_of_it() {
    let text = "VacuumInterval=10\nvacuumfastpathcount=7\nAllowClientDBAttach=0\nQueueBufferSize=4096\n\
                StickyPindown=1\nKeepaliveLimit=3\n";
    let site = Site::new(&[("etc/ctdb/nodes", "10.0.0.1\n"), ("etc/ctdb/ctdb.tunables", text)]);
    let imported = site.good();
    is_complete(&imported, "ctdb.tunables", text);
    for (name, what, says) in [
        ("VacuumInterval", Did::Taken, "the default here, too"),
        ("vacuumfastpathcount", Did::ToDo, "`ctdb setvar vacuumfastpathcount 7` on every node"),
        ("AllowClientDBAttach", Did::ToDo, "`ctdb setvar AllowClientDBAttach 0` on every node"),
        ("QueueBufferSize", Did::NoMeaning, "a client that does not read loses no message"),
        ("StickyPindown", Did::NoMeaning, "`ctdb setdbsticky` is only shown"),
        ("KeepaliveLimit", Did::NoMeaning, "lease_ms"),
    ] {
        let (did, said) = did(&imported, name);
        assert!(did == what && said.contains(says), "{name}: {did:?} {said}");
    }
}

/// `_` in the table is for none of them.
#[test]
fn every_tunable_has_a_meaning_or_a_reason() {
    for name in meaning::TUNABLES.split_whitespace() {
        let known = meaning::tunable(name).expect("of the list");
        assert!(!matches!(known, meaning::Tunable::Other(_, "not heeded")), "{name}");
    }
}

#[test]
fn a_server_of_2012() {
    let site = Site::new(&[
        ("etc/sysconfig/ctdb", SYSCONFIG_2012),
        ("etc/cluster/nodes", "10.0.0.1\n10.0.0.2\n"),
        ("etc/cluster/public", "192.168.1.10/24 eth0\n"),
        ("etc/ctdb/events.d/50.samba", "#!/bin/sh\n"),
    ]);
    fs::set_permissions(site.0.path().join("etc/ctdb/events.d/50.samba"), fs::Permissions::from_mode(0o755))
        .expect("set");
    let imported = site.good();
    is_complete(&imported, "etc/sysconfig/ctdb", SYSCONFIG_2012);
    let config = config(&imported);
    assert_eq!((config.nodes.len(), config.vips.len()), (2, 1));
    assert_eq!(config.lock.as_ref().expect("a lock").dir, Path::new("/gpfs/.ctdb/.steadfast"));
    assert!(config.services.samba.clustering && config.services.nfs.enabled);
    assert_eq!(config.services.samba.unit, "smb.service");
    assert_eq!(did(&imported, "CTDB_SET_NoIPFailback").0, Did::Taken);
    assert_eq!(did(&imported, "CTDB_SET_KeepaliveLimit").0, Did::NoMeaning);
    assert_eq!(did(&imported, "CTDB_MANAGES_WINBIND").0, Did::ToDo);
    assert_eq!(did(&imported, "CTDB_FROB").0, Did::Unknown);
    assert_eq!(did(&imported, "ulimit").0, Did::Unknown);
}

#[test]
fn event_scripts_and_their_options() {
    let with = |scripts: &[&str]| {
        let site = Site::new(&[
            ("etc/ctdb/nodes", "10.0.0.1\n"),
            ("etc/ctdb/ctdb.conf", "[event]\n  debug script = debug-hung-script.sh\n"),
            ("etc/ctdb/ctdb.tunables", "EventScriptTimeout = 0\nMonitorTimeoutCount=5\n"),
            ("etc/ctdb/script.options", "CTDB_MONITOR_FILESYSTEM_USAGE=\"/:90:95\"\nCTDB_NATGW_NODES=x\n"),
            ("etc/ctdb/events.d/05.old", ""),
        ]);
        for script in scripts {
            site.put(&format!("etc/ctdb/events/legacy/{script}.script"), "");
        }
        (site.good(), site.0.path().join("etc/ctdb"))
    };
    let (imported, base) = with(&["01.reclock", "05.system", "10.interface"]);
    let events = config(&imported).services.events;
    assert!(events.enabled && events.base == base, "{}", imported.config);
    assert_eq!((events.timeout, events.monitor_timeouts, events.monitor_interval), (1, 5, 15));
    assert_eq!(events.debug_script, base.join("debug-hung-script.sh"));
    assert_eq!(did(&imported, "10.interface.script").0, Did::NoMeaning);
    assert_eq!(did(&imported, "CTDB_MONITOR_FILESYSTEM_USAGE").0, Did::Taken, "05.system reads it");
    assert_eq!(did(&imported, "CTDB_NATGW_NODES").0, Did::ToDo);
    is_complete(&imported, "ctdb.tunables", "x\nx\n");
    is_complete(&imported, "script.options", "x\nx\n");
    // Without a script that is run there is nothing to set up.
    let (imported, _) = with(&["01.reclock", "10.interface"]);
    assert!(!imported.config.contains("[events]"), "{}", imported.config);
}

#[test]
fn wrong_lines_stop_it_by_file_and_line() {
    let site = Site::new(&[
        ("etc/ctdb/nodes", "10.0.0.1\ngluster2\n"),
        ("etc/ctdb/public_addresses", "192.168.1.10/24\n"),
        ("etc/ctdb/ctdb.conf", "[cluster]\n\ncluster lock = reclock\nrubbish\n"),
        ("etc/ctdb/ctdb.tunables", "MonitorInterval=soon\n"),
        ("etc/default/ctdb", "CTDB_NODES=$HOME/nodes\n"),
    ]);
    let text = site.import().expect_err("wrong").to_string();
    for place in
        ["nodes:2:", "public_addresses:1:", "ctdb.conf:3:", "ctdb.conf:4:", "ctdb.tunables:1:", "default/ctdb:1:"]
    {
        assert!(text.contains(place), "{place} in {text}");
    }
}

#[test]
fn what_the_check_refuses_is_named_by_ctdbs_line() {
    let site =
        Site::new(&[("etc/ctdb/nodes", "10.0.0.1\n10.0.0.2\n"), ("etc/ctdb/public_addresses", "\n10.0.0.2/24 eth0\n")]);
    let text = site.import().expect_err("a node's own address").to_string();
    assert!(text.contains("etc/ctdb/public_addresses:2"), "{text}");
}

#[test]
fn without_nodes_it_says_what_to_do() {
    let site = Site::new(&[("etc/ctdb/ctdb.conf", DEBIAN_CONF)]);
    let text = site.import().expect_err("no nodes").to_string();
    assert!(text.contains("etc/ctdb/nodes") && text.contains("--base"), "{text}");
    site.put("etc/ctdb/nodes", "\n#10.0.0.1\n");
    assert!(site.import().expect_err("none").to_string().contains("lists no node"));
    fs::write(site.0.path().join("etc/ctdb/nodes"), b"10.0.0.1\n\xff\n").expect("written");
    assert!(site.import().expect_err("no text").to_string().contains("line 2"));
}

#[test]
fn a_helper_as_lock() {
    let import = |lock: &str| {
        let conf = format!("[cluster]\ncluster lock = {lock}\n");
        Site::new(&[("etc/ctdb/nodes", "10.0.0.1\n10.0.0.2\n"), ("etc/ctdb/ctdb.conf", &conf)]).good()
    };
    let own = import("!/usr/libexec/ctdb/ctdb_mutex_fcntl_helper /mnt/vol/lock 5");
    assert!(own.config.contains("lock = \"/mnt/vol/.steadfast/lock\""), "{}", own.config);
    let foreign = import("!/usr/libexec/ctdb/ctdb_mutex_ceph_rados_helper ceph client.a pool obj");
    assert!(foreign.config.contains("# lock = \"!/usr/libexec/ctdb/ctdb_mutex_ceph"), "{}", foreign.config);
    // With a shared mount it is known where the records lie.
    let with = |mounts: &str| {
        let conf = "[cluster]\nrecovery lock = !/usr/libexec/ctdb/ctdb_etcd_lock -h x\n";
        let nodes = ("etc/ctdb/nodes", "10.0.0.1\n10.0.0.2\n");
        Site::new(&[nodes, ("etc/ctdb/ctdb.conf", conf), ("proc/mounts", mounts)]).good()
    };
    let one = "localhost:/vol1 /mnt/vol fuse.glusterfs rw 0 0\n/dev/vda / ext4 rw 0 0\n";
    let lock = config(&with(one)).lock.expect("a lock");
    assert_eq!(
        (lock.dir.as_path(), lock.command.as_deref()),
        (Path::new("/mnt/vol/.steadfast"), Some("/usr/libexec/ctdb/ctdb_etcd_lock -h x"))
    );
    assert!(with(one).config.contains("volume = \"vol1\""), "{}", with(one).config);
    let two = with(&format!("{one}localhost:/vol2 /mnt/two fuse.glusterfs rw 0 0\n"));
    assert!(two.config.contains("# lock = ") && !two.config.contains("\n[storage]"), "{}", two.config);
    let debian = import("!/bin/false CLUSTER LOCK NOT CONFIGURED");
    assert_eq!(did(&debian, "cluster lock").0, Did::NoMeaning);
}

#[test]
fn what_a_node_may_be_is_not_carried_over() {
    let import = |conf: &str| Site::new(&[("etc/ctdb/nodes", "10.0.0.1\n"), ("etc/ctdb/ctdb.conf", conf)]).good();
    let imported = import("[cluster]\nleader capability = false\n[legacy]\nlmaster capability = no\n");
    let (did_leader, says) = did(&imported, "leader capability");
    assert!(did_leader == Did::ToDo && says.contains("setleaderrole off"), "{says}");
    let (did_lmaster, says) = did(&imported, "lmaster capability");
    assert!(did_lmaster == Did::ToDo && says.contains("setlmasterrole off"), "{says}");
    let imported = import("[cluster]\nleader capability = true\n[legacy]\nlmaster capability = yes\n");
    assert_eq!((did(&imported, "leader").0, did(&imported, "lmaster").0), (Did::Taken, Did::Taken));
}

#[test]
fn lines_of_shell() {
    use super::settings::{Shell, shell};
    let value = |line| match shell(line) {
        Shell::Assigned(name, value, expands) => Some((name, value, expands)),
        _ => None,
    };
    assert_eq!(value("A=b"), Some(("A", "b".into(), false)));
    assert_eq!(value(" export A=\"b c\"  # why"), Some(("A", "b c".into(), false)));
    assert_eq!(value("A='$b'"), Some(("A", "$b".into(), false)));
    assert_eq!(value("A=\"$b\""), Some(("A", "$b".into(), true)));
    assert_eq!(value("A="), Some(("A", String::new(), false)));
    for other in ["A=b c", "if [ -f x ]; then", "A=\"b", ". /etc/x", "a-b=c", "=x", "[ \"$a\" = b ]"] {
        assert_eq!(shell(other), Shell::Other, "{other}");
    }
    for empty in ["", "  ", "# A=b"] {
        assert_eq!(shell(empty), Shell::Empty);
    }
}
