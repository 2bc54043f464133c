//! The NFSv4.0 writer (RFC 7530): what the NFSv3 writer does, with the state that version 4 adds: a client id, an open
//! file, a stateid.
//!
//! A server that took the address over knows none of that state and says so. As a kernel does, the client then
//! introduces itself anew, reclaims its open file (or opens it again, where no grace period runs) and repeats the
//! write; the application only waits. A server in its grace period lets nobody open files: the client waits that out, too.

use super::nfs_status::NfsStatus;
use super::nfs3::{self, JUKEBOX, NFS};
use super::nfs4_lock::{LOCK, LOCKU};
use super::xdr::{Reader, Writer};
use super::{BLOCK, Recorder, Spec, block, pause};
use crate::now_us;
use anyhow::{Context, Result, bail, ensure};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LOOKUP: u32 = 15;
const GETFH: u32 = 10;
const OPEN: u32 = 18;
const OPEN_CONFIRM: u32 = 20;
pub(super) const PUTFH: u32 = 22;
const PUTROOTFH: u32 = 24;
pub(super) const READ: u32 = 25;
const REMOVE: u32 = 28;
const SETCLIENTID: u32 = 35;
const SETCLIENTID_CONFIRM: u32 = 36;
pub(super) const WRITE: u32 = 38;

pub(super) const OK: u32 = 0;
const NOENT: u32 = 2;
const EXPIRED: u32 = 10011;
pub(super) const GRACE: u32 = 10013;
const STALE_CLIENTID: u32 = 10022;
const STALE_STATEID: u32 = 10023;
const OLD_STATEID: u32 = 10024;
const BAD_STATEID: u32 = 10025;
/// The server counts what this open owner asks for otherwise than we do; a new owner begins anew.
const BAD_SEQID: u32 = 10026;
/// The server has no record of this client, or no grace period runs: nothing is reclaimed, all is opened anew.
pub(super) const NO_GRACE: u32 = 10033;
pub(super) const RECLAIM_BAD: u32 = 10034;
/// Somebody else has what is reclaimed.
pub(super) const RECLAIM_CONFLICT: u32 = 10035;

/// Between two trials of what the server puts off.
const AGAIN: Duration = Duration::from_millis(100);

/// The first status of a compound that is not OK, and the results after the last operation's header.
pub(super) struct Answer {
    pub(super) status: u32,
    results: Vec<(u32, Vec<u8>)>,
}

/// Some operations, sent as one request.
#[derive(Default)]
pub(super) struct Compound {
    pub(super) ops: Writer,
    codes: Vec<u32>,
}

impl Compound {
    pub(super) fn op(&mut self, code: u32) -> &mut Writer {
        self.codes.push(code);
        self.ops.u32(code)
    }
}

/// What a result of each operation has after its status, to find the next one.
fn result_of(code: u32, r: &mut Reader<'_>) -> Result<Vec<u8>> {
    let all = r.0;
    match code {
        GETFH => drop(r.opaque()?),
        OPEN => {
            r.skip(16 + 20)?;
            r.u32()?;
            let words = r.u32()? as usize;
            r.skip(words.saturating_mul(4))?;
            let delegation = r.u32()?;
            ensure!(delegation == 0, "the server delegates files, which was not asked for");
        }
        OPEN_CONFIRM | SETCLIENTID | LOCK | LOCKU => drop(r.skip(16)?),
        READ => {
            r.u32()?;
            r.opaque()?;
        }
        REMOVE => drop(r.skip(20)?),
        WRITE => drop(r.skip(16)?),
        _ => {}
    }
    Ok(all[..all.len() - r.0.len()].to_vec())
}

pub(super) struct Client {
    pub(super) rpc: nfs3::Client,
    /// Who we are, to the server.
    id: String,
    verifier: u64,
    pub(super) clientid: u64,
    /// How many open owners there have been.
    owner: u32,
    /// Counts what the open owner asks for.
    pub(super) seqid: u32,
    pub(super) stateid: Vec<u8>,
    directory: Vec<String>,
    name: String,
    pub(super) file: Vec<u8>,
}

impl Client {
    /// Introduces a client and opens (or makes) a file.
    pub(super) fn open_at(
        server: IpAddr,
        export: &str,
        directory: &str,
        name: &str,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let words = export.split('/').chain(directory.split('/')).filter(|w| !w.is_empty());
        let mut client = Self {
            rpc: nfs3::Client::new(SocketAddr::new(server, NFS.1), stop),
            id: format!("steadfast-drill {} {name} {}", std::process::id(), now_us()),
            verifier: now_us(),
            clientid: 0,
            owner: 0,
            seqid: 0,
            stateid: vec![0; 16],
            directory: words.map(String::from).collect(),
            name: name.to_owned(),
            file: Vec::new(),
        };
        client.open(false).with_context(|| format!("NFSv4 on {server}, {export}"))?;
        Ok(client)
    }

    /// With this status a server says that it does not know the state of ours that it was asked about.
    pub(super) fn has_forgotten(status: u32) -> bool {
        matches!(status, STALE_CLIENTID | STALE_STATEID | OLD_STATEID | BAD_STATEID | EXPIRED | BAD_SEQID)
    }

    /// Opens the file as a client that has started anew: what a server still has of the former one, it throws away.
    pub(super) fn open_anew(&mut self) -> Result<()> {
        self.verifier = now_us();
        (self.owner, self.seqid) = (self.owner.wrapping_add(1), 0);
        self.open(false)
    }

    pub(super) fn call(&mut self, compound: &Compound) -> Result<Answer> {
        let mut args = Writer::default();
        args.opaque(b"").u32(0).u32(u32::try_from(compound.codes.len())?);
        args.0.extend(&compound.ops.0);
        let reply = self.rpc.call(NFS.0, 4, 1, &args.0)?;
        let mut r = Reader(&reply);
        let status = r.u32()?;
        r.opaque()?;
        let count = r.u32()? as usize;
        let mut results = Vec::new();
        for code in compound.codes.iter().take(count) {
            let (told, status) = (r.u32()?, r.u32()?);
            ensure!(told == *code, "the server answers operation {told}, {code} was asked");
            if status == OK {
                results.push((*code, result_of(*code, &mut r)?));
            }
        }
        ensure!(status != OK || results.len() == compound.codes.len(), "the server left operations out");
        Ok(Answer { status, results })
    }

    /// Introduces this client, or tells the server that it has started anew.
    fn introduce(&mut self) -> Result<()> {
        let mut set = Compound::default();
        // No callbacks: nothing is delegated to a client that cannot be called.
        let id = self.id.clone();
        set.op(SETCLIENTID)
            .u64(self.verifier)
            .opaque(id.as_bytes())
            .u32(0)
            .opaque(b"tcp")
            .opaque(b"0.0.0.0.0.0")
            .u32(0);
        let answer = self.patiently(&set)?;
        let result = answer.of(SETCLIENTID).with_context(|| format!("SETCLIENTID: {}", NfsStatus(answer.status)))?;
        let mut r = Reader(result);
        self.clientid = r.u64()?;
        let confirm = r.u64()?;
        let mut set = Compound::default();
        set.op(SETCLIENTID_CONFIRM).u64(self.clientid).u64(confirm);
        let answer = self.patiently(&set)?;
        ensure!(answer.status == OK, "SETCLIENTID_CONFIRM: {}", NfsStatus(answer.status));
        Ok(())
    }

    /// As [`Self::call`]; what the server puts off is asked again.
    fn patiently(&mut self, compound: &Compound) -> Result<Answer> {
        loop {
            let answer = self.call(compound)?;
            if answer.status != JUKEBOX {
                return Ok(answer);
            }
            self.rpc.pause(AGAIN)?;
        }
    }

    fn walk<'c>(&self, compound: &'c mut Compound) -> &'c mut Compound {
        compound.op(PUTROOTFH);
        for name in &self.directory {
            compound.op(LOOKUP).opaque(name.as_bytes());
        }
        compound
    }

    /// Opens the file, by name or as one that was open before; the NFS status.
    fn open_once(&mut self, reclaim: bool) -> Result<u32> {
        self.seqid = self.seqid.wrapping_add(1);
        let mut open = Compound::default();
        if reclaim {
            open.op(PUTFH).opaque(&self.file);
        } else {
            self.walk(&mut open);
        }
        let op = open.op(OPEN);
        let owner = format!("writer {}", self.owner);
        op.u32(self.seqid).u32(3).u32(0).u64(self.clientid).opaque(owner.as_bytes());
        if reclaim {
            // No create; CLAIM_PREVIOUS, without a delegation.
            op.u32(0).u32(1).u32(0);
        } else {
            // UNCHECKED with mode 0666 (attribute 33); CLAIM_NULL.
            op.u32(1).u32(0).u32(2).u32(0).u32(1 << 1).u32(4).u32(0o666).u32(0).opaque(self.name.as_bytes());
        }
        open.op(GETFH);
        let answer = self.call(&open)?;
        let Some(result) = answer.of(OPEN).filter(|_| answer.status == OK) else {
            return Ok(answer.status);
        };
        let mut r = Reader(result);
        self.stateid = r.skip(16)?.to_vec();
        r.skip(20)?;
        let confirm = r.u32()? & 2 != 0;
        self.file = Reader(answer.of(GETFH).context("no file handle")?).opaque()?.to_vec();
        if confirm {
            self.seqid = self.seqid.wrapping_add(1);
            let mut confirm = Compound::default();
            confirm.op(PUTFH).opaque(&self.file);
            confirm.op(OPEN_CONFIRM).0.extend(&self.stateid);
            confirm.ops.u32(self.seqid);
            let answer = self.call(&confirm)?;
            let Some(result) = answer.of(OPEN_CONFIRM) else {
                return Ok(answer.status);
            };
            self.stateid = result.to_vec();
        }
        Ok(OK)
    }

    /// Has the file open, whatever server is there now.
    fn open(&mut self, mut reclaim: bool) -> Result<()> {
        self.introduce()?;
        loop {
            match self.open_once(reclaim)? {
                OK => return Ok(()),
                GRACE | JUKEBOX => self.rpc.pause(AGAIN)?,
                NO_GRACE | RECLAIM_BAD => reclaim = false,
                BAD_SEQID => (self.owner, self.seqid) = (self.owner.wrapping_add(1), 0),
                STALE_CLIENTID | EXPIRED => {
                    self.rpc.pause(Duration::from_millis(10))?;
                    self.introduce()?;
                }
                status => bail!("OPEN {}: {}", self.name, NfsStatus(status)),
            }
        }
    }

    /// Has the file open as one that was open before; false when the server does not let it.
    pub(super) fn reopen(&mut self) -> Result<bool> {
        self.introduce()?;
        loop {
            match self.open_once(true)? {
                OK => return Ok(true),
                GRACE | JUKEBOX => self.rpc.pause(AGAIN)?,
                NO_GRACE | RECLAIM_BAD | RECLAIM_CONFLICT => return Ok(false),
                BAD_SEQID => (self.owner, self.seqid) = (self.owner.wrapping_add(1), 0),
                STALE_CLIENTID | EXPIRED => {
                    self.rpc.pause(Duration::from_millis(10))?;
                    self.introduce()?;
                }
                status => bail!("OPEN {}, reclaimed: NFS status {status}", self.name),
            }
        }
    }

    /// Writes with FILE_SYNC; the NFS status of what no client can mend.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<u32> {
        loop {
            let mut write = Compound::default();
            write.op(PUTFH).opaque(&self.file);
            write.op(WRITE).0.extend(&self.stateid);
            write.ops.u64(offset).u32(2).opaque(data);
            let answer = self.call(&write)?;
            match answer.status {
                OK => {
                    let count = Reader(answer.of(WRITE).context("no result")?).u32()?;
                    ensure!(count as usize == data.len(), "WRITE took {count} of {} bytes", data.len());
                    return Ok(OK);
                }
                status if Self::has_forgotten(status) => self.open(true)?,
                GRACE | JUKEBOX => self.rpc.pause(AGAIN)?,
                status => return Ok(status),
            }
        }
    }

    /// Its address may move meanwhile, as when it writes.
    fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>> {
        loop {
            let mut read = Compound::default();
            read.op(PUTFH).opaque(&self.file);
            read.op(READ).0.extend(&self.stateid);
            read.ops.u64(offset).u32(len);
            let answer = self.call(&read)?;
            match answer.status {
                OK => {
                    let mut r = Reader(answer.of(READ).context("no result")?);
                    r.u32()?;
                    return Ok(r.opaque()?.to_vec());
                }
                status if Self::has_forgotten(status) => self.open(true)?,
                GRACE | JUKEBOX => self.rpc.pause(AGAIN)?,
                status => bail!("READ {} at {offset}: {}", self.name, NfsStatus(status)),
            }
        }
    }

    fn remove(&mut self) -> Result<()> {
        let mut remove = Compound::default();
        self.walk(&mut remove).op(REMOVE).opaque(self.name.as_bytes());
        loop {
            match self.call(&remove)?.status {
                OK | NOENT => return Ok(()),
                GRACE | JUKEBOX => self.rpc.pause(AGAIN)?,
                status => bail!("REMOVE {}: {}", self.name, NfsStatus(status)),
            }
        }
    }
}

impl Answer {
    pub(super) fn of(&self, code: u32) -> Option<&[u8]> {
        self.results.iter().find(|(c, _)| *c == code).map(|(_, result)| result.as_slice())
    }
}

fn connect(spec: &Spec, vip: IpAddr, name: &str, stop: Arc<AtomicBool>) -> Result<Client> {
    Client::open_at(vip, &spec.export, &spec.directory, name, stop)
}

pub(super) fn run(spec: &Spec, vip: IpAddr, name: &str, record: &Recorder, stop: &Arc<AtomicBool>) {
    match write(spec, vip, name, record, stop).and_then(|blocks| compare(spec, vip, name, blocks)) {
        Ok(bytes) => record.compared(bytes),
        Err(e) => record.wrong(format!("{e:#}")),
    }
}

fn write(spec: &Spec, vip: IpAddr, name: &str, record: &Recorder, stop: &Arc<AtomicBool>) -> Result<u64> {
    let mut client = connect(spec, vip, name, Arc::clone(stop))?;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = now_us();
        match client.write(n * BLOCK as u64, &block(name, n)) {
            Ok(OK) => {
                n += 1;
                record.ok(begun);
            }
            Ok(status) => record.failed(&NfsStatus(status).to_string()),
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(e) => record.failed(&format!("{e:#}")),
        }
        pause(Duration::from_millis(10), stop);
    }
    Ok(n)
}

/// Reads the first `blocks` blocks back, compares, and removes the file; how many bytes that were.
fn compare(spec: &Spec, vip: IpAddr, name: &str, blocks: u64) -> Result<u64> {
    let mut client = connect(spec, vip, name, Arc::new(AtomicBool::new(false)))?;
    let mut wrong = 0;
    for n in 0..blocks {
        wrong += u64::from(client.read(n * BLOCK as u64, BLOCK as u32)? != block(name, n));
    }
    ensure!(wrong == 0, "{wrong} of {blocks} acknowledged blocks of {name} are not there or wrong");
    client.remove()?;
    Ok(blocks * BLOCK as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_behind_each_other_and_short_ones_are_errors() {
        let mut w = Writer::default();
        w.u64(1).u64(2).u32(0).u64(3).u64(4).u32(2).u32(1).u32(7).u32(0);
        let open = w.0.len();
        w.opaque(b"handle");
        let mut r = Reader(&w.0);
        assert_eq!(result_of(OPEN, &mut r).unwrap().len(), open);
        assert_eq!(result_of(GETFH, &mut r).unwrap().len(), 12);
        assert!(r.0.is_empty());
        assert!(result_of(OPEN, &mut Reader(&w.0[..30])).is_err());
        assert!(result_of(WRITE, &mut Reader(&w.0[..15])).is_err());
    }
}
