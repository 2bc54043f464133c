//! What befalls machines, daemons and links: power, start, end, pause; connections that come and go with them.

use crate::clock::{MS, Micros, S};
use crate::driver::service;
use crate::event::What;
use crate::host::{Busy, Daemon, Kernel};
use crate::network::{Cargo, Datagram, side};
use crate::setup::interface_of;
use crate::world::World;
use cluster::{
    Cluster, Durable, GuardWord, Health, Input, NodeUid, Pnn, Restraint, RunId, Start, Time, public_interfaces,
};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

impl World {
    /// A machine loses power: daemon and kernel are gone; of a write under way the disk has all or nothing.
    pub fn power_off(&mut self, host: usize) {
        if !self.hosts[host].power {
            return;
        }
        self.story.node(self.now, host, || "POWER OFF".to_owned());
        let landed = self.rng.chance(500_000);
        self.drop_daemon(host, true);
        let machine = &mut self.hosts[host];
        machine.power = false;
        machine.power_serial += 1;
        machine.dark_since = self.now;
        let writing = machine.disk.writing.take();
        machine.disk.queued = None;
        if let (true, Some((_, state))) = (landed, writing) {
            machine.disk.durable = state;
        }
        machine.kernel = Kernel::default();
        machine.core_lease = Time(0);
        machine.guard = None;
        machine.clock.thaw(self.now);
        let pnn = self.hosts[host].pnn();
        for peer in &mut self.hosts {
            peer.kernel.kicked.remove(&pnn);
        }
        self.recheck_links(host);
    }

    /// Power comes back; the daemon is started by the machine's own supervisor.
    pub fn power_on(&mut self, host: usize, power: u64) {
        if self.hosts[host].power || self.hosts[host].power_serial != power {
            return;
        }
        self.story.node(self.now, host, || "power on".to_owned());
        let machine = &mut self.hosts[host];
        machine.power = true;
        // The fence is put up from the view on disk before the storage's own server starts.
        machine.fence();
        let delay = self.some(50_000..=500_000);
        self.after(delay, What::Start { host });
        self.recheck_links(host);
    }

    /// The disk is replaced by an empty one: a new identity. Only while the power is off.
    pub fn wipe(&mut self, host: usize) {
        let uid = NodeUid(self.rng.wide());
        let pnn = self.hosts[host].pnn();
        self.hosts[host].disk.durable = Durable::blank(pnn, uid);
        self.story.node(self.now, host, || "has an empty disk now".to_owned());
    }

    /// The daemon is killed. With its guard alive the addresses go at once, else their lease runs out.
    pub fn kill_daemon(&mut self, host: usize, guard: bool) {
        if self.hosts[host].daemon.is_none() {
            return;
        }
        self.story.node(self.now, host, || if guard { "daemon killed" } else { "daemon and guard killed" }.to_owned());
        let word = self.hosts[host].daemon.as_ref().and_then(|d| d.word.clone());
        self.drop_daemon(host, false);
        if guard {
            let power = self.hosts[host].power_serial;
            self.hosts[host].guard = Some(word);
            let delay = self.some(5_000..=50_000);
            self.after(delay, What::Guard { host, power });
        }
        self.recheck_links(host);
    }

    /// The daemon has ended by itself, everything released.
    pub(crate) fn end_daemon(&mut self, host: usize) {
        self.drop_daemon(host, false);
        self.recheck_links(host);
    }

    /// The time of the day is this from now on.
    pub fn time_of_day(&mut self, host: usize, minute: u16) {
        self.hosts[host].minute = minute;
        self.arrive(host, Input::TimeOfDay { minute }, false);
    }

    /// Asks the daemon to end, as a service manager does.
    pub fn stop_daemon(&mut self, host: usize) {
        let generation = self.hosts[host].generation;
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        daemon.stopping = true;
        self.story.node(self.now, host, || "daemon is told to end".to_owned());
        self.after(10 * S, What::Reap { host, generation });
        self.arrive(host, Input::Stop, false);
    }

    pub(crate) fn reap(&mut self, host: usize, generation: u64) {
        if self.is_current(host, generation) && self.hosts[host].daemon.as_ref().is_some_and(|d| d.stopping) {
            self.story.node(self.now, host, || "did not end within 10 s".to_owned());
            self.kill_daemon(host, true);
        }
    }

    fn drop_daemon(&mut self, host: usize, power_lost: bool) {
        if self.hosts[host].daemon.take().is_none() {
            return;
        }
        self.databases_end(host);
        self.lock_outlives(host, power_lost);
        for other in 0..self.hosts.len() {
            if other != host {
                let pair = self.net.pair_mut(host, other);
                pair.close(side(host, other));
                pair.change += 1;
            }
        }
        // A write that the kernel has begun ends without the daemon; what waited for the writer is lost.
        self.hosts[host].disk.queued = None;
    }

    pub(crate) fn guard_cleans(&mut self, host: usize, power: u64) {
        let machine = &mut self.hosts[host];
        if machine.power_serial != power {
            return;
        }
        if !machine.runs() {
            self.after(20 * MS, What::Guard { host, power });
            return;
        }
        let Some(word) = machine.guard.take() else { return };
        machine.kernel.addresses.clear();
        self.story.node(self.now, host, || "guard removed the addresses".to_owned());
        if let Some(word) = word {
            self.guard_speaks(host, &word);
        }
    }

    /// A guard says it more than once: datagrams get lost.
    fn guard_speaks(&mut self, host: usize, word: &GuardWord) {
        let from = self.hosts[host].pnn();
        for to in (0..self.hosts.len()).filter(|to| *to != host) {
            for net in 0..self.setup.nets {
                for _ in 0..2 {
                    self.send_datagram(host, Pnn(to as u16), net, Datagram::Guard { from, word: word.clone() });
                }
            }
        }
    }

    /// Starts the daemon, if the machine is on, none runs and nobody keeps it down.
    pub fn start_daemon(&mut self, host: usize) {
        let machine = &self.hosts[host];
        if !machine.power || machine.daemon.is_some() || machine.kept_down > 0 {
            return;
        }
        // A new daemon waits until the guard of the last one has ended.
        if machine.clock.is_frozen() || machine.disk.writing.is_some() || machine.guard.is_some() {
            self.after(20 * MS, What::Start { host });
            return;
        }
        let run = RunId(self.rng.next());
        let seed = self.rng.next();
        let now = self.now;
        let machine = &mut self.hosts[host];
        // The start removes what an earlier run left, before it says a word.
        machine.kernel.addresses.clear();
        machine.kernel.lease_until = Time(0);
        // And it shuts out whom the view on disk evicts: the one before may not have come to that.
        let fenced = machine.fence();
        machine.core_lease = Time(0);
        machine.generation += 1;
        let local = machine.clock.local(now);
        let start = Start {
            config: machine.config.clone(),
            durable: machine.disk.durable.clone(),
            run,
            seed,
            version: "sim".to_owned(),
        };
        machine.daemon = Some(Daemon {
            core: Cluster::new(start, local),
            run,
            inbox: VecDeque::new(),
            exchanges: VecDeque::new(),
            paused: false,
            stall_next: false,
            stalled: Vec::new(),
            slow: 0,
            processing: false,
            wake_at: None,
            snapshot: None,
            vip_jobs: BTreeMap::new(),
            serve: false,
            serve_serial: 0,
            word: None,
            services_up: false,
            evict_serial: 0,
            evict_fails_until: 0,
            stopping: false,
            busy: Busy::default(),
        });
        let older = self.versions.as_mut().is_some_and(|versions| versions.start(host));
        let version = if older { " of the older version" } else { "" };
        self.story.node(now, host, || format!("daemon{version} starts, run {:08x}", run.0 >> 32));
        self.hosts[host].nfs_moves.clear();
        self.hosts[host].restraint = Restraint::default();
        self.hosts[host].letting_go.clear();
        self.hosts[host].proved = None;
        self.check(|checks, world| checks.started(world, host));
        self.databases_start(host);
        let mut first = vec![
            self.lock_usable(host),
            Input::WholeSeconds(self.setup.whole_seconds),
            Input::TimeOfDay { minute: self.hosts[host].minute },
            Input::MovesWait(self.setup.prepares),
        ];
        // Not said where there are none: those seeds keep their stories.
        if self.setup.nfs_clients.contains(&host) {
            self.read_nfs_clients(host);
        }
        if self.setup.nfs_locks.contains(&host) {
            let addresses = self.setup.vips.iter().map(|(vip, _)| *vip).collect();
            first.push(Input::NfsLocks { addresses, grace: true });
        }
        for name in public_interfaces(&self.hosts[host].config) {
            let up = !self.hosts[host].interface_down(&name);
            first.push(Input::Interface { name, up });
        }
        for name in &self.hosts[host].config.services {
            first.push(service(name, Health::Off, "not to run now"));
        }
        first.extend(fenced.map(|epoch| Input::Evicted { epoch }));
        first.push(Input::Tick);
        for input in first {
            self.arrive(host, input, false);
        }
        self.recheck_links(host);
    }

    /// Stops the daemon as SIGSTOP does; `between` = between a decision and its effects.
    pub fn pause_daemon(&mut self, host: usize, between: bool) {
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        if between {
            daemon.stall_next = true;
            return;
        }
        daemon.paused = true;
        self.story.node(self.now, host, || "daemon stopped (SIGSTOP)".to_owned());
        self.recheck_links(host);
    }

    /// Lets a stopped daemon go on.
    pub fn resume_daemon(&mut self, host: usize) {
        let tick_first = self.rng.chance(500_000);
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        daemon.stall_next = false;
        if !daemon.paused {
            return;
        }
        daemon.paused = false;
        daemon.wake_at = None;
        if tick_first {
            daemon.inbox.push_front(Input::Tick);
        } else {
            daemon.inbox.push_back(Input::Tick);
        }
        let mut stalled = std::mem::take(&mut daemon.stalled);
        self.story.node(self.now, host, || "daemon goes on".to_owned());
        self.recheck_links(host);
        self.carry_out(host, &mut stalled);
        self.schedule_process(host);
        self.databases_go_on(host);
    }

    /// The whole machine stands still, its clock with it.
    pub fn freeze(&mut self, host: usize) {
        if !self.hosts[host].power {
            return;
        }
        self.story.node(self.now, host, || "machine paused".to_owned());
        let now = self.now;
        self.hosts[host].clock.freeze(now);
        self.recheck_links(host);
    }

    /// The machine goes on as if nothing had been.
    pub fn thaw(&mut self, host: usize) {
        let now = self.now;
        let machine = &mut self.hosts[host];
        if !machine.clock.is_frozen() {
            return;
        }
        machine.clock.thaw(now);
        machine.thawed_at = Some(now);
        self.story.node(now, host, || "machine goes on".to_owned());
        self.recheck_links(host);
        self.answers_changed(host);
        // When everything that the pause excuses must be over.
        self.after(self.excused() + MS, What::Recheck { host });
        if let Some(daemon) = self.hosts[host].daemon.as_mut() {
            daemon.wake_at = None;
        }
        self.set_alarm(host);
        self.schedule_process(host);
        // What could not be told to a machine that stood still.
        let (config, minute) = (self.hosts[host].config.clone(), self.hosts[host].minute);
        self.arrive(host, Input::Config(Box::new(config)), false);
        self.arrive(host, Input::TimeOfDay { minute }, false);
        let (usable, restraint) = (self.lock_usable(host), self.hosts[host].restraint);
        self.arrive(host, usable, false);
        self.arrive(host, Input::Restraint(restraint), false);
        self.databases_go_on(host);
    }

    /// For how long after a machine's pause its addresses may answer beside somebody else's.
    #[must_use]
    pub fn excused(&self) -> Micros {
        let timing = &self.setup.timing;
        let whole = if self.setup.whole_seconds { timing.whole_seconds.as_micros() as u64 } else { 0 };
        timing.lease.as_micros() as u64 + whole + timing.margin.as_micros() as u64
    }

    /// Has this machine gone on a moment ago, so that its addresses may?
    #[must_use]
    pub fn has_just_thawed(&self, host: usize) -> bool {
        self.hosts[host].thawed_at.is_some_and(|at| self.now <= at + self.excused())
    }

    /// A public interface goes down or comes up.
    pub fn interface(&mut self, host: usize, name: &str, up: bool) {
        let count = self.hosts[host].interfaces_down.entry(name.to_owned()).or_default();
        *count = if up { count.saturating_sub(1) } else { *count + 1 };
        let is_up = *count == 0;
        self.story.node(self.now, host, || format!("{name} is {}", if is_up { "up" } else { "down" }));
        if is_up {
            self.answers_changed(host);
        }
        let delay = self.some(500..=10_000);
        let name = name.to_owned();
        self.answer_after(delay, host, Input::Interface { name, up: is_up });
    }

    /// A service begins to fail, or is mended.
    pub fn service(&mut self, host: usize, name: &str, works: bool) {
        let count = self.hosts[host].broken.entry(name.to_owned()).or_default();
        *count = if works { count.saturating_sub(1) } else { *count + 1 };
        let works = *count == 0;
        let up = self.hosts[host].daemon.as_ref().is_some_and(|d| d.services_up);
        self.story.node(self.now, host, || format!("{name} {}", if works { "works again" } else { "fails" }));
        if up {
            let input =
                if works { service(name, Health::Ok, "") } else { service(name, Health::Failed, "does not answer") };
            self.answer_after(MS, host, input);
        }
    }

    /// Somebody removes an address behind the daemon's back.
    pub fn remove_address(&mut self, host: usize, vip: IpAddr) {
        if self.hosts[host].kernel.addresses.remove(&vip) {
            let on = interface_of(vip);
            self.story.node(self.now, host, || format!("somebody removes {vip} from {on}"));
            self.answer_after(MS, host, Input::Released { vip });
        }
    }

    /// A node tries its connections anew.
    pub fn reconnect(&mut self, host: usize) {
        self.recheck_links(host);
    }

    /// Something about a node's connections may have changed.
    pub(crate) fn recheck_links(&mut self, host: usize) {
        for other in 0..self.hosts.len() {
            if other != host {
                self.recheck_link(host, other);
            }
        }
    }

    /// Plans what the link between two nodes does next.
    pub(crate) fn recheck_link(&mut self, a: usize, b: usize) {
        let now = self.now;
        let way = self.net.round_trip(a, b);
        let strange = self.strangers.contains(&a) || self.strangers.contains(&b);
        let apart = self.are_apart(a, b);
        let ok = way && !strange && !apart && self.hosts[a].is_live() && self.hosts[b].is_live();
        let reset = way && self.hosts[a].runs() && self.hosts[b].runs();
        let quick = self.some(1_000..=20_000);
        let connect = self.some(5_000..=self.setup.connect);
        let timeout = self.setup.link_timeout + self.some(0..=300_000);
        let pair = self.net.pair_mut(a, b);
        pair.change += 1;
        let change = pair.change;
        if ok {
            pair.bad_since = None;
        } else {
            pair.bad_since.get_or_insert(now);
        }
        let bad_since = pair.bad_since.unwrap_or(now);
        let up = pair.up;
        if ok && up == [false, false] {
            self.after(connect, What::LinkUp { a, b, change });
            return;
        }
        if ok && up == [true, true] {
            return;
        }
        for (me, other) in [(a, b), (b, a)] {
            if !up[side(me, other)] {
                continue;
            }
            let half_open = !up[side(other, me)];
            let delay = if reset && (half_open || apart) {
                quick
            } else {
                (bad_since + timeout).saturating_sub(now).max(quick)
            };
            self.after(delay, What::LinkDown { me, other, change });
        }
    }

    pub(crate) fn link_up(&mut self, a: usize, b: usize, change: u64) {
        let pair = self.net.pair_mut(a, b);
        if pair.change != change {
            return;
        }
        pair.up = [true, true];
        pair.session += 1;
        pair.tail = [0, 0];
        for (me, other) in [(a, b), (b, a)] {
            let peer = self.hosts[other].pnn();
            self.arrive(me, Input::Link { peer, up: true }, false);
            self.databases_input(me, ctdb::server::Input::Link { peer: u32::from(peer.0), up: true });
        }
    }

    pub(crate) fn link_down(&mut self, me: usize, other: usize, change: u64) {
        let runs = self.hosts[me].runs();
        let pair = self.net.pair_mut(me, other);
        if pair.change != change || !pair.up[side(me, other)] {
            return;
        }
        if !runs {
            // A paused machine notices when it goes on.
            self.after(20 * MS, What::LinkDown { me, other, change });
            return;
        }
        pair.close(side(me, other));
        let peer = self.hosts[other].pnn();
        self.story.node(self.now, me, || format!("link to n{other} is down"));
        self.arrive(me, Input::Link { peer, up: false }, false);
        self.databases_input(me, ctdb::server::Input::Link { peer: u32::from(peer.0), up: false });
        self.recheck_link(me, other);
    }

    /// Closes a connection that works; both ends connect again.
    pub fn reset_link(&mut self, a: usize, b: usize) {
        let pair = self.net.pair_mut(a, b);
        if pair.is_whole() {
            pair.change += 1;
            let change = pair.change;
            self.after(0, What::LinkDown { me: a, other: b, change });
        }
    }

    pub(crate) fn link_deliver(&mut self, from: usize, to: usize, session: u64) {
        let passes = self.net.passes(0, from, to) && self.hosts[to].runs();
        let me = side(from, to);
        let pair = self.net.pair_mut(from, to);
        if pair.session != session || pair.queue[me].is_empty() {
            return;
        }
        if !passes {
            let delay = self.some(20_000..=200_000);
            self.after(delay, What::LinkDeliver { from, to, session });
            return;
        }
        match pair.queue[me].pop_front() {
            Some(Cargo::Message(message)) => {
                let from = self.hosts[from].pnn();
                self.arrive(to, Input::Message { from, message: *message }, false);
            }
            Some(Cargo::Bytes(bytes)) => {
                self.databases_input(to, ctdb::server::Input::Peer { from: from as u32, bytes });
            }
            None => {}
        }
    }
}
