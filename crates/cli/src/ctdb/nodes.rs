//! Nodes: who is there, in which state, since when.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, base, socket, text};
use super::out::{Exit, FAILED, Out, Outcome, complain, say};
use super::time;
use ctdb::control::{Ifaces, NodeEntry, NodeMap, Opcode, Uptime, VnnMap};
use ctdb::node::{INVALID_GENERATION, capability, flags};
use ctdb::wire::Reader;
use std::net::IpAddr;
use std::time::Instant;

/// Beside the node's own flags: this node does not know it yet. Not on the wire.
const UNKNOWN: u32 = 0x40;

/// Names of states, in the order in which they are told.
const NAMES: [(u32, &str); 8] = [
    (flags::DISCONNECTED, "DISCONNECTED"),
    (UNKNOWN, "UNKNOWN"),
    (flags::DISABLED, "DISABLED"),
    (flags::BANNED, "BANNED"),
    (flags::UNHEALTHY, "UNHEALTHY"),
    (flags::DELETED, "DELETED"),
    (flags::STOPPED, "STOPPED"),
    (flags::INACTIVE, "INACTIVE"),
];

/// A node's state in words.
pub(super) fn describe(flags: u32) -> String {
    let names: Vec<&str> = NAMES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "OK".into() } else { names.join("|") }
}

pub(super) const RUN_STATES: [&str; 7] =
    ["UNKNOWN", "INIT", "SETUP", "FIRST_RECOVERY", "STARTUP", "RUNNING", "SHUTDOWN"];
const FIRST_RECOVERY: u32 = 3;

/// A daemon that has not been through its first recovery knows of the others only that they are connected.
fn mark_unknown(ctx: &mut Context, nodes: &mut [NodeEntry]) -> Outcome {
    let state =
        number(ctx, Opcode::GET_RUNSTATE).inspect_err(|_| complain!("Unable to get nodemap")).map_err(|_| FAILED)?;
    if state <= FIRST_RECOVERY {
        let away = flags::DISCONNECTED | flags::DELETED;
        for node in nodes.iter_mut().filter(|n| n.pnn != ctx.node && n.flags & away == 0) {
            node.flags = UNKNOWN;
        }
    }
    Ok(())
}

/// A healthy node with a link that is down.
fn partially_online(ctx: &mut Context, node: &NodeEntry) -> bool {
    node.flags == 0
        && ctx
            .get(node.pnn, Opcode::GET_IFACES, &[], Ifaces::get)
            .is_ok_and(|ifaces| ifaces.0.iter().any(|iface| !iface.up))
}

fn print(ctx: &mut Context, nodes: &[NodeEntry], header: bool) -> Outcome {
    let deleted = nodes.iter().filter(|n| n.flags & flags::DELETED != 0).count();
    if ctx.options.machine {
        let s = ctx.options.separator.clone();
        let columns = [
            "Node",
            "IP",
            "Disconnected",
            "Unknown",
            "Banned",
            "Disabled",
            "Unhealthy",
            "Stopped",
            "Inactive",
            "PartiallyOnline",
            "ThisNode",
        ];
        say!(ctx.out, "{s}{}{s}", columns.join(&s))?;
    } else if header && deleted == 0 {
        say!(ctx.out, "Number of nodes:{}", nodes.len())?;
    } else if header {
        say!(ctx.out, "Number of nodes:{} (including {deleted} deleted nodes)", nodes.len())?;
    }
    for node in nodes.iter().filter(|n| n.flags & flags::DELETED == 0) {
        let partial = partially_online(ctx, node);
        let here = node.pnn == ctx.node;
        let address = node.address.to_string();
        if ctx.options.machine {
            let s = ctx.options.separator.clone();
            let bit = |flag: u32| u8::from(node.flags & flag != 0);
            let states = [
                flags::DISCONNECTED,
                UNKNOWN,
                flags::BANNED,
                flags::DISABLED,
                flags::UNHEALTHY,
                flags::STOPPED,
                flags::INACTIVE,
            ];
            let states: Vec<String> = states.iter().map(|flag| bit(*flag).to_string()).collect();
            let mark = if here { 'Y' } else { 'N' };
            let states = states.join(&s);
            say!(ctx.out, "{s}{}{s}{address}{s}{states}{s}{}{s}{mark}{s}", node.pnn, u8::from(partial))?;
        } else {
            let state = if partial { "PARTIALLYONLINE".into() } else { describe(node.flags) };
            say!(ctx.out, "pnn:{} {address:<16} {state}{}", node.pnn, if here { " (THIS NODE)" } else { "" })?;
        }
    }
    Ok(())
}

pub(super) fn status(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "status") };
    let NodeMap(mut nodes) = ctx.nodes()?;
    mark_unknown(ctx, &mut nodes)?;
    if ctx.options.machine {
        return print(ctx, &nodes, true);
    }
    let map = ctx.get(ctx.node, Opcode::GETVNNMAP, &[], VnnMap::get)?;
    let mode = ctx.control(ctx.node, Opcode::GET_RECMODE, &[])?.status;
    let leader = ctx.leader()?;
    print(ctx, &nodes, true)?;
    if map.generation == INVALID_GENERATION {
        say!(ctx.out, "Generation:INVALID")?;
    } else {
        say!(ctx.out, "Generation:{}", map.generation)?;
    }
    say!(ctx.out, "Size:{}", map.map.len())?;
    for (hash, lmaster) in map.map.iter().enumerate() {
        say!(ctx.out, "hash:{hash} lmaster:{}", lmaster.cast_signed())?;
    }
    say!(ctx.out, "Recovery mode:{} ({mode})", if mode == 0 { "NORMAL" } else { "RECOVERY" })?;
    say!(ctx.out, "Leader:{}", leader_name(leader))
}

fn leader_name(leader: Option<u32>) -> String {
    leader.map_or_else(|| "UNKNOWN".into(), |pnn| pnn.to_string())
}

pub(super) fn nodestatus(ctx: &mut Context, args: &Args) -> Outcome {
    let list = match args {
        [] => None,
        [list] => Some(text(list).into_owned()),
        _ => return usage(&mut ctx.out, "nodestatus"),
    };
    let mut nodes = ctx.listed(list.as_deref())?;
    mark_unknown(ctx, &mut nodes)?;
    print(ctx, &nodes, list.as_deref() == Some("all"))?;
    match nodes.iter().fold(0, |all, node| all | node.flags) {
        0 => Ok(()),
        flags => Err(Exit(flags.cast_signed())),
    }
}

pub(super) fn leader(ctx: &mut Context, _: &Args) -> Outcome {
    let leader = ctx.leader()?;
    say!(ctx.out, "{}", leader_name(leader))
}

pub(super) fn pnn(ctx: &mut Context, _: &Args) -> Outcome {
    say!(ctx.out, "{}", ctx.pnn)
}

pub(super) fn getpid(ctx: &mut Context, _: &Args) -> Outcome {
    let pid = ctx.control(ctx.node, Opcode::GET_PID, &[])?.status;
    say!(ctx.out, "{pid}")
}

pub(super) fn ping(ctx: &mut Context, _: &Args) -> Outcome {
    let begun = Instant::now();
    let clients = ctx.control(ctx.node, Opcode::PING, &[])?.status;
    let took = begun.elapsed().as_secs_f64();
    say!(ctx.out, "response from {} time={took:.6} sec  ({clients} clients)", ctx.node)
}

pub(super) fn uptime(ctx: &mut Context, _: &Args) -> Outcome {
    let up = ctx.get(ctx.node, Opcode::UPTIME, &[], Uptime::get)?;
    let since = |then: i64| time::span(up.now.0 - then);
    let duration = (up.recovery_ended.0 - up.recovery_began.0) as f64
        + (up.recovery_ended.1 - up.recovery_began.1) as f64 * 1.0e-6;
    say!(ctx.out, "Current time of node {:<4}     :                {}", ctx.node, time::stamp(up.now.0))?;
    let (started, ended) = (up.started.0, up.recovery_ended.0);
    say!(ctx.out, "Ctdbd start time              : ({}) {}", since(started), time::stamp(started))?;
    say!(ctx.out, "Time of last recovery/failover: ({}) {}", since(ended), time::stamp(ended))?;
    say!(ctx.out, "Duration of last recovery/failover: {duration:.6} seconds")
}

pub(super) fn runstate(ctx: &mut Context, args: &Args) -> Outcome {
    let state = number(ctx, Opcode::GET_RUNSTATE)?;
    let name = usize::try_from(state).ok().and_then(|at| RUN_STATES.get(at)).copied().unwrap_or("UNKNOWN");
    let mut found = args.is_empty();
    for wanted in args {
        let wanted = text(wanted);
        if !RUN_STATES[1..].iter().any(|state| state.eq_ignore_ascii_case(&wanted)) {
            say!(ctx.out, "Invalid run state ({wanted})")?;
            return Err(FAILED);
        }
        found = name.eq_ignore_ascii_case(&wanted);
        if found {
            break;
        }
    }
    if !found {
        say!(ctx.out, "CTDB not in required run state (got {name})")?;
        return Err(FAILED);
    }
    say!(ctx.out, "{name}")
}

/// An answer of one number.
pub(super) fn number(ctx: &mut Context, opcode: Opcode) -> Result<u32, Exit> {
    ctx.get(ctx.node, opcode, &[], |data| Reader::new(data).u32("number"))
}

pub(super) fn getcapabilities(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "getcapabilities") };
    let can = number(ctx, Opcode::GET_CAPABILITIES)?;
    let (leader, lmaster) = (can & capability::LEADER != 0, can & capability::LMASTER != 0);
    if ctx.options.machine {
        let s = ctx.options.separator.clone();
        say!(ctx.out, "{s}LEADER{s}LMASTER{s}")?;
        return say!(ctx.out, "{s}{}{s}{}{s}", u8::from(leader), u8::from(lmaster));
    }
    let word = |yes| if yes { "YES" } else { "NO" };
    say!(ctx.out, "LEADER: {}", word(leader))?;
    say!(ctx.out, "LMASTER: {}", word(lmaster))
}

pub(super) fn getreclock(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "getreclock") };
    match ctx.get_text(ctx.node, Opcode::GET_RECLOCK_FILE, &[])? {
        Some(file) => say!(ctx.out, "{file}"),
        None => Ok(()),
    }
}

/// The log levels, with the number of each.
const LEVELS: [(&str, i32); 5] = [("ERROR", 0), ("WARNING", 1), ("NOTICE", 3), ("INFO", 5), ("DEBUG", 10)];

pub(super) fn getdebug(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "getdebug") };
    let level = number(ctx, Opcode::GET_DEBUG)?.cast_signed();
    // A level between two names has the name of the lower one.
    let name = LEVELS.iter().rev().find(|(_, number)| level >= *number).map_or("UNKNOWN", |(name, _)| name);
    say!(ctx.out, "{name}")
}

pub(super) fn setdebug(ctx: &mut Context, args: &Args) -> Outcome {
    let [wanted] = args else { return usage(&mut ctx.out, "setdebug") };
    let wanted = text(wanted);
    let Some(level) = level(&wanted) else {
        complain!("Invalid debug level '{wanted}'. Valid levels are:");
        complain!("\tERROR | WARNING | NOTICE | INFO | DEBUG");
        return Err(FAILED);
    };
    ctx.ask_node(Opcode::SET_DEBUG, &level.to_ne_bytes()).map(drop)
}

/// The level of a name or its beginning, or a number that is one.
fn level(wanted: &str) -> Option<i32> {
    if wanted.starts_with(|c: char| c.is_ascii_digit()) {
        let (_, highest) = LEVELS[LEVELS.len() - 1];
        return Some(args::atoi(wanted)).filter(|number| *number <= highest);
    }
    let begins = |name: &str| name.get(..wanted.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(wanted));
    LEVELS.iter().find(|(name, _)| begins(name)).map(|(_, level)| *level)
}

pub(super) fn process_exists(ctx: &mut Context, args: &Args) -> Outcome {
    let (pid, srvid) = match args {
        [pid] => (args::atoi(&text(pid)), 0),
        [pid, srvid] => (args::atoi(&text(pid)), args::lenient_u64(&text(srvid))),
        _ => return usage(&mut ctx.out, "process-exists"),
    };
    let mut data = pid.to_ne_bytes().to_vec();
    let status = if srvid == 0 {
        ctx.control(ctx.node, Opcode::PROCESS_EXISTS, &data)?.status
    } else {
        data.extend(srvid.to_ne_bytes());
        ctx.control(ctx.node, Opcode::CHECK_PID_SRVID, &data)?.status
    };
    let word = if status == 0 { "exists" } else { "does not exist" };
    if srvid == 0 {
        say!(ctx.out, "PID {pid} {word}")?;
    } else {
        say!(ctx.out, "PID {pid} with SRVID {srvid:#x} {word}")?;
    }
    if status == 0 { Ok(()) } else { Err(Exit(status)) }
}

/// Has this machine the node's address?
pub(super) fn is_here(node: &NodeEntry) -> bool {
    node.flags & flags::DELETED == 0 && std::net::UdpSocket::bind((node.address, 0)).is_ok()
}

/// The nodes by their file. A line that begins with `#` is a deleted node, which keeps its number.
pub(super) fn nodes_file() -> Result<Vec<NodeEntry>, Exit> {
    let path = std::env::var_os("CTDB_NODES").map_or_else(|| base().join("nodes"), Into::into);
    read_nodes(&path).inspect_err(|_| complain!("Failed to read nodes file \"{}\"", path.display()))
}

fn read_nodes(path: &std::path::Path) -> Result<Vec<NodeEntry>, Exit> {
    let content = std::fs::read_to_string(path).map_err(|_| FAILED)?;
    let mut nodes = Vec::new();
    for line in content.lines() {
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() {
            continue;
        }
        let deleted = line.starts_with('#');
        let address = if deleted { "0.0.0.0" } else { line };
        let Some(address) = ip(address) else {
            complain!("Invalid IP address {address}");
            return Err(FAILED);
        };
        let pnn = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        nodes.push(NodeEntry { pnn, flags: if deleted { flags::DELETED } else { 0 }, address, port: 0 });
    }
    Ok(nodes)
}

/// An address without a port; IPv4 in IPv6 is IPv4.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

pub(super) fn listnodes(options: &args::Options, out: &mut Out, words: &Args) -> Outcome {
    let [] = words else { return usage(out, "listnodes") };
    let path = base().join("nodes");
    // Steadfast needs no such file: then the daemon tells.
    let told = if path.exists() || std::env::var_os("CTDB_NODES").is_some() {
        None
    } else {
        ctdb_client::Client::connect(&socket())
            .and_then(|mut client| client.ask(ctdb::node::CURRENT, Opcode::GET_NODEMAP, &[]))
            .ok()
            .and_then(|data| NodeMap::get(&data).ok())
    };
    let nodes = match told {
        Some(map) => map.0,
        None => nodes_file()?,
    };
    let s = &options.separator;
    for node in nodes.iter().filter(|n| n.flags & flags::DELETED == 0) {
        if options.machine {
            say!(out, "{s}{}{s}{}{s}", node.pnn, node.address)?;
        } else {
            say!(out, "{}", node.address)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels_by_beginning_and_number() {
        for (given, found) in [
            ("NOTICE", Some(3)),
            ("n", Some(3)),
            ("inf", Some(5)),
            ("", Some(0)),
            ("4", Some(4)),
            ("3x", Some(3)),
            ("10", Some(10)),
            ("11", None),
            ("foo", None),
        ] {
            assert_eq!(level(given), found, "{given}");
        }
    }

    #[test]
    fn states_in_words() {
        assert_eq!(describe(0), "OK");
        assert_eq!(describe(flags::STOPPED), "STOPPED|INACTIVE");
        assert_eq!(describe(flags::DISCONNECTED | flags::UNHEALTHY), "DISCONNECTED|UNHEALTHY|INACTIVE");
    }
}
