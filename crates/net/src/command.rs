//! What the daemon tells the network worker and what it hears back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::{BootTime, HoldSpec};

/// A public address as configured: what it is and where it goes when this node hosts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipSpec {
    /// The address.
    pub addr: IpAddr,
    /// Length of the subnet's prefix, 0..=32 or 0..=128.
    pub prefix_len: u8,
    /// Name of the interface on this node.
    pub interface: String,
}

/// A link-layer address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How exactly this kernel ends an address by itself when nobody renews it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// nf_tables silences it when the lease ends, to the kernel's tick (4 ms at 250 Hz).
    Exact,
    /// Only the address's lifetime ends it: up to 1.1 s after the lease.
    WholeSeconds,
    /// Nothing does: no permission to change addresses. No address can be taken.
    None,
}

/// A client's TCP connection to a public address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientConnection {
    /// The public address and the service's port.
    pub vip: SocketAddr,
    /// The client's end.
    pub client: SocketAddr,
}

/// An order to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The public addresses this node may host, and the storage ports that the fence covers. Sent first, and again
    /// when the configuration changes. Addresses of the list that are on an interface and not held are removed;
    /// held ones that left the list or moved to another interface are released.
    Configure {
        /// All public addresses that this node may ever host.
        vips: Vec<VipSpec>,
        /// TCP ports of the storage servers; [`crate::fence::GLUSTERFS_PORTS`] for GlusterFS.
        storage_ports: Vec<RangeInclusive<u16>>,
        /// TCP ports that are never storage, whatever the other end's port is: the control link's and ssh. They
        /// are needed because the range of brick ports contains ports that clients of other services use.
        spared_ports: Vec<u16>,
        /// What this node's own storage clients may not reach without a node lease; without ports, nothing. None leaves
        /// a hold that is there as it is.
        hold: Option<Box<HoldSpec>>,
        /// TCP ports of the services behind the public addresses. There, a held address never refuses a connection: a
        /// client that is refused waits 3 s (Linux, NFS and SMB), one that gets no answer can be tickled.
        service_ports: Vec<u16>,
    },
    /// Start hosting an address; needs a lease.
    Take { addr: IpAddr },
    /// Stop hosting an address: silence it, say `Releasing` and wait up to [`crate::TELL`] for `Told`, take it off its
    /// interface, give the servers up to [`crate::FINISH`] to read what has arrived, then say `Released` and destroy its
    /// connections.
    Release { addr: IpAddr },
    /// Who had to know of these addresses' `Releasing` knows.
    Told { addrs: Vec<IpAddr> },
    /// The node lease now ends at `until`. A time that has passed is a lost lease.
    Renew { until: BootTime },
    /// No lease any more: silence and release everything at once.
    LeaseLost,
    /// The nodes (all their addresses) that are shut out of the storage from now on; replaces the list before.
    /// Also destroys the storage sockets to them.
    SetEvicted { epoch: u64, addresses: Vec<IpAddr> },
    /// Destroy the storage sockets to these nodes, without keeping them cut.
    Kick { addresses: Vec<IpAddr> },
    /// Destroy the connections of these nodes' storage clients to the storage servers of this node; its own clients' connections
    /// to theirs stay.
    FreeStorage { addresses: Vec<IpAddr> },
    /// Shut these TCP and UDP ports on all public addresses that this node does not host now, for `longest` at most: what it
    /// takes meanwhile answers on its other ports only. Replaces what was shut before.
    Shut { ports: Vec<u16>, longest: Duration },
    /// No port is shut any more.
    Reopen,
    /// Ask the network whether somebody else has this address.
    Probe { addr: IpAddr },
    /// Announce an address again, on its interface and from the beginning of [`crate::announce::SCHEDULE_MS`]. Nothing is
    /// said of one that is not held.
    Announce { addr: IpAddr },
    /// Read the established TCP connections of clients to the held addresses.
    ListConnections,
    /// The connections that clients have to an address on the node that holds it; replaces the list before. When this
    /// node takes the address, they are tickled in the same millisecond as it is announced: the clients notice that
    /// their connections are gone, and those that got no answer to their SYN send it again (Linux 5.6 and later). Said of
    /// an address that this node holds already, they are tickled at once.
    Clients { addr: IpAddr, clients: Arc<[ClientConnection]> },
    /// Release everything, remove the gate (neither fence nor hold) and end the thread.
    Shutdown,
}

/// What the worker reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The address is on the interface, leased and announced. Also the answer to a repeated `Take`.
    Taken { addr: IpAddr },
    /// It could not be taken; nothing of it is left on this node.
    TakeFailed { addr: IpAddr, why: String },
    /// These addresses are silent and about to leave their interfaces by an order: they wait for `Told`, but not for long.
    Releasing { addrs: Vec<IpAddr> },
    /// The address is silent and gone from the interface. Also the answer when it was not held, and news when it comes
    /// later than a `ReleaseFailed`.
    Released { addr: IpAddr },
    /// The address is silenced if there is a gate, but may still be on an interface.
    ReleaseFailed { addr: IpAddr, why: String },
    /// A released address's connections were destroyed.
    SocketsDestroyed { addr: IpAddr, sockets: usize },
    /// The answer to a `Probe`, or news: another machine answers for the address.
    Conflict { addr: IpAddr, mac: Mac },
    /// The answer to a `Probe`: nobody answered.
    NoConflict { addr: IpAddr },
    /// The answer to a `Probe` that could not be made.
    ProbeFailed { addr: IpAddr, why: String },
    /// Everything between this node and the evicted ones is shut and their sockets are gone.
    Evicted { epoch: u64, sockets_destroyed: usize },
    /// The eviction is not complete; `why` says which half failed.
    EvictFailed { epoch: u64, why: String },
    /// The answer to a `Kick`.
    Kicked { sockets_destroyed: usize },
    /// The answer to a `Kick` that failed.
    KickFailed { why: String },
    /// The answer to a `FreeStorage`.
    StorageFreed { sockets_destroyed: usize },
    /// The answer to a `FreeStorage` that failed.
    FreeStorageFailed { why: String },
    /// A configured interface's state, once after `Configure` and at every change. Up means administratively up
    /// with a carrier; an interface that does not exist is down.
    Interface { name: String, up: bool },
    /// Somebody removed a held address, or it expired. `restored`: it is back, nothing to be done.
    AddressLost { addr: IpAddr, restored: bool },
    /// A public address that this node does not hold was found on an interface and removed.
    StrayRemoved { addr: IpAddr, interface: String },
    /// The lease ended by the clock, or a renewal came too late; every held address follows as `Released`.
    LeaseExpired,
    /// A renewal did not reach the kernel; the addresses end with the lease before.
    RenewFailed { why: String },
    /// How exactly leases are enforced here; after every `Configure`.
    Lease { kind: LeaseKind, why: String },
    /// Whether this node's storage clients are held while it has no lease, after every `Configure` that wants it; if
    /// not, why.
    Holds { error: Option<String> },
    /// The answer to `ListConnections`.
    Connections { list: Vec<ClientConnection> },
    /// The connections of an address that is being released, as they were when it was silenced; goes before the
    /// `Released`. Who takes it next needs them.
    LastConnections { addr: IpAddr, list: Vec<ClientConnection> },
    /// The answer to a `ListConnections` that failed.
    ConnectionsFailed { why: String },
    /// One step of the worker took that long, by its own fault, the kernel's or the machine's. Renewals waited.
    Stalled { took: Duration, during: &'static str },
    /// The configuration could not be applied (fully).
    ConfigureFailed { why: String },
}
