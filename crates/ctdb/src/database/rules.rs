//! What a node writes into its file when a record of a volatile database is stored, and when it rather forgets it.

use crate::planted::{Planted, planted};
use crate::wire::{LtdbHeader, record_flags as flag};

/// What becomes of a record that is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is written with this header.
    Kept {
        /// As it is written.
        header: LtdbHeader,
        /// It is empty: its key goes to the queue of those to be deleted.
        delete_later: bool,
    },
    /// It is taken out of the file. Whoever asks for it later asks the location master.
    Forgotten,
}

/// Decides it. `me` stores, `lmaster` is the key's location master.
///
/// A location master never forgets a record that somebody else holds: it is the one whom everybody asks. A node that
/// holds a record counts its sequence number up at each store, so that the newest copy has the highest.
#[must_use]
pub fn store(mut header: LtdbHeader, empty: bool, me: u32, lmaster: u32) -> Stored {
    let has = |bits| header.flags & bits != 0;
    let mine = header.dmaster == me;
    let kept = if !empty || has(flag::READONLY) || has(flag::AUTOMATIC) || has(flag::MIGRATED_WITH_DATA) {
        true
    } else if lmaster == me {
        !(has(flag::VACUUM_MIGRATED) && mine)
    } else {
        mine
    };
    if !kept {
        return Stored::Forgotten;
    }
    let automatic = has(flag::AUTOMATIC);
    let mut delete_later = automatic && empty;
    if mine && !has(flag::READONLY) {
        header.rsn += u64::from(!planted(Planted::RsnNotRaised));
        delete_later |= empty;
    }
    header.flags &= !(flag::VACUUM_MIGRATED | flag::AUTOMATIC);
    Stored::Kept { header, delete_later }
}

/// What a recovery makes of a record's header on node `me` before it looks at it; nothing: it stays. All members do so
/// before any goes on: nobody reads a copy any more, and whoever gave copies may write again. It then counts up: what it
/// writes is newer than they are.
#[must_use]
pub fn recovered(mut header: LtdbHeader, me: u32) -> Option<LtdbHeader> {
    if header.flags & flag::READONLY == 0 || planted(Planted::CopiesOutliveRecovery) {
        return None;
    }
    header.rsn += u64::from(header.dmaster == me);
    header.flags &= !flag::READONLY;
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: u32 = 2;
    const OTHER: u32 = 1;

    fn header(dmaster: u32, flags: u32) -> LtdbHeader {
        LtdbHeader { rsn: 7, dmaster, reserved: 0, flags }
    }

    fn kept(rsn: u64, dmaster: u32, flags: u32, delete_later: bool) -> Stored {
        Stored::Kept { header: LtdbHeader { rsn, dmaster, reserved: 0, flags }, delete_later }
    }

    #[test]
    fn data_is_kept_and_counted_by_its_holder_only() {
        assert_eq!(store(header(ME, 0), false, ME, OTHER), kept(8, ME, 0, false));
        assert_eq!(store(header(OTHER, 0), false, ME, OTHER), kept(7, OTHER, 0, false));
    }

    #[test]
    fn an_empty_record_is_forgotten_where_nobody_asks_for_it() {
        assert_eq!(store(header(OTHER, 0), true, ME, OTHER), Stored::Forgotten);
        assert_eq!(store(header(OTHER, 0), true, ME, ME), kept(7, OTHER, 0, false), "the location master is asked");
        assert_eq!(store(header(ME, 0), true, ME, OTHER), kept(8, ME, 0, true), "its holder is asked");
        assert_eq!(
            store(header(OTHER, flag::MIGRATED_WITH_DATA), true, ME, OTHER),
            kept(7, OTHER, flag::MIGRATED_WITH_DATA, false),
            "others may still have its old data"
        );
    }

    #[test]
    fn a_record_that_came_to_be_deleted_is() {
        let vacuum = flag::VACUUM_MIGRATED;
        assert_eq!(store(header(ME, vacuum), true, ME, ME), Stored::Forgotten);
        let told = vacuum | flag::MIGRATED_WITH_DATA;
        assert_eq!(store(header(ME, told), true, ME, ME), kept(8, ME, flag::MIGRATED_WITH_DATA, true));
        assert_eq!(store(header(ME, vacuum), false, ME, ME), kept(8, ME, 0, false), "it has been filled again");
    }

    #[test]
    fn a_recovery_takes_copies_back() {
        let given = header(ME, flag::HAVE_DELEGATIONS | flag::REVOKING_READONLY | flag::MIGRATED_WITH_DATA);
        let free = LtdbHeader { rsn: 8, flags: flag::MIGRATED_WITH_DATA, ..given };
        assert_eq!(recovered(given, ME), Some(free), "newer than the copies");
        let copy = header(OTHER, flag::HAVE_READONLY);
        assert_eq!(recovered(copy, ME), Some(LtdbHeader { flags: 0, ..copy }));
        assert_eq!(recovered(header(ME, flag::MIGRATED_WITH_DATA), ME), None);
    }

    #[test]
    fn passing_flags_are_not_written() {
        assert_eq!(store(header(ME, flag::AUTOMATIC), true, ME, ME), kept(8, ME, 0, true));
    }
}
