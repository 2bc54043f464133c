//! Node numbers and what is said of a node.

/// Nobody.
pub const UNKNOWN: u32 = 0xFFFF_FFFF;
/// The node that is asked.
pub const CURRENT: u32 = 0xF000_0001;
/// Every node of the list.
pub const BROADCAST_ALL: u32 = 0xF000_0002;
/// Every node that serves, the own one included.
pub const BROADCAST_ACTIVE: u32 = 0xF000_0003;
/// Every node that is heard, the own one included.
pub const BROADCAST_CONNECTED: u32 = 0xF000_0004;

/// Is this a word for several nodes?
#[must_use]
pub fn is_broadcast(dest: u32) -> bool {
    matches!(dest, BROADCAST_ALL | BROADCAST_ACTIVE | BROADCAST_CONNECTED)
}

/// State of a node, as bits.
pub mod flags {
    /// Not heard.
    pub const DISCONNECTED: u32 = 0x01;
    /// A service failed.
    pub const UNHEALTHY: u32 = 0x02;
    /// Told to host no addresses.
    pub const DISABLED: u32 = 0x04;
    /// Banned.
    pub const BANNED: u32 = 0x08;
    /// Not in the list any more.
    pub const DELETED: u32 = 0x10;
    /// Told to serve nothing.
    pub const STOPPED: u32 = 0x20;
    /// Any of those that keep Samba from running.
    pub const INACTIVE: u32 = DISCONNECTED | BANNED | DELETED | STOPPED;
}

/// What a node can do, as bits.
pub mod capability {
    /// May lead.
    pub const LEADER: u32 = 0x1;
    /// May be a location master.
    pub const LMASTER: u32 = 0x2;
    /// Recovers databases side by side.
    pub const PARALLEL_RECOVERY: u32 = 0x0001_0000;
    /// Takes controls in pieces.
    pub const FRAGMENTED_CONTROLS: u32 = 0x0002_0000;
    /// What every node has.
    pub const DEFAULT: u32 = LEADER | LMASTER | PARALLEL_RECOVERY | FRAGMENTED_CONTROLS;
}

/// How far a daemon has come since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum RunState {
    Unknown = 0,
    Init = 1,
    Setup = 2,
    FirstRecovery = 3,
    Startup = 4,
    Running = 5,
    Shutdown = 6,
}

/// `generation` of a node that has no part in the databases.
pub const INVALID_GENERATION: u32 = 1;
