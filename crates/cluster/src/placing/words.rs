//! What the leader asks of a scene while it places, and how it says why.

use super::Scene;
use crate::fitness::{Address, Host};
use crate::planted::{Planted, planted};
use crate::{Config, Pnn, Restraint};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Is an address served well where it is, so that only somebody's wish moves it? Who serves it.
pub(super) fn planned<'a>(scene: &Scene<'a>, host: &'a Host<'a>, vip: IpAddr) -> Option<&'a Host<'a>> {
    if planted(Planted::EverythingWaits) {
        return Some(host);
    }
    let conf = scene.config.vips.get(&vip)?;
    Some(host).filter(|h| h.serves_well(&Address::new(scene, vip, conf)))
}

/// May addresses with a good host move for an even spread? If not, why.
pub(super) fn spreads(scene: &Scene<'_>) -> Result<(), String> {
    match scene.restraint {
        Restraint { no_takeover: true, .. } => Err("NoIPTakeover is set at the leader".to_owned()),
        Restraint { no_failback: true, .. } => Err("NoIPFailback is set at the leader".to_owned()),
        Restraint { .. } => scene.config.fail_back.allows(scene.minute),
    }
}

/// Why no member can host an address, for people.
pub(super) fn why_not(scene: &Scene<'_>, hosts: &BTreeMap<Pnn, Host<'_>>, vip: IpAddr) -> String {
    let Some(conf) = scene.config.vips.get(&vip) else { return String::new() };
    let address = Address::new(scene, vip, conf);
    let against = |(pnn, host): (&Pnn, &Host<'_>)| {
        let why = host.fit(&address).err().filter(|_| conf.hosts.contains_key(pnn))?;
        Some(format!("{}: {why}", name(scene.config, *pnn)))
    };
    let all: Vec<String> = hosts.iter().filter_map(against).collect();
    if scene.restraint.no_takeover {
        return "NoIPTakeover is set at the leader, and no node takes an address that it does not have".to_owned();
    }
    if all.is_empty() { "no member may host it".to_owned() } else { all.join("; ") }
}

pub(super) fn name(config: &Config, pnn: Pnn) -> String {
    config.nodes.get(&pnn).map_or_else(|| format!("node {pnn}"), |n| n.name.clone())
}
