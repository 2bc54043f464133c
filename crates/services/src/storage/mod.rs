//! The shared filesystem of this node: mounting and watching it, the cluster lock beside its records, what
//! the volume's own settings allow, and whether the mount is coherent between the nodes.
//!
//! A call into a FUSE mount can hang for ever, SIGKILL included. So nothing in the daemon ever touches the
//! mount: whatever does (stat, statfs, open, lock, umount) runs in a small child process, the same program
//! under `steadfast helper KIND`, which is given a deadline, killed when it misses it, and left alone when
//! even that does not take ([`helper`]).
//!
//! What it does not do: decide who may serve or when an address moves, evict servers from the storage (crate `net` cuts the
//! connections), or create volumes.

pub mod check;
pub mod coherence;
pub mod heals;
pub mod helper;
pub mod lock;
pub mod mount;
mod pool;
pub mod post_op_delay;
pub mod volume;

pub use helper::HelperCommand;
pub use lock::{ClusterLock, LockSpec};
pub use mount::{Kind, Mount, MountError, StorageConfig};
pub use post_op_delay::PostOpDelay;
pub use volume::Volume;
