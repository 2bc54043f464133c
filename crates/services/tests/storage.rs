//! The storage helpers as real processes: lock, mount watch and check-storage on a local directory.

// What a test sets up itself may end it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use services::storage::check::{Call, ChildPeer, Op, Outcome, Peer, Plan, Property, Verdict, run};
use services::storage::lock::{Acquired, LockHelper};
use services::storage::{ClusterLock, HelperCommand, LockSpec, Mount, StorageConfig};
use services::{Hold, Report, State, Storage};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(20);

/// The example `storage`, which cargo builds beside the tests, stands in for `steadfast helper`.
fn helper() -> HelperCommand {
    let own = std::env::current_exe().unwrap();
    let target = own.parent().and_then(Path::parent).unwrap();
    let program: PathBuf = target.join("examples/storage");
    assert!(program.exists(), "{} is not built; run the tests with `cargo test -p services`", program.display());
    HelperCommand::new(program).arg("helper")
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

fn lock(dir: &Path, pnn: u32, deadline: Duration) -> LockHelper {
    LockHelper::new(&helper(), &dir.join("lock"), pnn, deadline)
}

#[tokio::test]
async fn the_lock_passes_on_when_its_holder_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (lock(dir.path(), 0, LONG), lock(dir.path(), 1, LONG));
    assert_eq!(a.acquire().await.unwrap(), Acquired::Held);
    let Acquired::Contended { by: Some(by) } = b.acquire().await.unwrap() else { panic!("two holders") };
    assert_eq!(by.pnn, 0);
    signal(a.pid().unwrap(), Signal::KILL);
    assert!(a.not_held().await.is_err(), "the helper that held it is gone");
    assert!(a.not_held().await.unwrap().is_some(), "a new helper holds nothing");
    assert_eq!(b.acquire().await.unwrap(), Acquired::Held);
    assert_eq!(b.not_held().await.unwrap(), None);
    b.stop().await;
    assert_eq!(a.acquire().await.unwrap(), Acquired::Held);
}

#[tokio::test]
async fn a_stopped_holder_is_killed_at_the_deadline_and_has_lost_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (lock(dir.path(), 0, Duration::from_millis(300)), lock(dir.path(), 1, LONG));
    assert_eq!(a.acquire().await.unwrap(), Acquired::Held);
    signal(a.pid().unwrap(), Signal::STOP);
    let started = Instant::now();
    assert!(a.not_held().await.unwrap_err().is_hang());
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(b.acquire().await.unwrap(), Acquired::Held);
}

#[tokio::test]
async fn records_are_exchanged_between_processes_and_with_an_external_lock() {
    let dir = tempfile::tempdir().unwrap();
    let spec = |command: Option<&str>| LockSpec { dir: dir.path().join("lock"), command: command.map(str::to_owned) };
    let mut a = ClusterLock::new(&spec(None), 0, &helper(), LONG);
    let mut b = ClusterLock::new(&spec(Some("!/bin/sh -c true")), 1, &helper(), LONG);
    a.acquire().await.unwrap();
    let first = a.exchange(&json!({"ballot": [1, 0]}), &[0, 1]).await.unwrap();
    assert_eq!((first.records.len(), first.not_held), (1, None));
    let second = b.exchange(&json!({"ballot": [2, 1], "value": "view"}), &[0, 1]).await.unwrap();
    assert_eq!(second.records[0].content, Ok(json!({"ballot": [1, 0]})));
    assert_eq!(second.records[1].content, Ok(json!({"ballot": [2, 1], "value": "view"})));
    assert!(second.not_held.is_some());
    assert!(b.acquire().await.unwrap_err().to_string().contains("/bin/sh"));
    let read = a.read(&[]).await.unwrap();
    assert_eq!(read.records, second.records);
}

async fn next(reports: &mut mpsc::Receiver<Report>, wanted: State) -> Report {
    let wait = async {
        loop {
            let report = reports.recv().await.expect("the watch goes on");
            if report.state == wanted {
                return report;
            }
        }
    };
    timeout(LONG, wait).await.unwrap_or_else(|_| panic!("no report says {wanted:?}"))
}

#[tokio::test]
async fn a_local_directory_is_watched_and_its_loss_and_return_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shared");
    let mount = Arc::new(Mount::new(StorageConfig::local(&path), 0, &helper()).unwrap());
    let error = mount.ensure_mounted().await.unwrap_err().to_string();
    assert!(error.contains("shared") && error.contains("No such file"), "{error}");
    std::fs::create_dir(&path).unwrap();
    mount.ensure_mounted().await.unwrap();
    let (sender, mut reports) = mpsc::channel(16);
    let watched = Arc::clone(&mount);
    let watch = tokio::spawn(async move { watched.watch(watch::channel(Hold::default()).1, sender).await });
    next(&mut reports, State::Ok).await;
    mount.answers(LONG).await.unwrap();
    let error = mount.end().await.unwrap_err();
    assert!(error.contains("shared is not mounted by this daemon"), "{error}");
    let away = dir.path().join("away");
    std::fs::rename(&path, &away).unwrap();
    next(&mut reports, State::Failing).await;
    let failed = next(&mut reports, State::Failed).await;
    assert_eq!(failed.service, "storage");
    std::fs::rename(&away, &path).unwrap();
    next(&mut reports, State::Ok).await;
    watch.abort();
    mount.unmount().await.unwrap();
}

#[tokio::test]
async fn check_storage_passes_on_a_local_directory() {
    let dir = tempfile::tempdir().unwrap();
    let peer = |name: &str| Arc::new(ChildPeer::new(name, &helper(), dir.path())) as Arc<dyn Peer>;
    let plan = Plan { rounds: 2, increments: 50, ..Plan::default() };
    let report = run(vec![peer("a"), peer("b"), peer("c")], &plan).await;
    assert!(report.coherent(), "{report}");
    assert_eq!((report.findings.len(), report.warning()), (Property::ALL.len(), None));
    let back = serde_json::from_value(serde_json::to_value(&report).unwrap()).unwrap();
    assert_eq!(report, back);
    let left = std::fs::read_dir(dir.path().join(".steadfast/check")).unwrap().count();
    assert_eq!(left, 0, "the scratch directory is removed");
}

/// A node that serves attributes, names and data from what it saw before, and grants itself locks that are
/// held elsewhere: each sort of trouble that check-storage is there to find.
struct Stale {
    inner: ChildPeer,
    seen: Mutex<Vec<(Op, Outcome)>>,
}

impl Peer for Stale {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn call(&self, op: Op, deadline: Duration) -> Call<'_> {
        Box::pin(async move {
            let cached = matches!(op, Op::Stat { .. } | Op::StatOpen { .. } | Op::Read { .. } | Op::List);
            let mut seen = self.seen.lock().await;
            if let Some((_, outcome)) = seen.iter().find(|(asked, _)| cached && *asked == op) {
                return Ok(outcome.clone());
            }
            let outcome = self.inner.call(op.clone(), deadline).await?;
            if cached {
                seen.push((op.clone(), outcome.clone()));
            }
            Ok(match (op, outcome) {
                (Op::TryLock { .. }, Outcome::Lock { micros, .. }) => Outcome::Lock { granted: true, micros },
                (_, outcome) => outcome,
            })
        })
    }
}

#[tokio::test]
async fn check_storage_finds_a_node_that_caches_or_lies_about_locks() {
    let dir = tempfile::tempdir().unwrap();
    let honest = Arc::new(ChildPeer::new("honest", &helper(), dir.path()));
    let inner = ChildPeer::new("stale", &helper(), dir.path());
    let stale = Arc::new(Stale { inner, seen: Mutex::default() });
    let plan = Plan { rounds: 2, increments: 20, volume: "vol7".into(), ..Plan::default() };
    let report = run(vec![honest, stale], &plan).await;
    let verdict = |property| report.findings.iter().find(|finding| finding.property == property).unwrap().verdict;
    use Property::{
        AttributesSeen, CreateSeen, DeleteSeen, LockExclusive, OpenSurvivesDelete, RenameSeen, WriteSeenOpen,
        WriteSeenWhereMade,
    };
    let found = [LockExclusive, WriteSeenOpen, WriteSeenWhereMade, CreateSeen, RenameSeen, DeleteSeen, AttributesSeen];
    for property in found {
        assert_eq!(verdict(property), Verdict::Fails, "{property:?}\n{report}");
    }
    assert_ne!(verdict(OpenSurvivesDelete), Verdict::Unknown);
    assert!(report.warning().unwrap().contains("not coherent"));
    let text = report.to_string();
    assert!(text.contains("gluster volume set vol7") && text.contains("stale"), "{text}");
}

#[tokio::test]
async fn a_node_that_does_not_answer_ends_the_check_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let good = Arc::new(ChildPeer::new("good", &helper(), dir.path()));
    let sleeps = HelperCommand::new("/bin/sh").arg("-c").arg("exec sleep 60");
    let silent = Arc::new(ChildPeer::new("silent", &sleeps, dir.path()));
    let plan = Plan { deadline: Duration::from_millis(200), ..Plan::default() };
    let started = Instant::now();
    let report = run(vec![good, silent], &plan).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(report.findings.iter().all(|finding| finding.verdict == Verdict::Unknown));
    assert!(report.warning().unwrap().contains("not tested"), "{report}");
    assert!(report.findings[0].evidence.contains("silent"), "{report}");
}
