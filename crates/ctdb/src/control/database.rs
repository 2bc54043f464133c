//! Databases, as `GET_DBMAP` lists them.

use super::nodes::counted;
use crate::wire::{Reader, WireError, Writer};

/// Kinds and properties of a database.
pub mod db_flags {
    /// On disk, the same on every node.
    pub const PERSISTENT: u8 = 1;
    /// Read-only copies may be given out.
    pub const READONLY: u8 = 2;
    /// Hot records stay a while.
    pub const STICKY: u8 = 4;
    /// In memory, the same on every node.
    pub const REPLICATED: u8 = 8;
}

/// Numbers and flags of all databases.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DbMap(pub Vec<(u32, u8)>);

impl DbMap {
    /// Writes it.
    pub fn put(&self, out: &mut Writer) {
        out.u32(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        for (id, flags) in &self.0 {
            out.u32(*id).u8(*flags).zeros(3);
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Fewer databases than announced.
    pub fn get(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let count = counted(&mut r, 8, "databases")?;
        let one = |_| {
            let id = r.u32("database id")?;
            let flags = r.u8("database flags")?;
            r.take(3, "padding")?;
            Ok((id, flags))
        };
        (0..count).map(one).collect::<Result<_, _>>().map(Self)
    }
}
