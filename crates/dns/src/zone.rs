//! What the zone contains right now: made from the cluster's snapshot whenever that changes.

use cluster::{AdminState, Health, NodeStatus, Snapshot, VipState, VipStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use tokio::sync::watch;

/// What stays: from the configuration. Names are in lower case and without a dot at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneConf {
    /// The zone.
    pub zone: String,
    /// The service names.
    pub names: Vec<NameConf>,
    /// Seconds that answers may be remembered, from 1.
    pub ttl: u32,
    /// Names of the servers; those inside of the zone get public addresses.
    pub ns: Vec<String>,
    /// Who looks after the zone, as a domain name.
    pub contact: String,
    /// Answer for the service names without the zone too, each as a zone of its own.
    pub short_names: bool,
}

/// A service name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameConf {
    /// Below the zone.
    pub name: String,
    /// Its addresses; empty: all public addresses.
    pub vips: BTreeSet<IpAddr>,
    /// Service that must be healthy on the holder; none: whatever makes an address healthy.
    pub service: Option<String>,
}

/// A public address behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: IpAddr,
    /// Hosted (or on the move) and healthy.
    pub good: bool,
}

/// A name and what it resolves to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// All its addresses, with their health.
    pub candidates: Vec<Candidate>,
    /// IPv4 addresses to give now: the good ones, or all when none is.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 addresses to give now.
    pub v6: Vec<Ipv6Addr>,
}

impl Entry {
    fn new(candidates: Vec<Candidate>) -> Self {
        // by family: an AAAA question must not get NODATA because only IPv4 addresses are healthy
        let any4 = candidates.iter().any(|c| c.good && c.address.is_ipv4());
        let any6 = candidates.iter().any(|c| c.good && c.address.is_ipv6());
        let mut entry = Self::default();
        for candidate in &candidates {
            match candidate.address {
                IpAddr::V4(v4) if candidate.good || !any4 => entry.v4.push(v4),
                IpAddr::V6(v6) if candidate.good || !any6 => entry.v6.push(v6),
                _ => {}
            }
        }
        entry.candidates = candidates;
        entry
    }
}

/// The zone at one moment. Names are in lower case and without a dot at their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneView {
    /// Has this node a valid lease? Without one it answers for nothing.
    pub serving: bool,
    /// The zone, and the short names as zones of their own.
    pub apexes: Vec<String>,
    /// All names with addresses, in full.
    pub names: BTreeMap<String, Entry>,
    /// Names of the servers.
    pub ns: Vec<String>,
    /// Who looks after the zone, as a domain name.
    pub contact: String,
    /// Seconds that answers may be remembered.
    pub ttl: u32,
    /// The epoch, then a counter of changes within it (RFC 1982 arithmetic).
    pub serial: u32,
}

impl ZoneView {
    /// The zone itself.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.apexes.first().map_or("", String::as_str)
    }
}

/// Makes views of one zone, and counts their changes.
#[derive(Debug)]
pub struct Zone {
    conf: ZoneConf,
    epoch: u64,
    changes: u32,
    last: Option<ZoneView>,
}

impl Zone {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(conf: ZoneConf) -> Self {
        Self { conf, epoch: 0, changes: 0, last: None }
    }

    /// The view before anything is known: it answers SERVFAIL.
    #[must_use]
    pub fn empty(&self) -> ZoneView {
        self.view(false, BTreeMap::new())
    }

    /// The zone after a change of the cluster, or `None` when nothing of it changed.
    pub fn update(&mut self, snapshot: &Snapshot) -> Option<ZoneView> {
        let epoch = snapshot.view.as_ref().map_or(0, |v| v.epoch.0);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.changes = 0;
        }
        let mut view = self.view(snapshot.lease.valid, names(&self.conf, snapshot));
        if let Some(last) = &self.last {
            view.serial = last.serial;
            if *last == view {
                return None;
            }
            if last.names != view.names {
                self.changes = self.changes.wrapping_add(1);
            }
        }
        view.serial = self.serial();
        self.last = Some(view.clone());
        Some(view)
    }

    /// Upper half: the epoch; lower half: the counter. Both wrap, as serials may.
    fn serial(&self) -> u32 {
        let epoch = u32::try_from(self.epoch & 0xffff).unwrap_or(0);
        (epoch << 16 | self.changes & 0xffff).max(1)
    }

    fn view(&self, serving: bool, names: BTreeMap<String, Entry>) -> ZoneView {
        let mut apexes = vec![self.conf.zone.clone()];
        if self.conf.short_names {
            let short = self.conf.names.iter().map(|n| &n.name);
            apexes.extend(short.filter(|n| !n.contains('.')).cloned());
        }
        ZoneView {
            serving,
            apexes,
            names,
            ns: self.conf.ns.clone(),
            contact: self.conf.contact.clone(),
            ttl: self.conf.ttl.max(1),
            serial: self.serial(),
        }
    }
}

fn names(conf: &ZoneConf, snapshot: &Snapshot) -> BTreeMap<String, Entry> {
    let mut names = BTreeMap::new();
    let all = |service: Option<&str>, only: &BTreeSet<IpAddr>| {
        let vips = snapshot.vips.iter().filter(|(vip, _)| only.is_empty() || only.contains(vip));
        let candidates =
            vips.map(|(vip, status)| Candidate { address: *vip, good: is_good(snapshot, status, service) });
        Entry::new(candidates.collect())
    };
    names.insert(conf.zone.clone(), all(None, &BTreeSet::new()));
    for name in &conf.names {
        let entry = all(name.service.as_deref(), &name.vips);
        if conf.short_names && !name.name.contains('.') {
            names.insert(name.name.clone(), entry.clone());
        }
        names.insert(format!("{}.{}", name.name, conf.zone), entry);
    }
    // A server's address must not move with health: it stands in the zone above, too. Every server answers on every
    // address that it hosts, so that some node is there whatever fails.
    let inside: Vec<&String> = conf.ns.iter().filter(|ns| is_below(ns, &conf.zone)).collect();
    for (index, ns) in inside.iter().enumerate() {
        let share = snapshot.vips.keys().enumerate();
        let mut own: Vec<IpAddr> = share.filter(|(i, _)| i % inside.len() == index).map(|(_, a)| *a).collect();
        if own.is_empty() {
            own = snapshot.vips.keys().take(1).copied().collect();
        }
        let candidates = own.into_iter().map(|address| Candidate { address, good: true });
        names.entry((*ns).clone()).or_insert_with(|| Entry::new(candidates.collect()));
    }
    names
}

/// Is `name` the zone or below it?
pub(crate) fn is_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// May clients be sent there? On the move counts: clients wait less for the address than for a new answer.
fn is_good(snapshot: &Snapshot, vip: &VipStatus, service: Option<&str>) -> bool {
    let host = match vip.state {
        VipState::Held => vip.holder.or(vip.target),
        VipState::Moving | VipState::Waiting => vip.target.or(vip.holder),
        VipState::Unserved => None,
    };
    let Some(host) = host else {
        return false;
    };
    match service {
        None => vip.healthy,
        Some(service) => snapshot.nodes.get(&host).is_some_and(|node| runs(node, service)),
    }
}

fn runs(node: &NodeStatus, service: &str) -> bool {
    // Of a drained node's addresses clients shall not even hear, wherever a good one is.
    node.admin == AdminState::Active
        && node.services.get(service).is_some_and(|health| matches!(health.state, Health::Ok | Health::Failing))
}

/// Follows the daemon's snapshots: the receiver always has the current zone. Ends when the snapshots end.
#[must_use]
pub fn follow(conf: ZoneConf, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>) -> watch::Receiver<Arc<ZoneView>> {
    let mut zone = Zone::new(conf);
    let (views, receiver) = watch::channel(Arc::new(zone.empty()));
    tokio::spawn(async move {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            if let Some(view) = snapshot.and_then(|snapshot| zone.update(&snapshot)) {
                views.send_replace(Arc::new(view));
            }
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() {
                    // the core is gone, and with it the lease
                    views.send_replace(Arc::new(zone.empty()));
                    return;
                },
                () = views.closed() => return,
            }
        }
    });
    receiver
}
