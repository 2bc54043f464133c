//! What nodes say about a record.

/// Said between nodes, about one key of one database, under one generation of it. Links keep their order and lose
/// nothing within a generation; a link that breaks between members costs a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To the location master: the sender wants it.
    Want {
        /// The record's key.
        key: Vec<u8>,
    },
    /// From the location master to the holder: `to` shall have it next.
    Yield {
        /// The record's key.
        key: Vec<u8>,
        /// The next holder.
        to: u32,
    },
    /// From the holder to the next.
    Give {
        /// The record's key.
        key: Vec<u8>,
        /// Its sequence number at the sender.
        rsn: u64,
        /// Its flags.
        flags: u32,
        /// Its data, without header.
        data: Vec<u8>,
    },
    /// From the holder of an empty record to the location master, which fetches and deletes it.
    Emptied {
        /// The record's key.
        key: Vec<u8>,
    },
    /// From the location master, which holds the record and wants to forget it: delete what you have of it.
    Purge {
        /// The record's key.
        key: Vec<u8>,
        /// Its sequence number; a newer copy is kept.
        rsn: u64,
    },
    /// Answer to it.
    Purged {
        /// The record's key.
        key: Vec<u8>,
        /// Nothing of it is there any more.
        done: bool,
    },
    /// To the location master: the sender wants a copy to read.
    WantCopy {
        /// The record's key.
        key: Vec<u8>,
    },
    /// From the location master to the holder: `to` wants a copy to read.
    Delegate {
        /// The record's key.
        key: Vec<u8>,
        /// Who wants it.
        to: u32,
    },
    /// From the holder to who wants it.
    Copy {
        /// The record's key.
        key: Vec<u8>,
        /// Its sequence number.
        rsn: u64,
        /// Its flags. With `HAVE_READONLY` the copy may be read until it is taken back; without, this once.
        flags: u32,
        /// Its data, without header.
        data: Vec<u8>,
    },
    /// From the holder: the copy is not to be read any more.
    Revoke {
        /// The record's key.
        key: Vec<u8>,
    },
    /// It is not.
    Revoked {
        /// The record's key.
        key: Vec<u8>,
    },
}

impl Message {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Want { key }
            | Self::Yield { key, .. }
            | Self::Give { key, .. }
            | Self::Emptied { key }
            | Self::Purge { key, .. }
            | Self::Purged { key, .. }
            | Self::WantCopy { key }
            | Self::Delegate { key, .. }
            | Self::Copy { key, .. }
            | Self::Revoke { key }
            | Self::Revoked { key } => key,
        }
    }
}
