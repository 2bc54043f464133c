//! What `steadfast config check` and `steadfast config show` print, and with which exit code.

use super::check::Purpose;
use super::files::Files;
use super::machine::Machine;
use super::model::{Config, Storage};
use super::read;
use cluster::{Pnn, Role};
use std::fmt::Write as _;
use std::path::Path;

/// Text for the terminal and the exit code: 0 good (warnings included), 1 refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output when the code is 0, else for standard error.
    pub text: String,
    /// Exit code.
    pub code: u8,
}

/// `steadfast config check [FILE]`: all problems, or what it amounts to in a line. Works on other machines too.
#[must_use]
pub fn check_file(path: &Path, machine: &Machine, colour: bool) -> Outcome {
    match read(path, machine, Purpose::Inspect, &mut Files::default()) {
        Err(problems) => {
            let errors = plural(problems.errors(), "error");
            let warnings = match problems.warnings() {
                0 => String::new(),
                n => format!(" and {}", plural(n, "warning")),
            };
            Outcome {
                text: format!("{}\n\n{}: {errors}{warnings}\n", problems.render(colour), path.display()),
                code: 1,
            }
        }
        Ok(config) => {
            let mut text = String::new();
            if !config.warnings.0.is_empty() {
                text = format!("{}\n\n", config.warnings.render(colour));
            }
            let warnings = match config.warnings.warnings() {
                0 => String::new(),
                n => format!(", {}", plural(n, "warning")),
            };
            let _ = writeln!(
                text,
                "{}: good: cluster {}, {}, {}{warnings} (fingerprint {:016x})",
                path.display(),
                config.cluster,
                plural(config.nodes.len(), "node"),
                plural(config.vips.len(), "public address"),
                config.fingerprint,
            );
            Outcome { text, code: 0 }
        }
    }
}

/// `steadfast config show [FILE]`: the configuration as the daemon understands it, defaults filled in.
#[must_use]
pub fn show(path: &Path, machine: &Machine, colour: bool) -> Outcome {
    match read(path, machine, Purpose::Inspect, &mut Files::default()) {
        Err(_) => check_file(path, machine, colour),
        Ok(config) => Outcome { text: describe(&config), code: 0 },
    }
}

fn plural(n: usize, what: &str) -> String {
    match (n, what) {
        (1, _) => format!("1 {what}"),
        (_, "public address") => format!("{n} public addresses"),
        _ => format!("{n} {what}s"),
    }
}

fn describe(config: &Config) -> String {
    let mut lines = vec![
        format!("file         {}", config.path.display()),
        format!("cluster      {}", config.cluster),
        format!("fingerprint  {:016x}", config.fingerprint),
        format!("this node    {} ({})", config.me, config.this_node().name),
        format!(
            "lease        {} ms, heartbeat every {} ms, suspected after {} ms",
            config.timing.lease.as_millis(),
            config.timing.heartbeat.as_millis(),
            config.timing.suspect.as_millis()
        ),
        format!("control      port {} (TCP links, UDP heartbeats)", config.control_port),
        format!("lock         {}", lock(config)),
        format!("storage      {}", storage(&config.storage)),
    ];
    let services = config.service_names();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    lines.push(format!("services     {}", if services.is_empty() { "none".to_owned() } else { services.join(", ") }));
    if let Some(dns) = &config.dns {
        let names: Vec<&str> = dns.names.iter().map(|n| n.name.as_str()).collect();
        lines.push(format!(
            "dns          zone {}, names {}, ttl {} s, port {}",
            dns.zone,
            names.join(", "),
            dns.ttl,
            dns.port
        ));
    }
    lines.push(String::new());
    for (pnn, node) in &config.nodes {
        let role = if node.role == Role::Witness { " (witness)" } else { "" };
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        lines.push(format!("node {pnn:<3} {}{role}: {}", node.name, addresses.join(", ")));
    }
    for (pnn, addresses) in &config.removed {
        let addresses: Vec<String> = addresses.iter().flatten().map(ToString::to_string).collect();
        let had = if addresses.is_empty() { String::new() } else { format!(": {}", addresses.join(", ")) };
        lines.push(format!("node {pnn:<3} removed{had}"));
    }
    lines.push(String::new());
    for (address, vip) in &config.vips {
        let hosts: Vec<String> =
            vip.hosts.iter().map(|(pnn, interface)| format!("{}:{interface}", name(config, *pnn))).collect();
        lines.push(format!("vip {address}/{} on {}", vip.prefix_len, hosts.join(" ")));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn name(config: &Config, pnn: Pnn) -> &str {
    config.nodes.get(&pnn).map_or("?", |n| n.name.as_str())
}

fn lock(config: &Config) -> String {
    match &config.lock {
        None => "none: an even split of the voters serves nobody".to_owned(),
        Some(lock) => match &lock.command {
            None => lock.dir.join("lock").display().to_string(),
            Some(command) => format!("command {command}, records in {}", lock.dir.display()),
        },
    }
}

fn storage(storage: &Storage) -> String {
    match storage {
        Storage::None => "none".to_owned(),
        Storage::Local { path, evict_command } => {
            let evicts = evict_command.as_ref().map_or_else(String::new, |command| format!(", lost nodes: {command}"));
            format!("{} (there already{evicts})", path.display())
        }
        Storage::Gluster { path, volume, server, .. } => {
            format!("gluster volume {volume} from {server} at {}", path.display())
        }
    }
}
