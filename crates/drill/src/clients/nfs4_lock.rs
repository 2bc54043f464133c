//! A byte-range lock over NFSv4.0 (RFC 7530, 16.10 and 16.12), and what is read and written under it.
//!
//! Its owner has to hear when a lock is gone. So every call says whether the lock stands; one that the server has forgotten
//! is reclaimed only by [`Locker::write_or_reclaim`], and the file is opened anew before the next one is asked for.

use super::nfs3::JUKEBOX;
use super::nfs4::{Client, Compound, GRACE, NO_GRACE, OK, PUTFH, READ, RECLAIM_BAD, RECLAIM_CONFLICT, WRITE};
use super::xdr::Reader;
use anyhow::{Context, Result, bail, ensure};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub(super) const LOCK: u32 = 12;
pub(super) const LOCKU: u32 = 14;
const WRITE_LT: u32 = 2;
const DENIED: u32 = 10010;
/// Between two trials of what the server puts off.
const AGAIN: Duration = Duration::from_millis(100);

/// What became of something that was to be done under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// It is done.
    Done,
    /// It is not done: the server had forgotten the lock, and has given it back.
    Reclaimed,
    /// It is not done, and the lock is gone.
    Lost,
}

/// A client with one file open, of which it may lock the beginning.
pub struct Locker {
    client: Client,
    /// How many lock owners there have been.
    owner: u32,
    /// State of the lock owner with this server, and what it has asked for.
    state: Option<(Vec<u8>, u32)>,
    length: u64,
}

impl std::fmt::Debug for Locker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Locker").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl Locker {
    /// Opens (or makes) the file `directory`/`name` below `export`; the first `length` bytes are what is locked. Like a hard
    /// mount: every call is sent until it is answered, or `stop` is set.
    ///
    /// # Errors
    /// The server refuses, or `stop` was set.
    pub fn open(
        server: IpAddr,
        export: &str,
        directory: &str,
        name: &str,
        length: u64,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let client = Client::open_at(server, export, directory, name, stop)?;
        Ok(Self { client, owner: 0, state: None, length })
    }

    /// What the server knew is gone: begins anew, with nothing locked.
    fn anew(&mut self) -> Result<()> {
        self.state = None;
        self.client.open_anew()
    }

    /// Asks once for the lock, for this client alone. A server that puts it off is asked again.
    ///
    /// # Errors
    /// The server refuses for another reason than that somebody else has it, or `stop` was set.
    pub fn lock(&mut self) -> Result<bool> {
        loop {
            match self.ask(false)? {
                OK => return Ok(true),
                DENIED => return Ok(false),
                GRACE | JUKEBOX => self.client.rpc.pause(AGAIN)?,
                status if Client::has_forgotten(status) => self.anew()?,
                status => bail!("LOCK: NFS status {status}"),
            }
        }
    }

    /// As [`Self::lock`], but a server that puts it off has not given it.
    ///
    /// # Errors
    /// As there.
    pub fn lock_once(&mut self) -> Result<bool> {
        match self.ask(false)? {
            OK => Ok(true),
            DENIED | GRACE | JUKEBOX => Ok(false),
            status if Client::has_forgotten(status) => self.anew().map(|()| false),
            status => bail!("LOCK: NFS status {status}"),
        }
    }

    /// One request for the lock; the NFS status.
    fn ask(&mut self, reclaim: bool) -> Result<u32> {
        let mut lock = Compound::default();
        lock.op(PUTFH).opaque(&self.client.file);
        lock.op(LOCK).u32(WRITE_LT).u32(u32::from(reclaim)).u64(0).u64(self.length);
        match &mut self.state {
            Some((state, seqid)) => {
                *seqid = seqid.wrapping_add(1);
                lock.ops.u32(0).0.extend(&*state);
                lock.ops.u32(*seqid);
            }
            None => {
                self.owner = self.owner.wrapping_add(1);
                self.client.seqid = self.client.seqid.wrapping_add(1);
                lock.ops.u32(1).u32(self.client.seqid).0.extend(&self.client.stateid);
                let owner = format!("counter {}", self.owner);
                lock.ops.u32(0).u64(self.client.clientid).opaque(owner.as_bytes());
            }
        }
        let answer = self.client.call(&lock)?;
        if answer.status == OK {
            let seqid = self.state.as_ref().map_or(0, |s| s.1);
            self.state = Some((answer.of(LOCK).context("no lock")?.to_vec(), seqid));
        }
        Ok(answer.status)
    }

    /// The server that has the address now knows nothing of the lock: takes it back, as a kernel does. False when that
    /// is refused; then the file is open anew, with nothing locked.
    fn reclaim(&mut self) -> Result<bool> {
        self.state = None;
        if !self.client.reopen()? {
            return self.anew().map(|()| false);
        }
        loop {
            match self.ask(true)? {
                OK => return Ok(true),
                JUKEBOX => self.client.rpc.pause(AGAIN)?,
                DENIED | NO_GRACE | RECLAIM_BAD | RECLAIM_CONFLICT => return self.anew().map(|()| false),
                status if Client::has_forgotten(status) => return self.anew().map(|()| false),
                status => bail!("LOCK, reclaimed: NFS status {status}"),
            }
        }
    }

    /// Writes as [`Self::write`]; a lock that the server has forgotten is taken back first, and nothing is written then.
    ///
    /// # Errors
    /// The server refuses, or `stop` was set.
    pub fn write_or_reclaim(&mut self, data: &[u8]) -> Result<Under> {
        loop {
            let Some((state, _)) = &self.state else { return Ok(Under::Lost) };
            let mut write = Compound::default();
            write.op(PUTFH).opaque(&self.client.file);
            write.op(WRITE).0.extend(state);
            write.ops.u64(0).u32(2).opaque(data);
            match self.client.call(&write)?.status {
                OK => return Ok(Under::Done),
                GRACE | JUKEBOX => self.client.rpc.pause(AGAIN)?,
                status if Client::has_forgotten(status) => {
                    return Ok(if self.reclaim()? { Under::Reclaimed } else { Under::Lost });
                }
                status => bail!("WRITE under a lock: NFS status {status}"),
            }
        }
    }

    /// Does something under the lock; None when the lock is gone.
    fn under(&mut self, code: u32, rest: impl Fn(&mut Compound)) -> Result<Option<Vec<u8>>> {
        loop {
            let Some((state, _)) = &self.state else { return Ok(None) };
            let mut compound = Compound::default();
            compound.op(PUTFH).opaque(&self.client.file);
            compound.op(code).0.extend(state);
            rest(&mut compound);
            let answer = self.client.call(&compound)?;
            match answer.status {
                OK => return Ok(Some(answer.of(code).context("no result")?.to_vec())),
                GRACE | JUKEBOX => self.client.rpc.pause(AGAIN)?,
                status if Client::has_forgotten(status) => {
                    self.anew()?;
                    return Ok(None);
                }
                status => bail!("operation {code} under a lock: NFS status {status}"),
            }
        }
    }

    /// Reads from the file's beginning under the lock; None when the lock is gone.
    ///
    /// # Errors
    /// The server refuses, or `stop` was set.
    pub fn read(&mut self, length: u32) -> Result<Option<Vec<u8>>> {
        let ask = |c: &mut Compound| {
            c.ops.u64(0).u32(length);
        };
        let Some(result) = self.under(READ, ask)? else { return Ok(None) };
        let mut r = Reader(&result);
        r.u32()?;
        Ok(Some(r.opaque()?.to_vec()))
    }

    /// Writes to the file's beginning, on stable storage, under the lock; false when the lock is gone, and then it is not
    /// known what became of this.
    ///
    /// # Errors
    /// The server refuses, or `stop` was set.
    pub fn write(&mut self, data: &[u8]) -> Result<bool> {
        let ask = |c: &mut Compound| {
            c.ops.u64(0).u32(2).opaque(data);
        };
        let Some(result) = self.under(WRITE, ask)? else { return Ok(false) };
        let count = Reader(&result).u32()?;
        ensure!(count as usize == data.len(), "WRITE took {count} of {} bytes", data.len());
        Ok(true)
    }

    /// Gives the lock back; one that is gone needs no giving back.
    ///
    /// # Errors
    /// The server refuses, or `stop` was set.
    pub fn unlock(&mut self) -> Result<()> {
        loop {
            let Some((state, seqid)) = &mut self.state else { return Ok(()) };
            *seqid = seqid.wrapping_add(1);
            let mut unlock = Compound::default();
            unlock.op(PUTFH).opaque(&self.client.file);
            unlock.op(LOCKU).u32(WRITE_LT).u32(*seqid).0.extend(&*state);
            unlock.ops.u64(0).u64(self.length);
            let answer = self.client.call(&unlock)?;
            match answer.status {
                OK => {
                    *state = answer.of(LOCKU).context("no state")?.to_vec();
                    return Ok(());
                }
                GRACE | JUKEBOX => self.client.rpc.pause(AGAIN)?,
                status if Client::has_forgotten(status) => return self.anew(),
                status => bail!("LOCKU: NFS status {status}"),
            }
        }
    }
}
