//! Certificates for a trial: all nodes on loopback addresses of one machine, and nobody has made keys for them.
//!
//! They are there so that links and heartbeats work as always. They prove nothing, for the CA's key is the same
//! everywhere and in this source. What keeps others out is that only connections between loopback addresses count.

use super::authority::new_request;
use super::{Authority, Identity, PkiDir, PkiError};
use crate::random;
use crate::state::StateStore;
use cluster::{Durable, Epoch, Incarnation, Pnn, View};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Gives this node a certificate and, if it `founds` the cluster and was in none yet, view 0. Does nothing for a node
/// that has a certificate already.
///
/// A founder that has lost its directory begins anew, and yields to what the others have: of two lives of one cluster
/// the older one counts.
///
/// # Errors
/// The directory belongs to a real cluster or to another node, the daemon runs, or the disk did not take it.
pub fn loopback(state_dir: &Path, me: Pnn, name: &str, founds: bool) -> Result<(), PkiError> {
    let dir = PkiDir::in_state_dir(state_dir);
    match dir.credentials() {
        Err(PkiError::NoCluster { .. }) => {}
        Ok(found) if found.identity.cluster.is_loopback() && found.identity.name == name => return Ok(()),
        Ok(_) => return dir.must_be_empty(),
        Err(error) => return Err(error),
    }
    let store = StateStore::open(state_dir)?;
    let no_random = |e: std::io::Error| PkiError::Crypto { what: "make an identity", why: e.to_string() };
    let authority = Authority::known_to_all()?;
    let identity = Identity::new(authority.cluster(), name)?;
    let (key, request) = new_request()?;
    let certificate = authority.certify(&identity, &request)?;
    if founds && store.load()?.is_none() {
        let uid = random::node_uid().map_err(no_random)?;
        // 1970 plus half a billion years fits.
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let life = Incarnation { number: 0, id: u64::MAX - u64::try_from(age).unwrap_or(u64::MAX) };
        let mut votes = Durable::blank(me, uid);
        let because = format!("{name} is the first of the nodes on this machine's loopback addresses");
        votes.view = Some(View::founding(life, Epoch(0), me, uid, because));
        store.save(&votes)?;
    }
    dir.install(authority.certificate_pem(), None, &certificate, &key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Tls;
    use crate::state::StateStore;

    fn votes(dir: &Path) -> Option<Durable> {
        StateStore::open(dir).unwrap().load().unwrap()
    }

    #[test]
    fn every_node_makes_its_own_of_one_ca_and_one_founds() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (one.path().join("s"), two.path().join("s"));
        loopback(&one, Pnn(0), "node0", true).unwrap();
        loopback(&two, Pnn(1), "node1", false).unwrap();
        let credentials = [&one, &two].map(|dir| PkiDir::in_state_dir(dir).credentials().unwrap());
        assert_eq!(credentials[0].identity.cluster, credentials[1].identity.cluster);
        for of in &credentials {
            Tls::new(of).unwrap();
        }
        let first = votes(&one).unwrap();
        assert_eq!(first.view.as_ref().unwrap().voters.len(), 1);
        assert!(votes(&two).is_none());
        // Again: nothing changes.
        loopback(&one, Pnn(0), "node0", true).unwrap();
        assert_eq!(votes(&one).unwrap().uid, first.uid);
        let other = loopback(&one, Pnn(3), "node3", true).unwrap_err().to_string();
        assert!(other.contains("node0"), "{other}");
        // A later founder yields.
        let third = tempfile::tempdir().unwrap().path().join("s");
        loopback(&third, Pnn(0), "node0", true).unwrap();
        assert!(votes(&third).unwrap().view.unwrap().rank() < first.view.unwrap().rank());
    }
}
