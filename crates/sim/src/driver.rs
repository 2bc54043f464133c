//! Carries out what the cores ask for, with the delays of real parts: the simulator's half of the contract at the
//! top of the `cluster` crate.

use crate::checks::Violation;
use crate::clock::{MS, S};
use crate::event::{What, message_name};
use crate::host::VipJob;
use crate::network::{Cargo, Datagram, side};
use crate::setup::interface_of;
use crate::storage::EXCHANGE_TIMEOUT;
use crate::world::World;
use cluster::{Durable, Health, Input, LockRecord, Message, Output, Pnn, ServiceHealth, Time};
use std::net::IpAddr;

/// The service that a node starts anew when all its clients are with others.
pub(crate) const NFS: &str = "nfs";

/// A machine outside of the cluster.
const STRANGER: &str = "a stranger";

impl World {
    /// Carries out `out` in order and empties it.
    pub(crate) fn carry_out(&mut self, host: usize, out: &mut Vec<Output>) {
        let generation = self.hosts[host].generation;
        for output in out.drain(..) {
            if !self.is_current(host, generation) {
                return;
            }
            self.carry_out_one(host, output);
        }
    }

    fn carry_out_one(&mut self, host: usize, output: Output) {
        let now = self.now;
        match output {
            Output::SendHeartbeat { to, heartbeat } => {
                for net in 0..self.setup.nets {
                    let from = self.hosts[host].pnn();
                    self.send_datagram(host, to, net, Datagram::Heartbeat { from, net: net as u8, heartbeat });
                }
            }
            Output::SendGrant { to, net, grant } => {
                let from = self.hosts[host].pnn();
                self.send_datagram(host, to, usize::from(net), Datagram::Grant { from, grant });
            }
            Output::Send { to, message } => self.send_message(host, to, message),
            Output::Persist { ticket, state } => self.persist(host, ticket, *state),
            Output::RenewLease { until } => {
                self.hosts[host].core_lease = until;
                self.renew_lease(host, until);
            }
            Output::LeaseLost => {
                let local = self.hosts[host].clock.local(now);
                self.hosts[host].core_lease = self.hosts[host].core_lease.min(local);
                let kernel = &mut self.hosts[host].kernel;
                kernel.lease_until = kernel.lease_until.min(local);
                self.story.node(now, host, || "node lease lost, addresses silenced".to_owned());
            }
            Output::Take { vip, because, .. } => {
                self.story.node(now, host, || format!("take {vip}: {because}"));
                self.vip_job(host, vip, VipJob::Take);
            }
            Output::Release { vip, because } => {
                self.story.node(now, host, || format!("release {vip}: {because}"));
                self.vip_job(host, vip, VipJob::Release);
            }
            Output::ProbeAddress { vip, .. } => {
                let generation = self.hosts[host].generation;
                let holder = (0..self.hosts.len()).find(|h| *h != host && self.hosts[*h].answers(vip, now));
                let (delay, input) = match holder {
                    Some(h) => (self.some(200..=2_000), Input::Conflict { vip, mac: format!("node {h}") }),
                    None if self.is_strange(vip) => {
                        (self.some(200..=40_000), Input::Conflict { vip, mac: STRANGER.to_owned() })
                    }
                    None => (self.some(150_000..=200_000), Input::NoConflict { vip }),
                };
                self.after(delay, What::Local { host, generation, input: Box::new(input) });
            }
            Output::Guard { word } => {
                if let Some(daemon) = self.hosts[host].daemon.as_mut() {
                    daemon.word = Some(word);
                }
            }
            Output::Kick { nodes } => {
                let kicked: Vec<Pnn> = nodes.into_keys().collect();
                self.story.node(now, host, || format!("kick {kicked:?}"));
                for pnn in &kicked {
                    self.cut_storage(host, *pnn);
                }
                self.hosts[host].kernel.kicked.extend(kicked);
            }
            Output::FreeStorage { .. } => {
                self.story.node(now, host, || "frees what others' clients hold of its storage".to_owned());
            }
            Output::Evict { epoch, nodes } => self.evict(host, epoch, nodes.into_keys().collect()),
            Output::Grace { number, epoch, nodes } => self.grace(host, number, epoch, nodes),
            Output::GraceForMove { node, run, number } => self.grace_for_move(host, node, (run, number)),
            Output::Prove { number } => self.prove(host, number),
            Output::LetGo { vip, end } => self.let_go(host, vip, end),
            Output::Lock { wanted } => self.want_lock(host, wanted),
            Output::Exchange { ticket, record } => {
                self.story.node(now, host, || format!("record beside the lock: {}", record_text(&record)));
                let delay = self.some(1_000..=12_000);
                let generation = self.hosts[host].generation;
                if let Some(daemon) = self.hosts[host].daemon.as_mut() {
                    daemon.exchanges.push_back(ticket);
                }
                self.after(
                    delay,
                    What::Exchange { host, generation, ticket, record: Some(record), deadline: now + EXCHANGE_TIMEOUT },
                );
            }
            Output::Serve(wanted) => self.serve(host, wanted),
            Output::Deserted => self.start_nfs_anew(host),
            Output::Publish(snapshot) => {
                if let Some(view) = &snapshot.view {
                    self.drops.published(view, now);
                    self.pins.published(view);
                }
                self.databases_published(host, &snapshot);
                self.prepare_published(host, &snapshot);
                if let Some(daemon) = self.hosts[host].daemon.as_mut() {
                    daemon.snapshot = Some(snapshot);
                }
            }
            Output::Event(event) => {
                self.story.node(now, host, || format!("{}: {} ({})", event.kind, event.text, event.because));
            }
            Output::AdminDone { ticket, reply } => {
                self.story.node(now, host, || format!("reply to the administrator: {reply:?}"));
                self.replies.insert(ticket, reply);
            }
            Output::Stopped => {
                self.story.node(now, host, || "daemon ends".to_owned());
                self.end_daemon(host);
            }
        }
    }

    pub(crate) fn send_datagram(&mut self, from: usize, to: Pnn, net: usize, datagram: Datagram) {
        let to = usize::from(to.0);
        self.totals.datagrams += 1;
        if to >= self.hosts.len() || net >= self.setup.nets || !self.net.passes(net, from, to) {
            return;
        }
        if self.rng.chance(self.net.noise.loss) {
            return;
        }
        if self.rng.chance(self.net.noise.twice) {
            let delay = self.net.delay(&mut self.rng);
            self.after(delay, What::Datagram { to, datagram: datagram.clone() });
        }
        let delay = self.net.delay(&mut self.rng);
        self.after(delay, What::Datagram { to, datagram });
    }

    fn send_message(&mut self, from: usize, to: Pnn, message: Message) {
        let to = usize::from(to.0);
        if to >= self.hosts.len() || to == from {
            return;
        }
        self.totals.messages += 1;
        if !matches!(message, Message::Report(_) | Message::Orders(_)) {
            self.story.node(self.now, from, || format!("-> n{to} {}", message_text(&message)));
        }
        let arrives = match &mut self.versions {
            Some(versions) => versions.carry(from, to, message),
            None => Ok(message),
        };
        match arrives {
            Ok(message) => self.send_cargo(from, to, Cargo::Message(Box::new(message))),
            Err(text) => self.violated(Violation { check: "versions", at: self.now, text }),
        }
    }

    /// Between the databases' servers: over the same links.
    pub(crate) fn send_bytes(&mut self, from: usize, to: usize, bytes: Vec<u8>) {
        if to < self.hosts.len() && to != from {
            self.totals.messages += 1;
            self.send_cargo(from, to, Cargo::Bytes(bytes));
        }
    }

    fn send_cargo(&mut self, from: usize, to: usize, cargo: Cargo) {
        let me = side(from, to);
        if !self.net.pair(from, to).is_whole() {
            return;
        }
        let delay = self.net.delay(&mut self.rng);
        let now = self.now;
        let pair = self.net.pair_mut(from, to);
        let session = pair.session;
        pair.queue[me].push_back(cargo);
        pair.tail[me] = pair.tail[me].max(now + delay);
        let at = pair.tail[me];
        self.after(at - now, What::LinkDeliver { from, to, session });
    }

    fn persist(&mut self, host: usize, ticket: u64, state: Durable) {
        if self.hosts[host].disk.full {
            let delay = self.some(200..=5_000);
            let error = "No space left on device".to_owned();
            self.answer_after(delay, host, Input::PersistFailed { ticket, error });
            return;
        }
        let disk = &mut self.hosts[host].disk;
        if disk.writing.is_some() {
            disk.queued = Some((ticket, state));
            return;
        }
        disk.writing = Some((ticket, state));
        self.start_write(host);
    }

    fn start_write(&mut self, host: usize) {
        let mut delay = self.some(200..=6_000);
        if self.rng.chance(100_000) {
            delay = self.some(6_000..=20_000);
        }
        if self.rng.chance(self.setup.slow_fsync) {
            delay = 200 * MS;
        }
        let slow = self.hosts[host].disk.slow;
        let power = self.hosts[host].power_serial;
        self.after(delay + slow, What::DiskDone { host, power });
    }

    pub(crate) fn disk_done(&mut self, host: usize, power: u64) {
        if self.hosts[host].power_serial != power {
            return;
        }
        let disk = &mut self.hosts[host].disk;
        let Some((ticket, state)) = disk.writing.take() else {
            return;
        };
        disk.durable = state;
        if let Some(next) = disk.queued.take() {
            disk.writing = Some(next);
            self.start_write(host);
        }
        self.answer_after(0, host, Input::Persisted { ticket });
    }

    fn renew_lease(&mut self, host: usize, until: Time) {
        let now = self.now;
        let whole = self.setup.whole_seconds;
        let late = if whole { self.some(0..=22_000) } else { 0 };
        let machine = &mut self.hosts[host];
        let local = machine.clock.local(now);
        if until <= local {
            return;
        }
        let was_over = machine.kernel.lease_until <= local;
        machine.kernel.lease_until =
            if whole { Time(local.0 + (until.0 - local.0).div_ceil(S) * S + late) } else { until };
        if was_over {
            self.story.node(now, host, || "node lease".to_owned());
            self.answers_changed(host);
        }
    }

    fn vip_job(&mut self, host: usize, vip: IpAddr, job: VipJob) {
        let generation = self.hosts[host].generation;
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        let jobs = daemon.vip_jobs.entry(vip).or_default();
        jobs.push_back(job);
        if jobs.len() == 1 {
            self.vip_begin(host, generation, vip);
        }
    }

    fn vip_begin(&mut self, host: usize, generation: u64, vip: IpAddr) {
        let delay = self.some(0..=3_000);
        self.after(delay, What::Vip { host, generation, vip, step: 0 });
    }

    pub(crate) fn vip_step(&mut self, host: usize, generation: u64, vip: IpAddr, step: u8) {
        if !self.is_current(host, generation) {
            return;
        }
        if !self.hosts[host].is_live() {
            // The daemon's threads stand still with it.
            self.after(5 * MS, What::Vip { host, generation, vip, step });
            return;
        }
        let Some(job) =
            self.hosts[host].daemon.as_ref().and_then(|d| d.vip_jobs.get(&vip)).and_then(|jobs| jobs.front().copied())
        else {
            return;
        };
        let failed = job == VipJob::Take && self.hosts[host].interface_down(interface_of(vip));
        if step == 0 {
            match job {
                VipJob::Take if !failed => {
                    self.hosts[host].kernel.addresses.insert(vip);
                    self.answers_changed(host);
                }
                VipJob::Take => {}
                VipJob::Release => {
                    self.hosts[host].kernel.addresses.remove(&vip);
                }
            }
            let delay = match job {
                VipJob::Take => self.some(500..=8_000),
                VipJob::Release => self.some(500..=110_000),
            };
            self.after(delay, What::Vip { host, generation, vip, step: 1 });
            return;
        }
        if let Some(daemon) = self.hosts[host].daemon.as_mut()
            && let Some(jobs) = daemon.vip_jobs.get_mut(&vip)
        {
            jobs.pop_front();
            if jobs.is_empty() {
                daemon.vip_jobs.remove(&vip);
            } else {
                self.vip_begin(host, generation, vip);
            }
        }
        let input = match job {
            VipJob::Take if failed || !self.hosts[host].kernel.addresses.contains(&vip) => {
                // Its interface may have gone down after it was added. It is off again before anybody is told.
                self.hosts[host].kernel.addresses.remove(&vip);
                Input::TakeFailed { vip, because: format!("{} is down", interface_of(vip)) }
            }
            VipJob::Take => {
                if self.is_strange(vip) {
                    // It answers to the first look, which begins with the take.
                    let input = Box::new(Input::Conflict { vip, mac: STRANGER.to_owned() });
                    let delay = self.some(200..=40_000);
                    self.after(delay, What::Local { host, generation, input });
                }
                Input::Taken { vip }
            }
            VipJob::Release => Input::Released { vip },
        };
        self.arrive(host, input, false);
    }

    fn is_strange(&self, vip: IpAddr) -> bool {
        self.strange_vips.get(&vip).is_some_and(|times| *times > 0)
    }

    fn serve(&mut self, host: usize, wanted: bool) {
        let generation = self.hosts[host].generation;
        self.story.node(self.now, host, || if wanted { "services start" } else { "services are to stop" }.to_owned());
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        daemon.serve = wanted;
        daemon.serve_serial += 1;
        let serial = daemon.serve_serial;
        let delay = if wanted { self.some(50_000..=800_000) } else { self.some(20_000..=600_000) };
        if wanted {
            for name in self.hosts[host].config.services.clone() {
                self.answer_after(0, host, service(&name, Health::Starting, "starting"));
            }
        }
        self.after(delay, What::Services { host, generation, serial, up: wanted });
    }

    /// All clients are with others: on GlusterFS the NFS server is killed and started anew.
    fn start_nfs_anew(&mut self, host: usize) {
        self.story.node(self.now, host, || "all clients are with others".to_owned());
        let generation = self.hosts[host].generation;
        let Some(daemon) = self.hosts[host].daemon.as_mut() else { return };
        daemon.services_up = false;
        let serial = daemon.serve_serial;
        self.answer_after(0, host, service(NFS, Health::Starting, "starting"));
        let delay = self.some(50_000..=800_000);
        self.after(delay, What::Services { host, generation, serial, up: true });
    }

    pub(crate) fn services_step(&mut self, host: usize, generation: u64, serial: u64, up: bool) {
        if !self.is_current(host, generation) {
            return;
        }
        let Some(daemon) = self.hosts[host].daemon.as_mut() else {
            return;
        };
        if daemon.serve_serial != serial {
            return;
        }
        daemon.services_up = up;
        for name in self.hosts[host].config.services.clone() {
            let input = if !up {
                service(&name, Health::Off, "not to run now")
            } else if self.hosts[host].is_broken(&name) {
                service(&name, Health::Failed, "does not answer")
            } else {
                service(&name, Health::Ok, "")
            };
            self.local(host, generation, input);
        }
        if !up {
            self.local(host, generation, Input::ServicesStopped);
        }
    }

    /// What the kernel lets answer at this machine may have grown: the checkers look.
    pub(crate) fn answers_changed(&mut self, host: usize) {
        let now = self.now;
        let begun: Vec<IpAddr> = self.hosts[host]
            .kernel
            .addresses
            .iter()
            .copied()
            .filter(|vip| self.hosts[host].answers(*vip, now))
            .collect();
        for vip in begun {
            self.check(|checks, world| checks.answers(world, host, vip));
        }
    }
}

/// A service's state as an input.
pub(crate) fn service(name: &str, state: Health, because: &str) -> Input {
    Input::Service {
        name: name.to_owned(),
        health: ServiceHealth { state, because: because.to_owned(), output: Vec::new() },
    }
}

fn record_text(record: &LockRecord) -> String {
    format!(
        "epoch {} ballot {} accepted {}",
        record.epoch,
        record.ballot.round,
        record.accepted.as_ref().map_or_else(|| "nothing".to_owned(), |a| format!("under {}", a.ballot.round))
    )
}

/// A message in a few words.
fn message_text(message: &Message) -> String {
    let name = message_name(message);
    match message {
        Message::Prepare { epoch, ballot, .. } => format!("{name} epoch {epoch} ballot {}", ballot.round),
        Message::Promise { epoch, ballot, accepted } => format!(
            "{name} epoch {epoch} ballot {}{}",
            ballot.round,
            if accepted.is_some() { ", accepted before" } else { "" }
        ),
        Message::Accept { ballot, view } => format!(
            "{name} epoch {} ballot {}: members {:?} voters {:?} ({})",
            view.epoch,
            ballot.round,
            view.members.keys().collect::<Vec<_>>(),
            view.voters.keys().collect::<Vec<_>>(),
            view.because
        ),
        Message::Accepted { epoch, ballot, .. } => format!("{name} epoch {epoch} ballot {}", ballot.round),
        Message::Refused { epoch, ballot, promised } => {
            format!("{name} epoch {epoch} ballot {}: promised {}", ballot.round, promised.round)
        }
        Message::Decided { view, fences } => format!(
            "{name} epoch {}: members {:?} fences {fences:?}",
            view.epoch,
            view.members.keys().collect::<Vec<_>>()
        ),
        Message::Report(_) | Message::Orders(_) => name.to_owned(),
        Message::Admin { request, .. } => format!("{name} {request:?}"),
        Message::AdminDone { reply, .. } => format!("{name} {reply:?}"),
    }
}
