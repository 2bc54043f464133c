//! The daemon's side of the lock on the shared filesystem.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::server::{Ask, Told};
use super::{Acquired, Exchange, LockError};
use crate::storage::helper::{Helper, HelperCommand, HelperError};

/// A lock file and the record files beside it, in a helper process of their own.
///
/// When the helper is lost (a deadline, a kill) so is the lock: [`not_held`](Self::not_held) says so.
#[derive(Debug)]
pub struct LockHelper {
    helper: Helper,
    deadline: Duration,
}

impl LockHelper {
    /// Starts nothing yet. `deadline` bounds each call; after it the helper is killed.
    pub fn new(command: &HelperCommand, dir: &Path, pnn: u32, deadline: Duration) -> Self {
        let args = ["lock".into(), "--dir".into(), dir.as_os_str().to_owned(), "--node".into(), pnn.to_string().into()];
        Self { helper: Helper::new(command, "lock", args), deadline }
    }

    /// The process that holds the lock, while one runs.
    pub fn pid(&self) -> Option<u32> {
        self.helper.pid()
    }

    /// Tries to take the lock, without waiting for its holder.
    pub async fn acquire(&mut self) -> Result<Acquired, LockError> {
        match self.ask(Ask::Acquire).await? {
            Told::Acquired(acquired) => Ok(acquired),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets the lock go; no error when it is not held.
    pub async fn release(&mut self) -> Result<(), LockError> {
        if self.helper.pid().is_none() {
            return Ok(());
        }
        match self.ask(Ask::Release).await? {
            Told::Released => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// None while the lock is held as far as the filesystem tells, else why not.
    pub async fn not_held(&mut self) -> Result<Option<String>, LockError> {
        match self.ask(Ask::NotHeld).await? {
            Told::NotHeld(why) => Ok(why),
            other => Err(unexpected(&other)),
        }
    }

    /// Writes this node's record, syncs it, then reads all past every cache.
    pub async fn exchange(&mut self, record: &Value, peers: &[u32]) -> Result<Exchange, LockError> {
        match self.ask(Ask::Exchange { record: record.clone(), peers: peers.to_vec() }).await? {
            Told::Exchanged(exchange) => Ok(exchange),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads all records without writing.
    pub async fn read(&mut self, peers: &[u32]) -> Result<Exchange, LockError> {
        match self.ask(Ask::Read { peers: peers.to_vec() }).await? {
            Told::Exchanged(exchange) => Ok(exchange),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the helper; the lock is free afterwards.
    pub async fn stop(&mut self) {
        self.helper.stop().await;
    }

    async fn ask(&mut self, ask: Ask) -> Result<Told, HelperError> {
        self.helper.call(&ask, self.deadline).await
    }
}

fn unexpected(told: &Told) -> LockError {
    LockError::Helper(HelperError::Protocol {
        what: "lock".into(),
        why: format!("an answer to another question: {told:?}"),
    })
}
