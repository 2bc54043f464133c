//! Numbers that messages are addressed to.

const fn top(n: u64) -> u64 {
    n << 48
}

/// Whoever registers it gets every message.
pub const ALL: u64 = u64::MAX;
/// The leader says that it leads: `u32` node number, each second.
pub const LEADER: u64 = top(0xF101);
/// Databases were recovered.
pub const RECONFIGURE: u64 = top(0xF200);
/// An address leaves this node: its text with a NUL.
pub const RELEASE_IP: u64 = top(0xF300);
/// An address has come to this node: its text with a NUL.
pub const TAKE_IP: u64 = top(0xF301);
/// Addresses have been moved about.
pub const IPREALLOCATED: u64 = top(0xF302);
/// Addresses are about to be moved about.
pub const START_IPREALLOCATE: u64 = top(0xF303);
/// The sender wants the addresses placed anew and an answer.
pub const TAKEOVER_RUN: u64 = top(0xFB00);
/// A node wants addresses.
pub const REBALANCE_NODE: u64 = top(0xFB01);
/// No moving of addresses for a while.
pub const DISABLE_TAKEOVER_RUNS: u64 = top(0xFB03);
/// No recovery for a while.
pub const DISABLE_RECOVERIES: u64 = top(0xFB04);
/// Addresses are not compared with the interfaces for a while.
pub const DISABLE_IP_CHECK: u64 = top(0xFC00);
/// What the daemon holds in memory, as text.
pub const MEM_DUMP: u64 = top(0xF800);
/// All Samba processes.
pub const SAMBA_PROCESS: u64 = 0xFE00_0000_0000_0002;
