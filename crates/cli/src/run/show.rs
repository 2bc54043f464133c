//! Commands that only look.

use crate::client::{self, Client};
use crate::exit::{Exit, Fail};
use crate::{out, render};
use jiff::tz::TimeZone;
use node::admin::api::{Answer, Request, Status};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Between two attempts of `--watch` to reach the daemon.
const RETRY: Duration = Duration::from_secs(1);

pub(super) fn status(socket: &Path, as_json: bool) -> Result<Exit, Fail> {
    let status = client::status(socket)?;
    if as_json {
        out::json(&status)?;
    } else {
        out::print(&render::status(&status, node::clock::now(), out::style()))?;
    }
    Ok(if render::is_healthy(&status) { Exit::Ok } else { Exit::Unhealthy })
}

/// Until it is interrupted; a daemon that ends is waited for.
pub(super) fn watch(socket: &Path, as_json: bool) -> Result<Exit, Fail> {
    loop {
        let ended = follow(socket, as_json);
        let because = match ended {
            Ok(()) => "the daemon closed the connection".to_owned(),
            Err(Fail::ClosedPipe) => return Ok(Exit::Ok),
            Err(error) => error.to_string(),
        };
        if as_json {
            eprintln!("steadfast: {because}");
        } else {
            redraw(&format!("{because}\n\nwaiting for the daemon; Ctrl-C ends\n"))?;
        }
        sleep(RETRY);
    }
}

fn follow(socket: &Path, as_json: bool) -> Result<(), Fail> {
    let request = Request::Status { follow: true };
    Client::ask(socket, &request)?.all(|answer| match answer {
        Answer::Status(status) if as_json => out::json_line(&status),
        Answer::Status(status) => redraw(&render::status(&status, node::clock::now(), out::style())),
        _ => Ok(()),
    })?;
    Ok(())
}

/// Over the old picture on a terminal, below it elsewhere.
fn redraw(text: &str) -> Result<(), Fail> {
    if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        return out::print(&format!("{text}\n"));
    }
    // Home; each line clears its rest, the end clears what is below: no flicker.
    let mut picture = String::from("\x1b[H");
    for line in text.lines() {
        let _ = write!(picture, "{line}\x1b[K\r\n");
    }
    picture.push_str("\x1b[J");
    out::print(&picture)
}

pub(super) fn ip(socket: &Path, as_json: bool) -> Result<(), Fail> {
    let Status { snapshot, .. } = client::status(socket)?;
    if !as_json {
        return out::print(&render::ip(&snapshot, node::clock::now(), out::style()));
    }
    let name = |pnn| snapshot.nodes.get(&pnn).map(|n| n.name.clone());
    let rows: Vec<_> = snapshot
        .vips
        .iter()
        .map(|(address, vip)| {
            json!({
                "address": address,
                "prefix_len": vip.prefix_len,
                "state": vip.state,
                "holder": vip.holder,
                "node": vip.holder.and_then(name),
                "target": vip.target,
                "interface": vip.interface,
                "healthy": vip.healthy,
                "because": vip.because,
            })
        })
        .collect();
    out::json(&rows)
}

pub(super) fn nodes(socket: &Path, as_json: bool) -> Result<(), Fail> {
    let Status { snapshot, .. } = client::status(socket)?;
    if as_json {
        out::json(&snapshot.nodes)
    } else {
        out::print(&render::nodes(&snapshot, node::clock::now(), out::style()))
    }
}

pub(super) fn events(socket: &Path, follow: bool, last: usize, as_json: bool) -> Result<(), Fail> {
    let (style, zone) = (out::style(), TimeZone::system());
    let ended = Client::ask(socket, &Request::Events { last, follow })?.all(|answer| match answer {
        Answer::Event(event) if as_json => out::json_line(&event),
        Answer::Event(event) => out::line(&render::event(&event, &zone, style)),
        Answer::Progress { text } => {
            eprintln!("steadfast: {text}");
            Ok(())
        }
        _ => Ok(()),
    });
    ended.map(drop)
}

pub(super) fn version(socket: &Path, as_json: bool) -> Result<(), Fail> {
    let running = Client::ask(socket, &Request::Version).and_then(|c| c.all(|_| Ok(())));
    if as_json {
        return out::json(&json!({
            "version": node::VERSION,
            "daemon": running.as_ref().ok(),
            "because": running.as_ref().err().map(ToString::to_string),
        }));
    }
    out::line(&format!("steadfast {}", node::VERSION))?;
    match running {
        Ok(version) if version == node::VERSION => out::line("daemon    the same"),
        Ok(version) => out::line(&format!("daemon    {version} (restart it: systemctl restart steadfast)")),
        Err(Fail::NoDaemon(_)) => out::line("daemon    not running here"),
        Err(error) => out::line(&format!("daemon    {error}")),
    }
}

pub(super) fn zone(socket: &Path, as_json: bool) -> Result<(), Fail> {
    let mut text = String::new();
    Client::ask(socket, &Request::Zone)?.all(|answer| {
        if let Answer::Text { text: part } = answer {
            text.push_str(&part);
        }
        Ok(())
    })?;
    if as_json { out::json(&json!({"zone": text})) } else { out::print(&text) }
}

/// For scripts that look for trouble: the protocol as it is.
pub(super) fn ask(socket: &Path, request: &str) -> Result<(), Fail> {
    let request: Request =
        serde_json::from_str(request).map_err(|e| Fail::Other(format!("this is no request: {e}")))?;
    let mut client = Client::ask(socket, &request)?;
    while let Some(answer) = client.next()? {
        out::json_line(&answer)?;
        if matches!(answer, Answer::Done { .. } | Answer::Failed { .. }) {
            break;
        }
    }
    Ok(())
}
