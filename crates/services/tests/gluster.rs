//! The mount manager on a real GlusterFS volume of one brick, in namespaces of its own. A client process that
//! is stopped is what a hung mount looks like: its callers sit in the kernel, deaf to SIGKILL.

// What a test sets up itself may end it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use services::storage::volume::Volume;
use services::storage::{HelperCommand, Mount, StorageConfig};
use services::{Hold, State, Storage};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const INSIDE: &str = "STEADFAST_TEST_INSIDE_NAMESPACES";
const NAME: &str = "a_gluster_mount_is_made_watched_and_freed_when_it_hangs";
/// Everything that glusterd keeps is on tmpfs, in a mount namespace that ends with this shell.
const SCRIPT: &str = r#"set -e
mount --make-rprivate /
for d in /var/lib/glusterd /var/log/glusterfs /run /mnt; do mkdir -p $d; mount -t tmpfs tmpfs $d; done
mkdir -p /run/gluster /mnt/brick; mount -t tmpfs tmpfs /mnt/brick; mkdir /mnt/brick/b
ip link set lo up; ip addr add 10.77.0.1/32 dev lo
glusterd
n=0; until gluster --mode=script volume create vol1 10.77.0.1:/mnt/brick/b force >/run/out 2>&1; do
  n=$((n+1)); [ $n -lt 100 ] || { cat /run/out; exit 1; }; sleep 0.1; done
gluster --mode=script volume start vol1 >/run/out || { cat /run/out; exit 1; }
exec "$0" --exact "$1" --nocapture
"#;

#[test]
fn a_gluster_mount_is_made_watched_and_freed_when_it_hangs() {
    if std::env::var_os(INSIDE).is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(inside());
        return;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/usr/sbin/glusterd").exists() {
        eprintln!("skipped: needs root and glusterd (package glusterfs-server)");
        return;
    }
    // --kill-child and a pid namespace: whatever happens, no glusterd is left behind.
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", SCRIPT])
        .args([&std::env::current_exe().unwrap(), Path::new(NAME)])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "inside of the namespaces: {status}");
}

fn helper() -> HelperCommand {
    let own = std::env::current_exe().unwrap();
    let program: PathBuf = own.parent().and_then(Path::parent).unwrap().join("examples/storage");
    assert!(program.exists(), "{} is not built; run the tests with `cargo test -p services`", program.display());
    HelperCommand::new(program).arg("helper")
}

/// The client process that serves a path, as the operator would look for it.
fn client_of(path: &str) -> Option<Pid> {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
        if words.first().is_some_and(|word| word.ends_with(b"glusterfs")) && words.last() == Some(&path.as_bytes()) {
            return Pid::from_raw(pid);
        }
    }
    None
}

async fn inside() {
    let path = "/mnt/shared";
    let volume = Volume::read("vol1", Duration::from_secs(30)).await.unwrap();
    assert!(volume.started && volume.replica == 1 && volume.bricks[0].host == "10.77.0.1", "{volume:?}");
    assert!(volume.lock_may_break_ties().is_err());
    assert!(!volume.missing_settings().is_empty());
    assert!(Volume::read("vol9", Duration::from_secs(30)).await.unwrap_err().to_string().contains("vol9"));

    // A client that finds no volume may have mounted all the same, just before it ends or after: nothing of it stays behind.
    let wrong = Mount::new(StorageConfig::gluster("vol9", path), 0, &helper()).unwrap();
    for _ in 0..10 {
        let error = wrong.ensure_mounted().await.unwrap_err().to_string();
        assert!(error.contains("mounting volume vol9") && error.contains(path), "{error}");
        assert!(client_of(path).is_none(), "its client is still there");
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains("vol9"), "it is still mounted: {table}");
    }
    let error = wrong.ensure_mounted().await.unwrap_err().to_string();
    eprintln!("a volume that is not there: {error}");

    let mount = Arc::new(Mount::new(StorageConfig::gluster("vol1", path), 0, &helper()).unwrap());
    let started = Instant::now();
    mount.ensure_mounted().await.unwrap();
    eprintln!("mounted and probed in {:?}; again in:", started.elapsed());
    let started = Instant::now();
    mount.ensure_mounted().await.unwrap();
    eprintln!("{:?}", started.elapsed());
    assert_eq!(mount.warnings(), Vec::<String>::new());
    let foreign = Mount::new(StorageConfig::gluster("other", path), 0, &helper()).unwrap();
    let error = foreign.ensure_mounted().await.unwrap_err().to_string();
    assert!(error.contains("vol1"), "{error}");

    // A hang: reported within the deadline and a bit, over when the client goes on.
    let (sender, mut reports) = mpsc::channel(16);
    let watched = Arc::clone(&mount);
    let (hold, held) = watch::channel(Hold::default());
    let watch = tokio::spawn(async move { watched.watch(held, sender).await });
    let failed = std::cell::Cell::new(false);
    let mut state = async |wanted: State| {
        let wait = async {
            loop {
                let report = reports.recv().await.unwrap();
                if report.state == wanted {
                    return report.because;
                }
                failed.set(failed.get() || report.state == State::Failed);
            }
        };
        timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("no report says {wanted:?}"))
    };
    state(State::Ok).await;
    let client = client_of(path).unwrap();
    // Held, which is no failure, however long it lasts; one good probe after it will do.
    hold.send_modify(|hold| assert!(hold.begin(Instant::now())));
    kill_process(client, Signal::STOP).unwrap();
    while !state(State::Failing).await.contains("no lease") {}
    hold.send_modify(|hold| assert!(hold.end(Instant::now())));
    kill_process(client, Signal::CONT).unwrap();
    state(State::Ok).await;
    assert!(!failed.get(), "it was called failed for a hold");
    hold.send_replace(Hold::default());

    kill_process(client, Signal::STOP).unwrap();
    let started = Instant::now();
    let because = state(State::Failed).await;
    eprintln!("hung: reported after {:?}: {because}", started.elapsed());
    assert!(because.contains("does not answer since") && started.elapsed() < Duration::from_secs(5));
    kill_process(client, Signal::CONT).unwrap();
    let started = Instant::now();
    state(State::Ok).await;
    eprintln!("going on: reported after {:?}", started.elapsed());

    // Hung when an address leaves: the client is ended at once, and who waits in the kernel for what it had in hand hears so.
    mount.answers(Duration::from_secs(5)).await.unwrap();
    kill_process(client, Signal::STOP).unwrap();
    let because = mount.answers(Duration::from_millis(500)).await.unwrap_err();
    assert!(because.contains("does not answer"), "{because}");
    let file = format!("{path}/late");
    let writer = std::thread::spawn(move || std::fs::write(file, "late").unwrap_err());
    state(State::Failed).await;
    assert!(!writer.is_finished());
    let started = Instant::now();
    mount.end().await.unwrap();
    eprintln!("the client of a hung mount was ended in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(1) && client_of(path).is_none());
    let error = writer.join().unwrap();
    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error}");
    let why = timeout(Duration::from_secs(10), watch).await.expect("given up").unwrap();
    assert!(why.contains("client process"), "{why}");
    mount.end().await.unwrap();
    mount.ensure_mounted().await.unwrap();
    assert!(!Path::new(path).join("late").exists());

    // Hung again, and taken away: the client is ended, which frees what hangs in it.
    kill_process(client_of(path).unwrap(), Signal::STOP).unwrap();
    let because = mount.answers(Duration::from_millis(500)).await.unwrap_err();
    assert!(because.contains("does not answer"), "{because}");
    let started = Instant::now();
    mount.unmount().await.unwrap();
    eprintln!("a hung mount was taken away in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(25) && client_of(path).is_none());
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path));

    // A dead client: given up at once, and a fresh mount cures it.
    mount.ensure_mounted().await.unwrap();
    let (sender, mut reports) = mpsc::channel(16);
    let watched = Arc::clone(&mount);
    let watch = tokio::spawn(async move { watched.watch(watch::channel(Hold::default()).1, sender).await });
    // It was ended for it hung: the new one has to show first that it does not.
    let first = reports.recv().await.unwrap();
    assert!(first.state == State::Failed && first.because.contains("waiting for 3 good probes"), "{first:?}");
    assert_eq!(reports.recv().await.unwrap().state, State::Ok);
    kill_process(client_of(path).unwrap(), Signal::KILL).unwrap();
    let why = timeout(Duration::from_secs(10), watch).await.expect("given up").unwrap();
    assert!(why.contains("client process"), "{why}");
    mount.ensure_mounted().await.unwrap();
    mount.unmount().await.unwrap();
    mount.unmount().await.unwrap();
    assert!(client_of(path).is_none());
}
