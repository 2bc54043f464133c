//! Is the mount coherent between the nodes? Several nodes do small operations in turn on a scratch directory,
//! and what one did must be what the others see at once.
//!
//! [`run`] coordinates and judges; a [`Peer`] executes on one node ([`ChildPeer`]: in a helper process). The
//! result is a [`CheckReport`], as JSON or as text.
//!
//! What it does not do: measure speed, or test what happens while a server fails.

mod coordinator;
mod local;
mod ops;
mod properties;
mod report;
mod responder;

pub use coordinator::{Plan, run};
pub use local::ChildPeer;
pub use ops::{Attributes, Call, Op, Outcome, Peer, PeerError};
pub use report::{CheckReport, Finding, Property, Verdict};
pub(super) use responder::peer_main;
