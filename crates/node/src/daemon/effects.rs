//! What the core says, carried out: each output goes to the part that does it, and none of them is waited for.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use cluster::{Epoch, Input, Output, Snapshot, Time};
use net::{BootTime, Command};
use services::{Hold, Serve};
use tokio::sync::{mpsc, watch};

use super::core::Effects;
use super::disk::Write;
use super::events::Moved;
use super::evict::Evict;
use super::held::Held;
use super::inbox::{Inbox, Item};
use super::lock::LockOrder;
use super::nfs;
use super::tickles::{self, News};
use super::timeline::{Recorder, timed};
use crate::databases::{Item as Data, Post};
use crate::guard::Guard;
use crate::peer::Peers;

/// A failed release is tried again after this.
const RELEASE_AGAIN: Duration = Duration::from_millis(200);
/// A failed eviction is tried again after this.
const EVICT_AGAIN: Duration = Duration::from_millis(250);
/// Orders that the network worker had no room for are offered again after this.
const OFFER_AGAIN: Duration = Duration::from_millis(10);

/// All that the core's thread hands things to.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(crate) inbox: Inbox,
    pub(crate) peers: Peers,
    pub(crate) net: NetOrders,
    pub(crate) votes: Sender<Write>,
    pub(crate) lock: mpsc::UnboundedSender<LockOrder>,
    pub(crate) serve: watch::Sender<Serve>,
    /// This node's own storage clients are held, for there is no lease.
    pub(crate) holds: watch::Sender<Hold>,
    /// How often all clients of this node have gone to others.
    pub(crate) deserted: watch::Sender<u64>,
    pub(crate) snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    pub(crate) timeline: Recorder,
    pub(crate) tickles: tickles::Sender,
    /// The databases' thread, which tells Samba of addresses that leave and come.
    pub(crate) databases: Post,
    /// The event scripts' task.
    pub(crate) moved: mpsc::UnboundedSender<Moved>,
    pub(crate) held: Held,
    pub(crate) nfs: nfs::Sender,
    /// Ports of the NFS server; none where its grace period is never entered.
    pub(crate) nfs_ports: watch::Receiver<Vec<u16>>,
    /// Evicts where it is not the network's to do.
    pub(crate) evict: mpsc::UnboundedSender<Evict>,
    pub(crate) guard: Guard,
    /// Is there storage traffic that can be cut? Not for storage of kind `local`.
    pub(crate) evicts: watch::Receiver<bool>,
}

impl Effects for Wiring {
    fn carry_out(&mut self, now: Time, output: Output) {
        match output {
            Output::SendHeartbeat { to, heartbeat } => self.peers.send_heartbeat(to, &heartbeat),
            Output::SendGrant { to, net, grant } => self.peers.send_grant(to, net, &grant),
            Output::Send { to, message } => self.peers.send(to, &message),
            Output::Persist { ticket, state } => {
                if self.votes.send((ticket, *state)).is_err() {
                    let error = "the thread that writes votes has ended: restart the daemon".to_owned();
                    self.inbox.input(Input::PersistFailed { ticket, error });
                }
            }
            Output::RenewLease { until } => {
                self.net.order(Command::Renew { until: BootTime(until.0) }, now);
                self.hold(false);
            }
            Output::LeaseLost => {
                self.hold(*self.evicts.borrow());
                self.held.lease_lost();
                // The task ends with the daemon only.
                let _ = self.nfs.send(nfs::News::LeaseLost);
                self.net.order(Command::LeaseLost, now);
            }
            Output::Take { vip, .. } => {
                self.held.take(vip);
                self.net.order(Command::Take { addr: vip }, now);
            }
            Output::Release { vip, .. } => {
                self.held.release(vip);
                self.net.order(Command::Release { addr: vip }, now);
            }
            Output::ProbeAddress { vip, .. } => self.net.order(Command::Probe { addr: vip }, now),
            Output::Kick { nodes } => {
                if *self.evicts.borrow() {
                    let addresses = nodes.into_values().flatten().collect();
                    self.net.order(Command::Kick { addresses }, now);
                }
            }
            Output::FreeStorage { nodes } => {
                if *self.evicts.borrow() {
                    let addresses = nodes.into_values().flatten().collect();
                    self.net.order(Command::FreeStorage { addresses }, now);
                }
            }
            Output::Evict { epoch, nodes } => {
                if *self.evicts.borrow() {
                    let addresses = nodes.into_values().flatten().collect();
                    self.net.order(Command::SetEvicted { epoch: epoch.0, addresses }, now);
                } else {
                    // The task ends with the daemon only.
                    let _ = self.evict.send(Evict { epoch, nodes });
                }
            }
            Output::Grace { number, epoch: _, nodes } => {
                self.shut_nfs(now);
                // The task ends with the daemon only.
                let _ = self.nfs.send(nfs::News::Grace { number, nodes });
            }
            Output::GraceForMove { node, run, number } => {
                self.shut_nfs(now);
                let _ = self.nfs.send(nfs::News::GraceForMove { node, run, number });
            }
            Output::Prove { number } => {
                let _ = self.nfs.send(nfs::News::Prove(number));
            }
            Output::LetGo { vip, end } => {
                let _ = self.nfs.send(nfs::News::LetGo { vip, end });
            }
            Output::Lock { wanted } => self.lock_order(LockOrder::Want(wanted)),
            Output::Exchange { ticket, record } => self.lock_order(LockOrder::Exchange { ticket, record }),
            Output::Serve(on) => {
                self.serve.send_replace(if on { Serve::On } else { Serve::Off });
            }
            Output::Deserted => self.deserted.send_modify(|times| *times += 1),
            Output::Publish(snapshot) => {
                self.snapshots.send_replace(Some(snapshot));
            }
            Output::Event(event) => {
                // The timeline's thread ends with the daemon only.
                let _ = self.timeline.send(timed(event));
            }
            Output::Guard { word } => self.guard.word(word),
            // The loop around the core has these.
            Output::AdminDone { .. } | Output::Stopped => {}
        }
    }

    fn net_event(&mut self, now: Time, event: net::Event) -> Option<Input> {
        use net::Event as E;
        Some(match event {
            E::Taken { addr } => {
                self.news(News::Taken(addr));
                self.databases.put(Data::Input(ctdb::server::Input::Comes(addr)));
                Input::Taken { vip: addr }
            }
            E::TakeFailed { addr, why } => return self.gone(addr, Some(why), now),
            E::Releasing { addrs } => {
                // Without the databases nobody needs to be told.
                if !self.databases.put(Data::Releasing(addrs.clone())) {
                    self.net.order(Command::Told { addrs }, now);
                }
                return None;
            }
            E::Released { addr } => {
                self.news(News::Released(addr));
                if self.net.forget(addr) {
                    self.inbox.input(Input::Warning { key: format!("release {addr}"), text: String::new() });
                }
                return self.gone(addr, None, now);
            }
            E::ReleaseFailed { addr, why } => {
                self.net.release_again(addr, now + RELEASE_AGAIN);
                let text = format!("{addr} cannot be taken off this node: {why}; it is tried again");
                Input::Warning { key: format!("release {addr}"), text }
            }
            E::Conflict { addr, mac } => Input::Conflict { vip: addr, mac: mac.to_string() },
            E::Evicted { epoch, sockets_destroyed } => {
                tracing::info!(
                    epoch,
                    "storage traffic of dropped nodes is shut out, {sockets_destroyed} connections destroyed"
                );
                Input::Evicted { epoch: Epoch(epoch) }
            }
            E::EvictFailed { epoch, why } => {
                self.net.evict_again(epoch, now + EVICT_AGAIN);
                Input::EvictFailed { epoch: Epoch(epoch), because: why }
            }
            E::Interface { name, up } => Input::Interface { name, up },
            E::AddressLost { addr, restored } => {
                let what = if restored { "it is back" } else { "it could not be put back" };
                tracing::warn!(%addr, "a public address of this node was removed by something else; {what}");
                if restored {
                    return None;
                }
                self.news(News::Released(addr));
                return self.gone(addr, None, now);
            }
            E::Lease { kind, why } => {
                let key = "kernel lease".to_owned();
                let text = match kind {
                    net::LeaseKind::Exact => String::new(),
                    net::LeaseKind::WholeSeconds => {
                        format!(
                            "addresses of a node that hangs stay up to 1.1 s longer, for nf_tables cannot be used: {why}"
                        )
                    }
                    net::LeaseKind::None => format!("this node cannot hold public addresses: {why}"),
                };
                self.inbox.input(Input::Warning { key, text });
                Input::WholeSeconds(kind == net::LeaseKind::WholeSeconds)
            }
            E::Holds { error } => Input::Warning {
                key: "hold".to_owned(),
                text: error.map_or_else(String::new, |why| {
                    format!("a hung or cut off node's own writes are not held, only shut out by the others: {why}")
                }),
            },
            E::RenewFailed { why } => {
                tracing::error!("the kernel did not renew the address leases: {why}");
                return None;
            }
            E::ConfigureFailed { why } => Input::Warning {
                key: "network".to_owned(),
                text: format!("the network part of the configuration is not in force: {why}"),
            },
            E::LeaseExpired => {
                tracing::warn!("the node lease ran out before it was renewed; all addresses are dropped");
                return None;
            }
            E::Kicked { sockets_destroyed } => {
                tracing::info!("{sockets_destroyed} storage connections to silent nodes destroyed");
                return None;
            }
            E::KickFailed { why } => {
                tracing::warn!("storage connections to silent nodes cannot be destroyed: {why}");
                return None;
            }
            E::StorageFreed { sockets_destroyed } => {
                tracing::info!(
                    "{sockets_destroyed} connections of other nodes' clients to this node's storage destroyed: they have given them up"
                );
                return None;
            }
            E::FreeStorageFailed { why } => {
                tracing::warn!(
                    "what other nodes' clients held of this node's storage before they shut it out stays held; once it is back,                      they may wait for that for some seconds: {why}"
                );
                return None;
            }
            E::StrayRemoved { addr, interface } => {
                tracing::warn!(%addr, "a public address that this node does not hold was on {interface}; it is removed");
                return None;
            }
            E::ProbeFailed { addr, why } => {
                tracing::warn!(%addr, "cannot look whether somebody else has the address: {why}");
                return None;
            }
            E::SocketsDestroyed { addr, sockets } => {
                tracing::debug!(%addr, sockets, "connections of a released address destroyed");
                return None;
            }
            E::Stalled { took, during } => {
                tracing::warn!("the network worker was held up for {} ms in {during}", took.as_millis());
                return None;
            }
            E::ConnectionsFailed { why } => {
                tracing::warn!("the clients' connections cannot be listed: {why}");
                return None;
            }
            E::LastConnections { addr, list } => {
                self.news(News::Last(addr, list));
                return None;
            }
            E::Connections { list } => {
                self.news(News::Connections(list));
                return None;
            }
            E::NoConflict { addr } => Input::NoConflict { vip: addr },
        })
    }

    fn to_net(&mut self, command: Command) {
        if matches!(command, Command::Configure { .. }) {
            // Said again if it is still so.
            self.inbox.input(Input::Warning { key: "network".to_owned(), text: String::new() });
        }
        self.net.order(command, crate::clock::now());
    }

    fn next_wake(&self) -> Option<Time> {
        self.net.next_wake()
    }

    fn wake(&mut self, now: Time) {
        self.net.wake(now);
    }
}

impl Wiring {
    fn hold(&self, held: bool) {
        let now = Instant::now();
        self.holds.send_if_modified(|hold| if held { hold.begin(now) } else { hold.end(now) });
    }

    /// Before any address is taken whose clients may want something back.
    fn shut_nfs(&mut self, now: Time) {
        let ports = self.nfs_ports.borrow().clone();
        if !ports.is_empty() {
            self.net.order(Command::Shut { ports, longest: nfs::SHUT }, now);
        }
    }

    fn gone(&mut self, addr: IpAddr, why: Option<String>, now: Time) -> Option<Input> {
        let told = self.held.gone(addr, why);
        if told.is_none() {
            self.net.order(Command::Release { addr }, now);
        }
        told
    }

    fn news(&self, news: News) {
        let moved = match &news {
            News::Taken(addr) => Some(Moved::Taken(*addr)),
            News::Released(addr) => Some(Moved::Released(*addr)),
            _ => None,
        };
        let here = match &news {
            News::Taken(addr) => Some(nfs::News::Taken(*addr)),
            News::Released(addr) => Some(nfs::News::Released(*addr)),
            News::Connections(list) | News::Last(_, list) => Some(nfs::News::Connections(list.clone())),
            _ => None,
        };
        // All of these tasks end with the daemon.
        if let Some(moved) = moved {
            let _ = self.moved.send(moved);
        }
        if let Some(here) = here {
            let _ = self.nfs.send(here);
        }
        let _ = self.tickles.send(news);
    }

    fn lock_order(&self, order: LockOrder) {
        if let Err(mpsc::error::SendError(LockOrder::Exchange { ticket, .. })) = self.lock.send(order) {
            let result = Err("the daemon is ending".to_owned());
            self.inbox.input(Input::Records { ticket, result });
        }
    }
}

/// Orders to the network worker: in order, never waited for, none lost when its queue is full.
#[derive(Debug)]
pub(crate) struct NetOrders {
    worker: net::Worker,
    backlog: VecDeque<Command>,
    offer_at: Option<Time>,
    again: Vec<(Time, IpAddr)>,
    /// Addresses whose last release failed.
    failed: BTreeSet<IpAddr>,
    /// The newest eviction, to be tried again at the time given.
    evict: Option<Command>,
    evict_at: Option<Time>,
    /// Said once that the worker is gone.
    ended: bool,
}

impl NetOrders {
    pub(crate) fn new(worker: net::Worker) -> Self {
        Self {
            worker,
            backlog: VecDeque::new(),
            offer_at: None,
            again: Vec::new(),
            failed: BTreeSet::new(),
            evict: None,
            evict_at: None,
            ended: false,
        }
    }

    fn order(&mut self, command: Command, now: Time) {
        if let Command::SetEvicted { .. } = &command {
            self.evict = Some(command.clone());
            self.evict_at = None;
        }
        // Of renewals in a row only the last counts.
        if let (Command::Renew { .. }, Some(last @ Command::Renew { .. })) = (&command, self.backlog.back_mut()) {
            *last = command;
        } else {
            self.backlog.push_back(command);
        }
        self.offer(now);
    }

    fn offer(&mut self, now: Time) {
        self.offer_at = None;
        while let Some(command) = self.backlog.pop_front() {
            match self.worker.send(command.clone()) {
                Ok(()) => {}
                Err(net::SendError::Full) => {
                    self.backlog.push_front(command);
                    self.offer_at = Some(now + OFFER_AGAIN);
                    return;
                }
                Err(net::SendError::Ended) => {
                    if !std::mem::replace(&mut self.ended, true) {
                        tracing::error!(
                            "the network worker has ended: this node can hold no address until the daemon is restarted"
                        );
                    }
                }
            }
        }
    }

    fn evict_again(&mut self, failed: u64, at: Time) {
        if matches!(&self.evict, Some(Command::SetEvicted { epoch, .. }) if *epoch == failed) {
            self.evict_at = Some(at);
        }
    }

    fn release_again(&mut self, addr: IpAddr, at: Time) {
        self.again.push((at, addr));
        self.failed.insert(addr);
    }

    /// The address is gone; true when its release had failed before.
    fn forget(&mut self, addr: IpAddr) -> bool {
        self.again.retain(|(_, a)| *a != addr);
        self.failed.remove(&addr)
    }

    fn next_wake(&self) -> Option<Time> {
        self.again.iter().map(|(at, _)| *at).chain(self.offer_at).chain(self.evict_at).min()
    }

    fn wake(&mut self, now: Time) {
        let (due, later) = std::mem::take(&mut self.again).into_iter().partition(|(at, _)| *at <= now);
        self.again = later;
        let due: Vec<(Time, IpAddr)> = due;
        let addresses: BTreeSet<IpAddr> = due.into_iter().map(|(_, addr)| addr).collect();
        self.backlog.extend(addresses.into_iter().map(|addr| Command::Release { addr }));
        if self.evict_at.is_some_and(|at| at <= now) {
            self.evict_at = None;
            self.backlog.extend(self.evict.clone());
        }
        self.offer(now);
    }

    /// Releases every address; on return they are gone and the worker has ended.
    pub(crate) fn shut_down(self) {
        drop(self.worker);
    }
}

/// For threads that hear of the network worker's events.
pub(crate) fn forward(inbox: Inbox) -> Box<dyn Fn(net::Event) + Send> {
    Box::new(move |event| {
        inbox.put(Item::Net(event));
    })
}
