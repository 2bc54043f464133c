//! Tunables.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, text};
use super::out::{Exit, FAILED, Outcome, complain, say};
use ctdb::control::Opcode;
use ctdb::wire::{Reader, Writer};

/// The names of those in use, in the daemon's order.
fn names(ctx: &mut Context) -> Result<Vec<String>, Exit> {
    ctx.get(ctx.node, Opcode::LIST_TUNABLES, &[], |data| {
        let list = Reader::new(data).counted("names of tunables")?;
        let list = String::from_utf8_lossy(list);
        let names = list.trim_end_matches('\0').split(':').filter(|name| !name.is_empty());
        Ok(names.map(str::to_owned).collect())
    })
}

/// There is no such tunable: said on standard output, as the original does.
fn known(ctx: &mut Context, name: &str) -> Outcome {
    let names = names(ctx).inspect_err(|_| complain!("Failed to get list of variables from node {}", ctx.node))?;
    if !names.iter().any(|n| n.eq_ignore_ascii_case(name)) {
        say!(ctx.out, "No such tunable {name}")?;
        return Err(FAILED);
    }
    Ok(())
}

/// The value of one.
pub(super) fn value(ctx: &mut Context, node: u32, name: &str) -> Result<u32, Exit> {
    let mut asked = Writer::default();
    asked.counted_text(name);
    ctx.get(node, Opcode::GET_TUNABLE, &asked.finish(), |data| Reader::new(data).u32("value of a tunable"))
}

fn show(ctx: &mut Context, name: &str) -> Outcome {
    let value = value(ctx, ctx.node, name)?;
    say!(ctx.out, "{name:<26} = {value}")
}

pub(super) fn getvar(ctx: &mut Context, args: &Args) -> Outcome {
    let [name] = args else { return usage(&mut ctx.out, "getvar") };
    let name = text(name);
    known(ctx, &name)?;
    show(ctx, &name)
}

pub(super) fn setvar(ctx: &mut Context, args: &Args) -> Outcome {
    let [name, value] = args else { return usage(&mut ctx.out, "setvar") };
    let (name, value) = (text(name), text(value));
    known(ctx, &name)?;
    let Some(value) = whole(&value) else { return Err(super::out::EINVAL) };
    let mut order = Writer::default();
    order.u32(value).counted_text(&name);
    let reply = ctx.control(ctx.node, Opcode::SET_TUNABLE, &order.finish())?;
    match reply.status {
        0 => Ok(()),
        1 => {
            complain!("Setting obsolete tunable variable '{name}'");
            Ok(())
        }
        status => {
            complain!("Control SET_TUNABLE failed, ret={status}");
            Err(Exit(status))
        }
    }
}

/// A number and nothing else.
fn whole(text: &str) -> Option<u32> {
    let (n, left) = args::prefix(text);
    if text.is_empty() || !left.is_empty() { None } else { u32::try_from(n).ok() }
}

pub(super) fn listvars(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "listvars") };
    for name in names(ctx)? {
        show(ctx, &name)?;
    }
    Ok(())
}
