//! The `ctdb` command: what this program is when it is called by that name.
//!
//! Commands, output and exit codes are those of CTDB's own tool (4.17), so that scripts go on; it talks to whichever
//! daemon answers on CTDB's socket. What differs and why: docs/ctdb-tool.md.

mod admin;
mod args;
mod backup;
mod commands;
mod context;
mod databases;
mod event;
mod helpers;
mod ip;
mod limit;
mod nodes;
mod out;
mod records;
mod statistics;
mod tickles;
mod time;
mod tunables;

use args::{Line, Options};
use commands::Run;
use context::Context;
use ctdb_client::{Client, Error};
use out::{Exit, FAILED, Out, Outcome, complain};
use std::ffi::OsString;
use std::process::ExitCode;

/// Seconds that a command may take, if nothing else is said.
const MAX_RUNTIME: i32 = 120;

/// Runs the command line; `args` begins after the program's name.
pub(crate) fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut out = Out::new();
    let outcome = match args::parse(args) {
        Line::Help => commands::help(&mut out),
        Line::Usage => commands::short_help(&mut out),
        Line::Wrong(why) => {
            complain!("Invalid option {why}");
            Err(FAILED)
        }
        Line::Command(options, words) => command(options, out, &words),
    };
    ExitCode::from(outcome.map_or_else(Exit::code, |()| 0))
}

fn command(options: Options, mut out: Out, words: &[OsString]) -> Outcome {
    let seconds = max_runtime(&options)?;
    let [name, args @ ..] = words else { return commands::everything(&mut out) };
    let name = name.to_string_lossy();
    let Some(run) = commands::find(&name) else {
        complain!("Unknown command '{name}'");
        return Err(FAILED);
    };
    limit::limit(seconds);
    let (run, anywhere) = match run {
        Run::Alone(_) if options.node != -1 => {
            complain!("Cannot specify node for command {name}");
            return Err(FAILED);
        }
        Run::Alone(run) => return run(&options, &mut out, args).and_then(|()| out.flush()),
        Run::Here(run) => (run, false),
        Run::There(run) => (run, true),
    };
    let mut ctx = connect(options, out)?;
    if let Ok(node) = u32::try_from(ctx.options.node) {
        ctx.choose_node(node)?;
    } else if ctx.options.node != -1 {
        complain!("Node {} does not exist", ctx.options.node.cast_unsigned());
        return Err(FAILED);
    }
    if !anywhere && ctx.node != ctx.pnn {
        complain!("Node cannot be specified for command {name}");
        return Err(FAILED);
    }
    let outcome = run(&mut ctx, args);
    let flushed = ctx.out.flush();
    outcome.and(flushed)
}

fn connect(options: Options, out: Out) -> Result<Context, Exit> {
    let socket = context::socket();
    let client = Client::connect(&socket).map_err(|error| {
        match &error {
            Error::Connect { source, .. } => {
                complain!("connect() failed, errno={}", source.raw_os_error().unwrap_or(0));
            }
            _ => complain!("{error}"),
        }
        complain!("Failed to connect to CTDB daemon ({})", socket.display());
        // Without a file of nodes there is nothing to compare this machine's addresses with.
        let here = nodes::nodes_file().map(|nodes| nodes.iter().any(nodes::is_here));
        if here == Ok(false) {
            complain!("Failed to detect PNN of the current node.");
        }
        if here != Ok(true) {
            complain!("Is this node part of CTDB cluster?");
        }
        FAILED
    })?;
    Ok(Context::new(options, out, client))
}

fn max_runtime(options: &Options) -> Result<i32, Exit> {
    if options.max_runtime != 0 {
        return Ok(options.max_runtime);
    }
    let Some(given) = std::env::var_os("CTDB_TIMEOUT") else { return Ok(MAX_RUNTIME) };
    let given = given.to_string_lossy();
    match args::prefix(&given) {
        (n, "") if !given.is_empty() => Ok(i32::try_from(n).unwrap_or(i32::MAX)),
        _ => {
            complain!("Invalid value CTDB_TIMEOUT");
            Err(FAILED)
        }
    }
}
