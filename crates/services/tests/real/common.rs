//! A throw-away place for real programs: each test runs once more inside namespaces of its own (network,
//! mounts, processes), with a private /run, /var and /etc for the programs. When that ends, the kernel takes
//! all of it away, also after a kill.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use services::{Manager, NoStorage, Report, Serve, ServicesConfig, State};
use tokio::sync::{mpsc, watch};

const INSIDE: &str = "STEADFAST_TEST_INSIDE";
/// Directories that the programs write to.
const PRIVATE: &str = "/run /etc/samba /etc/ganesha /var/lib/samba /var/cache/samba /var/log/samba \
                       /var/lib/nfs /var/log/ganesha";

/// Whether the test's body runs now. `false`: it has run inside and passed, or is skipped with a reason.
pub(crate) fn inside(module: &str, test: &str, programs: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let has = |program: &&&str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
    };
    if let Some(missing) = ["unshare", "ip"].iter().chain(programs).find(|program| !has(program)) {
        println!("SKIPPED {test}: {missing} is not installed");
        return false;
    }
    if !rustix::process::getuid().is_root() {
        println!("SKIPPED {test}: only root can make the namespaces for it");
        return false;
    }
    let script = format!(
        "ip link set lo up || exit 1; for d in {PRIVATE}; do mkdir -p $d && mount -t tmpfs none $d || exit 1; done; \
         mkdir -p /run/samba /run/rpcbind /run/lock /var/lib/samba/private /var/lib/nfs/sm /var/lib/nfs/sm.bak; \
         chown -R statd /var/lib/nfs 2>/dev/null; \"$@\"; exit $?"
    );
    // the name by which this binary knows the test, without that of the binary itself
    let test = module.split("::").skip(1).chain([test]).collect::<Vec<_>>().join("::");
    let own = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", &script, "sh"])
        .arg(own)
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespaces");
    false
}

/// A manager under test and everything it reported.
pub(crate) struct Managed {
    pub(crate) serve: watch::Sender<Serve>,
    pub(crate) manager: Manager,
    reports: mpsc::Receiver<Report>,
    pub(crate) seen: Vec<Report>,
}

impl Managed {
    pub(crate) fn spawn(config: ServicesConfig) -> Self {
        let (serve, served) = watch::channel(Serve::On);
        let (sender, reports) = mpsc::channel(64);
        let manager = Manager::spawn(config, NoStorage, served, sender);
        Self { serve, manager, reports, seen: Vec::new() }
    }

    /// Waits for a state of a service; returns the report and how long that took.
    pub(crate) async fn until(&mut self, service: &str, state: State, limit: Duration) -> (Report, Duration) {
        let begun = Instant::now();
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            let report = match tokio::time::timeout(left, self.reports.recv()).await {
                Ok(Some(report)) => report,
                Ok(None) => panic!("the manager ended; seen: {:#?}", self.seen),
                Err(_) => panic!("{service} is not {state} after {limit:?}; seen: {:#?}", self.seen),
            };
            println!("  {:>8} {:<8} {}", report.service, report.state, report.because);
            self.seen.push(report.clone());
            if report.service == service && report.state == state {
                return (report, begun.elapsed());
            }
        }
    }
}

/// Main process of a service, from its record.
pub(crate) fn pid_of(config: &ServicesConfig, service: &str) -> i32 {
    let text = std::fs::read_to_string(config.run_dir.join(format!("{service}.json"))).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
}

pub(crate) fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Signals the process and all of its group.
pub(crate) fn signal_group(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process_group(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}
