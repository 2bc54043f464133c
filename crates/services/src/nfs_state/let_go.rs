//! What clients hold with this node's Ganesha, let go of when the address by which they came has moved to another node.
//!
//! NFSv3: Ganesha is told, as rpc.statd would, that the client has begun anew (`NLM_SM_NOTIFY`, from this machine only). It
//! drops all locks of that client, by whatever address they came, and answers when that is done
//! (src/Protocols/NLM/nlm_Sm_Notify.c and `state_nlm_notify` in src/SAL/state_lock.c of 4.3). That needs no grace period,
//! which `grace("2:ADDRESS")` (`EVENT_RELEASE_IP`) begins, to drop the same.
//!
//! NFSv4: that call drops clients whose own name for themselves contains ADDRESS, which NFSv4.1's do not; so their names are
//! said, one by one (`nfs_release_v4_clients`, src/SAL/nfs4_recovery.c). It is for a Ganesha that is in its grace period
//! already: a client whose name contains another one's is dropped too, and has to reclaim where it is.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::timeout;

use super::records::Clients;
use super::{grace, notify};
use crate::probe::rpc::{Connection, Procedure};
use crate::probe::xdr::Writer;
use crate::probe::{Peer, ProbeError};

const SM_NOTIFY: Procedure = Procedure { program: 100_021, version: 4, number: 16 };
/// The length of what rpc.statd gives back to who asked it, with each notice.
const PRIVATE: [u32; 4] = [0; 4];
/// Locks that a client took with this number of its own state stay: no client has it.
const STATE: u32 = 0;
/// More clients than this are let go of all at once, with all others of this Ganesha.
const ONE_BY_ONE: usize = 64;

/// Lets go of what these clients hold with the Ganesha that answers at `server`, an address of this machine's own.
///
/// # Errors
/// A sentence: it cannot be had within `deadline`, or refused.
pub async fn let_go(server: IpAddr, clients: &Clients, deadline: Duration) -> Result<(), String> {
    let both = async {
        if !clients.nlm.is_empty() {
            of_nfs3(server, clients).await?;
        }
        of_nfs4(clients, deadline).await
    };
    let late = || Err(format!("NFS-Ganesha did not let go of its clients within {} s", deadline.as_secs()));
    timeout(deadline, both).await.unwrap_or_else(|_| late())
}

async fn of_nfs3(server: IpAddr, clients: &Clients) -> Result<(), String> {
    let Some(port) = notify::lock_manager_port(notify::TCP).await else {
        return Err("rpcbind knows no lock manager of NFS-Ganesha".to_owned());
    };
    let peer = Peer { what: "NFS-Ganesha's lock manager", address: SocketAddr::new(server, port) };
    let mut connection = match Connection::open(peer).await {
        Ok(connection) => connection,
        // Its locks have ended with it.
        Err(ProbeError::Connect { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    for client in &clients.nlm {
        let args = Writer::new().opaque(client.as_bytes()).u32(STATE).u32s(&PRIVATE);
        connection.call(SM_NOTIFY, &args).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn of_nfs4(clients: &Clients, deadline: Duration) -> Result<(), String> {
    for name in names(clients) {
        grace::release(name, deadline).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// What is to be said: the clients' own names for themselves, or the empty one that every name contains.
fn names(clients: &Clients) -> Vec<&str> {
    if clients.v4.len() > ONE_BY_ONE {
        return vec![""];
    }
    clients.v4.iter().filter_map(|recorded| own_name(recorded)).collect()
}

/// What an NFSv4 client calls itself, of Ganesha's record `ADDRESS-(LENGTH:NAME)`.
fn own_name(recorded: &str) -> Option<&str> {
    let (_, rest) = recorded.split_once('(')?;
    rest.split_once(':')?.1.strip_suffix(')').filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nfs4_clients_are_named_one_by_one_or_all_together() {
        let recorded = |name: &str| format!("::ffff:10.0.0.9-({}:{name})", name.len());
        let of = |count: usize| Clients {
            v4: (0..count).map(|n| recorded(&format!("Linux NFSv4.1 (host{n:03}:x)"))).collect(),
            ..Clients::default()
        };
        let two = of(2);
        assert_eq!(names(&two), ["Linux NFSv4.1 (host000:x)", "Linux NFSv4.1 (host001:x)"]);
        assert_eq!(names(&of(ONE_BY_ONE)).len(), ONE_BY_ONE);
        assert_eq!(names(&of(ONE_BY_ONE + 1)), [""]);
        // An empty name would be everybody's.
        assert_eq!(own_name("::ffff:10.0.0.9-(0:)"), None);
        assert!(names(&Clients::default()).is_empty());
    }

    #[tokio::test]
    async fn without_clients_nobody_is_asked() {
        let nowhere = IpAddr::from([127, 0, 0, 9]);
        assert_eq!(let_go(nowhere, &Clients::default(), Duration::from_secs(1)).await, Ok(()));
    }
}
