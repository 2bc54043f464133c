//! What members say to each other during a recovery, and what becomes of records in a file.

use super::merge::Claim;
use crate::database::Kind;

/// Numbers the recoveries of one database; grows. Everything between nodes about a database carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation {
    /// The view's epoch.
    pub epoch: u64,
    /// Recoveries of this database within the view, from 1.
    pub attempt: u32,
}

/// A database that a member has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// Hash of its name.
    pub db: u32,
    /// As clients call it: a file name.
    pub name: String,
    /// What kind it is.
    pub kind: Kind,
}

/// What a member's copy of a volatile database is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Standing {
    /// The last recovery in which its copy was made to agree with the others'.
    pub merged: Generation,
    /// The last one after which it went on. Nobody does before every member has merged: a copy whose `merged` is less
    /// than another's `opened` has missed a recovery.
    pub opened: Generation,
}

/// How far a member's copy of a persistent database is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Content {
    /// The last recovery that it took part in to the end. Commits happen on all members of one; so of two copies with
    /// different ones the older may lack commits, whatever its sequence number says.
    pub synced: Generation,
    /// Transactions so far.
    pub seqnum: u64,
    /// Of all records: equal content, equal sum.
    pub checksum: u64,
}

/// Said between leader and members, and between members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Leader to all: what do you have? All of it stops. Said again when the location masters change.
    Hello {
        /// The view.
        epoch: u64,
        /// Members that know who holds which record: those that are neither stopped nor banned.
        masters: Vec<u32>,
    },
    /// Answer to it.
    Databases {
        /// The view.
        epoch: u64,
        /// All that the member has. Of each in [`Standing::merged`] the last recovery that has stopped it, merged or not.
        have: Vec<(Have, Standing)>,
    },
    /// Member to leader: a client wants this one.
    Create {
        /// The view.
        epoch: u64,
        /// Which.
        have: Have,
    },
    /// Leader to all: stop it (and make it, where it is not there).
    Stop {
        /// From now on.
        generation: Generation,
        /// Which.
        have: Have,
        /// Volatile: a member whose copy was merged before this one throws it away.
        valid: Generation,
        /// Somebody replaces its content by hand: nothing else happens to it until every member has done so.
        held: bool,
        /// Its location masters from then on, some or all of the members.
        masters: Vec<u32>,
    },
    /// Answer to it: nothing changes it any more on this member.
    Stopped {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// Persistent: what is there; nothing if it cannot be read. Volatile: nothing.
        content: Option<Content>,
    },
    /// Leader to all, volatile: tell the location masters what you have.
    Merge {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Member to location master: my copies.
    Claims {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// Keys and what there is of them.
        claims: Vec<(Vec<u8>, Claim)>,
        /// That was all.
        last: bool,
    },
    /// Location master to member: give me these records, hold these no more, and forget these.
    Settle {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// Records whose data is wanted.
        give: Vec<Vec<u8>>,
        /// Records that the member does not hold.
        demote: Vec<Vec<u8>>,
        /// Records to be deleted.
        forget: Vec<Vec<u8>>,
    },
    /// Answer to it, when that is done: the records, as they are in the member's file.
    Settled {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// Keys and whole values.
        records: Vec<(Vec<u8>, Vec<u8>)>,
    },
    /// Leader to the member with the best copy of a persistent database: send it to these.
    Source {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// Members with another content.
        to: Vec<u32>,
    },
    /// Source to another member: the content.
    Copy {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// Keys and whole values.
        records: Vec<(Vec<u8>, Vec<u8>)>,
        /// That was all.
        last: bool,
    },
    /// Member to leader: its part is done.
    Merged {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Member to leader: its part cannot be done. The database stays stopped everywhere until somebody mends that.
    Failed {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// What failed, on what file.
        why: String,
    },
    /// Leader to all: go on.
    Go {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Leader to all, when every database that is no volatile one has gone on in this view: who has noted all these recoveries
    /// has everything that was committed.
    Finished {
        /// The view.
        epoch: u64,
    },
    /// Member to leader: stop it, for its content is to be replaced by hand.
    Hold {
        /// The recovery that it went on after.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Member to leader: a client wants this volatile database away from all nodes.
    Detach {
        /// The recovery that it went on after.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Leader to all, of one that is stopped: see to it that nobody uses it, nor begins to.
    Vacate {
        /// The recovery that stopped it.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Answer to it.
    Vacated {
        /// The recovery.
        generation: Generation,
        /// The database.
        db: u32,
        /// Who uses it, if somebody does.
        result: Result<(), String>,
    },
    /// Leader to all: it stays, and is recovered.
    Kept {
        /// The recovery that stopped it.
        generation: Generation,
        /// The database.
        db: u32,
        /// Why.
        why: String,
    },
    /// Leader to all, when nobody uses it on any member: empty and forget it.
    Leave {
        /// The recovery that stopped it; of a member that was elsewhere meanwhile, one of this view.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Answer to it, when that is done.
    Left {
        /// As ordered.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Leader to all: no member has it any more.
    Detached {
        /// The recovery that stopped it.
        generation: Generation,
        /// The database.
        db: u32,
    },
    /// Member to leader, before [`Word::Databases`]: what it has left, by which recovery. Who has it from before that has
    /// missed its end.
    Gone {
        /// The view.
        epoch: u64,
        /// Databases.
        left: Vec<(u32, Generation)>,
    },
    /// Member to leader: this one must be recovered again.
    Trouble {
        /// The recovery that it went on after.
        generation: Generation,
        /// The database.
        db: u32,
        /// For the log.
        why: String,
    },
}

impl Word {
    /// The view that it is said in.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Hello { epoch, .. }
            | Self::Databases { epoch, .. }
            | Self::Create { epoch, .. }
            | Self::Finished { epoch }
            | Self::Gone { epoch, .. } => *epoch,
            Self::Stop { generation, .. }
            | Self::Stopped { generation, .. }
            | Self::Merge { generation, .. }
            | Self::Claims { generation, .. }
            | Self::Settle { generation, .. }
            | Self::Settled { generation, .. }
            | Self::Source { generation, .. }
            | Self::Copy { generation, .. }
            | Self::Merged { generation, .. }
            | Self::Failed { generation, .. }
            | Self::Go { generation, .. }
            | Self::Hold { generation, .. }
            | Self::Detach { generation, .. }
            | Self::Vacate { generation, .. }
            | Self::Vacated { generation, .. }
            | Self::Kept { generation, .. }
            | Self::Leave { generation, .. }
            | Self::Left { generation, .. }
            | Self::Detached { generation, .. }
            | Self::Trouble { generation, .. } => generation.epoch,
        }
    }

    /// Is it [`super::Lead`]'s, not [`super::Member`]'s?
    #[must_use]
    pub fn is_for_leader(&self) -> bool {
        matches!(
            self,
            Self::Databases { .. }
                | Self::Create { .. }
                | Self::Stopped { .. }
                | Self::Merged { .. }
                | Self::Failed { .. }
                | Self::Hold { .. }
                | Self::Detach { .. }
                | Self::Vacated { .. }
                | Self::Left { .. }
                | Self::Gone { .. }
                | Self::Trouble { .. }
        )
    }
}

/// A change of one record in the file of a stopped volatile database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Names the holder; makes an empty record (sequence number 0) where there is none.
    Holder(u32),
    /// The own copy is the newest: this node holds it from now on, under the next sequence number.
    Take,
    /// Stores this value, header included.
    Value(Vec<u8>),
    /// Deletes it.
    Delete,
}
