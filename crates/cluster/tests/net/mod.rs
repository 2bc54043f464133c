//! A perfect network of whole cores: time goes on by events.

use cluster::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) struct Host {
    pub(crate) core: Cluster,
    pub(crate) vips: BTreeSet<IpAddr>,
    pub(crate) lease: Time,
    pub(crate) on: bool,
    pub(crate) stopped: bool,
    pub(crate) log: Vec<String>,
    pub(crate) replies: Vec<AdminReply>,
    pub(crate) durable: Durable,
    pub(crate) snapshot: Option<std::sync::Arc<Snapshot>>,
    pub(crate) probes: Vec<IpAddr>,
    pub(crate) word: Option<GuardWord>,
}

pub(crate) struct Net {
    pub(crate) now: Time,
    pub(crate) hosts: Vec<Host>,
    pub(crate) queue: BTreeMap<(Time, u64), (usize, Input)>,
    pub(crate) seq: u64,
    pub(crate) lock: Option<usize>,
    pub(crate) records: BTreeMap<Pnn, LockRecord>,
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Nothing comes to these hosts; what they say is heard.
    pub(crate) deaf: BTreeSet<usize>,
    /// An address that a machine outside of the cluster uses.
    pub(crate) stranger: Option<IpAddr>,
    /// A host that needs longer, in milliseconds, to shut others out of the storage.
    pub(crate) slow_evict: Option<(usize, u32)>,
    /// Hosts whose NFS server never answers.
    pub(crate) nfs_hangs: BTreeSet<usize>,
    /// Hosts to which no grant comes.
    pub(crate) ungranted: BTreeSet<usize>,
    /// Hosts whose servers never prove that they answer.
    pub(crate) unproven: BTreeSet<usize>,
    /// Hosts of a version that does not say whether it has all that was committed.
    pub(crate) older: BTreeSet<usize>,
    /// How long an address takes to leave, in milliseconds.
    pub(crate) slow_release: u32,
    pub(crate) allocated: Allocated,
    /// Hosts that said that all of their clients have gone to others.
    pub(crate) deserted: Vec<usize>,
    /// Who freed its storage of what these had there.
    pub(crate) freed: Vec<(usize, Vec<Pnn>)>,
}

/// What was allocated in turns of a core of which nothing came but heartbeats, grants and renewals.
#[derive(Default)]
pub(crate) struct Allocated {
    pub(crate) turns: u64,
    pub(crate) times: u64,
}

pub(crate) fn vip(i: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 168, 122, 200 + i))
}

pub(crate) fn config(me: u16, n: u16) -> Config {
    let nodes = (0..n)
        .map(|i| {
            let a = IpAddr::V4(Ipv4Addr::new(192, 168, 122, 100 + i as u8));
            (Pnn(i), NodeConf { name: format!("gluster{}", i + 1), role: Role::Server, addresses: vec![a] })
        })
        .collect();
    let hosts: BTreeMap<Pnn, String> = (0..n).map(|i| (Pnn(i), "eth0".to_string())).collect();
    let vips = (0..4).map(|i| (vip(i), VipConf { prefix_len: 24, hosts: hosts.clone() })).collect();
    Config {
        cluster: "storage".into(),
        me: Pnn(me),
        nodes,
        removed: BTreeMap::new(),
        vips,
        databases: false,
        services: BTreeSet::from(["nfs".to_string()]),
        timing: Timing::default(),
        fail_back: FailBack::Spread,
        drain_wait: Duration::ZERO,
        fingerprint: 7,
    }
}

impl Net {
    pub(crate) fn new(n: u16, lock: bool) -> Self {
        let mut net = Self {
            now: Time(1_000_000),
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            seq: 0,
            lock: None,
            records: BTreeMap::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            stranger: None,
            nfs_hangs: BTreeSet::new(),
            ungranted: BTreeSet::new(),
            unproven: BTreeSet::new(),
            older: BTreeSet::new(),
            slow_release: 1,
            slow_evict: None,
            allocated: Allocated::default(),
            deserted: Vec::new(),
            freed: Vec::new(),
        };
        for i in 0..n {
            let mut durable = Durable::blank(Pnn(i), NodeUid(100 + u128::from(i)));
            if i == 0 {
                let life = Incarnation { number: 0, id: 9 };
                durable.view = Some(View::founding(life, Epoch(0), Pnn(0), durable.uid, "init".into()));
            }
            net.hosts.push(Host {
                core: Self::core(i, n, &durable, 1, net.now),
                vips: BTreeSet::new(),
                lease: Time(0),
                on: true,
                stopped: false,
                log: Vec::new(),
                replies: Vec::new(),
                durable,
                snapshot: None,
                probes: Vec::new(),
                word: None,
            });
        }
        for i in 0..n as usize {
            net.boot(i, lock);
        }
        net
    }

    pub(crate) fn core(i: u16, n: u16, durable: &Durable, run: u64, now: Time) -> Cluster {
        let start = Start {
            config: config(i, n),
            durable: durable.clone(),
            run: RunId(run * 1000 + u64::from(i)),
            seed: u64::from(i) + 5,
            version: "test".into(),
        };
        Cluster::new(start, now)
    }

    pub(crate) fn boot(&mut self, i: usize, lock: bool) {
        self.at(0, i, Input::LockUsable { usable: lock, because: String::new() });
        for p in 0..self.hosts.len() {
            if p != i && self.hosts[p].on {
                self.at(1, i, Input::Link { peer: Pnn(p as u16), up: true });
                self.at(1, p, Input::Link { peer: Pnn(i as u16), up: true });
            }
        }
        let health = ServiceHealth { state: Health::Ok, because: String::new(), output: vec![] };
        self.at(0, i, Input::Service { name: "nfs".into(), health });
    }

    pub(crate) fn at(&mut self, ms: u32, host: usize, input: Input) {
        self.seq += 1;
        self.queue.insert((self.now + MS * ms, self.seq), (host, input));
    }

    pub(crate) fn power_off(&mut self, i: usize) {
        self.hosts[i].on = false;
        self.hosts[i].vips.clear();
        if self.lock == Some(i) {
            self.lock = None;
        }
        self.queue.retain(|_, (h, _)| *h != i);
    }

    /// The daemon dies; its guard has removed the addresses and says so to `hearers`.
    pub(crate) fn die(&mut self, i: usize, hearers: impl IntoIterator<Item = usize>) {
        self.power_off(i);
        let word = self.hosts[i].word.clone().expect("a daemon of a view has given its guard a word");
        for to in hearers.into_iter().filter(|to| *to != i) {
            self.at(1, to, Input::Guard { from: Pnn(i as u16), word: word.clone() });
        }
    }

    pub(crate) fn power_on(&mut self, i: usize, run: u64, lock: bool) {
        let n = self.hosts.len() as u16;
        let durable = self.hosts[i].durable.clone();
        self.hosts[i].core = Self::core(i as u16, n, &durable, run, self.now);
        self.hosts[i].on = true;
        self.boot(i, lock);
    }

    pub(crate) fn run(&mut self, d: Duration) {
        let end = self.now + d;
        loop {
            let tick = (0..self.hosts.len())
                .filter(|i| self.hosts[*i].on)
                .map(|i| (self.hosts[i].core.next_timeout().max(self.now), i))
                .min();
            let message = self.queue.keys().next().copied();
            let (at, host, input) = match (tick, message) {
                (Some((t, i)), Some((m, _))) if t < m => (t, i, Input::Tick),
                (_, Some(key)) => {
                    let (host, input) = self.queue.remove(&key).expect("it was there a moment ago");
                    (key.0, host, input)
                }
                (Some((t, i)), None) => (t, i, Input::Tick),
                (None, None) => break,
            };
            if at > end {
                if !matches!(input, Input::Tick) {
                    self.seq += 1;
                    self.queue.insert((at, self.seq), (host, input));
                }
                break;
            }
            self.now = at;
            self.feed(host, input);
        }
        self.now = end;
    }

    pub(crate) fn feed(&mut self, i: usize, input: Input) {
        if !self.hosts[i].on {
            return;
        }
        // A driver keeps its list.
        let mut out = Vec::with_capacity(64);
        let allocated =
            allocation_counter::measure(|| self.hosts[i].core.handle(self.now, input, &mut out)).count_total;
        let beats = |o: &Output| {
            matches!(o, Output::SendHeartbeat { .. } | Output::SendGrant { .. } | Output::RenewLease { .. })
        };
        if !out.is_empty() && out.iter().all(beats) {
            self.allocated.turns += 1;
            self.allocated.times += allocated;
        }
        let from = Pnn(i as u16);
        for o in out {
            match o {
                Output::SendHeartbeat { to, heartbeat } => {
                    self.wire(i, to, Input::Heartbeat { from, net: 0, heartbeat })
                }
                Output::SendGrant { to, grant, .. } => self.wire(i, to, Input::Grant { from, grant }),
                Output::Send { to, mut message } => {
                    if let (Message::Report(report), true) = (&mut message, self.older.contains(&i)) {
                        std::sync::Arc::make_mut(report).recovered = None;
                    }
                    self.wire(i, to, Input::Message { from, message });
                }
                Output::Persist { ticket, state } => {
                    self.hosts[i].durable = *state;
                    self.at(2, i, Input::Persisted { ticket });
                }
                Output::RenewLease { until } => self.hosts[i].lease = until,
                Output::LeaseLost => self.hosts[i].lease = Time(0),
                Output::Take { vip, .. } => {
                    for (p, h) in self.hosts.iter().enumerate() {
                        let answers = h.on && h.vips.contains(&vip) && self.now < h.lease;
                        assert!(p == i || !answers, "{vip} is taken by {i} while {p} answers at {:?}", self.now);
                    }
                    self.hosts[i].vips.insert(vip);
                    self.at(1, i, Input::Taken { vip });
                }
                Output::Release { vip, .. } => {
                    self.hosts[i].vips.remove(&vip);
                    self.at(self.slow_release, i, Input::Released { vip });
                }
                Output::Evict { epoch, .. } => {
                    let ms = self.slow_evict.filter(|(host, _)| *host == i).map_or(5, |(_, ms)| ms);
                    self.at(ms, i, Input::Evicted { epoch });
                }
                Output::Grace { number, nodes, .. } => {
                    self.hosts[i].log.push(format!("grace for the clients of {nodes:?}"));
                    self.at(3, i, Input::Graced { number, because: None });
                }
                Output::GraceForMove { node, run, number } => {
                    self.hosts[i].log.push(format!("grace for {node}"));
                    if !self.nfs_hangs.contains(&i) {
                        self.at(3, i, Input::GracedForMove { node, run, number, because: None });
                    }
                }
                Output::Prove { number } => {
                    self.hosts[i].log.push("asks for a proof".into());
                    if !self.unproven.contains(&i) {
                        self.at(3, i, Input::Proved { number, because: None });
                    }
                }
                Output::LetGo { vip, end } => {
                    self.hosts[i].log.push(format!("{} {vip}", if end { "ends what hangs for" } else { "lets go" }));
                    if !self.nfs_hangs.contains(&i) {
                        self.at(3, i, Input::LetGo { vip, end, because: None });
                    }
                }
                Output::Serve(on) => {
                    if !on {
                        self.at(3, i, Input::ServicesStopped);
                    }
                }
                Output::Lock { wanted } => {
                    if wanted && self.lock.is_none() {
                        self.lock = Some(i);
                        self.at(1, i, Input::Lock { held: true, because: String::new() });
                    } else if !wanted && self.lock == Some(i) {
                        self.lock = None;
                        self.at(1, i, Input::Lock { held: false, because: String::new() });
                    }
                }
                Output::Exchange { ticket, record } => {
                    self.records.insert(from, *record);
                    let all = self.records.values().cloned().collect();
                    self.at(1, i, Input::Records { ticket, result: Ok(all) });
                }
                Output::Publish(s) => self.hosts[i].snapshot = Some(s),
                Output::Event(e) => self.hosts[i].log.push(format!("{:?} {} {} ({})", e.at, e.kind, e.text, e.because)),
                Output::AdminDone { reply, .. } => self.hosts[i].replies.push(reply),
                Output::Stopped => self.hosts[i].stopped = true,
                Output::Kick { .. } => {}
                Output::FreeStorage { nodes } => self.freed.push((i, nodes.into_keys().collect())),
                Output::Deserted => self.deserted.push(i),
                Output::Guard { word } => self.hosts[i].word = Some(word),
                Output::ProbeAddress { vip, .. } => {
                    self.hosts[i].probes.push(vip);
                    if self.stranger == Some(vip) {
                        self.at(20, i, Input::Conflict { vip, mac: "02:00:00:00:00:99".into() });
                    } else {
                        self.at(150, i, Input::NoConflict { vip });
                    }
                }
            }
        }
    }

    pub(crate) fn wire(&mut self, from: usize, to: Pnn, input: Input) {
        let to = usize::from(to.0);
        let cut = self.cut.contains(&(from.min(to), from.max(to))) || self.deaf.contains(&to);
        let granted = !matches!(input, Input::Grant { .. }) || !self.ungranted.contains(&to);
        if self.hosts[to].on && !cut && granted {
            self.at(1, to, input);
        }
    }

    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// Who answers for each address now.
    pub(crate) fn answering(&self) -> BTreeMap<IpAddr, Vec<usize>> {
        let mut map: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
        for (i, h) in self.hosts.iter().enumerate() {
            for v in h.vips.iter().filter(|_| h.on && self.now < h.lease) {
                map.entry(*v).or_default().push(i);
            }
        }
        map
    }

    pub(crate) fn loads(&self) -> Vec<usize> {
        self.hosts.iter().map(|h| h.vips.len()).collect()
    }

    pub(crate) fn story(&self) -> String {
        self.hosts.iter().enumerate().flat_map(|(i, h)| h.log.iter().map(move |l| format!("n{i} {l}\n"))).collect()
    }

    /// Runs until every address is answered for by one node; how long that took.
    pub(crate) fn until_served(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        while self.now.since(start) < limit {
            self.run(MS);
            let a = self.answering();
            assert!(a.values().all(|h| h.len() == 1), "two holders: {a:?}\n{}", self.story());
            if a.len() == 4 {
                return self.now.since(start);
            }
        }
        panic!("not served after {limit:?}: {:?}\n{}", self.answering(), self.story());
    }
}

pub(crate) fn settled(n: u16, lock: bool) -> Net {
    let mut net = Net::new(n, lock);
    net.run(Duration::from_secs(30));
    let all: Vec<Pnn> = (0..n).map(Pnn).collect();
    for h in &net.hosts {
        let view = h.core.view().expect("a view");
        assert_eq!(view.members.keys().copied().collect::<Vec<_>>(), all, "{}", net.story());
    }
    net
}
