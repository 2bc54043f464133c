//! A command as cluster lock.

use super::{Cluster, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// By CTDB's contract for mutex helpers: `0` and it holds the lock until it is killed or its parent has gone, or `1`.
const LOCK_HELPER: &str = "#!/bin/sh
exec 9>>\"$1\"
flock -n 9 || { printf 1; exit 0; }
printf 0
while [ \"$(cut -d ' ' -f 4 /proc/$$/stat)\" = $PPID ]; do sleep 0.05 9>&-; done
";

impl Cluster {
    /// Processes of the lock helper, children of this node's daemon.
    fn helpers(&self, node: usize) -> Vec<Pid> {
        let parent = self.daemons[node].as_ref().map_or(0, Child::id).to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            // After the name in brackets: state, parent.
            let stat = read("stat");
            let its = stat.rsplit(')').next().and_then(|rest| rest.split_ascii_whitespace().nth(1));
            if let Some(id) = id.and_then(Pid::from_raw)
                && its == Some(parent.as_str())
                && read("cmdline").contains("lock_helper")
            {
                found.push(id);
            }
        }
        found
    }
}

/// Of two nodes the one that has the lock goes on; the lock is a command's, which dies, and is lost with its daemon.
#[test]
fn a_command_as_cluster_lock() {
    let mut cluster = Cluster::of(2, None);
    let helper = cluster.dir.path().join("lock_helper");
    fs::write(&helper, LOCK_HELPER).unwrap();
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let shared = cluster.dir.path().join("shared");
    let command = format!("!{} {}", helper.display(), shared.join("mutex").display());
    for node in 0..2 {
        let conf = fs::read_to_string(cluster.base(node).join("ctdb.conf")).unwrap();
        let lock = format!("{}/shared/.ctdb/cluster.lock", cluster.dir.path().display());
        cluster.write(node, "ctdb.conf", &conf.replace(&lock, &command));
    }
    // Nobody says where the records are.
    let ran = cluster.daemon(0, &["-i"]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing says where its records lie") && said.contains("node.0/lock_records"), "{said}");
    for node in 0..2 {
        cluster.write(node, "lock_records", &format!("{}\n", shared.join("records").display()));
    }
    cluster.start_all();
    assert_eq!(cluster.ctdb(1, "getreclock").out, "!DIR/lock_helper DIR/shared/mutex\n");
    // Who does not get it has a helper now and then, for a moment.
    let holder = |cluster: &Cluster, but: Option<Pid>| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = [0, 1].map(|node| cluster.helpers(node));
            sleep(Duration::from_millis(300));
            let stays = |node: usize| cluster.helpers(node).into_iter().find(|id| before[node].contains(id));
            let found = [0, 1].into_iter().find_map(|node| Some((node, stays(node)?)));
            match found {
                Some((node, id)) if Some(id) != but => return (node, id),
                _ => assert!(Instant::now() < deadline, "nobody holds the lock\n{}", cluster.logs()),
            }
        }
    };
    let (_, first) = holder(&cluster, None);
    kill_process(first, Signal::KILL).unwrap();
    // It is noticed, and the lock taken anew.
    let (node, _) = holder(&cluster, Some(first));
    cluster.signal(node, Signal::KILL);
    cluster.ended(node);
    let other = 1 - node;
    cluster.until(other, "ip all", "it serves alone, by the lock", |a| {
        a.code == 0 && a.out.matches(&format!(" {other}\n")).count() == 3
    });
    assert!(!cluster.helpers(other).is_empty());
}
