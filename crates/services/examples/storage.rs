//! Runs the storage helpers and checks of this crate by hand, without a cluster:
//!
//!     storage helper KIND ARGS...                     what the daemon starts as a child
//!     storage check-storage [--json] [--rounds N] [--increments N] NAME=DIR[=COMMAND]...
//!                                                     coherence between mounts; COMMAND (with arguments) goes before
//!                                                     the helper, e.g. `nsenter -t PID -a` to run it in a container
//!
//! The crate's tests use it for the same purpose.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use services::storage::check::{ChildPeer, Peer, Plan, run};
use services::storage::{HelperCommand, helper};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, rest)) if first == "helper" => helper::run(rest),
        Some((first, rest)) if first == "check-storage" => check(rest),
        _ => {
            eprintln!(
                "usage: storage helper KIND ARGS... | check-storage [--json] [--rounds N] [--increments N] NAME=DIR..."
            );
            ExitCode::from(2)
        }
    }
}

fn check(args: &[String]) -> ExitCode {
    let mut plan = Plan::default();
    let (mut json, mut nodes) = (false, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok());
        match arg.as_str() {
            "--json" => json = true,
            "--rounds" => plan.rounds = number().unwrap_or(plan.rounds),
            "--increments" => plan.increments = number().unwrap_or(plan.increments),
            _ => nodes.push(arg.clone()),
        }
    }
    let own = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let peer = |arg: &String| {
        let mut parts = arg.splitn(3, '=');
        let (name, dir) = (parts.next()?, parts.next()?);
        let mut words = parts.next().unwrap_or_default().split_whitespace();
        let command = match words.next() {
            Some(program) => words.fold(HelperCommand::new(program), HelperCommand::arg),
            None => HelperCommand::new(&own),
        };
        Some(Arc::new(ChildPeer::new(name, &command.arg("helper"), Path::new(dir))) as Arc<dyn Peer>)
    };
    let Some(peers) = nodes.iter().map(peer).collect::<Option<Vec<_>>>() else {
        eprintln!("a node is given as NAME=DIR or NAME=DIR=COMMAND");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let report = runtime.block_on(run(peers, &plan));
    match serde_json::to_string_pretty(&report) {
        Ok(text) if json => println!("{text}"),
        _ => println!("{report}"),
    }
    if report.coherent() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
