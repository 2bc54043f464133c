//! `init`, `token` and `join` from end to end, over loopback.

use super::*;
use crate::peer::tests::Site0;
use crate::state::StateStore;
use cluster::{Epoch, Pnn, Role};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn init_makes_a_cluster_of_one_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let founded = found(&state, "storage", Pnn(2), "gluster3").unwrap();
    let pki = PkiDir::in_state_dir(&state);
    assert_eq!(pki.credentials().unwrap().identity, founded.identity);
    assert_eq!(pki.authority().unwrap().cluster(), founded.identity.cluster);
    for key in ["ca.key", "node.key"] {
        assert_eq!(fs::metadata(pki.path().join(key)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let votes = StateStore::open(&state).unwrap().load().unwrap().unwrap();
    let view = votes.view.unwrap();
    assert_eq!((view.epoch, view.voters.get(&Pnn(2))), (Epoch(0), Some(&votes.uid)));
    assert!(view.members.is_empty());

    let error = found(&state, "storage", Pnn(2), "gluster3").unwrap_err().to_string();
    assert!(error.contains("already 'gluster3'"), "{error}");
    // Cut off before the certificate: it can be run again.
    fs::remove_file(pki.path().join("node.pem")).unwrap();
    let again = found(&state, "storage", Pnn(2), "gluster3").unwrap();
    assert_ne!(again.identity.cluster, founded.identity.cluster);

    fs::set_permissions(pki.path().join("node.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = pki.credentials().unwrap_err().to_string();
    assert!(error.contains("0644") && error.contains("chmod"), "{error}");
}

#[test]
fn a_node_joins_with_a_token_once() {
    let mut site = Site0::new(20, 2);
    site.nodes.insert(
        Pnn(2),
        cluster::NodeConf { name: "new".into(), role: Role::Server, addresses: vec![[127, 77, 20, 3].into()] },
    );
    site.nodes.insert(
        Pnn(3),
        cluster::NodeConf { name: "watcher".into(), role: Role::Witness, addresses: vec![[127, 77, 20, 4].into()] },
    );
    let n0 = site.start(0);
    let member = std::net::SocketAddr::new(site.nodes[&Pnn(0)].addresses[0], site.port);
    let ledger = Ledger::new(PkiDir::in_state_dir(&site.state("n0")));
    let token = |node: Option<&str>, now: u64| ledger.issue(vec![member], node, now, HOUR).unwrap();
    let config = site.state("steadfast.toml");
    let join_as = |state: &str, token: &Token, name: Option<&str>| join(&site.state(state), token, name, &config, "1");

    let good = token(None, now());
    // Not in the list; by an address that is in no list; the member itself; a token for another: none uses it up.
    let error = join_as("x", &good, Some("nobody")).unwrap_err().to_string();
    assert!(error.contains("'nobody' is not in the nodes list") && error.contains("watcher"), "{error}");
    let error = join_as("x", &good, None).unwrap_err().to_string();
    assert!(error.contains("--node NAME"), "{error}");
    let error = join_as("x", &good, Some("n0")).unwrap_err().to_string();
    assert!(error.contains("this member itself"), "{error}");
    let error = join_as("x", &token(Some("watcher"), now()), Some("new")).unwrap_err().to_string();
    assert!(error.contains("is for 'watcher'"), "{error}");
    let error = join_as("x", &token(None, now() - 4000), Some("new")).unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
    let mut forged = good.clone();
    forged.secret[0] ^= 1;
    let error = join_as("x", &forged, Some("new")).unwrap_err().to_string();
    assert!(error.contains("not known"), "{error}");
    let mut elsewhere = good.clone();
    elsewhere.fingerprint[0] ^= 1;
    let error = join_as("x", &elsewhere, Some("new")).unwrap_err().to_string();
    assert!(error.contains("not the cluster") && error.contains("nothing was sent"), "{error}");
    let mut nowhere = good.clone();
    nowhere.addresses = vec!["127.77.20.99:9".parse().unwrap()];
    let error = join_as("x", &nowhere, Some("new")).unwrap_err().to_string();
    assert!(error.contains("127.77.20.99:9"), "{error}");
    assert!(!site.state("x").join("pki/node.pem").exists());

    let joined = join_as("n2", &good, Some("new")).unwrap();
    assert_eq!((joined.identity.name.as_str(), joined.config_written.as_deref()), ("new", Some(config.as_path())));
    assert_eq!(fs::read_to_string(&config).unwrap(), "# the site\n");
    let pki = PkiDir::in_state_dir(&site.state("n2"));
    assert_eq!(pki.authority().unwrap().cluster(), joined.identity.cluster);
    let error = join_as("n2", &good, Some("new")).unwrap_err().to_string();
    assert!(error.contains("already 'new'"), "{error}");
    let error = join_as("x", &good, Some("new")).unwrap_err().to_string();
    assert!(error.contains("already used by 'new'"), "{error}");

    // A witness gets no CA key, and the configuration that is there stays.
    fs::write(&config, "# mine\n").unwrap();
    let joined = join_as("n3", &token(Some("watcher"), now()), Some("watcher")).unwrap();
    assert_eq!(joined.config_written, None);
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    let error = PkiDir::in_state_dir(&site.state("n3")).authority().unwrap_err().to_string();
    assert!(error.contains("run this command on a server"), "{error}");

    // What it got is good for links, and for tokens.
    let n2 = site.start(2);
    n0.wait_link(2, true);
    n2.wait_link(0, true);
    Ledger::new(pki).issue(vec![member], None, now(), HOUR).unwrap();
}

#[test]
fn old_votes_are_not_brought_into_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    found(&state, "one", Pnn(0), "n0").unwrap();
    fs::remove_dir_all(state.join("pki")).unwrap();
    let token = Token {
        id: [0; 8],
        secret: [0; 16],
        fingerprint: [0; 32],
        expires: 0,
        addresses: vec!["127.0.0.1:9".parse().unwrap()],
    };
    let error = join(&state, &token, None, &dir.path().join("c"), "1").unwrap_err().to_string();
    assert!(error.contains("votes.json") && error.contains("mv "), "{error}");
}

#[test]
fn a_damaged_ledger_gives_out_no_certificates() {
    let site = Site0::new(21, 2);
    let pki = PkiDir::in_state_dir(&site.state("n0"));
    let ledger = Ledger::new(pki.clone());
    let token = ledger.issue(vec!["127.0.0.1:9".parse().unwrap()], None, 100, HOUR).unwrap();
    let text = fs::read_to_string(pki.path().join("tokens.json")).unwrap();
    assert!(!text.contains(&ledger::hex(&token.secret)), "the secret is on the disk");
    assert!(ledger.redeem(&ledger::hex(&token.id), &token.secret, "n1", 100).unwrap().is_ok());
    fs::write(pki.path().join("tokens.json"), "[{").unwrap();
    let error = ledger.redeem("x", b"y", "n1", 100).unwrap_err().to_string();
    assert!(error.contains("tokens.json"), "{error}");
}
