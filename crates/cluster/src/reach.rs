//! Who hears whom.
//!
//! A peer is *heard* while its heartbeats arrive and the link to it works. What peers say of each other rides on
//! the heartbeats. Nothing here decides; [`crate::membership`] does.

use crate::{Config, Epoch, Heartbeat, Incarnation, NodeUid, Pnn, PnnSet, RunId, Time, Timing};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known of a peer from its heartbeats and link.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) last: Option<Time>,
    /// The peer's own time stamp of the newest heartbeat of its run.
    sent: Time,
    /// Last heartbeat over a network that is not the one of control and storage.
    pub(crate) elsewhere: Option<Time>,
    pub(crate) run: Option<RunId>,
    /// The run that is dead, by the word of its guard.
    pub(crate) gone: Option<RunId>,
    pub(crate) uid: Option<NodeUid>,
    pub(crate) view: Option<(Incarnation, Epoch)>,
    pub(crate) hears: PnnSet,
    pub(crate) link: bool,
    pub(crate) link_changed: Time,
    pub(crate) heard: bool,
    /// Since when it is heard, or silent.
    pub(crate) since: Time,
    /// How long the last silence was.
    silence: Duration,
}

impl Peer {
    /// Is the run that was heard last dead for certain?
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_some() && self.gone == self.run
    }

    /// When it, being heard, falls silent if nothing comes any more.
    fn silent_at(&self, timing: &Timing) -> Option<Time> {
        let beats = self.last.map(|t| t + timing.suspect);
        let link = (!self.link).then(|| self.link_changed + timing.suspect);
        earlier(beats, link)
    }
}

fn earlier(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    a.into_iter().chain(b).min()
}

/// Where a pair of two nodes is in a list of all pairs.
fn place(a: Pnn, b: Pnn) -> usize {
    let (low, high) = (usize::from(a.min(b).0), usize::from(a.max(b).0));
    high * high.saturating_sub(1) / 2 + low
}

/// Both directions between two nodes, as far as this node can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) up: bool,
    pub(crate) since: Time,
    /// The one that does not hear the other, while the other hears it.
    pub(crate) deaf: Option<Pnn>,
}

/// What a heartbeat brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Since the one before, of a peer that is heard.
    pub(crate) gap: Option<Duration>,
    /// The peer shows a new run.
    pub(crate) new_run: bool,
    /// Is the link to it up?
    pub(crate) link: bool,
}

/// What a refresh found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Whom this node hears itself: worth telling the others at once.
    pub(crate) heard: bool,
    /// Any pair.
    pub(crate) edges: bool,
}

/// Everything this node knows of who hears whom.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    me: Pnn,
    timing: Timing,
    started: Time,
    pub(crate) peers: BTreeMap<Pnn, Peer>,
    /// Of all pairs of which both are here, each in its [`place`].
    edges: Vec<Option<Edge>>,
    /// How often any of them has changed.
    pub(crate) edge_changes: u64,
    /// Nodes whose edges may have changed.
    stale: PnnSet,
    /// Something has happened that may change who is heard.
    touched: bool,
    /// The first of the peers that are heard falls silent then unless something happens, or later if this node is deaf.
    first_silence: Option<Time>,
    /// After a stall of our own nobody is suspected before this: their heartbeats wait in our queues.
    deaf_until: Time,
}

impl Reach {
    pub(crate) fn new(config: &Config, now: Time) -> Self {
        let mut reach = Self {
            me: config.me,
            timing: config.timing.clone(),
            started: now,
            peers: BTreeMap::new(),
            edges: Vec::new(),
            edge_changes: 0,
            stale: PnnSet::default(),
            touched: true,
            first_silence: None,
            deaf_until: now,
        };
        reach.configure(config, now);
        reach
    }

    pub(crate) fn configure(&mut self, config: &Config, now: Time) {
        self.timing = config.timing.clone();
        self.peers.retain(|pnn, _| config.nodes.contains_key(pnn));
        for pnn in config.nodes.keys().filter(|p| **p != config.me) {
            self.peers.entry(*pnn).or_insert_with(|| Peer {
                last: None,
                sent: Time(0),
                elsewhere: None,
                run: None,
                gone: None,
                uid: None,
                view: None,
                hears: PnnSet::default(),
                link: false,
                link_changed: now,
                heard: false,
                since: now,
                silence: Duration::ZERO,
            });
        }
        self.touched = true;
        let all: Vec<Pnn> = std::iter::once(self.me).chain(self.peers.keys().copied()).collect();
        self.stale = all.iter().copied().collect();
        let mut edges = Vec::new();
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                let place = place(*a, *b);
                if edges.len() <= place {
                    edges.resize(place + 1, None);
                }
                let known = self.edges.get(place).copied().flatten();
                edges[place] = Some(known.unwrap_or(Edge { up: false, since: self.started, deaf: None }));
            }
        }
        self.edges = edges;
        self.edge_changes += 1;
    }

    /// A heartbeat arrived. `None` when it is of nobody in the nodes list, or of this node.
    pub(crate) fn heartbeat(&mut self, from: Pnn, hb: &Heartbeat, now: Time) -> Option<Arrival> {
        let peer = self.peers.get_mut(&from)?;
        let gap = peer.last.filter(|_| peer.heard).map(|t| now.since(t));
        let mut arrival = Arrival { gap, new_run: false, link: peer.link };
        if peer.gone == Some(hb.run) {
            // Sent before its daemon died.
            return Some(arrival);
        }
        let new_run = peer.run != Some(hb.run);
        if !peer.heard || peer.silent_at(&self.timing) == self.first_silence {
            self.touched = true;
        }
        if !new_run && hb.sent < peer.sent {
            // Overtaken on the way: what it says is older than what is known.
            return Some(arrival);
        }
        peer.sent = hb.sent;
        peer.last = Some(now);
        peer.run = Some(hb.run);
        peer.uid = Some(hb.uid);
        peer.view = hb.view;
        if peer.hears != hb.hears {
            peer.hears = hb.hears;
            self.stale.insert(from);
        }
        arrival.new_run = new_run;
        Some(arrival)
    }

    /// This run of the peer is dead: it is silent at once.
    pub(crate) fn gone(&mut self, from: Pnn, run: RunId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.gone = Some(run);
            self.touched = true;
        }
    }

    pub(crate) fn heard_elsewhere(&mut self, from: Pnn, now: Time) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.elsewhere = Some(now);
        }
    }

    pub(crate) fn link(&mut self, peer: Pnn, up: bool, now: Time) {
        if let Some(p) = self.peers.get_mut(&peer)
            && p.link != up
        {
            p.link = up;
            p.link_changed = now;
            self.touched = true;
        }
    }

    /// This node itself did nothing for `stall`: its clock says that everybody was silent, and may be wrong.
    pub(crate) fn stalled(&mut self, now: Time) {
        self.deaf_until = now + self.timing.heartbeat * 2;
    }

    /// Brings "heard" and the edges up to date.
    pub(crate) fn refresh(&mut self, now: Time) -> Changed {
        // Asked at every input, and mostly nothing can have changed.
        let due = self.first_silence.is_some_and(|t| t.max(self.deaf_until) <= now);
        let heard = (self.touched || due) && self.listen(now);
        Changed { heard, edges: self.refresh_edges(now) }
    }

    /// Brings "heard" up to date. Has it changed?
    fn listen(&mut self, now: Time) -> bool {
        self.touched = false;
        self.first_silence = None;
        let mut changed = false;
        let deaf = now < self.deaf_until;
        for (pnn, peer) in &mut self.peers {
            let beats = peer.last.is_some_and(|t| now.since(t) < self.timing.suspect);
            let link = peer.link || (peer.heard && now.since(peer.link_changed) < self.timing.suspect);
            let heard = !peer.is_gone() && ((beats && link) || (peer.heard && deaf));
            if heard != peer.heard {
                peer.heard = heard;
                if heard {
                    peer.silence = now.since(peer.since);
                }
                // Silence began with the last heartbeat, not with our noticing it.
                peer.since = if heard { now } else { peer.last.unwrap_or(now) };
                self.stale.insert(*pnn);
                changed = true;
            }
            if peer.heard {
                self.first_silence = earlier(self.first_silence, peer.silent_at(&self.timing));
            }
        }
        changed
    }

    /// Brings the edges up to date. Has one changed?
    fn refresh_edges(&mut self, now: Time) -> bool {
        let mut changed = false;
        for a in std::mem::take(&mut self.stale).iter() {
            for b in std::iter::once(self.me).chain(self.peers.keys().copied()).filter(|b| *b != a) {
                let (up, deaf) = (self.edge_up(a, b), self.deaf(a, b));
                let Some(edge) = self.edges.get_mut(place(a, b)).and_then(Option::as_mut) else { continue };
                if edge.up != up {
                    *edge = Edge { up, since: now, deaf };
                    changed = true;
                } else if edge.deaf != deaf {
                    edge.deaf = deaf;
                    changed = true;
                }
            }
        }
        self.edge_changes += u64::from(changed);
        changed
    }

    /// Of two nodes that we hear, the one that alone misses the other.
    fn deaf(&self, a: Pnn, b: Pnn) -> Option<Pnn> {
        let (ah, bh) = (self.says(a)?, self.says(b)?);
        match (ah(b), bh(a)) {
            (false, true) => Some(a),
            (true, false) => Some(b),
            (true, true) | (false, false) => None,
        }
    }

    /// A pair of which one is not heard by us counts as connected when the other one hears it.
    fn edge_up(&self, a: Pnn, b: Pnn) -> bool {
        match (self.says(a), self.says(b)) {
            (Some(ah), Some(bh)) => ah(b) && bh(a),
            (Some(ah), None) if a != self.me => ah(b),
            (None, Some(bh)) if b != self.me => bh(a),
            _ => false,
        }
    }

    /// What a node that we hear says it hears.
    fn says(&self, pnn: Pnn) -> Option<impl Fn(Pnn) -> bool + '_> {
        let peer = if pnn == self.me { None } else { Some(self.peers.get(&pnn).filter(|p| p.heard)?) };
        Some(move |other: Pnn| match peer {
            None => self.hears(other),
            Some(p) => p.hears.contains(other),
        })
    }

    pub(crate) fn hears(&self, pnn: Pnn) -> bool {
        self.peers.get(&pnn).is_some_and(|p| p.heard)
    }

    /// Whom this node hears, for its own heartbeats.
    pub(crate) fn heard(&self) -> PnnSet {
        self.peers.iter().filter(|(_, p)| p.heard).map(|(pnn, _)| *pnn).collect()
    }

    /// Does anybody that we hear say that it hears `pnn`?
    pub(crate) fn heard_by_others(&self, pnn: Pnn) -> bool {
        self.peers.iter().any(|(p, s)| *p != pnn && s.heard && s.hears.contains(pnn))
    }

    /// Since when somebody that we hear hears `pnn`, as far as we know.
    pub(crate) fn heard_by_others_since(&self, pnn: Pnn) -> Option<Time> {
        let by = self.peers.iter().filter(|(p, s)| **p != pnn && s.heard && s.hears.contains(pnn));
        by.map(|(p, _)| self.edge(*p, pnn)).filter(|edge| edge.up).map(|edge| edge.since).min()
    }

    pub(crate) fn edge(&self, a: Pnn, b: Pnn) -> Edge {
        let known = if a == b { None } else { self.edges.get(place(a, b)).copied().flatten() };
        known.unwrap_or(Edge { up: false, since: self.started, deaf: None })
    }

    pub(crate) fn run(&self, pnn: Pnn) -> Option<RunId> {
        self.peers.get(&pnn).and_then(|p| p.run)
    }

    /// Why a peer that is not heard is not, for people.
    pub(crate) fn why_silent(&self, pnn: Pnn, now: Time) -> String {
        let Some(peer) = self.peers.get(&pnn) else { return "it is no longer in the nodes list".into() };
        let beats = peer.last.is_some_and(|t| now.since(t) < self.timing.suspect);
        match peer.last.map(|t| now.since(t).as_millis()) {
            _ if peer.is_gone() => "its guard says that its daemon is dead".into(),
            Some(_) if beats && !peer.link => {
                "its heartbeats come, but its control link is closed and does not come back".into()
            }
            Some(ms) if peer.elsewhere > peer.last => format!(
                "no heartbeat for {ms} ms over the network of control and storage, though another of its networks works"
            ),
            Some(ms) => format!("no heartbeat for {ms} ms"),
            None => "no heartbeat yet".into(),
        }
    }

    /// How long a peer was silent before it was heard again.
    pub(crate) fn silence(&self, pnn: Pnn) -> Duration {
        self.peers.get(&pnn).map_or(Duration::ZERO, |p| p.silence)
    }

    /// When the next peer will have been silent for too long.
    pub(crate) fn next_timeout(&self, now: Time) -> Option<Time> {
        self.first_silence.map(|t| t.max(self.deaf_until).max(now + Duration::from_millis(1)))
    }
}
