//! The server of one node: clients, databases, and the servers of the other nodes, in one state machine.
//!
//! ```text
//! clients' packets ──┐                     ┌──> packets for clients
//! peers' words ──────┼──> Server::handle ──┼──> words for peers
//! the files' answers ┤                     ├──> orders to the files
//! the cluster ───────┘                     └──> wishes of administrators
//! ```

mod io;

pub use io::{
    AddressFacts, ClientId, FileAnswer, FileOrder, IfaceFacts, Input, Level, NodeFacts, Now, Output, Picture, Wish,
};
