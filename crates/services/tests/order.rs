//! Storage first and services after when a node begins to serve; services gone before the storage when it
//! ends. A made-up storage looks at the service's process each time it is asked.
#![cfg(test)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use services::config::StartWith;
use services::{Ask, Hold, Manager, NoStorage, Report, Serve, ServicesConfig, State, Storage};
use tokio::sync::{mpsc, oneshot, watch};

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Trouble(&'static str);

/// Fails the first mount; breaks when told to.
struct Fake {
    record: PathBuf,
    broken: watch::Receiver<u32>,
    diary: mpsc::UnboundedSender<String>,
    mounts: Mutex<u32>,
}

impl Fake {
    fn note(&self, what: &str) {
        let running = service_pid(&self.record).is_some_and(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
        });
        self.diary.send(format!("{what}, service {}", if running { "runs" } else { "gone" })).unwrap();
    }
}

fn service_pid(record: &Path) -> Option<i64> {
    let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(record).ok()?).ok()?;
    record["pid"].as_i64()
}

impl Storage for Fake {
    type Error = Trouble;

    async fn ensure_mounted(&self) -> Result<(), Trouble> {
        let mut mounts = self.mounts.lock().unwrap();
        *mounts += 1;
        if *mounts == 1 {
            return Err(Trouble("no brick answers"));
        }
        self.note("mount");
        Ok(())
    }

    async fn unmount(&self) -> Result<(), Trouble> {
        self.note("unmount");
        Ok(())
    }

    async fn answers(&self, _: Duration) -> Result<(), String> {
        Ok(())
    }

    async fn end(&self) -> Result<(), String> {
        Ok(())
    }

    async fn watch(&self, _: watch::Receiver<Hold>, _: mpsc::Sender<Report>) -> String {
        let mut broken = self.broken.clone();
        let seen = *broken.borrow();
        // a closed channel is as good as one that never says anything
        if broken.wait_for(|now| *now != seen).await.is_err() {
            std::future::pending::<()>().await;
        }
        "the mount is gone".into()
    }
}

#[tokio::test]
async fn storage_comes_first_and_goes_last() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("smb.conf"), "[global]\n").unwrap();
    let mut config = ServicesConfig { run_dir: dir.path().join("run"), ..ServicesConfig::default() };
    config.samba.enabled = true;
    config.samba.start = StartWith::Exec;
    config.samba.command = ["sleep", "1000"].map(String::from).to_vec();
    config.samba.testparm = "true".into();
    config.samba.include = dir.path().join("include.conf");
    config.samba.config = dir.path().join("smb.conf");
    // nothing listens on port 1
    config.samba.probe_address = "127.0.0.1:1".parse().unwrap();

    let (broken, breaks) = watch::channel(0);
    let (diary, mut read) = mpsc::unbounded_channel();
    let record = config.run_dir.join("samba.json");
    let storage = Fake { record: record.clone(), broken: breaks, diary, mounts: Mutex::new(0) };
    let (serve, served) = watch::channel(Serve::On);
    let (sender, mut reports) = mpsc::channel(64);
    let manager = Manager::spawn(config, storage, served, sender);

    let mut started = async |because: &str| {
        tokio::time::timeout(LONG, async {
            while let Some(report) = reports.recv().await {
                if report.because.contains(because) {
                    return report;
                }
            }
            panic!("the manager ended before it said: {because}");
        })
        .await
        .unwrap_or_else(|_| panic!("never said: {because}"))
    };
    let report = started("no brick answers").await;
    assert_eq!((report.service.as_str(), report.state), ("storage", State::Failed));
    started("smbd started").await;
    broken.send(1).unwrap();
    started("stopped").await;
    started("smbd started").await;
    serve.send(Serve::Off).unwrap();
    started("unmounted").await;
    serve.send(Serve::On).unwrap();
    started("smbd started").await;
    let pid = service_pid(&record).unwrap();
    // at once On, Off and the end: whatever the tasks have seen of it, the service is gone before the storage
    serve.send(Serve::Off).unwrap();
    serve.send(Serve::On).unwrap();
    drop(serve);
    tokio::time::timeout(LONG, manager.ended()).await.unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists() || !record.exists());

    let mut diary = Vec::new();
    while let Ok(line) = read.try_recv() {
        diary.push(line);
    }
    println!("{diary:#?}");
    assert_eq!(
        diary[..5],
        [
            "mount, service gone",
            "unmount, service gone",
            "mount, service gone",
            "unmount, service gone",
            "mount, service gone"
        ]
    );
    assert_eq!(diary.last().unwrap(), "unmount, service gone");
    assert!(!diary.iter().any(|line| line == "unmount, service runs"), "{diary:#?}");
}

/// Who wants an NFS server ended hears what is so, whoever runs it.
#[tokio::test]
async fn an_nfs_server_that_is_not_ours_is_not_ended() {
    let dir = tempfile::tempdir().unwrap();
    for (enabled, expected) in [(false, None), (true, Some("ganesha.nfsd is not managed here"))] {
        let mut config = ServicesConfig { run_dir: dir.path().join("run"), ..ServicesConfig::default() };
        config.nfs.enabled = enabled;
        config.nfs.manage = false;
        // nothing listens on port 1
        config.nfs.probe_address = "127.0.0.1:1".parse().unwrap();
        let (serve, served) = watch::channel(Serve::On);
        let (sender, mut reports) = mpsc::channel(64);
        let manager = Manager::spawn(config, NoStorage, served, sender);
        let running = async {
            while let Some(report) = reports.recv().await {
                if report.service == "nfs" && report.state == State::Starting {
                    return;
                }
            }
        };
        if enabled {
            tokio::time::timeout(LONG, running).await.unwrap();
        }
        let (ended, end) = oneshot::channel();
        manager.ask(Ask::End { nfs: true, answer: ended });
        let done = tokio::time::timeout(LONG, end).await.unwrap().unwrap();
        match expected {
            None => assert_eq!(done, Ok(())),
            Some(words) => assert!(done.clone().is_err_and(|why| why.contains(words)), "{done:?}"),
        }
        drop(serve);
        tokio::time::timeout(LONG, manager.ended()).await.unwrap();
    }
}
