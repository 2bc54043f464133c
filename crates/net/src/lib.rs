//! Addresses, announcements, leases in the kernel and connections on Linux.
//!
//! Everything that touches the kernel's network state on behalf of a node is here: public addresses (VIPs) over
//! rtnetlink, the gate that makes them answer only under a lease and the fence around an evicted node (both in
//! nf_tables), sockets by sock_diag, ARP and neighbour discovery through packet sockets. The crate is synchronous and
//! runs no other program. [`Worker`] is what the daemon uses: one thread that owns all of it.
//!
//! It decides nothing: who holds an address, who is evicted and when a lease ends comes from outside.

pub mod address;
pub mod announce;
mod clock;
mod command;
pub mod connections;
mod error;
pub mod fence;
pub mod frames;
pub mod gate;
pub mod hold;
pub mod link;
mod nft;
mod packet;
pub mod probe;
pub mod shut;
mod socket;
pub mod tickle;
mod watch;
mod wire;
mod worker;

pub use clock::BootTime;
pub use command::{ClientConnection, Command, Event, LeaseKind, Mac, VipSpec};
pub use error::{Error, Result};
pub use hold::HoldSpec;
pub use worker::{FINISH, Parts, SendError, TELL, Worker};

/// Entry points for the fuzzing of every parser of foreign bytes; they must return for any input.
#[doc(hidden)]
pub mod fuzzing {
    /// Feeds `bytes` to every parser of this crate.
    pub fn all(bytes: &[u8]) {
        for message in crate::wire::messages(bytes) {
            let Ok(message) = message else { break };
            let _ = crate::wire::ack_of(&message);
            let _ = crate::address::parse(message.payload);
            let _ = crate::link::parse(message.payload);
            let _ = crate::connections::parse(message.payload);
        }
        let _ = crate::address::parse(bytes);
        let _ = crate::link::parse(bytes);
        let _ = crate::connections::parse(bytes);
        let _ = crate::frames::arp_sender(bytes);
        let _ = crate::frames::advertised(bytes);
    }
}
