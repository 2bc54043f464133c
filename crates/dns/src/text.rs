//! The zone as text (RFC 1035, section 5), for people who serve it from a static file.

use crate::zone::ZoneView;
use std::fmt::Write as _;
use std::net::IpAddr;

/// The zone file. A static server cannot follow health, so every address of a name is in it.
#[must_use]
pub fn zone_text(view: &ZoneView) -> String {
    let zone = view.zone();
    let suffix = format!(".{zone}");
    let server = view.ns.first().map_or(zone, String::as_str);
    let mut text = format!("$ORIGIN {zone}.\n$TTL {}\n", view.ttl);
    let _ = writeln!(
        text,
        "@ IN SOA {server}. {}. ({} 60 10 86400 1) ; serial refresh retry expire minimum",
        view.contact, view.serial
    );
    for ns in &view.ns {
        let _ = writeln!(text, "@ IN NS {ns}.");
    }
    for (name, entry) in &view.names {
        let relative = if name == zone {
            "@"
        } else {
            match name.strip_suffix(&suffix) {
                Some(relative) => relative,
                // a short name is no part of the zone
                None => continue,
            }
        };
        for candidate in &entry.candidates {
            let kind = match candidate.address {
                IpAddr::V4(_) => "A",
                IpAddr::V6(_) => "AAAA",
            };
            let _ = writeln!(text, "{relative} IN {kind} {}", candidate.address);
        }
    }
    text
}
