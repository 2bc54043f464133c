//! What the driver is to do.

use super::{Message, Token};

/// What to do with the file before a chain lock is let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    Nothing,
    /// Store this value, header included.
    Value(Vec<u8>),
    /// Delete the record.
    Delete,
}

/// An order to the driver. Carried out in the order given: what is sent after an `Unlock` may rely on its write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Get the chain lock on this key, however long it takes, and say [`super::Migration::locked`] with the value found.
    Lock(Vec<u8>),
    /// Write, then let the lock go.
    Unlock {
        /// The record's key.
        key: Vec<u8>,
        /// What to write.
        write: Write,
    },
    /// Tell a node.
    Send {
        /// Node number; never the own.
        to: u32,
        /// What.
        message: Message,
    },
    /// Answer a client.
    Reply {
        /// Which call.
        token: Token,
        /// What the function gives.
        data: Vec<u8>,
    },
    /// The record is empty: look at it again when vacuuming.
    DeleteLater(Vec<u8>),
    /// Nodes disagree about who holds a record: a recovery must decide.
    Inconsistent {
        /// What is wrong, for the log.
        why: String,
    },
}
