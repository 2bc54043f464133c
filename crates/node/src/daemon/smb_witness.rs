//! SMB's Witness protocol (MS-SWN) at a drain: clients that have registered with Samba's witness service are asked to go to
//! another node before their address moves, so that they lose no connection by surprise.
//!
//! Samba has it from 4.20 on with clustering, where `samba-dcerpcd` runs as a service of its own (docs/samba.md); its
//! `net witness client-move` does the asking. An older `net` does not know the word, which is no error.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cluster::{AdminState, NodeState, NodeStatus, Pnn, Snapshot};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::Config;

/// How long one `net witness` may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Follows the published state until the daemon ends.
pub(crate) async fn run(config: watch::Receiver<Arc<Config>>, mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>) {
    // Addresses of which clients were told in this drain.
    let mut told = BTreeSet::new();
    while snapshots.changed().await.is_ok() {
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
        let moves = moves(&snapshot);
        if moves.is_empty() {
            told.clear();
            continue;
        }
        let samba = config.borrow().services.samba.clone();
        if !samba.enabled || !samba.clustering {
            continue;
        }
        for (vip, heir) in moves.into_iter().filter(|(vip, _)| told.insert(*vip)) {
            ask("net", vip, heir).await;
        }
    }
}

/// Where the clients of this node's addresses are to go while it is drained: each to a node that serves others already, as
/// evenly as can be.
fn moves(snapshot: &Snapshot) -> Vec<(IpAddr, Pnn)> {
    let Some(me) = snapshot.nodes.get(&snapshot.me).filter(|me| me.admin == AdminState::Drained) else {
        return Vec::new();
    };
    let fit = |pnn: &Pnn, n: &NodeStatus| *pnn != snapshot.me && n.state == NodeState::Ok;
    let others = snapshot.nodes.iter().filter(|(pnn, node)| fit(pnn, node));
    pairs(&me.vips, others.map(|(pnn, node)| (*pnn, node.vips.len())).collect())
}

/// Each address with a node; of these the ones that serve few come first, and those that serve none have no address to
/// which Samba could send anybody.
fn pairs(vips: &BTreeSet<IpAddr>, mut others: Vec<(Pnn, usize)>) -> Vec<(IpAddr, Pnn)> {
    others.retain(|(_, served)| *served > 0);
    others.sort_by_key(|(pnn, served)| (*served, *pnn));
    vips.iter().zip(others.iter().cycle()).map(|(vip, (heir, _))| (*vip, *heir)).collect()
}

async fn ask(net: &str, vip: IpAddr, heir: Pnn) {
    match client_move(net, vip, heir).await {
        Ok(done) if done.status.success() => {
            let lines = String::from_utf8_lossy(&done.stdout).lines().filter(|l| l.contains(&vip.to_string())).count();
            if lines > 0 {
                tracing::info!(
                    "{lines} SMB clients of {vip} were asked to go to node {heir}, for this node is drained"
                );
            }
        }
        Ok(done) => {
            let text = String::from_utf8_lossy(&done.stderr).into_owned();
            // Samba before 4.20 has no witness service.
            if !text.contains("Invalid command") {
                let text = text.split_whitespace().take(40).collect::<Vec<_>>().join(" ");
                tracing::warn!("SMB clients of {vip} could not be asked to leave: `net witness` says: {text}");
            }
        }
        Err(why) => tracing::warn!("SMB clients of {vip} could not be asked to leave: {why}"),
    }
}

async fn client_move(net: &str, vip: IpAddr, heir: Pnn) -> Result<Output, String> {
    let pattern = vip.to_string().replace('.', "\\.");
    let child = Command::new(net)
        .args(["witness", "client-move"])
        .arg(format!("--witness-ip-address=^{pattern}$"))
        .arg(format!("--witness-new-node={heir}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    match timeout(DEADLINE, child).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(format!("`{net}` cannot be run: {error}")),
        Err(_) => Err(format!("`{net} witness` was not done after {} s", DEADLINE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn clients_go_to_nodes_that_serve_and_to_those_that_serve_few_first() {
        let vips: BTreeSet<IpAddr> = (1..=3).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let heirs = |others| pairs(&vips, others).into_iter().map(|(_, heir)| heir.0).collect::<Vec<_>>();
        assert_eq!(heirs(vec![(Pnn(0), 2), (Pnn(2), 0), (Pnn(3), 1)]), [3, 0, 3]);
        assert_eq!(heirs(vec![(Pnn(2), 0)]), [0u16; 0], "nobody could take them");
    }

    #[tokio::test]
    async fn samba_is_asked_with_the_exact_address() {
        let dir = tempfile::tempdir().unwrap();
        let (net, log) = (dir.path().join("net"), dir.path().join("log"));
        std::fs::write(&net, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {}\n", log.display())).unwrap();
        std::fs::set_permissions(&net, std::fs::Permissions::from_mode(0o755)).unwrap();
        let done = client_move(net.to_str().unwrap(), "10.0.0.1".parse().unwrap(), Pnn(2)).await.unwrap();
        assert!(done.status.success());
        let asked = std::fs::read_to_string(log).unwrap();
        assert_eq!(asked, "witness\nclient-move\n--witness-ip-address=^10\\.0\\.0\\.1$\n--witness-new-node=2\n");
        let why = client_move("/no/such/net", "fd00::1".parse().unwrap(), Pnn(0)).await.unwrap_err();
        assert!(why.contains("/no/such/net"), "{why}");
    }
}
