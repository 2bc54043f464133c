//! Commands that need no running daemon: beginning, tokens, joining, the configuration, documents, the daemon itself.

use crate::args::{Cli, Place};
use crate::exit::{Exit, Fail, output};
use crate::out;
use clap::{CommandFactory, Parser};
use node::config::{self, Config, Machine, Outcome};
use node::daemon::{Origin, Without};
use node::log;
use node::pki::{Ledger, PkiDir, Token};
use serde_json::json;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn init(place: &Place, as_json: bool) -> Result<(), Fail> {
    must_be_root()?;
    let config = load(place)?;
    let name = config.this_node().name.clone();
    let founded = node::pki::found(&place.state_dir, &config.cluster, config.me, &name)?;
    if as_json {
        let id = founded.identity.cluster.to_string();
        return out::json(&json!({"ok": true, "cluster": config.cluster, "id": id, "node": name}));
    }
    out::line(&format!(
        "{name} is the first node of cluster {}. Next:\n  systemctl enable --now steadfast    start it here\n  \
         steadfast token                     for each further node, then `steadfast join TOKEN` there",
        config.cluster
    ))
}

pub(super) fn token(
    place: &Place,
    socket: &Path,
    joins: Option<&str>,
    life: Duration,
    as_json: bool,
) -> Result<(), Fail> {
    must_be_root()?;
    let config = load(place)?;
    if let Some(unknown) = joins.filter(|name| config.node_named(name).is_none()) {
        return Err(Fail::Other(format!(
            "'{unknown}' is not in the nodes list of {}: add a [[node]] with that name and its addresses there, then \
             steadfast reload",
            place.config.display()
        )));
    }
    let port = config.control_port;
    let addresses: Vec<SocketAddr> = config.this_node().addresses.iter().map(|ip| (*ip, port).into()).collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| Fail::other("this node's clock is before 1970: set it first"))?
        .as_secs();
    let token = Ledger::new(PkiDir::in_state_dir(&place.state_dir)).issue(addresses, joins, now, life)?;
    if as_json {
        out::json(&json!({"ok": true, "token": token.to_string(), "expires": token.expires, "node": joins}))?;
    } else {
        out::line(&token.to_string())?;
        eprintln!(
            "Good once, for {} min, for {}. On the new node, as root: steadfast join TOKEN",
            life.as_secs().div_ceil(60),
            joins.unwrap_or("any node of the list")
        );
    }
    if UnixStream::connect(socket).is_err() {
        eprintln!("Start this node's daemon first: it is the one that answers. systemctl start steadfast");
    }
    Ok(())
}

pub(super) fn join(place: &Place, token: &str, as_json: bool) -> Result<(), Fail> {
    must_be_root()?;
    let token: Token = token.parse()?;
    // Without a configuration the member tells by the address who this is.
    let there = place
        .config
        .try_exists()
        .map_err(|e| Fail::Other(format!("cannot look for {}: {e}", place.config.display())))?;
    let name = match &place.node {
        Some(name) => Some(name.clone()),
        None if there => Some(load(place)?.this_node().name.clone()),
        None => None,
    };
    let joined = node::pki::join(&place.state_dir, &token, name.as_deref(), &place.config, node::VERSION)?;
    let name = &joined.identity.name;
    if as_json {
        return out::json(&json!({
            "ok": true,
            "node": name,
            "id": joined.identity.cluster.to_string(),
            "member": joined.member,
            "config_written": joined.config_written,
        }));
    }
    let written = joined.config_written.as_ref();
    let config = written.map_or_else(String::new, |path| format!(" The configuration is in {}.", path.display()));
    out::line(&format!(
        "{name} has its certificate from {}.{config} Next:\n  systemctl enable --now steadfast    it joins within \
         seconds\n  steadfast status",
        joined.member
    ))
}

pub(super) fn config_check(file: &Path, node: Option<String>, as_json: bool) -> Result<ExitCode, Fail> {
    let machine = machine(node)?;
    told(&config::check_file(file, &machine, colour_on_errors(as_json)), as_json)
}

pub(super) fn config_show(file: &Path, node: Option<String>, as_json: bool) -> Result<ExitCode, Fail> {
    let machine = machine(node)?;
    told(&config::show(file, &machine, colour_on_errors(as_json)), as_json)
}

fn told(outcome: &Outcome, as_json: bool) -> Result<ExitCode, Fail> {
    if as_json {
        out::json(&json!({"ok": outcome.code == 0, "text": outcome.text}))?;
    } else if outcome.code == 0 {
        out::print(&outcome.text)?;
    } else {
        eprint!("{}", outcome.text);
    }
    Ok(outcome.code.into())
}

pub(super) fn colour_on_errors(as_json: bool) -> bool {
    !as_json && std::io::IsTerminal::is_terminal(&std::io::stderr()) && out::style().colour
}

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Fail> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "steadfast", &mut text);
    out::print(&String::from_utf8_lossy(&text))
}

pub(super) fn man(dir: &Path) -> Result<(), Fail> {
    let cannot = |e: std::io::Error| Fail::Other(format!("cannot write the man pages into {}: {e}", dir.display()));
    std::fs::create_dir_all(dir).map_err(cannot)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(cannot)
}

pub(super) fn daemon(place: Place, run_dir: PathBuf, log: Option<PathBuf>, without: Vec<Without>) -> Exit {
    let Place { config, node, state_dir } = place;
    // The daemon has said why in its log already.
    let options = node::daemon::Options {
        origin: Origin::File { path: config, node },
        state_dir,
        run_dir,
        log: log.map_or(log::Place::Stderr, log::Place::File),
        filter: log::DEFAULT_FILTER,
        without,
        trial: false,
        begin: None,
        until_stdin: false,
        ready: None,
        notes: Vec::new(),
    };
    match node::daemon::run(&options) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failure,
    }
}

pub(super) fn helper(args: &[String]) -> Result<ExitCode, Fail> {
    if let Some(done) = super::drill::helper(args) {
        return done;
    }
    #[derive(Debug, Parser)]
    struct Where {
        #[command(flatten)]
        place: Place,
    }
    let work = match args.first().map(String::as_str) {
        Some("guard") => {
            let daemon = args.get(1).and_then(|pid| pid.parse().ok());
            return daemon
                .map(node::guard::run)
                .ok_or_else(|| Fail::other("only a daemon starts its guard: helper guard PID-OF-THE-DAEMON"));
        }
        Some("release-all") => node::daemon::release_all,
        Some("fence") => node::daemon::fence,
        _ => return Ok(services::storage::helper::run(args)),
    };
    let place = Where::try_parse_from(args).map_err(Fail::other)?.place;
    work(&place.config, place.node.as_deref(), &place.state_dir).map_err(|e| Fail::Other(format!("{e:#}")))?;
    Ok(Exit::Ok.into())
}

pub(super) fn load(place: &Place) -> Result<Config, Fail> {
    let machine = machine(place.node.clone())?;
    config::load(&place.config, &machine).map_err(|problems| {
        Fail::Other(format!("the configuration cannot be used\n{}", problems.render(colour_on_errors(false))))
    })
}

pub(super) fn machine(node: Option<String>) -> Result<Machine, Fail> {
    Machine::probe(node).map_err(|e| Fail::Other(format!("cannot read this machine's addresses and interfaces: {e}")))
}

fn must_be_root() -> Result<(), Fail> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Fail::Other("this needs root: it reads and writes the cluster's keys. Run it with sudo".into()))
    }
}

/// For `main`: whether standard output can be written at all is only known by trying.
pub(crate) fn help(error: &clap::Error) -> Result<(), Fail> {
    match error.print() {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(output(e)),
        _ => Ok(()),
    }
}
