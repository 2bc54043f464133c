//! The nodes list, from `[[node]]` or from CTDB's file, and which of them this machine is.

use super::{Context, Purpose};
use crate::config::address::parse_unicast;
use crate::config::ctdb_files;
use crate::config::diagnostic::{Diagnostic, Mark};
use crate::config::parse::nearest;
use crate::config::spec::NodeSpec;
use cluster::{NodeConf, Pnn, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use toml::Spanned;

/// A cluster of more servers than this is none that one shared filesystem carries.
const MOST_NODES: usize = cluster::PnnSet::CAPACITY;
/// Networks between the nodes.
const MOST_NETWORKS: usize = 8;

/// The list, with the places that later checks point at.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) list: BTreeMap<Pnn, NodeConf>,
    pub(super) removed: BTreeMap<Pnn, Option<Vec<IpAddr>>>,
    /// Where each private address is given, and whose it is.
    pub(super) addresses: BTreeMap<IpAddr, (Pnn, Mark)>,
    names: BTreeMap<String, (Pnn, Mark)>,
}

impl Nodes {
    /// The node of this name (capitals do not count).
    pub(super) fn named(&self, name: &str) -> Option<Pnn> {
        self.names.get(&name.to_ascii_lowercase()).map(|(pnn, _)| *pnn)
    }

    /// What to write instead of a name that no node has.
    pub(super) fn suggestion(&self, name: &str) -> String {
        let names: Vec<&str> = self.list.values().map(|n| n.name.as_str()).collect();
        match nearest(name, &names) {
            Some(name) => format!("write \"{name}\""),
            None => format!("nodes are: {}", names.join(", ")),
        }
    }
}

/// Reads the list.
pub(super) fn nodes(context: &mut Context<'_>, specs: &[Spanned<NodeSpec>], file: Option<&Spanned<PathBuf>>) -> Nodes {
    let mut nodes = Nodes::default();
    match (specs.first(), file) {
        (Some(first), Some(file)) => {
            let diagnostic = Diagnostic::error("two lists of nodes")
                .at(&context.source, file.span(), "one is this file")
                .at(&context.source, first.span(), "another begins here")
                .help("keep one of them: remove `nodes_file`, or all [[node]] sections");
            context.problems.push(diagnostic);
        }
        (None, Some(file)) => from_file(context, &mut nodes, file),
        (Some(_), None) => from_specs(context, &mut nodes, specs),
        (None, None) => context.error(
            "there are no nodes",
            0..0,
            "",
            "add a section [[node]] with name and addresses for each server, or `nodes_file = \"/etc/ctdb/nodes\"`",
        ),
    }
    whole_list(context, &nodes);
    // Another machine has got what a removed one had: it is not to be shut out.
    let Nodes { removed, addresses, .. } = &mut nodes;
    removed.values_mut().flatten().for_each(|list| list.retain(|address| !addresses.contains_key(address)));
    nodes
}

fn from_file(context: &mut Context<'_>, nodes: &mut Nodes, file: &Spanned<PathBuf>) {
    let Some(source) = context.named_file("nodes_file", file) else {
        return;
    };
    for (index, line) in ctdb_files::nodes(&source, context.machine.loopback, context.problems).into_iter().enumerate()
    {
        let Some(pnn) = number(context, index, Mark::new(&source, line.span.clone(), "")) else {
            return;
        };
        let Some(address) = line.address else {
            nodes.removed.insert(pnn, line.removed.map(|address| vec![address]));
            continue;
        };
        let mark = Mark::new(&source, line.span, "");
        let name = format!("node{pnn}");
        nodes.names.insert(name.clone(), (pnn, mark.clone()));
        if add_address(context, nodes, pnn, address, mark) {
            let node = NodeConf { name, role: Role::Server, addresses: vec![address] };
            nodes.list.insert(pnn, node);
        }
    }
}

fn from_specs(context: &mut Context<'_>, nodes: &mut Nodes, specs: &[Spanned<NodeSpec>]) {
    for (index, spec) in specs.iter().enumerate() {
        let source = context.source.clone();
        let Some(pnn) = number(context, index, Mark::new(&source, spec.span(), "")) else {
            return;
        };
        let place = spec.span();
        let spec = spec.get_ref();
        if spec.removed {
            let list = spec.addresses.iter().flat_map(Spanned::get_ref);
            let addresses = list.filter_map(|text| {
                parse_unicast(text.get_ref(), context.machine.loopback)
                    .map_err(|wrong| {
                        let title = format!("\"{}\" cannot be a node's address", text.get_ref());
                        context.error(title, text.span(), wrong.label, wrong.help);
                    })
                    .ok()
            });
            let addresses: Vec<_> = addresses.collect();
            nodes.removed.insert(pnn, Some(addresses).filter(|list| !list.is_empty()));
            continue;
        }
        let name = name(context, nodes, pnn, place.clone(), spec.name.as_ref());
        let given = spec.addresses.as_ref().map(|list| (list.span(), list.get_ref().as_slice()));
        let mut addresses = Vec::new();
        match given {
            None | Some((_, [])) => {
                let span = given.map_or(place, |(span, _)| span);
                context.error(
                    "a node without an address",
                    span,
                    "",
                    "write addresses = [\"192.168.122.100\"]; the first is for control and storage",
                );
            }
            Some((span, list)) if list.len() > MOST_NETWORKS => {
                context.error(
                    format!("{} addresses for one node", list.len()),
                    span,
                    "",
                    format!("keep {MOST_NETWORKS} at most: one for each network between the nodes"),
                );
            }
            Some((_, list)) => {
                for text in list {
                    match parse_unicast(text.get_ref(), context.machine.loopback) {
                        Ok(address) => {
                            let mark = Mark::new(&source, text.span(), "");
                            if add_address(context, nodes, pnn, address, mark) {
                                addresses.push(address);
                            }
                        }
                        Err(wrong) => context.error(
                            format!("\"{}\" cannot be a node's address", text.get_ref()),
                            text.span(),
                            wrong.label,
                            wrong.help,
                        ),
                    }
                }
            }
        }
        let node = NodeConf { name, role: spec.role, addresses };
        nodes.list.insert(pnn, node);
    }
}

fn number(context: &mut Context<'_>, index: usize, mark: Mark) -> Option<Pnn> {
    if index >= MOST_NODES {
        let diagnostic = Diagnostic::error(format!("more than {MOST_NODES} nodes"))
            .mark(mark)
            .help("remove the rest; more servers than this need more than one cluster");
        context.problems.push(diagnostic);
        return None;
    }
    u16::try_from(index).ok().map(Pnn)
}

fn name(
    context: &mut Context<'_>,
    nodes: &mut Nodes,
    pnn: Pnn,
    place: std::ops::Range<usize>,
    name: Option<&Spanned<String>>,
) -> String {
    let Some(name) = name else {
        context.error("a node without a name", place, "", "write name = \"...\", best the machine's host name");
        return String::new();
    };
    let text = name.get_ref();
    if !is_host_name(text) {
        context.error(
            format!("\"{text}\" cannot be a node's name"),
            name.span(),
            "",
            "write letters, digits and hyphens, parts of 1 to 63 of them joined by dots, as a host name",
        );
        return text.clone();
    }
    let mark = Mark::new(&context.source, name.span(), "");
    if let Some((_, first)) = nodes.names.get(&text.to_ascii_lowercase()) {
        let first = Mark { label: "first here".into(), ..first.clone() };
        let diagnostic = Diagnostic::error(format!("node \"{text}\" is listed twice"))
            .at(&context.source, name.span(), "and again here")
            .mark(first)
            .help("give one of them another name, or remove it");
        context.problems.push(diagnostic);
    } else {
        nodes.names.insert(text.to_ascii_lowercase(), (pnn, mark));
    }
    text.clone()
}

fn add_address(context: &mut Context<'_>, nodes: &mut Nodes, pnn: Pnn, address: IpAddr, mark: Mark) -> bool {
    if let Some((owner, first)) = nodes.addresses.get(&address) {
        let title = if *owner == pnn {
            format!("{address} is given twice")
        } else {
            format!("two nodes have the address {address}")
        };
        let first = Mark { label: "first here".into(), ..first.clone() };
        let again = Mark { label: "and again here".into(), ..mark };
        let diagnostic =
            Diagnostic::error(title).mark(again).mark(first).help("write each address once, at the node that has it");
        context.problems.push(diagnostic);
        return false;
    }
    nodes.addresses.insert(address, (pnn, mark));
    true
}

/// RFC 1123: what a host may be called.
pub(in crate::config) fn is_host_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

/// What only shows when all nodes are known.
fn whole_list(context: &mut Context<'_>, nodes: &Nodes) {
    let servers = nodes.list.values().filter(|n| n.role == Role::Server).count();
    if servers == 0 && !nodes.list.is_empty() {
        context.error("all nodes are witnesses", 0..0, "", "remove `role = \"witness\"` from those that serve");
    }
    let networks = nodes.list.values().map(|n| n.addresses.len()).max().unwrap_or(0);
    for (pnn, node) in &nodes.list {
        let mark = node.addresses.last().and_then(|a| nodes.addresses.get(a)).map(|(_, mark)| mark.clone());
        if let Some(mark) = mark
            && node.addresses.len() < networks
        {
            let diagnostic = Diagnostic::warning(format!("node {pnn} ({}) is not on every network", node.name))
                .mark(mark)
                .help(format!(
                    "others have {networks} addresses; the n-th address of each node is its place on network n"
                ));
            context.problems.push(diagnostic);
        }
        let families: BTreeSet<bool> =
            nodes.list.values().filter_map(|n| n.addresses.first()).map(IpAddr::is_ipv4).collect();
        if families.len() > 1 && nodes.list.keys().next() == Some(pnn) {
            context.error(
                "the nodes' first addresses are of different families",
                0..0,
                "",
                "write an IPv4 address first at every node, or an IPv6 address first at every node",
            );
        }
    }
}

/// Which node this machine is: by what the operator says, by its addresses, by its host name.
pub(super) fn me(context: &mut Context<'_>, nodes: &Nodes) -> Option<Pnn> {
    if let Some(name) = &context.machine.node {
        let found = nodes.named(name);
        if found.is_none() {
            let help = nodes.suggestion(name);
            let diagnostic =
                Diagnostic::error(format!("no node is called \"{name}\"")).at(&context.source, 0..0, "").help(help);
            context.problems.push(diagnostic);
        }
        return found;
    }
    let here: BTreeSet<Pnn> = nodes
        .addresses
        .iter()
        .filter(|(address, _)| context.machine.addresses.contains(address))
        .map(|(_, (pnn, _))| *pnn)
        .collect();
    let mut found = here.iter();
    match (found.next(), found.next()) {
        (Some(one), None) => {
            context.is_node = true;
            return Some(*one);
        }
        (Some(_), Some(_)) => {
            let names: Vec<&str> = here.iter().filter_map(|p| nodes.list.get(p)).map(|n| n.name.as_str()).collect();
            context.error(
                format!("this machine has addresses of several nodes: {}", names.join(", ")),
                0..0,
                "",
                "correct the addresses, or say which one it is with `--node NAME`",
            );
            return None;
        }
        (None, _) => {}
    }
    let host = context.machine.hostname.clone();
    let short = host.split('.').next().unwrap_or_default();
    if let Some(pnn) = nodes.named(&host).or_else(|| nodes.named(short)) {
        let mark = nodes.names.values().find(|(p, _)| *p == pnn).map(|(_, mark)| mark.clone());
        let title = format!("this machine is called {host}, but has none of the addresses of that node");
        let diagnostic = Diagnostic::warning(title)
            .help("correct `addresses`, or bring the interface up; other nodes cannot reach this one as it is");
        let diagnostic = match mark {
            Some(mark) => diagnostic.mark(mark),
            None => diagnostic,
        };
        context.problems.push(diagnostic);
        return Some(pnn);
    }
    if nodes.list.is_empty() {
        return None;
    }
    if context.purpose == Purpose::Inspect {
        context.warning(
            "this machine is none of the nodes: interfaces were not checked",
            0..0,
            "",
            "run the check on the nodes too, or say which one to assume with `--node NAME`",
        );
        return nodes.list.keys().next().copied();
    }
    let addresses: Vec<String> =
        context.machine.addresses.iter().filter(|a| !a.is_loopback()).map(ToString::to_string).collect();
    context.error(
        format!("this machine ({host}) is none of the nodes"),
        0..0,
        "",
        format!(
            "add one of its addresses to its [[node]] (it has: {}), or start with `--node NAME`",
            addresses.join(", ")
        ),
    );
    None
}
