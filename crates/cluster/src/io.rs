//! What goes into the core and what comes out.

use crate::{
    Config, Durable, Epoch, Event, Grant, GuardWord, Heartbeat, LockRecord, Message, Pnn, Restraint, RunId, Snapshot,
    Time,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What the administrator said of a node; its own disk remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// Serves.
    #[default]
    Active,
    /// Hosts no addresses; its services run on.
    Drained,
    /// Hosts no addresses and runs no services.
    Stopped,
    /// As stopped, by a ban that only `continue` or its end lifts.
    Banned,
}

/// State of a service on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Not to run now.
    Off,
    /// Not there yet.
    Starting,
    /// Answers as it should.
    Ok,
    /// Some probes failed; not enough to act.
    Failing,
    /// Failed: the node hosts no addresses for it while others can.
    Failed,
}

/// State of a service, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// The state.
    pub state: Health,
    /// Why, for people; empty when all is well.
    pub because: String,
    /// Last lines of a failing service's own output.
    #[serde(default)]
    pub output: Vec<String>,
}

/// What an administrator asks of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub enum AdminRequest {
    /// Set the state of a node (any node of the cluster: the request travels to it).
    /// A drain waits until DNS has stopped handing the node's addresses out, unless it is to be `now`.
    SetState {
        /// Which node.
        node: Pnn,
        /// Its new state.
        state: AdminState,
        /// Of a drain: do not wait for DNS.
        #[serde(default)]
        now: bool,
    },
    /// Move an address.
    MoveIp { vip: IpAddr, to: Pnn },
    /// Start a new life of the cluster with this node as its only voter (`force-view`).
    ForceView { because: String },
    /// Something that a later version asks for.
    #[serde(other)]
    Unknown,
}

/// Outcome of a request: a sentence, or why not.
pub type AdminReply = Result<String, String>;

/// Input to the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// Nothing but time has passed.
    Tick,
    /// A heartbeat of a peer over network `net` (index into its address list).
    Heartbeat { from: Pnn, net: u8, heartbeat: Heartbeat },
    /// A grant of a voter.
    Grant { from: Pnn, grant: Grant },
    /// The guard of a peer's daemon says that the daemon is dead and its addresses are gone.
    Guard { from: Pnn, word: GuardWord },
    /// A message over a link.
    Message { from: Pnn, message: Message },
    /// The link to a peer came up or went down.
    Link { peer: Pnn, up: bool },
    /// `Output::Persist` with this ticket is on disk.
    Persisted { ticket: u64 },
    /// It is not, and will not be: the disk said this.
    PersistFailed { ticket: u64, error: String },
    /// The cluster lock was got, or lost, or cannot be had (with the reason).
    Lock { held: bool, because: String },
    /// May the lock break ties on this storage? Said at start and when it changes, with the reason.
    LockUsable { usable: bool, because: String },
    /// Answer to `Output::Exchange`: own record is on disk; these are all records, or why not all could be read.
    Records { ticket: u64, result: Result<Vec<LockRecord>, String> },
    /// An address is held and announced.
    Taken { vip: IpAddr },
    /// An address could not be taken.
    TakeFailed { vip: IpAddr, because: String },
    /// An address is gone from this node (also when somebody else removed it).
    Released { vip: IpAddr },
    /// Somebody else answers for an address that this node has or is about to take.
    Conflict { vip: IpAddr, mac: String },
    /// The answer to [`Output::ProbeAddress`]: nobody else has it.
    NoConflict { vip: IpAddr },
    /// The storage traffic of the nodes dropped up to this epoch is shut out and their connections destroyed.
    Evicted { epoch: Epoch },
    /// Not, and why; it is tried again.
    EvictFailed { epoch: Epoch, because: String },
    /// Are clients recorded with this node's NFS server, who could have locks or open files there? False at start.
    NfsClients(bool),
    /// The NFS server here is in its grace period for the nodes of [`Output::Grace`] with that number, or it can be had no longer
    /// (with the reason): either way nothing waits for it any more.
    Graced { number: u64, because: Option<String> },
    /// By these addresses of this node, clients hold locks with its NFS server (or other things that are to outlive a planned
    /// move). `grace`: such a move waits until all NFS servers are in their grace period. No address at start.
    NfsLocks { addresses: BTreeSet<IpAddr>, grace: bool },
    /// As [`Input::Graced`], for [`Output::GraceForMove`].
    GracedForMove { node: Pnn, run: RunId, number: u64, because: Option<String> },
    /// The servers here and their storage answer now, as [`Output::Prove`] asked; or do not (with the reason).
    Proved { number: u64, because: Option<String> },
    /// The NFS server here has let go of what clients had by this address, or what hangs was ended, as [`Output::LetGo`] asked;
    /// or cannot be made to (with the reason).
    LetGo { vip: IpAddr, end: bool, because: Option<String> },
    /// This node has everything that was committed before the view of this number ([`crate::View::number`]), on its disk: the
    /// databases are recovered here under that view. Said of each view of which it is a member.
    Recovered { view: u64 },
    /// Health of a service of this node.
    Service { name: String, health: ServiceHealth },
    /// A public interface of this node.
    Interface { name: String, up: bool },
    /// The kernel lease in force has whole seconds only.
    WholeSeconds(bool),
    /// The time of the day here, in minutes after midnight: at start and whenever it has changed.
    TimeOfDay { minute: u16 },
    /// The storage makes clients wait whose addresses move, it can be prepared for that, and is not. The first of a
    /// series of planned moves waits until this is no longer so, 5 s at most; nothing else does. False at start, and when
    /// preparing has failed.
    MovesWait(bool),
    /// While this node leads, addresses shall not do this. Nothing of it at start.
    Restraint(Restraint),
    /// A standing warning of this node (empty text: over).
    Warning { key: String, text: String },
    /// An administrator's request at this node.
    Admin { ticket: u64, request: AdminRequest },
    /// A new configuration.
    Config(Box<Config>),
    /// The daemon is to end: release everything, say so, then `Output::Stopped`.
    Stop,
    /// Services are stopped and the mount is gone, as `Output::Serve(false)` asked.
    ServicesStopped,
}

impl Input {
    /// One of those that come all the time, and nothing follows from them unless they bring news.
    pub(crate) fn is_routine(&self) -> bool {
        matches!(self, Self::Tick | Self::Heartbeat { .. } | Self::Grant { .. })
    }
}

/// Effect that the driver carries out, in the order given.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send on every network.
    SendHeartbeat { to: Pnn, heartbeat: Heartbeat },
    /// Send back on the network that the heartbeat came by.
    SendGrant { to: Pnn, net: u8, grant: Grant },
    /// Send over the link; lost if there is none.
    Send { to: Pnn, message: Message },
    /// Write, fsync, then `Input::Persisted`. Tickets come in order and may be merged (the newest state counts).
    Persist { ticket: u64, state: Box<Durable> },
    /// The node lease: the kernel shall let the held addresses answer until then.
    RenewLease { until: Time },
    /// The node lease is over: silence all addresses at once.
    LeaseLost,
    /// Hold an address.
    Take { vip: IpAddr, interface: String, prefix_len: u8, because: String },
    /// Give up an address.
    Release { vip: IpAddr, because: String },
    /// Look who answers for an address that this node will probably take.
    ProbeAddress { vip: IpAddr, interface: String },
    /// What the guard is to say from now on when this daemon dies and the addresses are gone.
    Guard { word: GuardWord },
    /// Destroy the storage connections to these nodes, and let them come back.
    Kick { nodes: BTreeMap<Pnn, Vec<IpAddr>> },
    /// Destroy the connections by which storage clients of these nodes are connected to this node's storage servers, and with
    /// them what those clients hold here.
    FreeStorage { nodes: BTreeMap<Pnn, Vec<IpAddr>> },
    /// Destroy and keep cut the storage connections to exactly these nodes; then `Input::Evicted`.
    Evict { epoch: Epoch, nodes: BTreeMap<Pnn, Vec<IpAddr>> },
    /// These nodes are lost, and NFS clients could have locks and open files there: the NFS server here shall enter its
    /// grace period, with their records in its hands; then `Input::Graced`. Comes before the eviction that frees the locks, under the view of
    /// that epoch. Each order is for the nodes of all earlier ones that were not answered, and has a number of its own.
    Grace { number: u64, epoch: Epoch, nodes: BTreeSet<Pnn> },
    /// An address by which NFS clients hold locks is to leave this member: the NFS server here shall enter its grace period,
    /// with that member's records in its hands; then `Input::GracedForMove`. Comes before the address is released. Each run of
    /// the member counts its moves from one.
    GraceForMove { node: Pnn, run: RunId, number: u64 },
    /// An address is to leave this member: does the NFS server here answer now, its storage through it, and the shared mount by
    /// which Samba serves? Then `Input::Proved`; who does not answer within [`crate::PROOF_WAIT`] hangs.
    Prove { number: u64 },
    /// An address has left this node by plan: the NFS server here shall let go of what clients had by it; then
    /// `Input::LetGo`. Nobody else is given the address before that, where anything is known to be held. `end`: the server
    /// hangs, or the storage does, and what is in hand must not be carried out later: what hangs shall be ended, the mount's
    /// client process too, and then nobody else is given the address before that.
    LetGo { vip: IpAddr, end: bool },
    /// Get the cluster lock in the background and keep it, or give it back.
    Lock { wanted: bool },
    /// Write the own record, fsync, read all; then `Input::Records`.
    Exchange { ticket: u64, record: Box<LockRecord> },
    /// Services and mount shall run (this run is a member and not stopped), or be stopped and unmounted.
    Serve(bool),
    /// All public interfaces of this node are down, and other members serve every address that it had: no client wants
    /// anything of its services any more.
    Deserted,
    /// The state for readers.
    Publish(Arc<Snapshot>),
    /// A line of the timeline.
    Event(Event),
    /// Answer to `Input::Admin`.
    AdminDone { ticket: u64, reply: AdminReply },
    /// Everything is released; the daemon may end.
    Stopped,
}

/// Interfaces that matter to a node: all that its VIPs name.
#[must_use]
pub fn public_interfaces(config: &Config) -> BTreeSet<String> {
    config.vips.values().filter_map(|v| v.hosts.get(&config.me).cloned()).collect()
}

/// A duration as people read it.
#[must_use]
pub fn human(d: Duration) -> String {
    let ms = d.as_millis();
    if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", d.as_secs()) }
}
