//! Probes: small clients that ask a service what its users ask.
//!
//! They use sockets only, connect and never bind, and every one has a deadline: a hung service costs a
//! pending read that is dropped. What a probe cannot see: a mount that hangs beneath a smbd which answers
//! from its cache; [`storage`](crate::storage) watches the mount itself.

pub mod nfs;
pub mod rpc;
pub mod rpcbind;
pub mod smb;
mod smb_wire;
pub mod xdr;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;

/// Why a probe failed, in words for the operator.
#[derive(Debug, Error)]
pub enum ProbeError {
    #[error("no answer from {what} at {address} within {} ms", deadline.as_millis())]
    Deadline { what: &'static str, address: SocketAddr, deadline: Duration },
    #[error("cannot connect to {what} at {address}: {}", plain(source))]
    Connect { what: &'static str, address: SocketAddr, source: io::Error },
    #[error("{what} at {address} broke the connection: {}", plain(source))]
    Broken { what: &'static str, address: SocketAddr, source: io::Error },
    /// It answered, but not what its protocol says.
    #[error("{what} at {address} answers nonsense: {problem}")]
    Nonsense { what: &'static str, address: SocketAddr, problem: String },
    /// It answered properly, and the answer is no.
    #[error("{what} at {address}: {problem}")]
    Refused { what: &'static str, address: SocketAddr, problem: String },
}

impl ProbeError {
    /// Nothing came, as from a service that waits for something itself; it did not say, or show, that anything is wrong.
    pub fn is_hang(&self) -> bool {
        matches!(self, Self::Deadline { .. })
    }
}

/// One message of an I/O error, without "(os error N)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// Whom a probe talks to, for its messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) what: &'static str,
    pub(crate) address: SocketAddr,
}

impl Peer {
    async fn connect(self) -> Result<TcpStream, ProbeError> {
        let Self { what, address } = self;
        let stream =
            TcpStream::connect(address).await.map_err(|source| ProbeError::Connect { what, address, source })?;
        // a request is one write; waiting to fill a segment would only cost time, so failing here is no matter
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn broken(self, source: io::Error) -> ProbeError {
        ProbeError::Broken { what: self.what, address: self.address, source }
    }

    fn nonsense(self, problem: impl Into<String>) -> ProbeError {
        ProbeError::Nonsense { what: self.what, address: self.address, problem: problem.into() }
    }

    fn refused(self, problem: impl Into<String>) -> ProbeError {
        ProbeError::Refused { what: self.what, address: self.address, problem: problem.into() }
    }

    async fn within<T>(
        self,
        deadline: Duration,
        work: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        tokio::time::timeout(deadline, work).await.unwrap_or(Err(ProbeError::Deadline {
            what: self.what,
            address: self.address,
            deadline,
        }))
    }
}

/// A number that is no secret, but differs from call to call.
pub(crate) fn arbitrary() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
