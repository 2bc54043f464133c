//! The whole way from text to `Config` or to what an operator reads.

use super::*;
use cluster::{Pnn, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

const SAMPLE: &str = include_str!("../../../../packaging/steadfast.toml");

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The reference site's node `index`.
fn machine(index: u8) -> Machine {
    Machine {
        addresses: [ip("127.0.0.1"), IpAddr::from([192, 168, 122, 100 + index])].into(),
        interfaces: ["lo".to_owned(), "eth0".to_owned()].into(),
        hostname: format!("gluster{}", index + 1),
        ..Machine::default()
    }
}

fn text(text: &str, machine: &Machine) -> Result<Config, Diagnostics> {
    load_text(Path::new("steadfast.toml"), text, machine)
}

/// The problems' rendering; panics when there are none.
fn refused(given: &str) -> String {
    match text(given, &machine(0)) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => problems.to_string(),
    }
}

/// A good configuration, with a piece of it replaced.
fn with(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    SMALL.replacen(from, to, 1)
}

const SMALL: &str = r#"[cluster]
name = "storage"
[[node]]
name = "gluster1"
addresses = ["192.168.122.100"]
[[node]]
name = "gluster2"
addresses = ["192.168.122.101"]
[[vip]]
address = "192.168.122.200/24"
interface = "eth0"
[[vip]]
address = "192.168.122.201/24"
interface = "eth0"
[storage]
kind = "local"
path = "/srv/share"
[dns]
zone = "storage.example"
names = ["glusternfs"]
"#;

#[test]
fn the_sample_is_the_reference_site() {
    let config = text(SAMPLE, &machine(2)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.warnings, Diagnostics::default());
    assert_eq!(config.me, Pnn(2));
    assert_eq!(config.this_node().name, "gluster3");
    let core = config.core();
    assert_eq!(core.nodes.len(), 4);
    assert_eq!(core.vips.len(), 4);
    assert_eq!(core.vips[&ip("192.168.122.203")].hosts.len(), 4);
    assert_eq!(core.vips[&ip("192.168.122.203")].prefix_len, 24);
    assert_eq!(core.services, ["nfs", "samba", "storage"].map(String::from).into());
    assert_eq!(core.timing.lease, Duration::from_millis(600));
    assert_eq!(config.control_port, 4390);
    assert_eq!(config.lock.as_ref().map(|l| l.dir.as_path()), Some(Path::new("/mnt/glustervol/.steadfast")));
    let dns = config.dns.expect("dns");
    assert_eq!(dns.names.len(), 2);
    assert_eq!(dns.ns, ["ns1", "ns2", "ns3", "ns4"].map(|n| format!("{n}.storage.example")));
    assert_eq!(dns.contact, "hostmaster.storage.example");
    assert_eq!(dns.listen.first(), Some(&ip("192.168.122.102")));
    assert_eq!(dns.listen.len(), 5);
}

#[test]
fn what_the_sample_has_commented_out_is_right_too() {
    // a key or a section that is commented out: `# key = ` or `# [[section]]`, at the beginning of its line
    let full: Vec<String> = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with("[[") => rest.to_owned(),
            Some(rest)
                if rest.split(" = ").nth(1).is_some() && !rest.contains("_file") && !rest.starts_with("lock") =>
            {
                let key = rest.split(" = ").next().unwrap_or_default();
                if key.chars().all(|c| c.is_ascii_lowercase() || c == '_') { rest.to_owned() } else { line.to_owned() }
            }
            _ => line.to_owned(),
        })
        .collect();
    let full = full
        .join("\n")
        .replace("names = [\"glusternfs\", ", "names = [")
        .replace("gluster3 = \"ens4\"", "gluster3 = \"eth0\"");
    let config = text(&full, &machine(0)).unwrap_or_else(|problems| panic!("{problems}\n{full}"));
    assert_eq!(config.nodes[&Pnn(4)].role, Role::Witness);
    assert_eq!(config.vips[&ip("192.168.122.200")].hosts.len(), 2);
    let dns = config.dns.expect("dns");
    let name = dns.names.iter().find(|n| n.name == "glusternfs").expect("the detailed name");
    assert_eq!((name.service.as_deref(), name.vips.len()), (Some(NFS), 2));
    assert_eq!(dns.rate_limit_exempt, [(ip("192.168.0.0"), 16)]);
}

#[test]
fn each_mistake_is_named_with_its_line_and_its_remedy() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("kind = \"local\"", "knd = \"local\"", &["unknown key `knd`", "steadfast.toml:16:1", "write `kind`"]),
        (
            "192.168.122.201\"",
            "192.168.122.100\"",
            &["two nodes have the address 192.168.122.100", ":8:14", "first here"],
        ),
        ("\"gluster2\"", "\"Gluster1\"", &["node \"Gluster1\" is listed twice", ":7:8", "first here"]),
        ("192.168.122.201/24", "192.168.122.200/24", &["192.168.122.200 is given twice", ":13:11", "remove one"]),
        ("192.168.122.201/24", "192.168.122.101/24", &["is gluster2's own address", "write a free address"]),
        (
            "192.168.122.201/24",
            "192.168.122.201/16",
            &["overlap", "write the same prefix length", "192.168.122.201/24"],
        ),
        ("192.168.122.201/24", "192.168.122.255/24", &["the broadcast address of 192.168.122.0/24"]),
        ("192.168.122.201/24", "192.168.122.201", &["prefix length is missing", "192.168.122.201/24"]),
        ("192.168.122.201/24", "vip1/24", &["\"vip1/24\" cannot be a public address"]),
        ("interface = \"eth0\"", "interface = \"eth1\"", &["no interface eth1", "write \"eth0\""]),
        ("interface = \"eth0\"", "interface = \"a/b\"", &["cannot be an interface"]),
        ("interface = \"eth0\"\n", "", &["a public address without an interface"]),
        (
            "interface = \"eth0\"\n",
            "interface = \"eth0\"\nnodes = [\"gluster3\"]\n",
            &["no node is called \"gluster3\"", "write \"gluster"],
        ),
        ("interface = \"eth0\"\n", "interface = \"eth0\"\nnodes = []\n", &["no node may host"]),
        (
            "name = \"storage\"\n",
            "name = \"storage\"\nlease_ms = 100\n",
            &["`lease_ms` is out of range", "200 to 10000"],
        ),
        ("name = \"storage\"\n", "name = \"storage\"\nfail_back = \"often\"\n", &["often", ":3:13"]),
        ("name = \"storage\"\n", "name = \"storage\"\nfail_back = \"window\"\n", &["there is no `fail_back_window`"]),
        (
            "name = \"storage\"\n",
            "name = \"storage\"\nfail_back = \"window\"\nfail_back_window = \"2:00-04:00\"\n",
            &["\"2:00-04:00\" is no part of a day", "02:00-04:00"],
        ),
        (
            "name = \"storage\"\n",
            "name = \"storage\"\nfail_back_window = \"02:00-04:00\"\n",
            &["without fail_back = \"window\""],
        ),
        ("name = \"storage\"\n", "name = \"storage\"\nfail_back_interval_ms = -1\n", &["out of range", "0 to 3600000"]),
        ("name = \"storage\"\n", "name = \"storage\"\nlease_ms = \"600\"\n", &["wrong kind", ":3:12"]),
        (
            "name = \"storage\"\n",
            "name = \"storage\"\npreset = \"fast\"\nlease_ms = 600\n",
            &["`preset` and `lease_ms` contradict", ":4:12", "the preset means 250 ms"],
        ),
        (
            "name = \"storage\"\n",
            "name = \"storage\"\npreset = \"fats\"\n",
            &["`fats` is not a choice", "\"fast\"", ":3:10"],
        ),
        ("name = \"storage\"\n", "name = \"storage\"\ncontrol_port = 2049\n", &["port 2049 is NFS's"]),
        ("name = \"storage\"\n", "name = \"storage\"\ncontrol_port = 53\n", &["port 53 is DNS's"]),
        ("name = \"storage\"\n", "name = \"\"\n", &["cannot be a cluster's name"]),
        ("name = \"storage\"\n", "", &["the cluster has no name"]),
        ("name = \"storage\"\n", "name = \"s\"\nlock = \"lock\"\n", &["cannot be the path of the lock"]),
        (
            "name = \"storage\"\n",
            "name = \"s\"\nlock = \"/mnt/x/lock\"\n",
            &["not on the shared filesystem", "/srv/share/.steadfast/lock"],
        ),
        ("name = \"storage\"\n", "name = \"s\"\nlock = \"/srv/share/l/reclock\"\n", &["write \"/srv/share/l/lock\""]),
        ("name = \"storage\"\n", "name = \"s\"\nlock = \"!helper\"\n", &["needs its full path"]),
        ("path = \"/srv/share\"", "path = \"srv\"", &["cannot be a mount point"]),
        ("kind = \"local\"", "kind = \"gluster\"", &["has no volume", "gluster volume list"]),
        ("kind = \"local\"", "kind = \"local\"\nvolume = \"v\"", &["`volume` is for kind = \"gluster\""]),
        ("\"storage.example\"", "\"storage_x.example\"", &["\"_\" is not allowed"]),
        ("\"storage.example\"", "\"a..b\"", &["nothing between two dots"]),
        ("[\"glusternfs\"]", "[\"glusternfs\", \"GlusterNFS.storage.example.\"]", &["\"glusternfs\" is given twice"]),
        ("[\"glusternfs\"]", "[\"x\"]\nttl = 0", &["`ttl` is out of range"]),
        (
            "[\"glusternfs\"]",
            "[\"x\"]\n[[dns.name]]\nname = \"y\"\nservice = \"nfs\"",
            &["not served", "enabled = true"],
        ),
        (
            "[\"glusternfs\"]",
            "[\"x\"]\n[[dns.name]]\nname = \"y\"\nvips = [\"10.0.0.1\"]",
            &["no public address of this cluster"],
        ),
        ("[\"glusternfs\"]", "[\"x\"]\nlisten = [\"0.0.0.0\"]", &["needs to know its addresses"]),
        ("[dns]", "[nfs]\nversions = [2]\n[dns]", &["`versions` in [nfs]", ":19:1"]),
    ];
    for (from, to, wanted) in cases {
        // the case of two nodes replaces a node's address, the others the first match
        let given = if *from == "192.168.122.201\"" {
            with("\"192.168.122.101\"", "\"192.168.122.100\"")
        } else {
            with(from, to)
        };
        let shown = refused(&given);
        for part in *wanted {
            assert!(shown.contains(part), "{to}: {part:?} is missing in\n{shown}");
        }
    }
}

#[test]
fn several_mistakes_are_shown_in_one_run() {
    let given = with("kind = \"local\"", "kind = \"lokal\"")
        .replace("eth0", "eth9")
        .replace("name = \"storage\"", "nam = \"storage\"");
    let shown = refused(&given);
    for part in ["unknown key `nam`", "`lokal` is not a choice", "no interface eth9", "the cluster has no name"] {
        assert!(shown.contains(part), "{part:?} is missing in\n{shown}");
    }
}

#[test]
fn a_removed_node_keeps_the_numbers_of_those_after_it() {
    let given = with(
        "name = \"gluster1\"\n",
        "name = \"gluster0\"\naddresses = [\"192.168.122.99\", \"192.168.122.101\"]\nremoved = true\n[[node]]\nname = \
         \"gluster1\"\n",
    );
    let config = text(&given, &machine(0)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.me, Pnn(1));
    // The second one is another's now.
    assert_eq!(config.removed, BTreeMap::from([(Pnn(0), Some(vec![ip("192.168.122.99")]))]));
    assert_eq!(config.nodes.keys().copied().collect::<Vec<_>>(), [Pnn(1), Pnn(2)]);
}

#[test]
fn this_node_is_found_by_address_by_name_and_by_host_name() {
    assert_eq!(text(SMALL, &machine(1)).expect("good").me, Pnn(1));
    let told = Machine { node: Some("GLUSTER2".into()), ..machine(0) };
    assert_eq!(text(SMALL, &told).expect("good").me, Pnn(1));
    let moved = Machine { addresses: BTreeSet::new(), hostname: "gluster2.example.com".into(), ..machine(0) };
    let config = text(SMALL, &moved).expect("good");
    assert_eq!((config.me, config.warnings.warnings()), (Pnn(1), 1));
    let stranger = Machine { addresses: [ip("10.0.0.1")].into(), hostname: "laptop".into(), ..machine(0) };
    let shown = text(SMALL, &stranger).expect_err("a stranger").to_string();
    assert!(shown.contains("none of the nodes") && shown.contains("10.0.0.1"), "{shown}");
    let both = Machine { addresses: [ip("192.168.122.100"), ip("192.168.122.101")].into(), ..machine(0) };
    assert!(text(SMALL, &both).expect_err("two").to_string().contains("several nodes: gluster1, gluster2"));
    let told = Machine { node: Some("gluster9".into()), ..machine(0) };
    assert!(text(SMALL, &told).expect_err("unknown").to_string().contains("no node is called \"gluster9\""));
}

#[test]
fn the_fingerprint_is_the_same_on_every_node_and_changes_with_what_counts() {
    let first = text(SMALL, &machine(0)).expect("good").fingerprint;
    assert_eq!(first, text(SMALL, &machine(1)).expect("good").fingerprint);
    for (from, to) in [
        ("192.168.122.201/24", "192.168.122.202/24"),
        ("\"gluster2\"", "\"gluster3\""),
        ("kind = \"local\"", "kind = \"gluster\"\nvolume = \"v\""),
        ("name = \"storage\"", "name = \"storage\"\nlease_ms = 700"),
        ("name = \"storage\"", "name = \"storage\"\nfail_back = \"window\"\nfail_back_window = \"22:00-04:30\""),
        ("name = \"storage\"", "name = \"storage\"\nfail_back_interval_ms = 5000"),
        ("\"storage.example\"", "\"other.example\""),
        ("[dns]", "[samba]\nclustering = true\n[dns]"),
    ] {
        assert_ne!(first, text(&with(from, to), &machine(0)).expect("good").fingerprint, "{to}");
    }
    assert_eq!(first, text(&format!("# a remark\n{SMALL}"), &machine(0)).expect("good").fingerprint);
    let gluster = |more| {
        let given = with("kind = \"local\"", &format!("kind = \"gluster\"\nvolume = \"v\"\n{more}"));
        text(&given, &machine(0)).expect("good")
    };
    let (lifts, not) = (gluster("lift_post_op_delay = true"), gluster("lift_post_op_delay = false"));
    assert!(lifts.lift_post_op_delay && !not.lift_post_op_delay);
    assert_ne!(lifts.fingerprint, not.fingerprint);
    // By itself where clients of NFS would wait.
    assert_eq!(gluster("").lift_post_op_delay, gluster("").services.nfs.enabled);
    let served = |sections| {
        let storage = with("kind = \"local\"", "kind = \"gluster\"\nvolume = \"v\"");
        text(&format!("{storage}\n{sections}"), &machine(0)).expect("good")
    };
    assert!(served("[nfs]\nenabled = true\nexports = [\"/vol1\"]").lift_post_op_delay);
    assert!(!served("[nfs]\nenabled = false").lift_post_op_delay);
    let stranger = refused(&with("kind = \"local\"", "kind = \"local\"\nlift_post_op_delay = false"));
    assert!(stranger.contains("`lift_post_op_delay` is for kind = \"gluster\""), "{stranger}");
}

/// A site that comes from CTDB: `nodes` and `public_addresses` in a directory.
fn ctdb_site(nodes: &str, lists: &[(&str, &str)], pattern: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("nodes"), nodes).expect("written");
    for (name, list) in lists {
        std::fs::write(at(name), list).expect("written");
    }
    let text = format!(
        "[cluster]\nname = \"old\"\nnodes_file = \"{}\"\npublic_addresses_file = \"{}\"\n[storage]\nkind = \"none\"\n",
        at("nodes").display(),
        at(pattern).display()
    );
    std::fs::write(at("steadfast.toml"), text).expect("written");
    let path = at("steadfast.toml");
    (dir, path)
}

#[test]
fn ctdbs_files_are_accepted_as_they_are() {
    let (dir, path) = ctdb_site(
        "192.168.122.100\n#192.168.122.99\n192.168.122.101\n",
        &[("public_addresses", "192.168.122.200/24 eth0\n192.168.122.201/24 em1,eth0\n")],
        "public_addresses",
    );
    let mut config = load_or_last_good(&path, &machine(1), dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((config.me, config.this_node().name.as_str()), (Pnn(2), "node2"));
    assert_eq!(config.removed, BTreeMap::from([(Pnn(1), Some(vec![ip("192.168.122.99")]))]));
    assert_eq!(config.vips[&ip("192.168.122.201")].hosts[&Pnn(2)], "eth0", "em1 is not here");
    assert_eq!(config.vips[&ip("192.168.122.200")].hosts.len(), 2);

    // node 0 says that its list is another one
    let other = PublicList::from([(ip("192.168.122.200"), (24, "bond0".to_owned()))]);
    assert!(config.set_lists(&BTreeMap::from([(Pnn(0), other.clone())])));
    assert_eq!(config.vips[&ip("192.168.122.200")].hosts[&Pnn(0)], "bond0");
    assert_eq!(config.vips[&ip("192.168.122.201")].hosts.keys().collect::<Vec<_>>(), [&Pnn(2)]);
    assert!(!config.set_lists(&BTreeMap::from([(Pnn(0), other)])), "nothing new");

    // files go away: the copy is used, and said
    std::fs::rename(dir.path().join("nodes"), dir.path().join("no-nodes")).expect("renamed");
    let config = load_or_last_good(&path, &machine(1), dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.warnings.to_string().contains("nodes cannot be read"), "{}", config.warnings);
    let state = dir.path().join("last-good-config.json");
    assert!(state.exists());
    std::fs::rename(&path, dir.path().join("gone")).expect("renamed");
    let config = load_or_last_good(&path, &machine(1), dir.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.warnings.to_string().contains("last good configuration"), "{}", config.warnings);
    assert_eq!(config.vips.len(), 2);
    std::fs::remove_file(state).expect("removed");
    let shown = load_or_last_good(&path, &machine(1), dir.path()).expect_err("nothing left").to_string();
    assert!(shown.contains("cannot be read"), "{shown}");
}

#[test]
fn lists_per_node_may_lie_in_one_place() {
    let (_dir, path) = ctdb_site(
        "192.168.122.100\n192.168.122.101\n",
        &[
            ("public.0", "192.168.122.200/24 eth0\n"),
            ("public.1", "192.168.122.200/24 eth7\n192.168.122.201/24 eth7\n"),
        ],
        "public.{pnn}",
    );
    let config = load(&path, &machine(0)).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.own_list.is_none());
    assert_eq!(
        config.vips[&ip("192.168.122.200")].hosts,
        BTreeMap::from([(Pnn(0), "eth0".into()), (Pnn(1), "eth7".into())])
    );
    assert_eq!(config.vips[&ip("192.168.122.201")].hosts.len(), 1);
}

#[test]
fn a_missing_named_file_points_at_its_key() {
    let (dir, path) = ctdb_site("192.168.122.100\n", &[], "public_addresses");
    let shown = load(&path, &machine(0)).expect_err("no list").to_string();
    assert!(shown.contains("public_addresses cannot be read") && shown.contains("steadfast.toml:4:"), "{shown}");
    drop(dir);
}

#[test]
fn the_commands_say_what_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("steadfast.toml");
    std::fs::write(&path, SMALL).expect("written");
    let outcome = check_file(&path, &machine(0), false);
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    assert!(
        outcome.text.contains("good: cluster storage, 2 nodes, 2 public addresses (fingerprint"),
        "{}",
        outcome.text
    );
    let shown = show(&path, &machine(1), false);
    for part in [
        "this node    1 (gluster2)",
        "600 ms",
        "vip 192.168.122.200/24 on gluster1:eth0 gluster2:eth0",
        "lock         none",
    ] {
        assert!(shown.text.contains(part), "{part} in\n{}", shown.text);
    }
    // on the operator's own computer: said, not refused
    let laptop = Machine { hostname: "laptop".into(), ..Machine::default() };
    let outcome = check_file(&path, &laptop, false);
    assert!(outcome.code == 0 && outcome.text.contains("1 warning"), "{}", outcome.text);
    std::fs::write(&path, SMALL.replace("eth0", "eth3")).expect("written");
    let outcome = check_file(&path, &machine(0), false);
    assert_eq!(outcome.code, 1);
    assert!(outcome.text.ends_with("steadfast.toml: 2 errors\n"), "{}", outcome.text);
    let outcome = check_file(&dir.path().join("none.toml"), &machine(0), false);
    assert!(outcome.code == 1 && outcome.text.contains("packaging/steadfast.toml is a sample"), "{}", outcome.text);
}

#[test]
fn a_preset_stands_for_its_lease() {
    for (lines, lease, heartbeat) in [
        ("", 600, 100),
        ("preset = \"normal\"\n", 600, 100),
        ("preset = \"fast\"\n", 250, 41),
        ("preset = \"fast\"\nlease_ms = 250\n", 250, 41),
        ("lease_ms = 250\n", 250, 41),
    ] {
        let given = with("name = \"storage\"\n", &format!("name = \"storage\"\n{lines}"));
        let timing = text(&given, &machine(0)).unwrap_or_else(|problems| panic!("{problems}")).timing;
        assert_eq!((timing.lease.as_millis(), timing.heartbeat.as_millis()), (lease, heartbeat), "{lines}");
    }
}

#[test]
fn garbage_is_refused_without_a_panic() {
    let mut seed = 1_u64;
    for _ in 0..300 {
        // damage the sample in a few places, deterministically
        let mut bytes = SMALL.as_bytes().to_vec();
        for _ in 0..4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = b"\"[]{}=\n#\\x0.,-\xc3"[(seed >> 20) as usize % 15];
        }
        let given = String::from_utf8_lossy(&bytes).into_owned();
        match text(&given, &machine(0)) {
            Ok(config) => drop(config.core()),
            Err(problems) => {
                assert!(problems.has_errors());
                let _ = problems.render(true);
            }
        }
    }
}
