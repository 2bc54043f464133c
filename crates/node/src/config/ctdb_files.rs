//! CTDB's own `nodes` and `public_addresses` files, accepted as they are. See ctdb(7) and ctdbd(1).
//!
//! `nodes`: one address per line; the line's number is the PNN. A line that begins with `#` is a *removed* node that
//! keeps its number (so there are no comments), and may say what its address was, an empty line counts for nothing. `public_addresses`: `ADDRESS/BITS
//! INTERFACE[,INTERFACE]` per line, `#` begins a comment; every node may have a list of its own.

use super::address::{parse_unicast, parse_vip};
use super::diagnostic::{Diagnostic, Diagnostics, Source};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

/// A line of `nodes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeLine {
    /// None for a removed node.
    pub(super) address: Option<IpAddr>,
    /// What a removed node's line says of its address, if anything.
    pub(super) removed: Option<IpAddr>,
    pub(super) span: Range<usize>,
}

/// A line of `public_addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PublicLine {
    pub(super) address: IpAddr,
    pub(super) prefix_len: u8,
    /// At least one; the first that a machine has is used.
    pub(super) interfaces: Vec<String>,
    pub(super) span: Range<usize>,
}

/// Lines without their blanks at both ends, with their places.
fn lines(source: &Source) -> impl Iterator<Item = (&str, Range<usize>)> {
    let mut at = 0;
    source.text.split('\n').map(move |line| {
        let text = line.trim();
        let start = at + (line.len() - line.trim_start().len());
        at += line.len() + 1;
        (text, start..start + text.len())
    })
}

/// Reads a `nodes` file. `loopback`: loopback addresses will do.
pub(super) fn nodes(source: &Arc<Source>, loopback: bool, problems: &mut Diagnostics) -> Vec<NodeLine> {
    let mut found = Vec::new();
    for (text, span) in lines(source).filter(|(text, _)| !text.is_empty()) {
        if let Some(removed) = text.strip_prefix('#') {
            let removed = parse_unicast(removed.trim(), loopback).ok();
            found.push(NodeLine { address: None, removed, span });
            continue;
        }
        match parse_unicast(text, loopback) {
            Ok(address) => found.push(NodeLine { address: Some(address), removed: None, span }),
            Err(wrong) => problems.push(
                Diagnostic::error(format!("`{text}` cannot be a node's address"))
                    .at(source, span, wrong.label)
                    .help(format!("{}; a line of a removed node begins with #", wrong.help)),
            ),
        }
    }
    found
}

/// Reads a `public_addresses` file.
pub(super) fn public_addresses(source: &Arc<Source>, problems: &mut Diagnostics) -> Vec<PublicLine> {
    let mut found = Vec::new();
    for (text, span) in lines(source).filter(|(text, _)| !text.is_empty() && !text.starts_with('#')) {
        let mut words = text.split_whitespace();
        let (Some(address), Some(interfaces), None) = (words.next(), words.next(), words.next()) else {
            problems.push(
                Diagnostic::error("a public address needs an interface and nothing else")
                    .at(source, span, "")
                    .help("write ADDRESS/BITS INTERFACE, as 192.168.122.200/24 eth0"),
            );
            continue;
        };
        let interfaces: Vec<String> = interfaces.split(',').filter(|i| !i.is_empty()).map(String::from).collect();
        match parse_vip(address) {
            Ok((address, prefix_len)) if !interfaces.is_empty() => {
                found.push(PublicLine { address, prefix_len, interfaces, span })
            }
            Ok(_) => problems.push(
                Diagnostic::error("a public address needs an interface")
                    .at(source, span, "")
                    .help(format!("write {address} eth0")),
            ),
            Err(wrong) => problems.push(
                Diagnostic::error(format!("`{address}` cannot be a public address"))
                    .at(source, span, wrong.label)
                    .help(wrong.help),
            ),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn source(text: &str) -> Arc<Source> {
        Source::new(Path::new("/etc/ctdb/x"), text.into())
    }

    #[test]
    fn a_commented_node_keeps_its_number_and_an_empty_line_has_none() {
        let mut problems = Diagnostics::default();
        let text = "10.0.0.1\n\n#10.0.0.2\n  10.0.0.3 \r\nfd00::4";
        let addresses: Vec<_> = nodes(&source(text), false, &mut problems).into_iter().map(|l| l.address).collect();
        assert_eq!(problems.errors(), 0, "{problems}");
        let ip = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(addresses, [ip("10.0.0.1"), None, ip("10.0.0.3"), ip("fd00::4")]);
    }

    #[test]
    fn public_addresses_are_read_as_ctdb_reads_them() {
        let mut problems = Diagnostics::default();
        let text = "# ours\n10.1.1.1/24 eth0\n\t10.1.1.2/24\teth1,eth2\nfd00:1::5/64 eth0\n";
        let found = public_addresses(&source(text), &mut problems);
        assert_eq!(problems.errors(), 0, "{problems}");
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].interfaces, ["eth1", "eth2"]);
        assert_eq!(&text[found[1].span.clone()], "10.1.1.2/24\teth1,eth2");
    }

    #[test]
    fn wrong_lines_are_named() {
        let mut problems = Diagnostics::default();
        nodes(&source("gluster1\n10.0.0.0/8\n127.0.0.1\n"), false, &mut problems);
        public_addresses(&source("10.0.0.1 eth0\n10.0.0.1/24\n10.0.0.1/24 eth0 eth1\n10.0.0.1/24 ,\n"), &mut problems);
        assert_eq!(problems.errors(), 7, "{problems}");
        assert!(problems.to_string().contains("/etc/ctdb/x:3:1"), "{problems}");
    }
}
