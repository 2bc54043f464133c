//! The text of the new file.

use super::{Found, Listed};
use crate::config::check::is_host_name;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// CTDB's clusters have no name.
const NAME: &str = "storage";

/// A line of /proc/mounts.
struct Mount {
    path: PathBuf,
    volume: Option<(String, String)>,
}

/// For a daemon that runs from CTDB's files, instead of a file for people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// All nodes are on this machine.
    pub(super) loopback: bool,
}

/// The file, and what in it was made up.
pub(super) fn write(found: &Found, hosts: &str, mounts: &str, run: Option<Run>) -> (String, Vec<String>) {
    let loopback = run.is_some_and(|run| run.loopback);
    // Every loopback address may be called localhost there.
    let hosts = if loopback { "" } else { hosts };
    let mut notes =
        vec![format!("[cluster] name = \"{NAME}\": CTDB's clusters have no name; choose one before `steadfast init`")];
    let mut text = String::from(
        "# Made by `steadfast import-ctdb` from CTDB's files. Every key: docs/configuration.md\n\n[cluster]\n",
    );
    let _ = writeln!(text, "name = {}", quoted(NAME));
    let path = found.lock.as_deref().filter(|l| !l.starts_with('!'));
    let mount = match path.filter(|_| !loopback) {
        Some(lock) => mount_of(Path::new(lock), mounts),
        None if loopback => None,
        None => only_shared_mount(mounts),
    };
    lock(found, mount.as_ref(), &mut text, &mut notes);
    if found.fail_back_never {
        text.push_str("fail_back = \"never\"\n");
    }
    if let (Some(_), Some(file)) = (run, &found.public_read) {
        // The nodes' lists may differ.
        let _ = writeln!(text, "public_addresses_file = {}", quoted(&file.to_string_lossy()));
    }
    for (Listed { address, removed, place }, name) in found.nodes.iter().zip(names(found, hosts, &mut notes)) {
        match address {
            Some(address) => {
                let _ =
                    write!(text, "\n[[node]]\nname = {}\naddresses = [\"{address}\"]    # {place}\n", quoted(&name));
            }
            None => {
                let _ = write!(text, "\n[[node]]\nremoved = true    # {place}\n");
                if let Some(address) = removed {
                    let _ = writeln!(text, "addresses = [\"{address}\"]");
                }
            }
        }
    }
    let vips = if run.is_none() { found.vips.as_slice() } else { &[] };
    for (address, bits, interface, place) in vips {
        let _ =
            write!(text, "\n[[vip]]\naddress = \"{address}/{bits}\"    # {place}\ninterface = {}\n", quoted(interface));
    }
    if !vips.is_empty() {
        notes.push(
            "[[vip]]: from the public_addresses of this node, for all nodes; compare with the other nodes' files, and name \
             `nodes` or `interfaces` where they differ"
                .into(),
        );
    }
    if run.is_some() && mount.is_none() {
        text.push_str("\n[storage]\nkind = \"none\"\n");
    } else {
        storage(found, mount.as_ref(), &mut text, &mut notes);
    }
    if loopback {
        events(found, &mut text, &mut notes);
        return (text, notes);
    }
    if found.samba {
        text.push_str("\n[samba]\nenabled = true\nclustering = true\n");
        if let Some(unit) = &found.smb_unit {
            let _ = writeln!(text, "unit = {}", quoted(unit));
        }
        notes.push("[samba]: list the shares that must work in `shares`, and see docs/samba.md for smb.conf".into());
    }
    if found.nfs {
        text.push_str("\n[nfs]\nenabled = true\n");
    }
    events(found, &mut text, &mut notes);
    (text, notes)
}

fn events(found: &Found, text: &mut String, notes: &mut Vec<String>) {
    let events = &found.events;
    if !events.run {
        return;
    }
    text.push_str("\n[events]\nenabled = true\n");
    if let Some(base) = &events.base {
        let _ = writeln!(text, "base = {}", quoted(&base.to_string_lossy()));
    }
    for (key, number) in &events.numbers {
        let _ = writeln!(text, "{key} = {number}");
    }
    if let Some(script) = &events.debug_script {
        let _ = writeln!(text, "debug_script = {}", quoted(&script.to_string_lossy()));
    }
    notes.push(
        "[events]: the enabled scripts of this node are run as they are; a node without them runs none, and they do not keep \
         an address from moving"
            .into(),
    );
}

fn lock(found: &Found, mount: Option<&Mount>, text: &mut String, notes: &mut Vec<String>) {
    match found.lock.as_deref() {
        None => notes.push("[cluster] lock: CTDB has none; without one an even split serves nobody".into()),
        Some(command) if command.starts_with('!') => {
            let named = found.lock_records.clone();
            let records = named.or_else(|| mount.map(|m| m.path.join(".steadfast")));
            if let Some(dir) = records {
                let records = quoted(&dir.to_string_lossy());
                let _ = write!(text, "lock = {}\nlock_records = {records}\n", quoted(command));
                if found.lock_records.is_none() {
                    notes.push(format!("[cluster] lock_records: {}, on the only shared mount here", dir.display()));
                }
                return;
            }
            let _ = write!(text, "# lock = {}\n# lock_records = \"/SHARED-MOUNT/.steadfast\"\n", quoted(command));
            notes.push(
                "[cluster] lock: commented out until you say in `lock_records` where on the shared mount its records lie".into(),
            );
        }
        Some(path) => {
            let beside = Path::new(path).parent().unwrap_or_else(|| Path::new("/"));
            let dir = mount.map_or(beside, |m| &m.path).join(".steadfast");
            let _ = writeln!(
                text,
                "lock = {}    # CTDB's: {}",
                quoted(&dir.join("lock").to_string_lossy()),
                path.escape_default()
            );
        }
    }
}

fn storage(found: &Found, mount: Option<&Mount>, text: &mut String, notes: &mut Vec<String>) {
    let Some(mount) = mount else {
        text.push_str(
            "\n# CTDB does not know the shared filesystem; say what it is:\n# [storage]\n# kind = \"gluster\"\n# path = \
             \"/mnt/glustervol\"\n# volume = \"vol1\"\n",
        );
        notes.push(
            "[storage]: commented out; CTDB's files do not say what the shared filesystem is, and the lock is on none that \
             is mounted here"
                .into(),
        );
        return;
    };
    let path = quoted(&mount.path.to_string_lossy());
    match &mount.volume {
        Some((server, volume)) => {
            let _ = write!(
                text,
                "\n[storage]\nkind = \"gluster\"\npath = {path}\nvolume = {}\nserver = {}\n",
                quoted(volume),
                quoted(server)
            );
        }
        None => {
            let _ = write!(text, "\n[storage]\nkind = \"local\"\npath = {path}\n");
        }
    }
    let why = match found.lock.as_deref() {
        Some(path) if !path.starts_with('!') => "where CTDB's lock lies",
        _ => "the only shared filesystem",
    };
    notes.push(format!("[storage]: from what is mounted here on {}, {why}", mount.path.display()));
}

/// Kinds of filesystems that several servers mount at a time.
const SHARED: [&str; 8] =
    ["fuse.glusterfs", "ceph", "fuse.ceph-fuse", "fuse.cephfs", "gpfs", "lustre", "ocfs2", "gfs2"];

/// The shared filesystem of this machine, if there is one, and no other that it could be.
fn only_shared_mount(mounts: &str) -> Option<Mount> {
    let mut shared = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        SHARED.contains(&kind).then(|| PathBuf::from(place.replace("\\040", " ")))
    });
    let place = shared.next()?;
    shared.next().is_none().then(|| mount_of(&place, mounts)).flatten()
}

/// The mount that holds `path`; `None` when that is the root filesystem, which is never shared.
fn mount_of(path: &Path, mounts: &str) -> Option<Mount> {
    let mut best: Option<Mount> = None;
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(place), Some(kind)) = (words.next(), words.next(), words.next()) else { continue };
        let place = PathBuf::from(place.replace("\\040", " "));
        if place.as_os_str().len() < 2 || !path.starts_with(&place) {
            continue;
        }
        if best.as_ref().is_none_or(|b| place.starts_with(&b.path)) {
            // of a directory of a volume the rest of this program knows nothing: it counts as a mount of any kind
            let plain =
                |v: &str| !v.is_empty() && v.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            let host = |h: &str| is_host_name(h) || h.parse::<IpAddr>().is_ok();
            let volume = device
                .split_once(':')
                .map(|(h, v)| (h, v.trim_start_matches('/')))
                .filter(|(h, v)| kind == "fuse.glusterfs" && plain(v) && host(h));
            let volume = volume.map(|(server, volume)| (server.to_owned(), volume.to_owned()));
            best = Some(Mount { path: place, volume });
        }
    }
    best
}

/// Names from /etc/hosts, the short one if there are several; else `nodeN`.
fn names(found: &Found, hosts: &str, notes: &mut Vec<String>) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut by_hosts: Vec<Option<String>> = Vec::new();
    for Listed { address, .. } in &found.nodes {
        let name = address.and_then(|a| host_name(a, hosts));
        by_hosts.push(name.filter(|n| taken.insert(n.to_ascii_lowercase())));
    }
    let mut made = Vec::new();
    let names = by_hosts.into_iter().enumerate().map(|(pnn, name)| {
        name.unwrap_or_else(|| {
            let mut name = format!("node{pnn}");
            while !taken.insert(name.clone()) {
                name.insert_str(0, "ctdb-");
            }
            if let Some(Listed { address: Some(address), .. }) = found.nodes.get(pnn) {
                made.push(format!("{name} for {address}"));
            }
            name
        })
    });
    let names: Vec<String> = names.collect();
    let from_hosts = found.nodes.iter().filter(|n| n.address.is_some()).count() - made.len();
    if from_hosts > 0 {
        notes.push(format!("names of nodes: {from_hosts} from /etc/hosts, by their addresses"));
    }
    if !made.is_empty() {
        notes.push(format!("names of nodes: made up, since /etc/hosts has none of their own: {}", made.join(", ")));
    }
    names
}

fn host_name(address: IpAddr, hosts: &str) -> Option<String> {
    let mut names = hosts.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let matches = words.next()?.parse::<IpAddr>().is_ok_and(|a| a == address);
        matches.then(|| words.map(String::from).collect::<Vec<_>>())
    });
    let names: Vec<String> = names.next()?.into_iter().filter(|n| is_host_name(n)).collect();
    names.iter().find(|n| !n.contains('.')).or_else(|| names.first()).cloned()
}

/// As a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
