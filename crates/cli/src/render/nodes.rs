//! `steadfast nodes`.

use super::table::{Cell, Table};
use super::{Colour, Style, ago, node_state};
use cluster::{Health, Role, Snapshot, Time};

/// The nodes with their private addresses, votes, services and versions.
pub(crate) fn nodes(s: &Snapshot, now: Time, style: Style) -> String {
    let mut table =
        Table::new(&["NODE", "PNN", "PRIVATE ADDRESSES", "STATE", "SINCE", "ROLE", "SERVICES", "VERSION", "WHY"]);
    for (pnn, node) in &s.nodes {
        let (word, colour) = node_state(node.state);
        let role = match (node.role, node.voter, node.member) {
            (Role::Witness, true, _) => "witness",
            (Role::Witness, false, _) => "witness (no vote)",
            (Role::Server, true, true) => "member, voter",
            (Role::Server, false, true) => "member",
            (Role::Server, true, false) => "voter",
            (Role::Server, false, false) => "-",
        };
        let services: Vec<String> = node
            .services
            .iter()
            .map(|(service, health)| match health.state {
                Health::Ok => service.clone(),
                Health::Off => format!("({service})"),
                Health::Starting => format!("{service}..."),
                Health::Failing => format!("{service}?"),
                Health::Failed => format!("{service}!"),
            })
            .collect();
        let ill = node.services.values().any(|h| matches!(h.state, Health::Failing | Health::Failed));
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        let leads = if s.leader == Some(*pnn) { ", leader" } else { "" };
        table.row([
            Cell::new(node.name.clone(), if *pnn == s.me { Colour::Bold } else { Colour::None }),
            Cell::plain(pnn.to_string()),
            Cell::plain(addresses.join(" ")),
            Cell::new(word, colour),
            Cell::plain(ago(node.since, now)),
            Cell::plain(format!("{role}{leads}")),
            Cell::new(services.join(" "), if ill { Colour::Bad } else { Colour::None }),
            Cell::plain(if node.version.is_empty() { "-".into() } else { node.version.clone() }),
            Cell::plain(node.because.clone()),
        ]);
    }
    let mut out = String::new();
    table.draw(style, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn roles_services_and_reasons() {
        let text = nodes(&sample::samba_fails().snapshot, sample::NOW, Style { colour: false, width: 200 });
        assert!(text.contains("gluster1  0    192.0.2.1          UNHEALTHY"), "{text}");
        assert!(text.contains("member, voter, leader"), "{text}");
        assert!(text.contains("nfs samba!"), "{text}");
        assert!(text.contains("witness"), "{text}");
    }
}
