//! A node of check-storage that is a helper process of this machine.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tokio::sync::Mutex;

use super::ops::{Call, Op, Peer, PeerError};
use crate::storage::helper::{Helper, HelperCommand};

/// Executes operations in a `check-peer` helper on one mount.
#[derive(Debug)]
pub struct ChildPeer {
    name: String,
    helper: Mutex<Helper>,
}

impl ChildPeer {
    /// `mount` is the directory that is shared; the scratch directory is made below it.
    pub fn new(name: impl Into<String>, command: &HelperCommand, mount: &Path) -> Self {
        let args: [OsString; 3] = ["check-peer".into(), "--dir".into(), mount.into()];
        Self { name: name.into(), helper: Mutex::new(Helper::new(command, "check-storage", args)) }
    }
}

impl Peer for ChildPeer {
    fn name(&self) -> &str {
        &self.name
    }

    fn call(&self, op: Op, deadline: Duration) -> Call<'_> {
        Box::pin(async move {
            let answer = self.helper.lock().await.call(&op, deadline).await;
            answer.map_err(|error| PeerError { node: self.name.clone(), why: error.to_string() })
        })
    }
}
