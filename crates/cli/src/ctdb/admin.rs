//! Orders to nodes: in and out of service, recoveries, addresses placed anew, the list of nodes.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, connected, text};
use super::nodes;
use super::out::{EINVAL, Exit, FAILED, Outcome, complain, say};
use ctdb::control::{NodeEntry, NodeMap, Opcode, VnnMap};
use ctdb::node::{BROADCAST_CONNECTED, INVALID_GENERATION, flags};
use ctdb::srvid;
use ctdb::wire::Writer;
use ctdb_client::Error;
use std::time::{Duration, Instant};

/// How often what an order changes is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Is the node as it shall be already? Then there is nothing to do.
fn already(ctx: &mut Context, word: &str, flag: u32, wanted: bool) -> Result<bool, Exit> {
    // As in the original: who cannot tell, as a banned node alone cannot, gets the order.
    let Ok(entry) = ctx.entry() else { return Ok(false) };
    let is = entry.flags & flag != 0;
    if is == wanted {
        let node = ctx.node;
        complain!("Node {node} is {} {word}", if wanted { "already" } else { "not" });
    }
    Ok(is == wanted)
}

/// Until this node's daemon sees the node as it shall be; then addresses are placed anew.
fn settle(ctx: &mut Context, flag: u32, wanted: bool) -> Outcome {
    loop {
        match ctx.nodes_now() {
            Ok(map) => {
                let node = map.0.iter().find(|n| n.pnn == ctx.node);
                if node.is_none_or(|n| (n.flags & flag != 0) == wanted) {
                    return reallocate(ctx);
                }
            }
            Err(Exit(1)) => complain!("Failed to get nodemap, trying again"),
            Err(exit) => return Err(exit),
        }
        std::thread::sleep(LOOK);
    }
}

/// A change of the node's state that has an order of its own.
struct Change {
    word: &'static str,
    flag: u32,
    wanted: bool,
    opcode: Opcode,
    /// As in "Failed to ... node 1".
    verb: &'static str,
}

fn change(ctx: &mut Context, args: &Args, command: &str, how: &Change) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, command) };
    if already(ctx, how.word, how.flag, how.wanted)? {
        return Ok(());
    }
    let done = ctx.ask_node(how.opcode, &[]);
    done.inspect_err(|_| complain!("Failed to {} node {}", how.verb, ctx.node))?;
    settle(ctx, how.flag, how.wanted)
}

pub(super) fn disable(ctx: &mut Context, args: &Args) -> Outcome {
    let (word, flag, opcode) = ("disabled", flags::DISABLED, Opcode::DISABLE_NODE);
    change(ctx, args, "disable", &Change { word, flag, wanted: true, opcode, verb: "disable" })
}

pub(super) fn enable(ctx: &mut Context, args: &Args) -> Outcome {
    let (word, flag, opcode) = ("disabled", flags::DISABLED, Opcode::ENABLE_NODE);
    change(ctx, args, "enable", &Change { word, flag, wanted: false, opcode, verb: "enable" })
}

pub(super) fn stop(ctx: &mut Context, args: &Args) -> Outcome {
    let (word, flag, opcode) = ("stopped", flags::STOPPED, Opcode::STOP_NODE);
    change(ctx, args, "stop", &Change { word, flag, wanted: true, opcode, verb: "stop" })
}

pub(super) fn cont(ctx: &mut Context, args: &Args) -> Outcome {
    let (word, flag, opcode) = ("stopped", flags::STOPPED, Opcode::CONTINUE_NODE);
    change(ctx, args, "continue", &Change { word, flag, wanted: false, opcode, verb: "continue stopped" })
}

pub(super) fn ban(ctx: &mut Context, args: &Args) -> Outcome {
    let [time] = args else { return usage(&mut ctx.out, "ban") };
    if already(ctx, "banned", flags::BANNED, true)? {
        return Ok(());
    }
    let time = args::lenient_u32(&text(time));
    if time == 0 {
        complain!("Ban time cannot be zero");
        return Err(EINVAL);
    }
    set_ban(ctx, time).inspect_err(|_| complain!("Failed to ban node {}", ctx.node))?;
    settle(ctx, flags::BANNED, true)
}

pub(super) fn unban(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "unban") };
    if already(ctx, "banned", flags::BANNED, false)? {
        return Ok(());
    }
    set_ban(ctx, 0).inspect_err(|_| complain!("Failed to unban node {}", ctx.node))?;
    settle(ctx, flags::BANNED, false)
}

fn set_ban(ctx: &mut Context, seconds: u32) -> Outcome {
    let mut order = Writer::default();
    order.u32(ctx.node).u32(seconds);
    ctx.ask_node(Opcode::SET_BAN_STATE, &order.finish()).map(drop)
}

pub(super) fn shutdown(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "shutdown") };
    let here = ctx.node == ctx.pnn;
    let failed = |node, exit| {
        complain!("Unable to shutdown node {node}");
        Err(exit)
    };
    if let Err(error) = ctx.client.order(ctx.node, Opcode::SHUTDOWN, &[]) {
        return failed(ctx.node, Context::lost(&error));
    }
    if !here {
        return Ok(());
    }
    // The daemon ends the connection when it has ended.
    loop {
        match ctx.client.message(Instant::now() + Duration::from_secs(60)) {
            Ok(_) => {}
            Err(Error::Closed) => return Ok(()),
            Err(error) => return failed(ctx.node, Context::lost(&error)),
        }
    }
}

/// The generation of the databases once the leader is through with its recovery.
pub(super) fn generation(ctx: &mut Context) -> Result<u32, Exit> {
    loop {
        let Some(leader) = ctx.leader()? else {
            complain!("Failed to find leader");
            return Err(FAILED);
        };
        let mode = ctx.control(leader, Opcode::GET_RECMODE, &[]);
        let mode = mode.inspect_err(|_| complain!("Failed to get recovery mode from node {leader}"))?;
        if mode.status == 0 {
            let map = ctx.get(leader, Opcode::GETVNNMAP, &[], VnnMap::get);
            let map = map.inspect_err(|_| complain!("Failed to get generation from node {leader}"))?;
            if map.generation != INVALID_GENERATION {
                return Ok(map.generation);
            }
        }
        std::thread::sleep(LOOK);
    }
}

pub(super) fn recover(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "recover") };
    let before = generation(ctx)?;
    let ordered = ctx.ask_node(Opcode::SET_RECMODE, &1u32.to_ne_bytes());
    ordered.inspect_err(|_| complain!("Failed to set recovery mode active"))?;
    while generation(ctx).inspect_err(|_| complain!("Failed to confirm end of recovery"))? == before {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

pub(super) fn ipreallocate(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "ipreallocate") };
    reallocate(ctx)
}

/// Has the leader place the addresses anew. Asked again until somebody answers, or the command's time is over.
pub(super) fn reallocate(ctx: &mut Context) -> Outcome {
    let answer = register(ctx)?;
    let mut request = Writer::default();
    request.u32(ctx.pnn).u32(0).u64(answer);
    let request = request.finish();
    loop {
        let sent = ctx.client.send_message(BROADCAST_CONNECTED, srvid::TAKEOVER_RUN, &request);
        sent.map_err(|e| Context::lost(&e))?;
        let deadline = ctx.deadline();
        while let Some(message) = ctx.answer_to(answer, deadline)? {
            let Ok(status) = <[u8; 4]>::try_from(&message.data[..]).map(i32::from_ne_bytes) else { continue };
            ctx.client.deregister(answer).map_err(|e| Context::lost(&e))?;
            return if status >= 0 { Ok(()) } else { Err(Exit(status)) };
        }
    }
}

fn register(ctx: &mut Context) -> Result<u64, Exit> {
    let answer = ctx.next_srvid();
    ctx.client.register(answer).map_err(|e| Context::lost(&e))?;
    Ok(answer)
}

/// Has every node hold off something for `seconds`, 0: no longer. Each must agree.
pub(super) fn hold_off(ctx: &mut Context, kind: u64, what: &str, seconds: u32, nodes: &[u32]) -> Outcome {
    let answer = register(ctx)?;
    let mut request = Writer::default();
    request.u32(ctx.pnn).u32(0).u64(answer).u32(seconds).u32(0);
    let request = request.finish();
    for node in nodes {
        ctx.client.send_message(*node, kind, &request).map_err(|e| Context::lost(&e))?;
    }
    let deadline = ctx.deadline();
    let mut missing = nodes.to_vec();
    let mut outcome = Ok(());
    while !missing.is_empty() && outcome.is_ok() {
        let Some(message) = ctx.answer_to(answer, deadline)? else {
            complain!("Timed out waiting to disable {what}");
            outcome = Err(Exit(62));
            break;
        };
        match <[u8; 4]>::try_from(&message.data[..]).map(i32::from_ne_bytes) {
            Ok(pnn) if pnn >= 0 => missing.retain(|node| node.cast_signed() != pnn),
            Ok(_) => outcome = Err(FAILED),
            Err(_) => {}
        }
    }
    ctx.client.deregister(answer).map_err(|e| Context::lost(&e))?;
    outcome
}

pub(super) fn setlmasterrole(ctx: &mut Context, args: &Args) -> Outcome {
    role(ctx, args, "setlmasterrole", Opcode::SET_LMASTERROLE)
}

pub(super) fn setleaderrole(ctx: &mut Context, args: &Args) -> Outcome {
    role(ctx, args, "setleaderrole", Opcode::SET_RECMASTERROLE)
}

fn role(ctx: &mut Context, args: &Args, command: &str, opcode: Opcode) -> Outcome {
    let on = match args {
        [word] if word == "on" => 1u32,
        [word] if word == "off" => 0,
        _ => return usage(&mut ctx.out, command),
    };
    ctx.ask_node(opcode, &on.to_ne_bytes()).map(drop)
}

pub(super) fn reloadnodes(ctx: &mut Context, _: &Args) -> Outcome {
    let NodeMap(now) = ctx.nodes()?;
    let file = nodes::nodes_file()?;
    for node in now.iter().filter(|n| n.flags & flags::DISCONNECTED == 0) {
        let theirs = ctx.get(node.pnn, Opcode::GET_NODES_FILE, &[], NodeMap::get);
        let theirs = theirs.inspect_err(|_| complain!("ERROR: Failed to get nodes file from node {}", node.pnn))?;
        let same = |(a, b): (&NodeEntry, &NodeEntry)| (a.pnn, a.flags, a.address) == (b.pnn, b.flags, b.address);
        if theirs.0.len() != file.len() || !theirs.0.iter().zip(&file).all(same) {
            complain!("ERROR: Nodes file on node {} differs from current node ({})", node.pnn, ctx.pnn);
            return Err(FAILED);
        }
    }
    if !compare(ctx, &now, &file)? {
        complain!("No change in nodes file, skipping unnecessary reload");
        return Ok(());
    }
    let everybody = connected(&now);
    let quiet = 2 * ctx.options.time_limit.cast_unsigned();
    hold_off(ctx, srvid::DISABLE_RECOVERIES, "recoveries", quiet, &everybody)
        .inspect_err(|_| complain!("Failed to disable recoveries"))?;
    let answers = ctx.client.control_all(&everybody, Opcode::RELOAD_NODES_FILE, &[]).map_err(|e| Context::lost(&e))?;
    let mut failed = false;
    for (node, answer) in everybody.iter().zip(answers) {
        if !answer.is_ok_and(|reply| reply.status == 0) {
            complain!("Node {node} failed to reload nodes");
            failed = true;
        }
    }
    if failed {
        complain!("You MUST fix failed nodes manually!");
    }
    hold_off(ctx, srvid::DISABLE_RECOVERIES, "recoveries", 0, &everybody)
        .inspect_err(|_| complain!("Failed to enable recoveries"))
}

/// Tells what the file changes. The answer: whether it changes anything; an error if it changes what it must not.
fn compare(ctx: &mut Context, now: &[NodeEntry], file: &[NodeEntry]) -> Result<bool, Exit> {
    let deleted = |node: &NodeEntry| node.flags & flags::DELETED != 0;
    let (mut reload, mut wrong) = (false, false);
    for (at, node) in now.iter().enumerate() {
        let pnn = node.pnn;
        let Some(new) = file.get(at) else {
            complain!("Node {pnn} ({}) missing from nodes file", node.address);
            wrong = true;
            continue;
        };
        match (deleted(node), deleted(new)) {
            (true, true) => {}
            (false, false) if node.address != new.address => {
                complain!("Node {pnn} has changed IP address (was {}, now {})", node.address, new.address);
                wrong = true;
            }
            (false, false) => {
                if node.flags & flags::DISCONNECTED != 0 {
                    complain!("WARNING: Node {pnn} is disconnected. You MUST fix this node manually!");
                }
            }
            (false, true) => {
                say!(ctx.out, "Node {pnn} is DELETED")?;
                reload = true;
                if node.flags & flags::DISCONNECTED == 0 {
                    complain!("ERROR: Node {pnn} is still connected");
                    wrong = true;
                }
            }
            (true, false) => {
                say!(ctx.out, "Node {pnn} is UNDELETED")?;
                reload = true;
            }
        }
    }
    if wrong {
        complain!("ERROR: Nodes will not be reloaded due to previous error");
        return Err(FAILED);
    }
    for node in file.iter().skip(now.len()) {
        say!(ctx.out, "Node {} is NEW", node.pnn)?;
        reload = true;
    }
    Ok(reload)
}
