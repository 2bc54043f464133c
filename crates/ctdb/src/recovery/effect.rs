//! What a member wants done, and what the driver answers.

use super::merge::Claim;
use super::word::{Content, Edit, Generation, Have, Word};

/// What the member wants done. In the order given; what concerns one database must be carried out in that order too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell a member (which may be this node itself).
    Send {
        /// Node number.
        to: u32,
        /// What.
        word: Word,
    },
    /// Open the file, make it if it is not there.
    Create(Have),
    /// No record changes hands any more; calls of clients wait.
    Suspend(u32),
    /// Take the lock on all of the file, however long it takes, then answer [`Answer::Frozen`]. If it is held already,
    /// answer at once.
    Freeze {
        /// The database.
        db: u32,
        /// For the answer.
        generation: Generation,
        /// Then delete all records first: this copy has missed a recovery.
        wipe: bool,
    },
    /// Answer [`Answer::Scanned`] with every record, in pieces; before, change each header as
    /// [`crate::database::recovered`] says: copies that were given to be read are taken back.
    Scan {
        /// The database.
        db: u32,
        /// For the answer.
        generation: Generation,
    },
    /// Change records.
    Edit {
        /// The database.
        db: u32,
        /// Keys and changes.
        edits: Vec<(Vec<u8>, Edit)>,
    },
    /// Answer [`Answer::Read`] with these records.
    Read {
        /// The database.
        db: u32,
        /// For the answer.
        generation: Generation,
        /// Which.
        keys: Vec<Vec<u8>>,
        /// Who gets them; for the answer.
        asker: u32,
    },
    /// Answer [`Answer::Dumped`] with every record, in pieces.
    Dump {
        /// The database.
        db: u32,
        /// For the answer.
        generation: Generation,
    },
    /// Make this the content, in one transaction, then answer [`Answer::Replaced`].
    Replace {
        /// The database.
        db: u32,
        /// For the answer.
        generation: Generation,
        /// All of it.
        records: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Delete every record that [`crate::database::store`] would not keep, now that the location masters have changed: an
    /// empty copy that this node kept as one. Left behind, it would pass for the newest in a later recovery.
    Prune {
        /// The database.
        db: u32,
        /// Its location masters: a key's is the one at its hash modulo their number.
        masters: Vec<u32>,
    },
    /// Answer [`Answer::Vacated`]: does anybody on this node use it, or is about to? If not nobody can begin to, until it is
    /// stopped again or goes on.
    Vacate {
        /// The database.
        db: u32,
        /// For the answer.
        generation: Generation,
    },
    /// It is no more: empty and close the file, forget it.
    Leave(u32),
    /// It was to be detached, and is not.
    Kept {
        /// The database.
        db: u32,
        /// Why.
        why: String,
    },
    /// No member has it any more.
    Detached(u32),
    /// Go on: note the generation on disk where the database is persistent, let the lock go, serve the clients. Then answer
    /// [`Answer::Noted`], but for a volatile one.
    Thaw {
        /// The database.
        db: u32,
        /// Noted.
        generation: Generation,
        /// Its location masters.
        masters: Vec<u32>,
        /// Everybody who has copies of its records.
        members: Vec<u32>,
    },
    /// This node has everything that was committed before the view of this epoch, and on disk that it has: the view's recovery
    /// is finished here. Once in a view.
    Finished(u64),
}

/// What the driver answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The file is locked. Persistent: what is in it, or nothing if it cannot be read.
    Frozen(Option<Content>),
    /// Some of its records.
    Scanned {
        /// Keys and what there is of them.
        records: Vec<(Vec<u8>, Claim)>,
        /// That was all.
        last: bool,
    },
    /// The records that were asked for.
    Read {
        /// Who gets them.
        asker: u32,
        /// Keys and whole values.
        records: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Some of its records.
    Dumped {
        /// Keys and whole values.
        records: Vec<(Vec<u8>, Vec<u8>)>,
        /// That was all.
        last: bool,
    },
    /// The new content is there, on disk; or why it is not, and the old one is.
    Replaced(Result<(), String>),
    /// Nobody uses it on this node; or who does.
    Vacated(Result<(), String>),
    /// That it went on after this recovery is on disk, where the database is persistent.
    Noted,
}
