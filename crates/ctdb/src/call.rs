//! What may be asked about a record.

/// Flags of a call.
pub mod flags {
    /// The record is to come here.
    pub const IMMEDIATE_MIGRATION: u32 = 1;
    /// It comes to be deleted.
    pub const VACUUM_MIGRATION: u32 = 2;
    /// A read-only copy is enough.
    pub const WANT_READONLY: u32 = 4;
}

/// Does nothing: for the migration that comes with it.
pub const NULL: u32 = 0xFF00_0001;
/// Gives the data.
pub const FETCH: u32 = 0xFF00_0002;
/// Gives header and data.
pub const FETCH_WITH_HEADER: u32 = 0xFF00_0003;
