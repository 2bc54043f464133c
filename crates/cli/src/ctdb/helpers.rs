//! Commands that other programs carry out, and a look at a port.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, text};
use super::limit::{helper_ended, in_this_group};
use super::out::{Exit, FAILED, Out, Outcome, complain};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// Where Debian's package has the helper programs.
const DIRECTORY: &str = "/usr/libexec/ctdb";

/// Runs a helper program with this process's input and output and ends as it does.
fn run(what: &str, variable: &str, program: &str, args: &[OsString]) -> Outcome {
    let path = std::env::var_os(variable).map_or_else(|| Path::new(DIRECTORY).join(program), Into::into);
    let status = match in_this_group(Command::new(&path).args(args)).status() {
        Ok(status) => status,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(1);
            complain!("{what} failed with error {errno}");
            if error.kind() == ErrorKind::NotFound {
                complain!(
                    "{} is not installed: it comes with CTDB's package (Debian: ctdb), or set {variable}",
                    path.display()
                );
            } else {
                complain!("{}: {error}", path.display());
            }
            return Err(Exit(errno));
        }
    };
    helper_ended();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        // So the original's helpers tell an error of the system.
        (Some(code @ 64..255), _) => {
            complain!("{what} failed with error {}", code - 64);
            Err(Exit(code - 64))
        }
        (Some(code), _) => Err(Exit(code)),
        (None, signal) => {
            complain!("{what} terminated with signal {}", signal.unwrap_or(0));
            Err(Exit(4))
        }
    }
}

pub(super) fn natgw(ctx: &mut Context, args: &Args) -> Outcome {
    let [_] = args else { return usage(&mut ctx.out, "natgw") };
    run("NAT gateway helper", "CTDB_NATGW_HELPER", "ctdb_natgw", args)
}

pub(super) fn lvs(ctx: &mut Context, args: &Args) -> Outcome {
    let [_] = args else { return usage(&mut ctx.out, "lvs") };
    run("LVS helper", "CTDB_LVS_HELPER", "ctdb_lvs", args)
}

/// By ourselves, unless somebody wants the original's helper.
pub(super) fn event(out: &mut Out, args: &Args) -> Outcome {
    if std::env::var_os("CTDB_EVENT_HELPER").is_some() {
        return run("event daemon helper", "CTDB_EVENT_HELPER", "ctdb-event", args);
    }
    super::event::event(out, args)
}

pub(super) fn scriptstatus(out: &mut Out, args: &Args) -> Outcome {
    let which = match args {
        [] => "monitor".into(),
        [event] => event.clone(),
        _ => return usage(out, "scriptstatus"),
    };
    // How the scripts ended is what it prints, not how it ends.
    let _ = event(out, &["status".into(), "legacy".into(), which]);
    Ok(())
}

pub(super) fn checktcpport(out: &mut Out, args: &Args) -> Outcome {
    let [port] = args else { return usage(out, "chktcpport") };
    let port = args::atoi(&text(port)).cast_unsigned();
    // As in C, what is too large keeps its lower half.
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port as u16)) {
        Ok(_) => Ok(()),
        Err(error) => {
            complain!("Failed to bind to TCP port {port}");
            Err(error.raw_os_error().map_or(FAILED, Exit))
        }
    }
}
