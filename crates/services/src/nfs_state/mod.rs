//! Locks and open files that NFS clients have with this node's NFS-Ganesha, over the loss of that node (docs/nfs.md).
//!
//! Who has any is read from what Ganesha and rpc.statd record ([`records`]). When a node is lost, the Ganeshas of the
//! others are given its clients and enter their grace period ([`grace`]), and the NFSv3 clients are told that their server
//! has begun anew ([`notify`]). Before an address moves by plan it is the same, and after it the old server lets go
//! ([`let_go()`]).

pub mod grace;
mod let_go;
pub mod notify;
pub mod records;

pub use let_go::let_go;
pub use records::Clients;
