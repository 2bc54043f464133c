//! The `ctdbd` command: what this program is when it is called by that name.
//!
//! A node that runs from CTDB's files alone, with the options of CTDB's own daemon. See docs/ctdbd.md.

use node::config::CtdbPlaces;
use node::ctdbd::{Manner, run as serve};
use rustix::stdio::{dup2_stderr, dup2_stdout};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const HELP: &str = "Usage: ctdbd [OPTION...]
  -i, --interactive     don't fork, log to stderr
  -V, --version         print the version

Help options:
  -?, --help            Show this help message
      --usage           Display brief usage message

A Steadfast node from the files in $CTDB_BASE (/etc/ctdb): ctdb.conf, nodes, public_addresses, ctdb.tunables,
script.options. With $CTDB_TEST_MODE set, socket, pid file, log and databases are below $CTDB_BASE, and the daemon
ends when its standard input, a pipe, is closed.
";

const USAGE: &str = "Usage: ctdbd [-i|--interactive] [-V|--version] [-?|--help] [--usage]\n";

/// Said to this program by itself only.
const DETACHED: &str = "--detached";
/// How long a daemon in the background may take until it answers at its socket.
const READY: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

enum Line {
    Background,
    Interactive,
    Detached,
    Print(String),
    Wrong(String),
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Line {
    let mut line = Line::Background;
    for arg in args {
        line = match &*arg.to_string_lossy() {
            "-i" | "--interactive" => Line::Interactive,
            DETACHED => Line::Detached,
            "-?" | "-h" | "--help" => return Line::Print(HELP.to_owned()),
            "--usage" => return Line::Print(USAGE.to_owned()),
            "-V" | "--version" => return Line::Print(format!("Steadfast {} as ctdbd\n", node::VERSION)),
            other => {
                return Line::Wrong(format!(
                    "there is no option {other}: what CTDB's older daemons took as options stands in ctdb.conf\n{USAGE}"
                ));
            }
        };
    }
    line
}

/// Runs the command line; `name` is what this program was called, and `args` begins after it.
pub(crate) fn run(name: OsString, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = parse(args);
    let places = match &line {
        Line::Print(text) => {
            let printed = std::io::stdout().write_all(text.as_bytes());
            return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Line::Wrong(why) => return failed(why),
        Line::Background | Line::Interactive | Line::Detached => match places() {
            Ok(places) => places,
            Err(why) => return failed(&why),
        },
    };
    let manner = match line {
        Line::Background => return start(name, &places),
        Line::Detached => {
            // A session of its own: no terminal's end is the daemon's. It fails for one that has its own already.
            let _ = rustix::process::setsid();
            // No file system is kept busy.
            if let Err(error) = std::env::set_current_dir("/") {
                return failed(&format!("cannot change to the directory /: {error}"));
            }
            Manner::Detached(let_go)
        }
        _ => Manner::Interactive,
    };
    match serve(&places, manner) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.said => ExitCode::FAILURE,
        Err(failure) => failed(&failure.text),
    }
}

fn failed(why: &str) -> ExitCode {
    // Nobody is left to tell if this fails too.
    let _ = writeln!(std::io::stderr(), "ctdbd: {}", why.trim_end());
    ExitCode::FAILURE
}

fn places() -> Result<CtdbPlaces, String> {
    let test = std::env::var_os("CTDB_TEST_MODE").is_some();
    let base = match std::env::var_os("CTDB_BASE").filter(|base| !base.is_empty()) {
        Some(base) => PathBuf::from(base),
        None if test => {
            return Err(
                "CTDB_TEST_MODE is set and CTDB_BASE is not: set it to the directory of this daemon's files".into()
            );
        }
        None => "/etc/ctdb".into(),
    };
    let base = std::path::absolute(&base).map_err(|e| format!("cannot tell where {} is: {e}", base.display()))?;
    Ok(CtdbPlaces { base, test })
}

/// What was printed so far went to who started it; from now on there is the log.
fn let_go() {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let gone = null.and_then(|null| {
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        Ok(())
    });
    if let Err(error) = gone {
        // Who started it keeps on waiting for its output, no more.
        let _ = writeln!(std::io::stderr(), "ctdbd: standard output and error stay open: {error}");
    }
}

/// Starts the daemon in the background and waits until it answers.
fn start(name: OsString, places: &CtdbPlaces) -> ExitCode {
    let mut command = Command::new(name);
    command.arg(DETACHED).stdout(Stdio::null());
    // In the test mode it ends with its standard input.
    if !places.test {
        command.stdin(Stdio::null());
    }
    let mut daemon = match command.spawn() {
        Ok(daemon) => daemon,
        Err(error) => return failed(&format!("cannot start the daemon in the background: {error}; try ctdbd -i")),
    };
    let begun = Instant::now();
    while begun.elapsed() < READY {
        match daemon.try_wait() {
            Ok(None) if answers(places, &daemon) => return ExitCode::SUCCESS,
            Ok(None) => sleep(STEP),
            // It has said why.
            Ok(Some(_)) => return ExitCode::FAILURE,
            Err(error) => return failed(&format!("cannot tell what becomes of the daemon: {error}")),
        }
    }
    failed(&format!(
        "the daemon runs (pid {}), but does not answer at {} after {} s: its log says why",
        daemon.id(),
        places.socket().display(),
        READY.as_secs()
    ))
}

/// Does this very daemon answer at its socket?
fn answers(places: &CtdbPlaces, daemon: &Child) -> bool {
    let its = std::fs::read_to_string(places.pid_file()).is_ok_and(|pid| pid.trim() == daemon.id().to_string());
    its && UnixStream::connect(places.socket()).is_ok()
}
