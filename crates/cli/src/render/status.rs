//! `steadfast status`.

use super::table::{Cell, Table, wrap};
use super::{Colour, Style, ago, ip, name, node_state, plural};
use cluster::{Health, NodeState, PaceStatus, Role, ServiceHealth, Snapshot, Time, VipState};
use node::admin::api::{Local, Status};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Lines of a failing service's own output that are shown.
const OUTPUT: usize = 5;

/// Nothing to do for anybody: all nodes that nobody told to rest serve, all addresses answer.
pub(crate) fn is_healthy(status: &Status) -> bool {
    troubles(status).is_empty()
}

/// The first few of many, in a line that can be read.
fn some(all: &[String]) -> String {
    match all.len().checked_sub(8) {
        Some(more) if more > 0 => format!("{} and {more} more", all[..8].join(", ")),
        _ => all.join(", "),
    }
}

/// What is not as it should be, most important first, each with what to do.
fn troubles(status: &Status) -> Vec<String> {
    let s = &status.snapshot;
    let mut found = Vec::new();
    let me = s.nodes.get(&s.me);
    let rests = me.is_some_and(|n| matches!(n.state, NodeState::Drained | NodeState::Stopped));
    match &s.view {
        None => found.push(
            "this node has not joined the cluster yet: it waits until it reaches a member; see the links below, and \
             `steadfast events`"
                .to_owned(),
        ),
        Some(view) => {
            if view.members.is_empty() {
                found.push("the view has no members yet: the cluster is starting".into());
            }
            let voters: Vec<_> = view.voters.keys().filter(|pnn| **pnn != s.me).collect();
            let missed: Vec<String> = voters
                .iter()
                .filter(|pnn| {
                    s.nodes.get(pnn).is_none_or(|n| matches!(n.state, NodeState::Down | NodeState::Suspected))
                })
                .map(|pnn| name(s, **pnn))
                .collect();
            let serves = me.is_some_and(|n| n.role == Role::Server) && !rests;
            if serves && s.member && !s.lease.valid {
                let missed =
                    if missed.is_empty() { "none is down".into() } else { format!("missed: {}", missed.join(", ")) };
                found.push(format!(
                    "this node may not serve: grants of {} of {}, more than half are needed ({missed}). Bring voters \
                     back; only if they are gone for good: steadfast force-view",
                    s.lease.grants,
                    plural(s.lease.voters, "voter", "voters")
                ));
            } else if serves && !s.member && !view.members.is_empty() {
                let why = me.map(|n| n.because.as_str()).filter(|b| !b.is_empty());
                found.push(format!("this node is no member of the view: {}", why.unwrap_or("it is being admitted")));
            }
        }
    }
    for (pnn, node) in &s.nodes {
        let what = match node.state {
            NodeState::Down | NodeState::Suspected => format!(
                "{} is not heard: look at the machine, its network and, there, `systemctl status steadfast`",
                node.name
            ),
            NodeState::Unhealthy if *pnn == s.me => {
                format!("{} (this node) is unhealthy: a service fails, see above", node.name)
            }
            NodeState::Unhealthy => format!("{} is unhealthy; on it: steadfast status", node.name),
            NodeState::Banned => format!("{} is banned; to lift it: steadfast continue {}", node.name, node.name),
            NodeState::Joining if *pnn != s.me => format!("{} is joining", node.name),
            NodeState::Starting => format!("{} is starting its services", node.name),
            _ => continue,
        };
        found.push(what);
    }
    let open: Vec<String> = s
        .vips
        .iter()
        .filter(|(_, v)| v.state != VipState::Held || !v.healthy)
        .map(|(address, _)| address.to_string())
        .collect();
    if !open.is_empty() {
        let verb = if open.len() == 1 { "is not" } else { "are not all" };
        found.push(format!("{} {verb} served as it should be; the table says why", some(&open)));
    }
    found
}

/// At a glance: one line, the nodes, the addresses, and what to do.
pub(crate) fn status(status: &Status, now: Time, style: Style) -> String {
    let s = &status.snapshot;
    let mut out = String::new();
    head(status, now, style, &mut out);
    out.push('\n');
    node_table(s, now).draw(style, &mut out);
    if !s.vips.is_empty() {
        out.push('\n');
        ip::table(s, now).draw(style, &mut out);
    }
    local(status, style, &mut out);
    let warnings = warnings(s, &status.local);
    section("Warnings", Colour::Waiting, &warnings, style, &mut out);
    section("To do", Colour::Bad, &troubles(status), style, &mut out);
    if !warnings.is_empty() || !is_healthy(status) {
        let log = &status.local.log;
        let log = if log.is_empty() { String::new() } else { format!("; this node's log: {log}") };
        let _ = writeln!(out, "\n{}", style.paint(Colour::Faint, &format!("More: steadfast events{log}")));
    }
    out
}

/// Without a lease for how long, and what that means for this node's own writes.
fn no_lease(status: &Status, now: Time) -> String {
    let since = status.snapshot.lease.until.filter(|until| *until <= now);
    let since = since.map_or_else(String::new, |until| format!(" for {}", ago(until, now)));
    let held = status.local.storage.as_ref().is_some_and(|s| s.kind == "gluster");
    format!("NO LEASE{since}{}", if held { ", its own storage clients are held" } else { "" })
}

fn head(status: &Status, now: Time, style: Style, out: &mut String) {
    let s = &status.snapshot;
    let heard = |state| !matches!(state, NodeState::Down | NodeState::Suspected | NodeState::Joining);
    let up = s.nodes.values().filter(|n| heard(n.state)).count();
    let held = s.vips.values().filter(|v| v.state == VipState::Held).count();
    let all_well = is_healthy(status);
    let (word, colour) = if all_well { ("OK", Colour::Good) } else { ("NOT OK", Colour::Bad) };
    let mut line = format!("{} of {} up", up, plural(s.nodes.len(), "node", "nodes"));
    if !s.vips.is_empty() {
        let _ = write!(line, ", {held} of {} served", plural(s.vips.len(), "address", "addresses"));
    }
    let _ = writeln!(out, "Cluster {}: {}  {line}", style.paint(Colour::Bold, &s.cluster), style.paint(colour, word));
    let leader = s.leader.map_or_else(|| "no leader".into(), |l| format!("leader {}", name(s, l)));
    let epoch = s.view.as_ref().map_or_else(
        || "no view".into(),
        |v| match v.incarnation.number {
            0 => format!("epoch {}", v.epoch),
            n => format!("epoch {} of life {n}", v.epoch),
        },
    );
    let lease = if s.lease.valid { "lease valid".to_owned() } else { no_lease(status, now) };
    let grants = format!("{} of {} grants", s.lease.grants, s.lease.voters);
    let wait = s.takeover_wait.as_millis();
    let facts = format!("{epoch}, {leader}; this is {}: {lease} ({grants}); takeover after {wait} ms", name(s, s.me));
    for part in wrap(&facts, style.width) {
        let _ = writeln!(out, "{}", style.paint(if s.lease.valid { Colour::Faint } else { Colour::Waiting }, &part));
    }
}

fn node_table(s: &Snapshot, now: Time) -> Table {
    let mut table = Table::new(&["NODE", "PNN", "STATE", "SINCE", "ADDRESSES", "WHY"]);
    for (pnn, node) in &s.nodes {
        let (word, colour) = node_state(node.state);
        let mut because: Vec<String> = Vec::new();
        if !node.because.is_empty() {
            because.push(node.because.clone());
        }
        because.extend(
            node.services
                .iter()
                .filter(|(_, h)| !matches!(h.state, Health::Ok | Health::Off) && !h.because.is_empty())
                .filter(|(_, h)| !node.because.contains(&h.because))
                .map(|(service, h)| format!("{service}: {}", h.because)),
        );
        if let Some(eviction) = &node.evicted {
            let since = ago(eviction.since, now);
            because.push(format!("its storage traffic is shut out for {since}: {}", eviction.because));
        }
        let word = if s.leader == Some(*pnn) { format!("{word}, leader") } else { word.to_owned() };
        let held = node.vips.len();
        let addresses = if held == 0 { "-".to_owned() } else { short_list(&node.vips) };
        table.row([
            Cell::new(node.name.clone(), if *pnn == s.me { Colour::Bold } else { Colour::None }),
            Cell::plain(pnn.to_string()),
            Cell::new(word, colour),
            Cell::plain(ago(node.since, now)),
            Cell::plain(addresses),
            Cell::plain(because.join("; ")),
        ]);
    }
    table
}

/// Two addresses, and how many more; the table of addresses has all.
fn short_list(vips: &BTreeSet<std::net::IpAddr>) -> String {
    let shown: Vec<String> = vips.iter().take(2).map(ToString::to_string).collect();
    match vips.len() {
        n if n > 2 => format!("{} +{}", shown.join(" "), n - 2),
        _ => shown.join(" "),
    }
}

/// What only this node knows, and only what is not OK.
fn local(status: &Status, style: Style, out: &mut String) {
    let local = &status.local;
    let mut items = Vec::new();
    let mount = local.storage.as_ref().map(|s| (format!("mount of {}", s.path), &s.mount));
    let services = local.services.iter().map(|(n, h)| (n.clone(), h));
    for (service, health) in services.chain(mount).filter(|(_, h)| !matches!(h.state, Health::Ok | Health::Off)) {
        items.push(describe(&service, health));
        items.extend(health.output.iter().rev().take(OUTPUT).rev().map(|line| format!("  | {line}")));
    }
    for link in local.links.iter().filter(|l| !l.up) {
        let known_down = status.snapshot.nodes.get(&link.peer).is_some_and(|n| n.state == NodeState::Down);
        if !known_down || status.snapshot.view.is_none() {
            items.push(format!("no link to {}: {}", name(&status.snapshot, link.peer), link.because));
        }
    }
    items.extend(pace(&status.snapshot.pace));
    if let Some(option) = local.storage.as_ref().and_then(|s| s.lifted.as_ref()) {
        items.push(format!("{option} of the volume is 0 while addresses move as planned; it is put back afterwards"));
    }
    if let Some(dns) = &local.dns {
        items.extend(dns.problems.iter().map(|p| format!("DNS: {p}")));
    }
    section(&format!("On {}", name(&status.snapshot, status.snapshot.me)), Colour::Waiting, &items, style, out);
}

/// What went wrong with time since the daemon was started.
fn pace(pace: &PaceStatus) -> Vec<String> {
    let mut items = Vec::new();
    if pace.stalls > 0 {
        items.push(format!(
            "this node stalled {} since its daemon was started, for up to {} ms; `steadfast events` has when",
            times(pace.stalls),
            pace.longest_stall.as_millis()
        ));
    }
    if pace.false_failovers > 0 {
        items.push(format!(
            "{} of a node that had only paused; the longest gap between heartbeats was {} ms",
            if pace.false_failovers == 1 {
                "a false failover".into()
            } else {
                format!("{} false failovers", pace.false_failovers)
            },
            pace.longest_gap.as_millis()
        ));
    }
    items
}

fn times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}

fn describe(service: &str, health: &ServiceHealth) -> String {
    let state = match health.state {
        Health::Off => "off",
        Health::Starting => "starting",
        Health::Ok => "OK",
        Health::Failing => "failing",
        Health::Failed => "FAILED",
    };
    match health.because.as_str() {
        "" => format!("{service} {state}"),
        because => format!("{service} {state}: {because}"),
    }
}

/// The cluster's list names the nodes' own warnings as well; what this node adds is said only if it is not among them.
fn warnings(s: &Snapshot, local: &Local) -> Vec<String> {
    let mut all: Vec<String> = s.warnings.clone();
    for limit in local.storage.iter().flat_map(|s| &s.eviction_limits) {
        if !all.iter().any(|w| w.contains(limit.as_str())) {
            all.push(limit.clone());
        }
    }
    all
}

fn section(title: &str, colour: Colour, items: &[String], style: Style, out: &mut String) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", style.paint(colour, title));
    for item in items {
        let mut lead = "  ";
        for part in wrap(&super::table::one_line(item), style.width.saturating_sub(4).max(20)) {
            let _ = writeln!(out, "{lead}{part}");
            lead = "    ";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn plain(s: &Status, width: usize) -> String {
        status(s, sample::NOW, Style { colour: false, width })
    }

    #[test]
    fn of_hundreds_of_addresses_some_are_named() {
        let all: Vec<String> = (1..=200).map(|i| format!("10.8.0.{i}")).collect();
        assert!(some(&all).ends_with(", 10.8.0.8 and 192 more"));
        assert_eq!(some(&all[..8]), all[..8].join(", "));
    }

    #[test]
    fn all_is_well() {
        let s = sample::healthy();
        assert!(is_healthy(&s));
        assert_eq!(
            plain(&s, 100),
            "\
Cluster storage: OK  3 of 3 nodes up, 2 of 2 addresses served
epoch 7, leader gluster1; this is gluster1: lease valid (3 of 3 grants); takeover after 650 ms

NODE      PNN  STATE       SINCE  ADDRESSES
gluster1  0    OK, leader  2m00s  192.0.2.200
gluster2  1    OK          2m00s  192.0.2.201
gluster3  2    witness     2m00s  -

ADDRESS         NODE      INTERFACE  STATE  SINCE
192.0.2.200/24  gluster1  eth0       held   30s
192.0.2.201/24  gluster2  eth0       held   30s
"
        );
    }

    #[test]
    fn a_dead_node_says_why_and_what_to_do() {
        let s = sample::one_down();
        assert!(!is_healthy(&s));
        assert_eq!(
            plain(&s, 100),
            "\
Cluster storage: NOT OK  2 of 3 nodes up, 1 of 2 addresses served
epoch 8, leader gluster1; this is gluster1: lease valid (2 of 3 grants); takeover after 650 ms

NODE      PNN  STATE       SINCE  ADDRESSES    WHY
gluster1  0    OK, leader  2m00s  192.0.2.200
gluster2  1    DOWN        12s    -            not heard; its storage traffic is shut out for 11s:
                                               gluster2 is not heard
gluster3  2    witness     2m00s  -

ADDRESS         NODE      INTERFACE  STATE    SINCE  WHY
192.0.2.200/24  gluster1  eth0       held     30s
192.0.2.201/24  gluster1  eth0       waiting  1s     until the lease of gluster2 is over

Warnings
  gluster3: the clock jumped

To do
  gluster2 is not heard: look at the machine, its network and, there, `systemctl status steadfast`
  192.0.2.201 is not served as it should be; the table says why

More: steadfast events; this node's log: journalctl -u steadfast
"
        );
    }

    #[test]
    fn a_failing_service_shows_its_own_words() {
        let text = plain(&sample::samba_fails(), 100);
        assert!(text.contains("samba: no answer to SMB2 negotiate"), "{text}");
        assert!(
            text.contains("On gluster1\n  samba FAILED: no answer to SMB2 negotiate\n    | smbd: cannot open"),
            "{text}"
        );
    }

    #[test]
    fn stalls_and_false_failovers_are_shown() {
        let mut s = sample::healthy();
        s.snapshot.pace = PaceStatus {
            stalls: 3,
            longest_stall: std::time::Duration::from_millis(312),
            longest_gap: std::time::Duration::from_millis(440),
            false_failovers: 1,
        };
        let text = plain(&s, 120);
        assert!(text.contains("stalled 3 times since its daemon was started, for up to 312 ms"), "{text}");
        assert!(text.contains("a false failover of a node that had only paused"), "{text}");
        assert!(is_healthy(&s), "history is no trouble");
    }

    #[test]
    fn no_lease_is_no_service() {
        let text = plain(&sample::minority(), 100);
        assert!(text.contains("NO LEASE"), "{text}");
        assert!(text.contains("grants of 1 of 3 voters") && text.contains("force-view"), "{text}");
        let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(joined.contains("missed: gluster2, gluster3"), "{text}");
        let text = plain(&sample::not_joined(), 100);
        assert!(text.contains("no view") && text.contains("no link to gluster2: 192.0.2.2:4390"), "{text}");
    }

    #[test]
    fn who_rests_on_purpose_is_healthy() {
        assert!(is_healthy(&sample::drained()));
        let text = plain(&sample::drained(), 100);
        assert!(text.contains("drained") && text.contains("OK  3 of 3 nodes up"), "{text}");
    }

    #[test]
    fn narrow_terminals_lose_nothing() {
        for width in [20, 40, 60, 80] {
            let text = plain(&sample::one_down(), width);
            for part in ["not heard", "shut out", "lease of gluster2", "clock jumped", "192.0.2.201"] {
                let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(joined.contains(part), "{width}: {part}\n{text}");
            }
        }
    }

    #[test]
    fn colours_change_no_word() {
        let s = sample::one_down();
        let coloured = status(&s, sample::NOW, Style { colour: true, width: 100 });
        assert!(coloured.contains("\x1b[1;31mDOWN\x1b[0m"));
        let mut stripped = coloured;
        for code in ["0", "1", "2", "32", "33", "1;31"] {
            stripped = stripped.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(stripped, plain(&s, 100));
    }
}
