//! An open database: opening it, and its bytes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::format::{
    DEFAULT_HASH_SIZE, FREELIST_HEAD, HEADER_SIZE, Hash, RECOVERY_HEAD, Record, Refused, SEQUENCE, Shape, word,
};
use crate::locks::{ACTIVE, Locks, OPEN};
use crate::ofd::{Kind, Wait};
use crate::overlay::Overlay;
use crate::storage::Storage;

/// How to open a database.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub flags: Flags,
    /// Hash chains of a file that is created now; 0: 131. An existing file keeps its own.
    pub hash_size: u32,
    /// Create the file if it is not there, or is empty, with this mode.
    pub create: Option<u32>,
    /// Only to read: no locks at all, no recovery; what is read may be half of a change.
    pub read_only: bool,
}

impl Options {
    /// Opens what is there, to read and write.
    #[must_use]
    pub fn new(flags: Flags) -> Self {
        Self { flags, hash_size: 0, create: None, read_only: false }
    }

    /// Creates it with `hash_size` chains and mode 0600 if it is not there.
    #[must_use]
    pub fn create(flags: Flags, hash_size: u32) -> Self {
        Self { hash_size, create: Some(0o600), ..Self::new(flags) }
    }
}

/// An open TDB file.
///
/// Any number of handles, in any number of threads and processes, libtdb's among them, may share a file: the locks are
/// those of libtdb. One handle belongs to one thread at a time. Every call that takes a lock by itself waits for it
/// unless the caller has it already: an event loop takes [`try_lock_chain`](Self::try_lock_chain) first, or lets a
/// thread wait ([`Waiter`](crate::Waiter)).
#[derive(Debug)]
pub struct Tdb {
    pub(crate) path: Arc<Path>,
    pub(crate) storage: Box<dyn Storage>,
    pub(crate) flags: Flags,
    pub(crate) shape: Shape,
    pub(crate) locks: Locks,
    /// Bytes of the file as last seen; within a transaction as it will be.
    pub(crate) size: u32,
    pub(crate) transaction: Option<Overlay>,
    pub(crate) max_dead: u32,
    pub(crate) read_only: bool,
    /// Records that traverses of this handle stand on, and how many of them only read.
    pub(crate) cursors: Vec<u32>,
    pub(crate) read_traverses: u32,
}

impl Tdb {
    /// Opens a database. Waits while somebody else opens or commits.
    ///
    /// With `CLEAR_IF_FIRST` the file is emptied unless another handle that was opened so is still open.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let path: Arc<Path> = path.as_ref().into();
        let mut how = OpenOptions::new();
        how.read(true).write(!options.read_only);
        if let (Some(mode), false) = (options.create, options.read_only) {
            how.create(true).mode(mode);
        }
        let file =
            how.open(&*path).map_err(|source| Error::Io { path: path.clone(), doing: "cannot open it", source })?;
        Self::open_storage(path, Box::new(file), options)
    }

    pub(crate) fn open_storage(path: Arc<Path>, storage: Box<dyn Storage>, options: Options) -> Result<Self> {
        let hash = if options.flags.has(Flags::INCOMPATIBLE_HASH) { Hash::Lookup3 } else { Hash::Old };
        let hash_size = if options.hash_size == 0 { DEFAULT_HASH_SIZE } else { options.hash_size };
        let mut db = Self {
            path,
            storage,
            flags: options.flags,
            shape: Shape { hash_size, hash },
            locks: Locks::new(!options.read_only && !options.flags.has(Flags::NO_LOCK)),
            size: 0,
            transaction: None,
            max_dead: if options.flags.has(Flags::VOLATILE) { 5 } else { 0 },
            read_only: options.read_only,
            cursors: Vec::new(),
            read_traverses: 0,
        };
        if options.flags.has(Flags::MUTEX_LOCKING) {
            return Err(db.unsupported("locking with mutexes is not supported"));
        }
        if hash_size > (u32::MAX - HEADER_SIZE) / 4 - 1 {
            return Err(db.unsupported("so many hash chains do not fit in 4 GiB"));
        }
        db.nest(OPEN, Kind::Exclusive, Wait::Block)?;
        let clear = options.flags.has(Flags::CLEAR_IF_FIRST) && !options.read_only;
        if clear && db.nest(ACTIVE, Kind::Exclusive, Wait::Try)? {
            db.range_lock(Kind::Exclusive, (FREELIST_HEAD, 0), Wait::Block)?;
            db.create()?;
            db.range_unlock((FREELIST_HEAD, 0))?;
        }
        let mut header = [0; HEADER_SIZE as usize];
        let mut size = db.file_size()?;
        if size == 0 && options.create.is_some() && !options.read_only {
            db.create()?;
            size = db.file_size()?;
        }
        let there = usize::try_from(size).map_or(header.len(), |size| size.min(header.len()));
        db.storage.read(&mut header[..there], 0).map_err(|error| db.io("cannot read the header", error))?;
        db.shape = Shape::parse(&header[..there], size).map_err(|refused| match refused {
            Refused::Corrupt(at, what) => db.corrupt(at, what),
            Refused::Unsupported(what) => db.unsupported(what),
        })?;
        db.look_at_size()?;
        if clear {
            // From the exclusive lock, if it was ours, straight to the shared one: still under OPEN, as libtdb does it.
            db.share_active()?;
        }
        if !options.read_only {
            db.recover()?;
        }
        db.unnest(OPEN)?;
        Ok(db)
    }

    /// Another handle on the same file, with locks of its own, for a thread that waits.
    pub(crate) fn second_handle(&self) -> Result<Self> {
        let link = format!("/proc/self/fd/{}", self.storage.file().as_raw_fd());
        let file = File::options().read(true).write(true).open(link);
        let file = file.map_err(|error| self.io("cannot open it a second time through /proc", error))?;
        Ok(Self {
            path: self.path.clone(),
            storage: Box::new(file),
            flags: self.flags,
            shape: self.shape,
            locks: Locks::new(!self.flags.has(Flags::NO_LOCK)),
            size: 0,
            transaction: None,
            max_dead: self.max_dead,
            read_only: false,
            cursors: Vec::new(),
            read_traverses: 0,
        })
    }

    /// Makes the file an empty database. The caller holds OPEN, and nobody else uses it.
    fn create(&mut self) -> Result<()> {
        self.storage.truncate(0).map_err(|error| self.io("cannot empty it", error))?;
        self.storage.write(&self.shape.new_file(), 0).map_err(|error| self.io("cannot write a new database", error))
    }

    /// The file's path as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of hash chains.
    #[must_use]
    pub fn hash_size(&self) -> u32 {
        self.shape.hash_size
    }

    /// The flags that it works with.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Adds flags, `SEQNUM` for example. Flags that say how to open have no effect any more.
    pub fn add_flags(&mut self, flags: Flags) {
        self.flags = self.flags | flags;
    }

    /// Keep up to so many deleted records in each chain for the next store (CTDB: 5).
    pub fn set_max_dead(&mut self, records: u32) {
        self.max_dead = records;
    }

    /// The sequence number: changed by every write through handles that have `SEQNUM`.
    pub fn sequence_number(&mut self) -> Result<u32> {
        self.read_word(SEQUENCE)
    }

    /// Adds one to the sequence number, whatever the flags.
    pub fn bump_sequence_number(&mut self) -> Result<()> {
        if self.transaction.is_some() {
            let number = self.read_word(SEQUENCE)?;
            return self.write_word(SEQUENCE, number.wrapping_add(1));
        }
        // As libtdb does it without a mapping.
        self.range_lock(Kind::Exclusive, (SEQUENCE, 1), Wait::Block)?;
        let number = self.read_word(SEQUENCE);
        let written = number.and_then(|number| self.write_word(SEQUENCE, number.wrapping_add(1)));
        self.range_unlock((SEQUENCE, 1))?;
        written
    }

    pub(crate) fn count_change(&mut self) -> Result<()> {
        if self.flags.has(Flags::SEQNUM) { self.bump_sequence_number() } else { Ok(()) }
    }

    pub(crate) fn writable(&self) -> Result<()> {
        if self.read_only || self.read_traverses > 0 {
            return Err(Error::ReadOnly { path: self.path.clone() });
        }
        Ok(())
    }

    // Errors.

    pub(crate) fn io(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Io { path: self.path.clone(), doing, source }
    }

    pub(crate) fn corrupt(&self, at: u32, what: &'static str) -> Error {
        Error::Corrupt { path: self.path.clone(), at, what }
    }

    fn unsupported(&self, what: &'static str) -> Error {
        Error::Unsupported { path: self.path.clone(), what }
    }

    pub(crate) fn order(&self, what: &'static str) -> Error {
        Error::Order { path: self.path.clone(), what }
    }

    pub(crate) fn too_large(&self) -> Error {
        Error::TooLarge { path: self.path.clone() }
    }

    // Bytes.

    pub(crate) fn file_size(&self) -> Result<u64> {
        self.storage.len().map_err(|error| self.io("cannot ask for its size", error))
    }

    /// Looks how large the file is now. Not within a transaction.
    pub(crate) fn look_at_size(&mut self) -> Result<()> {
        self.size = u32::try_from(self.file_size()?).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Whether `bytes` bytes at `at` are in the file.
    pub(crate) fn reaches(&mut self, at: u32, bytes: u32) -> Result<bool> {
        let Some(end) = at.checked_add(bytes) else { return Ok(false) };
        if end > self.size && self.transaction.is_none() {
            // Others make it grow.
            self.look_at_size()?;
        }
        Ok(end <= self.size)
    }

    pub(crate) fn read(&mut self, bytes: &mut [u8], at: u32) -> Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| self.too_large())?;
        if !self.reaches(at, length)? {
            return Err(self.corrupt(at, "an offset beyond the end of the file"));
        }
        match &self.transaction {
            Some(overlay) => overlay.read(&*self.storage, bytes, at),
            None => self.storage.read(bytes, at),
        }
        .map_err(|error| self.io("cannot read it", error))
    }

    pub(crate) fn read_vec(&mut self, at: u32, length: u32) -> Result<Vec<u8>> {
        if !self.reaches(at, length)? {
            return Err(self.corrupt(at, "a length beyond the end of the file"));
        }
        let mut bytes = vec![0; length as usize];
        self.read(&mut bytes, at)?;
        Ok(bytes)
    }

    pub(crate) fn write(&mut self, bytes: &[u8], at: u32) -> Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| self.too_large())?;
        if !self.reaches(at, length)? {
            return Err(self.corrupt(at, "an offset beyond the end of the file"));
        }
        match &mut self.transaction {
            Some(overlay) => overlay.write(&*self.storage, bytes, at),
            None => self.storage.write(bytes, at),
        }
        .map_err(|error| self.io("cannot write to it", error))
    }

    pub(crate) fn read_word(&mut self, at: u32) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(&mut bytes, at)?;
        Ok(word(&bytes, 0))
    }

    pub(crate) fn write_word(&mut self, at: u32, value: u32) -> Result<()> {
        self.write(&value.to_ne_bytes(), at)
    }

    pub(crate) fn read_header(&mut self, at: u32) -> Result<Record> {
        let mut bytes = [0; Record::SIZE as usize];
        self.read(&mut bytes, at)?;
        Ok(Record::parse(&bytes))
    }

    pub(crate) fn write_header(&mut self, at: u32, record: Record) -> Result<()> {
        self.write(&record.bytes(), at)
    }

    /// Where the recovery record is, if it holds an unfinished commit.
    pub(crate) fn unfinished(&mut self) -> Result<Option<(u32, Record)>> {
        let at = self.read_word(RECOVERY_HEAD)?;
        if at == 0 {
            return Ok(None);
        }
        let record = self.read_header(at)?;
        Ok((record.magic == crate::format::RECOVERY_VALID).then_some((at, record)))
    }
}
