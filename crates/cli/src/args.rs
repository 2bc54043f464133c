//! The command line: what there is to say, and the texts of `--help`, completions and man pages.

use clap::{Args, Parser, Subcommand};
use node::admin::api::SOCKET;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

const AFTER_HELP: &str = "\
Exit codes:
  0  it worked (status: the cluster is healthy)
  1  it did not; the text says why and what to do
  2  the command line is wrong
  3  status: the cluster is not healthy
  4  the daemon on this node does not answer

Start with `steadfast status`. The manual is in docs/commands.md.";

/// One NFS and SMB service from several servers.
#[derive(Debug, Parser)]
#[command(name = "steadfast", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Cli {
    /// Admin socket of the daemon on this node
    #[arg(long, global = true, default_value = SOCKET, env = "STEADFAST_SOCKET", value_name = "PATH")]
    pub(crate) socket: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where this node's files are.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Configuration file
    #[arg(long, default_value = node::config::DEFAULT_PATH, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Which node of the list this is, when its addresses do not tell
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Directory of this node's votes, certificates and timeline
    #[arg(long, default_value = node::state::DEFAULT_DIR, value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
}

/// For programs.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Json {
    /// Print JSON for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cluster at a glance: nodes, addresses, and why anything is not OK
    Status {
        /// Show it again whenever it changes
        #[arg(long, short)]
        watch: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show the public addresses: who holds them, and why there
    Ip {
        #[command(flatten)]
        json: Json,
    },
    /// Show the nodes: state, services, warnings
    Nodes {
        #[command(flatten)]
        json: Json,
    },
    /// Show the timeline: what happened, and why
    Events {
        /// Go on with what happens next
        #[arg(long, short)]
        follow: bool,
        /// How many past events; 0 = all that are kept
        #[arg(long, short = 'n', default_value_t = 50, value_name = "N")]
        last: usize,
        #[command(flatten)]
        json: Json,
    },
    /// Move all addresses off a node, one by one; its services run on
    Drain {
        #[command(flatten)]
        target: Target,
        /// Do not wait until clients have forgotten what DNS told them
        #[arg(long)]
        now: bool,
        /// Also a node that has the only good copy of what waits to be healed
        #[arg(long)]
        yes: bool,
        /// Do not wait until the node holds no address
        #[arg(long)]
        no_wait: bool,
    },
    /// End a drain: the node may host addresses again
    Resume {
        #[command(flatten)]
        target: Target,
    },
    /// Move all addresses off a node and stop its services
    Stop {
        #[command(flatten)]
        target: Target,
        /// Also a node that has the only good copy of what waits to be healed
        #[arg(long)]
        yes: bool,
        /// Do not wait until the node holds no address
        #[arg(long)]
        no_wait: bool,
    },
    /// End a stop or a ban: the node serves again
    Continue {
        #[command(flatten)]
        target: Target,
    },
    /// As stop, for a node that misbehaves; `continue` lifts it
    Ban {
        /// Name or number of the node
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        json: Json,
    },
    /// Move one address to a node
    MoveIp {
        /// The public address
        #[arg(value_name = "ADDRESS")]
        vip: IpAddr,
        /// Name or number of the node
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        json: Json,
    },
    /// Begin a new cluster with this node as its first
    Init {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        json: Json,
    },
    /// Make a one-time token for a node that is to join
    Token {
        #[command(flatten)]
        place: Place,
        /// Name of the node that may use it; any by default
        #[arg(long = "for", value_name = "NAME")]
        joins: Option<String>,
        /// How long it is good for: a number with s, m, h or d
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        life: Duration,
        #[command(flatten)]
        json: Json,
    },
    /// Join a cluster with a token that a member made
    Join {
        /// What `steadfast token` printed
        token: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        json: Json,
    },
    /// Go on with this node alone when the others are gone for good (may lose data)
    ForceView {
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Why, for the timeline
        #[arg(long, default_value = "the other voters are gone for good", value_name = "TEXT")]
        because: String,
        #[command(flatten)]
        json: Json,
    },
    /// Check whether the shared mount is coherent between the members
    CheckStorage {
        /// Increments per node in the counter test
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        rounds: Option<u32>,
        #[command(flatten)]
        json: Json,
    },
    /// Make a fault on purpose and measure what clients see of it
    Drill {
        /// power-off, leader-power-off, daemon-killed, daemon-stopped, public-link-down, private-link-down,
        /// service-killed, service-hung, mount-hung, drain, rejoin
        fault: drill::Fault,
        #[command(flatten)]
        options: DrillOptions,
    },
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make a configuration from CTDB's files, and say what became of each of their lines
    ImportCtdb {
        #[command(flatten)]
        options: ImportOptions,
        #[command(flatten)]
        json: Json,
    },
    /// The names that clients use
    #[command(subcommand)]
    Dns(DnsCommand),
    /// Make the daemon read its configuration again
    Reload {
        #[command(flatten)]
        json: Json,
    },
    /// Run the daemon in the foreground (what the systemd unit does)
    Daemon {
        #[command(flatten)]
        place: Place,
        /// Directory of the admin socket
        #[arg(long, default_value = node::daemon::DEFAULT_RUN_DIR, value_name = "DIR")]
        run_dir: PathBuf,
        /// Log file instead of the journal or standard error
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// Parts to leave out, for tests only (crates/node/src/daemon/without.rs)
        #[arg(long, hide = true, value_delimiter = ',', value_name = "PARTS")]
        without: Vec<node::daemon::Without>,
    },
    /// Show the versions of this program and of the running daemon
    Version {
        #[command(flatten)]
        json: Json,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// The directory; it is made if missing
        dir: PathBuf,
    },
    /// One request line of the admin protocol, answers as they come
    #[command(hide = true)]
    Ask {
        /// JSON, as in crates/node/src/admin/api.rs
        request: String,
    },
    /// Processes that the daemon starts
    #[command(hide = true)]
    Helper {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// A node to act on.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Name or number of the node; this one by default
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// How a drill is done.
#[derive(Clone, Debug, Args)]
pub(crate) struct DrillOptions {
    /// Name or number of the node that it hits; not this one
    #[arg(long, value_name = "NODE")]
    pub(crate) on: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Also when the cluster has a fault already
    #[arg(long)]
    pub(crate) force: bool,
    /// Clients to play
    #[arg(long, value_delimiter = ',', default_value = "ping,tcp,nfs3,nfs4,smb", value_name = "LIST")]
    pub(crate) protocols: Vec<String>,
    /// NFS export that the clients write to
    #[arg(long, value_name = "PATH")]
    pub(crate) export: Option<String>,
    /// Directory of the export that everybody may write to
    #[arg(long, default_value = "", value_name = "PATH")]
    pub(crate) directory: String,
    /// SMB share that the client writes to
    #[arg(long, value_name = "NAME")]
    pub(crate) share: Option<String>,
    /// SMB user
    #[arg(long, default_value = "guest", value_name = "NAME")]
    pub(crate) user: String,
    /// File with the SMB user's password
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// How to run a command on the node; {node} and {address} are filled in
    #[arg(long, default_value = "ssh -o BatchMode=yes -o ConnectTimeout=5 root@{address}", value_name = "COMMAND")]
    pub(crate) via: String,
    /// Cuts the node's power; {node} and {address} are filled in
    #[arg(long, value_name = "COMMAND")]
    pub(crate) power_off: Option<String>,
    /// Gives the node's power back
    #[arg(long, value_name = "COMMAND")]
    pub(crate) power_on: Option<String>,
    /// Seconds to wait for clients and cluster to recover
    #[arg(long, default_value_t = 90, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..=600))]
    pub(crate) patience: u64,
    /// Write the timeline to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// Where CTDB's files are and where ours goes.
#[derive(Debug, Args)]
pub(crate) struct ImportOptions {
    /// CTDB's directory
    #[arg(long, default_value = "/etc/ctdb", env = "CTDB_BASE", value_name = "DIR")]
    pub(crate) base: PathBuf,
    /// Write this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Overwrite the file
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what is wrong with a configuration file: line, problem, what to write instead
    Check {
        /// The file
        #[arg(default_value = node::config::DEFAULT_PATH)]
        file: PathBuf,
        /// Look at it as this node of the list
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show the configuration as the daemon understands it, defaults filled in
    Show {
        /// The file
        #[arg(default_value = node::config::DEFAULT_PATH)]
        file: PathBuf,
        /// Look at it as this node of the list
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DnsCommand {
    /// Print the zone as plain text, as this node answers now, for a static server
    Zone {
        #[command(flatten)]
        json: Json,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time: write a number with s, m, h or d, such as 90m");
    let (number, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(seconds) {
        Some(all) if (1..=30 * 86_400).contains(&all) => Ok(Duration::from_secs(all)),
        _ => Err(format!("'{text}' is not between 1s and 30d")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times() {
        assert_eq!(duration("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["", "1", "h", "0s", "31d", "-1h", "1.5h", "1é", "99999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_that_answers_has_json() {
        let without = ["daemon", "completions", "man", "ask", "helper", "help"];
        fn check(command: &clap::Command, without: &[&str]) {
            for sub in command.get_subcommands().filter(|c| !without.contains(&c.get_name())) {
                let leaf = sub.get_subcommands().next().is_none();
                let json = sub.get_arguments().any(|a| a.get_id() == "json");
                assert!(json || !leaf, "{} has no --json", sub.get_name());
                check(sub, without);
            }
        }
        check(&Cli::command(), &without);
    }

    #[test]
    fn the_manual_names_every_command_and_exit_code() {
        let manual = include_str!("../../../docs/commands.md");
        fn check(command: &clap::Command, prefix: &str, manual: &str) {
            for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                let name = format!("{prefix} {}", sub.get_name());
                assert!(manual.contains(&format!("`{name}")), "docs/commands.md does not name `{name}`");
                check(sub, &name, manual);
            }
        }
        check(&Cli::command(), "steadfast", manual);
        for code in 0..=4 {
            assert!(manual.contains(&format!("| {code} |")), "exit code {code} is not in docs/commands.md");
        }
    }
}
