//! The picture for readers, and what has changed since the last one.

use crate::reach::Reach;
use crate::{
    AdminState, Cluster, Health, LeaseStatus, NodeState, NodeStatus, Pnn, PnnSet, Report, Role, Snapshot, Time, View,
    VipConf, VipState, VipStatus,
};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

type Nodes = BTreeMap<Pnn, Arc<NodeStatus>>;
type Vips = BTreeMap<IpAddr, Arc<VipStatus>>;

/// A snapshot goes out at least this often, so that its times stay fresh.
const AT_LEAST: Duration = Duration::from_secs(1);

/// What readers have been told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    heard: PnnSet,
    vips: BTreeMap<IpAddr, (VipState, Option<Pnn>, Time)>,
    last: Option<Arc<Snapshot>>,
}

impl Seen {
    /// Peers that have come or gone since the last call: (who, is it heard, why not).
    pub(crate) fn heard_changes(&mut self, reach: &Reach, now: Time) -> Vec<(Pnn, bool, String)> {
        let heard = reach.heard();
        let mut changes: Vec<(Pnn, bool, String)> =
            heard.without(&self.heard).iter().map(|p| (p, true, String::new())).collect();
        for pnn in self.heard.without(&heard).iter() {
            changes.push((pnn, false, reach.why_silent(pnn, now)));
        }
        self.heard = heard;
        changes
    }

    /// The last snapshot, while it is young enough to stand.
    fn fresh(&self, now: Time) -> Option<&Snapshot> {
        self.last.as_deref().filter(|last| now.since(last.at) < AT_LEAST)
    }

    /// Numbers the next snapshot and remembers it.
    fn publish(&mut self, mut next: Snapshot) -> Arc<Snapshot> {
        // What is not shared with the last one is new.
        for (vip, status) in next.vips.iter_mut().filter_map(|(vip, s)| Some((*vip, Arc::get_mut(s)?))) {
            match self.vips.get(&vip) {
                Some((state, holder, since)) if *state == status.state && *holder == status.holder => {
                    status.since = *since
                }
                _ => {
                    self.vips.insert(vip, (status.state, status.holder, next.at));
                }
            }
        }
        next.serial = self.last.as_ref().map_or(0, |last| last.serial + 1);
        let next = Arc::new(next);
        self.last = Some(next.clone());
        next
    }
}

/// What an address is doing; as [`VipStatus`], of borrowed parts.
struct VipNow<'a> {
    state: VipState,
    holder: Option<Pnn>,
    target: Option<Pnn>,
    prefix_len: u8,
    interface: &'a str,
    healthy: bool,
    because: &'a str,
}

impl VipNow<'_> {
    fn status(&self, since: Time) -> VipStatus {
        let Self { state, holder, target, prefix_len, interface, healthy, because } = *self;
        VipStatus {
            state,
            holder,
            target,
            prefix_len,
            interface: interface.to_owned(),
            healthy,
            because: because.to_owned(),
            since,
        }
    }

    /// The same but for the time, which stays with state and holder?
    fn is(&self, known: &VipStatus) -> bool {
        let VipStatus { state, holder, target, prefix_len, interface, healthy, because, since: _ } = known;
        (self.state, self.holder, self.target) == (*state, *holder, *target)
            && (self.prefix_len, self.healthy) == (*prefix_len, *healthy)
            && (self.interface, self.because) == (interface.as_str(), because.as_str())
    }
}

/// Are these the very same objects?
fn same<K: PartialEq, T>(one: &BTreeMap<K, Arc<T>>, other: &BTreeMap<K, Arc<T>>) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|((k, a), (other_k, b))| k == other_k && Arc::ptr_eq(a, b))
}

impl Cluster {
    /// The cluster as this node knows it.
    #[must_use]
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let (nodes, vips) = self.nodes_and_vips(now);
        self.with_the_rest(now, nodes, vips)
    }

    /// The next snapshot, if the last one does not say the same or is old. Asked after every change, and most change little
    /// that readers see.
    pub(crate) fn news(&mut self, now: Time) -> Option<Arc<Snapshot>> {
        let (nodes, vips) = self.nodes_and_vips(now);
        if self.as_published(now, &nodes, &vips) {
            return None;
        }
        let snapshot = self.with_the_rest(now, nodes, vips);
        Some(self.seen.publish(snapshot))
    }

    /// All nodes and addresses; those that are as in the last snapshot are the same objects.
    fn nodes_and_vips(&self, now: Time) -> (Nodes, Vips) {
        let view = self.view();
        let last = self.seen.last.as_deref();
        let node = |pnn: &Pnn| {
            let known = last.and_then(|last| last.nodes.get(pnn)).filter(|n| self.node_is(*pnn, view, n));
            (*pnn, known.cloned().unwrap_or_else(|| Arc::new(self.node_status(*pnn, view))))
        };
        let nodes: Nodes = self.config.nodes.keys().map(node).collect();
        let vip = |(vip, conf): (&IpAddr, &VipConf)| {
            let next = self.vip_now(*vip, conf, view, &nodes);
            let known = last.and_then(|last| last.vips.get(vip)).filter(|known| next.is(known));
            (*vip, known.cloned().unwrap_or_else(|| Arc::new(next.status(now))))
        };
        let vips = self.config.vips.iter().map(vip).collect();
        (nodes, vips)
    }

    fn with_the_rest(&self, now: Time, nodes: Nodes, vips: Vips) -> Snapshot {
        let view = self.view();
        let lease = self.lease_status(view, now);
        Snapshot {
            at: now,
            serial: 0,
            cluster: self.config.cluster.clone(),
            me: self.config.me,
            view: view.cloned(),
            leader: view.and_then(View::leader),
            member: self.is_member(),
            harmless: lease.valid && self.harmless(),
            planned_moves: lease.valid && self.planned_moves(),
            lease,
            nodes,
            vips,
            lock: self.lock.clone(),
            takeover_wait: self.takeover_wait(),
            pace: self.pace.status.clone(),
            warnings: self.all_warnings(view),
        }
    }

    /// Is everything still as a young snapshot says? Nodes and addresses that have not changed are the same objects.
    fn as_published(&self, now: Time, nodes: &Nodes, vips: &Vips) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Some(Snapshot {
            at: _,
            serial: _,
            cluster,
            me,
            view: known,
            leader,
            member,
            lease,
            harmless,
            planned_moves,
            nodes: known_nodes,
            vips: known_vips,
            lock,
            takeover_wait,
            pace,
            warnings,
        }) = self.seen.fresh(now)
        else {
            return false;
        };
        same(known_nodes, nodes) && same(known_vips, vips) && {
            let view = self.view();
            let lease_now = self.lease_status(view, now);
            lease.valid == lease_now.valid
                && (lease.grants, lease.voters) == (lease_now.grants, lease_now.voters)
                && known.as_ref() == view
                && *leader == view.and_then(View::leader)
                && *member == self.is_member()
                && *harmless == (lease_now.valid && self.harmless())
                && *planned_moves == (lease_now.valid && self.planned_moves())
                && *lock == self.lock
                && *pace == self.pace.status
                && *me == self.config.me
                && *cluster == self.config.cluster
                && *takeover_wait == self.takeover_wait()
                && *warnings == self.all_warnings(view)
        }
    }

    /// Is this what `node_status` would say?
    fn node_is(&self, pnn: Pnn, view: Option<&View>, status: &NodeStatus) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let NodeStatus {
            name,
            role,
            addresses,
            state,
            because,
            uid,
            member,
            voter,
            evicted,
            since,
            admin,
            lingers,
            links_down,
            services,
            nfs_clients,
            vips,
            version,
            warnings,
        } = status;
        let Some(conf) = self.config.nodes.get(&pnn) else { return false };
        let report = self.fresh_report(pnn);
        let said = match report {
            Some(r) => {
                *uid == Some(r.uid)
                    && (*admin, *lingers) == (r.admin, r.lingers)
                    && *links_down == r.links_down
                    && *services == r.services
                    && *nfs_clients == r.nfs_clients
                    && if *member { *vips == r.serving } else { vips.is_empty() }
                    && *version == r.version
                    && *warnings == r.warnings
            }
            None => {
                uid.is_none()
                    && (*admin, *lingers) == (AdminState::default(), false)
                    && links_down.is_empty()
                    && services.is_empty()
                    && !*nfs_clients
                    && vips.is_empty()
                    && version.is_empty()
                    && warnings.is_empty()
            }
        };
        said && *member == self.is_in(pnn, view)
            && *voter == view.is_some_and(|v| v.voters.contains_key(&pnn))
            && *since == self.since(pnn)
            && evicted.as_ref() == self.shut_out.get(&pnn)
            && (name, *role, addresses) == (&conf.name, conf.role, &conf.addresses)
            && {
                let (now_state, why) = self.node_state(pnn, conf.role, view, report);
                *state == now_state && *because == why
            }
    }

    fn takeover_wait(&self) -> Duration {
        let timing = &self.config.timing;
        let coarse = self.reports.values().any(|r| r.whole_seconds);
        timing.lease + timing.margin + if coarse { timing.whole_seconds } else { Duration::ZERO }
    }

    fn lease_status(&self, view: Option<&View>, now: Time) -> LeaseStatus {
        LeaseStatus {
            valid: self.has_lease(now),
            until: self.lease.until(),
            grants: view.map_or(0, |v| self.lease.fresh(v, self.config.timing.lease, now)),
            voters: view.map_or(0, |v| v.voters.len()),
        }
    }

    fn hears(&self, pnn: Pnn) -> bool {
        pnn == self.config.me || self.reach.hears(pnn)
    }

    /// Is the run of a node that is there a member?
    fn is_in(&self, pnn: Pnn, view: Option<&View>) -> bool {
        let run = if pnn == self.config.me { Some(self.run) } else { self.reach.run(pnn) };
        view.is_some_and(|v| run.is_some_and(|r| v.has_run(pnn, r)))
    }

    /// Since when it is heard, or silent.
    fn since(&self, pnn: Pnn) -> Time {
        self.reach.peers.get(&pnn).map_or(self.started, |p| p.since)
    }

    /// The report of a node, if it is about its present run and the node can be heard.
    fn fresh_report(&self, pnn: Pnn) -> Option<&Report> {
        let report = self.reports.get(&pnn)?;
        let present = pnn == self.config.me || (self.reach.hears(pnn) && self.reach.run(pnn) == Some(report.run));
        present.then_some(&**report)
    }

    fn node_status(&self, pnn: Pnn, view: Option<&View>) -> NodeStatus {
        let conf = self.config.nodes.get(&pnn);
        let role = conf.map_or(Role::Server, |c| c.role);
        let report = self.fresh_report(pnn);
        let member = self.is_in(pnn, view);
        let (state, because) = self.node_state(pnn, role, view, report);
        NodeStatus {
            name: self.name(pnn),
            role,
            addresses: conf.map(|c| c.addresses.clone()).unwrap_or_default(),
            state,
            because: because.into_owned(),
            uid: report.map(|r| r.uid),
            member,
            voter: view.is_some_and(|v| v.voters.contains_key(&pnn)),
            evicted: self.shut_out.get(&pnn).cloned(),
            since: self.since(pnn),
            admin: report.map(|r| r.admin).unwrap_or_default(),
            lingers: report.is_some_and(|r| r.lingers),
            links_down: report.map(|r| r.links_down.clone()).unwrap_or_default(),
            services: report.map(|r| r.services.clone()).unwrap_or_default(),
            nfs_clients: report.is_some_and(|r| r.nfs_clients),
            vips: report.filter(|_| member).map(|r| r.serving.clone()).unwrap_or_default(),
            version: report.map(|r| r.version.clone()).unwrap_or_default(),
            warnings: report.map(|r| r.warnings.clone()).unwrap_or_default(),
        }
    }

    fn node_state(
        &self,
        pnn: Pnn,
        role: Role,
        view: Option<&View>,
        report: Option<&Report>,
    ) -> (NodeState, Cow<'_, str>) {
        if !self.hears(pnn) {
            let silent = match self.reach.peers.get(&pnn).and_then(|p| p.last) {
                Some(t) if self.now().since(t) < self.config.timing.suspect => {
                    format!("{}; is TCP filtered on the way?", self.reach.why_silent(pnn, self.now()))
                }
                Some(t) => format!(
                    "no heartbeat for {} s; is it on, is its network up, does its daemon run?",
                    self.now().since(t).as_secs()
                ),
                None => "never heard since this daemon started; is it on, does its daemon run?".to_string(),
            };
            let in_view = view.is_some_and(|v| v.members.contains_key(&pnn));
            return (if in_view { NodeState::Suspected } else { NodeState::Down }, silent.into());
        }
        if role == Role::Witness {
            return (NodeState::Witness, "".into());
        }
        if !self.is_in(pnn, view) {
            let because: Cow<'_, str> = match report {
                _ if pnn == self.config.me && !self.waits.is_empty() => self.waits.as_str().into(),
                Some(r) if r.left || r.leaving => "its daemon is being stopped".into(),
                Some(r) if !r.clean => "its services and mount of the time before have yet to stop".into(),
                _ => {
                    let delay = crate::membership::join_delay(&self.config.timing, self.relapse_count(pnn));
                    format!("must reach every member for {} s before it joins", delay.as_secs()).into()
                }
            };
            return (NodeState::Joining, because);
        }
        let Some(report) = report else {
            return (NodeState::Starting, "has not reported yet".into());
        };
        match report.admin {
            AdminState::Active => {}
            AdminState::Drained if report.lingers => {
                let because = "is being drained: waits until clients have forgotten what DNS told them; `steadfast \
                               drain --now` does not wait, `steadfast resume` ends it";
                return (NodeState::Drained, because.into());
            }
            AdminState::Drained if !report.holding.is_empty() => {
                return (NodeState::Drained, "is being drained; `steadfast resume` ends it".into());
            }
            AdminState::Drained => {
                return (NodeState::Drained, "told to host no addresses; `steadfast resume` ends it".into());
            }
            AdminState::Stopped => {
                return (NodeState::Stopped, "told to run no services; `steadfast continue` ends it".into());
            }
            AdminState::Banned => return (NodeState::Banned, "banned; `steadfast continue` ends it".into()),
        }
        if let Some((state, why)) = self.sick(pnn, report) {
            return (state, why.into());
        }
        if pnn == self.config.me && !self.leased {
            let because: Cow<'_, str> = if self.waits.is_empty() {
                "has no valid lease".into()
            } else {
                format!("has no valid lease; {}", self.waits).into()
            };
            return (NodeState::Unhealthy, because);
        }
        (NodeState::Ok, "".into())
    }

    /// A service, an interface or an address that keeps a member from being OK.
    fn sick(&self, pnn: Pnn, report: &Report) -> Option<(NodeState, String)> {
        let mut starting = Vec::new();
        let mut failed = Vec::new();
        for service in &self.config.services {
            match report.services.get(service) {
                Some(h) if matches!(h.state, Health::Ok | Health::Failing) => {}
                Some(h) if h.state == Health::Failed => failed.push(format!("{service} failed: {}", h.because)),
                Some(h) if h.because.is_empty() => {
                    starting.push(format!("{service} is {}", crate::fitness::word(h.state)))
                }
                Some(h) => starting.push(format!("{service} is {}: {}", crate::fitness::word(h.state), h.because)),
                None => starting.push(format!("{service} has not been seen yet")),
            }
        }
        failed.extend(report.links_down.iter().map(|i| format!("interface {i} is down")));
        // Of no address that others host, and it never shall.
        let could = |vip| self.config.vips.get(vip).is_some_and(|c| c.hosts.contains_key(&pnn));
        let taken = report.failed.iter().filter(|(vip, _)| could(*vip));
        failed.extend(taken.map(|(v, why)| format!("{v} could not be taken: {why}")));
        if !failed.is_empty() {
            return Some((NodeState::Unhealthy, failed.join("; ")));
        }
        (!starting.is_empty()).then(|| (NodeState::Starting, starting.join("; ")))
    }

    /// What an address is doing, by what the nodes say.
    fn vip_now<'a>(&'a self, vip: IpAddr, conf: &'a VipConf, view: Option<&View>, nodes: &Nodes) -> VipNow<'a> {
        let holder = nodes.iter().find(|(_, n)| n.vips.contains(&vip)).map(|(p, _)| *p);
        let target = self.placement.get(&vip).copied().filter(|p| view.is_some_and(|v| v.members.contains_key(p)));
        let at = holder.or(target);
        let healthy = at.and_then(|p| nodes.get(&p)).is_some_and(|n| n.state == NodeState::Ok);
        let told = self.because.get(&vip).map_or("", String::as_str);
        let (state, because) = match (holder, target) {
            (Some(h), Some(t)) if h != t => (VipState::Moving, told),
            (Some(_), _) => (VipState::Held, told),
            (None, Some(_)) => (VipState::Moving, told),
            (None, None) if !self.waits.is_empty() && !self.leased => (VipState::Unserved, self.waits.as_str()),
            (None, None) if told.starts_with("no node") || told.is_empty() => (VipState::Unserved, told),
            (None, None) => (VipState::Waiting, told),
        };
        let interface = at
            .and_then(|p| conf.hosts.get(&p))
            .or_else(|| conf.hosts.get(&self.config.me))
            .or_else(|| conf.hosts.values().next())
            .map_or("", String::as_str);
        VipNow { state, holder, target, prefix_len: conf.prefix_len, interface, healthy, because }
    }

    fn all_warnings(&self, view: Option<&View>) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.waits.is_empty() {
            warnings.push(self.waits.clone());
        }
        // What several nodes say is said once, with their names.
        let mut said: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut order: Vec<&str> = Vec::new();
        let mut reporting = 0;
        for pnn in self.config.nodes.keys() {
            let Some(report) = self.fresh_report(*pnn) else { continue };
            reporting += 1;
            for warning in &report.warnings {
                let names = said.entry(warning).or_default();
                if names.is_empty() {
                    order.push(warning);
                }
                names.push(self.name(*pnn));
            }
            if report.fingerprint != self.config.fingerprint {
                warnings.push(format!(
                    "{} runs with another configuration than {}; make the files equal, then `steadfast reload` on both",
                    self.name(*pnn),
                    self.name(self.config.me)
                ));
            }
        }
        for warning in order {
            let names = said.get(warning).map(Vec::as_slice).unwrap_or_default();
            if names.len() == reporting && reporting > 1 {
                warnings.push(format!("all nodes: {warning}"));
            } else {
                warnings.push(format!("{}: {warning}", names.join(", ")));
            }
        }
        if let Some(error) = &self.arbiter.records_error {
            warnings.push(format!("the records beside the cluster lock cannot be read: {error}"));
        }
        if let Some(view) = view
            && view.voters.len() % 2 == 0
            && !view.rules.lock
        {
            let n = view.voters.len();
            let why = if self.lock.because.is_empty() {
                "no cluster lock is configured".to_string()
            } else {
                self.lock.because.clone()
            };
            warnings.push(format!(
                "{n} nodes vote and nothing breaks a tie ({why}): if {} of them are lost at once, the rest stops; a witness would help",
                n / 2
            ));
        }
        warnings
    }
}
