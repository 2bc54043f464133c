//! One `steadfast.toml` from CTDB's files, and what became of each of their lines.
//!
//! ```text
//!   nodes, public_addresses ──> ctdb_files ──┐
//!   ctdb.conf, ctdb.tunables ──> settings ───┼──> Found ──> write ──> text ──> the check of every configuration
//!   *.options, /etc/default/ctdb ──> shell ──┘      └──> Lines: taken / no meaning here / for you to do / unknown
//! ```
//!
//! Nothing is run and no shell word is expanded. A line that cannot be read where it matters stops the import; a text
//! that would not pass the check is never given out.

mod ctdbd;
mod meaning;
mod settings;
#[cfg(test)]
mod tests;
mod write;

pub use ctdbd::{CtdbFiles, CtdbPlaces, CtdbSetup, LogLevel, LogPlace};

use super::check::Purpose;
use super::ctdb_files;
use super::diagnostic::{Diagnostic, Diagnostics, Source};
use super::files::Files;
use super::machine::Machine;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// In CTDB's directory, and ours: one line, a directory.
const LOCK_RECORDS: &str = "lock_records";

/// Where CTDB's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// CTDB's directory.
    pub base: PathBuf,
    /// `/`; a test's directory in its place.
    pub root: PathBuf,
}

/// What was done with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Did {
    /// It is in the new file.
    Taken,
    /// There is nothing here that it could set.
    NoMeaning,
    /// It has a meaning that only the operator can carry over.
    ToDo,
    /// Not one of CTDB's.
    Unknown,
}

/// A line of CTDB's files (or a whole file), and what was done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The file.
    pub file: PathBuf,
    /// From 1; 0 for the whole file.
    pub line: usize,
    /// As it stands there.
    pub text: String,
    /// What was done.
    pub did: Did,
    /// Taken as what, without a meaning why, to do what.
    pub says: String,
}

/// The new file and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Text of `steadfast.toml`; it has passed the check.
    pub config: String,
    /// Every line of every file, in order.
    pub lines: Vec<Line>,
    /// What CTDB's files do not say and was made up, and what the check warns of.
    pub notes: Vec<String>,
}

/// A line of CTDB's list of nodes.
#[derive(Debug)]
struct Listed {
    /// None for a removed node.
    address: Option<IpAddr>,
    /// What a removed node's line says of its address.
    removed: Option<IpAddr>,
    /// File and line.
    place: String,
}

/// What is known of the cluster so far.
#[derive(Debug, Default)]
struct Found {
    nodes: Vec<Listed>,
    vips: Vec<(IpAddr, u8, String, String)>,
    lock: Option<String>,
    /// Where on the shared filesystem the records of a lock lie that is a command: ours, beside CTDB's files.
    lock_records: Option<PathBuf>,
    fail_back_never: bool,
    /// Public addresses are given to nobody.
    no_failover: bool,
    samba: bool,
    nfs: bool,
    smb_unit: Option<String>,
    events: Events,
    nodes_file: Option<PathBuf>,
    public_file: Option<PathBuf>,
    /// The file of public addresses that was read.
    public_read: Option<PathBuf>,
    /// Names in lower case, as they were first given: the first counts for CTDB's newest style.
    conf: BTreeMap<(String, String), Setting>,
    tunables: Vec<(String, u32)>,
}

/// A setting of `ctdb.conf`, or the older name of one.
#[derive(Clone, Debug)]
struct Setting {
    value: String,
    source: Arc<Source>,
    at: usize,
}

/// All that CTDB's files say.
#[derive(Debug)]
struct Gathered {
    found: Found,
    lines: Vec<Line>,
    hosts: String,
    mounts: String,
}

/// Of CTDB's event scripts.
#[derive(Debug, Default)]
struct Events {
    /// Those in `events/legacy` that are enabled, without `.script`.
    enabled: BTreeSet<String>,
    /// CTDB's directory, where it is not the usual one.
    base: Option<PathBuf>,
    /// Is one of them run?
    run: bool,
    /// Keys and numbers for `[events]`.
    numbers: BTreeMap<&'static str, u32>,
    debug_script: Option<PathBuf>,
}

/// Reads all files and makes one.
///
/// # Errors
/// All that cannot be read or is wrong, with file and line; then nothing is given out.
pub fn import(places: &Places, machine: &Machine) -> Result<Imported, Diagnostics> {
    let Gathered { found, lines, hosts, mounts } = gather(places, machine, false)?;
    let (config, mut notes) = write::write(&found, &hosts, &mounts, None);
    let source = Source::new(Path::new("steadfast.toml"), config.clone());
    let checked = super::checked(&source.path, &source, machine, Purpose::Inspect, &mut Files::default())?;
    notes.extend(checked.warnings.lines());
    Ok(Imported { config, lines, notes })
}

/// Reads all files. `as_ctdbd`: what ctdbd does not start with is an error.
fn gather(places: &Places, machine: &Machine, as_ctdbd: bool) -> Result<Gathered, Diagnostics> {
    let mut import = Import {
        places,
        files: Files::default(),
        problems: Diagnostics::default(),
        lines: Vec::new(),
        found: Found::default(),
        seen: BTreeMap::new(),
        as_ctdbd,
    };
    import.enabled_scripts();
    import.settings();
    import.lock_records();
    import.events();
    import.nodes(machine);
    import.public_addresses(machine);
    import.others();
    if import.problems.has_errors() {
        return Err(import.problems);
    }
    let hosts = import.system_file("/etc/hosts").map(|s| s.text.clone()).unwrap_or_default();
    let mounts = import.system_file("/proc/mounts").map(|s| s.text.clone()).unwrap_or_default();
    Ok(Gathered { found: import.found, lines: import.lines, hosts, mounts })
}

struct Import<'a> {
    places: &'a Places,
    files: Files,
    problems: Diagnostics,
    lines: Vec<Line>,
    found: Found,
    /// Settings that can stand in several files: which line has decided.
    seen: BTreeMap<&'static str, String>,
    as_ctdbd: bool,
}

impl Import<'_> {
    /// A file of CTDB's; `None` when it is not there. Anything else that keeps it from being read is a problem.
    fn file(&mut self, path: &Path) -> Option<Arc<Source>> {
        match self.files.read(path) {
            Ok(source) => Some(source),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                let help = "make it a text file that root can read, or move it away if CTDB does not use it, and run this again";
                let title = format!("{} cannot be read: {error}", path.display());
                self.problems.push(Diagnostic::error(title).help(help));
                None
            }
        }
    }

    /// An absolute path that CTDB's files name.
    fn absolute(&self, path: &Path) -> PathBuf {
        self.places.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn system_file(&mut self, path: &str) -> Option<Arc<Source>> {
        let path = self.absolute(Path::new(path));
        // without it nothing is missing: nodes get numbers as names, and the mount is left to the operator
        self.files.read(&path).ok()
    }

    fn line(&mut self, source: &Source, at: usize, did: Did, says: impl Into<String>) {
        let line = source.line(at);
        let text = source.text.lines().nth(line.saturating_sub(1)).unwrap_or("").trim().to_owned();
        self.lines.push(Line { file: source.path.clone(), line, text, did, says: says.into() });
    }

    fn whole(&mut self, path: &Path, did: Did, says: impl Into<String>) {
        self.lines.push(Line { file: path.to_path_buf(), line: 0, text: String::new(), did, says: says.into() });
    }

    /// Comments say nothing to a program; that they were seen is said in one line.
    fn comments(&mut self, source: &Source, count: usize) {
        if count > 0 {
            let s = if count == 1 { "" } else { "s" };
            self.whole(&source.path, Did::NoMeaning, format!("{count} comment or empty line{s}"));
        }
    }

    /// What CTDB has no word for: the directory that all nodes share, for what a lock that is a command cannot keep.
    fn lock_records(&mut self) {
        let path = self.places.base.join(LOCK_RECORDS);
        let Some(source) = self.file(&path) else { return };
        let text = source.text.clone();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let value = line.trim();
            if !value.is_empty() && !value.starts_with('#') {
                if self.found.lock_records.is_some() {
                    self.line(&source, at, Did::NoMeaning, "one directory has been named, and counts");
                } else if value.starts_with('/') && !Path::new(value).components().any(|c| c == Component::ParentDir) {
                    self.line(&source, at, Did::Taken, "[cluster] lock_records, for a lock that is a command");
                    self.found.lock_records = Some(value.into());
                } else {
                    let title = format!("`{value}` cannot be the directory of the lock's records");
                    let help = "write the full path of a directory that all nodes share";
                    let end = at + line.trim_end().len();
                    self.problems.push(Diagnostic::error(title).at(&source, at..end, "").help(help));
                }
            }
            at += line.len();
        }
    }

    fn nodes(&mut self, machine: &Machine) {
        let path = self.found.nodes_file.clone().unwrap_or_else(|| self.places.base.join("nodes"));
        let Some(source) = self.file(&path) else {
            if !self.problems.has_errors() {
                let diagnostic = Diagnostic::error(format!("there is no {}", path.display())).help(if self.as_ctdbd {
                    "write the private address of each node into it, one per line and the same on all nodes, or set \
                         CTDB_BASE to the directory that has it"
                } else {
                    "CTDB's list of nodes, one address per line, is needed: run this on a node of the cluster, or name \
                         the directory of its files with --base DIR"
                });
                self.problems.push(diagnostic);
            }
            return;
        };
        let nodes = ctdb_files::nodes(&source, machine.loopback, &mut self.problems);
        if nodes.iter().all(|n| n.address.is_none()) && !self.problems.has_errors() {
            let diagnostic = Diagnostic::error(format!("{} lists no node", path.display())).help(
                "write the private address of each node into it, one per line, as CTDB wants it, and run this again",
            );
            self.problems.push(diagnostic);
        }
        let empty = source.text.lines().filter(|l| l.trim().is_empty()).count();
        for (pnn, node) in nodes.into_iter().enumerate() {
            let says = match node.address {
                Some(_) => format!("node {pnn}: [[node]]"),
                None => format!("node {pnn}, removed, keeps its number: [[node]] removed = true"),
            };
            let place = format!("{}:{}", path.display(), source.line(node.span.start));
            self.line(&source, node.span.start, Did::Taken, says);
            self.found.nodes.push(Listed { address: node.address, removed: node.removed, place });
        }
        self.comments(&source, empty);
    }

    fn public_addresses(&mut self, machine: &Machine) {
        let path = self.found.public_file.clone().unwrap_or_else(|| self.places.base.join("public_addresses"));
        if self.found.no_failover {
            return self.whole(&path, Did::NoMeaning, "left out: [failover] disabled");
        }
        let Some(source) = self.file(&path) else {
            if self.found.public_file.is_some() && !self.problems.has_errors() {
                let title = format!("there is no {}, where CTDB_PUBLIC_ADDRESSES says", path.display());
                let help = "put the file there, or remove the setting if this node has no public addresses, and run this again";
                self.problems.push(Diagnostic::error(title).help(help));
            }
            self.whole(&path, Did::NoMeaning, "not there: this node has no public addresses");
            return;
        };
        self.found.public_read = Some(path.clone());
        for vip in ctdb_files::public_addresses(&source, &mut self.problems) {
            let here = vip.interfaces.iter().find(|i| machine.interfaces.contains(*i));
            let interface = here.or_else(|| vip.interfaces.first()).cloned().unwrap_or_default();
            let mut says = format!("[[vip]] on {interface}, for all nodes");
            if vip.interfaces.len() > 1 {
                says.push_str("; one interface per node here: bond the others, or write `interfaces` by node");
            }
            let place = format!("{}:{}", path.display(), source.line(vip.span.start));
            self.line(&source, vip.span.start, Did::Taken, says);
            self.found.vips.push((vip.address, vip.prefix_len, interface, place));
        }
        let rest = source.text.lines().filter(|l| l.trim().is_empty() || l.trim().starts_with('#')).count();
        self.comments(&source, rest);
    }

    /// Which event scripts are run by their executable bit; their options are read by themselves.
    fn enabled_scripts(&mut self) {
        let base = &self.places.base;
        // What cannot be read is a problem when each script is looked at.
        let scripts = services::events::list(base).unwrap_or_default();
        self.found.events.enabled = scripts.into_iter().filter(|s| s.enabled).map(|s| s.name).collect();
        self.found.events.base = (base != Path::new("/etc/ctdb")).then(|| base.clone());
    }

    /// Event scripts that are enabled: executable, in `events/legacy` or (to 4.8) in `events.d`.
    fn events(&mut self) {
        for (folder, by_bit) in [("events/legacy", true), ("events.d", false)] {
            for path in self.entries(&self.places.base.join(folder)) {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                if name.ends_with(".options") {
                    continue;
                }
                let base = name.strip_suffix(".script").unwrap_or(&name);
                let enabled = std::fs::metadata(&path).map(|m| m.permissions().mode() & 0o111 != 0);
                let (did, says) = match enabled {
                    Err(error) if std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) => {
                        // CTDB's package is gone, or this is a copy of its directory: the link was the switch
                        let (did, says) = self.script(base, by_bit);
                        (did, format!("{says} (its script cannot be looked at here: {error})"))
                    }
                    Err(error) => (Did::Unknown, format!("cannot be looked at: {error}")),
                    Ok(false) => (Did::NoMeaning, "not executable: CTDB does not run it either".into()),
                    Ok(true) => self.script(base, by_bit),
                };
                self.whole(&path, did, says);
            }
        }
    }

    fn script(&mut self, base: &str, by_bit: bool) -> (Did, String) {
        match base {
            "50.samba" | "60.nfs" | "60.ganesha" if !by_bit => {
                (Did::NoMeaning, "here always executable; CTDB_MANAGES_... decides".into())
            }
            "50.samba" => {
                self.found.samba = true;
                (Did::Taken, "[samba] enabled = true, clustering = true".into())
            }
            "60.nfs" | "60.ganesha" => {
                self.found.nfs = true;
                (Did::Taken, format!("[nfs] enabled = true; {}", meaning::NFS))
            }
            _ if by_bit && self.found.events.enabled.contains(base) => {
                if let Some(why) = services::events::BuiltIn::default().refuses(base) {
                    return (Did::NoMeaning, format!("built in, and not run: {why}"));
                }
                self.found.events.run = true;
                (Did::Taken, "[events] enabled = true: it is run as it is, with CTDB's events and arguments".into())
            }
            _ => meaning::script(base),
        }
    }

    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let read: std::io::Result<BTreeSet<PathBuf>> =
            std::fs::read_dir(folder).and_then(|d| d.map(|e| e.map(|e| e.path())).collect());
        match read {
            Ok(entries) => entries.into_iter().collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let title = format!("{} cannot be read: {error}", folder.display());
                self.problems
                    .push(Diagnostic::error(title).help("make it readable (run this as root) and run this again"));
                Vec::new()
            }
        }
    }

    /// What else lies in the directory: said, so that nobody believes that it was looked into.
    fn others(&mut self) {
        let known: BTreeSet<PathBuf> = self.lines.iter().map(|l| l.file.clone()).collect();
        for path in self.entries(&self.places.base.clone()) {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if known.contains(&path) || (meaning::is_read(&name) && path.is_dir()) {
                continue;
            }
            if meaning::is_read(&name) {
                self.whole(&path, Did::NoMeaning, "empty, or not used because a setting names another file");
                continue;
            }
            let (did, says) = meaning::other_file(&name);
            self.whole(&path, did, says);
        }
    }
}
