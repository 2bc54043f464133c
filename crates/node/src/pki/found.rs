//! `steadfast init`: the first node of a new cluster.

use super::authority::new_request;
use super::{Authority, ClusterId, Identity, PkiDir, PkiError};
use crate::random;
use crate::state::StateStore;
use cluster::{Ballot, Durable, Epoch, Pnn, View};
use std::path::Path;

/// What `init` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// This node, as its certificate names it.
    pub identity: Identity,
}

/// Makes the CA, this node's certificate and view 0 with this node as its only voter.
///
/// Cut off anywhere, it can be run again; the node's certificate is written last and completes it.
///
/// # Errors
/// This node belongs to a cluster already, its daemon runs, or the disk did not take it.
pub fn found(state_dir: &Path, cluster_name: &str, me: Pnn, node_name: &str) -> Result<Founded, PkiError> {
    let store = StateStore::open(state_dir)?;
    let dir = PkiDir::in_state_dir(state_dir);
    dir.must_be_empty()?;
    if store.load()?.is_some_and(|votes| !is_untouched(&votes)) {
        return Err(PkiError::OldVotes { path: state_dir.join("votes.json"), state_dir: state_dir.to_owned() });
    }
    let no_random = |e: std::io::Error| PkiError::Crypto { what: "make an identity", why: e.to_string() };
    let identity = Identity::new(ClusterId::random().map_err(no_random)?, node_name)?;
    let authority = Authority::create(identity.cluster, cluster_name)?;
    let (key, request) = new_request()?;
    let certificate = authority.certify(&identity, &request)?;

    let uid = random::node_uid().map_err(no_random)?;
    let life = random::incarnation(0).map_err(no_random)?;
    let mut votes = Durable::blank(me, uid);
    votes.view = Some(View::founding(life, Epoch(0), me, uid, format!("{node_name} began the cluster")));
    store.save(&votes)?;
    dir.install(authority.certificate_pem(), Some(authority.key_pem()), &certificate, &key)?;
    Ok(Founded { identity })
}

/// Votes that no daemon has used: of an `init` that was cut off.
fn is_untouched(votes: &Durable) -> bool {
    votes.promised == Ballot::ZERO
        && votes.accepted.is_none()
        && votes.view.as_ref().is_none_or(|v| v.epoch == Epoch(0) && v.incarnation.number == 0)
}
