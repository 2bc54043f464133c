//! Eviction of lost nodes by the site's own command, for filesystems that Steadfast cannot cut off itself.
//!
//! Each member runs `COMMAND evict NAME ADDRESS...` for each node that a view drops. Status 0 means that this node cannot
//! change a byte any more and that its locks are free; only then its addresses are taken and the others go on. When a
//! view admits it again: `COMMAND admit NAME ADDRESS...`, before it mounts. All members run it, at about the same time
//! and again after failures and restarts, so it must not mind what is done already. It has [`DEADLINE`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cluster::{Epoch, Input, Pnn};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::inbox::Inbox;
use crate::config::{Config, Storage};

/// How long one run of the command may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between a failure and the next attempt.
const AGAIN: Duration = Duration::from_secs(1);
/// How much of what the command says on standard error is kept.
const SAYS: u64 = 2048;

/// Whom the newest view shuts out.
#[derive(Debug)]
pub(crate) struct Evict {
    pub(crate) epoch: Epoch,
    pub(crate) nodes: BTreeMap<Pnn, Vec<IpAddr>>,
}

/// Carries out one order after the other; of those that wait only the newest counts.
#[derive(Debug)]
pub(crate) struct EvictTask {
    inbox: Inbox,
    config: watch::Receiver<Arc<Config>>,
    /// What this run of the daemon has done: shut out, or let in.
    out: BTreeMap<Pnn, Vec<IpAddr>>,
    admitted: BTreeSet<Pnn>,
}

impl EvictTask {
    pub(crate) fn new(inbox: Inbox, config: watch::Receiver<Arc<Config>>) -> Self {
        Self { inbox, config, out: BTreeMap::new(), admitted: BTreeSet::new() }
    }

    /// Ends when the core has.
    pub(crate) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Evict>) {
        let Some(mut order) = orders.recv().await else { return };
        loop {
            while let Ok(newer) = orders.try_recv() {
                order = newer;
            }
            let config = Arc::clone(&self.config.borrow());
            let Storage::Local { evict_command: Some(command), .. } = &config.storage else {
                self.inbox.input(Input::Evicted { epoch: order.epoch });
                match orders.recv().await {
                    Some(newer) => order = newer,
                    None => return,
                }
                continue;
            };
            let evicted = self.evict(command, &config, &order).await;
            let failed = match &evicted {
                Ok(()) => {
                    self.inbox.input(Input::Evicted { epoch: order.epoch });
                    self.admit(command, &config, &order).await
                }
                Err(because) => {
                    self.inbox.input(Input::EvictFailed { epoch: order.epoch, because: because.clone() });
                    true
                }
            };
            tokio::select! {
                newer = orders.recv() => match newer {
                    Some(newer) => order = newer,
                    None => return,
                },
                () = sleep(AGAIN), if failed => {}
            }
        }
    }

    async fn evict(&mut self, command: &str, config: &Config, order: &Evict) -> Result<(), String> {
        self.out.retain(|pnn, addresses| order.nodes.get(pnn) == Some(addresses));
        for (pnn, addresses) in &order.nodes {
            self.admitted.remove(pnn);
            if !self.out.contains_key(pnn) {
                call(command, "evict", &name(config, *pnn), addresses, DEADLINE).await?;
                self.out.insert(*pnn, addresses.clone());
            }
        }
        Ok(())
    }

    /// Lets in whom the view does not shut out; true when that is to be tried again.
    async fn admit(&mut self, command: &str, config: &Config, order: &Evict) -> bool {
        let mut failed = false;
        for (pnn, node) in &config.nodes {
            if order.nodes.contains_key(pnn) || self.admitted.contains(pnn) {
                continue;
            }
            match call(command, "admit", &node.name, &node.addresses, DEADLINE).await {
                Ok(()) => {
                    self.admitted.insert(*pnn);
                }
                Err(why) => {
                    tracing::warn!(node = pnn.0, "a node of the view cannot be let in to the storage yet: {why}");
                    failed = true;
                }
            }
        }
        failed
    }
}

fn name(config: &Config, pnn: Pnn) -> String {
    config.nodes.get(&pnn).map_or_else(|| pnn.0.to_string(), |n| n.name.clone())
}

/// Runs the command once, with everything that it starts killed at the deadline.
async fn call(command: &str, verb: &str, name: &str, addresses: &[IpAddr], deadline: Duration) -> Result<(), String> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or("evict_command is empty")?;
    let bad = |why: String| format!("`{command} {verb} {name}` {why}");
    let mut child = Command::new(program)
        .args(words)
        .args([verb, name])
        .args(addresses.iter().map(ToString::to_string))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| bad(format!("cannot be started: {e}")))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let said = child.stderr.take();
    let mut text = Vec::new();
    let run = async {
        if let Some(said) = said {
            // What cannot be read is missing in the message only.
            let _ = said.take(SAYS).read_to_end(&mut text).await;
        }
        child.wait().await
    };
    match timeout(deadline, run).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            let text = String::from_utf8_lossy(&text).split_whitespace().collect::<Vec<_>>().join(" ");
            Err(bad(format!("failed ({status}): {text}")))
        }
        Ok(Err(e)) => Err(bad(format!("cannot be waited for: {e}"))),
        Err(_) => {
            if let Some(group) = group {
                // Gone already is as good.
                let _ = kill_process_group(group, Signal::KILL);
            }
            Err(bad(format!("was not done after {} s", deadline.as_secs_f64())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A command that writes down what it is asked, and fails as often as there are files `fail*`.
    fn script(dir: &std::path::Path, text: &str) -> String {
        let path = dir.join("evict");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("{} --word", path.display())
    }

    #[tokio::test]
    async fn the_command_is_told_who_and_where_and_its_failure_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let command = script(
            dir.path(),
            &format!("echo \"$@\" >> {}; [ $2 != admit ] || {{ echo no way >&2; exit 3; }}", log.display()),
        );
        let addresses = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        call(&command, "evict", "n1", &addresses, DEADLINE).await.unwrap();
        let why = call(&command, "admit", "n1", &addresses, DEADLINE).await.unwrap_err();
        assert!(why.contains("admit n1") && why.contains("no way") && why.contains('3'), "{why}");
        let told = std::fs::read_to_string(log).unwrap();
        assert_eq!(told, "--word evict n1 10.0.0.1 fd00::1\n--word admit n1 10.0.0.1 fd00::1\n");
        let why = call("/no/such/program", "evict", "n1", &addresses, DEADLINE).await.unwrap_err();
        assert!(why.contains("cannot be started"), "{why}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let command = script(dir.path(), "sleep 600 & sleep 600");
        let (begun, deadline) = (std::time::Instant::now(), Duration::from_millis(300));
        let why = call(&command, "evict", "n1", &[], deadline).await.unwrap_err();
        assert!(why.contains("was not done after 0.3 s"), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    /// Against a `ceph` that is a script: it answers `client ls` as Ceph's documentation shows, and writes down the rest.
    #[tokio::test]
    async fn cephfs_is_told_to_blocklist_first_and_to_end_the_sessions_of_these_addresses_only() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let client = |id: u32, addr: &str| {
            format!(
                r#" {{ "id": {id}, "entity": {{ "name": {{ "type": "client", "num": {id} }},
                "addr": {{ "type": "any", "addr": "{addr}:0", "nonce": 42 }} }}, "state": "open" }}"#
            )
        };
        let list = [client(7, "10.0.0.1"), client(8, "10.0.0.11"), client(9, "[fd00::1]"), client(10, "10.0.0.1")];
        std::fs::write(dir.path().join("list"), format!("[{}]", list.join(",\n"))).unwrap();
        let fake = script(
            dir.path(),
            &format!(
                "shift 2; case \"$*\" in *'client ls') cat {}/list ;; *) echo \"$*\" >> {} ;; esac",
                dir.path().display(),
                log.display()
            ),
        );
        std::fs::rename(fake.split(' ').next().unwrap(), dir.path().join("ceph")).unwrap();
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/evict-cephfs");
        let command = format!("/usr/bin/env PATH={}:/usr/bin:/bin {program} 0", dir.path().display());
        let addresses = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        call(&command, "evict", "n1", &addresses, DEADLINE).await.unwrap();
        call(&command, "admit", "n1", &addresses, DEADLINE).await.unwrap();
        let told = std::fs::read_to_string(log).unwrap();
        let expected = "osd blocklist add 10.0.0.1 31536000
osd blocklist add fd00::1 31536000
tell mds.0 client evict id=7
tell mds.0 client evict id=10
tell mds.0 client evict id=9
osd blocklist rm 10.0.0.1
osd blocklist rm fd00::1
";
        assert_eq!(told, expected);
    }
}
