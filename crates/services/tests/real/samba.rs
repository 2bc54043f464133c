//! Debian's smbd under the manager: killed, hung, misconfigured, stopped, left running.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{Managed, alive, inside, pid_of, signal, signal_group};
use rustix::process::Signal;
use services::config::StartWith;
use services::probe::smb::SmbProbe;
use services::{Serve, ServicesConfig, State};

const LONG: Duration = Duration::from_secs(30);

fn config(smb_conf: &str) -> ServicesConfig {
    fs::create_dir_all("/run/share").unwrap();
    fs::write("/etc/samba/smb.conf", smb_conf).unwrap();
    let mut config = ServicesConfig { run_dir: "/run/steadfast/services".into(), ..ServicesConfig::default() };
    config.samba.enabled = true;
    config.samba.start = StartWith::Exec;
    config.samba.shares = vec!["share".into()];
    config
}

const GOOD: &str = "[global]\n workgroup = TEST\n smb ports = 445\n disable netbios = yes\n disable spoolss = yes\n \
                    load printers = no\n printcap name = /dev/null\n log level = 1\n map to guest = bad user\n \
                    log file = /var/log/samba/log.smbd\n include = /etc/samba/steadfast.conf\n\
                    [share]\n path = /run/share\n read only = no\n guest ok = yes\n force user = root\n";

#[tokio::test]
async fn killed_smbd_is_back_at_once_and_a_hung_one_fails_in_three_seconds() {
    if !inside(
        module_path!(),
        "killed_smbd_is_back_at_once_and_a_hung_one_fails_in_three_seconds",
        &["smbd", "testparm"],
    ) {
        return;
    }
    let config = config(GOOD);
    let mut managed = Managed::spawn(config.clone());
    let (report, took) = managed.until("samba", State::Ok, LONG).await;
    println!("first answer after {took:?}: {}", report.because);
    assert!(report.because.contains("SMB 3.1.1 answers for share"), "{report:?}");
    assert!(report.output.is_empty(), "{report:?}");

    let first = pid_of(&config, "samba");
    signal(first, Signal::KILL);
    let (report, _) = managed.until("samba", State::Failing, LONG).await;
    assert_eq!(report.because, "smbd was killed by signal 9 (KILL)");
    let (_, took) = managed.until("samba", State::Ok, LONG).await;
    println!("killed: back after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let second = pid_of(&config, "samba");
    assert_ne!(first, second);

    let begun = Instant::now();
    signal_group(second, Signal::STOP);
    let (report, _) = managed.until("samba", State::Failed, LONG).await;
    let took = begun.elapsed();
    println!("hung: failed after {took:?}: {}", report.because);
    assert!(took < Duration::from_millis(3300), "{took:?}");
    assert!(report.because.contains("no answer from smbd at 127.0.0.1:445 within 1000 ms"), "{report:?}");
    signal_group(second, Signal::CONT);
    let (_, took) = managed.until("samba", State::Ok, LONG).await;
    println!("continued: ok after {took:?}");
    assert_eq!(pid_of(&config, "samba"), second, "it was restarted, not continued");

    managed.serve.send(Serve::Off).unwrap();
    managed.until("samba", State::Off, LONG).await;
    assert!(!alive(second));
    managed.until("storage", State::Off, LONG).await;
    managed.serve.send(Serve::On).unwrap();
    managed.until("samba", State::Ok, LONG).await;
    let third = pid_of(&config, "samba");
    drop(managed.serve);
    managed.manager.ended().await;
    assert!(!alive(third), "smbd outlived an orderly end");
}

#[tokio::test]
async fn clients_are_served_and_the_next_daemon_takes_over() {
    let name = "clients_are_served_and_the_next_daemon_takes_over";
    if !inside(module_path!(), name, &["smbd", "testparm", "smbclient"]) {
        return;
    }
    let config = config(GOOD);
    let mut managed = Managed::spawn(config.clone());
    managed.until("samba", State::Ok, LONG).await;
    let put = || {
        let put = Command::new("smbclient")
            .args(["-N", "//127.0.0.1/share", "-c", "put /etc/hosts hosts; get hosts /run/back"])
            .output()
            .unwrap();
        assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stdout));
        assert_eq!(fs::read("/etc/hosts").unwrap(), fs::read("/run/back").unwrap());
    };
    put();
    let pid = pid_of(&config, "samba");
    managed.manager.leave(&config).await.ended().await;
    assert!(alive(pid), "leave stopped smbd");
    put();
    let mut next = Managed::spawn(config.clone());
    next.until("samba", State::Ok, LONG).await;
    assert_eq!(pid_of(&config, "samba"), pid);
    // an adopted process is no child; its end is noticed all the same
    signal(pid, Signal::KILL);
    let (report, _) = next.until("samba", State::Failing, LONG).await;
    assert_eq!(report.because, "smbd ended");
    let (_, took) = next.until("samba", State::Ok, LONG).await;
    println!("adopted and killed: back after {took:?}");
    put();
    // One that does not enable it has it stopped.
    let pid = pid_of(&config, "samba");
    let mut none = config.clone();
    none.samba.enabled = false;
    next.manager.leave(&none).await.ended().await;
    assert!(!alive(pid), "smbd runs on, and nobody watches it");
}

#[tokio::test]
async fn what_is_wrong_with_the_configuration_is_said() {
    if !inside(module_path!(), "what_is_wrong_with_the_configuration_is_said", &["smbd", "testparm"]) {
        return;
    }
    // smbd ignores an unknown parameter, and so it is a warning; a missing include and share are told as well
    let mut bad = config("[global]\n smb ports = 445\n workgruop = TEST\n[other]\n path = /run/share\n");
    let mut managed = Managed::spawn(bad.clone());
    let (report, _) = managed.until("samba", State::Starting, LONG).await;
    println!("{report:#?}");
    let report = loop {
        let (report, _) = managed.until("samba", State::Starting, LONG).await;
        if report.because.contains("there is no share") {
            break report;
        }
    };
    assert!(report.because.contains("add [share] to smb.conf"), "{report:?}");
    let text = report.output.join("\n");
    assert!(text.contains("workgruop"), "{text}");
    assert!(text.contains("oplocks = Yes"), "{text}");
    assert!(text.contains("include = /etc/samba/steadfast.conf"), "{text}");
    drop(managed.serve);
    managed.manager.ended().await;

    bad.samba.config = "/etc/samba/absent.conf".into();
    let mut managed = Managed::spawn(bad);
    let (report, _) = managed.until("samba", State::Failed, LONG).await;
    println!("{report:#?}");
    assert!(report.because.contains("testparm refuses /etc/samba/absent.conf"), "{report:?}");
}

#[tokio::test]
async fn the_probe_tells_nonsense_silence_and_refusal_apart() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers: [&[u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0\0\0\x40\xfeSMB",
        b"\0\0\0\x44\xffSMB0000000000000000000000000000000000000000000000000000000000000000",
        b"\0\xff\xff\xff\xfeSMB",
        b"",
    ];
    let server = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
        }
        let (stream, _) = listener.accept().await.unwrap();
        tokio::time::sleep(LONG).await;
        drop(stream);
    });
    let probe = SmbProbe { address, shares: vec![], deadline: Duration::from_millis(300) };
    for expected in ["nonsense", "broke the connection", "no SMB2", "nonsense", "broke the connection", "no answer"] {
        let error = probe.run().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error} should say: {expected}");
    }
    server.abort();
    let _ = server.await;
    let error = probe.run().await.unwrap_err().to_string();
    assert!(error.ends_with("connection refused"), "{error}");
}
