//! Asks rpcbind for its list (RFC 1833, version 2), and gives it back after rpcbind died.
//!
//! `rpcbind -w` keeps its list only over an orderly end. After a crash the servers that were registered run
//! on, but NFSv3 clients cannot find them any more and no server registers a second time: Ganesha would have
//! to be restarted, with a grace period for all its clients.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::rpc::{Connection, Procedure};
use super::xdr::{Reader, Writer, XdrError};
use super::{Peer, ProbeError};

const PORTMAPPER: u32 = 100_000;
const SET: Procedure = Procedure { program: PORTMAPPER, version: 2, number: 1 };
const DUMP: Procedure = Procedure { program: PORTMAPPER, version: 2, number: 4 };
const PORT: u16 = 111;
/// Longest list that is believed.
const MAX_REGISTRATIONS: usize = 1000;

/// Program, version, protocol, port.
type Registration = [u32; 4];

#[derive(Debug, Default)]
struct Known {
    list: Vec<Registration>,
    lost: bool,
}

/// What is registered, as of the last good probe. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Registrations {
    known: Arc<Mutex<Known>>,
}

impl Registrations {
    /// rpcbind ended: its successor is given the list.
    pub fn lost(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).lost = true;
    }

    /// rpcbind was stopped together with its servers: nothing to give back.
    pub fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }

    /// One probe of rpcbind at the address (its port is 111 everywhere).
    pub async fn probe(self, server: SocketAddr, deadline: Duration) -> Result<String, ProbeError> {
        let peer = Peer { what: "rpcbind", address: SocketAddr::new(server.ip(), PORT) };
        peer.within(deadline, self.ask(peer)).await
    }

    async fn ask(self, peer: Peer) -> Result<String, ProbeError> {
        let mut rpcbind = Connection::open(peer).await?;
        let mut list = dump(&mut rpcbind, peer).await?;
        let missing: Vec<Registration> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let missing = known.list.iter().filter(|entry| known.lost && !list.contains(entry));
            missing.copied().collect()
        };
        for entry in &missing {
            // it answers false where the server has registered anew meanwhile, which is as good
            rpcbind.call(SET, &Writer::new().u32s(entry)).await?;
        }
        if !missing.is_empty() {
            list = dump(&mut rpcbind, peer).await?;
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known { list, lost: false };
        Ok("rpcbind answers".into())
    }
}

async fn dump(rpcbind: &mut Connection, peer: Peer) -> Result<Vec<Registration>, ProbeError> {
    let answer = rpcbind.call(DUMP, &Writer::new()).await?;
    registrations(&answer).map_err(|error| peer.nonsense(error.to_string()))
}

/// The list in an answer to DUMP, without rpcbind itself.
fn registrations(answer: &[u8]) -> Result<Vec<Registration>, XdrError> {
    let mut reader = Reader::new(answer);
    let mut list = Vec::new();
    while reader.u32()? == 1 {
        if list.len() == MAX_REGISTRATIONS {
            return Err(XdrError::TooLong { claimed: u32::MAX, allowed: MAX_REGISTRATIONS });
        }
        let entry = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
        if entry[0] != PORTMAPPER {
            list.push(entry);
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_list_and_refuses_a_torn_or_endless_one() {
        let nfs = [100_003, 3, 6, 2049];
        let bytes = Writer::new().u32(1).u32s(&[PORTMAPPER, 2, 6, 111]).u32(1).u32s(&nfs).u32(0).finish();
        assert_eq!(registrations(&bytes), Ok(vec![nfs]));
        for len in 0..bytes.len() {
            assert_eq!(registrations(&bytes[..len]), Err(XdrError::Truncated), "{len} bytes");
        }
        let endless = (0..MAX_REGISTRATIONS + 1).fold(Writer::new(), |w, _| w.u32(1).u32s(&nfs));
        assert!(matches!(registrations(&endless.finish()), Err(XdrError::TooLong { .. })));
    }
}
