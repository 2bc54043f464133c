//! Public addresses and interfaces.

use super::args;
use super::commands::{Args, usage};
use super::context::{Context, active, connected, text};
use super::nodes::ip as parse_ip;
use super::out::{Exit, FAILED, Outcome, complain, say};
use ctdb::control::{Iface, Ifaces, Opcode, PublicIp, PublicIpInfo, PublicIps};
use ctdb::node::{BROADCAST_CONNECTED, UNKNOWN};
use ctdb::srvid;
use ctdb::wire::{SockAddr, Writer};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How often an order about an address is tried, and the pause between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(3);
/// Bytes that an interface's name can have.
const IFACE_LEN: usize = 16;

pub(super) fn address_arg(arg: &std::ffi::OsString) -> Result<IpAddr, Exit> {
    let arg = text(arg);
    parse_ip(&arg).ok_or_else(|| invalid(&arg))
}

pub(super) fn invalid(address: &str) -> Exit {
    complain!("Invalid IP address {address}");
    FAILED
}

/// An address as the daemon is asked about it, without or with a port.
pub(super) fn wire(address: SocketAddr) -> Vec<u8> {
    let mut out = Writer::default();
    SockAddr(address).put(&mut out);
    out.finish()
}

/// Who hosts what, by every active node's own word.
fn everywhere(ctx: &mut Context) -> Result<Vec<PublicIp>, Exit> {
    let mut found: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let nodes = active(&ctx.nodes()?.0);
    if nodes.is_empty() {
        return Err(FAILED);
    }
    for node in nodes {
        let ips = ctx.get(node, Opcode::GET_PUBLIC_IPS, &[], PublicIps::get).map_err(|_| FAILED)?;
        for ip in ips.0 {
            // Only the host itself is believed.
            let host = found.entry(ip.address).or_insert(UNKNOWN);
            if ip.pnn == node {
                *host = node;
            }
        }
    }
    Ok(found.into_iter().map(|(address, pnn)| PublicIp { pnn, address }).collect())
}

pub(super) fn ip(ctx: &mut Context, args: &Args) -> Outcome {
    let all = match args {
        [] => false,
        [word] if word == "all" => true,
        _ => return usage(&mut ctx.out, "ip"),
    };
    let mut ips =
        if all { everywhere(ctx)? } else { ctx.get(ctx.node, Opcode::GET_PUBLIC_IPS, &[], PublicIps::get)?.0 };
    ips.sort_by_key(|ip| ip.address);
    let mut infos = Vec::new();
    for ip in &ips {
        let asked = if all { ip.pnn } else { ctx.node };
        infos.push(if asked == UNKNOWN {
            None
        } else {
            let data = wire(SocketAddr::new(ip.address, 0));
            Some(ctx.get(asked, Opcode::GET_PUBLIC_IP_INFO, &data, PublicIpInfo::get)?)
        });
    }
    let (s, machine, verbose) = (ctx.options.separator.clone(), ctx.options.machine, ctx.options.verbose);
    match (machine, verbose) {
        (true, true) => {
            say!(ctx.out, "{s}Public IP{s}Node{s}ActiveInterfaces{s}AvailableInterfaces{s}ConfiguredInterfaces{s}")?;
        }
        (true, false) => say!(ctx.out, "{s}Public IP{s}Node{s}")?,
        _ if all => say!(ctx.out, "Public IPs on ALL nodes")?,
        _ => say!(ctx.out, "Public IPs on node {}", ctx.node)?,
    }
    for (ip, info) in ips.iter().zip(&infos) {
        let (address, pnn) = (ip.address, ip.pnn.cast_signed());
        let [active, available, configured] = interfaces(info.as_ref());
        match (machine, verbose) {
            (true, true) => say!(ctx.out, "{s}{address}{s}{pnn}{s}{active}{s}{available}{s}{configured}{s}")?,
            (true, false) => say!(ctx.out, "{s}{address}{s}{pnn}{s}")?,
            (false, true) => {
                say!(ctx.out, "{address} node[{pnn}] active[{active}] available[{available}] configured[{configured}]")?
            }
            (false, false) => say!(ctx.out, "{address} {pnn}")?,
        }
    }
    Ok(())
}

/// The interface that an address is on, those that are up, and all.
fn interfaces(info: Option<&PublicIpInfo>) -> [String; 3] {
    let Some(info) = info else { return Default::default() };
    let names = |up_only: bool| {
        let of = info.ifaces.0.iter().filter(|iface| iface.up || !up_only).map(|iface| iface.name.as_str());
        of.collect::<Vec<_>>().join(",")
    };
    let active = info.active.and_then(|at| info.ifaces.0.get(at as usize));
    [active.map_or_else(String::new, |iface| iface.name.clone()), names(true), names(false)]
}

pub(super) fn ipinfo(ctx: &mut Context, args: &Args) -> Outcome {
    let [arg] = args else { return usage(&mut ctx.out, "ipinfo") };
    let address = address_arg(arg)?;
    let found = ctx.get(ctx.node, Opcode::GET_PUBLIC_IP_INFO, &wire((address, 0).into()), PublicIpInfo::get);
    let info = match found {
        Ok(info) => info,
        Err(exit) => {
            if exit == Exit(-1) {
                say!(ctx.out, "Node {} does not know about IP {}", ctx.node, text(arg))?;
            }
            return Err(exit);
        }
    };
    let address = info.ip.address;
    say!(ctx.out, "Public IP[{address}] info on node {}", ctx.node)?;
    say!(ctx.out, "IP:{address}\nCurrentNode:{}\nNumInterfaces:{}", info.ip.pnn, info.ifaces.0.len())?;
    for (at, iface) in info.ifaces.0.iter().enumerate() {
        let active = if info.active.is_some_and(|active| active as usize == at) { " (active)" } else { "" };
        let (n, name, link) = (at + 1, &iface.name, link(iface));
        say!(ctx.out, "Interface[{n}]: Name:{name} Link:{link} References:{}{active}", iface.references)?;
    }
    Ok(())
}

fn link(iface: &Iface) -> &'static str {
    if iface.up { "up" } else { "down" }
}

pub(super) fn ifaces(ctx: &mut Context, args: &Args) -> Outcome {
    let [] = args else { return usage(&mut ctx.out, "ifaces") };
    let Ifaces(ifaces) = ctx.get(ctx.node, Opcode::GET_IFACES, &[], Ifaces::get)?;
    if ifaces.is_empty() {
        return say!(ctx.out, "No interfaces configured on node {}", ctx.node);
    }
    let s = ctx.options.separator.clone();
    if ctx.options.machine {
        say!(ctx.out, "{s}Name{s}LinkStatus{s}References{s}")?;
    } else {
        say!(ctx.out, "Interfaces on node {}", ctx.node)?;
    }
    for iface in &ifaces {
        let (name, references) = (&iface.name, iface.references);
        if ctx.options.machine {
            say!(ctx.out, "{s}{name}{s}{}{s}{references}{s}", u8::from(iface.up))?;
        } else {
            say!(ctx.out, "name:{name} link:{} references:{references}", link(iface))?;
        }
    }
    Ok(())
}

pub(super) fn setifacelink(ctx: &mut Context, args: &Args) -> Outcome {
    let [name, state] = args else { return usage(&mut ctx.out, "setifacelink") };
    let name = text(name);
    if name.len() > IFACE_LEN {
        complain!("Interface name '{name}' too long");
        return Err(FAILED);
    }
    let found = ctx.get(ctx.node, Opcode::GET_IFACES, &[], Ifaces::get);
    let ifaces = found.inspect_err(|_| complain!("Failed to get interface information from node {}", ctx.node))?;
    if !ifaces.0.iter().any(|iface| iface.name == name) {
        say!(ctx.out, "Interface {name} not configured on node {}", ctx.node)?;
        return Err(FAILED);
    }
    let up = match state.to_str() {
        Some("up") => true,
        Some("down") => false,
        _ => return usage(&mut ctx.out, "setifacelink"),
    };
    let mut out = Writer::default();
    Iface { name: name.into_owned(), up, references: 0 }.put(&mut out);
    ctx.ask_node(Opcode::SET_IFACE_LINK_STATE, &out.finish()).map(drop)
}

pub(super) fn gratarp(ctx: &mut Context, args: &Args) -> Outcome {
    let [address, iface] = args else { return usage(&mut ctx.out, "gratarp") };
    let data = on_interface(address_arg(address)?, 0, Some(&text(iface)));
    let done = ctx.ask_node(Opcode::SEND_GRATUITOUS_ARP, &data).map(drop);
    done.inspect_err(|_| complain!("Unable to send gratuitous arp from node {}", ctx.node))
}

/// An address, its mask and its interface, as orders carry them.
fn on_interface(address: IpAddr, mask: u32, iface: Option<&str>) -> Vec<u8> {
    let mut out = Writer::default();
    SockAddr::ip(address).put(&mut out);
    out.u32(mask);
    match iface {
        Some(iface) => out.counted_text(iface),
        None => out.u32(0),
    };
    out.finish()
}

/// Fails unless the node knows the address; the answer says whether it does.
fn knows(ctx: &mut Context, node: u32, address: IpAddr) -> Result<bool, Exit> {
    let ips = ctx.get(node, Opcode::GET_PUBLIC_IPS, &[], PublicIps::get);
    let ips = ips.inspect_err(|_| complain!("Failed to get Public IPs from node {node}"))?;
    Ok(ips.0.iter().any(|ip| ip.address == address))
}

pub(super) fn addip(ctx: &mut Context, args: &Args) -> Outcome {
    let [with_mask, iface] = args else { return usage(&mut ctx.out, "addip") };
    let with_mask = text(with_mask);
    let parts = with_mask.split_once('/').and_then(|(address, mask)| Some((parse_ip(address)?, mask.parse().ok()?)));
    let Some((address, mask)) = parts else {
        complain!("Invalid IP/Mask {with_mask}");
        return Err(FAILED);
    };
    if knows(ctx, ctx.node, address).map_err(|_| FAILED)? {
        complain!("Node already knows about IP {address}");
        return Ok(());
    }
    let data = on_interface(address, mask, Some(&text(iface)));
    if let Err(exit) = repeatedly(|| ctx.ask_node(Opcode::ADD_PUBLIC_IP, &data).map(drop)) {
        complain!("Failed to add public IP to node {}. Giving up", ctx.node);
        return Err(exit);
    }
    let sent = ctx.client.send_message(BROADCAST_CONNECTED, srvid::REBALANCE_NODE, &ctx.node.to_ne_bytes());
    sent.map_err(|error| {
        complain!("Failed to ask leader to distribute IPs");
        Context::lost(&error)
    })
}

/// What may fail while addresses are on the move.
fn repeatedly(mut order: impl FnMut() -> Outcome) -> Outcome {
    let mut last = Ok(());
    for _ in 0..ATTEMPTS {
        last = order();
        if last.is_ok() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    last
}

pub(super) fn delip(ctx: &mut Context, args: &Args) -> Outcome {
    let [address] = args else { return usage(&mut ctx.out, "delip") };
    let address = address_arg(address)?;
    if !knows(ctx, ctx.node, address).map_err(|_| FAILED)? {
        complain!("Node does not know about IP address {address}");
        return Ok(());
    }
    let done = ctx.ask_node(Opcode::DEL_PUBLIC_IP, &on_interface(address, 0, None)).map(drop);
    done.inspect_err(|_| complain!("Failed to delete public IP from node {}", ctx.node))
}

pub(super) fn moveip(ctx: &mut Context, args: &Args) -> Outcome {
    let [address, to] = args else { return usage(&mut ctx.out, "moveip") };
    let shown = text(address);
    let (address, node) = (address_arg(address)?, args::lenient_u32(&text(to)));
    if node == UNKNOWN {
        complain!("Invalid PNN {}", text(to));
        return Err(FAILED);
    }
    repeatedly(|| move_once(ctx, address, node)).inspect_err(|_| complain!("Failed to move IP {shown} to node {node}"))
}

fn move_once(ctx: &mut Context, address: IpAddr, node: u32) -> Outcome {
    let quiet = 2 * ctx.options.time_limit.cast_unsigned();
    let sent = ctx.client.send_message(BROADCAST_CONNECTED, srvid::DISABLE_IP_CHECK, &quiet.to_ne_bytes());
    sent.map_err(|error| {
        complain!("Failed to disable IP check");
        Context::lost(&error)
    })?;
    if !knows(ctx, node, address)? {
        complain!("Node {node} CANNOT host IP address {address}");
        return Err(FAILED);
    }
    let mut order = Writer::default();
    order.u32(node);
    SockAddr::ip(address).put(&mut order);
    let order = order.finish();
    let mut others = active(&ctx.nodes()?.0);
    others.retain(|other| *other != node);
    if others.is_empty() {
        complain!("There is no other active node");
        return Err(FAILED);
    }
    ctx.ask_all(&others, Opcode::RELEASE_IP, &order).inspect_err(|_| complain!("Failed to release IP on nodes"))?;
    let taken = ctx.ask(node, Opcode::TAKEOVER_IP, &order).map(drop);
    taken.inspect_err(|_| complain!("Failed to takeover IP on node {node}"))
}

pub(super) fn reloadips(ctx: &mut Context, args: &Args) -> Outcome {
    let list = match args {
        [] => None,
        [list] => Some(text(list).into_owned()),
        _ => return usage(&mut ctx.out, "reloadips"),
    };
    let everybody = connected(&ctx.nodes()?.0);
    let wanted = active(&ctx.listed(list.as_deref())?);
    if everybody.is_empty() || wanted.is_empty() {
        complain!("No active node is to read its public addresses anew");
        return Err(FAILED);
    }
    let quiet = 2 * ctx.options.time_limit.cast_unsigned();
    let runs = srvid::DISABLE_TAKEOVER_RUNS;
    super::admin::hold_off(ctx, runs, "takeover runs", quiet, &everybody)
        .inspect_err(|_| complain!("Failed to disable takeover runs"))?;
    if ctx.ask_all(&wanted, Opcode::RELOAD_PUBLIC_IPS, &[]).is_err() {
        complain!("Failed to reload IPs on some nodes.");
    }
    super::admin::hold_off(ctx, runs, "takeover runs", 0, &everybody)
        .inspect_err(|_| complain!("Failed to enable takeover runs"))?;
    super::admin::reallocate(ctx)
}
