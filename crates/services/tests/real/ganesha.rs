//! Debian's NFS-Ganesha (FSAL_VFS), rpcbind and rpc.statd under the manager.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{Managed, alive, inside, pid_of, signal};
use rustix::process::Signal;
use services::config::StartWith;
use services::probe::nfs::NfsProbe;
use services::{Ask, Serve, ServicesConfig, State};
use tokio::sync::oneshot;

const LONG: Duration = Duration::from_secs(60);

const GANESHA: &str = r#"
NFS_CORE_PARAM { Protocols = 3,4; Enable_NLM = true; Enable_RQUOTA = false; mount_path_pseudo = true; MNT_Port = 20048; }
NFSv4 { Grace_Period = 10; Lease_Lifetime = 5; RecoveryBackend = fs; }
EXPORT { Export_Id = 1; Path = "/run/export"; Pseudo = "/vol1"; Access_Type = RW; Squash = No_Root_Squash;
  SecType = sys; Transports = TCP; Protocols = 3,4; FSAL { Name = VFS; } }
"#;

fn config() -> ServicesConfig {
    fs::create_dir_all("/run/export").unwrap();
    fs::write("/etc/ganesha/ganesha.conf", GANESHA).unwrap();
    let mut config = ServicesConfig { run_dir: "/run/steadfast/services".into(), ..ServicesConfig::default() };
    config.nfs.enabled = true;
    config.nfs.start = StartWith::Exec;
    config.nfs.exports = vec!["/vol1".into()];
    config
}

#[tokio::test]
async fn ganesha_with_all_it_needs() {
    let programs = ["ganesha.nfsd", "rpcbind", "rpc.statd"];
    if !inside(module_path!(), "ganesha_with_all_it_needs", &programs) {
        return;
    }
    let config = config();
    let mut managed = Managed::spawn(config.clone());
    let (report, took) = managed.until("nfs", State::Ok, LONG).await;
    println!("first answer after {took:?}");
    assert_eq!(report.because, "NFSv3 answers for /vol1, NFSv4 answers for /vol1");
    if !managed.seen.iter().any(|report| report.service == "statd" && report.state == State::Ok) {
        managed.until("statd", State::Ok, LONG).await;
    }
    let listed = Command::new("nfs-ls").arg("nfs://127.0.0.1/vol1?version=4").output();
    if let Ok(listed) = listed {
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    }

    // an export that is not there is told apart from a server that is not there
    let mut probe = NfsProbe {
        address: config.nfs.probe_address,
        versions: vec![3],
        exports: vec!["/other".into()],
        mount_port: None,
        deadline: Duration::from_secs(5),
    };
    for (version, expected) in [(3, "/other: "), (4, "/other: no such export (status 2)")] {
        probe.versions = vec![version];
        let error = probe.run().await.unwrap_err().to_string();
        println!("{error}");
        assert!(error.contains(expected), "{error}");
    }

    let first = pid_of(&config, "nfs");
    let begun = Instant::now();
    signal(first, Signal::KILL);
    managed.until("nfs", State::Failing, LONG).await;
    let (_, _) = managed.until("nfs", State::Ok, LONG).await;
    println!("killed: back after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(4));

    let pid = pid_of(&config, "nfs");
    let begun = Instant::now();
    signal(pid, Signal::STOP);
    let (report, _) = managed.until("nfs", State::Failed, LONG).await;
    println!("hung: failed after {:?}: {}", begun.elapsed(), report.because);
    assert!(begun.elapsed() < Duration::from_millis(3300));
    signal(pid, Signal::CONT);
    managed.until("nfs", State::Ok, LONG).await;

    // hung once more, and an address has left it: it is ended as it is, and begins anew
    signal(pid, Signal::STOP);
    let (ended, end) = oneshot::channel();
    let begun = Instant::now();
    managed.manager.ask(Ask::End { nfs: true, answer: ended });
    assert_eq!(end.await, Ok(Ok(())));
    println!("hung: ended after {:?}", begun.elapsed());
    assert!(!alive(pid) && begun.elapsed() < Duration::from_secs(2));
    managed.until("nfs", State::Ok, LONG).await;
    let pid = pid_of(&config, "nfs");

    let rpcbind = pid_of(&config, "rpcbind");
    signal(rpcbind, Signal::KILL);
    managed.until("rpcbind", State::Ok, LONG).await;
    // a client that mounts now must still find the server
    let begun = Instant::now();
    probe.versions = vec![3];
    probe.exports = vec!["/vol1".into()];
    while let Err(error) = probe.run().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("rpcbind killed: mountable again after {:?}", begun.elapsed());
    assert_eq!(pid_of(&config, "nfs"), pid, "the NFS server had to be restarted for it");

    let pids: Vec<i32> = ["nfs", "statd", "rpcbind"].map(|name| pid_of(&config, name)).to_vec();
    let begun = Instant::now();
    managed.serve.send(Serve::Off).unwrap();
    managed.until("storage", State::Off, LONG).await;
    println!("stopped in {:?}", begun.elapsed());
    assert!(pids.iter().all(|pid| !alive(*pid)));
    let off = |name: &str| managed.seen.iter().rposition(|r| r.service == name && r.state == State::Off).unwrap();
    assert!(off("nfs") < off("rpcbind"), "rpcbind went before the server that is registered there");
}

#[tokio::test]
async fn a_configuration_that_ganesha_refuses_shows_its_log() {
    if !inside(
        module_path!(),
        "a_configuration_that_ganesha_refuses_shows_its_log",
        &["ganesha.nfsd", "rpcbind", "rpc.statd"],
    ) {
        return;
    }
    let config = config();
    fs::write("/etc/ganesha/ganesha.conf", GANESHA.replace("Name = VFS", "Name = NOSUCH")).unwrap();
    let mut managed = Managed::spawn(config.clone());
    let (report, _) = managed.until("nfs", State::Failed, LONG).await;
    println!("{report:#?}");
    assert!(report.output.iter().any(|line| line.contains("NOSUCH")), "{report:#?}");
    drop(managed.serve);
    managed.manager.ended().await;

    fs::remove_file("/etc/ganesha/ganesha.conf").unwrap();
    let mut managed = Managed::spawn(config);
    let (report, _) = managed.until("nfs", State::Failed, LONG).await;
    assert!(report.because.contains("cannot read Ganesha's configuration /etc/ganesha/ganesha.conf"), "{report:?}");
}
