//! `[dns]`: the zone, the service names and how they are answered for.

use super::Context;
use super::nodes::Nodes;
use crate::config::address::parse_network;
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{Dns, DnsName, NFS, SAMBA};
use crate::config::spec::DnsSpec;
use cluster::{Pnn, VipConf};
use services::config::ServicesConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use toml::Spanned;

/// Answers per second and client network, before truncation.
const RATE_LIMIT: u32 = 50;
/// Name servers that are made up when none are named.
const MOST_SERVERS: usize = 4;

/// Reads the section. Without it there is no DNS server.
pub(super) fn dns(
    context: &mut Context<'_>,
    spec: Option<&Spanned<DnsSpec>>,
    nodes: &Nodes,
    me: Option<Pnn>,
    vips: &BTreeMap<IpAddr, VipConf>,
    services: &ServicesConfig,
) -> Option<Dns> {
    let section = spec?;
    let spec = section.get_ref();
    let zone = zone(context, section)?;
    let names = names(context, section, &zone, vips, services);
    let ttl = context.number("ttl", spec.ttl.as_ref(), 1, 86_400, 1_u32);
    let port = context.number("port", spec.port.as_ref(), 1, 65_535, 53_u16);
    let rate_limit = context.number("rate_limit", spec.rate_limit.as_ref(), 0, 1_000_000, RATE_LIMIT);
    let mut exempt = Vec::new();
    for text in spec.rate_limit_exempt.iter().flatten() {
        match parse_network(text.get_ref()) {
            Ok(network) => exempt.push(network),
            Err(wrong) => context.error(
                format!("\"{}\" cannot be a network", text.get_ref()),
                text.span(),
                wrong.label,
                wrong.help,
            ),
        }
    }
    let ns = servers(context, spec.ns.as_deref(), &zone, vips.len());
    let contact = match &spec.contact {
        Some(contact) => mail(context, contact),
        None => format!("hostmaster.{zone}"),
    };
    Some(Dns {
        names,
        ttl,
        port,
        listen: listen(context, spec.listen.as_deref(), nodes, me, vips),
        ns,
        contact,
        short_names: spec.short_names.unwrap_or(true),
        rate_limit,
        rate_limit_exempt: exempt,
        zone,
    })
}

/// A domain name, in lower case and without a dot at its end.
fn domain(context: &mut Context<'_>, what: &str, text: &Spanned<String>) -> Option<String> {
    let given = text.get_ref();
    let name = given.strip_suffix('.').unwrap_or(given).to_ascii_lowercase();
    match wrong_name(&name) {
        None => Some(name),
        Some(label) => {
            context.error(
                format!("\"{given}\" cannot be {what}"),
                text.span(),
                label,
                "write letters, digits and hyphens, parts of 1 to 63 of them joined by dots",
            );
            None
        }
    }
}

/// Why this is no domain name that clients can look up.
fn wrong_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("it is empty".into());
    }
    if name.len() > 253 {
        return Some(format!("it has {} characters, 253 are allowed", name.len()));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Some("nothing between two dots".into());
        }
        if label.len() > 63 {
            return Some(format!("\"{label}\" has {} characters, 63 are allowed", label.len()));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some(format!("\"{label}\" begins or ends with a hyphen"));
        }
        if let Some(c) = label.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-') {
            return Some(format!("\"{c}\" is not allowed in a host's name"));
        }
    }
    None
}

fn zone(context: &mut Context<'_>, section: &Spanned<DnsSpec>) -> Option<String> {
    let Some(zone) = &section.get_ref().zone else {
        context.error(
            "[dns] has no zone",
            section.span(),
            "",
            "write zone = \"storage.example.com\", the zone that your DNS delegates to this cluster",
        );
        return None;
    };
    domain(context, "a zone", zone)
}

fn names(
    context: &mut Context<'_>,
    section: &Spanned<DnsSpec>,
    zone: &str,
    vips: &BTreeMap<IpAddr, VipConf>,
    services: &ServicesConfig,
) -> Vec<DnsName> {
    let spec = section.get_ref();
    let mut found: Vec<(DnsName, Range<usize>)> = Vec::new();
    for name in &spec.names {
        if let Some(text) = service_name(context, name, zone) {
            let entry = DnsName { name: text, vips: BTreeSet::new(), service: None };
            add(context, &mut found, entry, name.span());
        }
    }
    for entry in &spec.name {
        let place = entry.span();
        let entry = entry.get_ref();
        let Some(name) = &entry.name else {
            context.error("a service name without a name", place, "", "write name = \"glusternfs\" under [[dns.name]]");
            continue;
        };
        let service = entry.service.as_ref().and_then(|s| service(context, s, services));
        let addresses = addresses(context, entry.vips.as_deref(), vips);
        if let Some(text) = service_name(context, name, zone) {
            let entry = DnsName { name: text, vips: addresses, service };
            add(context, &mut found, entry, name.span());
        }
    }
    if found.is_empty() && spec.names.is_empty() && spec.name.is_empty() {
        context.warning(
            "[dns] has no names",
            section.span(),
            "",
            format!("write names = [\"glusternfs\", \"glustercifs\"]; clients then use glusternfs.{zone}"),
        );
    }
    found.into_iter().map(|(name, _)| name).collect()
}

fn add(context: &mut Context<'_>, found: &mut Vec<(DnsName, Range<usize>)>, entry: DnsName, span: Range<usize>) {
    if let Some((_, first)) = found.iter().find(|(other, _)| other.name == entry.name) {
        let diagnostic = Diagnostic::error(format!("service name \"{}\" is given twice", entry.name))
            .at(&context.source, span, "and again here")
            .at(&context.source, first.clone(), "first here")
            .help("remove one of them");
        context.problems.push(diagnostic);
        return;
    }
    found.push((entry, span));
}

/// A name below the zone; the zone itself at its end is taken off.
fn service_name(context: &mut Context<'_>, text: &Spanned<String>, zone: &str) -> Option<String> {
    let name = domain(context, "a service name", text)?;
    let below = name.strip_suffix(zone).and_then(|n| n.strip_suffix('.')).unwrap_or(&name);
    if name == zone {
        context.error("the zone itself always answers with all public addresses", text.span(), "", "remove this name");
        return None;
    }
    if text.get_ref().ends_with('.') && below == name {
        context.error(
            format!("\"{name}.\" is not in the zone {zone}"),
            text.span(),
            "",
            "write the name alone, as \"glusternfs\"",
        );
        return None;
    }
    if below.len() + 1 + zone.len() > 253 {
        context.error(
            format!("\"{below}.{zone}\" is too long"),
            text.span(),
            "",
            "write a shorter name: 253 characters with its zone",
        );
        return None;
    }
    Some(below.to_owned())
}

fn service(context: &mut Context<'_>, text: &Spanned<String>, services: &ServicesConfig) -> Option<String> {
    let (name, section, enabled) = match text.get_ref().as_str() {
        "nfs" => (NFS, "nfs", services.nfs.enabled),
        "smb" | "samba" | "cifs" => (SAMBA, "samba", services.samba.enabled),
        other => {
            context.error(
                format!("\"{other}\" is no service"),
                text.span(),
                "",
                "write \"nfs\" or \"smb\", or remove the line",
            );
            return None;
        }
    };
    if !enabled {
        context.error(
            format!("service \"{}\" is not served by this cluster", text.get_ref()),
            text.span(),
            "",
            format!("write enabled = true under [{section}], or remove this line"),
        );
        return None;
    }
    Some(name.to_owned())
}

fn addresses(
    context: &mut Context<'_>,
    list: Option<&[Spanned<String>]>,
    vips: &BTreeMap<IpAddr, VipConf>,
) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for text in list.unwrap_or_default() {
        let given = text.get_ref();
        let address = given.split('/').next().unwrap_or_default();
        match address.parse::<IpAddr>() {
            Ok(address) if vips.contains_key(&address) => {
                found.insert(address);
            }
            _ => {
                let known: Vec<String> = vips.keys().map(ToString::to_string).collect();
                context.error(
                    format!("\"{given}\" is no public address of this cluster"),
                    text.span(),
                    "",
                    format!("public addresses are: {}", known.join(", ")),
                );
            }
        }
    }
    if list.is_some_and(<[_]>::is_empty) {
        context.error(
            "a service name without addresses",
            0..0,
            "",
            "name public addresses in `vips`, or remove the line for all of them",
        );
    }
    found
}

fn servers(context: &mut Context<'_>, list: Option<&[Spanned<String>]>, zone: &str, vips: usize) -> Vec<String> {
    match list {
        Some(list) if !list.is_empty() => {
            list.iter().filter_map(|name| domain(context, "a name server", name)).collect()
        }
        _ => (1..=vips.clamp(1, MOST_SERVERS)).map(|n| format!("ns{n}.{zone}")).collect(),
    }
}

/// `hostmaster@example.com` as the SOA record has it.
fn mail(context: &mut Context<'_>, contact: &Spanned<String>) -> String {
    let (user, host) = match contact.get_ref().split_once('@') {
        Some((user, host)) if !user.is_empty() => (user.replace('.', "-"), host.to_ascii_lowercase()),
        _ => (String::new(), contact.get_ref().to_ascii_lowercase()),
    };
    let name = if user.is_empty() { host } else { format!("{}.{host}", user.to_ascii_lowercase()) };
    if let Some(label) = wrong_name(&name) {
        context.error(
            format!("\"{}\" cannot be a mail address", contact.get_ref()),
            contact.span(),
            label,
            "write one as hostmaster@example.com, without dots before the @",
        );
    }
    name
}

/// This node's private addresses and all public ones, unless the file says otherwise.
fn listen(
    context: &mut Context<'_>,
    list: Option<&[Spanned<String>]>,
    nodes: &Nodes,
    me: Option<Pnn>,
    vips: &BTreeMap<IpAddr, VipConf>,
) -> Vec<IpAddr> {
    let own = me.and_then(|pnn| nodes.list.get(&pnn)).map(|n| n.addresses.clone()).unwrap_or_default();
    let Some(list) = list else {
        return own.into_iter().chain(vips.keys().copied()).collect();
    };
    let mut found = BTreeSet::new();
    for text in list {
        match text.get_ref().as_str() {
            "node" => found.extend(own.iter().copied()),
            "vips" => found.extend(vips.keys().copied()),
            other => match other.parse::<IpAddr>() {
                Ok(address) if address.is_unspecified() => context.error(
                    "the DNS server needs to know its addresses",
                    text.span(),
                    "an answer must come from the address that was asked",
                    "write \"node\", \"vips\" or addresses; the default is [\"node\", \"vips\"]",
                ),
                Ok(address) => {
                    found.insert(address);
                }
                Err(_) => context.error(
                    format!("\"{other}\" cannot be listened on"),
                    text.span(),
                    "",
                    "write \"node\", \"vips\" or an address",
                ),
            },
        }
    }
    found.into_iter().collect()
}
