//! The laboratory's switch: bridges `lan` and `mesh` in the laboratory's own network namespace, cables, cuts.
//!
//! A partition is made in the switch (nftables, bridge family): frames between the parts vanish without a trace for
//! either end, as with a broken trunk. Clients still reach every node unless the partition names them.

use crate::lab::{Lab, Net};
use crate::sh::quick;
use crate::site::Site;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes the bridges.
pub(crate) fn create(site: &Site) -> Result<()> {
    quick(&["ip", "link", "set", "lo", "up"])?;
    no_packet_filters()?;
    let nets: &[Net] = if site.private_net { &[Net::Public, Net::Private] } else { &[Net::Public] };
    for net in nets {
        quick(&["ip", "link", "add", net.bridge(), "type", "bridge", "stp_state", "0", "forward_delay", "0"])?;
        // Multicast snooping would hide neighbour discovery for seconds after a port comes up.
        quick(&["ip", "link", "set", net.bridge(), "type", "bridge", "mcast_snooping", "0"])?;
        quick(&["ip", "link", "set", net.bridge(), "up"])?;
    }
    Ok(())
}

/// A switch knows no IP: without this, frames on their way through it pass the hooks of iptables and nftables' IP
/// families too, where nothing is, and that is a twentieth of what a packet between two daemons costs this machine.
fn no_packet_filters() -> Result<()> {
    for family in ["iptables", "ip6tables", "arptables"] {
        // Of this network namespace alone. Not there: the kernel's bridges do not do it.
        let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        if Path::new(&file).exists() {
            std::fs::write(&file, "0").with_context(|| format!("cannot write {file}"))?;
        }
    }
    Ok(())
}

/// Connects a host that has just got power; the addresses are its own, not the VIPs.
pub(crate) fn plug(lab: &Lab, host: &str, pid: i32) -> Result<()> {
    let site = &lab.site;
    let bystander = site.bystanders().into_iter().find(|b| b.0 == host);
    let (last, addresses) = match bystander {
        Some((_, last)) => (usize::from(last), vec![(Net::Public, format!("192.168.122.{last}/24"))]),
        None => {
            let node = site.node(host)?;
            let mut all = vec![(Net::Public, format!("{}/24", site.public(node)))];
            if site.private_net {
                all.push((Net::Private, format!("{}/24", site.private(node))));
            }
            (100 + node, all)
        }
    };
    let pid = pid.to_string();
    for (net, address) in addresses {
        let (port, interface) = (net.port(host), net.interface());
        let byte = if net == Net::Public { "00" } else { "01" };
        let mac = format!("52:54:00:5f:{byte}:{last:02x}");
        // Left over from before a power cut: it goes with its namespace, but not at once.
        let _ = quick(&["ip", "link", "del", &port]);
        quick(&[
            "ip", "link", "add", &port, "type", "veth", "peer", "name", interface, "address", &mac, "netns", &pid,
        ])?;
        quick(&["ip", "link", "set", &port, "master", net.bridge(), "up"])?;
        let inside = ["nsenter", "-t", &pid, "-n", "ip"];
        let ip = |words: &[&str]| quick(&[&inside[..], words].concat());
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "set", interface, "up"])?;
        ip(&["addr", "add", &address, "dev", interface])?;
        if site.ipv6 && net == Net::Public {
            ip(&["addr", "add", &format!("fd5f:122::{last}/64"), "dev", interface, "nodad"])?;
        }
    }
    Ok(())
}

/// Takes a host's cables out at the switch. The one between the nodes first: a daemon that sees its clients' one go, and has a
/// few milliseconds left to say so over the other, gives its addresses away as no machine without power does.
pub(crate) fn dead(lab: &Lab, host: &str) -> Result<()> {
    if lab.site.private_net && lab.site.node(host).is_ok() {
        link(lab, host, Net::Private, false)?;
    }
    link(lab, host, Net::Public, false)
}

/// One cable, at the switch's end: the host sees its carrier go.
pub(crate) fn link(lab: &Lab, host: &str, net: Net, up: bool) -> Result<()> {
    if net == Net::Private && !lab.site.private_net {
        bail!("this laboratory has no private network: start it with --private-net");
    }
    quick(&["ip", "link", "set", &net.port(host), if up { "up" } else { "down" }]).map(drop)
}

/// Drops all frames between hosts of different groups, on the networks given. An empty list heals.
pub(crate) fn partition(lab: &Lab, groups: &[Vec<String>], nets: &[Net]) -> Result<()> {
    let pairs = groups.iter().enumerate().flat_map(|(i, a)| groups.iter().skip(i + 1).map(move |b| (a, b)));
    cut(lab, &pairs.flat_map(|(a, b)| [(&a[..], &b[..]), (&b[..], &a[..])]).collect::<Vec<_>>(), nets)
}

/// Drops all frames from the first hosts of each pair to its second ones, and no others: what was cut before is healed.
pub(crate) fn cut(lab: &Lab, ways: &[(&[String], &[String])], nets: &[Net]) -> Result<()> {
    let mut script = String::from("add table bridge cut\ndelete table bridge cut\n");
    if !ways.is_empty() {
        script
            .push_str("table bridge cut {\n chain forward {\n  type filter hook forward priority 0; policy accept;\n");
        for net in nets {
            if *net == Net::Private && !lab.site.private_net {
                continue;
            }
            let ports = |hosts: &[String]| {
                let quoted: Vec<String> = hosts.iter().map(|h| format!("\"{}\"", net.port(h))).collect();
                quoted.join(", ")
            };
            for (from, to) in ways {
                writeln!(script, "  iifname {{ {} }} oifname {{ {} }} drop", ports(from), ports(to))?;
            }
        }
        script.push_str(" }\n}\n");
    }
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start `nft` (package nftables)")?;
    if let Some(mut stdin) = child.stdin.take() {
        use std::io::Write;
        stdin.write_all(script.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    if !done.status.success() {
        bail!("nft refused the partition: {}\n{script}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

/// `a,b|c,d` as groups of host names; nodes may be given by number or address.
pub(crate) fn parse_groups(site: &Site, text: &str) -> Result<Vec<Vec<String>>> {
    let mut groups = Vec::new();
    for part in text.split('|') {
        let mut group = Vec::new();
        for word in part.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            if site.bystanders().iter().any(|b| b.0 == word) {
                group.push(word.to_owned());
            } else {
                group.push(crate::site::name(site.node(word)?));
            }
        }
        if group.is_empty() {
            bail!("`{text}`: a part is empty; write for example gluster1|gluster2,gluster3,gluster4");
        }
        groups.push(group);
    }
    if groups.len() < 2 {
        bail!("`{text}`: name at least two parts, separated by |");
    }
    Ok(groups)
}
