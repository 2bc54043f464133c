//! A node from CTDB's files alone: what a program that is called `ctdbd` does.
//!
//! ```text
//!   CTDB's files ──> CtdbFiles ──> which node is this? ──> certificates ──> the daemon, as always
//!                                  (address)               loopback: made here, prove nothing
//!                                                          else: those of `steadfast init` and `join`
//! ```
//!
//! What is CTDB's is where CTDB has it: the socket, the pid file, the databases, the log. What is ours (votes,
//! certificates, the admin socket) is beside it in CTDB's test mode, and else where it always is.

mod address;
mod pid;

use crate::config::{CtdbFiles, CtdbPlaces, CtdbSetup, Diagnostics, LogLevel, LogPlace, Machine};
use crate::daemon::{DEFAULT_RUN_DIR, Options, Origin};
use crate::log;
use crate::pki::{PkiDir, PkiError, loopback};
use crate::state::DEFAULT_DIR;
use pid::PidFile;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// How it runs.
#[derive(Clone, Copy, Debug)]
pub enum Manner {
    /// In the foreground: the log goes to standard error.
    Interactive,
    /// In the background: the log goes where CTDB's files say. The function is called once the sockets are there.
    Detached(fn()),
}

/// Why it did not run, or not to a good end.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What, where, what now.
    pub text: String,
    /// It stands in a log that goes to standard error.
    pub said: bool,
}

impl Failure {
    fn new(text: impl ToString) -> Self {
        Self { text: text.to_string(), said: false }
    }

    fn files(problems: &Diagnostics) -> Self {
        Self::new(format!("CTDB's files cannot be used as they are\n{}", problems.render(false)))
    }
}

/// Runs until it is told to end.
///
/// # Errors
/// CTDB's files cannot be used; another daemon has the pid file or the address; there are no certificates; or what keeps
/// every daemon from starting.
pub fn run(places: &CtdbPlaces, manner: Manner) -> Result<(), Failure> {
    let machine = Machine::probe(None)
        .map_err(|e| Failure::new(format!("cannot tell this machine's addresses and interfaces: {e}")))?;
    let files = CtdbFiles::read(places, &machine).map_err(|problems| Failure::files(&problems))?;
    // Before the address: a second daemon of the same directory could otherwise become another node.
    let pid_file = PidFile::take(&places.pid_file()).map_err(Failure::new)?;
    let trial = files.loopback();
    let claim = address::claim(&files, places).map_err(Failure::new)?;
    let CtdbSetup { config, log, level, begin, ignored } =
        files.setup(claim.address(), &machine).map_err(|problems| Failure::files(&problems))?;
    let (state_dir, run_dir) = own_places(places, trial);
    let mut notes: Vec<String> = ignored
        .iter()
        .map(|line| format!("{}:{}: {} has no effect: {}", line.file.display(), line.line, line.text, line.says))
        .collect();
    if config.databases.as_ref().is_some_and(|databases| !databases.leads) {
        notes.push(
            "`leader capability = false`: clients are told of another leader, but this node leads the view, which decides \
             about addresses and recoveries, while it is the member with the longest service"
                .into(),
        );
    }
    if trial {
        let founds = config.nodes.keys().next() == Some(&config.me);
        loopback(&state_dir, config.me, &config.this_node().name, founds).map_err(Failure::new)?;
        notes.push(
            "all nodes are on loopback addresses, so this is a trial on one machine: the nodes take each other without \
             certificates, any process on this machine could pass for one, and public addresses are put on no interface"
                .into(),
        );
    } else {
        certified(places, &state_dir, claim.address()).map_err(Failure::new)?;
    }
    let (log, ready) = match manner {
        Manner::Interactive => (log::Place::Stderr, None),
        Manner::Detached(ready) => (log_place(log)?, Some(ready)),
    };
    let options = Options {
        origin: Origin::Ctdb { places: places.clone(), address: claim.address() },
        state_dir,
        run_dir,
        log,
        filter: filter(level),
        without: Vec::new(),
        trial,
        begin: Some(begin),
        until_stdin: places.test,
        ready,
        notes,
    };
    let said = options.log == log::Place::Stderr;
    let result = crate::daemon::run(&options);
    drop(pid_file);
    result.map_err(|error| Failure { text: format!("{error:#}"), said })
}

/// State directory and run directory.
fn own_places(places: &CtdbPlaces, trial: bool) -> (PathBuf, PathBuf) {
    match (places.test, trial) {
        (true, _) => (places.base.join("steadfast"), places.run_dir()),
        // A trial must not meet the votes of a real node.
        (false, true) => (PathBuf::from(DEFAULT_DIR).join("loopback"), DEFAULT_RUN_DIR.into()),
        (false, false) => (DEFAULT_DIR.into(), DEFAULT_RUN_DIR.into()),
    }
}

/// Other machines are talked to under real certificates only.
fn certified(places: &CtdbPlaces, state_dir: &Path, address: IpAddr) -> Result<(), String> {
    let pki = PkiDir::in_state_dir(state_dir);
    let why = match pki.credentials() {
        Ok(found) if !found.identity.cluster.is_loopback() => return Ok(()),
        Ok(_) => "the certificate there is of a trial on loopback addresses".to_owned(),
        Err(PkiError::NoCluster { .. }) => format!("there is none in {}", pki.path().display()),
        Err(error) => return Err(error.to_string()),
    };
    // `init` and `join` go to the usual place by themselves.
    let at = if state_dir == Path::new(DEFAULT_DIR) {
        String::new()
    } else {
        format!(" --state-dir {}", state_dir.display())
    };
    Err(format!(
        "{}/nodes lists addresses of other machines (this one is {address}), and nodes without certificates are refused: {why}. \
         On the first node run `steadfast import-ctdb --base {0} --output /etc/steadfast/steadfast.toml` and `steadfast \
         init{at}`; on each other one `steadfast join{at} TOKEN`, with a token of `steadfast token{at}` on the first; then \
         start ctdbd again. Only nodes that are all on loopback addresses (127.0.0.0/8, ::1) go without",
        places.base.display()
    ))
}

fn log_place(place: LogPlace) -> Result<log::Place, Failure> {
    let LogPlace::File(path) = place else { return Ok(log::Place::Syslog("ctdbd")) };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| {
            Failure::new(format!(
                "cannot make {}, the directory of the log: {e}; make it, or name another file in ctdb.conf: [logging] \
                 location = file:/PATH",
                dir.display()
            ))
        })?;
    }
    Ok(log::Place::File(path))
}

fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warning => "warn",
        LogLevel::Info => log::DEFAULT_FILTER,
        LogLevel::Debug => "debug,hickory_server=warn,hickory_proto=warn,rustls=warn",
    }
}
