//! The DNS server, fed with the core's snapshots and begun anew when its configuration changes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::Snapshot;
use dns::{NameConf, Server, ServerConfig, Zone, ZoneConf, follow, zone_text};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::facts::Facts;
use crate::admin::api;
use crate::config::{Config, Dns};

/// Between two looks at sockets that could not be opened, for `status`.
const LOOK: Duration = Duration::from_secs(2);

/// Runs the server as the configuration says, until the daemon ends.
pub(crate) async fn run(
    mut config: watch::Receiver<Arc<Config>>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    facts: Facts,
) {
    loop {
        let wanted = config.borrow_and_update().dns.clone();
        let Some(wanted) = wanted else {
            facts.dns(None);
            if config.changed().await.is_err() {
                return;
            }
            continue;
        };
        let server_config = server_config(&wanted);
        let server = Server::start(&server_config, follow(zone_conf(&wanted), snapshots.clone()));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ends = loop {
            tokio::select! {
                changed = config.changed() => {
                    if changed.is_err() {
                        break true;
                    }
                    if config.borrow_and_update().dns.as_ref() != Some(&wanted) {
                        break false;
                    }
                }
                _ = look.tick() => facts.dns(Some(shown(&wanted, &server_config.sockets, server.problems()))),
            }
        };
        server.stop().await;
        if ends {
            return;
        }
        config.mark_changed();
    }
}

/// The zone as plain text, as it is now.
pub(crate) fn text(dns: &Dns, snapshot: &Snapshot) -> String {
    let mut zone = Zone::new(zone_conf(dns));
    let empty = zone.empty();
    zone_text(&zone.update(snapshot).unwrap_or(empty))
}

fn shown(dns: &Dns, sockets: &[SocketAddr], problems: Vec<String>) -> api::Dns {
    // Each problem names its socket.
    let broken = |socket: &&SocketAddr| problems.iter().any(|p| p.contains(&socket.to_string()));
    let listening = sockets.iter().filter(|s| !broken(s)).copied().collect();
    api::Dns { zone: dns.zone.clone(), listening, problems }
}

fn zone_conf(dns: &Dns) -> ZoneConf {
    ZoneConf {
        zone: dns.zone.clone(),
        names: dns
            .names
            .iter()
            .map(|n| NameConf { name: n.name.clone(), vips: n.vips.clone(), service: n.service.clone() })
            .collect(),
        ttl: dns.ttl,
        ns: dns.ns.clone(),
        contact: dns.contact.clone(),
        short_names: dns.short_names,
    }
}

fn server_config(dns: &Dns) -> ServerConfig {
    // A socket once, however often the file names its address.
    let sockets: BTreeSet<SocketAddr> = dns.sockets().collect();
    ServerConfig {
        sockets: sockets.into_iter().collect(),
        rate_limit: dns.rate_limit,
        rate_limit_exempt: dns.rate_limit_exempt.clone(),
    }
}
