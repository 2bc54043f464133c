//! The files of settings: `ctdb.conf`, tunables, and shell assignments, line by line.

use super::meaning::{self, Tunable};
use super::{Did, Import, Setting};
use crate::config::diagnostic::{Diagnostic, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A line of shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shell<'a> {
    Empty,
    /// Name and value without its quotes; true when it holds something that a shell would replace.
    Assigned(&'a str, String, bool),
    Other,
}

/// Reads `NAME=value`, quoted or not, with `export` before it or a comment behind it. Nothing is expanded.
pub(super) fn shell(line: &str) -> Shell<'_> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Shell::Empty;
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let Some((name, rest)) = line.split_once('=') else {
        return Shell::Other;
    };
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Shell::Other;
    }
    let (mut value, mut quote, mut expands) = (String::new(), None, false);
    let mut chars = rest.chars();
    let mut tail = "";
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None | Some('"'), '\\') => value.extend(chars.next()),
            (None, c) if c.is_whitespace() || c == ';' => {
                tail = chars.as_str().trim();
                break;
            }
            (None | Some('"'), '$' | '`') => {
                expands = true;
                value.push(c);
            }
            (_, c) => value.push(c),
        }
    }
    if quote.is_some() || !(tail.is_empty() || tail.starts_with('#')) {
        return Shell::Other;
    }
    Shell::Assigned(name, value, expands)
}

impl Import<'_> {
    /// All files of settings, the newest style first: what stands there first is what counts.
    pub(super) fn settings(&mut self) {
        let base = self.places.base.clone();
        if let Some(source) = self.file(&base.join("ctdb.conf")) {
            self.conf(&source);
        }
        let mut tunables = vec![base.join("ctdb.tunables")];
        let more = self.entries(&base.join("tunables.d"));
        tunables.extend(more.into_iter().filter(|p| p.extension().is_some_and(|e| e == "tunables")));
        for path in tunables {
            if let Some(source) = self.file(&path) {
                self.tunables(&source);
            }
        }
        let mut shells = vec![base.join("script.options"), base.join("ctdbd.conf")];
        let options = self.entries(&base.join("events/legacy"));
        shells.extend(options.into_iter().filter(|p| p.extension().is_some_and(|e| e == "options")));
        shells.extend(["/etc/default/ctdb", "/etc/sysconfig/ctdb"].map(|p| self.absolute(Path::new(p))));
        for path in shells {
            if let Some(source) = self.file(&path) {
                self.shell_file(&source);
            }
        }
    }

    fn wrong(&mut self, source: &Arc<Source>, at: usize, title: impl Into<String>, help: &str) {
        let end = source.text[at..].find('\n').map_or(source.text.len(), |n| at + n);
        self.problems.push(Diagnostic::error(title).at(source, at..end, "").help(help));
    }

    fn conf(&mut self, source: &Arc<Source>) {
        let (mut section, mut comments) = (String::new(), 0);
        for (at, line) in places(&source.text) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                comments += 1;
                continue;
            }
            if let Some(name) = line.strip_prefix('[') {
                let Some(name) = name.strip_suffix(']') else {
                    self.wrong(source, at, "a section without its closing bracket", "write [cluster], for example");
                    continue;
                };
                section = name.trim().to_ascii_lowercase();
                let known =
                    ["logging", "cluster", "database", "event", "failover", "legacy"].contains(&section.as_str());
                let did = if known { Did::NoMeaning } else { Did::Unknown };
                self.line(source, at, did, if known { "a heading" } else { "CTDB has no such section" });
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                let help = "CTDB does not start with it; write `name = value`, or remove the line, and run this again";
                self.wrong(source, at, "neither a section nor a setting", help);
                continue;
            };
            let key = key.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
            let setting = Setting { value: value.trim().to_owned(), source: Arc::clone(source), at };
            // within the file the last counts, as it does for ctdbd
            self.found.conf.insert((section.clone(), key.clone()), setting);
            match (section.as_str(), key.as_str()) {
                ("cluster", "cluster lock" | "recovery lock") => self.lock(source, at, value.trim()),
                ("event", "debug script") => self.debug_script(source, at, value.trim()),
                ("failover", "disabled") => self.failover_disabled(source, at, value.trim()),
                ("cluster", "leader capability") => {
                    self.capability(source, at, meaning::Capability::Leader, value.trim())
                }
                ("legacy", "lmaster capability") => {
                    self.capability(source, at, meaning::Capability::Lmaster, value.trim())
                }
                ("cluster", "nodes list") => self.named_file(source, at, value.trim(), "nodes"),
                (section, key) => {
                    let (did, says) = meaning::conf(section, key);
                    self.line(source, at, did, says);
                }
            }
        }
        self.comments(source, comments);
    }

    fn failover_disabled(&mut self, source: &Arc<Source>, at: usize, value: &str) {
        let Some(disabled) = self.yes_or_no(source, at, value) else { return };
        self.found.no_failover = disabled;
        let says = if disabled {
            "public addresses are left out: CTDB gave none of them to a node"
        } else {
            "addresses move here"
        };
        self.line(source, at, Did::Taken, says);
    }

    fn capability(&mut self, source: &Arc<Source>, at: usize, what: meaning::Capability, value: &str) {
        if value.is_empty() {
            return self.line(source, at, Did::NoMeaning, "empty: the default");
        }
        let Some(can) = self.yes_or_no(source, at, value) else { return };
        let (did, says) = meaning::capability(what, can, self.as_ctdbd);
        self.line(source, at, did, says);
    }

    fn yes_or_no(&mut self, source: &Arc<Source>, at: usize, value: &str) -> Option<bool> {
        let yes = truth(value);
        if yes.is_none() {
            self.wrong(source, at, format!("`{value}` is neither yes nor no"), "write true or false");
        }
        yes
    }

    fn tunables(&mut self, source: &Arc<Source>) {
        let mut comments = 0;
        for (at, line) in places(&source.text) {
            if line.is_empty() || line.starts_with('#') {
                comments += 1;
                continue;
            }
            match line.split_once('=') {
                Some((name, value)) => self.tunable(source, at, name.trim(), value.trim()),
                None => self.wrong(
                    source,
                    at,
                    "not a tunable",
                    "CTDB does not start with it; write `Name = number`, or remove the line",
                ),
            }
        }
        self.comments(source, comments);
    }

    fn tunable(&mut self, source: &Arc<Source>, at: usize, name: &str, value: &str) {
        let number = value.parse::<u32>().ok();
        if let Some(number) = number {
            self.found.tunables.push((name.to_owned(), number));
        }
        match (meaning::tunable(name), number) {
            (None, _) if self.as_ctdbd => {
                let title = format!("there is no tunable {name}");
                self.wrong(source, at, title, "`ctdb listvars` lists them; correct the name, or remove the line");
            }
            (None, _) => {
                self.line(source, at, Did::Unknown, "CTDB 4.17 has no such tunable and would not start with it")
            }
            (Some(_), None) => {
                let title = format!("`{value}` is no value for the tunable {name}");
                self.wrong(
                    source,
                    at,
                    title,
                    "write a number from 0 to 4294967295, or remove the line, and run this again",
                );
            }
            (Some(Tunable::NoFailback | Tunable::NoTakeover), Some(_)) if self.as_ctdbd => {
                self.line(source, at, Did::Taken, "heeded where the leader has it, as `ctdb setvar` sets it");
            }
            (Some(Tunable::Heeded(_)), Some(_)) if self.as_ctdbd => {
                self.line(source, at, Did::Taken, "heeded, as `ctdb setvar` sets it");
            }
            (Some(Tunable::Heeded(default)), Some(number)) if number == default => {
                self.line(source, at, Did::Taken, "the default here, too");
            }
            (Some(Tunable::Heeded(_)), Some(number)) => {
                let why = format!(
                    "heeded, and not from steadfast.toml: `ctdb setvar {name} {number}` on every node sets it until its \
                     daemon ends"
                );
                self.line(source, at, Did::ToDo, why);
            }
            (Some(Tunable::NoTakeover), Some(0)) => {
                self.line(source, at, Did::Taken, "addresses move to other nodes: the default here");
            }
            (Some(Tunable::NoTakeover), Some(_)) => {
                let why = "`ctdb setvar NoIPTakeover 1` on every node does so until its daemon ends; \
                    an address that must never move: [[vip]] nodes = [\"its only node\"]";
                self.line(source, at, Did::ToDo, why);
            }
            (Some(Tunable::NoFailback), Some(0)) => {
                self.line(source, at, Did::Taken, "addresses go back: the default here (fail_back = \"spread\")");
            }
            (Some(Tunable::NoFailback), Some(_)) => {
                self.found.fail_back_never = true;
                self.line(source, at, Did::Taken, "[cluster] fail_back = \"never\"");
            }
            (Some(Tunable::Events(key, most)), Some(number)) => {
                let number = number.clamp(1, most);
                self.found.events.numbers.insert(key, number);
                self.line(source, at, Did::Taken, format!("[events] {key} = {number}, if event scripts are run"));
            }
            (Some(Tunable::Other(did, why)), Some(_)) => self.line(source, at, did, why),
        }
    }

    fn shell_file(&mut self, source: &Arc<Source>) {
        let mut comments = 0;
        for (at, line) in places(&source.text) {
            match shell(line) {
                Shell::Empty => comments += 1,
                Shell::Other => {
                    self.line(
                        source,
                        at,
                        Did::Unknown,
                        "no plain NAME=value: not run and not looked into; set by hand what it sets",
                    );
                }
                Shell::Assigned(name, value, expands) => self.assigned(source, at, name, &value, expands),
            }
        }
        self.comments(source, comments);
    }

    fn assigned(&mut self, source: &Arc<Source>, at: usize, name: &str, value: &str, expands: bool) {
        let matters = matches!(
            name,
            "CTDB_RECOVERY_LOCK"
                | "CTDB_NODES"
                | "CTDB_PUBLIC_ADDRESSES"
                | "CTDB_MANAGES_SAMBA"
                | "CTDB_MANAGES_NFS"
                | "CTDB_SERVICE_SMB"
        ) || name.starts_with("CTDB_SET_");
        if matters && expands {
            let title = format!("the value of {name} is made by a shell");
            return self.wrong(source, at, title, "no shell is run here: write the value out, and run this again");
        }
        if let Some((section, key)) = meaning::modern(name) {
            let setting = Setting { value: value.to_owned(), source: Arc::clone(source), at };
            self.found.conf.entry((section.to_owned(), key.to_owned())).or_insert(setting);
        }
        match name {
            "CTDB_RECOVERY_LOCK" => self.lock(source, at, value),
            "CTDB_NODES" => self.named_file(source, at, value, "nodes"),
            "CTDB_PUBLIC_ADDRESSES" => self.named_file(source, at, value, "public addresses"),
            "CTDB_MANAGES_SAMBA" => match yes(value) {
                true => {
                    self.found.samba = true;
                    self.line(source, at, Did::Taken, "[samba] enabled = true, clustering = true");
                }
                false => self.line(source, at, Did::Taken, "Samba is not managed: no [samba] from this line"),
            },
            "CTDB_MANAGES_NFS" => match yes(value) {
                true => {
                    self.found.nfs = true;
                    self.line(source, at, Did::Taken, format!("[nfs] enabled = true; {}", meaning::NFS));
                }
                false => self.line(source, at, Did::Taken, "NFS is not managed: no [nfs] from this line"),
            },
            "CTDB_SERVICE_SMB" if !value.is_empty() => {
                let unit = if value.contains('.') { value.to_owned() } else { format!("{value}.service") };
                self.line(source, at, Did::Taken, format!("[samba] unit = \"{unit}\", if Samba is managed"));
                self.found.smb_unit = Some(unit);
            }
            "CTDB_CAPABILITY_RECMASTER" => self.capability(source, at, meaning::Capability::Leader, value),
            "CTDB_CAPABILITY_LMASTER" => self.capability(source, at, meaning::Capability::Lmaster, value),
            "CTDB_DEBUG_HUNG_SCRIPT" if !expands => self.debug_script(source, at, value),
            _ if self.is_read_by_script(source, at, name) => {}
            _ => match name.strip_prefix("CTDB_SET_") {
                Some(tunable) => self.tunable(source, at, tunable, value),
                None => {
                    let (did, says) = meaning::legacy(name);
                    self.line(source, at, did, says);
                }
            },
        }
    }

    fn debug_script(&mut self, source: &Arc<Source>, at: usize, value: &str) {
        if value.is_empty() {
            return self.line(source, at, Did::NoMeaning, "empty: nothing is run");
        }
        self.line(source, at, Did::Taken, "[events] debug_script, if event scripts are run");
        self.found.events.debug_script = Some(self.places.base.join(value));
    }

    /// An option of a script that is run, in a file that scripts read.
    fn is_read_by_script(&mut self, source: &Arc<Source>, at: usize, name: &str) -> bool {
        let reads = source.path.starts_with(&self.places.base)
            && source.path.extension().is_some_and(|extension| extension == "options");
        match meaning::option_of(name) {
            Some(script) if reads && self.found.events.enabled.contains(script) => {
                self.line(source, at, Did::Taken, format!("{script}.script reads it itself, and is run"));
                true
            }
            _ => false,
        }
    }

    /// True when this setting was decided by an earlier line, which is then said.
    fn decided(&mut self, source: &Arc<Source>, at: usize, what: &'static str) -> bool {
        if let Some(first) = self.seen.get(what) {
            let says = format!("{first} has said it already, and counts");
            self.line(source, at, Did::NoMeaning, says);
            return true;
        }
        self.seen.insert(what, format!("{}:{}", source.path.display(), source.line(at)));
        false
    }

    fn lock(&mut self, source: &Arc<Source>, at: usize, value: &str) {
        if self.decided(source, at, "lock") {
            return;
        }
        let words: Vec<&str> = value.strip_prefix('!').map(|v| v.split_whitespace().collect()).unwrap_or_default();
        let (program, argument) = (words.first().copied().unwrap_or(""), words.get(1).copied());
        let own = program.rsplit('/').next() == Some("ctdb_mutex_fcntl_helper");
        match (value, argument) {
            ("", _) => self.line(source, at, Did::NoMeaning, "no lock: none here either; an even split serves nobody"),
            (_, Some(path)) if own => self.lock_path(source, at, path),
            (command, _) if command.starts_with('!') && program == "/bin/false" => {
                self.line(source, at, Did::NoMeaning, "a lock that nobody ever gets: Debian's word for not configured");
            }
            (command, _) if command.starts_with('!') => {
                let command = command.to_owned();
                let says =
                    "[cluster] lock, same command; its records need a directory on the shared mount: lock_records";
                self.line(source, at, Did::Taken, says);
                self.found.lock = Some(command);
            }
            (path, _) => self.lock_path(source, at, path),
        }
    }

    fn lock_path(&mut self, source: &Arc<Source>, at: usize, path: &str) {
        let good = Path::new(path).is_absolute() && Path::new(path).parent().is_some_and(|d| d.as_os_str().len() > 1);
        if !good || path.contains("/../") {
            let title = format!("\"{path}\" cannot be the path of the lock");
            return self.wrong(
                source,
                at,
                title,
                "write the full path of a file on the shared mount, and run this again",
            );
        }
        let says = "[cluster] lock, in a directory of its own on the same mount: the daemons must not share a lock file with ctdbd";
        self.line(source, at, Did::Taken, says);
        self.found.lock = Some(path.to_owned());
    }

    fn named_file(&mut self, source: &Arc<Source>, at: usize, value: &str, what: &'static str) {
        if self.decided(source, at, what) {
            return;
        }
        if !value.starts_with('/') {
            let title = format!("the list of {what} is not a file with its full path");
            let help = "write the list into a file and its full path here; a command is not run, put what it prints into the file";
            return self.wrong(source, at, title, help);
        }
        let path: PathBuf = self.absolute(Path::new(value));
        self.line(source, at, Did::Taken, format!("the list of {what} is read from there"));
        match what {
            "nodes" => self.found.nodes_file = Some(path),
            _ => self.found.public_file = Some(path),
        }
    }
}

/// Yes or no, as `ctdb.conf` has it; none: neither.
pub(super) fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" => Some(true),
        "false" | "no" => Some(false),
        _ => None,
    }
}

/// CTDB's scripts take exactly "yes".
fn yes(value: &str) -> bool {
    value.eq_ignore_ascii_case("yes")
}

/// Lines without their blanks at both ends, with their places.
fn places(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let start = at + (line.len() - line.trim_start_matches([' ', '\t', '\r']).len());
        at += line.len();
        (start, line.trim())
    })
}
