//! The `steadfast` command: what people type, and the daemon's own entry points.
//!
//! It asks the daemon on this node over the admin socket and draws what it answers; it decides nothing itself. See
//! docs/commands.md.

mod args;
mod client;
mod ctdb;
mod ctdbd;
mod exit;
mod out;
mod render;
mod run;

use args::Cli;
use clap::Parser;
use exit::Fail;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let called = Path::new(&name).file_name().and_then(|name| name.to_str());
    match called {
        Some("ctdb") => return ctdb::run(args),
        Some("ctdbd") => return ctdbd::run(name, args),
        _ => {}
    }
    match Cli::try_parse() {
        Ok(cli) => run::run(cli).unwrap_or_else(|fail| failed(&fail)),
        Err(error) => match run::help(&error) {
            // 0 for --help and --version, 2 for a wrong command line.
            Ok(()) => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
            Err(fail) => failed(&fail),
        },
    }
}

fn failed(fail: &Fail) -> ExitCode {
    if !matches!(fail, Fail::ClosedPipe) {
        // Nobody is left to tell if this fails too.
        let _ = writeln!(std::io::stderr(), "steadfast: {fail}");
    }
    fail.exit().into()
}
