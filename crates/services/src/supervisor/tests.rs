//! The supervisor on small shell commands and a made-up systemctl.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;

fn shell(dir: &Path, script: &str) -> Supervisor {
    Supervisor::new(ServiceSpec {
        name: "demo".into(),
        launch: Launch::Exec(["sh", "-c", script].map(String::from).to_vec()),
        run_dir: dir.join("run"),
        log_file: None,
        severe: &[],
        stop_timeout: Duration::from_millis(300),
        shared: false,
    })
}

fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

/// Waits until the service has written `line`.
async fn wrote(supervisor: &Supervisor, line: &str) {
    let until = Instant::now() + Duration::from_secs(10);
    while !supervisor.last_lines().await.iter().any(|l| l == line) {
        assert!(Instant::now() < until, "never wrote {line}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_end_is_noticed_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), "echo out; echo err >&2; exit 7");
    service.start().await.unwrap();
    assert_eq!(service.ended().await, "ended with exit status 7");
    assert_eq!(service.last_lines().await, ["out", "err"]);
    service.sweep().await.unwrap();
    assert!(!service.is_running());
    service.start().await.unwrap();
    assert_eq!(service.ended().await, "ended with exit status 7");
    assert_eq!(service.last_lines().await, ["out", "err"], "only the lines of the last run");
}

#[tokio::test]
async fn children_of_a_dead_service_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), "sleep 1000 & echo $!; kill -9 $$");
    service.start().await.unwrap();
    assert_eq!(service.ended().await, "was killed by signal 9 (KILL)");
    service.sweep().await.unwrap();
    let left: i32 = service.last_lines().await[0].parse().unwrap();
    assert!(!alive(left), "the orphan {left} holds the ports of the next one");
}

#[tokio::test]
async fn stop_asks_then_kills_also_a_stopped_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut polite = shell(dir.path(), "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    polite.start().await.unwrap();
    wrote(&polite, "up").await;
    polite.stop().await.unwrap();
    wrote(&polite, "bye").await;

    let mut stubborn = shell(dir.path(), "trap '' TERM; echo deaf; while :; do sleep 0.01; done");
    stubborn.start().await.unwrap();
    wrote(&stubborn, "deaf").await;
    let pid = stubborn.pid().unwrap();
    let begun = Instant::now();
    stubborn.stop().await.unwrap();
    assert!(!alive(pid));
    assert!(begun.elapsed() >= Duration::from_millis(300), "it was killed before its time");
    assert!(!dir.path().join("run/demo.json").exists());
    stubborn.stop().await.unwrap();
}

#[tokio::test]
async fn the_next_daemon_adopts_and_notices_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo up; while :; do sleep 0.01; done";
    let mut first = shell(dir.path(), script);
    assert!(!first.adopt().await.unwrap());
    first.start().await.unwrap();
    wrote(&first, "up").await;
    let pid = first.pid().unwrap();
    // the first daemon dies: nothing is stopped by dropping its supervisor. (Its child stays ours here, and a
    // zombie when it ends; the pidfd tells all the same.)
    drop(first);
    assert!(alive(pid));

    let mut second = shell(dir.path(), script);
    assert!(second.adopt().await.unwrap());
    assert_eq!(second.pid(), Some(pid));
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(second.ended().await, "ended");

    let mut third = shell(dir.path(), script);
    assert!(!third.adopt().await.unwrap(), "a dead process was adopted");
    third.start().await.unwrap();
    let pid = third.pid().unwrap();
    drop(third);
    let mut changed = shell(dir.path(), "echo other");
    assert!(!changed.adopt().await.unwrap());
    assert!(!alive(pid), "the process of the old command still runs");
}

#[tokio::test]
async fn a_record_of_another_process_or_boot_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    fs::create_dir_all(&run).unwrap();
    let own = std::process::id();
    for record in [
        format!(r#"{{"pid":{own},"started":1,"boot_id":"x","command":["sh","-c","true"]}}"#),
        format!(r#"{{"pid":{own}}}"#),
        "\u{0}garbage".into(),
        String::new(),
    ] {
        fs::write(run.join("demo.json"), record).unwrap();
        assert!(!shell(dir.path(), "true").adopt().await.unwrap());
    }
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = shell(dir.path(), "");
    service.spec.launch = Launch::Exec(vec!["steadfast-no-such-program".into()]);
    let error = service.start().await.unwrap_err().to_string();
    assert!(error.starts_with("steadfast-no-such-program is not installed"), "{error}");
    service.spec.launch = Launch::Exec(vec![]);
    assert!(service.start().await.is_err());
    fs::write(dir.path().join("file"), "").unwrap();
    service.spec.run_dir = dir.path().join("file");
    let error = service.start().await.unwrap_err().to_string();
    assert!(error.contains("cannot use") && error.contains("file"), "{error}");
}

/// A systemd of one unit: its state is a file with the main pid, and it writes a diary.
fn systemctl(dir: &Path) -> PathBuf {
    let ctl = dir.join("systemctl");
    fs::write(
        &ctl,
        format!(
            "#!/bin/sh\ncd {}\nif [ \"$1\" = show ]; then\n\
             if [ -e pid ] && grep -qs sleep /proc/$(cat pid)/cmdline; then echo ActiveState=active; echo MainPID=$(cat pid); else echo ActiveState=failed; \
             echo MainPID=0; fi\necho Result=signal\nexit; fi\necho \"$@\" >>log\n\
             case $1 in start|restart) [ $1 = start ] && [ -e pid ] && grep -qs sleep /proc/$(cat pid)/cmdline && exit; [ -e broken ] && {{ echo 'Job failed.' >&2; exit 1; }}; \
             setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >pid ;; stop) kill $(cat pid); rm pid ;; esac\nexit 0\n",
            dir.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&ctl, fs::Permissions::from_mode(0o755)).unwrap();
    ctl
}

/// What the made-up systemctl was told to do.
fn told(dir: &Path) -> Vec<String> {
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    log.lines().filter(|line| !line.starts_with("reset-failed")).map(String::from).collect()
}

#[tokio::test]
async fn a_unit_is_started_followed_and_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let ctl = systemctl(dir.path());
    let mut unit = shell(dir.path(), "");
    unit.spec.launch = Launch::Unit { name: "demo.service".into(), systemctl: ctl };
    assert!(!unit.adopt().await.unwrap());
    unit.start().await.unwrap();
    let pid = unit.pid().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(unit.ended().await, "ended (unit demo.service is failed, result signal)");
    unit.start().await.unwrap();
    assert!(unit.adopt().await.unwrap());
    let pid = unit.pid().unwrap();
    unit.stop().await.unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while alive(pid) {
        assert!(Instant::now() < until, "the unit was not stopped");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(told(dir.path()), ["start demo.service", "restart demo.service", "stop demo.service"]);
    fs::write(dir.path().join("broken"), "").unwrap();
    let error = unit.start().await.unwrap_err().to_string();
    assert_eq!(error, "systemctl restart demo.service: Job failed.");
}

#[tokio::test]
async fn a_shared_unit_that_ran_before_is_left_running_and_one_of_ours_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let launch = Launch::Unit { name: "demo.service".into(), systemctl: systemctl(dir.path()) };
    let daemon = |shared| {
        let mut supervisor = shell(dir.path(), "");
        supervisor.spec.launch = launch.clone();
        supervisor.spec.shared = shared;
        supervisor
    };
    // somebody else's, also after its end and over the next daemon
    let mut other = daemon(false);
    other.start().await.unwrap();
    let mut first = daemon(true);
    assert!(first.adopt().await.unwrap());
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first.pid().unwrap()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    first.ended().await;
    first.sweep().await.unwrap();
    first.start().await.unwrap();
    first.end().await.unwrap();
    assert!(!first.is_running());
    // at boot: about to be started by systemd, not taken over, but started by us as well
    let mut second = daemon(true);
    second.start().await.unwrap();
    second.end().await.unwrap();
    assert_eq!(told(dir.path()), ["start demo.service", "restart demo.service", "start demo.service"]);
    other.stop().await.unwrap();

    // ours, also for the next daemon
    let mut third = daemon(true);
    assert!(!third.adopt().await.unwrap());
    third.start().await.unwrap();
    let mut fourth = daemon(true);
    assert!(fourth.adopt().await.unwrap());
    fourth.end().await.unwrap();
    assert!(!fourth.adopt().await.unwrap());
    let last: Vec<_> = told(dir.path()).split_off(3);
    assert_eq!(last, ["stop demo.service", "start demo.service", "stop demo.service"]);
}
