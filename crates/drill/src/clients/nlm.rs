//! A byte-range lock over NLM 4 (X/Open XNFS, chapter 10), beside NFSv3. The call is repeated for ever, as NFS's are; only
//! `NLM4_DENIED_GRACE_PERIOD` and the other answers are the caller's matter.

use super::nfs3::Client;
use super::xdr::{Reader, Writer};
use anyhow::{Context, Result};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const NLM: (u32, u32) = (100_021, 4);
const LOCK: u32 = 2;
const UNLOCK: u32 = 4;
/// The lock is there, or gone, as was asked.
pub const GRANTED: u32 = 0;
/// Somebody else has it.
pub const DENIED: u32 = 1;
/// Only reclaims are answered now, or none are.
pub const GRACE: u32 = 4;

/// One client's lock on the beginning of a file.
#[derive(Debug)]
pub struct Nlm {
    client: Client,
    file: Vec<u8>,
    /// Name of the client's host, and of the process.
    owner: String,
    length: u64,
}

impl Nlm {
    /// The lock manager at this port of the server; `file` is NFSv3's handle, of which the first `length` bytes are locked.
    #[must_use]
    pub fn new(server: IpAddr, port: u16, file: Vec<u8>, owner: &str, length: u64, stop: Arc<AtomicBool>) -> Self {
        Self { client: Client::new(SocketAddr::new(server, port), stop), file, owner: owner.to_owned(), length }
    }

    /// Asks once for the lock, for this client alone: NLM's status. `reclaim`: it had it from a server that has begun anew.
    ///
    /// # Errors
    /// The answer makes no sense, or `stop` was set.
    pub fn lock(&mut self, reclaim: bool) -> Result<u32> {
        let mut args = Writer::default();
        // Does not wait; exclusive.
        args.opaque(b"steadfast").u32(0).u32(1);
        self.what(&mut args);
        // The client's own state number, which only grows when it starts.
        args.u32(u32::from(reclaim)).u32(3);
        self.call(LOCK, &args)
    }

    /// How often its connection was lost: the server may have become another one since.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.client.reconnects
    }

    /// Gives the lock back: NLM's status.
    ///
    /// # Errors
    /// As of [`Nlm::lock`].
    pub fn unlock(&mut self) -> Result<u32> {
        let mut args = Writer::default();
        args.opaque(b"steadfast");
        self.what(&mut args);
        self.call(UNLOCK, &args)
    }

    fn what(&self, args: &mut Writer) {
        args.opaque(self.owner.as_bytes()).opaque(&self.file).opaque(self.owner.as_bytes());
        args.u32(1).u64(0).u64(self.length);
    }

    fn call(&mut self, procedure: u32, args: &Writer) -> Result<u32> {
        let reply = self.client.call(NLM.0, NLM.1, procedure, &args.0)?;
        let mut reply = Reader(&reply);
        reply.opaque().context("an answer without its cookie")?;
        reply.u32()
    }
}
