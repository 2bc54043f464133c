//! `event` and `scriptstatus`: what event scripts do, asked at the event daemon's socket, and which are enabled, by their
//! executable bits. CTDB's own tool leaves both to a helper program; this is its output.

use super::commands::Args;
use super::context::{base, run_directory, text};
use super::out::{EINVAL, Exit, FAILED, Out, Outcome, complain, say};
use super::time::stamp;
use ctdb::eventd::{COMPONENT, EventResult, Reply, Request, cut};
use services::events;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where stock's daemon and ours listen.
const SOCKET: &str = "/run/ctdb/eventd.socket";
/// Longest reply that is taken.
const MAX_REPLY: usize = 16 << 20;
/// As the original when nobody listens.
const EIO: Exit = Exit(5);
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const ETIMEDOUT: i32 = 110;
const ECANCELED: i32 = 125;
/// An exit status from here on is the original's helper's word for an error of the system.
const ERROR_BASE: i32 = 64;

const USAGE: &str = "Usage: ctdb-event [<options>] <command> [<args>]

Help Options:
  -h, --help                                      Show this help message

Options:
  -d, --debug=ERROR|WARNING|NOTICE|INFO|DEBUG     debug level

Commands:
  run <timeout> <component> <event> <args>     Run an event
  status <component> <event>                   Get status of an event
  script list <component>                      List event scripts
  script enable <component> <script>           Enable an event script
  script disable <component> <script>          Disable an event script";

pub(super) fn event(out: &mut Out, args: &Args) -> Outcome {
    let words: Vec<_> = args.iter().map(text).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match &words[..] {
        ["run", timeout, component, event, args @ ..] => run(out, timeout, component, event, args),
        ["status", component, event] => status(out, component, event),
        ["script", "list", component] => list(out, component),
        ["script", "enable", component, script] => enable(out, component, script, true),
        ["script", "disable", component, script] => enable(out, component, script, false),
        _ => {
            say!(out, "{USAGE}")?;
            Err(FAILED)
        }
    }
}

fn run(out: &mut Out, timeout: &str, component: &str, event: &str, args: &[&str]) -> Outcome {
    let Ok(timeout) = timeout.parse() else {
        say!(out, "Timeout must be a number of seconds: {timeout}")?;
        return Err(EINVAL);
    };
    let (component, event) = (component.to_owned(), event.to_owned());
    let request =
        Request::Run { component: component.clone(), event: event.clone(), args: args.join(" "), timeout, flags: 0 };
    let limit = (timeout > 0).then(|| Duration::from_secs(u64::from(timeout) + 10));
    let Reply::Run(result) = ask(&request, limit)? else { return Err(strange()) };
    match result {
        0 => return Ok(()),
        ETIMEDOUT => say!(out, "Event {event} in {component} timed out")?,
        ECANCELED => say!(out, "Event {event} in {component} got cancelled")?,
        ENOEXEC => say!(out, "Event {event} in {component} failed")?,
        ENOENT => say!(out, "Event dir for {component} does not exist")?,
        other => say!(out, "Unknown error ({other}) for event {event} in {component}")?,
    }
    ended(out, result)
}

fn status(out: &mut Out, component: &str, event: &str) -> Outcome {
    let request = Request::Status { component: component.to_owned(), event: event.to_owned() };
    let Reply::Status(result) = ask(&request, Some(Duration::from_secs(30)))? else { return Err(strange()) };
    match result {
        Ok(result) => {
            show(out, &result)?;
            ended(out, result.summary.abs())
        }
        Err(errno) => {
            match errno {
                22 => say!(out, "Event {event} has never run in {component}")?,
                ENOENT => say!(out, "Event dir for {component} does not exist")?,
                other => say!(out, "Unknown error ({other}) for event {event} in {component}")?,
            }
            ended(out, errno)
        }
    }
}

fn show(out: &mut Out, result: &EventResult) -> Outcome {
    for script in &result.scripts {
        let name = &script.name;
        let begin = stamp(i64::try_from(script.begin.as_secs()).unwrap_or(i64::MAX));
        let took = script.end.saturating_sub(script.begin).as_secs_f64();
        match script.result {
            0 => say!(out, "{name:<20} {:<10} {took:.3} {begin}", "OK")?,
            r if r == -ETIMEDOUT => say!(out, "{name:<20} {:<10} {begin}", "TIMEDOUT")?,
            r if r == -ENOEXEC => say!(out, "{name:<20} {:<10}", "DISABLED")?,
            r if r < 0 => {
                let why = io::Error::from_raw_os_error(-r).to_string();
                let why = why.split(" (os error").next().unwrap_or_default();
                say!(out, "{name:<20} {:<10} ({why})", "CANNOT RUN")?;
            }
            _ => say!(out, "{name:<20} {:<10} {took:.3} {begin}", "ERROR")?,
        }
        if script.result != 0 && script.result != -ENOEXEC {
            say!(out, "  OUTPUT: {}", script.output)?;
        }
    }
    Ok(())
}

/// Ends as the original does, whose helper can say numbers below 64 only.
fn ended(out: &mut Out, result: i32) -> Outcome {
    out.flush()?;
    match result {
        0 => Ok(()),
        result if (ERROR_BASE..255).contains(&result) => {
            complain!("event daemon helper failed with error {}", result - ERROR_BASE);
            Err(Exit(result - ERROR_BASE))
        }
        result => Err(Exit(result)),
    }
}

fn list(out: &mut Out, component: &str) -> Outcome {
    let own = if component == COMPONENT { events::list(&base()) } else { Err(ErrorKind::NotFound.into()) };
    let read = own.and_then(|own| Ok((own, events::list_in(Path::new(events::LIBRARY))?)));
    let (own, package) = read.map_err(|error| failed(&error, &format!("the event scripts of {component}")))?;
    let flag = |on| if on { '*' } else { ' ' };
    for script in &package {
        let on = own.iter().any(|other| other.name == script.name && other.enabled);
        say!(out, "{} {}", flag(on), script.name)?;
    }
    let mut others = own.iter().filter(|script| package.iter().all(|other| other.name != script.name)).peekable();
    if !package.is_empty() && others.peek().is_some() {
        say!(out)?;
    }
    for script in others {
        say!(out, "{} {}", flag(script.enabled), script.name)?;
    }
    Ok(())
}

fn enable(out: &mut Out, component: &str, script: &str, on: bool) -> Outcome {
    let done = if component == COMPONENT {
        events::enable(&base(), Path::new(events::LIBRARY), script, on)
    } else {
        Err(ErrorKind::NotFound.into())
    };
    match done {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            say!(out, "Script {script} does not exist in {component}")?;
            Err(Exit(ENOENT))
        }
        Err(error) => Err(failed(&error, &format!("script {script}"))),
    }
}

fn failed(error: &io::Error, what: &str) -> Exit {
    complain!("{what}: {error}");
    Exit::errno(error)
}

fn strange() -> Exit {
    complain!("The event daemon answers something else than what it was asked");
    FAILED
}

/// Asks the event daemon; an answer is waited for as long as `limit`, or for ever.
fn ask(request: &Request, limit: Option<Duration>) -> Result<Reply, Exit> {
    let path = run_directory().map_or_else(|| PathBuf::from(SOCKET), |run| run.join("eventd.socket"));
    let told = |error: io::Error| {
        complain!("Failed to connect to event daemon at {}: {error}", path.display());
        complain!("With Steadfast it answers there when [events] enabled = true (docs/configuration.md)");
        EIO
    };
    let mut stream = UnixStream::connect(&path).map_err(told)?;
    let mut answer = || -> io::Result<Reply> {
        let bad = |error: ctdb::wire::WireError| io::Error::new(ErrorKind::InvalidData, error.to_string());
        stream.set_read_timeout(limit)?;
        stream.write_all(&request.encode(1))?;
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(packet) = cut(&bytes, MAX_REPLY).map_err(bad)? {
                return Reply::decode(packet).map(|(_, reply)| reply).map_err(bad);
            }
            match stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => bytes.extend_from_slice(&buffer[..n]),
            }
        }
    };
    answer().map_err(|error| failed(&error, "The event daemon"))
}
