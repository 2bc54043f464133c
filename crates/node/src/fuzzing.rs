//! Entry points for the fuzzing of every parser of foreign bytes; they must return for any input.

use crate::config::{Machine, Places, import, load_text};
use std::path::Path;

/// Frames of a link, one after the other.
pub fn frames(bytes: &[u8]) {
    crate::peer::fuzz_frames(bytes);
}

/// A datagram's envelope, and what would be in it.
pub fn datagram(bytes: &[u8]) {
    crate::peer::fuzz_datagram(bytes);
}

/// A request of the admin socket.
pub fn admin(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<crate::admin::api::Request>(bytes) {
        let _ = serde_json::to_vec(&request);
    }
}

fn machine() -> Machine {
    Machine {
        addresses: ["192.168.122.101", "10.0.0.1", "fd00::1"].iter().filter_map(|a| a.parse().ok()).collect(),
        interfaces: ["eth0", "eth1", "lo"].map(String::from).into(),
        hostname: "gluster1".into(),
        node: None,
        loopback: false,
    }
}

/// `steadfast.toml`. Files that it names are read like the operator's, so nothing outside of its own text is.
pub fn config(text: &str) {
    if text.contains("_file") || text.contains("/etc/ctdb") {
        return;
    }
    match load_text(Path::new("/nonexistent/steadfast.toml"), text, &machine()) {
        Ok(config) => drop(config.warnings.to_string()),
        Err(problems) => drop(problems.to_string()),
    }
}

/// CTDB's files, separated by bytes of zero, in a directory of this process.
pub fn ctdb_files(bytes: &[u8]) {
    let root = std::env::temp_dir().join(format!("steadfast-fuzz-{}", std::process::id()));
    let base = root.join("etc/ctdb");
    let names = ["nodes", "public_addresses", "ctdb.conf", "script.options", "ctdb.tunables"];
    if std::fs::create_dir_all(&base).is_err() {
        return;
    }
    let mut parts = bytes.split(|b| *b == 0);
    for name in names {
        let written = std::fs::write(base.join(name), parts.next().unwrap_or_default());
        if written.is_err() {
            return;
        }
    }
    match import(&Places { base, root: root.clone() }, &machine()) {
        Ok(imported) => drop(serde_json::to_vec(&imported)),
        Err(problems) => drop(problems.to_string()),
    }
    let _ = std::fs::remove_dir_all(root);
}
