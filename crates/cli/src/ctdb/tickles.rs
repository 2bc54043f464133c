//! Tickles: which clients are to notice that an address has moved, and telling them.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, text};
use super::ip::{address_arg, invalid, wire};
use super::nodes::ip as parse_ip;
use super::out::{Exit, FAILED, Out, Outcome, complain, say};
use ctdb::control::{Opcode, TickleList};
use ctdb::wire::{Connection, Writer};
use std::io::BufRead;
use std::net::SocketAddr;

/// `address:port`, with or without brackets around an IPv6 address.
pub(super) fn socket_address(arg: &str) -> Option<SocketAddr> {
    let (address, port) = arg.rsplit_once(':')?;
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // As in C, what is too large keeps its lower half.
    let port = (port.parse::<u64>().ok()? & 0xFFFF) as u16;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    parse_ip(address).map(|ip| SocketAddr::new(ip, port))
}

fn connection(args: [&std::ffi::OsString; 2]) -> Result<Connection, Exit> {
    let end = |arg: &std::ffi::OsString| {
        let arg = text(arg);
        socket_address(&arg).ok_or_else(|| invalid(&arg))
    };
    Ok(Connection { client: end(args[0])?, server: end(args[1])? })
}

/// One connection per line of standard input: client, then server.
pub(super) fn connections_from_input() -> Result<Vec<Connection>, Exit> {
    let mut found = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| {
            complain!("Cannot read the connections: {e}");
            Exit::errno(&e)
        })?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.is_empty() || words[0].starts_with('#') {
            continue;
        }
        let ([client, server, ..], ..) = (&words[..],) else { return Err(invalid(&line)) };
        let (Some(client), Some(server)) = (socket_address(client), socket_address(server)) else {
            return Err(invalid(&line));
        };
        found.push(Connection { client, server });
    }
    Ok(found)
}

pub(super) fn gettickles(ctx: &mut Context, args: &Args) -> Outcome {
    let (address, port) = match args {
        [address] => (address, 0),
        [address, port] => (address, args::lenient_u32(&text(port)) as u16),
        _ => return usage(&mut ctx.out, "gettickles"),
    };
    let asked = wire((address_arg(address)?, port).into());
    let found = ctx.get(ctx.node, Opcode::GET_TCP_TICKLE_LIST, &asked, TickleList::get);
    let list = found.inspect_err(|_| complain!("Failed to get list of connections"))?;
    if ctx.options.machine {
        let s = ctx.options.separator.clone();
        // The original's own spelling.
        say!(ctx.out, "{s}Source IP{s}Port{s}Destiation IP{s}Port{s}")?;
        for c in &list.connections {
            let (client, server) = (c.client, c.server);
            say!(ctx.out, "{s}{}{s}{}{s}{}{s}{}{s}", client.ip(), client.port(), server.ip(), server.port())?;
        }
        return Ok(());
    }
    say!(ctx.out, "Connections for IP: {}", list.address.ip())?;
    say!(ctx.out, "Num connections: {}", list.connections.len())?;
    for c in &list.connections {
        say!(ctx.out, "SRC: {}   DST: {}", c.client, c.server)?;
    }
    Ok(())
}

pub(super) fn addtickle(ctx: &mut Context, args: &Args) -> Outcome {
    tickle_order(ctx, args, "addtickle", Opcode::TCP_ADD_DELAYED_UPDATE, ["add", "register"])
}

pub(super) fn deltickle(ctx: &mut Context, args: &Args) -> Outcome {
    tickle_order(ctx, args, "deltickle", Opcode::TCP_REMOVE, ["remove", "unregister"])
}

/// One connection of the command line, or those of standard input.
fn tickle_order(ctx: &mut Context, args: &Args, command: &str, opcode: Opcode, verbs: [&str; 2]) -> Outcome {
    let order = |connection: Connection| {
        let mut out = Writer::default();
        connection.put(&mut out);
        out.finish()
    };
    match args {
        [client, server] => {
            let connection = connection([client, server])?;
            let done = ctx.ask_node(opcode, &order(connection)).map(drop);
            done.inspect_err(|_| complain!("Failed to {} connection", verbs[1]))
        }
        [] => {
            let mut failed = 0;
            for connection in connections_from_input()? {
                failed += u32::from(ctx.control(ctx.node, opcode, &order(connection))?.status != 0);
            }
            if failed > 0 {
                complain!("Failed to {} {failed} tickles", verbs[0]);
                return Err(FAILED);
            }
            Ok(())
        }
        _ => usage(&mut ctx.out, command),
    }
}

/// Sends ACKs from a connection's client to its server, which makes the server's kernel answer the client.
pub(super) fn tickle(out: &mut Out, args: &Args) -> Outcome {
    let connections = match args {
        [client, server] => vec![connection([client, server])?],
        [] => connections_from_input()?,
        _ => return usage(out, "tickle"),
    };
    let mut failed = 0;
    for connection in &connections {
        if let Err(why) = send_tickle(connection.client, connection.server) {
            complain!("{why}");
            failed += 1;
        }
    }
    match (failed, args.is_empty()) {
        (0, _) => Ok(()),
        (_, false) => {
            complain!("Failed to send tickle ack");
            Err(FAILED)
        }
        (n, true) => {
            complain!("Failed to send {n} tickles");
            Err(FAILED)
        }
    }
}

fn send_tickle(from: SocketAddr, to: SocketAddr) -> Result<(), String> {
    let tickler = net::tickle::Tickler::open(from.ip()).map_err(|e| e.to_string())?;
    let connection = net::ClientConnection { vip: from, client: to };
    if tickler.send(&[connection]) == 1 { Ok(()) } else { Err(format!("{from} to {to} was not sent")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_connections_as_the_original_reads_them() {
        for (given, read) in [
            ("10.0.0.1:1000", Some("10.0.0.1:1000")),
            ("[fd00::1]:1000", Some("[fd00::1]:1000")),
            ("fd00::1:1000", Some("[fd00::1]:1000")),
            ("::ffff:1.2.3.4:7", Some("1.2.3.4:7")),
            ("10.0.0.1:70000", Some("10.0.0.1:4464")),
            ("10.0.0.1:0x10", None),
            ("10.0.0.1", None),
            ("10.0.0.1:", None),
        ] {
            assert_eq!(socket_address(given).map(|a| a.to_string()).as_deref(), read, "{given}");
        }
    }
}
