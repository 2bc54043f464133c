//! The picture for readers; [`crate::news`] says when there is a new one.

use crate::news::{Parts, same_text};
use crate::reach::Peer;
use crate::{
    AdminState, Cluster, Eviction, Health, LeaseStatus, NodeState, NodeStatus, Pnn, Report, Role, Snapshot, Time, View,
    VipConf, VipState, VipStatus,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Begins the warning of a member that waits though there are voters enough: none of them has all that was committed.
pub const LACKS: &str = "the cluster cannot go on without a lost member";

pub(crate) type Nodes = BTreeMap<Pnn, Arc<NodeStatus>>;
pub(crate) type Vips = BTreeMap<IpAddr, Arc<VipStatus>>;

/// All that a node's status is made from, beside the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// What it says, if that is about its present run and it can be heard.
    report: Option<Arc<Report>>,
    /// Why it is not heard, if it is not.
    silence: Option<Silence>,
    /// Its present run is a member of the view.
    member: bool,
    /// Some run of it is.
    in_view: bool,
    voter: bool,
    /// Since when it is heard, or silent.
    since: Time,
    evicted: Option<Eviction>,
    relapses: u32,
    /// Of this node itself: what it waits for, if it knows.
    waits: Option<String>,
    /// It is this node itself, and has no lease.
    unleased: bool,
    /// Nodes are being told of a service that is new.
    adopting: bool,
}

/// The same as it is now, of borrowed parts.
pub(crate) struct FactsNow<'a> {
    report: Option<&'a Arc<Report>>,
    silence: Option<Silence>,
    member: bool,
    in_view: bool,
    voter: bool,
    since: Time,
    evicted: Option<&'a Eviction>,
    relapses: u32,
    waits: Option<&'a str>,
    unleased: bool,
    adopting: bool,
}

impl FactsNow<'_> {
    pub(crate) fn kept(self) -> Facts {
        let Self { report, silence, member, in_view, voter, since, evicted, relapses, waits, unleased, adopting } =
            self;
        Facts {
            report: report.cloned(),
            silence,
            member,
            in_view,
            voter,
            since,
            evicted: evicted.cloned(),
            relapses,
            waits: waits.map(str::to_owned),
            unleased,
            adopting,
        }
    }

    pub(crate) fn are(&self, known: &Facts) -> bool {
        let Facts { report, silence, member, in_view, voter, since, evicted, relapses, waits, unleased, adopting } =
            known;
        // A report that says the same as the one before does not take its place.
        self.report.map(Arc::as_ptr) == report.as_ref().map(Arc::as_ptr)
            && self.silence == *silence
            && (self.member, self.in_view, self.voter) == (*member, *in_view, *voter)
            && (self.since, self.relapses) == (*since, *relapses)
            && (self.waits, self.unleased, self.adopting) == (waits.as_deref(), *unleased, *adopting)
            && self.evicted == evicted.as_ref()
    }
}

/// Why a node is not heard; put into words only where somebody reads them.
#[derive(Clone, Debug, PartialEq)]
enum Silence {
    Never,
    /// For so many seconds.
    For(u64),
    /// Its heartbeats came a moment ago; why that is not enough.
    Other(String),
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never heard since this daemon started; is it on, does its daemon run?"),
            Self::For(s) => {
                write!(f, "no heartbeat for {s} s; is it on, is its network up, does its daemon run?")
            }
            Self::Other(why) => write!(f, "{why}; is TCP filtered on the way?"),
        }
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
            && self.interface == interface
            && same_text(self.because, because)
    }
}

/// All that the status of an address has to do with a node: which it serves, and is it healthy?
pub(crate) fn serving(node: &NodeStatus) -> (&BTreeSet<IpAddr>, bool) {
    (&node.vips, node.state == NodeState::Ok)
}

impl Cluster {
    /// All public addresses; those that are as in the last snapshot are the same objects.
    pub(crate) fn vips_now(&self, last: Option<&Snapshot>, nodes: &Nodes, now: Time) -> Vips {
        let view = self.view();
        let mut vips = last.map(|last| last.vips.clone()).unwrap_or_default();
        if !vips.keys().eq(self.config.vips.keys()) {
            vips.retain(|vip, _| self.config.vips.contains_key(vip));
        }
        for (vip, conf) in &self.config.vips {
            let next = self.vip_now(*vip, conf, view, nodes);
            if vips.get(vip).is_none_or(|known| !next.is(known)) {
                vips.insert(*vip, Arc::new(next.status(now)));
            }
        }
        vips
    }

    /// The snapshot; of `last` it has what is still so.
    pub(crate) fn with_the_rest(&self, last: Option<&Snapshot>, now: Time, parts: Parts) -> Snapshot {
        let Parts { nodes, vips, warnings } = parts;
        let view = self.view();
        let lease = self.lease_status(view, now);
        Snapshot {
            at: now,
            serial: 0,
            cluster: self.config.cluster.clone(),
            me: self.config.me,
            // A node learns newer views only: the same rank is the same view.
            view: match last.and_then(|last| last.view.as_ref()).filter(|known| Some(known.rank()) == self.rank()) {
                Some(known) => Some(known.clone()),
                None => view.cloned().map(Arc::new),
            },
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
            warnings,
        }
    }

    /// Is everything beside the larger parts still as this snapshot says?
    pub(crate) fn is_as_in(&self, last: &Snapshot, now: Time) -> bool {
        // Taken apart, so that a new field cannot be forgotten here.
        let Snapshot {
            at: _,
            serial: _,
            cluster,
            me,
            view: known,
            leader: _,
            member,
            lease,
            harmless,
            planned_moves,
            nodes: _,
            vips: _,
            lock,
            takeover_wait,
            pace,
            warnings: _,
        } = last;
        let view = self.view();
        let lease_now = self.lease_status(view, now);
        lease.valid == lease_now.valid
            && (lease.grants, lease.voters) == (lease_now.grants, lease_now.voters)
            // A node learns newer views only: the same rank is the same view, with the same leader.
            && known.as_deref().map(View::rank) == view.map(View::rank)
            && *member == self.is_member()
            && *harmless == (lease_now.valid && self.harmless())
            && *planned_moves == (lease_now.valid && self.planned_moves())
            && lock.says(&self.lock)
            && *pace == self.pace.status
            && *me == self.config.me
            && *cluster == self.config.cluster
            && *takeover_wait == self.takeover_wait()
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

    /// Why a node is not heard, if it is not.
    fn silence(&self, pnn: Pnn, peer: Option<&Peer>) -> Option<Silence> {
        if pnn == self.config.me || peer.is_some_and(|p| p.heard) {
            return None;
        }
        Some(match peer.and_then(|p| p.last).map(|t| self.now().since(t)) {
            Some(time) if time < self.config.timing.suspect => Silence::Other(self.reach.why_silent(pnn, self.now())),
            Some(time) => Silence::For(time.as_secs()),
            None => Silence::Never,
        })
    }

    /// What is known of a node of the list.
    pub(crate) fn facts(&self, pnn: Pnn) -> FactsNow<'_> {
        let (me, view, peer) = (pnn == self.config.me, self.view(), self.reach.peers.get(&pnn));
        let silence = self.silence(pnn, peer);
        let run = if me { Some(self.run) } else { peer.and_then(|p| p.run) };
        let member = view.and_then(|v| v.members.get(&pnn));
        FactsNow {
            report: self.reports.get(&pnn).filter(|r| me || (silence.is_none() && run == Some(r.run))),
            silence,
            member: member.is_some_and(|m| run == Some(m.run)),
            in_view: member.is_some(),
            voter: view.is_some_and(|v| v.voters.contains_key(&pnn)),
            since: peer.map_or(self.started, |p| p.since),
            evicted: self.shut_out.get(&pnn),
            relapses: self.relapse_count(pnn),
            waits: self.waits.as_deref().filter(|_| me),
            unleased: me && !self.leased,
            adopting: self.added.next_timeout().is_some(),
        }
    }

    /// A node's status, by these facts, the configuration and what it has added lately alone.
    pub(crate) fn node_status(&self, pnn: Pnn, facts: &Facts) -> NodeStatus {
        let conf = self.config.nodes.get(&pnn);
        let role = conf.map_or(Role::Server, |c| c.role);
        let report = facts.report.as_deref();
        let (state, because) = self.node_state(pnn, role, facts);
        NodeStatus {
            name: self.name(pnn),
            role,
            addresses: conf.map(|c| c.addresses.clone()).unwrap_or_default(),
            state,
            because: because.into_owned(),
            uid: report.map(|r| r.uid),
            member: facts.member,
            voter: facts.voter,
            evicted: facts.evicted.clone(),
            since: facts.since,
            admin: report.map(|r| r.admin).unwrap_or_default(),
            lingers: report.is_some_and(|r| r.lingers),
            links_down: report.map(|r| r.links_down.clone()).unwrap_or_default(),
            services: report.map(|r| r.services.clone()).unwrap_or_default(),
            nfs_clients: report.is_some_and(|r| r.nfs_clients),
            vips: report.filter(|_| facts.member).map(|r| r.serving.clone()).unwrap_or_default(),
            version: report.map(|r| r.version.clone()).unwrap_or_default(),
            warnings: report.map(|r| r.warnings.clone()).unwrap_or_default(),
        }
    }

    fn node_state<'a>(&self, pnn: Pnn, role: Role, facts: &'a Facts) -> (NodeState, Cow<'a, str>) {
        let report = facts.report.as_deref();
        if let Some(silence) = &facts.silence {
            let state = if facts.in_view { NodeState::Suspected } else { NodeState::Down };
            return (state, silence.to_string().into());
        }
        if role == Role::Witness {
            return (NodeState::Witness, "".into());
        }
        if !facts.member {
            let because: Cow<'_, str> = match (&facts.waits, report) {
                (Some(waits), _) => waits.as_str().into(),
                (_, Some(r)) if r.left || r.leaving => "its daemon is being stopped".into(),
                (_, Some(r)) if !r.clean => "its services and mount of the time before have yet to stop".into(),
                _ => {
                    let delay = crate::membership::join_delay(&self.config.timing, facts.relapses);
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
        if facts.unleased {
            let because: Cow<'_, str> = match &facts.waits {
                None => "has no valid lease".into(),
                Some(waits) => format!("has no valid lease; {waits}").into(),
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
            let health = report.services.get(service);
            if self.added.excuses(self.now(), service, health.map(|h| h.state)) {
                continue;
            }
            match health {
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
        let holder = nodes.iter().find(|(_, n)| serving(n).0.contains(&vip)).map(|(p, _)| *p);
        let target = self.placement.get(&vip).copied().filter(|p| view.is_some_and(|v| v.members.contains_key(p)));
        let at = holder.or(target);
        let healthy = at.and_then(|p| nodes.get(&p)).is_some_and(|n| serving(n).1);
        let told = self.because.get(&vip).map_or("", String::as_str);
        let (state, because) = match (holder, target, self.waits.as_deref().filter(|_| !self.leased)) {
            (Some(h), Some(t), _) if h != t => (VipState::Moving, told),
            (Some(_), _, _) => (VipState::Held, told),
            (None, Some(_), _) => (VipState::Moving, told),
            (None, None, Some(waits)) => (VipState::Unserved, waits),
            (None, None, None) if told.starts_with("no node") || told.is_empty() => (VipState::Unserved, told),
            (None, None, None) => (VipState::Waiting, told),
        };
        let interface = at
            .and_then(|p| conf.hosts.get(&p))
            .or_else(|| conf.hosts.get(&self.config.me))
            .or_else(|| conf.hosts.values().next())
            .map_or("", String::as_str);
        VipNow { state, holder, target, prefix_len: conf.prefix_len, interface, healthy, because }
    }

    /// Standing warnings, by these facts of the nodes and what is not theirs.
    pub(crate) fn all_warnings(&self, facts: &BTreeMap<Pnn, Facts>) -> Vec<String> {
        let mut warnings: Vec<String> = self.waits.iter().cloned().collect();
        // What several nodes say is said once, with their names.
        let mut said: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut order: Vec<&str> = Vec::new();
        let mut reporting = 0;
        for (pnn, facts) in facts {
            let Some(report) = &facts.report else { continue };
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
        if let Some(view) = self.view()
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
