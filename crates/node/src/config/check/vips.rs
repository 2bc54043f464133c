//! The public addresses, from `[[vip]]` or from CTDB's `public_addresses` files.

use super::Context;
use super::nodes::Nodes;
use crate::config::address::{network, parse_vip};
use crate::config::ctdb_files::{self, PublicLine};
use crate::config::diagnostic::{Diagnostic, Mark};
use crate::config::model::PublicList;
use crate::config::parse::nearest;
use crate::config::spec::VipSpec;
use cluster::{Pnn, Role, VipConf};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use toml::Spanned;

/// The public addresses found.
#[derive(Debug, Default)]
pub(super) struct Vips {
    pub(super) all: BTreeMap<IpAddr, VipConf>,
    pub(super) own_list: Option<PublicList>,
}

/// Reads them. Without any the cluster has nothing to move, which is allowed and said.
pub(super) fn vips(
    context: &mut Context<'_>,
    specs: &[Spanned<VipSpec>],
    file: Option<&Spanned<PathBuf>>,
    nodes: &Nodes,
    me: Option<Pnn>,
) -> Vips {
    match (specs.first(), file) {
        (Some(first), Some(file)) => {
            let diagnostic = Diagnostic::error("two lists of public addresses")
                .at(&context.source, file.span(), "one is this file")
                .at(&context.source, first.span(), "another begins here")
                .help("keep one of them: remove `public_addresses_file`, or all [[vip]] sections");
            context.problems.push(diagnostic);
            Vips::default()
        }
        (None, Some(file)) => from_files(context, file, nodes, me),
        (Some(_), None) => from_specs(context, specs, nodes, me),
        (None, None) => {
            context.warning(
                "there are no public addresses",
                0..0,
                "",
                "add a section [[vip]] with address and interface for each, or `public_addresses_file = \"/etc/ctdb/public_addresses\"`",
            );
            Vips::default()
        }
    }
}

fn from_specs(context: &mut Context<'_>, specs: &[Spanned<VipSpec>], nodes: &Nodes, me: Option<Pnn>) -> Vips {
    let mut all = BTreeMap::new();
    let mut places: BTreeMap<IpAddr, (u8, Mark)> = BTreeMap::new();
    for spec in specs {
        let place = spec.span();
        let spec = spec.get_ref();
        let hosts = hosts(context, spec, &place, nodes, me);
        let Some(text) = &spec.address else {
            context.error(
                "a public address without an address",
                place,
                "",
                "write address = \"192.168.122.200/24\" under [[vip]]",
            );
            continue;
        };
        match parse_vip(text.get_ref()) {
            Err(wrong) => context.error(
                format!("\"{}\" cannot be a public address", text.get_ref()),
                text.span(),
                wrong.label,
                wrong.help,
            ),
            Ok((address, prefix_len)) => {
                let mark = Mark::new(&context.source, text.span(), "");
                if fits(context, nodes, &places, address, prefix_len, &mark) {
                    places.insert(address, (prefix_len, mark));
                    all.insert(address, VipConf { prefix_len, hosts });
                }
            }
        }
    }
    Vips { all, own_list: None }
}

/// Who may host it, on which interface.
fn hosts(
    context: &mut Context<'_>,
    spec: &VipSpec,
    place: &std::ops::Range<usize>,
    nodes: &Nodes,
    me: Option<Pnn>,
) -> BTreeMap<Pnn, String> {
    let mut allowed = BTreeSet::new();
    if let Some(list) = &spec.nodes {
        for name in list.get_ref() {
            match nodes.named(name.get_ref()) {
                Some(pnn) if nodes.list.get(&pnn).is_some_and(|n| n.role == Role::Witness) => context.error(
                    format!("\"{}\" is a witness", name.get_ref()),
                    name.span(),
                    "a witness hosts no public address",
                    "remove it here",
                ),
                Some(pnn) => {
                    allowed.insert(pnn);
                }
                None => context.error(
                    format!("no node is called \"{}\"", name.get_ref()),
                    name.span(),
                    "",
                    nodes.suggestion(name.get_ref()),
                ),
            }
        }
        if list.get_ref().is_empty() {
            context.error(
                "a public address that no node may host",
                list.span(),
                "",
                "name the nodes, or remove the line to allow all",
            );
        }
    } else {
        let servers = nodes.list.iter().filter(|(_, n)| n.role == Role::Server);
        allowed.extend(servers.map(|(pnn, _)| *pnn));
    }
    let mut by_node: BTreeMap<Pnn, &Spanned<String>> = BTreeMap::new();
    for (name, interface) in &spec.interfaces {
        match nodes.named(name.get_ref()) {
            Some(pnn) => {
                by_node.insert(pnn, interface);
            }
            None => context.error(
                format!("no node is called \"{}\"", name.get_ref()),
                name.span(),
                "",
                nodes.suggestion(name.get_ref()),
            ),
        }
    }
    let given = spec.interface.iter().chain(spec.interfaces.values());
    for interface in given {
        if !is_interface(interface.get_ref()) {
            context.error(
                format!("\"{}\" cannot be an interface", interface.get_ref()),
                interface.span(),
                "",
                "write a name as `ip link` shows it, 1 to 15 characters",
            );
        }
    }
    let mut hosts = BTreeMap::new();
    let mut nowhere = false;
    for pnn in &allowed {
        let Some(interface) = by_node.get(pnn).copied().or(spec.interface.as_ref()) else {
            nowhere = true;
            continue;
        };
        if Some(*pnn) == me {
            exists_here(context, interface);
        }
        hosts.insert(*pnn, interface.get_ref().clone());
    }
    if nowhere {
        context.error(
            "a public address without an interface",
            place.clone(),
            "",
            "write interface = \"eth0\" (or `interfaces = { gluster1 = \"eth0\", ... }` for every node that may host it)",
        );
    }
    hosts
}

/// Linux: 1 to 15 bytes, no slash, no blank.
fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(['/', ':'])
        && !name.contains(char::is_whitespace)
}

fn exists_here(context: &mut Context<'_>, interface: &Spanned<String>) {
    let mark = Mark::new(&context.source, interface.span(), "");
    missing_interface(context, interface.get_ref(), mark);
}

fn missing_interface(context: &mut Context<'_>, interface: &str, mark: Mark) {
    let machine = context.machine;
    if !context.is_node || machine.loopback || machine.interfaces.contains(interface) {
        return;
    }
    let real: Vec<&str> = machine.interfaces.iter().map(String::as_str).filter(|i| *i != "lo").collect();
    let help = match nearest(interface, &real) {
        Some(name) => format!("write \"{name}\"; interfaces of this machine: {}", real.join(", ")),
        None => format!("interfaces of this machine: {}", real.join(", ")),
    };
    context
        .problems
        .push(Diagnostic::error(format!("this machine has no interface {interface}")).mark(mark).help(help));
}

/// Against addresses seen before: no duplicate, no node's own, no overlapping networks.
fn fits(
    context: &mut Context<'_>,
    nodes: &Nodes,
    places: &BTreeMap<IpAddr, (u8, Mark)>,
    address: IpAddr,
    prefix_len: u8,
    mark: &Mark,
) -> bool {
    let labelled = |mark: &Mark, label: &str| Mark { label: label.into(), ..mark.clone() };
    if let Some((_, first)) = places.get(&address) {
        let diagnostic = Diagnostic::error(format!("public address {address} is given twice"))
            .mark(labelled(mark, "and again here"))
            .mark(labelled(first, "first here"))
            .help("remove one of them");
        context.problems.push(diagnostic);
        return false;
    }
    if let Some((pnn, own)) = nodes.addresses.get(&address) {
        let name = nodes.list.get(pnn).map_or_else(|| pnn.to_string(), |n| n.name.clone());
        let diagnostic = Diagnostic::error(format!("public address {address} is {name}'s own address"))
            .mark(labelled(mark, "a public address moves between the nodes"))
            .mark(labelled(own, "a node's address stays"))
            .help("write a free address here");
        context.problems.push(diagnostic);
        return false;
    }
    let clash = places.iter().find(|(other, (bits, _))| {
        let shorter = prefix_len.min(*bits);
        other.is_ipv4() == address.is_ipv4()
            && *bits != prefix_len
            // addresses of their own (/32, /128) lie in no network
            && prefix_len.max(*bits) < if address.is_ipv4() { 31 } else { 127 }
            && network(**other, shorter) == network(address, shorter)
    });
    if let Some((other, (bits, first))) = clash {
        let diagnostic = Diagnostic::error(format!("{address}/{prefix_len} and {other}/{bits} overlap"))
            .mark(labelled(mark, "one network"))
            .mark(labelled(first, "with two prefix lengths"))
            .help(format!("write the same prefix length for both, as {address}/{bits}"));
        context.problems.push(diagnostic);
        return false;
    }
    true
}

/// CTDB's lists. `{node}` or `{pnn}` in the path stands for each node, so that all lists can lie in one place.
fn from_files(context: &mut Context<'_>, file: &Spanned<PathBuf>, nodes: &Nodes, me: Option<Pnn>) -> Vips {
    let pattern = file.get_ref().to_string_lossy().into_owned();
    let servers: Vec<Pnn> = nodes.list.iter().filter(|(_, n)| n.role == Role::Server).map(|(pnn, _)| *pnn).collect();
    let mut vips = Vips::default();
    let mut places = BTreeMap::new();
    if pattern.contains("{node}") || pattern.contains("{pnn}") {
        for pnn in servers {
            let name = nodes.list.get(&pnn).map_or("", |n| n.name.as_str());
            let path = pattern.replace("{node}", name).replace("{pnn}", &pnn.to_string());
            let path = Spanned::new(file.span(), PathBuf::from(path));
            let list = one_list(context, &path, nodes, &mut places, Some(pnn) == me);
            add(&mut vips.all, pnn, &list);
        }
        return vips;
    }
    let list = one_list(context, file, nodes, &mut places, me.is_some());
    for pnn in servers {
        add(&mut vips.all, pnn, &list);
    }
    vips.own_list = Some(list);
    vips
}

fn add(all: &mut BTreeMap<IpAddr, VipConf>, pnn: Pnn, list: &PublicList) {
    for (address, (prefix_len, interface)) in list {
        let vip = all.entry(*address).or_insert_with(|| VipConf { prefix_len: *prefix_len, hosts: BTreeMap::new() });
        vip.hosts.insert(pnn, interface.clone());
    }
}

fn one_list(
    context: &mut Context<'_>,
    file: &Spanned<PathBuf>,
    nodes: &Nodes,
    places: &mut BTreeMap<IpAddr, (u8, Mark)>,
    here: bool,
) -> PublicList {
    let mut list = PublicList::new();
    let Some(source) = context.named_file("public_addresses_file", file) else {
        return list;
    };
    for line in ctdb_files::public_addresses(&source, context.problems) {
        let mark = Mark::new(&source, line.span.clone(), "");
        let elsewhere = places.get(&line.address).filter(|(_, m)| m.source.path != source.path);
        let fits = match elsewhere {
            // the same address in another node's list is what makes it movable
            Some((prefix_len, first)) if *prefix_len != line.prefix_len => {
                let diagnostic = Diagnostic::error(format!("{} has two prefix lengths", line.address))
                    .mark(mark.clone())
                    .mark(first.clone())
                    .help(format!("write {}/{prefix_len} in both lists", line.address));
                context.problems.push(diagnostic);
                false
            }
            Some(_) => true,
            None => fits(context, nodes, places, line.address, line.prefix_len, &mark),
        };
        if !fits {
            continue;
        }
        let interface = choose(context, &line, here, &mark);
        list.insert(line.address, (line.prefix_len, interface));
        places.entry(line.address).or_insert((line.prefix_len, mark));
    }
    list
}

/// CTDB allows several interfaces for one address; the first that this machine has is used.
fn choose(context: &mut Context<'_>, line: &PublicLine, here: bool, mark: &Mark) -> String {
    let first = line.interfaces.first().cloned().unwrap_or_default();
    if !here {
        return first;
    }
    let found = line.interfaces.iter().find(|i| context.machine.interfaces.contains(*i)).cloned();
    found.unwrap_or_else(|| {
        missing_interface(context, &first, mark.clone());
        first
    })
}
